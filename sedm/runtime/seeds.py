"""Random numbers: every image, batch and layout is a pure function of (purpose, seed, index)."""

from __future__ import annotations

import hashlib

import torch


def seeded_generator(purpose: str, seed: int, *indices: int) -> torch.Generator:
    """Make the random numbers of one thing, independent of those of any other.

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
    # four bytes: torch's generator on the CPU uses the low 32 bits of a seed and ignores the others
    digest = hashlib.blake2b(repr((purpose, seed, *indices)).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))
