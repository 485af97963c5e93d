"""What names of files and folders say: which are the system's, which speak of masks, which every disk can hold."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from sedm.data.errors import PatchTableError

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
"""Names of folders that hold images, in any case of letters; the first one counts."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # JPEG would blur class indices

SYSTEM_NAMES = {
    "$recycle.bin",
    "#recycle",
    "#snapshot",
    "@eadir",  # thumbnails of a Synology disk station
    "@recycle",
    "__macosx",  # in zip archives made on a Mac
    "desktop.ini",
    "ehthumbs.db",
    "sedm-results",  # of sedm compare
    "lost+found",
    "system volume information",
    "thumbs.db",
}
"""Files and folders that systems leave beside the user's, in lower case; hidden ones come on top."""

LONG_MASK_WORDS = "masks?|annotations?|labels?|segmentations?|ground[ _-]?truth"
SHORT_MASK_WORDS = "annos?|segs?|gt"
MASK_WORD = rf"(?:{LONG_MASK_WORDS}|{SHORT_MASK_WORDS})"
MASK_AFFIX = re.compile(rf"{MASK_WORD}[ ._-]+(?P<after>.+)|(?P<before>.+?)[ ._-]+{MASK_WORD}", re.IGNORECASE)

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # for devices, on Windows
LONGEST = 60  # characters; most disks hold 255 bytes, of which a character takes up to 4


def find_files(folder: Path) -> dict[str, str]:
    """Find the paths of the user's files below a folder, in order, by their names in it; none without such a folder.

    Links to folders are followed; what belongs to the system is passed over.

    Raises:
        PatchTableError: a folder that may not be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in (".ipynb_checkpoints", "@eaDir", "case-7"):
    ...         (Path(folder) / name).mkdir()
    ...         (Path(folder) / name / "a.png").touch()
    ...     list(find_files(Path(folder)))
    ['case-7/a.png']
    """

    def refuse(error: OSError) -> None:
        raise PatchTableError(f"{error.filename}: this folder cannot be read ({error.strerror})") from error

    names_in_folder: list[str] = []
    if folder.is_dir():
        for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
            folders[:] = [name for name in folders if not is_system_name(name) and not _leads_up(Path(parent, name))]
            parts = Path(parent).relative_to(folder).parts
            names_in_folder += ["/".join((*parts, name)) for name in names if not is_system_name(name)]
    names_in_folder.sort(key=lambda name: name.split("/"))
    return {name: os.path.join(folder, *name.split("/")) for name in names_in_folder}


