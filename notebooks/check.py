"""Run the embedded studies once more, beside the committed results, and compare the values.

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
NOT_COMPARED |= {"p", "p_adjusted", "worst_group", "finding", "control", "units", "data"}


def differences(committed, new, where: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield (place, committed, new) for each value that differs by more than it may.

    >>> list(differences({"iou": 0.8, "n": 3, "mean": {"low": 0.1}}, {"iou": 0.75, "n": 4, "mean": {"low": 0.9}}))
    [('n', 3, 4)]
    """
    if isinstance(committed, dict) and isinstance(new, dict):
        for key in sorted({*committed, *new} - NOT_COMPARED):
            yield from differences(committed.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(committed, list) and isinstance(new, list) and len(committed) == len(new):
        for index, pair in enumerate(zip(committed, new, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif isinstance(committed, float) and isinstance(new, float | int):
        if abs(new - committed) > ABSOLUTE + RELATIVE * abs(committed):
            yield where, committed, new
    elif committed != new:
        yield where, committed, new


def compare_folders(committed: Path, new: Path) -> list[str]:
    """Return a line for each new file of values that is not committed, and for each value that differs."""
    lines = []
    for path in sorted(new.rglob("values_*.json")):
        name = path.relative_to(new)
        if not (committed / name).exists():
            lines.append(f"{name}: not committed")
            continue
        values = [json.loads(file.read_text())["values"] for file in (committed / name, path)]
        lines += [f"{name}: {where} is {now}, committed {before}" for where, before, now in differences(*values)]
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
