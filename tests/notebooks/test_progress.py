"""What is shown of a run: the state of each notebook, read from its files, a line each, and a table at the end."""

import io
import json
import os
import socket
import subprocess
import sys
import time

import pytest


@pytest.fixture
def progress(run):
    """``notebooks/progress.py`` as a module, which ``run`` imports."""
    return sys.modules["progress"]


@pytest.fixture
def job(progress, tmp_path):
    (tmp_path / "smoke" / "notebooks").mkdir(parents=True)
    return progress.Job("tissue", "02_layout_priors", tmp_path / "smoke")


def write_executed(job, error="", n_executed=1):
    failure = {"output_type": "error", "ename": "ValueError", "evalue": f"{error}\nmore", "traceback": []}
    opening = {"cell_type": "markdown", "id": "02-00", "source": ["# 02"]}
    cells = [
        {
            "cell_type": "code",
            "id": f"02-{i:02d}",
            "source": [],
            "execution_count": i if i <= n_executed else None,
            "outputs": [failure] if error and i == n_executed else [],
        }
        for i in (1, 2, 3)
    ]
    on_top = [{"cell_type": "markdown", "id": "p", "source": ["<span>An Exception</span>"]}] if error else []
    notebook = {"cells": [*on_top, opening, *cells], "metadata": {"papermill": {"duration": 61.4}}}
    job.executed.write_text(json.dumps(notebook))


def age(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)


def test_the_state_of_a_notebook_is_read_from_its_files(job):
    since = time.time() - 10
    assert job.state(since) == "waiting"
    job.log.write_text("")
    assert job.state(since) == "running"
    write_executed(job, error="no such table")
    assert job.state(since) == "FAILED"
    assert job.failure() == "cell 02-01: ValueError: no such table"
    write_executed(job)
    assert job.state(since) == "running"
    job.done.touch()
    assert job.state(since) == "done"
    for path in (job.log, job.executed, job.done):
        age(path, 60)
    assert job.state(since) == "up to date"
    write_executed(job, error="of an earlier run")
    age(job.executed, 60)
    job.log.write_text("")
    job.done.unlink()
    assert job.state(since) == "running"


def test_the_stage_is_the_cell_and_the_last_line_of_a_bar(job):
    write_executed(job, n_executed=1)
    job.log.write_text("warning\ntraining:  10%|█  | 5/50\rtraining:  20%|██ | 10/50")
    assert job.stage() == "cell 2 of 3  training:  20%|██ | 10/50"
    job.executed.write_text('{"cells": [')  # just being written
    assert job.stage().endswith("10/50")


def test_away_from_a_terminal_a_start_an_end_and_a_line_a_minute_are_printed(progress, job):
    out, since = io.StringIO(), time.time() - 10
    shown = progress.Progress([job], since, out)
    shown.show()
    assert out.getvalue() == ""
    write_executed(job)
    job.log.write_text("training: 5/50")
    for _ in range(3):
        shown.show()
    job.done.touch()
    shown.show()
    shown.show()
    assert out.getvalue().splitlines() == [
        "tissue 02_layout_priors: cell 2 of 3  training: 5/50",
        "tissue 02_layout_priors: done",
    ]


def test_on_a_terminal_the_lines_of_running_notebooks_are_rewritten(progress, job):
    out = io.StringIO()
    out.isatty = lambda: True
    shown = progress.Progress([job], time.time() - 10, out)
    write_executed(job)
    job.log.write_text("training: 5/50")
    shown.show()
    job.log.write_text("training: 6/50")
    shown.show()
    job.done.touch()
    shown.show()
    screen = []
    for part in out.getvalue().split("\x1b[1F\x1b[J"):  # one line up, and clear
        screen = screen[:-1] + part.splitlines()
    assert screen == ["tissue 02_layout_priors: done"]


def test_the_table_tells_status_time_and_what_failed(progress, job):
    since = time.time() - 10
    other = progress.Job("tissue", "03_diffusion_training", job.folder)
    write_executed(job, error="no such table")
    job.log.write_text("")
    assert progress.summarise([job, other], since).splitlines() == [
        "study   notebook               status   time",
        "tissue  02_layout_priors       FAILED   61 s",
        "tissue  03_diffusion_training  not run",
        "tissue 02_layout_priors: cell 02-01: ValueError: no such table",
        f"  kept, with its traceback, in {job.executed}",
    ]


@pytest.mark.processes
def test_a_notebook_does_not_outlive_the_one_who_started_the_graph(root):
    """The starter is killed at once, with no chance to end what it started."""
    starter = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    code = f"import os, time, execute; os.environ[execute.STARTER] = '{socket.gethostname()}:{starter.pid}'; "
    code += "execute.end_with_starter(); print('watching', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code]
    notebook = subprocess.Popen(command, cwd=root / "notebooks", stdout=subprocess.PIPE, text=True)
    try:
        assert notebook.stdout.readline() == "watching\n"
        assert notebook.poll() is None
        starter.kill()
        starter.wait()
        assert notebook.wait(timeout=30) == 1
    finally:
        notebook.kill()
        notebook.stdout.close()
