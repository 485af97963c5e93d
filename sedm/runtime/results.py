"""The one place where figures and values are written, each value with the run that made it."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import subprocess
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sedm.config import Config, flatten
from sedm.runtime.files import replacing
from sedm.runtime.fingerprints import hash_of_file
from sedm.runtime.hardware import autocast_dtype, pick_device

FOLDERS = {"quick": "", "full": "full", "paper": "paper"}  # of the presets whose results are committed
LIBRARIES = ("torch", "diffusers", "accelerate", "datasets", "numpy", "matplotlib")


class Results:
    """Where the figures and values of one notebook go, with the run that made them.

    Values tell the figures that were saved beside them before, by a hash each: nobody shows a figure of one run with
    the values of another.

    Results of ``smoke`` stay in the run folder. So does a figure that shows real pixels or masks of a study whose
    images may not be redistributed, whatever the preset.

    Args:
        config: of the run; stored with every value.
        figures: the committed folder; results of ``quick`` go to ``figures/<study>``, those of ``full`` to
            ``figures/<study>/full``.
        run: the run folder; other results go to ``run/figures``.
        folder: receives values and figures whatever the preset.

    >>> import tempfile
    >>> from sedm.config import build_config
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     results = Results(build_config("tissue", "smoke"), Path(folder) / "figures", Path(folder) / "run")
    ...     results.save_values("toy", {"answer": 42}).relative_to(folder).as_posix()
    'run/figures/values_toy.json'
    """

    def __init__(self, config: Config, figures: str | Path, run: str | Path, folder: str | Path | None = None):
        self.config = config
        self.private = Path(run) / "figures"
        committed = config.preset in FOLDERS
        committed_folder = Path(figures, config.study.name, FOLDERS[config.preset]) if committed else self.private
        self.folder = committed_folder if folder is None else Path(folder)
        self._drawn = {}  # name of each figure beside the values → hash of its bytes
        self._started = time.monotonic()
        self._commit = _commit()

    def save_figure(self, figure: Figure, name: str, *, shows_data: bool) -> Path:
        """Save a figure as ``fig_<name>.png`` and return its path.

        Args:
            shows_data: whether real pixels or masks can be seen in it.
        """
        hidden = shows_data and not self.config.study.redistributable
        path = (self.private if hidden else self.folder) / f"fig_{name}.png"
        with replacing(path) as temporary:
            # no date or version in the file: the same picture gives the same bytes
            figure.savefig(temporary, metadata={"Software": None})
        if path.parent == self.folder:
            self._drawn[path.name] = hash_of_file(path)
        return path

    def save_values(self, name: str, values: dict) -> Path:
        """Save values and the run that made them as ``values_<name>.json``; return its path."""
        path = self.folder / f"values_{name}.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"values": _plain(values), "run": self._provenance()}, indent=1) + "\n")
        return path

    def _provenance(self) -> dict:
        return {
            "config": _plain(flatten(self.config)),
            "commit": self._commit,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
            "device": torch.cuda.get_device_name()
            if torch.cuda.is_available()
            else f"CPU, {torch.get_num_threads()} threads",
            "precision": "float32" if autocast_dtype(pick_device()) is None else "bfloat16",
            "seconds": round(time.monotonic() - self._started, 1),
            "attribution": self.config.study.attribution,
            "figures": self._drawn,
        }


def _plain(value):
    """Turn tuples into lists, numbers of numpy and torch into Python's, and what is not finite into null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | Tensor):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return None if not math.isfinite(value) else float(f"{value:.6g}")
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


@cache  # the code that runs is that of the beginning, whatever is checked out meanwhile
def _commit() -> str:
    """Name the commit of the code, with ``+changes`` when the library differs; ``unknown`` outside a checkout."""
    root = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", str(root)) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
