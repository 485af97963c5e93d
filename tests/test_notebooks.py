"""Every notebook runs from top to bottom at the smallest size, and leaves what it promises."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import snakemake
from safetensors.torch import load_file


@pytest.fixture(scope="session")
def flowers(graphs):
    return graphs["flowers"].result()


@pytest.fixture(scope="session")
def ebhi(graphs, staged_data):
    return graphs["ebhi"].result()


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
    assert "values_segmentation.json" in check_study(run, tissue, "tissue", "tissue")


def test_the_notebook_of_flowers_keeps_its_promises(run, flowers):
    assert "fig_interpolation.png" in check_study(run, flowers, "flowers", "natural")


def test_the_notebooks_run_on_the_staged_biopsies(run, ebhi):
    assert "values_segmentation.json" in check_study(run, ebhi, "ebhi", "tissue")


def test_the_notebook_runs_on_the_staged_photographs(run, pets):
    assert "fig_interpolation.png" in check_study(run, pets, "pets", "natural")


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


def same(first, second):
    """Whether two files hold the same: bytes, or tensors by name."""
    if isinstance(first, bytes):
        return first == second
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def test_the_same_seed_gives_the_same_values_figures_and_tables(run, root, tissue, tmp_path):
    parameters = {"study": "tissue", "preset": "smoke", "seed": 0}
    parameters |= {"runs": str(tmp_path / "runs"), "figures": str(tmp_path / "figures")}
    run.run_notebook(root / "notebooks" / "02_layout_priors.ipynb", tmp_path / "executed.ipynb", parameters)
    first, second = (values_of(folder, "tissue", "layouts") for folder in (tissue, tmp_path))
    assert first["values"] == second["values"]
    made, again = tissue / "runs", tmp_path / "runs"
    for kind, content in ((".png", Path.read_bytes), (".parquet", Path.read_bytes), (".safetensors", load_file)):
        files = [path.relative_to(again) for path in again.rglob(f"*{kind}")]
        assert files
        for file in files:  # safetensors writes its metadata in any order
            assert same(content(again / file), content(made / file)), file
