"""The pictures in a folder of the user's: which files they are, whose mask is whose, and which group each is of."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sedm.data.folders.file_names import comparable, find_files
from sedm.data.folders.mask_files import find_masks, match_masks, part_masks
from sedm.data.folders.spreadsheets import read_spreadsheet
from sedm.data.patch_table import PatchTableError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
TABLE_SUFFIXES = (".csv", ".jsonl", ".ods", ".parquet", ".tab", ".tsv", ".txt", ".xls", ".xlsx")

EXPECTED = (
    "expected images/<group>/<file> and masks/<group>/<file>, or images/<file> and masks/<file> with a metadata.csv "
    "that has the columns file_name,group"
)


@dataclass(frozen=True)
class ImageFile:
    """A picture in an image folder."""

    name: str  # its path in images/
    path: Path
    group: str
    mask: Path | None  # None where nobody annotated
    columns: dict[str, str]  # further ones of metadata.csv


def find_image_files(folder: Path, group_level: int | Sequence[int] | None = None) -> list[ImageFile]:
    """Find the pictures of an image folder, in order, each with its group and its mask; open none of them.

    Args, Raises: as ``load_image_folder``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("images/case-7/a.jpg", "masks/case-7/a_mask.png"):
    ...         (Path(folder) / name).parent.mkdir(parents=True)
    ...         (Path(folder) / name).touch()
    ...     [(file.name, file.group, file.mask.name) for file in find_image_files(Path(folder))]
    [('case-7/a.jpg', 'case-7', 'a_mask.png')]
    """
    if not (folder / "images").is_dir():
        missing = "no folder images/ in it" if folder.is_dir() else "no such folder"
        raise PatchTableError(f"{folder}: {missing}; {EXPECTED}")
    pictures, masks_beside = part_masks(folder / "images", IMAGE_SUFFIXES)
    if not pictures:
        raise PatchTableError(f"{folder / 'images'}: no image files ({', '.join(IMAGE_SUFFIXES)})")
    masks = [*masks_beside.items(), *find_files(folder / "masks").items()]
    metadata = folder / "metadata.csv"
    if metadata.is_file():
        if group_level is not None:
            raise ValueError(f"group_level={group_level}, but {metadata} names the groups; leave one of them out")
        return _read_metadata(metadata, pictures, masks)
    _refuse_other_metadata(folder)
    levels = _check_levels(group_level)
    groups = {name: _group_of(path, name, levels) for name, path in pictures.items()}
    mask_of = find_masks(folder, pictures, masks)
    return [ImageFile(name, path, groups[name], mask_of.get(name), {}) for name, path in pictures.items()]


def _check_levels(group_level: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if group_level is None:
        return None
    levels = tuple(group_level) if isinstance(group_level, (list, tuple)) else (group_level,)
    if not levels or not all(isinstance(level, int) and level != 0 for level in levels):
        raise ValueError(f"group_level={group_level!r}; 1 is a folder in images/, -1 the folder that holds the file")
    return levels


def _group_of(path: Path, name: str, levels: tuple[int, ...] | None) -> str:
    """Read the group of a picture off the folders between ``images/`` and the file."""
    folders = unicodedata.normalize("NFC", name).split("/")[:-1]  # some disks store accents as characters of their own
    depth = len(folders)
    if depth == 0:
        raise PatchTableError(f"{path}: no group; use images/<group>/<file> or metadata.csv")
    if levels is None and depth > 1:
        raise PatchTableError(
            f"{path}: {depth} folders deep in images/, and any of them may be the group; pass group_level=1 for "
            f"{folders[0]!r}, {depth} for {folders[-1]!r} or {tuple(range(1, depth + 1))} for {'/'.join(folders)!r}, "
            "or name the groups in metadata.csv"
        )
    levels = levels or (1,)
    if max(levels) > depth or -min(levels) > depth:
        raise PatchTableError(
            f"{path}: {depth} folders deep in images/, too few for group_level={', '.join(map(str, levels))}"
        )
    return "/".join(folders[level - 1 if level > 0 else level] for level in levels)


def _refuse_other_metadata(folder: Path) -> None:
    """Refuse a table of groups that would go unread for its name or its place."""
    for path in sorted([*folder.glob("*"), *(folder / "images").glob("*")]):
        if path.name.casefold().startswith("metadata.") and path.suffix.lower() in TABLE_SUFFIXES:
            raise PatchTableError(
                f"{path}: save this table as {folder / 'metadata.csv'} (“CSV UTF-8”), or move it away"
            )


def _read_metadata(metadata: Path, pictures: Mapping[str, Path], masks: Sequence[tuple[str, Path]]) -> list[ImageFile]:
    """Read the group of each picture and, where the table has such columns, its mask and further text."""
    table = read_spreadsheet(metadata, columns=("file_name", "group"))
    columns = list(next(iter(table.values())))
    for column in ("image", "mask"):
        if column in columns:
            raise PatchTableError(f"{metadata}: the column {column!r} is kept for pictures; name files mask_file_name")
    lines = _find_lines(metadata, table, pictures)
    if "mask_file_name" in columns:
        mask_names = {name: table[line]["mask_file_name"] for name, line in lines.items()}
        mask_of = match_masks(metadata, mask_names, lines, masks)
    else:
        mask_of = find_masks(metadata.parent, pictures, masks)
    further = [column for column in columns if column not in ("file_name", "group", "mask_file_name")]
    files = []
    for name, path in pictures.items():
        row = table[lines[name]]
        files.append(
            ImageFile(name, path, row["group"], mask_of.get(name), {column: row[column] for column in further})
        )
    return files


def _find_lines(metadata: Path, table: Mapping[int, Mapping[str, str]], pictures: Mapping[str, Path]) -> dict[str, int]:
    """Find the line of each picture."""
    names = {comparable(name): name for name in pictures}
    lines: dict[str, int] = {}
    for line, row in table.items():
        path = metadata.parent / "images" / row["file_name"]
        name = names.get(comparable(row["file_name"]))
        if name is None:
            fault = "a mask by its name, or no picture" if path.is_file() else "no such file"
            raise PatchTableError(f"{metadata}, line {line}: {fault}, {path}")
        if name in lines:
            raise PatchTableError(f"{metadata}, line {line}: {name!r} is there twice")
        lines[name] = line
    for name, path in pictures.items():
        if name not in lines:
            raise PatchTableError(f"{path}: no group; {metadata.name} has no row for {name!r}")
    return lines
