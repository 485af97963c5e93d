"""Runs the notebooks of one or more studies: checks the request, then hands the graph to Snakemake.

    python notebooks/run.py STUDY=ebhi PRESET=quick DATA=/data/ebhi SEED=0 JOBS=1

With ``notebook`` as the first argument it runs a single one, as the Snakefile does.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

from sedm.config import build_config, known_name
from sedm.studies import STUDIES

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = {"STUDY": "tissue flowers", "PRESET": "quick", "DATA": "", "SEED": "0", "JOBS": ""}
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
    """The settings of a run, from words such as ``STUDY=ebhi``; checked before anything runs.

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
    if not request["STUDY"].split():
        raise ValueError(f"STUDY is empty; choose one of {', '.join(STUDIES)}")
    for study in request["STUDY"].split():
        build_config(study, request["PRESET"])
        check_data(study, request["DATA"])
    return request


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
    from sedm.data.patches import check_header, find_splits

    found = find_splits(ROOT / folder)
    for split in ("train", "test"):
        for file in found.get(split, [ROOT / folder / f"{split}.parquet"]):
            check_header(file, facts.group_column)


def modules_of(notebook: Path) -> list[str]:
    """The files of ``sedm`` that a notebook imports, directly or through each other."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    waiting, found = imported_modules(code, package=""), set()
    while waiting:
        name = waiting.pop()
        place = ROOT.joinpath(*name.split("."))
        for path, package in ((place.with_suffix(".py"), name.rpartition(".")[0]), (place / "__init__.py", name)):
            if path not in found and path.is_file():
                found.add(path)
                waiting += imported_modules(path.read_text(), package)
    return sorted(str(path) for path in found)


def imported_modules(code: str, package: str) -> list[str]:
    """Dotted names of the ``sedm`` modules that a piece of code imports; ``package`` is where it lives.

    >>> imported_modules("from .patches import load_patches", package="sedm.data")
    ['sedm.data.patches', 'sedm.data.patches.load_patches']
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


def run_notebook(notebook: Path, executed: Path, parameters: dict[str, object]) -> None:
    """None, after the notebook ran from top to bottom; the executed copy is kept, also when it failed.

    Raises:
        ValueError: a parameter that the notebook does not have.
        RuntimeError: a cell failed; the message names it and shows its traceback.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        known_name(f"parameter of {notebook.name}", name, known)
    executed.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters,
            kernel_name="python3",
            cwd=str(ROOT),
            progress_bar=False,
            stderr_file=sys.stderr,  # the progress bars of long cells
        )
    except PapermillExecutionError as error:
        raise RuntimeError(f"{notebook.name} failed in cell {error.exec_count}, kept in {executed}: {error}") from error


def reproduce(request: dict[str, str]) -> int:
    """The exit status of Snakemake, after a line that says what happened."""
    started = time.monotonic()
    cores, jobs = os.cpu_count() or 1, int(request["JOBS"])
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "notebooks" / "Snakefile")]
    command += ["--directory", str(ROOT), "--cores", str(max(cores, jobs)), "--keep-going", "--rerun-incomplete"]
    command += ["--quiet", "host", "progress", "--nolock"]
    command += ["--config", f"threads={max(cores // jobs, 1)}"]
    command += [f"{name.lower()}={value}" for name, value in request.items() if name != "JOBS"]
    status = subprocess.run(command, cwd=ROOT, check=False)
    outcome = "everything is up to date" if status.returncode == 0 else "FAILED, see above"
    print(f"{request['STUDY']} ({request['PRESET']}): {outcome}, after {time.monotonic() - started:.0f} s")
    return status.returncode


def main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["notebook"]:
            values = dict(argument.split("=", 1) for argument in arguments[3:])
            run_notebook(Path(arguments[1]), Path(arguments[2]), {**values, "seed": int(values["seed"])})
            return 0
        return reproduce(parse_request(arguments))
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
