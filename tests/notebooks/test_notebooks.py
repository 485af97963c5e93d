"""Every notebook runs from top to bottom at the smallest size, and leaves what it promises."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, copy_checkout, execute_by_hand, snakemake
from safetensors.torch import load_file

from sedm.fidelity import SHORT_TITLES

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="session")
def flowers(graphs):
    return graphs["flowers"].result()


@pytest.fixture(scope="session")
def ebhi(graphs, staged_data):
    return graphs["ebhi"].result()


@pytest.fixture(scope="session")
def own_images(graphs):
    return graphs["own_images"].result()


@pytest.fixture(scope="session")
def pets(graphs, staged_data):
    return graphs["pets"].result()


def check_study(run, folder, study, kind):
    """The files that the notebooks promise, after finding no error, every one of them, and nothing elsewhere."""
    results = folder / "runs" / study / "smoke"
    promised = set()
    for name in run.NOTEBOOKS[kind]:
        notebook = json.loads((results / "notebooks" / f"{name}.ipynb").read_text())
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        outputs = [output for cell in code for output in cell["outputs"]]
        assert [output for output in outputs if output["output_type"] == "error"] == []
        assert all(cell["execution_count"] for cell in code)
        assert not [cell for cell in notebook["cells"] if "committed-figure" in cell["metadata"].get("tags", [])]
        sources = ["".join(cell["source"]) for cell in notebook["cells"]]
        opening = next(source for source in sources if source.startswith("# "))
        figures = set(re.findall(r"`(fig_\w+)`", opening))
        assert figures
        promised |= {f"{figure}.png" for figure in figures}
        promised |= {f"values_{name}.json" for name in re.findall(r"save_values\(\s*\"(\w+)\"", "\n".join(sources))}
        assert any("**Found.**" in json.dumps(output) for output in outputs)
    assert {path.name for path in (results / "figures").iterdir()} == promised
    assert [path for path in promised if (results / "figures" / path).stat().st_size < 100] == []
    assert not (folder / "figures").exists()  # results of smoke stay in the run folder
    return promised


def values_of(folder, study, name):
    return json.loads((folder / "runs" / study / "smoke" / "figures" / f"values_{name}.json").read_text())


def test_the_notebooks_of_tissue_keep_their_promises(run, tissue):
    assert "values_segmentation.json" in check_study(run, tissue, "tissue", "segmentation")


def test_the_notebook_of_flowers_keeps_its_promises(run, flowers):
    assert "fig_interpolation.png" in check_study(run, flowers, "flowers", "styles")


def test_the_notebooks_run_on_images_that_a_file_describes(run, own_images):
    assert "values_segmentation.json" in check_study(run, own_images, "my_glands", "segmentation")
    values = values_of(own_images, "my_glands", "segmentation")["values"]
    assert set(values["groups"]["real"]) < {f"patient-{number:03d}" for number in range(8)}  # annotated ones


def test_the_notebooks_run_on_the_staged_biopsies(run, ebhi):
    assert "values_segmentation.json" in check_study(run, ebhi, "ebhi", "segmentation")


def test_the_notebook_runs_on_the_staged_photographs(run, pets):
    assert "fig_interpolation.png" in check_study(run, pets, "pets", "styles")


def test_a_second_run_finds_nothing_to_do(root, tissue):
    assert "Nothing to be done" in snakemake(root, tissue, "tissue", options=["--dry-run"])


def test_the_reported_difference_is_ours_minus_that_of_the_control(tissue):
    """From the scores of the units, by hand."""
    values = values_of(tissue, "tissue", "segmentation")["values"]
    scores = {unit["arm"]: unit["iou"] for unit in values["units"] if unit["seed"] == 0}
    differences = [scores["sedm"][group] - scores[values["control"]][group] for group in scores["sedm"]]
    found = values["arms"]["sedm"]
    assert found["mean_difference"] == pytest.approx(np.mean(differences), rel=1e-4, abs=1e-6)
    assert f"{found['mean_difference']:+.3f}" in values["finding"]
    assert {"real", "colour_augmentation", "sedm", "synthetic_fraction_0.2"} <= set(scores)


def test_a_measure_of_the_same_images_is_one_number_on_one_network(tissue):
    """The point of the sweep that is the setting of the study, and the fidelity table."""
    stored = values_of(tissue, "tissue", "fidelity")
    values, n_steps = stored["values"], stored["run"]["config"]["sampling.n_steps"]
    points = [one for one in values["settings"] if one["setting"] == "n_steps" and one["value"] == n_steps]
    assert points
    for measure in SHORT_TITLES:
        generated = values["table"][measure]["generated"]
        assert {point[measure] for point in points} == {generated["value"]}
        assert values["measured_on"][measure] == generated["measured_on"]


def same(first, second):
    """Whether two files hold the same: bytes, or tensors by name."""
    if isinstance(first, bytes):
        return first == second
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def test_notebooks_run_by_hand_in_their_own_folder_make_what_make_reproduce_makes(by_hand, tissue, root):
    """The same seed gives the same tables, weights, figures and values, wherever the kernel was started."""
    by_make, again = tissue / "runs" / "tissue" / "smoke", by_hand / "data" / "runs" / "tissue" / "smoke"
    assert {path.name for path in (by_hand / "data" / "runs").iterdir()} == {"tissue", "flowers"}
    for kind, content in ((".png", Path.read_bytes), (".parquet", Path.read_bytes), (".safetensors", load_file)):
        files = {path.relative_to(by_make) for path in by_make.rglob(f"*{kind}")}
        assert files == {path.relative_to(again) for path in again.rglob(f"*{kind}")}
        assert files
        for file in files:  # safetensors writes its metadata in any order
            assert same(content(again / file), content(by_make / file)), file
    for file in by_make.rglob("values_*.json"):
        first, second = (
            json.loads((folder / file.relative_to(by_make)).read_text())["values"] for folder in (by_make, again)
        )
        for unit in (*first.get("units", []), *second.get("units", [])):
            del unit["commit"], unit["seconds"]  # the copy is no checkout
        assert first == second
    names = {path.name for path in (root / "notebooks").iterdir()}
    left = {path.name for path in (by_hand / "notebooks").iterdir()}
    assert left - {".ipynb_checkpoints"} <= names  # JupyterLab keeps its copies there; no second tree


def test_a_notebook_whose_inputs_are_missing_says_which_notebook_makes_them(root, tmp_path):
    copy = copy_checkout(root, tmp_path)
    ended = execute_by_hand(copy, "03_diffusion_training")
    assert ended.returncode != 0
    assert "notebook 02_layout_priors has not made what this one reads" in ended.stderr
    assert not (copy / "data" / "runs").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_asks_for_those_that_the_graph_runs_before_it(path):
    """Notebook 06 is content with the weights that come along."""
    snakefile = (ROOT / "notebooks" / "Snakefile").read_text()
    earlier = ast.literal_eval(re.search(r"^EARLIER = (\{.*?^\})", snakefile, re.MULTILINE | re.DOTALL)[1])
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    name, after = re.search(r"start_notebook\(\"(\w+)\", config, runs(?:, after=(\[.*?\]))?\)", code).groups()
    assert name == path.stem
    assert ast.literal_eval(after or "[]") == ([] if name == "06_style_mixing" else earlier.get(name, []))
    read_later = name in {one for names in earlier.values() for one in names}
    assert (f'mark_ready("{name}", config, run)' in code) == read_later
