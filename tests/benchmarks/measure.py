"""Seconds, arithmetic, memory and the machine, measured so that ratios survive a machine whose speed drifts."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from sedm.runtime.files import replacing
from sedm.runtime.fingerprints import hash_of_file
from sedm.runtime.hardware import autocast_dtype, pick_device

FOLDER = Path("figures/benchmarks")
LIBRARIES = ("torch", "diffusers", "accelerate", "transformers")
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}  # rows of the square matrices whose product shows the peak

Task = Callable[[], object]


def in_turns(tasks: Mapping[str, Task], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each task in each round; a round runs every task once, so that all meet the same machine.

    Args:
        rounds: 1 or more.
        warm_up: run each task once before, uncounted.
    """
    for task in tasks.values() if warm_up else ():
        task()
    seconds = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            _wait_for_device()
            start = time.perf_counter()
            task()
            _wait_for_device()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median over rounds of the ratio within a round.

    >>> ratio([2.0, 20.0, 8.0], [1.0, 10.0, 2.0])  # a slow round is slow for both
    2.0
    """
    return median(a / b for a, b in zip(numerator, denominator, strict=True))


def count_operations(task: Task) -> int:
    """Floating-point operations of the matrix products, convolutions and attention of one call, both ways.

    >>> a = torch.zeros(2, 3)
    >>> count_operations(lambda: a @ a.T)  # a multiplication and an addition for each of 2 × 3 × 2 terms
    24
    """
    with FlopCounterMode(display=False) as counter:
        task()
    return counter.get_total_flops()


def matrix_product(dtype: torch.dtype) -> Task:
    """A task of pure matrix arithmetic in ``dtype``, whose speed is the peak that a network could reach."""
    n = MATRIX_SIZE[pick_device().type]
    a = torch.randn(n, n, device=pick_device(), dtype=dtype)
    return lambda: a @ a


def peak_memory(task: Task) -> float:
    """MiB that one call of ``task`` needs at its peak, beyond what is held before it."""
    if pick_device().type == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        task()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    held = _status("VmRSS")
    task()
    return (_status("VmHWM") - held) / 1024


def machine() -> dict:
    """What ran: names, sizes, versions, commit, and which precision the hardware computes with."""
    device = pick_device()
    dtype = autocast_dtype(device)
    models = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line.split() for line in _lines("/proc/cpuinfo") if line.startswith("flags")), [])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    commit, changes = (
        subprocess.run(["git", *command], capture_output=True, text=True, check=False).stdout.strip()
        for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", "sedm", "tests"])
    )
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1),
        "bfloat16": "used" if dtype is not None else "not used",
        "vector_extensions": [flag for flag in flags if flag.startswith(("avx", "amx"))],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "commit": f"{commit}{'-dirty' * bool(changes)}" or "not a checkout",  # figures may be new
        "date": time.strftime("%Y-%m-%d"),
    }


def save_results(name: str, results: dict) -> Path:
    """The path of ``figures/benchmarks/<name>.json``, which now holds the results and the machine."""
    return _save(FOLDER / f"{name}.json", {"results": _rounded(results), "machine": machine()})


def save_values(name: str, values: dict, figures: Sequence[Path], folder: Path = FOLDER) -> Path:
    """The path of ``values_<name>.json`` in a folder, which now holds values, the machine, and hashes of figures."""
    run = machine() | {"figures": {path.name: hash_of_file(path) for path in figures}}
    return _save(folder / f"values_{name}.json", {"values": _rounded(values), "run": run})


def _save(path: Path, whole: dict) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(whole, indent=1) + "\n")
    return path


def _rounded(value):
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def _wait_for_device() -> None:
    if pick_device().type == "cuda":
        torch.cuda.synchronize()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _status(field: str) -> int:
    return next(int(line.split()[1]) for line in _lines("/proc/self/status") if line.startswith(field))
