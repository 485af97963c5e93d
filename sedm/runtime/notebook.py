"""Notebooks as steps of one run: where its files lie, and whether what a step reads was made by the steps before it.

JupyterLab, VS Code and ``jupyter execute`` start a kernel in the notebook's folder, papermill where it was called. So a
notebook begins by entering the project's folder: its relative paths mean the same in all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from sedm.config import Config
from sedm.runtime.files import replacing


def start_notebook(name: str, config: Config, runs: str | Path, after: Sequence[str] = ()) -> Path:
    """Enter the project's folder, check that earlier notebooks made what this one reads, and return the run folder.

    Args:
        name: of this notebook, without suffix. Whatever it had made for later ones counts as outdated from here on.
        config: of the run; earlier notebooks must have had its seed.
        runs: folder of all runs; a relative one counts from the project's folder.
        after: names of the notebooks whose files this one reads.

    Returns:
        ``runs/<study>/<preset>``.

    Raises:
        FileNotFoundError: an earlier notebook has not run, or not far enough.
        ValueError: it ran with another seed.

    >>> import tempfile
    >>> from sedm.config import build_config
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     start_notebook("03_diffusion_training", build_config("tissue", "smoke"), runs, after=["02_layout_priors"])
    Traceback (most recent call last):
    ...
    FileNotFoundError: notebook 02_layout_priors has not made what this one reads; run it first with \
study='tissue', preset='smoke', seed=0 and the same runs (or: make reproduce STUDY=tissue PRESET=smoke SEED=0)
    """
    os.chdir(find_project())
    run = Path(runs, config.study.name, config.preset)
    parameters = f"study={str(config.study)!r}, preset={config.preset!r}, seed={config.seed}"
    command = f"make reproduce STUDY={config.study} PRESET={config.preset} SEED={config.seed}"
    for earlier in after:
        mark = _mark(run, earlier)
        if not mark.is_file():
            raise FileNotFoundError(
                f"notebook {earlier} has not made what this one reads; run it first with {parameters} and the same "
                f"runs (or: {command})"
            )
        seed = json.loads(mark.read_text())["seed"]
        if seed != config.seed:
            raise ValueError(
                f"notebook {earlier} last ran with seed={seed}, this one has seed={config.seed}; run it again with "
                f"{parameters} (or: {command}), or give this one seed={seed}"
            )
    _mark(run, name).unlink(missing_ok=True)
    return run


def mark_ready(name: str, config: Config, run: str | Path) -> None:
    """Tell later notebooks that all they read of this one is there.

    >>> import tempfile
    >>> from sedm.config import build_config
    >>> config = build_config("tissue", "smoke")
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     run = start_notebook("02_layout_priors", config, runs)
    ...     mark_ready("02_layout_priors", config, run)
    ...     start_notebook("03_diffusion_training", config, runs, after=["02_layout_priors"]) == run
    True
    """
    with replacing(_mark(Path(run), name)) as temporary:
        temporary.write_text(json.dumps({"seed": config.seed}) + "\n")


def find_project(start: str | Path = ".") -> Path:
    """Return the checkout at or above a folder; the folder itself where there is none.

    >>> find_project("/no/such/folder").as_posix()
    '/no/such/folder'
    """
    start = Path(start).absolute()
    return next((folder for folder in (start, *start.parents) if (folder / "notebooks" / "Snakefile").is_file()), start)


def _mark(run: Path, notebook: str) -> Path:
    return run / f"{notebook}.ready"
