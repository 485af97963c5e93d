"""A notebook enters the project, and refuses what an earlier notebook did not make, or made with another seed."""

from dataclasses import replace
from pathlib import Path

import pytest

from sedm.config import build_config
from sedm.runtime.notebook import find_project, mark_ready, start_notebook

FIRST, SECOND = "02_layout_priors", "03_diffusion_training"


@pytest.fixture
def elsewhere(root, monkeypatch):
    """The working folder is the one where JupyterLab starts a kernel, and is put back in the end."""
    monkeypatch.chdir(root / "notebooks")


@pytest.fixture
def smoke():
    return build_config("tissue", "smoke")


def test_a_relative_folder_counts_from_the_project(elsewhere, root, smoke):
    assert start_notebook(FIRST, smoke, "data/runs") == Path("data/runs/tissue/smoke")
    assert Path.cwd() == root


def test_outside_a_project_the_working_folder_stays(tmp_path, monkeypatch, smoke):
    monkeypatch.chdir(tmp_path)
    start_notebook(FIRST, smoke, "runs")
    assert Path.cwd() == tmp_path == find_project(tmp_path)


def test_what_an_earlier_notebook_made_with_another_seed_is_refused(elsewhere, tmp_path, smoke):
    run = start_notebook(FIRST, smoke, tmp_path)
    mark_ready(FIRST, smoke, run)
    assert start_notebook(SECOND, smoke, tmp_path, after=[FIRST]) == run
    with pytest.raises(ValueError, match=r"notebook 02_layout_priors last ran with seed=0, this one has seed=1"):
        start_notebook(SECOND, replace(smoke, seed=1), tmp_path, after=[FIRST])


def test_a_notebook_that_was_started_again_and_did_not_get_far_counts_as_not_run(elsewhere, tmp_path, smoke):
    mark_ready(FIRST, smoke, start_notebook(FIRST, smoke, tmp_path))
    start_notebook(FIRST, replace(smoke, seed=1), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"02_layout_priors has not made .*make reproduce STUDY=tissue"):
        start_notebook(SECOND, smoke, tmp_path, after=[FIRST])


@pytest.mark.parametrize("seed", ["0", [0, 1], 1.5, True, -1, None])
def test_a_seed_that_is_no_whole_number_ends_in_one_sentence(unchecked, seed):
    with pytest.raises(ValueError, match=r"^seed=.*; give a whole number of 0 or more, without quotes"):
        build_config("tissue", "smoke", seed)


@pytest.mark.parametrize("name", [["tissue"], 7, None])
def test_a_study_or_preset_that_is_no_name_ends_in_one_sentence(unchecked, name):
    with pytest.raises(ValueError, match=r"^study=.*; choose one of tissue"):
        build_config(name, "smoke")
    with pytest.raises(ValueError, match=r"^preset=.*; choose one of smoke"):
        build_config("tissue", name)


@pytest.mark.parametrize("folder", [202411, ["tables"]])
def test_a_data_folder_that_is_no_text_ends_in_one_sentence(unchecked, folder):
    from sedm.data.study_data import load_study

    with pytest.raises(ValueError, match=r"^data=.*; give the folder as text, in quotes"):
        load_study(build_config("ebhi", "smoke"), folder)
