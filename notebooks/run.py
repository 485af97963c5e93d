"""Check what was asked for, then have Snakemake run the notebooks of one or more studies.

    python notebooks/run.py STUDY=ebhi PRESET=quick DATA=/data/ebhi SEED=0 JOBS=1 DRY=1

With ``make`` as its only argument it takes the settings that were given to make.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from dependencies import ROOT
from execute import STARTER
from progress import Job, Progress, is_newer, summarise

from sedm.config import STUDIES, Study, build_config, find_study, known_name
from sedm.runtime.extras import MissingExtraError, extra

RUNS, FIGURES = "data/runs", "figures"
PAPER = ROOT / "paper" / "main.pdf"
TRIGGERS = ("mtime", "params", "code")  # of Snakemake; a notebook may wait for fewer of the earlier ones than last time
DEFAULTS = {"STUDY": "tissue flowers", "PRESET": "quick", "DATA": "", "SEED": "0", "JOBS": "", "DRY": "", "PROFILE": ""}
NOTEBOOKS = {
    "styles": ["01_natural_images"],
    "segmentation": [
        "02_layout_priors",
        "03_diffusion_training",
        "04_synthetic_images",
        "05_segmentation_ablations",
        "06_style_mixing",
    ],
}


def parse_request(arguments: list[str]) -> dict[str, str]:
    """Read the settings of a run from words such as ``STUDY=ebhi``, and check them before anything runs.

    Raises:
        ValueError: an unknown name or value; the message says which one was probably meant.

    >>> parse_request(["PRESET=smoke"])["STUDY"]
    'tissue flowers'
    """
    request = dict(DEFAULTS)
    for argument in arguments:
        name, _, value = argument.partition("=")
        request[known_name("parameter", name, DEFAULTS)] = value
    studies = studies_of(request["STUDY"])
    if not studies:
        raise ValueError(f"STUDY is empty; choose one of {', '.join(STUDIES)}")
    request["JOBS"] = request["JOBS"] or str(min(len(studies), os.cpu_count() or 1))
    for name, smallest in (("SEED", 0), ("JOBS", 1)):
        if not request[name].isdecimal() or int(request[name]) < smallest:
            raise ValueError(f"{name}={request[name]!r}; give a whole number of {smallest} or more")
    if request["DRY"] not in ("", "0", "1"):
        raise ValueError(f"DRY={request['DRY']!r}; give 1 to see what would run, or leave it out")
    if request["PROFILE"] and not (ROOT / request["PROFILE"] / "config.yaml").is_file():
        raise ValueError(f"PROFILE={request['PROFILE']!r}; no config.yaml there; for SLURM give notebooks/slurm")
    for study in studies:
        build_config(study, request["PRESET"])
        check_data(study, request["DATA"])
    if len({study.name for study in studies}) < len(studies):
        raise ValueError(f"STUDY={request['STUDY']!r}; two studies of one name would share their folders")
    return request


def studies_of(words: str) -> list[Study]:
    """Find the studies that ``STUDY=`` asks for: names and paths, divided by blanks, or one path with blanks in it.

    A relative path begins at the project.

    >>> [study.name for study in studies_of("tissue flowers")]
    ['tissue', 'flowers']
    """
    asked = [words] if (ROOT / words).exists() and words.strip() else words.split()
    return [find_study(word if word in STUDIES else ROOT / word if (ROOT / word).exists() else word) for word in asked]


def words_of_make(flags: str) -> list[str]:
    """Read the variables given to make, as they were typed, from the MAKEFLAGS that it hands on to its commands.

    In a recipe, a shell would read them once more, and trip over a quote in the name of a folder.
    Source: GNU make, which escapes blanks and backslashes by a backslash and doubles dollar signs.

    >>> words_of_make(r"k -- STUDY=tissue\\ flowers DATA=it's\\ 100%")
    ['STUDY=tissue flowers', "DATA=it's 100%"]
    """
    variables = flags.partition("-- ")[2]
    return [re.sub(r"\\(.)", r"\1", word).replace("$$", "$") for word in re.findall(r"(?:\\.|\S)+", variables)]


def check_data(study: Study, folder: str) -> None:
    """Refuse a folder that lacks what the study needs, as far as the heads of its files tell.

    Raises:
        ValueError: no folder, one whose name cannot be handed on, a missing or unreadable table, or one without a
            needed column.
    """
    if study.file is not None:
        if folder:
            raise ValueError(f"DATA={folder!r}, but {study.file} says where its data lie: leave DATA out")
        return  # images of one's own are checked whole by the first notebook, or by sedm check
    if study.embedded:
        if folder:
            raise ValueError(f"DATA={folder!r}, but the study {study.name!r} is embedded: leave DATA out")
        return
    if not folder:
        raise ValueError(f"STUDY={study.name} needs DATA=<folder of its parquet files>; see data/README.md")
    if set("{}") & set(folder):
        raise ValueError(
            f"DATA={folder!r}; Snakemake takes {{…}} for a wildcard: rename the folder, or give a link to it"
        )
    from sedm.data.table_files import as_pattern, check_header, find_splits

    splits = find_splits(ROOT / folder)
    for split in ("train", "test"):
        for file in splits.get(split, [ROOT / folder / f"{split}.parquet"]):
            as_pattern(file)
            check_header(file, study.group_column)


@contextmanager
def snakemake_command(request: dict[str, str], runs: str, figures: str) -> Iterator[list[str]]:
    """Yield the command that runs the graph of notebooks; the file of settings that it names is there as long."""
    cores = os.cpu_count() or 1
    n_jobs = int(request["JOBS"])
    settings = {"threads": max(cores // n_jobs, 1), "runs": runs, "figures": figures}
    settings |= {name.lower(): request[name] for name in ("PRESET", "DATA", "SEED")}
    settings["study"] = [str(study) for study in studies_of(request["STUDY"])]
    shared = ROOT / ".snakemake"  # the nodes of a cluster see this folder
    shared.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=shared, prefix="request-", suffix=".json") as file:
        json.dump(settings, file)  # --config would take a folder 2024_11 for the number 202411
        file.flush()
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "notebooks" / "Snakefile")]
        command += ["--directory", str(ROOT), "--configfile", file.name, "--cores", str(max(cores, n_jobs))]
        command += ["--keep-going", "--rerun-incomplete", "--nolock", "--rerun-triggers", *TRIGGERS]
        command += ["--quiet", "host", "progress"]
        yield [*command, "--workflow-profile", str(ROOT / request["PROFILE"])] if request["PROFILE"] else command


def reproduce(request: dict[str, str], runs: str = RUNS, figures: str = FIGURES) -> int:
    """Run the notebooks that are missing or outdated, and return the exit status of Snakemake.

    A line tells how each running notebook stands, a table at the end what came of it. With ``DRY``, nothing runs:
    Snakemake says what would, and why.

    Args:
        runs: folder for tables, models and executed notebooks, relative to the project.
        figures: … for figures and values.
    """
    with extra("notebooks"):
        import_module("snakemake")  # started as a process below
    with snakemake_command(request, runs, figures) as command:
        if request["DRY"] == "1":
            return subprocess.run([*command, "--dry-run"], cwd=ROOT, check=False).returncode
        since = time.time()
        jobs = [
            Job(study.name, notebook, ROOT / runs / study.name / request["PRESET"])
            for study in studies_of(request["STUDY"])
            for notebook in NOTEBOOKS[study.question]
        ]
        status, words = watch(command, Progress(jobs, since))
    print(summarise(jobs, since))
    states = {job.state(since) for job in jobs}
    if status and "FAILED" not in states:  # no notebook is at fault
        paper_log = ROOT / runs / "paper.log"
        print(paper_log.read_text().strip() if is_newer(paper_log, since) else words)
    built = is_newer(PAPER, since)
    if built:
        print(f"{PAPER.relative_to(ROOT)} was built anew")
    outcome = "FAILED, see above" if status else "done" if built or "done" in states else "everything is up to date"
    print(f"{request['STUDY']} ({request['PRESET']}): {outcome}, after {time.time() - since:.0f} s")
    return status


def watch(command: list[str], progress: Progress) -> tuple[int, str]:
    """Run a command, show the progress of its notebooks meanwhile, and return its exit status and what it printed."""
    environment = {**os.environ, STARTER: f"{socket.gethostname()}:{os.getpid()}"}
    parent = os.getppid()
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT) as process:
            while process.poll() is None:
                time.sleep(0.3)
                progress.show()
                if os.getppid() != parent:  # make is gone
                    process.terminate()
        output.seek(0)
        return process.returncode, output.read()


def main(arguments: list[str]) -> int:
    if arguments == ["make"]:
        words = words_of_make(os.environ.get("MAKEFLAGS", ""))
        arguments = [word for word in words if not word.startswith("PYTHON=")]
    try:
        return reproduce(parse_request(arguments))
    except (ValueError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
