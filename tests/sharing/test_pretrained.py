"""Generators that come with the code: what is in them, what is not, and how a run becomes one."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file

from sedm import load_pretrained
from sedm.config.study import STUDIES
from sedm.generator.pipeline import noise_generators
from sedm.layouts import EmpiricalPrior
from sedm.sharing.packing import LARGEST, pack_run
from sedm.sharing.pretrained import SHIPPED, shipped_models
from sedm.styles.bank import StyleBank

NAMES = ["ebhi", "tissue"]


def test_there_are_two_generators():
    assert shipped_models() == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_generator_draws_without_a_network(name, monkeypatch):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    pretrained = load_pretrained(name)
    layouts = pretrained.layouts.sample(2, seed=0)
    images = pretrained.pipeline(
        layouts, pretrained.group_styles[:2], noise_generators(0, range(2)), 4, output_type="pt"
    ).images
    assert images.shape == (2, 3, pretrained.image_size, pretrained.image_size)
    assert images.float().std() > 10
    assert pretrained.classes == STUDIES[name].classes
    assert pretrained.attribution == STUDIES[name].attribution


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_folder_holds_weights_settings_and_a_card_but_no_image_and_no_place(name):
    files = [path for path in (SHIPPED / name).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert max(path.stat().st_size for path in files) <= LARGEST
    for path in files:
        if path.suffix == ".json":
            assert "_name_or_path" not in json.loads(path.read_text())
        if path.suffix == ".safetensors" and path.parent.name == name and not STUDIES[name].redistributable:
            tensors = load_file(path).values()  # numbers that describe images or masks, none as large as one
            assert all(tensor[0].numel() < 64 * 64 for tensor in tensors)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_the_measured_fidelity_and_whose_data_it_was(name):
    card = (SHIPPED / name / "README.md").read_text()
    for title in ("Data", "Licence", "Training run", "Intended use", "Limits", "Fidelity", "Load it"):
        assert f"## {title}" in card
    assert STUDIES[name].attribution in card
    assert ("| colour distance |" in card) != ("Not measured yet." in card)


@pytest.mark.slow
def test_masks_that_may_not_be_redistributed_are_not_packed(pipeline, patches, tmp_path):
    run, figures = tmp_path / "run", tmp_path / "figures"
    run.mkdir()
    figures.mkdir()
    pipeline.save_pretrained(run / "model")
    EmpiricalPrior.fit_masks(patches.annotated().masks, ("background", "epithelium")).save(run)
    StyleBank(pipeline.embed(patches.images), patches.groups, list(map(str, range(16)))).save(
        run / "style_bank.safetensors"
    )
    config = {"preset": "smoke", "seed": 0, "data.image_size": 16}
    training = {"values": {"n_images": 16, "n_steps": 6}, "run": {"config": config, "commit": "0" * 40}}
    (figures / "values_training.json").write_text(json.dumps(training))
    with pytest.raises(ValueError, match="holds masks of ebhi, which may not be redistributed"):
        pack_run("ebhi", run, figures, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    packed = load_pretrained(pack_run("tissue", run, figures, tmp_path / "packed"))
    style, layout = packed.group_styles[:1], packed.layouts.sample(1, seed=0)
    again, first = (
        pipe(layout, style, noise_generators(0, [0]), 2, output_type="pt").images
        for pipe in (packed.pipeline, pipeline)
    )
    assert (again.int() - first.int()).abs().max() <= 1  # loaded weights lie otherwise in memory: sums round otherwise
    with pytest.raises(ValueError, match="exists already"):
        pack_run("tissue", run, figures, tmp_path / "packed")


def test_a_name_that_is_no_model_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"shipped models: ebhi, tissue"):
        load_pretrained("tisue")


def test_a_folder_of_parts_of_two_runs_is_refused(tmp_path):
    shutil.copytree(SHIPPED / "tissue", tmp_path / "mixed")
    shutil.copy(SHIPPED / "ebhi" / "layout_prior.safetensors", tmp_path / "mixed")
    with pytest.raises(ValueError, match=r"draws 2 classes .* its model takes 3"):
        load_pretrained(tmp_path / "mixed")
