"""Pixels too many for memory: mapped from a temporary file, which is freed with them."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterable

import torch
from torch import Tensor

MEMORY_LIMIT = 2**28  # bytes of decoded images, or of masks, held in memory; more are mapped from a file
ROWS_AT_ONCE = 1024  # of large masks, which are mapped from a file and must not be read whole


def as_tensor(file: tempfile.SpooledTemporaryFile, shape: tuple[int, ...], limit: int) -> Tensor:
    """Read back what was written to ``file``: from memory, or mapped where it grew beyond ``limit``."""
    n_bytes = file.tell()
    if n_bytes > limit:
        file.flush()
        return torch.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype=torch.uint8).view(shape)
    pixels = torch.empty(shape, dtype=torch.uint8)
    file.seek(0)
    file.readinto(pixels.numpy())
    return pixels


def gather(pixels: Tensor, rows: list[int]) -> Tensor:
    """Gather ``pixels[rows]``, mapped from a file where it is too large for memory."""
    if pixels[:1].numel() * len(rows) <= MEMORY_LIMIT or pixels.device.type != "cpu":
        return pixels[rows]
    parts = (pixels[rows[first : first + ROWS_AT_ONCE]] for first in range(0, len(rows), ROWS_AT_ONCE))
    return join(parts, (len(rows), *pixels.shape[1:]))


def join(parts: Iterable[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Join parts of pixels, mapped from a file where they are too large for memory."""
    if math.prod(shape) <= MEMORY_LIMIT:
        return torch.cat(list(parts))
    with tempfile.SpooledTemporaryFile(MEMORY_LIMIT) as file:
        for part in parts:
            file.write(part.contiguous().numpy())
        return as_tensor(file, shape, MEMORY_LIMIT)
