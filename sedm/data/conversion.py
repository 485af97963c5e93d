"""Tables of pictures in any source format become patch tables: RGB pixels, class indices and names of groups."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.fingerprint import get_temporary_cache_files_directory
from PIL import Image

from sedm.data.errors import PatchTableError
from sedm.data.groups import labels_of, name_groups
from sedm.data.patch_table import replace_column
from sedm.data.pictures import encode
from sedm.data.places import PLACE_COLUMNS
from sedm.data.reading import PatchReader, Reading
from sedm.data.reduce import cut_image, cut_mask, tile_boxes
from sedm.data.source_format import SourceFormat
from sedm.data.table_rows import TEXT
from sedm.runtime.threads import map_in_order

ROWS_AT_ONCE = 64  # whose pixels are in memory together


def convert_table(table: datasets.Dataset, name: str, source_format: SourceFormat) -> datasets.Dataset:
    """Replace what a table stores by RGB images and class indices, as PNG; what is so already stays as it is.

    The new pictures are mapped from a temporary file, which goes when the program ends. Pictures are read on all cores.

    Args:
        table: with ``image`` and ``mask`` in any form that `sedm.data.reading` reads, and further columns.
        name: of the table, for the error message.
        source_format: how its pictures are stored.

    Returns:
        The same columns, ``group`` as text. Where pictures are resized or cut, a row a patch, with ``x`` and ``y``, its
        left top corner in the picture, and ``scale``, its pixels per pixel of the picture; with
        ``microns_per_pixel``, also ``sedm.data.places.PLACE_COLUMNS``. With ``intensity_range``, also ``intensity_low``
        and ``intensity_high``.

    Raises:
        PatchTableError: the first picture that cannot be read so, or a picture smaller than a tile.

    >>> table = datasets.Dataset.from_dict({"image": [[[7, 7]]], "mask": [[[0, 9]]], "group": ["a"]})
    >>> patches = convert_table(table, "mine", SourceFormat(mask_values={0: 0, 9: 1}))
    >>> np.asarray(patches[0]["mask"])
    array([[0, 1]], dtype=uint8)
    """
    table = with_named_groups(table, name, source_format)
    converter = _Converter(table, name, source_format)
    if not (converter.makes_images or converter.makes_masks):
        return table
    table = undecoded(table)
    fingerprint = uuid.uuid4().hex  # what another version of this code made does not count, and hashing takes seconds
    converted = table.map(
        converter,
        batched=True,
        batch_size=ROWS_AT_ONCE,
        with_indices=True,
        remove_columns=table.column_names,
        features=converter.features,
        load_from_cache_file=False,
        cache_file_name=str(Path(get_temporary_cache_files_directory()) / f"{fingerprint}.arrow"),
        new_fingerprint=fingerprint,
        desc=f"reading {name}",
    )
    converter.reader.refuse_threshold(name)
    return converted


def with_named_groups(table: datasets.Dataset, name: str | Path, source_format: SourceFormat) -> datasets.Dataset:
    """Replace groups that are numbers or class labels by their names.

    Raises:
        PatchTableError: a row without a group.

    >>> table = datasets.Dataset.from_dict({"image": [[[0]]] * 2, "group": [7, 8]})
    >>> with_named_groups(table, "mine", SourceFormat())["group"][:]
    ['7', '8']
    """
    groups = table["group"][:]
    names = name_groups(groups, str(name), source_format.group_column or "group", labels_of(table.features["group"]))
    return table if names == groups else replace_column(table, "group", names, TEXT)


def undecoded(table: datasets.Dataset) -> datasets.Dataset:
    """Let the pictures of a table be read as they are stored: bytes or paths.

    >>> table = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": "a.png"}]})
    >>> undecoded(table.cast_column("image", datasets.Image()))[0]
    {'image': {'bytes': None, 'path': 'a.png'}}
    """
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return table


class _Converter:
    """Makes the rows of patches from rows of stored pictures, some at once."""

    def __init__(self, table: datasets.Dataset, name: str, source_format: SourceFormat):
        self.name = name
        self.source_format = source_format
        self.reader = PatchReader(source_format)
        is_picture = {column: isinstance(table.features[column], datasets.Image) for column in ("image", "mask")}
        self.makes_images = source_format.changes_images or not is_picture["image"]
        self.makes_masks = source_format.changes_masks or not is_picture["mask"]
        text, number, whole = (datasets.Value(kind) for kind in ("string", "float64", "int64"))
        added: dict[str, Any] = {}
        if source_format.intensity_range != "":
            added |= {"intensity_low": number, "intensity_high": number}
        if source_format.cuts:
            added |= {"x": whole, "y": whole, "scale": number}
            if source_format.microns_per_pixel:
                added |= dict(zip(PLACE_COLUMNS, (text, number, number, number), strict=True))
        for column in added:
            if column in table.column_names:
                raise PatchTableError(f"{name}: it has a column {column!r}, which is to be added; rename it")
        pictures = {"image": datasets.Image(), "mask": datasets.Image()}
        self.added = tuple(added)
        self.features = datasets.Features({**table.features, **pictures, **added})

    def __call__(self, batch: Mapping[str, list], numbers: list[int]) -> dict[str, list]:
        """Make the rows of a batch, as ``datasets`` hands it over."""
        stored = ({name: values[i] for name, values in batch.items()} for i in range(len(numbers)))
        rows = [row for rows in map_in_order(self.make_rows, zip(numbers, stored, strict=True)) for row in rows]
        return {column: [row[column] for row in rows] for column in self.features}

    def make_rows(self, numbered: tuple[int, dict[str, Any]]) -> list[dict[str, Any]]:
        """Make the rows of one stored picture."""
        number, row = numbered
        where = f"{self.name}, row {number}"
        source = self.source_format
        if not self.makes_images and source.mask_kind != "run-lengths":  # no image is opened
            if row["mask"] is None:
                return [row]
            return [{**row, "mask": encode(self.reader.read_mask(row["mask"], f"{where}, column 'mask'"))}]
        reading = self.reader.read(row["image"], row["mask"], where)
        low, high = reading.intensities
        rows = []
        for (x, y), image, mask in _cut(reading, source):
            patch = {
                **row,
                "image": encode(image) if self.makes_images else row["image"],
                "mask": None if mask is None else encode(mask),
                "intensity_low": float(low),
                "intensity_high": float(high),
                "x": round(x),
                "y": round(y),
                "scale": float(source.scale),
                "slide": self._slide(row, number),
                "x_microns": x * source.microns_per_pixel,
                "y_microns": y * source.microns_per_pixel,
                "microns_per_pixel": source.microns_per_pixel / source.scale,
            }
            rows.append({column: patch[column] for column in self.features})
        return rows

    @staticmethod
    def _slide(row: Mapping[str, Any], number: int) -> str:
        """Name the picture, in a way that no other one of its group shares."""
        path = row["image"].get("path") if isinstance(row["image"], Mapping) else None
        return str(row.get("file_name") or path or number)


def _cut(
    reading: Reading, source_format: SourceFormat
) -> Iterator[tuple[tuple[float, float], np.ndarray, np.ndarray | None]]:
    """Resize a picture and cut it into tiles, each with its left top corner in the stored picture, px."""
    image, mask = reading.image, reading.mask
    if not source_format.cuts:
        yield (0, 0), np.asarray(image), mask
        return
    side = source_format.tile_size
    whole = (0, 0, *image.size)
    size = source_format.scaled(image.size)
    picture = Image.fromarray(cut_image(image, whole, size))
    pixels = None if mask is None else cut_mask(mask, whole, size)
    for box in tile_boxes(size, side) if side else [(0, 0, *size)]:
        left, top, right, bottom = box
        corner = (left * image.width / size[0], top * image.height / size[1])
        yield corner, np.asarray(picture.crop(box)), None if pixels is None else pixels[top:bottom, left:right]
