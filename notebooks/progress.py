"""What the notebooks of a run are doing while they run, a line each, and what came of them, as a table."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple, TextIO

EVERY = 60.0  # seconds between two lines of a notebook where the output is not a terminal
WIDTH = 110  # of a line


class Job(NamedTuple):
    """One notebook of one study, and the files that tell how it stands."""

    study: str
    notebook: str
    folder: Path  # data/runs/<study>/<preset>

    @property
    def done(self) -> Path:
        """There, and newer than its log, when the notebook ran to its end."""
        return self.folder / f"{self.notebook}.done"

    @property
    def executed(self) -> Path:
        """The copy with outputs, also of a notebook that failed."""
        return self.folder / "notebooks" / f"{self.notebook}.ipynb"

    @property
    def log(self) -> Path:
        """What its kernel writes to stderr, bars of progress above all."""
        return self.folder / "notebooks" / f"{self.notebook}.log"

    def state(self, since: float) -> str:
        """``waiting``, ``running``, ``done``, ``FAILED`` or ``up to date``, for a run that began at ``since``."""
        if not is_newer(self.log, since):
            return "up to date" if self.done.exists() else "waiting"
        if is_newer(self.done, since):
            return "done"
        return "FAILED" if is_newer(self.executed, since) and self.failure() else "running"

    def failure(self) -> str:
        """The cell and the error that ended the notebook; empty where there is none."""
        for cell in _read(self.executed).get("cells", []):
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    return f"cell {cell['id']}: {output['ename']}: {output['evalue'].splitlines()[0][:WIDTH]}"
        return ""

    def stage(self) -> str:
        """The cell that runs, and the last line of what it says."""
        code = [cell for cell in _read(self.executed).get("cells", []) if cell["cell_type"] == "code"]
        n_executed = sum(cell["execution_count"] is not None for cell in code)
        said = re.split(r"[\r\n]+", self.log.read_text(errors="replace")[-4000:].strip()) if self.log.exists() else []
        return f"cell {min(n_executed + 1, len(code))} of {len(code)}  {said[-1] if said else ''}"


class Progress:
    """Lines on ``out``: rewritten in place on a terminal, else one at each start and end and one a minute between."""

    def __init__(self, jobs: list[Job], since: float, out: TextIO = sys.stdout):
        self.jobs, self.since, self.out = jobs, since, out
        self._states = {job: job.state(since) for job in jobs}
        self._spoken = dict.fromkeys(jobs, 0.0)
        self._n_lines = 0

    def show(self) -> None:
        """Tells what has changed, and how running notebooks stand."""
        lines = []
        for job in self.jobs:
            state, before = job.state(self.since), self._states[job]
            if state != before and state in ("done", "FAILED"):
                self._say(f"{job.study} {job.notebook}: {state}")
            if state == "running":
                lines.append(f"{job.study} {job.notebook}: {job.stage()}"[:WIDTH])
                if not self.out.isatty() and time.monotonic() - self._spoken[job] > EVERY:
                    self._say(lines[-1])
                    self._spoken[job] = time.monotonic()
            self._states[job] = state
        if self.out.isatty():
            self._rewrite(lines)

    def _say(self, line: str) -> None:
        self._rewrite([])
        print(line, file=self.out, flush=True)

    def _rewrite(self, lines: list[str]) -> None:
        """The last lines of the terminal replaced by these."""
        if self._n_lines or lines:
            up = f"\x1b[{self._n_lines}F\x1b[J" if self._n_lines else ""
            self.out.write(up + "".join(f"{line}\n" for line in lines))
            self.out.flush()
        self._n_lines = len(lines)


def summarise(jobs: list[Job], since: float, figures: Path) -> str:
    """A table: notebook, how it ended, its time, and how many of its figures are there; failures with their cell."""
    rows = [("study", "notebook", "status", "time", "figures")]
    failures = []
    for job in jobs:
        state = job.state(since)
        if state in ("waiting", "running"):
            state = "not run"
        duration = _read(job.executed).get("metadata", {}).get("papermill", {}).get("duration")
        taken = f"{duration:.0f} s" if duration and state != "not run" else ""
        rows.append((job.study, job.notebook, state, taken, _count_figures(job, figures)))
        if state == "FAILED":
            failures.append(
                f"{job.study} {job.notebook}: {job.failure()}\n  kept, with its traceback, in {job.executed}"
            )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(table + failures)


def _count_figures(job: Job, figures: Path) -> str:
    """How many of the figures that its opening cell promises are there."""
    cells = _read(job.executed).get("cells", [])
    sources = ["".join(cell["source"]) for cell in cells]
    opening = next((source for source in sources if source.startswith("# ")), "")  # below what papermill puts on top
    names = re.findall(r"`(fig_\w+)`", opening)
    places = [job.folder / "figures", figures / job.study, figures / job.study / job.folder.name]
    found = [name for name in names if any((place / f"{name}.png").exists() for place in places)]
    return f"{len(found)} of {len(names)}" if names else ""


def is_newer(path: Path, since: float) -> bool:
    """Tell whether a file is there and was written at ``since`` or later."""
    return path.exists() and path.stat().st_mtime >= since


def _read(notebook: Path) -> dict:
    """The notebook, or nothing where there is none or it is just being written."""
    try:
        return json.loads(notebook.read_text())
    except (OSError, ValueError):
        return {}
