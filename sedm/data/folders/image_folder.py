"""Patch tables of the user's own pictures in a folder of files."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import datasets

from sedm.data.conversion import convert_table
from sedm.data.errors import PatchTableError, Report, raise_fault
from sedm.data.folders.file_names import find_files, folder_names
from sedm.data.folders.image_files import find_image_files
from sedm.data.folders.roots import find_roots
from sedm.data.mask_values import MaskCoding
from sedm.data.source_format import SourceFormat
from sedm.data.table_rows import TEXT
from sedm.runtime.files import replacing


def load_image_folder(
    folder: str | Path,
    mask_values: MaskCoding | None = None,
    group_level: int | Sequence[int] | None = None,
    mask_threshold: float | None = None,
    split: str = "",
    **source_format,
) -> datasets.Dataset:
    """Read a folder with ``images/`` and, under the same names, ``masks/`` of lossless files as a patch table.

    Other names are known, too: ``image``, ``imgs`` or ``img``; and ``mask``, ``labels``, ``annotations``,
    ``segmentations``, ``ground_truth`` or ``gt``. Or all images lie in the folder itself, with masks beside them.

    Groups are the folders in ``images/``. Or ``metadata.csv`` names them: a row a file, with the columns ``file_name``
    (in ``images/``), ``group``, if wanted ``mask_file_name`` (in ``masks/``; empty where not annotated), and any
    others, which stay columns of text; blanks around cells do not count, and any encoding and separator of
    ``read_spreadsheet`` will do. A missing mask file means: not annotated. The name of each file is kept as
    ``file_name``.

    A mask may add a word to the name of its picture (``a_mask.png``, ``seg-a.png``) and then also lie beside it. Hidden
    files and folders, and those of systems (``.ipynb_checkpoints``, ``@eaDir``, ``__MACOSX``), are passed over.

    The table holds where the pictures lie; ``save_patches`` copies them. Masks are read as they are: class indices in
    one channel of 8 bits (or of more, where the values are as small), also those of a palette. What is translated or
    cut is stored as PNG, in a temporary file.

    Args:
        mask_values: the class index of each value in the mask files, such as ``{0: 0, 255: 1}``, or of each colour,
            such as ``{(0, 0, 0): 0, (255, 0, 0): 1}``; 255 as a class index means that nobody knows.
        group_level: which folder is the group, where they are nested: 1 is the one in ``images/``, 2 the one in that,
            -1 the one that holds the file; ``(1, 2)`` joins two names with a slash.
        mask_threshold: for masks in black and white whose borders were smoothed, in place of ``mask_values``: values
            above it, such as 127, become class 1, the others class 0.
        split: of a folder with ``train/images/`` … or ``images/train/`` …, the one that is read.
        source_format: other fields of ``sedm.data.source_format.SourceFormat``, such as ``images="photos"``.

    Raises:
        PatchTableError: no images, an image without a group or in nested folders without a ``group_level``, a mask
            without an image or in a format that loses values, a folder or file named like masks that would go unread,
            a table of groups that cannot be read, lacks columns or names a file that is not there, a value that
            ``mask_values`` does not name, or a picture that the format does not describe.
        ValueError: a field of the format that makes no sense, or a ``group_level`` beside ``metadata.csv``.

    From a folder to a table for training:

    >>> import tempfile
    >>> from PIL import Image
    >>> from sedm.data.patch_table import check_patches, load_patches, save_patches
    >>> from sedm.data.patches import Patches
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
    >>> patches = Patches.from_table(load_patches(path, streaming=True), ("glass", "tissue"), image_size=8)
    >>> patches.images.shape, patches.masks.unique().tolist(), test["group"][:]
    (torch.Size([1, 3, 8, 8]), [1], ['case-7'])
    >>> folder.cleanup()
    """
    form = SourceFormat(
        mask_values=mask_values, group_level=group_level, mask_threshold=mask_threshold, **source_format
    )
    return convert_table(open_image_folder(folder, form, split), str(Path(folder).absolute()), form)


def open_image_folder(
    folder: str | Path, source_format: SourceFormat, split: str = "", report: Report = raise_fault
) -> datasets.Dataset:
    """Find what ``load_image_folder`` reads, but leave the pictures as they are.

    Args:
        report: is told each fault of the files and their names, and the picture is left out.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "case-7").mkdir()
    ...     for name in ("a.png", "a_anno.bmp"):
    ...         (Path(folder) / "case-7" / name).touch()
    ...     open_image_folder(folder, SourceFormat())["file_name"][:]
    ['case-7/a.png']
    """
    if source_format.mask_kind == "run-lengths":
        raise PatchTableError(f"{folder}: mask_kind='run-lengths' is for a table; masks in a folder are pictures")
    roots = find_roots(Path(folder).absolute(), source_format, split)
    return table_of_files(find_image_files(roots, source_format, report))


def table_of_files(rows: Iterable[Mapping[str, str | None]], text_columns: Collection[str] = ()) -> datasets.Dataset:
    """Make a table of rows whose ``image`` and ``mask`` are paths, and whose other columns are text.

    Args:
        text_columns: of these, columns that hold no paths.

    >>> table_of_files([{"image": "a.png", "mask": None, "group": "a"}]).features["mask"]
    Image(mode=None, decode=True)
    """
    columns: dict[str, list[str | None]] = {}
    for row in rows:
        for column, value in row.items():
            columns.setdefault(column, []).append(value)
    columns = columns or {column: [] for column in ("image", "mask", "group")}
    features = {
        column: datasets.Image() if column in ("image", "mask") and column not in text_columns else TEXT
        for column in columns
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def save_image_folder(table: datasets.Dataset, folder: str | Path) -> Path:
    """Write each row as ``images/<group>/<row>.png`` and, where annotated, the same in ``masks/``.

    What other tools read; ``load_image_folder`` makes a table of it again. ``metadata.csv`` holds the names of the
    groups, so a group whose name is no good for a folder, such as ``site/case`` or ``..``, gets a folder with another.

    Returns:
        The folder.

    Raises:
        PatchTableError: a row without a group, a group whose name a spreadsheet would change, or files of another table
            in the folder; nothing is written then.

    >>> import tempfile
    >>> import numpy as np
    >>> from sedm.data.patch_table import from_arrays
    >>> pixels = np.zeros((2, 8, 8, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_image_folder(from_arrays(pixels, [pixels[0, ..., 0], None], ["case-7", "site/8"]), folder)
    ...     loaded = load_image_folder(folder)
    >>> loaded["file_name"][:], loaded["group"][:]
    (['case-7/000000.png', 'group-site-8/000001.png'], ['case-7', 'site/8'])
    """
    folder = Path(folder)
    groups = table["group"][:]
    for row, group in enumerate(groups):
        if not isinstance(group, str) or not group or group != group.strip() or "\0" in group:
            raise PatchTableError(
                f"row {row}, column 'group': {group!r}; give each row a name without blanks around it"
            )
    folder_of = folder_names(groups)
    names = [f"{folder_of[group]}/{row:06d}.png" for row, group in enumerate(groups)]
    stored_masks = table.select_columns("mask").cast_column("mask", datasets.Image(decode=False))["mask"]
    mask_names = [name if mask else "" for name, mask in zip(names, stored_masks, strict=True)]
    for kind, own_names in (("images", set(names)), ("masks", set(mask_names))):
        for name, path in find_files(folder / kind).items():
            if name not in own_names:
                raise PatchTableError(f"{path}: no picture of this table; save it into a folder of its own")
    # first, so that reading what an interruption left ends in an error
    with replacing(folder / "metadata.csv") as path, path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "group", "mask_file_name"])
        writer.writerows(zip(names, groups, mask_names, strict=True))
    for name, patch in zip(names, table.select_columns(["image", "mask"]), strict=True):
        for kind in ("image", "mask"):
            if patch[kind] is not None:
                path = folder / f"{kind}s" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                patch[kind].save(path)
    return folder