def is_system_name(name: str) -> bool:
    """Tell whether a file or folder of this name belongs to a system or program, never to the user's data.

    >>> [is_system_name(name) for name in (".ipynb_checkpoints", "._a.png", "Thumbs.db", "case-7")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


def is_mask_folder(name: str) -> bool:
    """Tell whether a folder's whole name says that it holds masks.

    >>> [is_mask_folder(name) for name in ("Labels", "ground_truth", "label-free")]
    [True, True, False]
    """
    return re.fullmatch(LONG_MASK_WORDS, name, re.IGNORECASE) is not None


def is_mask_root(name: str) -> bool:
    """Tell whether a folder beside the images is read as masks for its name: ``masks``, ``labels``, ``gt`` and such.

    >>> [is_mask_root(name) for name in ("masks", "Ground Truth", "gt", "train_masks")]
    [True, True, True, False]
    """
    return is_mask_folder(name) or name.casefold() == "gt"


def has_mask_word(name: str) -> bool:
    """Tell whether a name speaks of masks anywhere.

    >>> [has_mask_word(name) for name in ("SegmentationClass", "train_gt", "unlabelled")]
    [True, True, False]
    """
    return any(re.match(f"mask|annot|label|segment|(?:{SHORT_MASK_WORDS})$", word) for word in _words(name))


def suffix(name: str) -> str:
    """Give the suffix of a file's name in lower case.

    >>> suffix("case-7/a.PNG")
    '.png'
    """
    return posixpath.splitext(name)[1].lower()


def lossy_mask(path: str | Path) -> PatchTableError:
    """Say that a file is no mask, since its format would blur class indices.

    >>> str(lossy_mask("a.jpg"))
    'a.jpg: masks are .png, .tif, .tiff, .bmp; JPEG would blur class indices'
    """
    return PatchTableError(f"{path}: masks are {', '.join(MASK_SUFFIXES)}; JPEG would blur class indices", file=path)


def comparable(name: str) -> str:
    """Give the name of a file the form in which two programs' spellings of it are equal.

    >>> comparable(r".\\case-7\\a.png")
    'case-7/a.png'
    """
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def masked_stem(name: str) -> str | None:
    """Take the suffix and the word for "mask" off the name of a file; None where there is no such word.

    >>> masked_stem("case-7/img1_mask.png"), masked_stem("gt-img1.png"), masked_stem("img1.png")
    ('case-7/img1', 'img1', None)
    """
    parent, file_name = posixpath.split(posixpath.splitext(name)[0])
    match = MASK_AFFIX.fullmatch(file_name)
    return match and posixpath.join(parent, match["before"] or match["after"])


def unclear_masks(stems: Iterable[str]) -> list[str]:
    """Find the names in one folder that speak of a mask and whose other words begin or end like those of a picture.

    >>> unclear_masks(["image_1", "mask_1", "image_2", "image_2_bin_mask", "label_free_3"])
    ['mask_1', 'image_2_bin_mask']
    """
    words = {stem: _words(stem) for stem in stems}
    wholes = {parts for parts in words.values() if "mask" not in parts}
    affixes = {affix for whole in wholes for affix in _affixes(whole)}
    unclear = []
    for stem, parts in words.items():
        rest = tuple(part for part in parts if part != "mask")
        is_related = rest in affixes or not wholes.isdisjoint(_affixes(rest)) or (wholes and not rest)
        if "mask" in parts and is_related:
            unclear.append(stem)
    return unclear


def folder_names(groups: Iterable[str]) -> dict[str, str]:
    """Give each group a folder name of its own that every disk can hold and that leads nowhere else.

    Names that are such already stay as they are. On many disks two names that differ only by case are one.

    >>> folder_names(["case-7", "../case-7", "/etc", "..", "CON", "Case-7"])
    {'case-7': 'case-7', '../case-7': 'group-case-7', '/etc': 'group-etc', '..': 'group', 'CON': 'group-CON', \
'Case-7': 'Case-7-2'}
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for group in dict.fromkeys(groups):
        plain = re.sub(r"\W+", "-", group).strip("-")[: LONGEST - 10]
        first = group if _fits_every_disk(group) else f"group-{plain}".strip("-")
        name = first
        number = 1
        while (on_disk := unicodedata.normalize("NFC", name).casefold()) in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(on_disk)
        names[group] = name
    return names


def _leads_up(folder: Path) -> bool:
    """Tell whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _words(stem: str) -> tuple[str, ...]:
    """Split a name into words and numbers; each long word for "mask" becomes that word."""
    words = re.findall(r"[^\W\d_]+|\d+", re.sub("ground[ _-]?truth", "mask", stem.casefold()))
    return tuple("mask" if is_mask_folder(word) else word for word in words)


def _affixes(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    """List all beginnings and ends of a name, the whole included."""
    return {part for length in range(1, len(words) + 1) for part in (words[:length], words[-length:])}


def _fits_every_disk(name: str) -> bool:
    return (
        re.fullmatch(r'[^<>:"/\\|?*\x00-\x1f\x7f]+(?<![. ])', name) is not None
        and len(name) <= LONGEST
        and unicodedata.is_normalized("NFC", name)
        and not RESERVED.fullmatch(name)
        and not is_system_name(name)
        and not is_mask_folder(name)
    )
