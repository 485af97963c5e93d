"""Patch tables of any data set that ``datasets`` can load: on the Hub, or in a folder."""

from __future__ import annotations

import re
from pathlib import Path

import datasets

from sedm.data.conversion import convert_table
from sedm.data.errors import PatchTableError, Report, raise_fault
from sedm.data.mask_values import MaskCoding
from sedm.data.patch_table import replace_column
from sedm.data.pictures import check_file, locate
from sedm.data.source_format import SourceFormat
from sedm.data.table_files import as_pattern, check_labels, files_of_split, find_splits, picture_form
from sedm.data.table_rows import TEXT, stored_path

KEPT = ("train", "validation", "test")  # names of splits; ``datasets`` would rename "val" and pass over "shifted"
ADVICE = {
    "image": "",
    "mask": "; mask_column='' is for images that nobody annotated",
    "group": "; group_column='' makes every image its own group",
}


def load_hub_dataset(
    name_or_path: str | Path,
    image_column: str = "image",
    mask_column: str | None = "mask",
    group_column: str | None = "group",
    split: str = "train",
    mask_values: MaskCoding | None = None,
    mask_threshold: float | None = None,
    **options,
) -> datasets.Dataset:
    """Make the patch table of one split of a data set that ``datasets.load_dataset`` finds: on the Hub, or in a folder.

    Args:
        name_or_path: ``owner/name`` on the Hub, a local folder, or a parquet file.
        image_column, mask_column: pictures, arrays or nested lists (see ``from_arrays``), or paths that begin at the
            folder of the table; ``mask_column=""`` (or None) where nobody annotated.
        group_column: what shares a style. "" (or None) makes each image its own group, which is right for pictures that
            have nothing in common. It has to be asked for: with several pictures a patient, such groups would put one
            patient on both sides of a split and nobody would notice.
        split: such as "train", "train[:100]", or "all".
        mask_values, mask_threshold: as for ``load_image_folder``.
        options: handed on to ``datasets.load_dataset``, such as ``name`` or ``revision``; but not ``streaming``.

    Raises:
        ValueError: impossible ``mask_values`` or ``mask_threshold``.
        PatchTableError: no such data set or split, no network, a missing column, one that holds no pictures, a path
            without a file, a row without a group, files whose class labels differ, or a stream.

    >>> import tempfile
    >>> import numpy as np
    >>> from sedm.data.patch_table import from_arrays, save_patches
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pixels = np.zeros((2, 8, 8, 3), np.uint8)
    ...     table = from_arrays(pixels, pixels[..., 0], ["a", "b"]).rename_column("group", "patient")
    ...     path = save_patches(table, Path(folder) / "train.parquet")
    ...     load_hub_dataset(path, group_column="patient")["group"][:]
    ['a', 'b']
    """
    source_format = SourceFormat(
        image_column=image_column,
        mask_column=mask_column or "",
        group_column=group_column or "",
        mask_values=mask_values,
        mask_threshold=mask_threshold,
    )
    table = open_hub_dataset(name_or_path, source_format, split, **options)
    return convert_table(table, str(name_or_path), source_format)


