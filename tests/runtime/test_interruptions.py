"""Kill -9 in the middle of a run of notebooks, again and again: nothing stays behind, and nothing is lost or wrong."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]

N_KILLED = 4
CODE = """
import os, sys, run
request = ["STUDY=tissue", "PRESET=smoke", f"JOBS={os.cpu_count()}"]  # one thread each, as in the undisturbed run
sys.exit(run.reproduce(run.parse_request(request), *sys.argv[1:]))
"""


def started_by(process):
    """What runs for this process, directly or not, as its kernels and notebooks do."""
    mark, found = f":{process.pid}", []
    for one in psutil.process_iter():
        try:
            if one.environ().get("SEDM_STARTED_BY", "").endswith(mark):
                found.append(one)
        except psutil.Error:
            continue
    return found


def untimed(values):
    """Without how long something took, which no two runs share."""
    return {name: value for name, value in values.items() if "seconds" not in name}


def test_killed_runs_end_in_the_values_of_an_undisturbed_one(root, tissue, tmp_path):
    """All is killed at once, as when a machine goes down, or the first process only; the others have to notice."""
    command = [sys.executable, "-c", CODE, str(tmp_path / "runs"), str(tmp_path / "figures")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'notebooks'}"}
    rng = random.Random(0)

    def start():
        return subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    for number in range(N_KILLED):
        with start() as process:
            time.sleep(rng.uniform(2, 20))
            kill = os.kill if number % 2 else os.killpg
            kill(process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(started_by(process), timeout=30)
        assert alive == []
    with start() as process:
        said = process.communicate()[0]
    assert process.returncode == 0, said
    for path in sorted((tissue / "runs" / "tissue" / "smoke" / "figures").glob("values_*.json")):
        found = tmp_path / "runs" / "tissue" / "smoke" / "figures" / path.name
        one, other = (json.loads(file.read_text(), object_hook=untimed)["values"] for file in (path, found))
        assert one == other, path.name
