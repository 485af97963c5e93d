"""Runs of a sweep: each has a file of its own and is made once, by whichever process comes to it first.

Finished runs are skipped. Processes started with the same folders share the work, on one machine or, where the file
system knows locks, on several.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeVar, runtime_checkable

from filelock import FileLock, Timeout
from tqdm import tqdm

from sedm.config import Config, flatten


@runtime_checkable
class Run(Protocol):
    """What must be known of a run here."""

    @property
    def name(self) -> str:
        """What its file is called: ``values_<name>.json``."""

    @property
    def config(self) -> Config:
        """All that decides its result, apart from the data."""


NOTHING: Mapping[str, str] = MappingProxyType({})
AnyRun = TypeVar("AnyRun", bound=Run)


def finish_runs(
    runs: Sequence[AnyRun],
    prepare: Callable[[], Callable[[AnyRun], str]],
    folder: Path,
    out: Path,
    ignored: Sequence[str] = (),
    replace_stale: bool = False,
    facts: Callable[[AnyRun], Mapping[str, str]] = lambda run: NOTHING,
    wait: bool = False,
) -> list[AnyRun]:
    """Make every run that has no file in ``out`` yet; print a line for each, and a bar with runs an hour.

    Args:
        prepare: called once, when there is something to do; gives the function that makes a run, writes its file
            to ``out`` and says in a few words what came out. It may raise FloatingPointError: one diverged model must
            not stop a night's work.
        folder: receives the locks.
        ignored: as `is_finished` takes it.
        replace_stale: make runs of other settings or facts again and overwrite them.
        facts: of a run, as `is_finished` takes them.
        wait: for runs that other processes have begun, and finish those that they leave unfinished.

    Returns:
        The runs that diverged. Any other has its file or, without ``wait``, is being made by another process.

    Raises:
        ValueError: ``out`` holds a run of other settings or facts, which is left alone.
    """

    def finished(run: AnyRun) -> bool:
        return is_finished(run, out, ignored, replace_stale, facts(run))

    waiting = [run for run in runs if not finished(run)]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished", flush=True)
    if not waiting:
        return []
    finish = prepare()
    diverged: list[AnyRun] = []
    queue = [(run, False) for run in waiting]
    with tqdm(total=len(runs), initial=len(runs) - len(waiting), desc="runs", unit="run") as bar:
        for number, (run, blocking) in enumerate(queue, start=1):
            with claim(folder / f"{run.name}.lock", wait=blocking) as claimed:
                if not claimed:
                    outcome = "in the hands of another process"
                    queue += [(run, True)] if wait else []  # once more, after all others
                elif finished(run):
                    outcome = "finished by another process"
                else:
                    started = time.monotonic()
                    try:
                        outcome = finish(run)
                    except FloatingPointError as error:
                        diverged.append(run)
                        outcome = f"FAILED, {error}"
                    outcome += f", after {time.monotonic() - started:.0f} s"
            bar.write(f"[{number}/{len(queue)}] {run.name}: {outcome}")
            bar.update(sum(map(finished, runs)) - bar.n)  # by all processes
    return diverged


def is_finished(
    run: Run, out: Path, ignored: Sequence[str] = (), replace_stale: bool = False, facts: Mapping[str, str] = NOTHING
) -> bool:
    """Tell whether ``out`` holds the file of a run.

    Args:
        ignored: beginnings of settings that runs do not depend on, such as ``"layouts."``.
        replace_stale: take a file of other settings or facts for none.
        facts: what its values must hold besides, such as the checksum of the data.

    Raises:
        ValueError: the file is of other settings or facts, and ``replace_stale`` is not set.
    """
    path = out / f"values_{run.name}.json"
    if not path.exists():
        return False
    stored = json.loads(path.read_text())
    stored_settings = stored["values"] | stored["run"]["config"]
    settings = json.loads(json.dumps(flatten(run.config))) | facts
    for key, value in settings.items():
        if key in stored_settings and stored_settings[key] != value and not key.startswith(tuple(ignored)):
            if replace_stale:
                return False
            raise ValueError(
                f"{path}: made with {key} = {stored_settings[key]!r}, not {value!r}; choose another folder"
            )
    return True


def read_runs(folder: str | Path, command: str, names: Sequence[str] | None = None) -> list[dict]:
    """Read the files of finished runs, sorted by name: their ``values`` and the ``run`` that made them.

    Args:
        command: what writes such files, to be named where there are none.
        names: of the runs to read; all in ``folder`` when left out. One that has no file is left out.

    Raises:
        ValueError: no run in ``folder``, or runs of different data.
    """
    paths = sorted(Path(folder).glob("values_*.json"))
    if names is not None:
        files = {f"values_{name}.json" for name in names}
        paths = [path for path in paths if path.name in files]
    stored_runs = [json.loads(path.read_text()) for path in paths]
    if not stored_runs:
        raise ValueError(f"{folder}: no values_*.json; {command} writes them")
    if len({stored["values"]["data"] for stored in stored_runs}) > 1:
        raise ValueError(f"{folder}: runs of different data; keep each in a folder of its own")
    return stored_runs


@contextmanager
def claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """Claim ``path`` until the block ends and tell whether that worked; a claim dies with its process, also by kill -9.

    Args:
        wait: until another process lets go.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, claim(Path(folder) / "lock") as first:
    ...     with claim(Path(folder) / "lock") as second:
    ...         first, second
    (True, False)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    with suppress(Timeout):
        lock.acquire(blocking=wait)
    try:
        yield lock.is_locked
    finally:
        lock.release()