def open_hub_dataset(
    name_or_path: str | Path,
    source_format: SourceFormat,
    split: str = "train",
    report: Report | None = raise_fault,
    **options,
) -> datasets.Dataset:
    """Open a data set as ``load_hub_dataset`` does, but leave its pictures and groups as they are stored.

    Args:
        report: is told of each path without a file; None does not look for the files.

    Returns:
        A table with the columns ``image``, ``mask`` and ``group``, and further ones.

    Raises:
        PatchTableError: as ``load_hub_dataset``, but for the contents of rows.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = datasets.Dataset.from_dict({"image": [[[0, 0]]], "mask": ["1 2"], "group": [7]})
    ...     _ = table.to_parquet(Path(folder) / "train.parquet")
    ...     open_hub_dataset(folder, SourceFormat(mask_kind="run-lengths")).select_columns(["mask", "group"])[0]
    {'mask': '1 2', 'group': 7}
    """
    name, path = str(name_or_path), Path(name_or_path)
    if options.get("streaming"):
        raise PatchTableError(f"{name}: no streaming=True here; load_patches(…, streaming=True) streams a saved table")
    table = _load(name, path, split, options)
    if not isinstance(table, datasets.Dataset):
        raise PatchTableError(f"{name}: split={split!r} is several tables; give one of {', '.join(table)}, or 'all'")
    columns = {role: getattr(source_format, f"{role}_column") for role in ("image", "mask", "group")}
    for role, column in columns.items():
        if column and column not in table.column_names:
            raise PatchTableError(f"{name}: no column {column!r}; it has {', '.join(table.column_names)}{ADVICE[role]}")
        if column != role and role in table.column_names:
            raise PatchTableError(f"{name}: {role}_column={column!r}, but it has a column {role!r} as well")
    folder = path.parent if path.is_file() else path
    pictures = [columns["image"]] if source_format.mask_kind == "run-lengths" else [columns["image"], columns["mask"]]
    for column in filter(None, pictures):
        table = _as_pictures(table, column, name, folder, report)
    table = table.rename_columns({column: role for role, column in columns.items() if column in table.column_names})
    if not columns["mask"]:
        table = table.add_column("mask", [None] * len(table), feature=datasets.Image())
    if not columns["group"]:
        table = table.add_column("group", [f"{split}-image-{row}" for row in range(len(table))], feature=TEXT)
    return table.select_columns([*(column for column in table.column_names if column != "group"), "group"])


def _load(name: str, path: Path, split: str, options: dict) -> datasets.Dataset:
    loader = name
    files: dict[str, list[Path]] = {}
    if path.is_file():
        first = re.match(r"\w*", str(split))[0]  # "train" of "train[:100]"
        files = {"train" if first == "all" else first: [path]}
    elif path.is_dir() and split not in KEPT and split in find_splits(path):
        files, split = {"train": files_of_split(path, split)}, "train"
    elif path.is_dir() and as_pattern(path) != str(path.absolute()):  # datasets would read what the pattern finds
        files = find_splits(path)
        if not files:
            raise PatchTableError(f"{path}: datasets takes this name for a pattern; rename the folder")
    if files:
        loader = "parquet"
        options = {**options, "data_files": {key: [as_pattern(file) for file in files[key]] for key in files}}
    try:
        if path.is_file():
            check_labels([path])
        if path.is_dir():  # ``datasets`` gives all splits the labels of the first file
            splits = datasets.load_dataset_builder(loader, **options).config.data_files or {}
            check_labels([Path(file) for part in splits.values() for file in part if Path(file).suffix == ".parquet"])
        return datasets.load_dataset(loader, split=split, **options)
    except PatchTableError:
        raise
    except ConnectionError as error:
        raise PatchTableError(f"{name}: no such folder, and the Hub cannot be reached ({_line(error)})") from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise PatchTableError(f"{name}: cannot be loaded ({_line(error)})") from error


def _as_pictures(
    table: datasets.Dataset, column: str, name: str, folder: Path, report: Report | None
) -> datasets.Dataset:
    """Make pictures of whatever a column holds, but leave arrays as they are."""
    form = picture_form(table.features.arrow_schema.field(column).type)
    if form is None:
        raise PatchTableError(f"{name}: the column {column!r} holds no pictures but {table.features[column]}")
    if form == "pictures":
        return table.cast_column(column, datasets.Image())
    if form == "arrays":
        return table
    pictures = [stored_path(path, folder) for path in table[column][:]]
    for row, picture in enumerate(pictures if report else ()):
        if picture is not None:
            try:
                check_file(picture, locate(picture, f"{name}, row {row}, column {column!r}"))
            except PatchTableError as fault:
                report(fault.at(row=row, column=column))
    return replace_column(table, column, pictures, datasets.Image())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
