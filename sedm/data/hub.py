"""Patch tables of any data set that ``datasets`` can load: on the Hub, or in a folder."""

from __future__ import annotations

import re
from pathlib import Path

import datasets

from sedm.data.groups import labels_of, name_groups
from sedm.data.mask_values import MaskCoding, check_mask_values, map_pictures, translate_masks
from sedm.data.patch_table import PatchTableError, replace_column, stored_path
from sedm.data.pixel_arrays import image_of_array
from sedm.data.table_files import as_pattern, check_labels, find_splits, picture_form

ADVICE = {
    "image": "",
    "mask": "; mask_column=None is for images that nobody annotated",
    "group": "; group_column=None makes every image its own group",
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
            folder of the table; ``mask_column=None`` where nobody annotated.
        group_column: what shares a style. None makes each image its own group, which is right for pictures that
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
    mask_values = check_mask_values(mask_values, mask_threshold)
    name, path = str(name_or_path), Path(name_or_path)
    if options.get("streaming"):
        raise PatchTableError(f"{name}: no streaming=True here; load_patches(…, streaming=True) streams a saved table")
    table = _load(name, path, split, options)
    if not isinstance(table, datasets.Dataset):
        raise PatchTableError(f"{name}: split={split!r} is several tables; give one of {', '.join(table)}, or 'all'")
    columns = {"image": image_column, "mask": mask_column, "group": group_column}
    for role, column in columns.items():
        if column is not None and column not in table.column_names:
            raise PatchTableError(f"{name}: no column {column!r}; it has {', '.join(table.column_names)}{ADVICE[role]}")
        if column != role and role in table.column_names:
            raise PatchTableError(f"{name}: {role}_column={column!r}, but it has a column {role!r} as well")
    if group_column is None:
        groups = [f"{split}-image-{row}" for row in range(len(table))]
    else:
        groups = name_groups(table[group_column][:], name, group_column, labels_of(table.features[group_column]))
        table = table.remove_columns(group_column)
    folder = path.parent if path.is_file() else path
    has_arrays = mask_column is not None and _form(table, mask_column, name) == "arrays"
    for column in (image_column, None if has_arrays else mask_column):
        if column is not None:
            table = _as_pictures(table, column, name, folder)
    table = table.rename_columns({column: role for role, column in columns.items() if column in table.column_names})
    if mask_column is None:
        table = table.add_column("mask", [None] * len(table), feature=datasets.Image())
    table = table.add_column("group", groups, feature=datasets.Value("string"))
    if mask_values is None and mask_threshold is None and not has_arrays:
        return table
    return translate_masks(table, name, mask_values, mask_threshold)


def _load(name: str, path: Path, split: str, options: dict) -> datasets.Dataset:
    loader = name
    files: dict[str, list[Path]] = {}
    if path.is_file():
        first = re.match(r"\w*", str(split))[0]  # "train" of "train[:100]"
        files = {"train" if first == "all" else first: [path]}
    elif path.is_dir() and as_pattern(path) != str(path.absolute()):  # datasets would read what the pattern finds
        files = find_splits(path)
        if not files:
            raise PatchTableError(f"{path}: datasets takes this name for a pattern; rename the folder")
    if files:
        loader = "parquet"
        options = {**options, "data_files": {key: [as_pattern(file) for file in files[key]] for key in files}}
    try:
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


def _form(table: datasets.Dataset, column: str, name: str) -> str:
    """Tell in what form a column holds pictures, as ``picture_form`` does."""
    form = picture_form(table.features.arrow_schema.field(column).type)
    if form is None:
        raise PatchTableError(f"{name}: the column {column!r} holds no pictures but {table.features[column]}")
    return form


def _as_pictures(table: datasets.Dataset, column: str, name: str, folder: Path) -> datasets.Dataset:
    form = _form(table, column, name)
    if form == "pictures":
        return table.cast_column(column, datasets.Image())
    if form == "arrays":
        return map_pictures(table, column, image_of_array, name)
    pictures = [stored_path(path, folder) for path in table[column][:]]
    for row, picture in enumerate(pictures):
        if picture is not None and not Path(picture["path"]).is_file():
            where = f"{name}, row {row}, column {column!r}"
            raise PatchTableError(f"{where}: no file {picture['path']}; paths begin at the folder of the table")
    return replace_column(table, column, pictures, datasets.Image())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
