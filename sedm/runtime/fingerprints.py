"""Fingerprints: a few hexadecimal digits that change with what they are made of, the beginning of a SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

N_DIGITS = 12


def hash_of(*parts: str | Tensor) -> str:
    """Hash texts and the values of tensors, whatever their shapes, one after the other.

    Settings are hashed as the text that ``json.dumps`` or ``repr`` makes of them.

    >>> import torch
    >>> hash_of("abc"), hash_of("a", "bc")
    ('ba7816bf8f01', 'ba7816bf8f01')
    >>> hash_of(torch.zeros(2)) == hash_of(torch.ones(2))
    False
    """
    digest = hashlib.sha256()
    for part in parts:  # never all tensors at once: together they may not fit into memory twice
        digest.update(part.encode() if isinstance(part, str) else part.detach().cpu().contiguous().numpy())
    return digest.hexdigest()[:N_DIGITS]


def hash_of_file(path: str | Path) -> str:
    """Hash the bytes of a file.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     hash_of_file(file.name) == hash_of("")
    True
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:N_DIGITS]
