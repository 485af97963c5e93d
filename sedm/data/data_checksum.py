"""A checksum of data: what was trained or measured on the same images, masks and groups can be told."""

from __future__ import annotations

from sedm.data.patches import Patches
from sedm.runtime.fingerprints import hash_of


def data_checksum(*tables: Patches) -> str:
    """Hash every pixel, mask and group of the tables.

    >>> import torch
    >>> pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    >>> a, b = (Patches(pixels, pixels[:, 0], [group], classes=("stroma",)) for group in "ab")
    >>> data_checksum(a) == data_checksum(a), data_checksum(a) == data_checksum(b)
    (True, False)
    """
    parts = []
    for patches in tables:
        for pixels in (patches.images, patches.masks):
            parts += [repr(tuple(pixels.shape)), pixels]
        parts.append(repr(patches.groups))
    return hash_of(*parts)
