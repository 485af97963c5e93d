"""The pictures in a folder of the user's: which files they are, whose mask is whose, and which group each is of.

Names are paths in ``images/`` or ``masks/``, with slashes. No picture is opened here.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from sedm.data.folders.file_names import (
    comparable,
    find_files,
    has_mask_word,
    is_mask_folder,
    masked_stem,
    unclear_masks,
)
from sedm.data.folders.spreadsheets import read_spreadsheet
from sedm.data.patch_table import PatchTableError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # JPEG would blur class indices
UNREAD_SUFFIXES = (".webp", ".gif", ".jp2", ".heic", ".avif", ".npy", ".svs", ".ndpi", ".mrxs", ".dcm")
TABLE_SUFFIXES = (".csv", ".jsonl", ".ods", ".parquet", ".tab", ".tsv", ".txt", ".xls", ".xlsx")

EXPECTED = (
    "expected images/<group>/<file> and masks/<group>/<file>, or images/<file> and masks/<file> with a metadata.csv "
    "that has the columns file_name,group"
)

Files = Mapping[str, Path]


def find_image_files(folder: Path, group_level: int | Sequence[int] | None = None) -> list[dict[str, str | None]]:
    """Find the pictures of an image folder, in order, each with its group and its mask.

    Args, Raises: as ``load_image_folder``.

    Returns:
        The columns of each picture: ``image`` and ``mask`` (paths; None where nobody annotated), ``group``,
        ``file_name`` (its name), and the further ones of ``metadata.csv``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("images/case-7/a.jpg", "masks/case-7/a_mask.png"):
    ...         (Path(folder) / name).parent.mkdir(parents=True)
    ...         (Path(folder) / name).touch()
    ...     [(row["file_name"], row["group"], Path(row["mask"]).name) for row in find_image_files(Path(folder))]
    [('case-7/a.jpg', 'case-7', 'a_mask.png')]
    """
    if not (folder / "images").is_dir():
        missing = "no folder images/ in it" if folder.is_dir() else "no such folder"
        raise PatchTableError(f"{folder}: {missing}; {EXPECTED}")
    pictures, masks_beside = _part_masks(folder / "images")
    if not pictures:
        raise PatchTableError(f"{folder / 'images'}: no image files ({', '.join(IMAGE_SUFFIXES)})")
    masks = [*masks_beside.items(), *find_files(folder / "masks").items()]
    metadata = folder / "metadata.csv"
    if metadata.is_file():
        if group_level is not None:
            raise ValueError(f"group_level={group_level}, but {metadata} names the groups; leave one of them out")
        rows = _read_metadata(metadata, pictures, masks)
    else:
        _refuse_other_metadata(folder)
        levels = _check_levels(group_level)
        rows = {name: {"group": _group_of(path, name, levels)} for name, path in pictures.items()}
    if not any("mask" in row for row in rows.values()):
        mask_of = _match_masks(folder, pictures, masks)
        rows = {name: {**row, "mask": mask_of.get(name)} for name, row in rows.items()}
    in_order = dict.fromkeys(("image", "mask", "group", "file_name"))
    return [in_order | rows[name] | {"image": str(path), "file_name": name} for name, path in pictures.items()]


# ------------------------------------------------------------------------------------------------ pictures and masks


def _part_masks(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Part what lies in ``images/`` into pictures, and masks that lie beside the pictures of their names."""
    files = find_files(folder)
    stems = {posixpath.splitext(name)[0] for name in files if _suffix(name) in IMAGE_SUFFIXES}
    pictures: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for name, path in files.items():
        mask_folders = [parent for parent in name.split("/")[:-1] if is_mask_folder(parent)]
        if mask_folders:
            raise PatchTableError(
                f"{path}: a folder {mask_folders[0]!r} in images/; masks go into masks/, beside images/"
            )
        if masked_stem(name) in stems:
            masks[name] = path
        elif _suffix(name) in IMAGE_SUFFIXES:
            pictures[name] = path
        elif _suffix(name) in UNREAD_SUFFIXES:
            raise PatchTableError(f"{path}: pictures are {', '.join(IMAGE_SUFFIXES)}; convert it, or move it away")
    _refuse_unclear_masks(pictures, has_masks=bool(masks))
    return pictures, masks


