"""Runs the notebooks of one or more studies: checks the request, then hands the graph to Snakemake.

    python notebooks/run.py STUDY=ebhi PRESET=quick DATA=/data/ebhi SEED=0 JOBS=1 DRY=1

With ``notebook`` as the first argument it runs a single one, as the Snakefile does; with ``make`` it takes the settings
that were given to make.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from importlib import import_module
from pathlib import Path

from progress import Job, Progress, is_newer, summarise

from sedm.config import build_config, known_name
from sedm.config.studies import STUDIES
from sedm.runtime.extras import MissingExtraError, extra

ROOT = Path(__file__).resolve().parent.parent
RUNS, FIGURES = "data/runs", "figures"
TRIGGERS = ("mtime", "params", "code")  # of Snakemake; a notebook may wait for fewer of the earlier ones than last time
PAPER = ROOT / "paper" / "main.pdf"
REASONS = {  # by the status that Snakemake's summary gives a file
    "missing": "it never ran to its end",
    "params changed": "a parameter, a table or the code of an earlier notebook changed",
    "ok": "it comes after another",
}
DEFAULTS = {"STUDY": "tissue flowers", "PRESET": "quick", "DATA": "", "SEED": "0", "JOBS": "", "DRY": "", "PROFILE": ""}
STARTER = "SEDM_STARTED_BY"  # host:process that a notebook must not outlive
NOTEBOOKS = {
    "natural": ["01_natural_images"],
    "tissue": [
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
    request["JOBS"] = request["JOBS"] or str(min(len(request["STUDY"].split()) or 1, os.cpu_count() or 1))
    for name, smallest in (("SEED", 0), ("JOBS", 1)):
        if not request[name].isdigit() or int(request[name]) < smallest:
            raise ValueError(f"{name}={request[name]!r}; give a whole number of {smallest} or more")
    if request["DRY"] not in ("", "0", "1"):
        raise ValueError(f"DRY={request['DRY']!r}; give 1 to see what would run, or leave it out")
    if request["PROFILE"] and not (ROOT / request["PROFILE"] / "config.yaml").is_file():
        raise ValueError(f"PROFILE={request['PROFILE']!r}; no config.yaml there; for SLURM give notebooks/slurm")
    if not request["STUDY"].split():
        raise ValueError(f"STUDY is empty; choose one of {', '.join(STUDIES)}")
    for study in request["STUDY"].split():
        build_config(study, request["PRESET"])
        check_data(study, request["DATA"])
    return request


def words_of_make(flags: str) -> list[str]:
    """Return the variables given to make, as they were typed, from the MAKEFLAGS that it hands on to its commands.

    In a recipe a shell would read them once more, and trip over a quote in the name of a folder.
    Source: GNU make, which escapes blanks and backslashes by a backslash and doubles dollar signs.

    >>> words_of_make(r"k -- STUDY=tissue\\ flowers DATA=it's\\ 100%")
    ['STUDY=tissue flowers', "DATA=it's 100%"]
    """
    variables = flags.partition("-- ")[2]
    return [re.sub(r"\\(.)", r"\1", word).replace("$$", "$") for word in re.findall(r"(?:\\.|\S)+", variables)]


def check_data(study: str, folder: str) -> None:
    """None, when ``folder`` has what the study needs, as far as the files' heads tell.

    Raises:
        ValueError: no folder, a missing or unreadable table, or one without a needed column.
    """
    facts = STUDIES[study]
    if facts.embedded:
        if folder:
            raise ValueError(f"DATA={folder!r}, but the study {study!r} is embedded: leave DATA out")
        return
    if not folder:
        raise ValueError(f"STUDY={study} needs DATA=<folder of its parquet files>; see data/README.md")
    if set("{}") & set(folder):
        raise ValueError(
            f"DATA={folder!r}; Snakemake takes {{…}} for a wildcard: rename the folder, or give a link to it"
        )
    from sedm.data.patch_table import check_header, find_splits

    found = find_splits(ROOT / folder)
    for split in ("train", "test"):
        for file in found.get(split, [ROOT / folder / f"{split}.parquet"]):
            check_header(file, facts.group_column)


def code_of(notebook: str | Path) -> list[str]:
    """What stands in the code cells of a notebook."""
    cells = json.loads(Path(notebook).read_text())["cells"]  # nbformat takes seconds to import
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def modules_of(notebook: str | Path) -> list[str]:
    """The files of ``sedm`` that a notebook imports, directly or through each other."""
    waiting, found = [*imported_modules("\n".join(code_of(notebook)), package="")], set()
    while waiting:
        name = waiting.pop()
        place = ROOT.joinpath(*name.split("."))
        for path, package in ((place.with_suffix(".py"), name.rpartition(".")[0]), (place / "__init__.py", name)):
            if path not in found and path.is_file():
                found.add(path)
                waiting += imported_modules(path.read_text(), package)
    return sorted(str(path) for path in found)


@cache
def code_hash(notebook: str | Path) -> str:
    """A hash of what a notebook does: its code cells and the modules they import, not the words between."""
    code = [*code_of(notebook), *(Path(path).read_text() for path in modules_of(notebook))]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:12]


@cache  # most notebooks import the same modules
def imported_modules(code: str, package: str) -> list[str]:
    """Dotted names of the ``sedm`` modules that a piece of code imports; ``package`` is where it lives.

    >>> imported_modules("from .patches import load_patches", package="sedm.data")
    ['sedm.data.patch_table', 'sedm.data.patch_table.load_patches']
    """
    names = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == "sedm"]


def run_notebook(notebook: Path, executed: Path, parameters: dict[str, object], log: Path | None = None) -> None:
    """None, after the notebook ran from top to bottom; the executed copy is kept, also when it failed.

    Args:
        log: receives what the kernel writes to stderr; the terminal does where it is left out.

    Raises:
        ValueError: a parameter that the notebook does not have.
        RuntimeError: a cell failed; the message names it and shows its traceback.
    """
    with extra("notebooks"):
        import papermill
        from papermill.exceptions import PapermillExecutionError

    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        known_name(f"parameter of {notebook.name}", name, known)
    executed.parent.mkdir(parents=True, exist_ok=True)
    bars = sys.stderr if log is None else log.open("w")
    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters,
            kernel_name="python3",
            cwd=str(ROOT),
            progress_bar=False,
            stderr_file=bars,
        )
    except PapermillExecutionError as error:
        raise RuntimeError(f"{notebook.name} failed in cell {error.exec_count}, kept in {executed}: {error}") from error


def reproduce(request: dict[str, str], runs: str = RUNS, figures: str = FIGURES) -> int:
    """The exit status of Snakemake, after a table of what came of each notebook.

    Args:
        runs: folder from the root for tables, models and executed notebooks.
        figures: … for figures and values.
    """
    with extra("notebooks"):
        import_module("snakemake")  # started as a process below
    studies, preset, since = request["STUDY"].split(), request["PRESET"], time.time()
    jobs = [
        Job(study, name, ROOT / runs / study / preset) for study in studies for name in NOTEBOOKS[STUDIES[study].kind]
    ]
    cores, n_jobs = os.cpu_count() or 1, int(request["JOBS"])
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "notebooks" / "Snakefile")]
    command += ["--directory", str(ROOT), "--cores", str(max(cores, n_jobs)), "--keep-going", "--rerun-incomplete"]
    command += ["--rerun-triggers", *TRIGGERS]
    command += ["--quiet", "host", "progress", "--nolock", *(["--summary"] if request["DRY"] == "1" else [])]
    command += ["--workflow-profile", str(ROOT / request["PROFILE"])] if request["PROFILE"] else []
    settings = {"threads": max(cores // n_jobs, 1), "runs": runs, "figures": figures}
    settings |= {name.lower(): value for name, value in request.items() if name not in ("JOBS", "DRY", "PROFILE")}
    starter = {STARTER: f"{socket.gethostname()}:{os.getpid()}"}
    kept = ROOT / ".snakemake"  # which the nodes of a cluster share
    kept.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryFile("w+") as said,
        tempfile.NamedTemporaryFile("w", dir=kept, prefix="request-", suffix=".json") as config,
    ):
        json.dump(settings, config)  # --config would take a folder 2024_11 for the number 202411
        config.flush()
        command += ["--configfile", config.name]
        options = {"cwd": ROOT, "stdout": said, "stderr": subprocess.STDOUT, "env": {**os.environ, **starter}}
        with subprocess.Popen(command, **options) as snakemake:
            progress, parent = Progress(jobs, since), os.getppid()
            while snakemake.poll() is None:
                time.sleep(0.3)
                progress.show()
                if os.getppid() != parent:  # make is gone
                    snakemake.terminate()
        said.seek(0)
        words = said.read()
    if request["DRY"] == "1" and snakemake.returncode == 0:
        print("\n".join(explain(words, jobs)) or "everything is up to date")
        return 0
    print(summarise(jobs, since, ROOT / figures))
    if snakemake.returncode and not any(job.state(since) == "FAILED" for job in jobs):
        log = ROOT / runs / "paper.log"
        print(log.read_text().strip() if is_newer(log, since) else words)  # no notebook is at fault
    built = is_newer(PAPER, since)
    ran = built or any(job.state(since) == "done" for job in jobs)
    outcome = "FAILED, see above" if snakemake.returncode else "done" if ran else "everything is up to date"
    if built:
        print(f"{PAPER.relative_to(ROOT)} was built anew")
    print(f"{request['STUDY']} ({preset}): {outcome}, after {time.time() - since:.0f} s")
    return snakemake.returncode


def explain(summary: str, jobs: list[Job]) -> list[str]:
    """List what would run and why, a line each.

    Args:
        summary: what Snakemake prints under ``--summary``: a table of all files, with their status and plan.

    >>> table = "output_file\\tstatus\\tplan\\ndata/runs/tissue/quick/02_layouts.done\\tmissing\\tupdate pending"
    >>> explain(table, [Job("tissue", "02_layouts", ROOT / "data/runs/tissue/quick")])
    ['tissue 02_layouts would run: it never ran to its end']
    """
    lines = summary.splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("output_file\t"))
    table = csv.DictReader(lines[header:], delimiter="\t", quoting=csv.QUOTE_NONE)
    pending = {ROOT / row["output_file"]: row["status"] for row in table if row["plan"] == "update pending"}
    reasons = []
    for job in jobs:
        if job.done in pending:
            status = pending[job.done]
            changed = ", ".join(changed_code(job)) if status == "updated input files" else ""
            reason = f"changed: {changed}" if changed else REASONS.get(status, status)
            reasons.append(f"{job.study} {job.notebook} would run: {reason}")
    if PAPER in pending:
        reasons.append("the paper would run: a source, a value or a figure changed, or a notebook runs")
    return reasons


def changed_code(job: Job) -> list[str]:
    """List the notebook and the modules it imports, as far as they were changed since it ran."""
    notebook = ROOT / "notebooks" / f"{job.notebook}.ipynb"
    since = job.done.stat().st_mtime
    return [
        str(path.relative_to(ROOT)) for path in (notebook, *map(Path, modules_of(notebook))) if is_newer(path, since)
    ]


def end_with_starter() -> None:
    """None; this process ends as soon as the one that started the graph is gone, and its kernel with it.

    Between the two are Snakemake and a shell, which may outlive a ``kill -9``. Another host's process cannot be seen:
    there the scheduler ends jobs.
    """
    host, _, process = os.environ.get(STARTER, "").partition(":")
    if host != socket.gethostname():
        return

    def watch() -> None:
        while True:
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                os._exit(1)
            time.sleep(0.5)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["notebook"]:
            end_with_starter()
            values, executed = dict(argument.split("=", 1) for argument in arguments[3:]), Path(arguments[2])
            done, recipe = Path(values.pop("done")), values.pop("recipe")
            log = executed.with_suffix(".log") if STARTER in os.environ else None
            run_notebook(Path(arguments[1]), executed, {**values, "seed": int(values["seed"])}, log)
            done.write_text(recipe)
            return 0
        if arguments == ["make"]:
            words = words_of_make(os.environ.get("MAKEFLAGS", ""))
            arguments = [word for word in words if not word.startswith("PYTHON=")]
        return reproduce(parse_request(arguments))
    except (ValueError, RuntimeError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
