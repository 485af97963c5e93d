"""What this machine computes with: its device, and the precision that is fast on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("", "float32", "bfloat16")
"""What the environment variable ``SEDM_PRECISION`` may hold; empty or not set: what the hardware is fast with."""


def pick_device() -> torch.device:
    """Pick the GPU where there is one, else the CPU.

    >>> pick_device().type in {"cuda", "cpu"}
    True
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where ``device`` computes with it natively, else None: stay in float32. ``SEDM_PRECISION`` overrules it.

    A CPU without avx512_bf16 or amx emulates bfloat16, several times slower than float32. Results differ between the
    two by rounding, so ``SEDM_PRECISION=float32`` makes those of different CPUs comparable.

    Raises:
        ValueError: ``SEDM_PRECISION`` is neither float32 nor bfloat16.

    >>> autocast_dtype(torch.device("cpu")) in {torch.bfloat16, None}
    True
    """
    precision = os.environ.get("SEDM_PRECISION", "")
    if precision not in PRECISIONS:
        raise ValueError(f"SEDM_PRECISION={precision!r}; set it to float32 or bfloat16, or leave it out")
    if precision:
        return torch.bfloat16 if precision == "bfloat16" else None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _cpu_has_bf16() else None


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Let ``SEDM_PRECISION`` be ``precision`` until the block ends.

    >>> with computing_in("float32"):
    ...     autocast_dtype(torch.device("cpu")) is None
    True
    """
    before = os.environ.get("SEDM_PRECISION")
    os.environ["SEDM_PRECISION"] = precision
    try:
        yield
    finally:
        if before is None:
            del os.environ["SEDM_PRECISION"]
        else:
            os.environ["SEDM_PRECISION"] = before


def _cpu_has_bf16() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
