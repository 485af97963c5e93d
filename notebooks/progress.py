"""How the notebooks of a run stand, read from their files: a line each while they run, a table in the end."""

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
    def title(self) -> str:
        return f"{self.study} {self.notebook}"

    @property
    def done(self) -> Path:
        """The file that is newer than the log once the notebook has run to its end."""
        return self.folder / f"{self.notebook}.done"

    @property
    def executed(self) -> Path:
        """The copy with outputs, which a failed notebook leaves as well."""
        return self.folder / "notebooks" / f"{self.notebook}.ipynb"

    @property
    def log(self) -> Path:
        """What its kernel writes to stderr, above all progress bars."""
        return self.folder / "notebooks" / f"{self.notebook}.log"

    def state(self, since: float) -> str:
        """Return ``waiting``, ``running``, ``done``, ``FAILED`` or ``up to date``, in a run begun at ``since``."""
        if not is_newer(self.log, since):
            return "up to date" if self.done.exists() else "waiting"
        if is_newer(self.done, since):
            return "done"
        return "FAILED" if is_newer(self.executed, since) and self.failure() else "running"

    def failure(self) -> str:
        """Name the cell and the error that ended the notebook; empty if none did."""
        for cell in _read(self.executed).get("cells", []):
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    return f"cell {cell['id']}: {output['ename']}: {output['evalue'].splitlines()[0][:WIDTH]}"
        return ""

    def stage(self) -> str:
        """Name the running cell and the last line that it wrote, such as a progress bar."""
        code = [cell for cell in _read(self.executed).get("cells", []) if cell["cell_type"] == "code"]
        n_executed = sum(cell["execution_count"] is not None for cell in code)
        text = self.log.read_text(errors="replace")[-4000:].strip() if self.log.exists() else ""
        last_line = re.split(r"[\r\n]+", text)[-1]
        return f"cell {min(n_executed + 1, len(code))} of {len(code)}  {last_line}"


class Progress:
    """Lines on ``out``: rewritten in place on a terminal; elsewhere one at each start and end and one a minute."""

    def __init__(self, jobs: list[Job], since: float, out: TextIO = sys.stdout):
        self.jobs = jobs
        self.since = since
        self.out = out
        self._ended: set[Job] = set()
        self._due: dict[Job, float] = {}  # when the next line of a running notebook is due
        self._n_lines = 0  # at the bottom of the terminal, to be rewritten

    def show(self) -> None:
        """Print which notebooks have ended, and how the running ones stand."""
        states = {job: job.state(self.since) for job in self.jobs}
        for job, state in states.items():
            if state in ("done", "FAILED") and job not in self._ended:
                self._ended.add(job)
                self._print(f"{job.title}: {state}")
        running = {job: f"{job.title}: {job.stage()}"[:WIDTH] for job, state in states.items() if state == "running"}
        if self.out.isatty():
            self._rewrite(list(running.values()))
            return
        for job, line in running.items():
            if time.monotonic() >= self._due.get(job, 0.0):
                self._due[job] = time.monotonic() + EVERY
                self._print(line)

    def _print(self, line: str) -> None:
        self._rewrite([])
        print(line, file=self.out, flush=True)

    def _rewrite(self, lines: list[str]) -> None:
        """Replace the last lines of the terminal by these."""
        if self._n_lines or lines:
            up = f"\x1b[{self._n_lines}F\x1b[J" if self._n_lines else ""
            self.out.write(up + "".join(f"{line}\n" for line in lines))
            self.out.flush()
        self._n_lines = len(lines)


def summarise(jobs: list[Job], since: float) -> str:
    """Make a table of how each notebook ended and how long it took; below it, what failed, and in which cell."""
    rows = [("study", "notebook", "status", "time")]
    failures = []
    for job in jobs:
        state = job.state(since)
        duration = _read(job.executed).get("metadata", {}).get("papermill", {}).get("duration")
        if state in ("waiting", "running"):
            rows.append((job.study, job.notebook, "not run", ""))
        else:
            rows.append((job.study, job.notebook, state, f"{duration:.0f} s" if duration else ""))
        if state == "FAILED":
            failures += [f"{job.title}: {job.failure()}", f"  kept, with its traceback, in {job.executed}"]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines + failures)


def is_newer(path: Path, since: float) -> bool:
    """Tell whether a file is there and was written at ``since`` or later."""
    return path.exists() and path.stat().st_mtime >= since


def _read(notebook: Path) -> dict:
    """Read a notebook; return nothing where there is none or it is just being written."""
    try:
        return json.loads(notebook.read_text())
    except (OSError, ValueError):
        return {}
