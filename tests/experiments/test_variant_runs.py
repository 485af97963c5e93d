"""Variants trained: each changes one thing, and a run is trained, measured and written once, by one process."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sedm.experiments.variant_runs
import sedm.generator.training
from sedm.__main__ import main
from sedm.config import build_config, flatten
from sedm.config.study import STUDIES
from sedm.data.data_checksum import data_checksum
from sedm.data.patch_table import UNKNOWN
from sedm.data.study_data import StudyData, load_study
from sedm.experiments.runs import claim
from sedm.experiments.variant_runs import Material, list_variant_runs, load_material, train_variants
from sedm.experiments.variants import EARLIER, QUESTIONS, ablation_table, read_measures
from sedm.fidelity import SHORT_TITLES, segmenter_extractor
from sedm.fidelity.unseen import draw_unseen
from sedm.segmentation.networks import UNet


@pytest.fixture
def material(patches):
    """Tiny data: two of four groups annotated, and two other groups that are unseen."""
    generator = torch.Generator().manual_seed(1)
    masks = (torch.rand(16, 16, 16, generator=generator) < 0.3).to(torch.uint8)
    test = replace(patches, masks=masks, groups=[f"unseen-{row // 4}" for row in range(16)], mask_source=[])
    judge, other = (UNet(2, (8, 16)).eval() for _ in range(2))
    unseen = draw_unseen(test, judge, segmenter_extractor(other, "nothing"))
    return Material(patches, set(test.groups), unseen, data_checksum(patches), "test")


@pytest.fixture
def config(config):
    """Fewer pictures on the way than elsewhere: they take most of the time."""
    return replace(
        config,
        training=replace(config.training, checkpoint_every=6, unannotated="predicted_masks"),
        sampling=replace(config.sampling, micro_batch=32),
    )


@pytest.fixture
def untrained(monkeypatch):
    """Models are neither trained nor measured."""
    monkeypatch.setattr(sedm.experiments.variant_runs, "train_generator", lambda *args, **options: None)
    measured = {
        "measures": dict.fromkeys(SHORT_TITLES, 0.5),
        "floors": {},
        "measured_on": dict.fromkeys(SHORT_TITLES, "a network"),
    }
    monkeypatch.setattr(sedm.experiments.variant_runs, "measure_generator", lambda *args: measured)


@pytest.fixture
def prepared(monkeypatch, material):
    """Runs need no data of a study."""
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", lambda *args: material)
    return material


def read(path):
    return json.loads(path.read_text())


# -------------------------------------------------------------------------------------------------- variants


@pytest.mark.parametrize("study", ["tissue", "ebhi"])
def test_every_variant_changes_what_its_question_asks_and_nothing_about_the_budget(study):
    baseline = build_config(study, "quick")
    runs = list_variant_runs(baseline, list(QUESTIONS), [3])
    before, settings = flatten(replace(baseline, seed=3)), [flatten(run.config) for run in runs]
    changed = {
        run.variant: {key for key in one if one[key] != before[key]} for run, one in zip(runs, settings, strict=True)
    }
    assert [variant for variant in changed if not changed[variant]] == ["baseline"]
    style = {"model.aggregation", "model.style_injection"}  # a token a class, or an image, needs its own way in
    steps = {"training.optimiser", "training.n_steps", "training.batch_size"}  # each optimiser at the batch it likes
    grid = {"model.unshuffle", "model.channels"}  # one resolution less, and so one width less
    changes = {
        variant: len(keys - style - steps - grid) + sum(bool(keys & one) for one in (style, steps, grid))
        for variant, keys in changed.items()
    }
    assert {variant for variant, n in changes.items() if n > 1} == {"baseline_2026_11"}
    assert len({json.dumps(one) for one in settings}) == len(runs)
    assert len({run.config.training.n_steps * run.config.training.batch_size for run in runs}) == 1


def test_an_unknown_variant_is_named_with_the_one_probably_meant(tmp_path, capsys):
    assert main(["ablate", "tissue", "--variants", "botleneck", "--out", str(tmp_path)]) == 2
    assert "variant='botleneck'; choose one of baseline, " in (error := capsys.readouterr().err)
    assert error.endswith("(did you mean 'bottleneck'?)\n")


def test_a_dry_run_lists_the_runs_and_touches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", None)
    arguments = ["tissue", "--variants", "baseline", "left_out", "--seeds", "0", "7", "--n-steps", "9", "--dry-run"]
    assert main(["ablate", *arguments, "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["baseline-seed0", "waiting"],
        ["left_out-seed0", "waiting", "training.unannotated=left_out"],
        ["baseline-seed7", "waiting", "seed=7"],
        ["left_out-seed7", "waiting", "seed=7", "training.unannotated=left_out"],
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("study", ["tissue", "ebhi"])
def test_the_committed_runs_stand_in_nobody_s_way(study, monkeypatch, capsys):
    """Those of another size or of an earlier generator have folders of their own."""
    monkeypatch.chdir(Path(__file__).parents[2])
    assert any(Path("figures", study, "variants").glob("*/values_baseline-seed0.json"))
    assert main(["ablate", study, "--dry-run"]) == 0
    assert main(["ablate", study, "--n-steps", "500", "--dry-run"]) == 0
    assert "waiting" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
def test_a_run_is_trained_measured_and_written_once(prepared, config, tmp_path, monkeypatch, capsys):
    runs = list_variant_runs(config, ["baseline"], [0, 1])
    assert train_variants(runs, "", tmp_path / "runs", tmp_path / "out") == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "values_baseline-seed0.json",
        "values_baseline-seed1.json",
    ]
    saved = read(tmp_path / "out" / "values_baseline-seed1.json")
    assert saved["run"]["config"] == json.loads(json.dumps(flatten(replace(config, seed=1))))
    assert {"commit", "versions", "device", "seconds"} <= saved["run"].keys()
    values = saved["values"]
    assert (values["arm"], values["seed"], values["n_training_images"]) == ("baseline", 1, 6 * 8)
    assert values["data"] == prepared.checksum
    assert values["floors"].keys() == {"real", "chance"}
    assert values["measured_on"]["kernel_distance"] == prepared.unseen.extractor.name
    assert {"retrieval_top1", "layout_iou", "kernel_distance", "x_0_error_500"} <= values["measures"].keys()
    assert list(tmp_path.rglob("checkpoint-*.pt")) == []
    lines = (tmp_path / "runs" / "baseline-seed1" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6

    printed = capsys.readouterr().out
    assert "2 runs, 0 of them finished" in printed
    assert "[2/2] baseline-seed1: retrieval_top1 0." in printed
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", None)  # nothing is read, nothing is trained
    assert train_variants(runs, "", tmp_path / "runs", tmp_path / "out") == []
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert capsys.readouterr().out == "2 runs, 2 of them finished\n"


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["left_out", "null_layout", "no_style", "cross_attention", "flow_objective"])
def test_variants_run_from_data_to_file(prepared, config, tmp_path, monkeypatch, variant):
    asked = {}
    train = sedm.generator.training.train_model

    def spy(config, patches, folder, held_out, **options):
        asked.update(patches=patches, held_out=held_out)
        return train(config, patches, folder, held_out, **options)

    monkeypatch.setattr(sedm.generator.training, "train_model", spy)
    assert train_variants(list_variant_runs(config, [variant], [0]), "", tmp_path / "runs", tmp_path / "out") == []
    assert len(list((tmp_path / "out").glob(f"values_{variant}-seed0.json"))) == 1
    patches, is_unknown = asked["patches"], variant in ("left_out", "null_layout")
    assert patches.mask_source == ["annotated"] * 8 + ["none" if is_unknown else "predicted"] * 8
    assert asked["held_out"] == set(prepared.unseen.groups)
    assert patches.masks[:8].equal(prepared.train.masks[:8])
    assert bool((patches.masks[8:] == UNKNOWN).any()) is is_unknown
    assert (prepared.train.masks[8:] == UNKNOWN).all()  # the next run sees none of it


@pytest.mark.slow
def test_an_interrupted_run_goes_on(prepared, config, tmp_path, monkeypatch):
    runs = list_variant_runs(config, ["baseline"], [0])
    assert train_variants(runs, "", tmp_path / "whole", tmp_path / "expected") == []
    measure = sedm.experiments.variant_runs.measure_generator

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(sedm.experiments.variant_runs, "measure_generator", killed)
    with pytest.raises(KeyboardInterrupt):
        train_variants(runs, "", tmp_path / "runs", tmp_path / "out")
    assert list((tmp_path / "out").glob("*")) == []
    written = (tmp_path / "runs" / "baseline-seed0" / "metrics.jsonl").stat().st_mtime_ns
    monkeypatch.setattr(sedm.experiments.variant_runs, "measure_generator", measure)
    assert train_variants(runs, "", tmp_path / "runs", tmp_path / "out") == []
    assert (tmp_path / "runs" / "baseline-seed0" / "metrics.jsonl").stat().st_mtime_ns == written  # not trained again
    name = "values_baseline-seed0.json"
    assert read(tmp_path / "out" / name)["values"] == read(tmp_path / "expected" / name)["values"]


def test_results_of_other_settings_are_left_alone(prepared, untrained, config, tmp_path):
    train_variants(list_variant_runs(config, ["baseline"], [0]), "", tmp_path / "runs", tmp_path / "out")
    longer = replace(config, training=replace(config.training, n_steps=7))
    others = replace(config, layouts=replace(config.layouts, prior="random_field"))  # no run draws from a prior
    assert train_variants(list_variant_runs(others, ["baseline"], [0]), "", tmp_path / "runs", tmp_path / "out") == []
    with pytest.raises(ValueError, match=r"baseline-seed0.json: made with training.n_steps = 6, not 7"):
        train_variants(list_variant_runs(longer, ["baseline"], [0]), "", tmp_path / "runs", tmp_path / "out")
    with pytest.raises(ValueError, match=r"baseline-seed0.json: made with split = 'test', not 'validation'"):
        train_variants(
            list_variant_runs(config, ["baseline"], [0]), "", tmp_path / "runs", tmp_path / "out", split="validation"
        )


def test_a_model_that_diverges_does_not_stop_the_others(prepared, untrained, config, tmp_path, monkeypatch, capsys):
    train = sedm.experiments.variant_runs.train_generator

    def diverging(config, *args, **options):
        if config.seed == 0:
            raise FloatingPointError("step 3: the loss is nan")
        return train(config, *args, **options)

    monkeypatch.setattr(sedm.experiments.variant_runs, "train_generator", diverging)
    runs = list_variant_runs(config, ["baseline"], [0, 1])
    assert train_variants(runs, "", tmp_path / "runs", tmp_path / "out") == runs[:1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["values_baseline-seed1.json"]
    assert "baseline-seed0: FAILED, step 3: the loss is nan" in capsys.readouterr().out


def test_runs_are_not_added_to_those_of_an_earlier_way_of_measuring(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", None)  # it is refused before anything is read
    out = tmp_path / "out"
    out.mkdir()
    values = {"arm": "baseline", "seed": 0, "data": "abc", "measures": {"kernel_distance": 0.6}, "floors": {}}
    (out / "values_baseline-seed0.json").write_text(json.dumps({"values": values, "run": {}}))
    assert read_measures(out).measured_on is EARLIER
    with pytest.raises(ValueError, match="holds runs of an earlier way of measuring; choose another folder"):
        train_variants(list_variant_runs(config, ["baseline"], [1]), "", tmp_path / "runs", out)


# ---------------------------------------------------------------------------------------- several processes


def test_a_run_in_other_hands_is_left_to_them(prepared, untrained, config, tmp_path, capsys):
    runs = list_variant_runs(config, ["baseline"], [0, 1])
    with claim(tmp_path / "runs" / "baseline-seed0.lock") as claimed:
        assert claimed
        train_variants(runs, "", tmp_path / "runs", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["values_baseline-seed1.json"]
    assert "baseline-seed0: in the hands of another process" in capsys.readouterr().out


def test_a_run_that_another_process_finished_meanwhile_is_skipped(prepared, untrained, config, tmp_path, monkeypatch):
    runs = list_variant_runs(config, ["baseline"], [0])
    train_variants(runs, "", tmp_path / "runs", tmp_path / "done")

    def load_while_another_finishes(*args):
        (tmp_path / "done").rename(tmp_path / "out")
        return prepared

    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", load_while_another_finishes)
    monkeypatch.setattr(sedm.experiments.variant_runs, "train_variant", None)
    assert train_variants(runs, "", tmp_path / "runs", tmp_path / "out") == []


# ------------------------------------------------------------------------------------------ a study's data


@pytest.fixture(scope="module")
def study():
    return load_study(build_config("tissue", "smoke"))


@pytest.fixture
def drawn(monkeypatch, study):
    """The data of the study are drawn once; every run asks for those of seed 0."""

    def load(config, folder):
        assert (config.study.name, config.preset, config.seed, folder) == ("tissue", "smoke", 0, "")
        return study

    monkeypatch.setattr(sedm.experiments.variant_runs, "load_study", load)


@pytest.mark.slow
def test_the_data_of_a_study_are_split_and_hidden_as_it_says(tmp_path, drawn):
    config = build_config("tissue", "smoke", seed=5)
    found = load_material(config, "", tmp_path)
    groups = set(found.train.groups)
    assert len(groups) == config.data.n_train_groups
    assert len(set(found.train.annotated().groups)) == config.data.n_annotated_groups
    assert groups & found.held_out == set()
    assert set(found.unseen.groups) <= found.held_out
    assert len(found.held_out) == 2 + 3 + 2  # validation, test and shifted groups
    networks = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    again = load_material(replace(config, seed=6), "", tmp_path)  # the seed decides the training alone
    assert again.checksum == found.checksum
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")} == networks
    assert sorted(name.partition("-")[0] for name in networks) == ["judge", "segmenter"]


def test_a_study_without_validation_groups_has_no_judge(patches, tmp_path, monkeypatch):
    flowers = StudyData(STUDIES["flowers"], {}, {"train": patches, "test": patches})
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_study", lambda *args: flowers)
    with pytest.raises(ValueError, match="the study has no validation groups to train a judge"):
        load_material(build_config("flowers", "smoke"), "", tmp_path)


@pytest.mark.slow
def test_the_command_runs_a_study_from_end_to_end(tmp_path, drawn, capsys):
    arguments = ["tissue", "--preset", "smoke", "--variants", "baseline", "--seeds", "3", "--n-steps", "2"]
    assert main(["ablate", *arguments, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "[1/1] baseline-seed3: retrieval_top1" in capsys.readouterr().out
    table = ablation_table(tmp_path / "out")
    assert table.loc[("baseline", "baseline"), ("n_seeds", "")] == 1
    assert read(tmp_path / "out" / "values_baseline-seed3.json")["run"]["config"]["training.n_steps"] == 2
