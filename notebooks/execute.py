"""Execute one notebook, as the Snakefile does; its copy with outputs is kept, even when it fails.

    python notebooks/execute.py SOURCE COPY study=tissue preset=quick seed=0 … done=FILE recipe=HASH

``done`` is written when the notebook has run to its end, and holds ``recipe``.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

from sedm.config import known_name
from sedm.runtime.extras import MissingExtraError, extra

COMMITTED = "committed-figure"  # tag of cells that link a committed figure, for readers who run nothing
STARTER = "SEDM_STARTED_BY"  # environment variable: host:process that a notebook must not outlive


def execute_notebook(notebook: Path, executed: Path, parameters: dict[str, object], log: Path | None = None) -> None:
    """Run a notebook from top to bottom in the current folder.

    Args:
        executed: where the copy with outputs goes. It shows its own figures, and not the committed ones.
        log: receives what the kernel writes to stderr, such as progress bars; without it, the terminal does.

    Raises:
        ValueError: a parameter that the notebook does not have; nothing has run.
        RuntimeError: a cell failed; the message names it and shows its traceback.
    """
    with extra("notebooks"):
        import nbformat
        import papermill
        from papermill.exceptions import PapermillExecutionError

    known = papermill.inspect_notebook(str(notebook))  # papermill itself only logs an unknown parameter
    for name in parameters:
        known_name(f"parameter of {notebook.name}", name, known)
    executed.parent.mkdir(parents=True, exist_ok=True)
    content = nbformat.read(notebook, as_version=4)
    content.cells = [cell for cell in content.cells if COMMITTED not in cell.metadata.get("tags", [])]
    try:
        papermill.execute_notebook(
            content,
            str(executed),
            parameters,
            kernel_name="python3",
            progress_bar=False,
            stderr_file=sys.stderr if log is None else log.open("w"),
        )
    except PapermillExecutionError as error:
        raise RuntimeError(f"{notebook.name} failed in cell {error.exec_count}, kept in {executed}: {error}") from error


def end_with_starter() -> None:
    """End this process, and its kernel with it, as soon as the process that started the graph is gone.

    Between the two are Snakemake and a shell, which may outlive a ``kill -9``. A process of another host cannot be
    seen; there the scheduler ends the jobs.
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


def main(notebook: str, executed: str, *settings: str) -> int:
    end_with_starter()
    parameters: dict[str, object] = dict(setting.split("=", 1) for setting in settings)
    done = Path(str(parameters.pop("done")))
    recipe = str(parameters.pop("recipe"))
    parameters["seed"] = int(str(parameters["seed"]))
    log = Path(executed).with_suffix(".log") if STARTER in os.environ else None
    try:
        execute_notebook(Path(notebook), Path(executed), parameters, log)
    except (ValueError, RuntimeError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    done.write_text(recipe)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
