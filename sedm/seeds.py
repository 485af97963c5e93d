"""Random numbers: every image, batch and layout is a pure function of (purpose, seed, index)."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def seeded_generator(purpose: str, seed: int, *indices: int) -> torch.Generator:
    """The random numbers of one thing, independent of those of any other.

    All words are hashed together, so the 5th layout and the 5th style of a seed share nothing, and neither do
    seed 0, index 1 and seed 1, index 0.

    Args:
        purpose: what the numbers are for, such as ``"layout"``.
        seed: of the run, 0 or more.
        indices: which one, such as a step and a process; 0 or more.

    Raises:
        ValueError: a negative seed or index.

    >>> torch.rand(1, generator=seeded_generator("layout", 0, 5)).equal(
    ...     torch.rand(1, generator=seeded_generator("layout", 0, 5)))
    True
    """
    if min((seed, *indices)) < 0:
        raise ValueError(f"seed={seed}, indices={indices}; all must be 0 or more")
    words = np.random.SeedSequence((zlib.crc32(purpose.encode()), seed, *indices)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
