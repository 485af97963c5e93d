"""Pixels as networks see them: bytes of 0…255 and numbers in [−1, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_signed(
    pixels: UInt8[Tensor, "*shape"], device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """Convert bytes to numbers in [−1, 1].

    Args:
        device: where they are computed; where the bytes lie when left out.

    >>> to_signed(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
    [-1.0, 1.0]
    """
    return pixels.to(device, dtype) / 127.5 - 1


def to_bytes(values: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Round numbers in [−1, 1] to bytes; what lies beyond is cut off.

    >>> to_bytes(torch.tensor([-2.0, 0.0, 1.0])).tolist()
    [0, 128, 255]
    """
    return (values.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
