"""Where in a folder of the user's the images and the masks lie, for each split.

Splits may come first (``train/images/``, ``train/masks/``) or last (``images/train/``, ``masks/train/``), or there are
none. Without a folder for images, they lie in the folder itself, masks beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sedm.data.errors import PatchTableError
from sedm.data.folders.file_names import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    find_files,
    is_mask_root,
    is_system_name,
    suffix,
)
from sedm.data.source_format import SourceFormat

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing", "shifted")
"""Folders in ``images/`` that are splits where all folders there have such names."""

EXPECTED = (
    "expected images/<group>/<file> and masks/<group>/<file>, or images/<file> and masks/<file> with a metadata.csv "
    "that has the columns file_name,group"
)


@dataclass(frozen=True)
class Roots:
    """The folders of one split."""

    folder: Path  # what the user calls it, where metadata.csv lies
    images: Path
    masks: Path  # may be missing


def find_roots(folder: Path, source_format: SourceFormat, split: str = "") -> Roots:
    """Find the folders of one split of a folder; of the whole where it has no splits.

    Raises:
        PatchTableError: no such folder, one without pictures, no such split, or several and none of them named.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("imgs", "labels"):
    ...         (Path(folder) / "train" / name).mkdir(parents=True)
    ...         (Path(folder) / "train" / name / "a.png").touch()
    ...     roots = find_roots(Path(folder), SourceFormat(), "train")
    ...     roots.images.name, roots.masks.name
    ('imgs', 'labels')
    """
    roots = list_roots(folder, source_format)
    if not split and "" not in roots and source_format.group_level is not None:
        images = _images(folder, source_format)  # whoever names a level takes the splits for folders like others
        if images is not None:
            return Roots(folder, images, _masks(folder, source_format))
    if split not in roots:
        names = ", ".join(filter(None, roots)) or "none"
        remedy = "name one of them by split=…" if not split else "choose one of them"
        fault = f"no split {split!r}" if split else "several splits"
        raise PatchTableError(f"{folder}: {fault}; it has {names}: {remedy}")
    return roots[split]


def list_roots(folder: Path, source_format: SourceFormat) -> dict[str, Roots]:
    """List the folders of each split by its name, "" where a folder has no splits.

    Raises:
        PatchTableError: as ``find_roots``, but for splits.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for split in ("test", "train"):
    ...         (Path(folder) / "images" / split).mkdir(parents=True)
    ...     list(list_roots(Path(folder), SourceFormat()))
    ['test', 'train']
    """
    if not folder.is_dir():
        raise PatchTableError(f"{folder}: no such folder; {EXPECTED}")
    images = _images(folder, source_format)
    if images is not None:
        masks = _masks(folder, source_format)
        splits = [] if images == folder else _folders(images)
        if splits and all(path.name.casefold() in SPLIT_NAMES for path in splits):
            return {path.name: Roots(folder, path, masks / path.name) for path in splits}
        return {"": Roots(folder, images, masks)}
    splits = {path.name: path for path in _folders(folder) if _images(path, source_format) is not None}
    if splits:
        return {
            name: Roots(path, _images(path, source_format), _masks(path, source_format))
            for name, path in splits.items()
        }
    if source_format.images:
        raise PatchTableError(f"{folder}: no folder images={source_format.images!r} in it")
    if not any(suffix(name) in IMAGE_SUFFIXES for name in find_files(folder)):
        raise PatchTableError(f"{folder}: no folder images/ in it; {EXPECTED}")
    return {"": Roots(folder, folder, _masks(folder, source_format))}


def _images(folder: Path, source_format: SourceFormat) -> Path | None:
    """Find the folder of images in a folder; None where there is none."""
    if source_format.images:
        path = folder / source_format.images
        return path if path.is_dir() else None
    known = {path.name.casefold(): path for path in _folders(folder)}
    return next((known[name] for name in IMAGE_FOLDERS if name in known), None)


def _masks(folder: Path, source_format: SourceFormat) -> Path:
    """Find the folder of masks in a folder."""
    if source_format.masks:
        if not (folder / source_format.masks).is_dir():
            raise PatchTableError(f"{folder}: no folder masks={source_format.masks!r} in it")
        return folder / source_format.masks
    named = [path for path in _folders(folder) if is_mask_root(path.name) and _has_pictures(path)]
    for path in named:
        if path.name == "masks" or len(named) == 1:
            return path
    if named:
        names = " and ".join(path.name for path in named)
        raise PatchTableError(f"{folder}: masks may be in {names}; name the folder that is meant by masks=…")
    return folder / "masks"


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_system_name(path.name))


def _has_pictures(folder: Path) -> bool:
    return any(suffix(name) in IMAGE_SUFFIXES for name in find_files(folder))
