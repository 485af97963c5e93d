"""Patch tables of the user's own pictures: a folder of files, or any data set that ``datasets`` can load."""

from __future__ import annotations

import csv
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sedm.data.file_names import find_files, folder_names
from sedm.data.image_files import find_image_files
from sedm.data.patches import UNKNOWN, PatchTableError, decode, encode, locate
from sedm.files import replacing

MaskValues = Mapping[int, int] | Mapping[tuple[int, int, int], int]


def load_image_folder(
    folder: str | Path,
    mask_values: MaskValues | None = None,
    group_level: int | Sequence[int] | None = None,
) -> datasets.Dataset:
    """Read a folder with ``images/`` and, under the same names, ``masks/`` of lossless files as a patch table.

    Groups are the folders in ``images/``. Or ``metadata.csv`` names them: a row a file, with the columns ``file_name``
    (in ``images/``), ``group``, if wanted ``mask_file_name`` (in ``masks/``; empty where not annotated), and any
    others, which stay columns of text; blanks around cells do not count, and any encoding and separator of
    ``read_spreadsheet`` will do. A missing mask file means: not annotated. The name of each file is kept as
    ``file_name``.

    A mask may add a word to the name of its picture (``a_mask.png``, ``seg-a.png``) and then also lie beside it. Hidden
    files and folders, and those of systems (``.ipynb_checkpoints``, ``@eaDir``, ``__MACOSX``), are passed over.

    The table holds where the pictures lie; ``save_patches`` copies them. Masks are read as they are: class indices in
    one channel, also those of a palette. Only masks that ``mask_values`` translates are held in memory, as PNG.

    Args:
        mask_values: the class index of each value in the mask files, such as ``{0: 0, 255: 1}``, or of each colour,
            such as ``{(0, 0, 0): 0, (255, 0, 0): 1}``.
        group_level: which folder is the group, where they are nested: 1 is the one in ``images/``, 2 the one in that,
            -1 the one that holds the file; ``(1, 2)`` joins two names with a slash.

    Raises:
        PatchTableError: no images, an image without a group or in nested folders without a ``group_level``, a mask
            without an image or in a format that loses values, a folder or file named like masks that would go unread,
            a table of groups that cannot be read, lacks columns or names a file that is not there, a value that
            ``mask_values`` does not name.
        ValueError: a ``group_level`` that is none, or one beside ``metadata.csv``.

    From a folder to a table for training:

    >>> import tempfile
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
    folder = Path(folder).absolute()
    files = find_image_files(folder, group_level)
    table = datasets.Dataset.from_dict(
        {
            "image": [_stored(file.path) for file in files],
            "mask": [_stored(file.mask) for file in files],
            "group": [file.group for file in files],
            "file_name": [file.name for file in files],
            **{column: [file.columns[column] for file in files] for column in files[0].columns},
        }
    )
    table = table.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())
    return table if mask_values is None else _translate_masks(table, mask_values, str(folder))


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
    >>> from sedm.data.patches import from_arrays
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
    _refuse_other_files(folder, {"images": set(names), "masks": set(mask_names)})
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


def load_hub_dataset(
    name_or_path: str | Path,
    image_column: str = "image",
    mask_column: str | None = "mask",
    group_column: str | None = "group",
    split: str = "train",
    mask_values: MaskValues | None = None,
    **options,
) -> datasets.Dataset:
    """The patch table of one split of a data set that ``datasets.load_dataset`` finds: on the Hub, or in a folder.

    Args:
        name_or_path: ``owner/name`` on the Hub, a local folder, or a parquet file.
        image_column, mask_column: pictures; ``mask_column=None`` where nobody annotated.
        group_column: what shares a style. None makes each image its own group, which is right for pictures that
            have nothing in common. It has to be asked for: with several pictures a patient, such groups would put one
            patient on both sides of a split and nobody would notice.
        mask_values: as for ``load_image_folder``.
        options: handed on to ``datasets.load_dataset``, such as ``name`` or ``revision``.

    Raises:
        PatchTableError: no such data set or split, no network, a missing column, or one that holds no pictures.

    >>> import tempfile
    >>> from sedm.data.patches import from_arrays, save_patches
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pixels = np.zeros((2, 8, 8, 3), np.uint8)
    ...     table = from_arrays(pixels, pixels[..., 0], ["a", "b"]).rename_column("group", "patient")
    ...     path = save_patches(table, Path(folder) / "train.parquet")
    ...     load_hub_dataset(path, group_column="patient")["group"][:]
    ['a', 'b']
    """
    name = str(name_or_path)
    source = (name,)
    if Path(name).is_file():
        source, options = ("parquet",), {**options, "data_files": {split: name}}
    try:
        table = datasets.load_dataset(*source, split=split, **options)
    except ConnectionError as error:
        raise PatchTableError(f"{name}: no such folder, and the Hub cannot be reached ({_line(error)})") from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise PatchTableError(f"{name}: cannot be loaded ({_line(error)})") from error
    columns = {"image": image_column, "mask": mask_column, "group": group_column}
    for wanted, column in columns.items():
        if column is not None and column not in table.column_names:
            hint = "; group_column=None makes every image its own group" if wanted == "group" else ""
            raise PatchTableError(f"{name}: no column {column!r}; it has {', '.join(table.column_names)}{hint}")
        if column != wanted and wanted in table.column_names:
            raise PatchTableError(f"{name}: {wanted}_column={column!r}, but it has a column {wanted!r} as well")
    groups = _group_names(table, group_column)
    for column in filter(None, (image_column, mask_column)):
        table = _as_pictures(table, column, name)
    renamed = {column: wanted for wanted, column in columns.items() if column not in (wanted, None)}
    table = table.rename_columns(renamed) if renamed else table
    if mask_column is None:
        table = table.add_column("mask", [None] * len(table), feature=datasets.Image())
    table = table.remove_columns("group") if group_column is not None else table
    table = table.add_column("group", groups, feature=datasets.Value("string"))
    return table if mask_values is None else _translate_masks(table, mask_values, name)


def class_indices(mask: Image.Image, mask_values: MaskValues, where: str) -> UInt8[np.ndarray, "h w"]:
    """A mask's class indices, given what each of its values or colours means; ``where`` begins an error message.

    Raises:
        PatchTableError: a value that ``mask_values`` does not name, or a colour mask where it names no colours.

    >>> class_indices(Image.new("RGB", (2, 1), "red"), {(255, 0, 0): 1}, "a.png")
    array([[1, 1]], dtype=uint8)
    """
    by_colour = any(isinstance(value, tuple) for value in mask_values)
    pixels = np.asarray(mask.convert("RGB") if by_colour else mask)
    if pixels.ndim > 2 and not by_colour:
        raise PatchTableError(f"{where}: a colour mask; name its colours, such as mask_values={{(255, 0, 0): 1}}")
    flat = pixels.reshape(mask.height * mask.width, -1).astype(np.int64)
    found, rows = np.unique(flat @ (256 ** np.arange(flat.shape[1])[::-1]), return_inverse=True)
    meant = {_code(value): index for value, index in mask_values.items()}
    for code in found.tolist():
        if code not in meant:
            value = (code >> 16, code >> 8 & 255, code & 255) if by_colour else code
            known = ", ".join(map(str, mask_values))
            raise PatchTableError(f"{where}: value {value} is not in mask_values, which has {known}")
    return np.array([meant[code] for code in found.tolist()], np.uint8)[rows].reshape(mask.height, mask.width)


def _translate_masks(table: datasets.Dataset, mask_values: MaskValues, name: str) -> datasets.Dataset:
    if not mask_values or len({isinstance(value, tuple) for value in mask_values}) > 1:
        raise ValueError(f"mask_values={dict(mask_values)}; give the class of each value, or of each colour")
    if not all(0 <= index < UNKNOWN for index in mask_values.values()):
        raise ValueError(f"mask_values={dict(mask_values)}; class indices lie in 0..{UNKNOWN - 1}")

    def translate(mask: dict | None, row: int) -> dict:
        if mask is None:
            return {"mask": None}
        where = f"{name}, row {row}, column 'mask'"
        return {"mask": encode(class_indices(decode(mask, where), mask_values, locate(mask, where)))}

    masks = table.select_columns("mask").cast_column("mask", datasets.Image(decode=False))
    masks = masks.map(
        translate,
        with_indices=True,
        input_columns="mask",
        features=datasets.Features({"mask": datasets.Image()}),
        load_from_cache_file=False,  # what another version of this function made does not count
        new_fingerprint=uuid.uuid4().hex,  # so there is no need to hash the function, which takes seconds
        desc="translating masks",
    )
    order = table.column_names
    return datasets.concatenate_datasets([table.remove_columns("mask"), masks], axis=1).select_columns(order)


def _code(value: int | tuple[int, int, int]) -> int:
    """One number for a value or a colour."""
    return value[0] << 16 | value[1] << 8 | value[2] if isinstance(value, tuple) else value


def _refuse_other_files(folder: Path, names: Mapping[str, set[str]]) -> None:
    """Refuse a folder with pictures that a table would not replace but mix with its own."""
    for kind, own in names.items():
        for name, path in find_files(folder / kind).items():
            if name not in own:
                raise PatchTableError(f"{path}: no picture of this table; save it into a folder of its own")


def _stored(path: Path | None) -> dict | None:
    return None if path is None else {"bytes": None, "path": str(path)}


def _as_pictures(table: datasets.Dataset, column: str, name: str) -> datasets.Dataset:
    try:
        return table.cast_column(column, datasets.Image())
    except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's errors are some of these
        found = table.features[column]
        raise PatchTableError(f"{name}: the column {column!r} holds no pictures but {found}") from error


def _group_names(table: datasets.Dataset, column: str | None) -> list[str | None]:
    if column is None:
        return [f"image-{row}" for row in range(len(table))]
    values, feature = table[column][:], table.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None else feature.int2str(value) for value in values]
    return [None if value is None else str(value) for value in values]


def _line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()
