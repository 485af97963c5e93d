"""Any source of images and masks, loaded or checked by what it is: a folder, a spreadsheet of paths, or parquet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets

from sedm.data.class_values import ClassValues
from sedm.data.conversion import convert_table, undecoded
from sedm.data.errors import PatchTableError, Report, raise_fault
from sedm.data.folders.file_names import IMAGE_FOLDERS
from sedm.data.folders.image_folder import open_image_folder, table_of_files
from sedm.data.folders.path_tables import read_path_table
from sedm.data.folders.roots import list_roots
from sedm.data.groups import labels_of
from sedm.data.hub import open_hub_dataset
from sedm.data.pictures import UNKNOWN
from sedm.data.reading import PatchReader
from sedm.data.row_faults import find_row_faults
from sedm.data.source_format import SourceFormat
from sedm.data.source_summary import RowFacts
from sedm.data.table_files import find_splits
from sedm.data.table_rows import with_bar

SPREADSHEETS = (".csv", ".tab", ".tsv", ".txt")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def load_table(source: str | Path, source_format: SourceFormat | None = None, split: str = "") -> datasets.Dataset:
    """Load any source of images as a patch table.

    Args:
        source: a folder of pictures (see ``load_image_folder``); a spreadsheet as text, ``.csv`` or ``.tsv``, with
            paths of pictures; a parquet file of pictures, arrays or paths, or a folder of them; ``owner/name`` of a
            data set on the Hub.
        source_format: how its pictures are stored; as in a patch table when left out.
        split: which one, where there are several (``list_splits``).

    Returns:
        A table that ``save_patches``, ``check_patches`` and ``Patches.from_table`` take.

    Raises:
        PatchTableError: the first fault of files, names and groups, or of pictures that have to be translated.

    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 8)).save(Path(folder) / "a.png")
    ...     Image.new("L", (8, 8), 200).save(Path(folder) / "a_mask.png")
    ...     _ = (Path(folder) / "images.csv").write_text("image,mask,patient\\na.png,a_mask.png,7")
    ...     form = SourceFormat(group_column="patient", classes={"glass": 0, "tissue": 200})
    ...     patch = load_table(Path(folder) / "images.csv", form)[0]
    >>> patch["image"].size, np.unique(patch["mask"]).tolist(), patch["group"]
    ((8, 8), [1], '7')
    """
    source_format = source_format or SourceFormat()
    return convert_table(open_table(source, source_format, split), str(source), source_format)


def list_splits(source: str | Path, source_format: SourceFormat | None = None) -> tuple[str, ...]:
    """List the splits of a source, in the order of their names; () where it has none, or where only the Hub knows.

    Raises:
        PatchTableError: nothing there, or a folder without pictures and tables.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for split in ("train", "test"):
    ...         (Path(folder) / split / "imgs").mkdir(parents=True)
    ...     list_splits(folder)
    ('test', 'train')
    """
    path = Path(source)
    if not path.is_dir():
        _check_kind(path)
        return ()
    if _holds_tables(path, source_format or SourceFormat()):
        return tuple(find_splits(path))
    return tuple(filter(None, list_roots(path, source_format or SourceFormat())))


def find_source_faults(
    source: str | Path,
    source_format: SourceFormat | None = None,
    split: str = "",
    n_classes: int | None = None,
    observe: Callable[[RowFacts], None] | None = None,
) -> Iterator[PatchTableError]:
    """Open every picture of a source and yield every fault: first those of files and names, then row by row.

    What ``load_table`` raises is among them. Memory does not grow with the pictures.

    Args:
        source, source_format, split: as of ``load_table``.
        n_classes: how many classes the masks have; what ``source_format`` says, or any, when left out.
        observe: is told what each image without a fault is like.

    Returns:
        The faults as errors, not raised, whose attributes say the file, row, column and value as far as they are known.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("images/a/0.png", "images/a/1.png", "masks/a/2.png"):
    ...         (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
    ...         Image.new("RGBA", (8, 8)).save(Path(folder) / name)
    ...     [(Path(fault.file).name, fault.row, fault.column) for fault in find_source_faults(folder)]
    [('2.png', None, ''), ('0.png', 0, 'image'), ('1.png', 1, 'image')]
    """
    source_format = source_format or SourceFormat()
    values = ClassValues(n_classes or source_format.n_classes or UNKNOWN)
    faults: list[PatchTableError] = []
    table = None
    try:
        table = open_table(source, source_format, split, faults.append)
    except PatchTableError as fault:  # of the source as a whole
        faults.append(fault)
    yield from faults
    if table is None or (faults and not len(table)):
        return
    labels = labels_of(table.features["group"])
    rows = with_bar(undecoded(table.select_columns(["image", "mask", "group"])), f"checking {source}")
    yield from find_row_faults(rows, values, str(source), PatchReader(source_format), labels, observe)
    try:
        values.refuse_black_and_white()
    except PatchTableError as fault:
        yield fault


def open_table(
    source: str | Path, source_format: SourceFormat, split: str, report: Report = raise_fault
) -> datasets.Dataset:
    """Find the rows of a source, with pictures and groups as they are stored."""
    path = Path(source)
    _check_kind(path)
    if path.suffix.lower() in SPREADSHEETS:
        rows = read_path_table(path, source_format, report)
        return table_of_files(rows, ("mask",) if source_format.mask_kind == "run-lengths" else ())
    if path.is_dir() and not _holds_tables(path, source_format):
        return open_image_folder(path, source_format, split, report)
    if path.is_dir() and not split:
        splits = list(find_splits(path))
        if len(splits) > 1:
            raise PatchTableError(f"{path}: several splits; it has {', '.join(splits)}: name one of them by split=…")
        split = splits[0]
    # where faults are collected, each picture is opened, so a missing one is met there
    look = report if report is raise_fault else None
    return open_hub_dataset(source, source_format, split or "train", report=look)


def _check_kind(path: Path) -> None:
    """Refuse what is no source by its name."""
    kinds = f"a folder, {', '.join(SPREADSHEETS)} or .parquet"
    if not path.exists() and not HUB_NAME.fullmatch(str(path)):
        raise PatchTableError(f"{path}: no such file or folder; expected {kinds}", file=path)
    if path.is_file() and path.suffix.lower() not in (*SPREADSHEETS, ".parquet"):
        raise PatchTableError(f"{path}: expected {kinds}; save a spreadsheet as “CSV UTF-8”", file=path)


def _holds_tables(folder: Path, source_format: SourceFormat) -> bool:
    """Tell whether a folder holds parquet files, and refuse one that holds pictures as well."""
    names = {path.name.casefold() for path in folder.iterdir() if path.is_dir()}
    has_images = bool(source_format.images) or not names.isdisjoint(IMAGE_FOLDERS)
    has_tables = bool(find_splits(folder))
    if has_images and has_tables:
        raise PatchTableError(f"{folder}: parquet files and a folder of images; move one away, or name the file")
    return has_tables
