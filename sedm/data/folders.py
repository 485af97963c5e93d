"""Patch tables of the user's own pictures in a folder of files."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import datasets

from sedm.data.mask_values import MaskValues, check_mask_values, translate_masks
from sedm.data.patches import PatchTableError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # JPEG would blur class indices


def load_image_folder(
    folder: str | Path, mask_values: MaskValues | None = None, mask_threshold: float | None = None
) -> datasets.Dataset:
    """The patch table of a folder with ``images/`` and, under the same names, ``masks/`` of lossless files.

    Groups are the sub-folders of ``images/``. Or ``metadata.csv`` names them: a row a file, with the columns
    ``file_name`` (in ``images/``), ``group``, if wanted ``mask_file_name`` (in ``masks/``; empty where not annotated),
    and any others, which stay columns of text. A missing mask file means: not annotated. The name of each file is
    kept as ``file_name``.

    The table holds where the pictures lie; ``save_patches`` copies them. Masks are read as they are: class indices in
    one channel, also those of a palette. Only masks that ``mask_values`` translates are held in memory, as PNG.

    Args:
        mask_values: the class index of each value in the mask files, such as ``{0: 0, 255: 1}``, or of each colour,
            such as ``{(0, 0, 0): 0, (255, 0, 0): 1}``; 255 as a class index means that nobody knows.
        mask_threshold: for masks in black and white whose borders were smoothed, in place of ``mask_values``: values
            above it, such as 127, become class 1, the others class 0.

    Raises:
        ValueError: impossible ``mask_values`` or ``mask_threshold``.
        PatchTableError: no images, an image without a group, a mask without an image or in a format that loses
            values, a table of groups without its columns or with a file that is not there, a value that
            ``mask_values`` does not name.

    From a folder to a table for training:

    >>> import tempfile
    >>> from PIL import Image
    >>> from sedm.data.patches import check_patches, load_patches, save_patches
    >>> from sedm.data.tensors import to_tensors
    >>> from sedm.data.splits import split_by_group
    >>> folder = tempfile.TemporaryDirectory()
    >>> for kind, mode in (("images", "RGB"), ("masks", "L")):
    ...     for case in ("case-7", "case-8"):
    ...         path = Path(folder.name) / kind / case / "a.png"
    ...         path.parent.mkdir(parents=True)
    ...         Image.new(mode, (16, 16), "white").save(path)
    >>> table = load_image_folder(folder.name, mask_values={0: 0, 255: 1})
    >>> check_patches(table, n_classes=2, name=folder.name)
    >>> train, test = split_by_group(table, test_fraction=0.5, seed=0)
    >>> path = save_patches(train, Path(folder.name) / "tables" / "train.parquet")
    >>> patches = to_tensors(load_patches(path, streaming=True), image_size=8)
    >>> patches.images.shape, patches.masks.unique().tolist(), test["group"][:]
    (torch.Size([1, 3, 8, 8]), [1], ['case-7'])
    >>> folder.cleanup()
    """
    mask_values = check_mask_values(mask_values, mask_threshold)
    folder = Path(folder).absolute()
    paths = [path for path in _files(folder / "images") if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise PatchTableError(f"{folder / 'images'}: no image files")
    images = {path.relative_to(folder / "images").as_posix(): path for path in paths}
    metadata = folder / "metadata.csv"
    if metadata.exists():
        rows = _read_metadata(metadata, images)
    else:
        rows = {name: {"group": name.split("/")[0]} for name in images if "/" in name}
    for name, path in images.items():
        if name not in rows:
            raise PatchTableError(f"{path}: no group; use images/<group>/<file> or metadata.csv")
    known = rows[next(iter(images))].keys()
    if "mask_file_name" in known:
        masks = _named_masks(folder / "masks", rows, metadata)
    else:
        masks = _find_masks(folder / "masks", images)
    columns = [column for column in known if column not in ("file_name", "mask_file_name", "group")]
    table = datasets.Dataset.from_dict(
        {
            "image": [_stored(path) for path in images.values()],
            "mask": [_stored(masks.get(name)) for name in images],
            "group": [rows[name]["group"] for name in images],
            "file_name": list(images),
            **{column: [rows[name][column] for name in images] for column in columns},
        }
    )
    table = table.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())
    if mask_values is None and mask_threshold is None:
        return table
    return translate_masks(table, str(folder), mask_values, mask_threshold)


def save_image_folder(table: datasets.Dataset, folder: str | Path) -> Path:
    """The folder that now holds each row as ``images/<group>/<row>.png`` and, where annotated, the same in ``masks/``.

    What other tools read; ``load_image_folder`` makes a table of it again.

    >>> import tempfile
    >>> import numpy as np
    >>> from sedm.data.patches import from_arrays
    >>> pixels = np.zeros((2, 8, 8, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_image_folder(from_arrays(pixels, [pixels[0, ..., 0], None], ["case-7", "case-8"]), folder)
    ...     load_image_folder(folder)["file_name"][:]
    ['case-7/000000.png', 'case-8/000001.png']
    """
    folder = Path(folder)
    for row, patch in enumerate(table.select_columns(["image", "mask", "group"])):
        for kind in ("image", "mask"):
            if patch[kind] is not None:
                path = folder / f"{kind}s" / patch["group"] / f"{row:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                patch[kind].save(path)
    return folder


def _files(folder: Path) -> list[Path]:
    """All files below a folder, in order, but the hidden ones that file managers leave."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _stored(path: Path | None) -> dict | None:
    return None if path is None else {"bytes": None, "path": str(path)}


def _read_metadata(metadata: Path, images: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """The rows by ``file_name``."""
    with metadata.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
        rows = list(csv.DictReader(file, restval=""))
    if not rows or not {"file_name", "group"} <= rows[0].keys():
        raise PatchTableError(f"{metadata}: expected the columns file_name,group")
    for column in ("image", "mask"):
        if column in rows[0]:
            raise PatchTableError(f"{metadata}: the column {column!r} is kept for pictures; name files mask_file_name")
    named: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):  # as a spreadsheet counts
        name = row["file_name"]
        if None in row:
            raise PatchTableError(f"{metadata}, line {number}: more cells than the head has columns")
        if name in named:
            raise PatchTableError(f"{metadata}, line {number}: {name!r} is there twice")
        if name not in images:
            raise PatchTableError(f"{metadata}, line {number}: no such file, {metadata.parent / 'images' / name}")
        named[name] = row
    return named


def _named_masks(folder: Path, rows: Mapping[str, Mapping[str, str]], metadata: Path) -> dict[str, Path]:
    """The mask of each image that has one: the file that ``metadata.csv`` names."""
    masks = {name: folder / row["mask_file_name"] for name, row in rows.items() if row["mask_file_name"]}
    for name, path in masks.items():
        if not path.is_file():
            raise PatchTableError(f"{metadata}: the mask of {name!r} is not there, {path}")
        _check_lossless(path)
    used = set(masks.values())
    for path in _files(folder):
        if path.suffix.lower() in MASK_SUFFIXES and path not in used:
            raise PatchTableError(f"{path}: {metadata.name} names no image for this mask")
    return masks


def _find_masks(folder: Path, images: Mapping[str, Path]) -> dict[str, Path]:
    """The mask of each image that has one: the file of the same name, but for the suffix."""
    images_of: dict[str, list[str]] = {}
    for name in images:
        images_of.setdefault(str(Path(name).with_suffix("")), []).append(name)
    masks: dict[str, Path] = {}
    for path in _files(folder):
        names = images_of.get(str(path.relative_to(folder).with_suffix("")), [])
        if names:
            _check_lossless(path)
        elif path.suffix.lower() not in MASK_SUFFIXES:
            continue  # a list of class names, say
        if len(names) != 1:
            raise PatchTableError(f"{path}: a mask of {len(names)} images ({', '.join(names) or 'none of its name'})")
        if names[0] in masks:
            raise PatchTableError(f"{path}: a second mask of {names[0]!r}, besides {masks[names[0]].name}")
        masks[names[0]] = path
    return masks


def _check_lossless(mask: Path) -> None:
    if mask.suffix.lower() not in MASK_SUFFIXES:
        raise PatchTableError(f"{mask}: masks are {', '.join(MASK_SUFFIXES)}; JPEG would blur class indices")
