"""The patch table: the one format in which real and synthetic images travel.

A patch table is a Hugging Face ``datasets.Dataset`` with the columns

* ``image``  an RGB picture,
* ``mask``   a picture of class indices 0…K−1 of the same size, 255 where nobody knows, or null where nobody annotated,
* ``group``  the unit that shares a style and never straddles a split (patient, case, species, breed),

and any further columns. On disk it is a folder with one parquet file a split, or several shards of it.

No function here needs more memory for a larger table. A table too large to be copied is read row by row
(``load_patches(…, streaming=True)``), and its decoded pixels (`sedm.data.patches.Patches`) are mapped from a temporary
file.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
from datasets.table import embed_table_storage

from sedm.data.class_values import ClassValues
from sedm.data.errors import PatchTableError as PatchTableError
from sedm.data.groups import labels_of, name_group, name_groups
from sedm.data.pictures import UNKNOWN as UNKNOWN
from sedm.data.pictures import encode
from sedm.data.pixel_arrays import image_of_array, mask_of_array
from sedm.data.row_faults import find_row_faults
from sedm.data.table_files import SHARD as SHARD
from sedm.data.table_files import as_pattern, files_of_split, stored_features
from sedm.data.table_files import check_header as check_header
from sedm.data.table_files import find_splits as find_splits
from sedm.data.table_rows import ROWS_PER_READ, TEXT, Table, read_rows, stored_path, stream_rows
from sedm.runtime.files import replacing


def from_arrays(images: Collection, masks: Collection, groups: Collection, **columns: Collection) -> datasets.Dataset:
    """Make a patch table of pictures in memory.

    Args:
        images: one a row, (h, w, 3), or (h, w) for grey, whole numbers 0…255.
        masks: one a row, (h, w), class indices, 255 where nobody knows, of any type of whole numbers or bool, also as
            lists; None where nobody annotated.
        groups: one a row, text or numbers, which become text.
        columns: further columns.

    Raises:
        PatchTableError: names the first row whose image, mask or group is none of these, or columns of other lengths.

    >>> import numpy as np
    >>> table = from_arrays(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.int64), ["a", "b"])
    >>> table.column_names, table[0]["image"].size
    (['image', 'mask', 'group'], (8, 8))
    """
    lengths = {name: len(values) for name, values in {"masks": masks, "groups": groups, **columns}.items()}
    for name, length in lengths.items():
        if length != len(images):
            raise PatchTableError(f"{len(images)} images, but {length} {name}; give one a row")
    table = datasets.Dataset.from_dict(
        {
            "image": [encode(image_of_array(image, f"row {row}, column 'image'")) for row, image in enumerate(images)],
            "mask": [
                None if mask is None else encode(mask_of_array(mask, f"row {row}, column 'mask'"))
                for row, mask in enumerate(masks)
            ],
            "group": [name_group(group, f"row {row}, column 'group'") for row, group in enumerate(groups)],
            **{name: list(values) for name, values in columns.items()},
        }
    )
    return table.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())


def load_patches(
    source: str | Path, split: str | None = None, group_column: str = "group", streaming: bool = False
) -> Table:
    """Load the patch table stored at ``source``.

    Pictures may also be stored as text: paths that begin at the folder of the file. Groups become text, a number
    without its point, a class label by its name.

    Args:
        source: a parquet file, or a folder of them as ``find_splits`` reads it.
        split: which split of a folder; may be left out when there is only one.
        group_column: the column to be called ``group`` from here on.
        streaming: give a ``datasets.IterableDataset`` that opens at once and is read row by row from the parquet
            files. Otherwise ``datasets`` copies them, at the first call, into its cache, for access in any order.

    Raises:
        PatchTableError: nothing there, an empty or unreadable file, a missing column, split or shard, a column that
            holds no pictures, a row without a group, or shards whose class labels differ.

    >>> import numpy as np
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pixels = np.zeros((2, 8, 8, 3), np.uint8)
    ...     _ = save_patches(from_arrays(pixels, pixels[..., 0], ["a", "b"]), Path(folder) / "train.parquet")
    ...     load_patches(folder, "train")["group"][:]
    ...     [patch["group"] for patch in load_patches(folder, "train", streaming=True)]
    ['a', 'b']
    ['a', 'b']
    """
    source = Path(source)
    if not source.exists():
        raise PatchTableError(f"{source}: no such file or folder; expected a patch table (see data/README.md)")
    files = files_of_split(source, split) if source.is_dir() else [source]
    stored = stored_features(files, group_column)
    paths = [str(path) for path in files]
    if streaming:
        features = {**stored, "image": datasets.Image(), "mask": datasets.Image(), group_column: TEXT}
        options = {"files": paths, "stored": stored, "group_column": group_column}
        table = datasets.IterableDataset.from_generator(
            stream_rows, features=datasets.Features(features), gen_kwargs=options
        )
    else:
        try:
            table = datasets.Dataset.from_parquet([as_pattern(path) for path in files], features=stored)
        except datasets.exceptions.DatasetGenerationError as error:
            # names the file and the rows, where reading alone fails
            for _ in stream_rows(paths, stored, group_column):
                pass
            cause = " ".join(str(error.__cause__).split())
            raise PatchTableError(f"{source}: damaged between its head and its end ({cause})") from error
        for column in ("image", "mask"):
            if stored[column] == TEXT:
                pictures = [stored_path(path, files[0].parent) for path in table[column][:]]
                table = replace_column(table, column, pictures, datasets.Image())
        groups = table[group_column][:]
        names = name_groups(groups, str(source), group_column, labels_of(stored[group_column]))
        if names != groups:
            table = replace_column(table, group_column, names, TEXT)
    return table if group_column == "group" else table.rename_column(group_column, "group")


def replace_column(table: datasets.Dataset, name: str, values: Sequence, feature: Any) -> datasets.Dataset:
    """Give the rows of a table other values in one column, which stays in its place.

    >>> table = datasets.Dataset.from_dict({"a": [1, 2], "b": [3, 4]})
    >>> replace_column(table, "a", ["x", "y"], datasets.Value("string"))[0]
    {'a': 'x', 'b': 3}
    """
    order = table.column_names
    return table.remove_columns(name).add_column(name, list(values), feature=feature).select_columns(order)


def save_patches(table: Table, path: str | Path) -> Path:
    """Save a table as a parquet file, whole or not at all, and return its path.

    Pictures that a table keeps as paths are copied into the file, so it depends on no other.

    Raises:
        PatchTableError: such a picture is no longer there, or a stream does not know its columns.

    >>> import numpy as np
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pixels = np.zeros((1, 8, 8, 3), np.uint8)
    ...     save_patches(from_arrays(pixels, pixels[..., 0], ["a"]), Path(folder) / "train.parquet").name
    'train.parquet'
    """
    if table.features is None:
        raise PatchTableError(f"{path}: not saved; the stream forgot its columns, give them to map(…, features=…)")
    schema = table.features.arrow_schema
    # pictures are compressed already, and never repeat
    plain = [name for name, feature in table.features.items() if not isinstance(feature, datasets.Image)]
    options = {"compression": "none", "use_dictionary": plain, "write_statistics": plain}
    try:
        with (
            replacing(path) as temporary,
            pyarrow.parquet.ParquetWriter(temporary.absolute(), schema, **options) as writer,
        ):
            for batch in _arrow_batches(table, schema):
                writer.write_table(embed_table_storage(batch))
    except FileNotFoundError as error:
        raise PatchTableError(f"{path}: not saved; the table's picture {error.filename} is gone") from error
    return Path(path)


def check_patches(table: Table, n_classes: int, name: str = "table") -> None:
    """Open every picture of a table and refuse the first fault.

    A mask holds 0…n_classes−1, and ``UNKNOWN`` where nobody knows. Where 255 is in the masks but no class above 0, it
    is not taken for unknown: then the masks are drawn in black and white for the eye.

    Args:
        n_classes: at most 255.
        name: where the table came from, for the message (a file name).

    Raises:
        PatchTableError: names table, row and column of the first fault: a missing column, an empty table,
            a picture that can be read in two ways or not at all (see ``sedm.data.pictures``), an image and a mask of
            different size, a value outside the classes, no group.

    >>> import numpy as np
    >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
    >>> check_patches(from_arrays(pixels, pixels[..., 0] + 3, ["a"]), n_classes=2, name="train.parquet")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: train.parquet, row 0, column 'mask': value 3 is outside the classes 0..1
    """
    check_tables({name: table}, n_classes)


def check_tables(tables: Mapping[str, Table], n_classes: int) -> None:
    """Check several tables by name, as ``check_patches`` does one; what 255 means is decided by all of them together.

    >>> import numpy as np
    >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
    >>> tables = {"train": from_arrays(pixels, pixels[..., 0] + 1, "a"), "test": from_arrays(pixels, [None], "b")}
    >>> check_tables(tables, n_classes=2)
    """
    for fault in find_faults(tables, n_classes):
        raise fault


def find_faults(tables: Mapping[str, Table], n_classes: int) -> Iterator[PatchTableError]:
    """Open every picture of several tables by name and yield every fault, of which ``check_tables`` raises the first.

    Returns:
        The faults as errors, not raised, whose attributes say the file, row, column and value as far as they are known.

    >>> import numpy as np
    >>> pixels = np.zeros((2, 8, 8, 3), np.uint8)
    >>> table = from_arrays(pixels, pixels[..., 0] + 3, ["a", "b"])
    >>> [(fault.row, fault.column, fault.value) for fault in find_faults({"train": table}, n_classes=2)]
    [(0, 'mask', 3), (1, 'mask', 3)]
    """
    values = ClassValues(n_classes)
    for name, table in tables.items():
        try:
            yield from find_row_faults(read_rows(table, name, f"checking {name}"), values, name)
        except PatchTableError as fault:  # of the table as a whole
            yield fault
    try:
        values.refuse_black_and_white()
    except PatchTableError as fault:
        yield fault


def _arrow_batches(table: Table, schema: pyarrow.Schema) -> Iterator[pyarrow.Table]:
    if isinstance(table, datasets.Dataset):
        yield from table.with_format("arrow").iter(ROWS_PER_READ)
        return
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    rows = iter(table)
    while batch := list(itertools.islice(rows, ROWS_PER_READ)):
        # with the schema: left to itself, arrow gives another type to a batch without masks
        yield pyarrow.Table.from_pylist(batch, schema=schema)