def _refuse_unclear_masks(pictures: Files, has_masks: bool) -> None:
    """Refuse what is named like a mask but of no picture, where other names say that it is one."""
    stems: dict[str, list[str]] = defaultdict(list)
    for name in pictures:
        parent, stem = posixpath.split(posixpath.splitext(name)[0])
        stems[parent].append(stem)
    unclear = {posixpath.join(parent, stem) for parent in stems for stem in unclear_masks(stems[parent])}
    for name, path in pictures.items():
        if posixpath.splitext(name)[0] in unclear or (has_masks and masked_stem(name)):
            raise PatchTableError(
                f"{path}: named like a mask, but of no picture beside it; put masks into masks/ under the names of "
                "their pictures, or rename it if it is a picture itself"
            )


def _match_masks(folder: Path, pictures: Files, masks: Sequence[tuple[str, Path]]) -> dict[str, str]:
    """Find the mask of each picture that has one: the file of its name, perhaps with a word such as ``_mask``."""
    names_of: dict[str, list[str]] = defaultdict(list)
    for name in pictures:
        names_of[comparable(posixpath.splitext(name)[0])].append(name)
    mask_of: dict[str, str] = {}
    # lossless files first: a preview beside a mask does no harm
    for mask_name, path in sorted(masks, key=lambda mask: _suffix(mask[0]) not in MASK_SUFFIXES):
        spelling = comparable(mask_name)
        names = names_of.get(posixpath.splitext(spelling)[0]) or names_of.get(masked_stem(spelling), [])
        if _suffix(mask_name) not in MASK_SUFFIXES and all(name in mask_of for name in names):
            continue  # or a list of class names, say
        _check_lossless(path)
        if len(names) != 1:
            raise PatchTableError(f"{path}: a mask of {len(names)} images ({', '.join(names) or 'none of its name'})")
        if names[0] in mask_of:
            raise PatchTableError(f"{path}: a second mask of {names[0]!r}, besides {Path(mask_of[names[0]]).name}")
        mask_of[names[0]] = str(path)
    for path in sorted(folder.glob("*")) if not mask_of else ():
        if path.is_dir() and has_mask_word(path.name) and find_files(path):
            raise PatchTableError(
                f"{path}: none of these files was read as a mask; masks are {', '.join(MASK_SUFFIXES)} in "
                f"{folder / 'masks'} under the names of their images, so rename this folder or move it away"
            )
    return mask_of


def _check_lossless(mask: Path) -> None:
    if _suffix(mask.name) not in MASK_SUFFIXES:
        raise PatchTableError(f"{mask}: masks are {', '.join(MASK_SUFFIXES)}; JPEG would blur class indices")


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


# ------------------------------------------------------------------------------------------------ groups


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


def _read_metadata(metadata: Path, pictures: Files, masks: Sequence[tuple[str, Path]]) -> dict[str, dict]:
    """Read what ``metadata.csv`` says of each picture: its group, its mask if it names masks, and further columns."""
    names = {comparable(name): name for name in pictures}
    files = {comparable(name): path for name, path in masks}
    rows: dict[str, dict] = {}
    for line, row in read_spreadsheet(metadata, columns=("file_name", "group")).items():
        where = f"{metadata}, line {line}"
        for column in ("image", "mask"):
            if column in row:
                raise PatchTableError(
                    f"{metadata}: the column {column!r} is kept for pictures; name files mask_file_name"
                )
        file_name = row.pop("file_name")
        name = names.get(comparable(file_name))
        if name is None:
            path = metadata.parent / "images" / file_name
            fault = "a mask by its name, or no picture" if path.is_file() else "no such file"
            raise PatchTableError(f"{where}: {fault}, {path}")
        if name in rows:
            raise PatchTableError(f"{where}: {name!r} is there twice")
        rows[name] = row
        mask_name = row.pop("mask_file_name", None)
        if mask_name is not None:
            row["mask"] = None  # an empty name: nobody annotated it
        if mask_name:
            mask = files.get(comparable(mask_name))
            if mask is None:
                path = metadata.parent / "masks" / mask_name
                raise PatchTableError(f"{where}: the mask of {name!r} is not there, {path}")
            _check_lossless(mask)
            row["mask"] = str(mask)
    for name, path in pictures.items():
        if name not in rows:
            raise PatchTableError(f"{path}: no group; {metadata.name} has no row for {name!r}")
    if "mask" in row:
        used = {row["mask"] for row in rows.values()}
        for name, path in masks:
            if _suffix(name) in MASK_SUFFIXES and str(path) not in used:
                raise PatchTableError(f"{path}: {metadata.name} names no image for this mask")
    return rows
