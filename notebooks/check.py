"""Runs the embedded studies once more, beside the committed results, and compares the values.

    python notebooks/check.py

Another processor, thread count or version of a library rounds differently, and after some hundred steps a training run
has gone its own way. So measures may differ by `ABSOLUTE` + `RELATIVE` times their size. Counts, names and settings
must be the same. Intervals and p values follow from the measures and are not compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from run import FIGURES, ROOT, parse_request, reproduce

ABSOLUTE, RELATIVE = 0.05, 0.15
RUNS = "data/runs/check"
NOT_COMPARED = {"low", "high", "ci_low", "ci_high", "mean_low", "mean_high", "sd_ratio_low", "sd_ratio_high"}
NOT_COMPARED |= {"wilcoxon_p", "p_adjusted", "worst_group", "finding", "control", "units", "data"}


def differences(committed, found, where: str = "") -> Iterator[tuple[str, object, object]]:
    """(place, committed, found) of each value that differs by more than it may.

    >>> list(differences({"iou": 0.8, "n": 3, "mean": {"low": 0.1}}, {"iou": 0.75, "n": 4, "mean": {"low": 0.9}}))
    [('n', 3, 4)]
    """
    if isinstance(committed, dict) and isinstance(found, dict):
        for key in sorted({*committed, *found} - NOT_COMPARED):
            yield from differences(committed.get(key), found.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(committed, list) and isinstance(found, list) and len(committed) == len(found):
        for index, (one, other) in enumerate(zip(committed, found, strict=True)):
            yield from differences(one, other, f"{where}[{index}]")
    elif isinstance(committed, float) and isinstance(found, float | int):
        if abs(found - committed) > ABSOLUTE + RELATIVE * abs(committed):
            yield where, committed, found
    elif committed != found:
        yield where, committed, found


def compare_folders(committed: Path, found: Path) -> list[str]:
    """One line for each file of values that is missing in ``found``, and for each value that differs."""
    lines = []
    for path in sorted(found.rglob("values_*.json")):
        name = path.relative_to(found)
        if not (committed / name).exists():
            lines.append(f"{name}: not committed")
            continue
        one, other = (json.loads(file.read_text())["values"] for file in (committed / name, path))
        lines += [f"{name}: {where} is {new}, committed {old}" for where, old, new in differences(one, other)]
    return lines


def main() -> int:
    figures = f"{RUNS}/figures"
    status = reproduce(parse_request([]), RUNS, figures)
    if status:
        return status
    lines = compare_folders(ROOT / FIGURES, ROOT / figures)
    print("\n".join(lines) or "all values agree with the committed ones")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
