"""The pictures in a folder of the user's: which files they are, whose mask is whose, and which group each is of.

Names are paths in ``images/`` or ``masks/``, with slashes. No picture is opened here.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sedm.data.errors import PatchTableError, Report, raise_fault
from sedm.data.folders.file_names import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    comparable,
    find_files,
    has_mask_word,
    is_mask_folder,
    lossy_mask,
    masked_stem,
    suffix,
    unclear_masks,
)
from sedm.data.folders.path_tables import read_metadata
from sedm.data.folders.roots import Roots
from sedm.data.source_format import SourceFormat

UNREAD_SUFFIXES = (".webp", ".gif", ".jp2", ".heic", ".avif", ".npy", ".svs", ".ndpi", ".mrxs", ".dcm")
TABLE_SUFFIXES = (".csv", ".jsonl", ".ods", ".parquet", ".tab", ".tsv", ".txt", ".xls", ".xlsx")

Files = Mapping[str, str]


def find_image_files(
    roots: Roots, source_format: SourceFormat, report: Report = raise_fault
) -> Iterator[dict[str, str | None]]:
    """Find the pictures of an image folder, in order, each with its group and its mask.

    Args:
        report: is told each fault (see ``load_image_folder``), and the picture is left out.

    Yields:
        The columns of each picture: ``image`` and ``mask`` (paths; None where nobody annotated), ``group``,
        ``file_name`` (its name), and the further ones of ``metadata.csv``.

    >>> import tempfile
    >>> from sedm.data.folders.roots import find_roots
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("images/case-7/a.jpg", "masks/case-7/a_mask.png"):
    ...         (Path(folder) / name).parent.mkdir(parents=True)
    ...         (Path(folder) / name).touch()
    ...     rows = find_image_files(find_roots(Path(folder), SourceFormat()), SourceFormat())
    ...     [(row["file_name"], row["group"], Path(row["mask"]).name) for row in rows]
    [('case-7/a.jpg', 'case-7', 'a_mask.png')]
    """
    pictures, masks_beside = _part_masks(roots, report)
    if not pictures:
        report(PatchTableError(f"{roots.images}: no image files ({', '.join(IMAGE_SUFFIXES)})", file=roots.images))
    masks = [*masks_beside.items(), *find_files(roots.masks).items()]
    metadata = roots.folder / "metadata.csv"
    if metadata.is_file():
        if source_format.group_level is not None:
            level = source_format.group_level
            raise ValueError(f"group_level={level}, but {metadata} names the groups; leave one of them out")
        rows = read_metadata(roots, pictures, masks, source_format, report)
    else:
        _refuse_other_metadata(roots, report)
        rows = _group_by_folders(pictures, source_format, report)
    if not any("mask" in row for row in rows.values()):
        mask_of = _match_masks(roots, pictures, masks, report)
        for name, row in rows.items():
            row["mask"] = mask_of.get(name)
    in_order = dict.fromkeys(("image", "mask", "group", "file_name"))
    for name, path in pictures.items():
        if name in rows:
            yield in_order | rows[name] | {"image": path, "file_name": name}


# ------------------------------------------------------------------------------------------------ pictures and masks


def _part_masks(roots: Roots, report: Report) -> tuple[dict[str, str], dict[str, str]]:
    """Part what lies among the images into pictures, and masks that lie beside the pictures of their names."""
    files = find_files(roots.images)
    stems = {posixpath.splitext(name)[0] for name in files if suffix(name) in IMAGE_SUFFIXES}
    has_own_masks = roots.masks.is_relative_to(roots.images)
    pictures: dict[str, str] = {}
    masks: dict[str, str] = {}
    for name, path in files.items():
        if has_own_masks and Path(path).is_relative_to(roots.masks):
            continue
        mask_folders = [parent for parent in name.split("/")[:-1] if is_mask_folder(parent)]
        if mask_folders:
            message = f"a folder {mask_folders[0]!r} in images/; masks go into masks/, beside images/"
            report(PatchTableError(f"{path}: {message}", file=path))
        elif masked_stem(name) in stems:
            masks[name] = path
        elif suffix(name) in IMAGE_SUFFIXES:
            pictures[name] = path
        elif suffix(name) in UNREAD_SUFFIXES:
            message = f"pictures are {', '.join(IMAGE_SUFFIXES)}; convert it, or move it away"
            report(PatchTableError(f"{path}: {message}", file=path))
    for name in _unclear_masks(pictures, has_masks=bool(masks)):
        path = pictures.pop(name)
        message = (
            "named like a mask, but of no picture beside it; put masks into masks/ under the names of their pictures, "
            "or rename it if it is a picture itself"
        )
        report(PatchTableError(f"{path}: {message}", file=path))
    return pictures, masks


def _unclear_masks(pictures: Files, has_masks: bool) -> list[str]:
    """List what is named like a mask but of no picture, where other names say that it is one."""
    stems: dict[str, list[str]] = defaultdict(list)
    for name in pictures:
        parent, stem = posixpath.split(posixpath.splitext(name)[0])
        stems[parent].append(stem)
    unclear = {posixpath.join(parent, stem) for parent in stems for stem in unclear_masks(stems[parent])}
    return [name for name in pictures if posixpath.splitext(name)[0] in unclear or (has_masks and masked_stem(name))]


def _match_masks(roots: Roots, pictures: Files, masks: Sequence[tuple[str, str]], report: Report) -> dict[str, str]:
    """Find the mask of each picture that has one: the file of its name, perhaps with a word such as ``_mask``."""
    names_of: dict[str, tuple[str, ...]] = {}
    for name in pictures:
        stem = comparable(posixpath.splitext(name)[0])
        names_of[stem] = (*names_of.get(stem, ()), name)
    mask_of: dict[str, str] = {}
    n_unmatched = 0
    # lossless files first: a preview beside a mask does no harm
    for mask_name, path in sorted(masks, key=lambda mask: suffix(mask[0]) not in MASK_SUFFIXES):
        spelling = comparable(mask_name)
        names = names_of.get(posixpath.splitext(spelling)[0]) or names_of.get(masked_stem(spelling), ())
        if suffix(mask_name) not in MASK_SUFFIXES and all(name in mask_of for name in names):
            continue  # or a list of class names, say
        n_unmatched += 1
        if suffix(mask_name) not in MASK_SUFFIXES:
            report(lossy_mask(path))
        elif len(names) != 1:
            found = (
                f"a mask of {len(names)} images ({', '.join(names)})"
                if names
                else "a mask without an image of its name"
            )
            report(PatchTableError(f"{path}: {found}", file=path))
        elif names[0] in mask_of:
            message = f"a second mask of {names[0]!r}, besides {Path(mask_of[names[0]]).name}"
            report(PatchTableError(f"{path}: {message}", file=path))
        else:
            n_unmatched -= 1
            mask_of[names[0]] = path
    beside = {path for path in roots.folder.glob("*") if not roots.masks.is_relative_to(path)} | {roots.masks}
    for path in sorted(beside) if not mask_of and not n_unmatched else ():
        if path.is_dir() and path != roots.images and has_mask_word(path.name) and find_files(path):
            message = (
                f"none of these files was read as a mask; masks are {', '.join(MASK_SUFFIXES)} in {roots.masks} under "
                f"the names of their images, so name this folder by masks={path.name!r}, rename it, or move it away"
            )
            report(PatchTableError(f"{path}: {message}", file=path))
    return mask_of


# ------------------------------------------------------------------------------------------------ groups


def _group_by_folders(pictures: Files, source_format: SourceFormat, report: Report) -> dict[str, dict]:
    rows = {}
    for name, path in pictures.items():
        try:
            group = _group_of(path, name, source_format.levels) if source_format.group_column else name
        except PatchTableError as fault:
            report(fault.at(path, column="group"))
        else:
            rows[name] = {"group": group}
    return rows


def _group_of(path: str, name: str, levels: tuple[int, ...] | None) -> str:
    """Read the group of a picture off the folders between ``images/`` and the file."""
    folders = unicodedata.normalize("NFC", name).split("/")[:-1]  # some disks store accents as characters of their own
    depth = len(folders)
    if depth == 0:
        raise PatchTableError(f"{path}: no group; use images/<group>/<file> or metadata.csv")
    if levels is None and depth > 1:
        raise PatchTableError(
            f"{path}: {depth} folders deep in images/, and any of them may be the group; say group_level=1 for "
            f"{folders[0]!r}, {depth} for {folders[-1]!r} or {list(range(1, depth + 1))} for {'/'.join(folders)!r}, "
            "or name the groups in metadata.csv"
        )
    levels = levels or (1,)
    if max(levels) > depth or -min(levels) > depth:
        raise PatchTableError(
            f"{path}: {depth} folders deep in images/, too few for group_level={', '.join(map(str, levels))}"
        )
    return "/".join(folders[level - 1 if level > 0 else level] for level in levels)


def _refuse_other_metadata(roots: Roots, report: Report) -> None:
    """Refuse a table of groups that would go unread for its name or its place."""
    for path in sorted({*roots.folder.glob("*"), *roots.images.glob("*")}):
        if path.name.casefold().startswith("metadata.") and path.suffix.lower() in TABLE_SUFFIXES:
            place = roots.folder / "metadata.csv"
            message = f"save this table as {place} (“CSV UTF-8”), or move it away"
            report(PatchTableError(f"{path}: {message}", file=path))
