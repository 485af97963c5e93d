"""Runs: each is made once, by one process, and a process that ends leaves its runs to others."""

import os
import signal
import time

import pytest

from sedm.experiments.runs import claim, finish_runs
from sedm.experiments.variant_runs import list_variant_runs


def test_a_run_in_other_hands_is_waited_for_and_finished_where_they_fail(tmp_path, config, capsys):
    """Another process holds the first run until the second is finished here, and ends without a result."""
    runs, finished = list_variant_runs(config, ["baseline"], [0, 1]), []
    other = claim(tmp_path / "baseline-seed0.lock")
    assert other.__enter__()

    def finish(run):
        finished.append(run.name)
        if run.name == "baseline-seed1":
            other.__exit__(None, None, None)
        return "well"

    assert finish_runs(runs, lambda: finish, tmp_path, tmp_path / "out", wait=True) == []
    assert finished == ["baseline-seed1", "baseline-seed0"]
    assert "baseline-seed0: in the hands of another process" in capsys.readouterr().out


@pytest.mark.processes
def test_a_claim_ends_with_its_process_even_when_it_is_killed(tmp_path):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with claim(tmp_path / "lock") as claimed:
            os.write(writing, b"1" if claimed else b"0")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"1"
        with claim(tmp_path / "lock") as claimed:
            assert not claimed
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with claim(tmp_path / "lock", wait=True) as claimed:
        assert claimed
