"""EBHI-SEG from its published folders: H&E biopsies of the colon, 400×, split by case.

A file is called ``<grade>/image/GTXC2014129-2-400-001.png``: letters, the case, the block, the magnification and the
field; its mask has the same name under ``<grade>/label``.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import datasets
import numpy as np
from PIL import Image
from tqdm import tqdm

from sedm.data.archives.public_tables import SPLITS, PublicTables
from sedm.data.patch_table import PatchTableError, from_arrays
from sedm.data.reduce import reduce_image, reduce_mask
from sedm.data.splits import split_by_group

ARTICLE = 21540159  # on figshare; `figshare_files(ARTICLE)` asks for the file, its size and its md5
HOME = f"https://figshare.com/articles/dataset/EBHI-SEG/{ARTICLE}"

LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
CITATION = (
    "L. Shi et al., EBHI-Seg: a novel enteroscope biopsy histopathological hematoxylin and eosin image dataset for "
    "image segmentation tasks, Frontiers in Medicine 10, 2023, doi:10.3389/fmed.2023.1114673"
)
ABOUT = f"""# EBHI-SEG

Colorectal biopsies, H&E, 400×; the foreground is glandular or tumour epithelium with its lumen.

- Source: {HOME}
- Licence: {LICENCE}; changed here: resampled, split by case, images left out as listed below
- Cite: {CITATION}
"""

CLASSES = ("background", "epithelium")
GRADES = ("Adenocarcinoma", "High-grade IN", "Low-grade IN", "Normal", "Polyp", "Serrated adenoma")
LAYOUT = f"expected <grade>/image/*.png and <grade>/label/*.png for the grades {', '.join(GRADES)} (from {HOME})"

VALIDATION_CASES = (
    "2012154 2012197 2012223 2012400 2012485 2012803 2012888 2012957 2012958 2012983 2012996 2013112 "
    "2013490 2013495 2013496 2013501 2013911 2013953 2013962 2014094 2014132 2014209 2014665 2015413 "
    "2016777 2016846 2016852 2016887 2100011 2100117 2100144 2100474 2100732 2102643"
)
TEST_CASES = (
    "1815572 1815635 2000000 2001814 2001837 2001849 2012114 2012118 2012151 2012173 2012191 2012246 "
    "2012476 2012508 2012525 2012785 2012788 2012921 2012946 2012952 2012967 2013013 2013108 2013152 "
    "2013386 2013391 2013489 2013520 2013923 2014030 2014093 2014123 2014139 2014361 2014646 2014677 "
    "2014733 2014792 2015023 2015103 2015140 2015354 2016757 2016811 2016854 2016867 2016882 2016885 "
    "2016981 2017275 2017282 2017994 2100009 2100092 2100111 2100256 2100276 2100734 2100773 2100798 "
    "2101366 2102188 2102280 2110187 2110491 2110503 2110531 2110585"
)
TEST_SHARE, VALIDATION_SHARE = 2 / 9, 1 / 9  # of the cases, when drawn
COMMITTED_CASES = {"validation": VALIDATION_CASES.split(), "test": TEST_CASES.split()}
"""Cases that the committed results were validated and tested on; they were trained on the others."""

FILE_NAME = re.compile(r"[A-Za-z]+(?P<case>\d{7})-(?P<block>\d+)-\d+-(?P<field>\d+)\.png")
NO_CASE, NO_MASK, REPEATED = "a name without a case number", "no mask", "the pixels of an earlier image"


def make_ebhi(
    source: str | Path,
    *,
    image_size: int = 128,
    seed: int = 0,
    cases: Mapping[str, Collection[str]] | None = None,
) -> PublicTables:
    """Make the patch tables ``train``, ``validation`` and ``test``, no case in two of them.

    Columns: ``image`` and ``mask`` (indices into `CLASSES`), ``case`` (seven digits, the group), ``block``, ``field``
    and ``grade``; rows in the order of grade and file name. Images are reduced with Lanczos, masks by area. An image
    without a case number, without a mask, or with the very pixels of an earlier one is left out, with a warning; the
    card names them all.

    Args:
        source: the unpacked folder (or one above it), or a zip archive of it.
        image_size: side of the patches in px.
        seed: of the draw of cases, within the cases of each most common grade.
        cases: of ``validation`` and ``test``, such as `COMMITTED_CASES`; drawn with the seed when left out.

    Raises:
        ValueError: an image size below 1, or ``cases`` that are not there.
        PatchTableError: no such source, a RAR archive, a grade without images, an unreadable file, a mask of
            another size than its image, or two copies of the data in one folder.

    >>> make_ebhi("nowhere.zip")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: nowhere.zip: no such file or folder
    """
    if image_size < 1:
        raise ValueError(f"image_size={image_size}; ask for 1 px or more")
    source = Path(source)
    with _open(source) as (names, read):
        table, left_out = _read_table(source, names, read, image_size)
    for reason, names in left_out.items():
        first = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        warnings.warn(f"{source}: {len(names)} images left out, {reason}: {first}", stacklevel=2)
    grades: dict[str, Counter] = {}
    for case, grade in zip(table["case"], table["grade"], strict=True):
        grades.setdefault(case, Counter())[grade] += 1
    if cases is None:
        split_of = split_cases(grades, TEST_SHARE, VALIDATION_SHARE, seed)
        origin = (
            f"split by case with seed {seed}, within the cases of each most common grade: {TEST_SHARE:.3f} to test, "
            f"{VALIDATION_SHARE:.3f} to validation"
        )
    else:
        split_of = dict.fromkeys(grades, "train") | {case: split for split in cases for case in cases[split]}
        origin = "split by the case numbers that were given"
        if absent := [case for case in split_of if case not in grades]:
            raise ValueError(f"{source}: no image of the case {absent[0]}, which cases[{split_of[absent[0]]!r}] names")
    row_split = np.array([split_of[case] for case in table["case"]])
    return PublicTables(
        tables={split: table.select(np.flatnonzero(row_split == split)) for split in SPLITS},
        about=ABOUT,
        notes=[
            f"{image_size} px a side, reduced with Lanczos; masks cut at half their range, then reduced by area, 1 "
            "where above a half",
            origin,
            *(f"{len(names)} images left out, {reason}: {', '.join(names)}" for reason, names in left_out.items()),
        ],
        group="case",
        licence="cc-by-4.0",
        sources=[source] if source.is_file() else [],
    )


def split_cases(grades: dict[str, Counter], test_share: float, validation_share: float, seed: int) -> dict[str, str]:
    """Draw the split of each case, within the cases of each most common grade; the only case of a grade is trained on.

    Args:
        grades: number of images of each grade, by case.

    >>> split_of = split_cases({f"{number:07}": Counter(Polyp=2) for number in range(9)}, 2 / 9, 1 / 9, seed=0)
    >>> sorted(Counter(split_of.values()).items())
    [('test', 2), ('train', 6), ('validation', 1)]
    """
    strata: dict[str, list[str]] = {}
    for case in sorted(grades):  # alphabetical among equally common grades
        strata.setdefault(max(sorted(grades[case]), key=grades[case].get), []).append(case)
    split_of = dict.fromkeys(grades, "train")
    for cases in strata.values():
        for split, share in ("test", test_share), ("validation", validation_share / (1 - test_share)):
            if len(cases) > 1:
                rest, drawn = split_by_group(datasets.Dataset.from_dict({"group": cases}), share, seed)
                split_of |= dict.fromkeys(drawn["group"], split)
                cases = list(rest["group"])
    return split_of


def _read_table(
    source: Path, names: list[str], read: Callable[[str], bytes], image_size: int
) -> tuple[datasets.Dataset, dict[str, list[str]]]:
    """Read the table of all images that can be used, and the names of the others by reason."""
    files: dict[tuple[str, str, str], str] = {}
    for name in names:
        key = tuple(PurePosixPath(name).parts[-3:])
        if len(key) < 3 or key[0] not in GRADES or key[1] not in ("image", "label") or key[2].startswith("."):
            continue
        if files.setdefault(key, name) != name:
            raise PatchTableError(f"{source}: {files[key]} and {name}; name the folder of one copy of the data")
    empty = [grade for grade in GRADES if not any(key[:2] == (grade, "image") for key in files)]
    if empty:
        packed = [name for name in names if name.lower().endswith((".rar", ".zip"))]
        unpack = f"unpack {packed[0]} first; " if packed else ""
        raise PatchTableError(f"{source}: no images of {', '.join(empty)}; {unpack}{LAYOUT}")

    images, masks, columns = [], [], {"group": [], "block": [], "field": [], "grade": []}
    left_out: dict[str, list[str]] = {}
    known: set[bytes] = set()
    pictures = sorted(key for key in files if key[1] == "image")
    for grade, _, file_name in tqdm(pictures, "EBHI-SEG", unit="image", disable=None):
        where, label = files[grade, "image", file_name], files.get((grade, "label", file_name))
        match = FILE_NAME.fullmatch(file_name)
        if not match or not label:
            left_out.setdefault(NO_MASK if match else NO_CASE, []).append(where)
            continue
        image, mask = _decode(source, where, read, "RGB"), _decode(source, label, read, "L")
        if mask.size != image.size:
            raise PatchTableError(
                f"{source}, {label}: {mask.width}×{mask.height}, but its image is {image.width}×{image.height}"
            )
        pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        if pixels in known:  # else the same image could be in two splits, under two cases
            left_out.setdefault(REPEATED, []).append(where)
            continue
        known.add(pixels)
        images.append(reduce_image(image, image_size))
        masks.append(reduce_mask(np.asarray(mask) > 127, image_size))  # outlines are anti-aliased
        for column, value in zip(columns, (*match.group("case", "block", "field"), grade), strict=True):
            columns[column].append(value)
    if not images:
        raise PatchTableError(f"{source}: no image has a case number and a mask; {LAYOUT}")
    return from_arrays(np.stack(images), masks, columns.pop("group"), **columns).rename_column(
        "group", "case"
    ), left_out


def _decode(source: Path, name: str, read: Callable[[str], bytes], mode: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(read(name))).convert(mode)
    except Exception as error:  # Pillow and zipfile raise many types for damaged files
        raise PatchTableError(f"{source}, {name}: unreadable image ({error})") from error


@contextmanager
def _open(source: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Open a folder or a zip archive: the names of its files, and a reader of one; nothing is unpacked."""
    if source.is_dir():
        names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
        yield names, lambda name: (source / name).read_bytes()
    elif not source.exists():
        raise PatchTableError(f"{source}: no such file or folder")
    else:
        try:
            archive = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, OSError) as error:
            raise PatchTableError(
                f"{source}: not a zip archive ({error}); unpack it (7z, unar and bsdtar read RAR) and name the folder"
            ) from error
        with archive:
            yield archive.namelist(), archive.read
