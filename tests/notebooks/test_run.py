"""A request is checked before anything runs; the graph runs what is outdated; a notebook keeps its traceback."""

import ast
import doctest
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sedm.data.patch_table import save_patches


@pytest.fixture
def refuse(run, monkeypatch, capsys):
    """A function that returns the one line in which a request ends, after checking that nothing ran."""

    def refuse(*arguments):
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was run"))
        capsys.readouterr()
        assert run.main(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return refuse


@pytest.mark.parametrize("name", ["run", "dependencies", "check"])
def test_examples_of_the_scripts_are_true(run, name):
    ended = doctest.testmod(importlib.import_module(name))
    assert ended.attempted
    assert not ended.failed


# ------------------------------------------------------------------------------------------- the request


@pytest.mark.parametrize(
    ("arguments", "culprit", "nearest"),
    [
        (["STDUY=tissue"], "parameter='STDUY'", "did you mean 'STUDY'?"),
        (["study=tissue"], "parameter='study'", "choose one of STUDY, PRESET, DATA, SEED, JOBS, DRY, PROFILE"),
        (["quick"], "parameter='quick'", "choose one of STUDY"),
        (["STUDY=tisue"], "study='tisue'", "did you mean 'tissue'?"),
        (["STUDY=tissue flower"], "study='flower'", "did you mean 'flowers'?"),
        (["STUDY="], "STUDY is empty", "choose one of tissue, flowers, ebhi, pets"),
        (["PRESET=quik"], "preset='quik'", "did you mean 'quick'?"),
        (["PRESET"], "preset=''", "choose one of smoke, quick"),
        (["SEED=-1"], "SEED='-1'", "0 or more"),
        (["SEED=1.5"], "SEED='1.5'", "whole number"),
        (["JOBS=0"], "JOBS='0'", "1 or more"),
        (["JOBS=two"], "JOBS='two'", "whole number"),
        (["DRY=yes"], "DRY='yes'", "give 1 to see what would run"),
        (["STUDY=tissue", "DATA=somewhere"], "DATA='somewhere'", "'tissue' is embedded: leave DATA out"),
        (["STUDY=ebhi"], "STUDY=ebhi needs DATA=", "see data/README.md"),
        (["STUDY=tissue pets"], "STUDY=pets needs DATA=", "see data/README.md"),
    ],
)
def test_a_wrong_request_ends_in_one_line_with_what_is_allowed(refuse, arguments, culprit, nearest):
    message = refuse(*arguments)
    assert culprit in message
    assert nearest in message


def test_a_folder_without_what_the_study_needs_ends_in_one_line(refuse, table, tmp_path):
    assert str(tmp_path / "no") in refuse("STUDY=ebhi", f"DATA={tmp_path / 'no'}")
    save_patches(table.rename_column("group", "case"), tmp_path / "train.parquet")
    assert f"{tmp_path / 'test.parquet'}: no such file" in refuse("STUDY=ebhi", f"DATA={tmp_path}")
    save_patches(table, tmp_path / "test.parquet")
    assert "test.parquet: no column 'case'; it has image, mask, group" in refuse("STUDY=ebhi", f"DATA={tmp_path}")
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    assert "test.parquet: not a readable parquet file" in refuse("STUDY=ebhi", f"DATA={tmp_path}")


def test_a_good_request_is_handed_to_snakemake(run, table, tmp_path, monkeypatch, capsys):
    for split in ("train", "test"):
        save_patches(table.rename_column("group", "case"), tmp_path / f"{split}.parquet")
    commands = []
    settings = []

    def record(command, **options):
        commands.append(command)
        settings.append(json.loads(Path(command[command.index("--configfile") + 1]).read_text()))
        stand_in = f"import sys; print('words'); sys.exit({len(commands) - 1})"
        return subprocess.Popen([sys.executable, "-c", stand_in], **options)

    def record_dry(command, **options):
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(run, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": record, "run": record_dry}))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    request = ["STUDY=ebhi", "PRESET=smoke", f"DATA={tmp_path}", "SEED=7", "JOBS=2"]
    assert run.main(request) == 0
    assert "up to date" in capsys.readouterr().out
    assert run.main(request) == 1  # what Snakemake says
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "words" in printed  # Snakemake's, since no notebook tells why
    expected = {"study": ["ebhi"], "preset": "smoke", "data": str(tmp_path), "seed": "7", "threads": 4}
    assert settings[0] == expected | {"runs": "data/runs", "figures": "figures"}
    assert commands[0][commands[0].index("--cores") + 1] == "8"
    assert "--dry-run" not in commands[0]
    run.main([*request, "DRY=1"])
    assert "--dry-run" in commands[2]


def test_a_folder_named_after_a_variable_of_the_shell_is_refused_dry_or_not(refuse, table, tmp_path, monkeypatch):
    """``datasets`` would read another folder than the one that was named."""
    monkeypatch.setenv("MINE", "elsewhere")
    for split in ("train", "test"):
        save_patches(table.rename_column("group", "case"), tmp_path / "plain" / f"{split}.parquet")
    folder = (tmp_path / "plain").rename(tmp_path / "of $MINE")
    for dry in ((), ("DRY=1",)):
        message = refuse("STUDY=ebhi", f"DATA={folder}", *dry)
        assert f"{folder / 'train.parquet'}: datasets reads another name for $…" in message


KEEP_PARAMETERS = """
import json
from pathlib import Path
Path(runs, "parameters.json").write_text(json.dumps([study, preset, data, runs, figures, seed]))
"""


@pytest.fixture(scope="module")
def tiny_checkout(root, tmp_path_factory):
    """A copy of the project in a folder of an awkward name, whose notebook 01 only writes down its parameters."""
    copy = tmp_path_factory.mktemp("awkward") / 'it\'s 100% {my} "work"'
    for folder in ("sedm", "notebooks", "paper"):
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "Makefile", copy)
    (copy / ".venv").symlink_to(sys.prefix)  # the interpreter has the awkward folder in its name, too
    path = copy / "notebooks" / "01_natural_images.ipynb"
    notebook = json.loads(path.read_text())
    parameters = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    keep = {**parameters, "id": "keep", "metadata": {}, "source": KEEP_PARAMETERS.splitlines(keepends=True)}
    path.write_text(json.dumps({**notebook, "cells": [parameters, keep]}))
    return copy


@pytest.mark.processes
@pytest.mark.parametrize("data", ["2024_11", "it's 100% of $mine"])
def test_make_hands_values_to_a_notebook_as_they_were_typed_whatever_the_folder_is_called(tiny_checkout, table, data):
    """Snakemake would take the first for the number 202411; a shell would trip over both the folder and the second."""
    for split in ("train", "test"):
        save_patches(table.rename_column("group", "breed"), tiny_checkout / data / f"{split}.parquet")
    command = ["make", "-o", ".venv/installed", "reproduce", "STUDY=pets", "PRESET=smoke", f"DATA={data}", "SEED=7"]
    environment = {**os.environ, "PYTHONPATH": str(tiny_checkout)}
    ended = subprocess.run(command, cwd=tiny_checkout, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    parameters = json.loads((tiny_checkout / "data" / "runs" / "parameters.json").read_text())
    assert parameters == ["pets", "smoke", data, "data/runs", "figures", 7]


@pytest.mark.parametrize("data", ["2024_11", "007", "1e3", "yes", "[a]", "a: b", ""])
def test_folders_that_look_like_something_else_arrive_as_typed(run, root, monkeypatch, data):
    """The settings of the Snakefile, as Snakemake itself reads them."""
    from snakemake.common.configfile import load_configfile

    read = {}

    def record(command, **options):
        read.update(load_configfile(command[command.index("--configfile") + 1]))
        return subprocess.Popen([sys.executable, "-c", ""], **options)

    monkeypatch.setattr(run, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": record}))
    run.reproduce({**run.DEFAULTS, "STUDY": "pets", "JOBS": "1", "DATA": data})
    assert read["data"] == data


def test_a_folder_that_snakemake_cannot_read_is_refused_with_the_way_out(run):
    with pytest.raises(ValueError, match=r"^DATA='\{case\}'; Snakemake .* rename the folder, or give a link to it$"):
        run.parse_request(["STUDY=pets", "DATA={case}"])


@pytest.mark.processes
def test_a_snakefile_started_without_quotes_refuses_the_number_that_came_of_a_folder(root):
    command = [sys.executable, "-m", "snakemake", "--snakefile", "notebooks/Snakefile", "--dry-run", "--nolock"]
    command += ["--cores", "1", "--config", "study=pets", "preset=smoke", "seed=0", "data=007"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "data=7: Snakemake made a number of it" in ended.stdout + ended.stderr


def test_each_study_has_its_own_job_unless_told_otherwise(run, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert run.parse_request([])["JOBS"] == "2"
    assert run.parse_request(["STUDY=tissue"])["JOBS"] == "1"
    assert run.parse_request(["JOBS=5"])["JOBS"] == "5"
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert run.parse_request([])["JOBS"] == "1"


def test_the_command_itself_refuses_with_status_two(root):
    command = [sys.executable, str(root / "notebooks" / "run.py"), "PRESTE=smoke"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: parameter='PRESTE'; choose one of STUDY, PRESET, DATA, SEED, JOBS, DRY, PROFILE "
        "(did you mean 'PRESET'?)\n"
    )


# ------------------------------------------------------------------------------------------ the graph


@pytest.fixture
def finished(run, root, tmp_path):
    """A copy of the project in which ``make reproduce`` of tissue has just ended."""
    for folder in ("sedm", "notebooks", "paper", "figures"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    results = tmp_path / "data" / "runs" / "tissue" / "quick"
    done = [results / f"{name}.done" for name in run.NOTEBOOKS["segmentation"]]
    for path in (*done, tmp_path / "paper" / "main.pdf"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def start(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def would_run(folder, *settings):
    """List what a dry run announces, by the titles that the Snakefile gives its jobs."""
    ended = start(folder, "notebooks/run.py", "STUDY=tissue", "DRY=1", *settings)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    titles = re.findall(r"^Job \d+: (.*), to be read in ", ended.stdout, re.MULTILINE)
    return sorted(title.removeprefix("tissue ") for title in titles)


@pytest.mark.processes
def test_an_edit_runs_again_what_uses_it_and_nothing_else(finished):
    assert would_run(finished) == []
    for edited, expected in (
        ("paper/method.typ", []),
        ("notebooks/04_synthetic_images.ipynb", ["04_synthetic_images"]),
        ("sedm/group_statistics.py", ["04_synthetic_images", "05_segmentation_ablations"]),
        ("sedm/demo/mix.py", ["04_synthetic_images", "05_segmentation_ablations", "06_style_mixing"]),
    ):
        (finished / edited).touch()
        assert would_run(finished) == [*expected, "the paper"], edited


@pytest.mark.processes
def test_a_dry_run_says_why(finished):
    (finished / "sedm" / "group_statistics.py").touch()
    (finished / "data" / "runs" / "tissue" / "quick" / "06_style_mixing.done").unlink()
    printed = start(finished, "notebooks/run.py", "STUDY=tissue", "DRY=1").stdout
    reasons = dict(re.findall(r"^Job \d+: tissue (\w+), to be read in .*\nReason: (.*)$", printed, re.MULTILINE))
    assert reasons["04_synthetic_images"] == "Updated input files: sedm/group_statistics.py"
    assert reasons["06_style_mixing"].startswith("Missing output files: ")


@pytest.fixture
def remembered(run, finished):
    """That copy, after Snakemake and the notebooks recorded what they were made of."""
    command = ["-m", "snakemake", "--snakefile", "notebooks/Snakefile", "--cores", "1", "--touch", "--forceall"]
    settings = {"study": "tissue", "preset": "quick", "seed": 0, "data": "", "runs": run.RUNS, "figures": run.FIGURES}
    ended = start(finished, *command, "--config", *(f"{name}={value}" for name, value in settings.items()))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for path in (finished / ".snakemake" / "metadata").iterdir():
        job = json.loads(path.read_text())
        if job["rule"] == "notebook":
            (recipe,) = re.findall(r"recipe=(\w+)", job["shellcmd"])
            (finished / re.search(r"done=(\S+)", job["shellcmd"])[1]).write_text(recipe)
    (finished / "paper" / "main.pdf").touch()
    return finished


def edit(folder, name, old, new):
    path = folder / "notebooks" / f"{name}.ipynb"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.processes
def test_a_sentence_runs_its_own_notebook_again_and_code_also_what_comes_after(run, remembered):
    everything = [*run.NOTEBOOKS["segmentation"], "the paper"]
    assert would_run(remembered) == []
    edit(remembered, "02_layout_priors", "**Question.**", "**Question.** Indeed:")
    assert would_run(remembered) == ["02_layout_priors", "the paper"]
    edit(remembered, "06_style_mixing", "import load_pretrained", "import  load_pretrained")
    assert would_run(remembered) == ["02_layout_priors", "06_style_mixing", "the paper"]
    edit(remembered, "03_diffusion_training", "import train_generator", "import  train_generator")
    assert would_run(remembered) == everything  # 03 has its own reason, the others come after it
    assert would_run(remembered, "SEED=1") == everything


@pytest.mark.processes
def test_code_and_parameters_run_again_what_comes_after(run, remembered):
    everything = [*run.NOTEBOOKS["segmentation"], "the paper"]
    assert would_run(remembered, "SEED=1") == everything
    edit(remembered, "02_layout_priors", "import load_study", "import  load_study")
    assert would_run(remembered) == everything


@pytest.mark.processes
def test_a_second_run_is_up_to_date_and_a_paper_against_its_values_ends_in_one_line(remembered):
    ended = start(remembered, "notebooks/run.py", "STUDY=tissue")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "everything is up to date" in ended.stdout
    values = remembered / "figures" / "tissue" / "values_fidelity.json"
    values.write_text(values.read_text().replace('"layout_iou": {', '"layout_uoi": {'))
    ended = start(remembered, "notebooks/run.py", "STUDY=tissue")
    assert ended.returncode == 1
    *_, why, outcome = ended.stdout.splitlines()
    assert why.startswith("the paper was not built: figures/tissue/values_fidelity.json has no table/layout_iou")
    assert outcome.startswith("tissue (quick): FAILED")


# ------------------------------------------------------------------------------------------ notebooks


@pytest.fixture
def execute(run):
    """``notebooks/execute.py`` as a module, which ``run`` imports."""
    return sys.modules["execute"]


@pytest.fixture
def dependencies(run):
    """``notebooks/dependencies.py`` as a module, which ``run`` imports."""
    return sys.modules["dependencies"]


@pytest.mark.slow
def test_an_unknown_notebook_parameter_is_refused_and_nothing_runs(execute, root, tmp_path):
    notebook, executed = root / "notebooks" / "02_layout_priors.ipynb", tmp_path / "executed.ipynb"
    with pytest.raises(ValueError, match=r"parameter of 02_layout_priors\.ipynb='sead'; .*did you mean 'seed'"):
        execute.execute_notebook(notebook, executed, {"sead": 1})
    assert not executed.exists()


@pytest.mark.processes
def test_a_failing_notebook_keeps_its_executed_copy(execute, tmp_path):
    import nbformat

    cells = [nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})]
    cells.append(nbformat.v4.new_code_cell("raise RuntimeError(f'seed {seed}')"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "fails.ipynb")
    with pytest.raises(Exception, match="seed 3"):
        execute.execute_notebook(tmp_path / "fails.ipynb", tmp_path / "log" / "fails.ipynb", {"seed": 3})
    assert "RuntimeError" in (tmp_path / "log" / "fails.ipynb").read_text()


@pytest.mark.processes
@pytest.mark.parametrize("name", ["02_layout_priors", "06_style_mixing"])
def test_the_modules_of_a_notebook_are_those_its_imports_load(dependencies, root, name):
    notebook = root / "notebooks" / f"{name}.ipynb"
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    lines = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    lines += ["import sys", "for name in [n for n in sys.modules if n.startswith('sedm')]:"]
    lines += ["    print(sys.modules[name].__file__)"]
    command = [sys.executable, "-c", "\n".join(lines)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    loaded = {path for path in ended.stdout.splitlines() if not path.endswith("__init__.py")}
    listed = {path for path in dependencies.modules_of(notebook) if not path.endswith("__init__.py")}
    assert loaded <= listed
    late = {path.removeprefix(f"{root}/") for path in listed - loaded}  # imported inside functions
    painters = ("tissue", "patients", "flowers", "species", "anatomy", "tissue_stains", "plants", "canvas")
    drawn = {f"sedm/data/drawn/{name}.py" for name in painters}
    page = {f"sedm/demo/{name}.py" for name in ("page", "layout_panel", "style_panel", "controls", "worker")}
    assert late <= drawn | page


def test_a_notebook_that_only_plots_does_not_depend_on_training(dependencies, root):
    listed = dependencies.modules_of(root / "notebooks" / "02_layout_priors.ipynb")
    names = {path.removeprefix(f"{root}/sedm/") for path in listed}
    assert {
        "layouts/__init__.py",
        "layouts/random_field.py",
        "figures/grids.py",
        "data/patch_table.py",
        "data/drawn/tissue.py",
        "config/settings.py",
    } <= names
    rooms = ("generator", "generation", "experiments", "demo")
    assert [name for name in names if name.startswith(rooms)] == []
