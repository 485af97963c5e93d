"""The patch table: the one format in which real and synthetic images travel.

A patch table is a Hugging Face ``datasets.Dataset`` with the columns

* ``image``  an RGB picture,
* ``mask``   a picture of class indices 0…K−1 of the same size, or null where nobody annotated,
* ``group``  the unit that shares a style and never straddles a split (patient, case, species, breed),

and any further columns. On disk it is a folder with one parquet file a split.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from sedm.files import replacing

UNKNOWN = 255
"""The mask value of a pixel that nobody annotated."""

REQUIRED_COLUMNS = ("image", "mask", "group")


class PatchTableError(ValueError):
    """A patch table (or what should become one) breaks the format; the message names the culprit."""


class PatchTensors(NamedTuple):
    """A patch table decoded into memory, ready to be gathered into batches."""

    images: UInt8[Tensor, "n 3 h w"]
    masks: UInt8[Tensor, "n h w"]  # class indices; UNKNOWN where unannotated
    groups: list[str]

    def select(self, rows: Sequence[int]) -> PatchTensors:
        """The given rows, in the given order.

        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> PatchTensors(pixels, pixels[:, 0], ["a", "b"]).select([1]).groups
        ['b']
        """
        rows = list(rows)
        return PatchTensors(self.images[rows], self.masks[rows], [self.groups[row] for row in rows])

    def annotated(self) -> PatchTensors:
        """The rows with a mask.

        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> masks = torch.stack([torch.zeros(8, 8), torch.full((8, 8), UNKNOWN)]).to(torch.uint8)
        >>> PatchTensors(pixels, masks, ["a", "b"]).annotated().groups
        ['a']
        """
        return self.select((self.masks != UNKNOWN).flatten(1).any(1).nonzero().flatten().tolist())


def from_arrays(
    images: UInt8[np.ndarray, "n h w 3"],
    masks: UInt8[np.ndarray, "n h w"] | Sequence[np.ndarray | None],
    groups: Sequence[str],
    **columns: Sequence,
) -> datasets.Dataset:
    """A patch table of pictures in memory; ``None`` in ``masks`` means not annotated.

    >>> table = from_arrays(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8), ["a", "b"])
    >>> table.column_names, table[0]["image"].size
    (['image', 'mask', 'group'], (8, 8))
    """
    table = datasets.Dataset.from_dict(
        {
            "image": [_encode(image) for image in images],
            "mask": [None if mask is None else _encode(mask) for mask in masks],
            "group": list(groups),
            **{name: list(values) for name, values in columns.items()},
        }
    )
    return table.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())


def load_patches(source: str | Path, split: str | None = None, group_column: str = "group") -> datasets.Dataset:
    """The patch table stored at ``source``.

    Args:
        source: a parquet file, or a folder of parquet files (one a split).
        split: which parquet file of a folder; may be left out when there is only one.
        group_column: the column to be called ``group`` from here on.

    Raises:
        PatchTableError: nothing there, an empty or unreadable file, or a missing column or split.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pixels = np.zeros((2, 8, 8, 3), np.uint8)
    ...     _ = save_patches(from_arrays(pixels, pixels[..., 0], ["a", "b"]), Path(folder) / "train.parquet")
    ...     load_patches(folder, "train")["group"][:]
    ['a', 'b']
    """
    source = Path(source)
    if not source.exists():
        raise PatchTableError(f"{source}: no such file or folder; expected a patch table (see data/README.md)")
    path = _parquet_file(source, split) if source.is_dir() else source
    check_header(path, group_column)
    try:
        table = datasets.Dataset.from_parquet(str(path))
    except datasets.exceptions.DatasetGenerationError as error:
        cause = " ".join(str(error.__cause__).split())
        raise PatchTableError(f"{path}: damaged between its head and its end ({cause})") from error
    table = table.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())
    if group_column != "group":
        table = table.rename_column(group_column, "group")
    return table.cast_column("group", datasets.Value("string"))


def check_header(path: str | Path, group_column: str = "group") -> None:
    """None, when the head of a parquet file promises a patch table; reads no picture.

    Raises:
        PatchTableError: no such file, not parquet, a missing column, or no rows.

    >>> check_header("nowhere/train.parquet")
    Traceback (most recent call last):
    ...
    sedm.data.patches.PatchTableError: nowhere/train.parquet: no such file
    """
    if not Path(path).is_file():
        raise PatchTableError(f"{path}: no such file")
    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise PatchTableError(f"{path}: not a readable parquet file ({error})") from error
    columns = metadata.schema.to_arrow_schema().names
    for column in ("image", "mask", group_column):
        if column not in columns:
            raise PatchTableError(f"{path}: no column {column!r}; it has {', '.join(columns)}")
    if metadata.num_rows == 0:
        raise PatchTableError(f"{path}: the table has no rows")


def save_patches(table: datasets.Dataset, path: str | Path) -> Path:
    """The path of the parquet file that now holds ``table``; written whole or not at all.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pixels = np.zeros((1, 8, 8, 3), np.uint8)
    ...     save_patches(from_arrays(pixels, pixels[..., 0], ["a"]), Path(folder) / "train.parquet").name
    'train.parquet'
    """
    with replacing(path) as temporary:
        table.to_parquet(str(temporary))
    return Path(path)


def check_patches(table: datasets.Dataset, n_classes: int, name: str = "table") -> None:
    """None, after every picture was opened and found in order.

    Args:
        n_classes: masks must hold 0…n_classes−1 only.
        name: where the table came from, for the message (a file name).

    Raises:
        PatchTableError: names table, row and column of the first fault: a missing column, an empty table,
            unreadable bytes, an image and a mask of different size, a value outside the classes, no group.

    >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
    >>> check_patches(from_arrays(pixels, pixels[..., 0] + 3, ["a"]), n_classes=2, name="train.parquet")
    Traceback (most recent call last):
    ...
    sedm.data.patches.PatchTableError: train.parquet, row 0, column 'mask': value 3 is outside the classes 0..1
    """
    for column in REQUIRED_COLUMNS:
        if column not in table.column_names:
            raise PatchTableError(f"{name}: no column {column!r}; it has {', '.join(table.column_names)}")
    if len(table) == 0:
        raise PatchTableError(f"{name}: the table has no rows")
    raw = table.select_columns(list(REQUIRED_COLUMNS))
    for column in ("image", "mask"):
        raw = raw.cast_column(column, datasets.Image(decode=False))
    for row, patch in enumerate(raw):
        where = f"{name}, row {row}, column "
        if not patch["group"]:
            raise PatchTableError(f"{where}'group': empty; every patch needs the name of its patient or species")
        if patch["image"] is None:
            raise PatchTableError(f"{where}'image': null; only masks may be missing")
        image = _decode(patch["image"], f"{where}'image'").convert("RGB")
        if patch["mask"] is None:
            continue
        mask = np.asarray(_decode(patch["mask"], f"{where}'mask'"))
        if mask.shape != image.size[::-1]:
            size = "×".join(map(str, mask.shape[1::-1] + mask.shape[2:]))
            raise PatchTableError(
                f"{where}'mask': size {size}, but the image is {image.size[0]}×{image.size[1]}; "
                "a mask is one channel of class indices, as large as its image"
            )
        if mask.max() >= n_classes:
            raise PatchTableError(f"{where}'mask': value {mask.max()} is outside the classes 0..{n_classes - 1}")


def to_tensors(table: datasets.Dataset, image_size: int | None = None) -> PatchTensors:
    """The table decoded into memory, resized to ``image_size`` pixels a side when given.

    Images are reduced with Lanczos and masks with the nearest neighbour, so class indices stay class indices.

    Raises:
        PatchTableError: images of several sizes and no ``image_size``.

    >>> pixels = np.zeros((2, 8, 8, 3), np.uint8)
    >>> to_tensors(from_arrays(pixels, [pixels[0, ..., 0], None], ["a", "b"]), image_size=4).masks[:, 0, 0]
    tensor([  0, 255], dtype=torch.uint8)
    """
    images, masks = [], []
    for row, patch in enumerate(table.select_columns(["image", "mask"])):
        image, mask = patch["image"].convert("RGB"), patch["mask"]
        size = (image_size, image_size) if image_size else image.size
        image = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
        if mask is not None and mask.size != size:
            mask = mask.resize(size, Image.Resampling.NEAREST)
        images.append(np.asarray(image))
        masks.append(np.full(size[::-1], UNKNOWN, np.uint8) if mask is None else np.asarray(mask).astype(np.uint8))
        if images[-1].shape != images[0].shape:
            raise PatchTableError(
                f"row {row}: an image of {image.size}, the first is {images[0].shape[1::-1]}; give image_size"
            )
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return PatchTensors(pixels, torch.from_numpy(np.stack(masks)), list(table["group"]))


def _encode(pixels: np.ndarray) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def _decode(encoded: dict, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(encoded["bytes"]) if encoded["bytes"] is not None else encoded["path"])
        image.load()
        return image
    except Exception as error:  # Pillow raises many types for damaged files
        raise PatchTableError(f"{where}: unreadable image bytes ({error})") from error


def _parquet_file(folder: Path, split: str | None) -> Path:
    files = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    if not files:
        raise PatchTableError(f"{folder}: no parquet files in it")
    if split is None and len(files) == 1:
        return next(iter(files.values()))
    if split not in files:
        raise PatchTableError(f"{folder}: no split {split!r}; it has {', '.join(files)}")
    return files[split]
