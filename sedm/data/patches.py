"""Patch tables decoded: pixels as tensors, in memory while they are few, mapped from a file when they are many."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor

from sedm.data.groups import name_group
from sedm.data.patch_table import UNKNOWN, PatchTableError, Table, read_rows
from sedm.data.pictures import decode_pair, locate
from sedm.data.reduce import Box, cut_image, cut_mask, fit_boxes

PLACE_COLUMNS = ("slide", "x_microns", "y_microns", "microns_per_pixel")
"""With all of these, a patch table tells where its patches lie."""

MEMORY_LIMIT = 2**28  # bytes of decoded images, or of masks, held in memory; more are mapped from a file


class Places(NamedTuple):
    """Where patches were cut from their slides."""

    slides: list[str]  # unique within a group
    corners: Float64[Tensor, "n 2"]  # x and y of the left top corner from that of the slide, in microns
    sides: Float64[Tensor, " n"]  # width of a patch, in microns

    def select(self, rows: Sequence[int]) -> Places:
        """The given rows, in the given order.

        >>> Places(["a", "b"], torch.zeros(2, 2).double(), torch.ones(2).double()).select([1]).slides
        ['b']
        """
        rows = list(rows)
        return Places([self.slides[row] for row in rows], self.corners[rows], self.sides[rows])


class Patches(NamedTuple):
    """A decoded patch table, ready to be gathered into batches; large ones are mapped from a file."""

    images: UInt8[Tensor, "n 3 h w"]
    masks: UInt8[Tensor, "n h w"]  # class indices; UNKNOWN where unannotated
    groups: list[str]
    places: Places | None = None  # where the table tells them

    @property
    def has_mask(self) -> Bool[Tensor, " n"]:
        """Which rows are annotated.

        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> masks = torch.stack([torch.zeros(8, 8), torch.full((8, 8), UNKNOWN)]).to(torch.uint8)
        >>> Patches(pixels, masks, ["a", "b"]).has_mask
        tensor([ True, False])
        """
        parts = self.masks.split(1024)  # the comparison of all masks at once would be as large as they are
        return torch.cat([(part != UNKNOWN).flatten(1).any(1) for part in parts])

    def select(self, rows: Sequence[int]) -> Patches:
        """The given rows, in the given order.

        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> Patches(pixels, pixels[:, 0], ["a", "b"]).select([1]).groups
        ['b']
        """
        rows = list(rows)
        groups, places = [self.groups[row] for row in rows], self.places and self.places.select(rows)
        return Patches(_gather(self.images, rows), _gather(self.masks, rows), groups, places)

    def annotated(self) -> Patches:
        """The rows with a mask; these very tensors where all have one.

        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> masks = torch.stack([torch.zeros(8, 8), torch.full((8, 8), UNKNOWN)]).to(torch.uint8)
        >>> Patches(pixels, masks, ["a", "b"]).annotated().groups
        ['a']
        """
        has_mask = self.has_mask
        return self if has_mask.all() else self.select(has_mask.nonzero().flatten().tolist())


def to_tensors(
    table: Table, image_size: int | None = None, folder: str | Path | None = None, *, fit: str | None = None
) -> Patches:
    """Decode a table in one pass, resized to ``image_size`` pixels a side when given.

    Images are reduced with Lanczos and masks with the nearest neighbour, so class indices stay class indices. A
    table with all ``PLACE_COLUMNS`` filled gives ``places`` as well.

    Up to ``MEMORY_LIMIT`` bytes the tensors lie in memory. Larger ones are mapped from a temporary file: a batch
    ``images[rows]`` reads its own pages only, and the system takes pages back when memory is short. The file has no
    name and is freed with the tensors, even if the process is killed. It is not kept for the next run: what a cache
    needs (a fingerprint, a check that it is whole, someone to delete it) costs more than decoding again.

    Args:
        folder: put the pixels into a file here, whatever their size; by default the system's temporary folder
            (``TMPDIR``), which must lie on a disk.
        fit: what becomes of images that are no squares, where there is an ``image_size``: "crop", "pad", "squeeze" or
            "tile" (see ``sedm.data.reduce.FITS``). A picture in tiles gives several patches, one after the other, of
            its group.

    Raises:
        PatchTableError: no rows, an unreadable picture, images of several sizes and no ``image_size``, or an image
            that is no square and no ``fit``.
        ValueError: no such fit, or a fit without ``image_size``.
        OSError: no room for the pixels.

    >>> from sedm.data.patch_table import from_arrays
    >>> pixels = np.zeros((2, 8, 8, 3), np.uint8)
    >>> to_tensors(from_arrays(pixels, [pixels[0, ..., 0], None], ["a", "b"]), image_size=4).masks[:, 0, 0]
    tensor([  0, 255], dtype=torch.uint8)
    """
    if fit is not None and not image_size:
        raise ValueError(f"fit={fit!r} without image_size; give the side of the squares as well")
    fit_boxes((1, 1), fit, "table")  # a wrong word is met before the first picture is decoded
    groups: list[str] = []
    parts: list[list[Box]] = []  # of each stored picture
    size = (image_size, image_size) if image_size else None
    # 1 byte in memory is the least that the file allows: 0 means no limit
    options = {"max_size": MEMORY_LIMIT if folder is None else 1, "dir": folder}
    try:
        with tempfile.SpooledTemporaryFile(**options) as images, tempfile.SpooledTemporaryFile(**options) as masks:
            for row, patch in enumerate(read_rows(table, "table", "decoding")):
                image, mask = decode_pair(patch["image"], patch["mask"], f"row {row}")
                size = size or image.size
                if image.size != size and not image_size:
                    raise PatchTableError(f"row {row}: an image of {image.size}, the first is {size}; give image_size")
                where = locate(patch["image"], f"row {row}, column 'image'")
                boxes = fit_boxes(image.size, fit, where) if image_size else [(0, 0, *size)]
                group = name_group(patch["group"], f"row {row}, column 'group'")
                for box in boxes:
                    images.write(cut_image(image, box, size).transpose(2, 0, 1).tobytes())
                    unknown = np.full(size[::-1], UNKNOWN, np.uint8)
                    masks.write((unknown if mask is None else cut_mask(mask, box, size)).tobytes())
                    groups.append(group)
                parts.append(boxes)
            if size is None or not groups:
                raise PatchTableError("the table has no rows")
            shape = (len(groups), *size[::-1])
            limit = options["max_size"]
            pixels = _as_tensor(images, (shape[0], 3, *shape[1:]), limit)
            return Patches(pixels, _as_tensor(masks, shape, limit), groups, _read_places(table, parts))
    except OSError as error:
        place = folder or tempfile.gettempdir()
        raise OSError(
            error.errno, f"decoded pixels do not fit into {place} ({error.strerror}); name another folder"
        ) from error


def _read_places(table: Table, parts: list[list[Box]]) -> Places | None:
    """Where the patches lie, from a pass over the table without its pictures; None where it does not say."""
    if not set(PLACE_COLUMNS) <= set(table.column_names or next(iter(table))):
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


def _as_tensor(file: tempfile.SpooledTemporaryFile, shape: tuple[int, ...], limit: int) -> Tensor:
    """What was written to ``file``: read where it stayed in memory, mapped where it grew beyond ``limit``."""
    n_bytes = file.tell()
    if n_bytes > limit:
        file.flush()
        return torch.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype=torch.uint8).view(shape)
    pixels = torch.empty(shape, dtype=torch.uint8)
    file.seek(0)
    file.readinto(pixels.numpy())
    return pixels


def _gather(pixels: Tensor, rows: list[int]) -> Tensor:
    """``pixels[rows]``, mapped from a file where it is too large for memory."""
    if pixels[:1].numel() * len(rows) <= MEMORY_LIMIT or pixels.device.type != "cpu":
        return pixels[rows]
    with tempfile.SpooledTemporaryFile(MEMORY_LIMIT) as file:
        for first in range(0, len(rows), 1024):
            file.write(pixels[rows[first : first + 1024]].numpy().tobytes())
        return _as_tensor(file, (len(rows), *pixels.shape[1:]), MEMORY_LIMIT)


def data_checksum(*tables: Patches) -> str:
    """Twelve hexadecimal digits that change with any pixel, mask or group of the tables.

    >>> pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    >>> a, b = (Patches(pixels, pixels[:, 0], [group]) for group in "ab")
    >>> data_checksum(a) == data_checksum(a), data_checksum(a) == data_checksum(b)
    (True, False)
    """
    digest = hashlib.sha256()
    for patches in tables:
        for pixels in (patches.images, patches.masks):
            digest.update(repr(tuple(pixels.shape)).encode())
            digest.update(pixels.contiguous().numpy())
        digest.update(repr(patches.groups).encode())
    return digest.hexdigest()[:12]
