"""Which files of the user's are masks, and of which pictures: by their names, or by the table that names them."""

from __future__ import annotations

import posixpath
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
from sedm.data.patch_table import PatchTableError

UNREAD_SUFFIXES = (".webp", ".gif", ".jp2", ".heic", ".avif", ".npy", ".svs", ".ndpi", ".mrxs", ".dcm")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # JPEG would blur class indices


def part_masks(folder: Path, image_suffixes: Sequence[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Part what lies in ``images/`` into pictures, and masks that lie beside the pictures of their names.

    Args:
        folder: the folder ``images/``.
        image_suffixes: of pictures, in lower case.

    Returns:
        The pictures, and the masks, by their names in the folder.

    Raises:
        PatchTableError: a folder of masks among the pictures, or a file that may be a mask but of no picture.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a.jpg", "a_mask.png"):
    ...         (Path(folder) / name).touch()
    ...     pictures, masks = part_masks(Path(folder), image_suffixes=(".jpg", ".png"))
    ...     list(pictures), list(masks)
    (['a.jpg'], ['a_mask.png'])
    """
    files = find_files(folder)
    stems = {posixpath.splitext(name)[0] for name in files if _suffix(name) in image_suffixes}
    pictures: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for name, path in files.items():
        for parent in name.split("/")[:-1]:
            if is_mask_folder(parent):
                raise PatchTableError(f"{path}: a folder {parent!r} in images/; masks go into masks/, beside images/")
        if _masked(name) in stems:
            masks[name] = path
        elif _suffix(name) in image_suffixes:
            pictures[name] = path
        elif _suffix(name) in UNREAD_SUFFIXES:
            raise PatchTableError(f"{path}: pictures are {', '.join(image_suffixes)}; convert it, or move it away")
    _refuse_unclear_masks(pictures, bool(masks))
    return pictures, masks


def find_masks(folder: Path, pictures: Mapping[str, Path], masks: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Find the mask of each picture that has one: the file of its name, perhaps with a word such as ``_mask``.

    Args:
        folder: the one that holds ``images/`` and ``masks/``.
        pictures: by their names in ``images/``.
        masks: name, in ``masks/`` or ``images/``, and path of each file that may be a mask.

    Raises:
        PatchTableError: a mask of no picture or of several, two masks of one, a format that loses values, or no mask
            at all although a folder is named after them.

    >>> masks = find_masks(Path("mine"), {"a.jpg": Path("images/a.jpg")}, [("a_mask.png", Path("masks/a_mask.png"))])
    >>> masks["a.jpg"].name
    'a_mask.png'
    """
    names_of: dict[str, list[str]] = defaultdict(list)
    for name in pictures:
        names_of[comparable(posixpath.splitext(name)[0])].append(name)
    mask_of: dict[str, Path] = {}
    # lossless files first: a preview beside a mask does no harm
    for mask_name, path in sorted(masks, key=lambda mask: _suffix(mask[0]) not in MASK_SUFFIXES):
        spelling = comparable(mask_name)
        names = names_of.get(posixpath.splitext(spelling)[0]) or names_of.get(_masked(spelling), [])
        if _suffix(mask_name) not in MASK_SUFFIXES:
            if all(name in mask_of for name in names):
                continue  # or a list of class names, say
            _check_lossless(path)
        if len(names) != 1:
            raise PatchTableError(f"{path}: a mask of {len(names)} images ({', '.join(names) or 'none of its name'})")
        if names[0] in mask_of:
            raise PatchTableError(f"{path}: a second mask of {names[0]!r}, besides {mask_of[names[0]].name}")
        mask_of[names[0]] = path
    if not mask_of:
        _refuse_unread_masks(folder)
    return mask_of


def match_masks(
    metadata: Path, mask_names: Mapping[str, str], lines: Mapping[str, int], masks: Sequence[tuple[str, Path]]
) -> dict[str, Path]:
    """Match each picture with the mask that ``metadata.csv`` names; an empty name means: not annotated.

    Args:
        metadata: the table, for the message of a fault.
        mask_names: the name of the mask by that of the picture.
        lines: the line by the name of the picture.
        masks: name and path of each file that may be a mask.

    Raises:
        PatchTableError: a mask that is not there, in a format that loses values, or that the table does not name.

    >>> masks = match_masks(Path("metadata.csv"), {"a.jpg": "b.png"}, {"a.jpg": 2}, [("b.png", Path("masks/b.png"))])
    >>> masks["a.jpg"].name
    'b.png'
    """
    files = {comparable(name): path for name, path in masks}
    mask_of: dict[str, Path] = {}
    for name, mask_name in mask_names.items():
        if not mask_name:
            continue
        path = files.get(comparable(mask_name))
        if path is None:
            expected = metadata.parent / "masks" / mask_name
            raise PatchTableError(f"{metadata}, line {lines[name]}: the mask of {name!r} is not there, {expected}")
        _check_lossless(path)
        mask_of[name] = path
    used = set(mask_of.values())
    for name, path in masks:
        if _suffix(name) in MASK_SUFFIXES and path not in used:
            raise PatchTableError(f"{path}: {metadata.name} names no image for this mask")
    return mask_of


def _refuse_unclear_masks(pictures: Mapping[str, Path], masks_beside: bool) -> None:
    """Refuse what is named like a mask but of no picture, where other names say that it is one."""
    stems: dict[str, list[str]] = defaultdict(list)
    for name in pictures:
        parent, _, file_name = posixpath.splitext(name)[0].rpartition("/")
        stems[parent].append(file_name)
    unclear = {posixpath.join(parent, stem) for parent, names in stems.items() for stem in unclear_masks(names)}
    for name, path in pictures.items():
        if posixpath.splitext(name)[0] in unclear or (masks_beside and _masked(name)):
            raise PatchTableError(
                f"{path}: named like a mask, but of no picture beside it; put masks into masks/ under the names of "
                "their pictures, or rename it if it is a picture itself"
            )


def _refuse_unread_masks(folder: Path) -> None:
    """Refuse to call nothing annotated where a folder is named after masks."""
    for path in sorted(folder.glob("*")):
        if path.is_dir() and has_mask_word(path.name) and find_files(path):
            raise PatchTableError(
                f"{path}: none of these files was read as a mask; masks are {', '.join(MASK_SUFFIXES)} in "
                f"{folder / 'masks'} under the names of their images, so rename this folder or move it away"
            )


def _masked(name: str) -> str | None:
    """Name the picture of a mask, without its suffix; None where the name does not say that it is a mask."""
    parent, file_name = posixpath.split(posixpath.splitext(name)[0])
    stem = masked_stem(file_name)
    return stem and posixpath.join(parent, stem)


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _check_lossless(mask: Path) -> None:
    if _suffix(mask.name) not in MASK_SUFFIXES:
        raise PatchTableError(f"{mask}: masks are {', '.join(MASK_SUFFIXES)}; JPEG would blur class indices")
