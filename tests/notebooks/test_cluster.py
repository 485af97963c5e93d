"""A graph on SLURM: a stand-in for its commands runs each job at once, here, and keeps what it was asked for."""

import json
import os
import shutil
import stat
import sys

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.processes]

SBATCH = """
import json, os, subprocess, sys
folder, options = os.environ["STAND_IN"], sys.argv[1:]
number = len([name for name in os.listdir(folder) if name.endswith(".json")]) + 1
json.dump(options, open(f"{folder}/{number}.json", "w"))
script = next(option.removeprefix("--wrap=") for option in options if option.startswith("--wrap="))
with open(f"{folder}/{number}.out", "w") as said:
    status = subprocess.run(script, shell=True, stdout=said, stderr=said).returncode
open(f"{folder}/{number}.state", "w").write("FAILED" if status else "COMPLETED")
print(number)
"""
SACCT = """
import os
for name in os.listdir(os.environ["STAND_IN"]):
    if name.endswith(".state"):
        print(name.removesuffix(".state"), open(os.path.join(os.environ["STAND_IN"], name)).read(), sep="|")
"""
SRUN = """
import subprocess, sys
command = sys.argv[1:]
while command[0].startswith("-"):
    command.pop(0)
sys.exit(subprocess.run(command).returncode)
"""
COMMANDS = {"sbatch": SBATCH, "sacct": SACCT, "srun": SRUN, "sacctmgr": "print('mine')"}
COMMANDS |= dict.fromkeys(("squeue", "sinfo", "scancel", "scontrol"), "")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder where the stand-in keeps its jobs."""
    commands, jobs = tmp_path / "bin", tmp_path / "jobs"
    commands.mkdir()
    jobs.mkdir()
    for name, code in COMMANDS.items():
        (commands / name).write_text(f"#!{sys.executable}\n{code}")
        (commands / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(jobs))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return jobs


def test_a_graph_runs_on_slurm_with_the_resources_of_each_notebook(run, root, slurm, tmp_path, capsys):
    profile = tmp_path / "profile"
    shutil.copytree(root / "notebooks" / "slurm", profile)
    settings = yaml.safe_load((profile / "config.yaml").read_text())
    settings |= {"slurm-init-seconds-before-status-checks": 1, "latency-wait": 5}
    settings["default-resources"] |= {"slurm_account": "mine", "slurm_partition": "small"}
    (profile / "config.yaml").write_text(yaml.safe_dump(settings))
    request = run.parse_request(["STUDY=flowers", "PRESET=smoke", f"PROFILE={profile}"])
    status = run.reproduce(request, str(tmp_path / "runs"), str(tmp_path / "figures"))
    said = capsys.readouterr().out
    assert status == 0, said
    assert "flowers  01_natural_images  done" in said
    (options,) = (json.loads(path.read_text()) for path in slurm.glob("*.json"))
    asked = " ".join(options[:-1])
    for wanted in ("-A mine", "-p small", "-t 10", "--mem 16000", "--cpus-per-task=4", "--gpus=1"):
        assert wanted in asked
    assert (tmp_path / "runs" / "flowers" / "smoke" / "01_natural_images.done").exists()


def test_a_folder_that_is_no_profile_is_refused(run):
    with pytest.raises(ValueError, match=r"PROFILE='notebooks'; no config.yaml there; for SLURM give notebooks/slurm"):
        run.parse_request(["PROFILE=notebooks"])
