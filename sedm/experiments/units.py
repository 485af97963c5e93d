"""Units of a sweep: each is one run with a file of its own, done once, by whichever process comes to it first.

Finished units are skipped. Processes started with the same folders share the work, on one machine or, where the file
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
class Unit(Protocol):
    """What is needed to know of a unit here."""

    @property
    def name(self) -> str:
        """What its file is called: ``values_<name>.json``."""

    @property
    def config(self) -> Config:
        """All that decides its result, apart from the data."""


NOTHING: Mapping[str, str] = MappingProxyType({})
AnyUnit = TypeVar("AnyUnit", bound=Unit)


def finish_units(
    units: Sequence[AnyUnit],
    prepare: Callable[[], Callable[[AnyUnit], str]],
    runs: Path,
    out: Path,
    ignored: Sequence[str] = (),
    replace_stale: bool = False,
    facts: Callable[[AnyUnit], Mapping[str, str]] = lambda unit: NOTHING,
    wait: bool = False,
) -> list[AnyUnit]:
    """The units that diverged; any other has a file in ``out`` or, without ``wait``, is in another process's hands.

    One line is printed a unit, and a bar shows units an hour and the time left.

    Args:
        prepare: called once, when there is something to do; gives the function that finishes a unit, writes its file
            to ``out`` and says in a few words what came out. It may raise FloatingPointError: one diverged model must
            not stop a night's work.
        runs: receives the locks.
        ignored: as `is_finished` takes it.
        replace_stale: units of other settings or facts are run again and overwritten.
        facts: of a unit, as `is_finished` takes them.
        wait: for units that other processes have begun, and finish those that they leave unfinished.

    Raises:
        ValueError: ``out`` holds a unit of other settings or facts, which is left alone.
    """

    def finished(unit: AnyUnit) -> bool:
        return is_finished(unit, out, ignored, replace_stale, facts(unit))

    waiting = [unit for unit in units if not finished(unit)]
    print(f"{len(units)} units, {len(units) - len(waiting)} of them finished", flush=True)
    if not waiting:
        return []
    finish, failed, queue = prepare(), [], [(unit, False) for unit in waiting]
    with tqdm(total=len(units), initial=len(units) - len(waiting), desc="units", unit="unit") as bar:
        for number, (unit, blocking) in enumerate(queue, start=1):
            with claim(runs / f"{unit.name}.lock", wait=blocking) as claimed:
                if not claimed:
                    outcome = "in the hands of another process"
                    queue += [(unit, True)] if wait else []  # once more, after all others
                elif finished(unit):
                    outcome = "finished by another process"
                else:
                    started = time.monotonic()
                    try:
                        outcome = finish(unit)
                    except FloatingPointError as error:
                        failed.append(unit)
                        outcome = f"FAILED, {error}"
                    outcome += f", after {time.monotonic() - started:.0f} s"
            bar.write(f"[{number}/{len(queue)}] {unit.name}: {outcome}")
            bar.update(sum(map(finished, units)) - bar.n)  # by all processes
    return failed


def is_finished(
    unit: Unit, out: Path, ignored: Sequence[str] = (), replace_stale: bool = False, facts: Mapping[str, str] = NOTHING
) -> bool:
    """Whether ``out`` holds this unit.

    Args:
        ignored: beginnings of settings that the units do not depend on, such as ``"layouts."``.
        replace_stale: one of other settings or facts is none.
        facts: what its values must hold besides, such as the checksum of the data.

    Raises:
        ValueError: it holds one of other settings or facts.
    """
    path = out / f"values_{unit.name}.json"
    if not path.exists():
        return False
    stored, wanted = json.loads(path.read_text()), json.loads(json.dumps(flatten(unit.config)))
    found, wanted = stored["values"] | stored["run"]["config"], wanted | facts
    for key in wanted:
        if key in found and found[key] != wanted[key] and not key.startswith(tuple(ignored)):
            if replace_stale:
                return False
            raise ValueError(f"{path}: made with {key} = {found[key]!r}, not {wanted[key]!r}; choose another folder")
    return True


def read_units(folder: str | Path, command: str, names: Sequence[str] | None = None) -> list[dict]:
    """Read the files of finished units, sorted by name: their ``values`` and the ``run`` that made them.

    Args:
        command: what writes such files, to be named where there are none.
        names: of the units to read; all in ``folder`` when left out. One that has no file is left out.

    Raises:
        ValueError: no unit in ``folder``, or units of different data.
    """
    paths = sorted(Path(folder).glob("values_*.json"))
    if names is not None:
        files = {f"values_{name}.json" for name in names}
        paths = [path for path in paths if path.name in files]
    units = [json.loads(path.read_text()) for path in paths]
    if not units:
        raise ValueError(f"{folder}: no values_*.json; {command} writes them")
    if len({unit["values"]["data"] for unit in units}) > 1:
        raise ValueError(f"{folder}: units of different data; keep each in a folder of its own")
    return units


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
