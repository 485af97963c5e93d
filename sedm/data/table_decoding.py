"""Decoding a patch table: from stored pictures to pixels, in one pass, in memory or in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path

import numpy as np
import torch

from sedm.data import mapped_pixels
from sedm.data.class_values import ClassValues
from sedm.data.errors import PatchTableError
from sedm.data.groups import name_group
from sedm.data.pictures import UNKNOWN, locate
from sedm.data.places import PLACE_COLUMNS, Places
from sedm.data.reading import PatchReader
from sedm.data.reduce import Box, cut_image, cut_mask, fit_boxes
from sedm.data.table_rows import Table, read_rows

MASK_SOURCES = ("annotated", "predicted", "generated", "none")
"""Who made a mask: a person; a segmentation network; a prior, before the image was made for it; nobody."""


def decode_all(
    tables: Mapping[str, Table],
    n_classes: int,
    image_size: int | None = None,
    fit: str | None = None,
    folder: str | Path | None = None,
) -> dict[str, dict[str, object]]:
    """Decode several tables by name, as `decode_rows` does one; what 255 means is decided by all of them together.

    Raises:
        ValueError: no such size or fit, or a fit without ``image_size``.
        PatchTableError: as `decode_rows`; masks of 0 and 255 alone, whose 255 would be unknown.
    """
    if image_size is not None and not (isinstance(image_size, Integral) and image_size > 0):
        raise ValueError(f"image_size={image_size!r}; give a whole number of pixels, 1 or more")
    if fit is not None and not image_size:
        raise ValueError(f"fit={fit!r} without image_size; give the side of the squares as well")
    fit_boxes((1, 1), fit, "table")  # a wrong word is met before the first picture is decoded
    values = ClassValues(n_classes)
    decoded = {name: decode_rows(table, values, name, image_size, fit, folder) for name, table in tables.items()}
    values.refuse_black_and_white()
    return decoded


def decode_rows(
    table: Table,
    values: ClassValues,
    name: str,
    image_size: int | None,
    fit: str | None,
    folder: str | Path | None,
) -> dict[str, object]:
    """Decode the rows of a table in one pass, into the fields of `sedm.data.patches.Patches` but its classes.

    Args:
        values: learns which values the masks hold.
        fit, folder: as of `sedm.data.patches.Patches.from_table`.

    Raises:
        PatchTableError: no rows, an unreadable picture, or images of several sizes and no ``image_size``.
        OSError: no room for the pixels.
    """
    reader = PatchReader()
    groups: list[str] = []
    parts: list[list[Box]] = []  # of each stored picture
    size = (image_size, image_size) if image_size else None
    # 1 byte in memory is the least that the file allows: 0 means no limit
    limit = mapped_pixels.MEMORY_LIMIT if folder is None else 1
    try:
        with (
            tempfile.SpooledTemporaryFile(max_size=limit, dir=folder) as images,
            tempfile.SpooledTemporaryFile(max_size=limit, dir=folder) as masks,
        ):
            for row, patch in enumerate(read_rows(table, name, f"decoding {name}")):
                where = f"{name}, row {row}"
                reading = reader.read(patch["image"], patch["mask"], where)
                image, mask = reading.image, reading.mask
                if mask is not None:
                    values.add(mask, locate(patch["mask"], f"{where}, column 'mask'"))
                size = size or image.size
                if image.size != size and not image_size:
                    raise PatchTableError(f"{where}: an image of {image.size}, the first is {size}; give image_size")
                picture = locate(patch["image"], f"{where}, column 'image'")
                boxes = fit_boxes(image.size, fit, picture) if image_size else [(0, 0, *size)]
                group = name_group(patch["group"], f"{where}, column 'group'")
                for box in boxes:
                    images.write(cut_image(image, box, size).transpose(2, 0, 1).tobytes())
                    unknown = np.full(size[::-1], UNKNOWN, np.uint8)
                    masks.write((unknown if mask is None else cut_mask(mask, box, size)).tobytes())
                    groups.append(group)
                parts.append(boxes)
            if size is None or not groups:
                raise PatchTableError(f"{name}: the table has no rows")
            shape = (len(groups), *size[::-1])
            return {
                "images": mapped_pixels.as_tensor(images, (shape[0], 3, *shape[1:]), limit),
                "masks": mapped_pixels.as_tensor(masks, shape, limit),
                "groups": groups,
                "mask_source": _read_sources(table, parts, name),
                "places": _read_places(table, parts),
            }
    except OSError as error:
        place = folder or tempfile.gettempdir()
        raise OSError(
            error.errno, f"decoded pixels do not fit into {place} ({error.strerror}); name another folder"
        ) from error


def _has_columns(table: Table, *names: str) -> bool:
    return set(names) <= set(table.column_names or next(iter(table)))


def _read_sources(table: Table, parts: list[list[Box]], name: str) -> list[str]:
    """Read who made the masks, from a pass over the table without its pictures; [] where it does not say."""
    if not _has_columns(table, "mask_source"):
        return []
    sources = []
    for row, (patch, boxes) in enumerate(zip(table.select_columns(["mask_source"]), parts, strict=True)):
        source = patch["mask_source"]
        if source not in MASK_SOURCES:
            choices = ", ".join(MASK_SOURCES)
            raise PatchTableError(f"{name}, row {row}, column 'mask_source': {source!r}; choose one of {choices}")
        sources += [source] * len(boxes)
    return sources


def _read_places(table: Table, parts: list[list[Box]]) -> Places | None:
    """Read where the patches lie, from a pass over the table without its pictures; None where it does not say."""
    if not _has_columns(table, *PLACE_COLUMNS):
        return None
    slides, corners, sides = [], [], []
    for row, boxes in zip(table.select_columns(list(PLACE_COLUMNS)), parts, strict=True):
        slide, x, y, microns_per_pixel = (row[name] for name in PLACE_COLUMNS)
        if None in (slide, x, y, microns_per_pixel):
            return None
        for left, top, right, _ in boxes:
            slides.append(str(slide))
            corners.append((float(x) + left * float(microns_per_pixel), float(y) + top * float(microns_per_pixel)))
            sides.append((right - left) * float(microns_per_pixel))
    return Places(slides, torch.tensor(corners, dtype=torch.float64), torch.tensor(sides, dtype=torch.float64))
