"""Checks of patches: pixels, classes and who made the masks, as they are put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sedm.data import mapped_pixels
from sedm.data.patch_table import UNKNOWN
from sedm.data.places import Places
from sedm.data.table_decoding import MASK_SOURCES


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes as a tuple.

    Raises:
        ValueError: text, a class without a name, one name twice, no class, or more than a mask can tell apart.

    >>> check_classes(["stroma", "tumour"])
    ('stroma', 'tumour')
    """
    if isinstance(classes, str) or not all(isinstance(name, str) and name for name in classes):
        raise ValueError(f"classes={classes!r}; give a name for each class, such as ('stroma', 'tumour')")
    repeated = [name for name, n in Counter(classes).items() if n > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is the name of {Counter(classes)[repeated[0]]} classes; give each its own")
    if not 1 <= len(classes) <= UNKNOWN:
        raise ValueError(f"{len(classes)} classes; a mask tells 1 to {UNKNOWN} apart, {UNKNOWN} is where nobody knows")
    return tuple(classes)


def check_sizes(
    images: object, masks: object, groups: Sequence[str], mask_source: Sequence[str], places: Places | None
) -> None:
    """Refuse pixels that are no uint8 tensors, and parts of different numbers or sizes.

    Args:
        mask_source: empty where all masks have the same maker.

    Raises:
        ValueError: the first fault.
    """
    for name, pixels, axes, n_axes in (("images", images, "(n, 3, h, w)", 4), ("masks", masks, "(n, h, w)", 3)):
        if not isinstance(pixels, Tensor):
            raise ValueError(f"{name} of the type {type(pixels).__name__}; give a tensor of uint8, {axes}")
        if pixels.dtype != torch.uint8 or pixels.ndim != n_axes or (n_axes == 4 and pixels.shape[1] != 3):
            raise ValueError(f"{name} of {pixels.dtype}, shape {tuple(pixels.shape)}; give a tensor of uint8, {axes}")
    n = len(images)
    if not n == len(masks) == len(groups) == len(mask_source or groups):
        sources = f" and {len(mask_source)} mask sources" if mask_source else ""
        raise ValueError(f"{n} images, {len(masks)} masks, {len(groups)} groups{sources}; give one each")
    if places is not None and len(places) != n:
        raise ValueError(f"{n} images, but {len(places)} places; give one each")
    if images.shape[2:] != masks.shape[1:]:
        sizes = [f"{height}×{width}" for height, width in (images.shape[2:], masks.shape[1:])]
        raise ValueError(f"images of {sizes[0]} px with masks of {sizes[1]} px; a mask is as large as its image")


def check_masks(masks: Tensor, mask_source: Sequence[str], n_classes: int) -> list[str]:
    """Return who made each mask: "none" where no pixel is known, else what is given, else "annotated".

    Args:
        masks: (n, h, w), uint8; they are read part by part, for they may lie in a file.
        mask_source: one of `MASK_SOURCES` a mask, or empty.

    Raises:
        ValueError: a value outside the classes, an unknown source, or "none" where there is a mask.

    >>> masks = torch.tensor([[[0, 1]], [[UNKNOWN, UNKNOWN]]], dtype=torch.uint8)
    >>> check_masks(masks, ["predicted", "predicted"], n_classes=2)
    ['predicted', 'none']
    """
    is_known = []
    for part in masks.split(mapped_pixels.ROWS_AT_ONCE) if len(masks) else ():
        known = part != UNKNOWN
        outside = (known & (part >= n_classes)).flatten(1).any(1)
        if outside.any():
            row = int(outside.nonzero()[0])
            value = int(part[row][known[row]].max())
            row += len(is_known)
            raise ValueError(f"the mask of row {row} holds {value}, outside the classes 0..{n_classes - 1}")
        is_known += known.flatten(1).any(1).tolist()
    for row, source in enumerate(mask_source):
        if source not in MASK_SOURCES:
            raise ValueError(f"row {row}, mask source {source!r}; choose one of {', '.join(MASK_SOURCES)}")
        if source == "none" and is_known[row]:
            raise ValueError(f"row {row} has a mask, but the mask source 'none'; say who made it by mask_source=…")
    sources = mask_source or ["annotated"] * len(masks)
    return [source if known else "none" for source, known in zip(sources, is_known, strict=True)]
