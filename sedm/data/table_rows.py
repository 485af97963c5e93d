"""Rows of patch tables, one after the other: of a table, with undecoded pictures, or straight from parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
from datasets.table import table_cast
from tqdm import tqdm

from sedm.data.errors import PatchTableError
from sedm.data.groups import labels_of, name_group
from sedm.data.table_files import picture_form

REQUIRED_COLUMNS = ("image", "mask", "group")
ROWS_PER_READ = 100  # rows in a row group of a saved table, and in one read of a streamed one
ROWS_WITHOUT_BAR = 2000  # a pass over fewer rows shows no progress bar
TEXT = datasets.Value("string")

Table = datasets.Dataset | datasets.IterableDataset


def read_rows(table: Table, name: str, doing: str) -> Iterator[dict]:
    """Read the rows with undecoded pictures, so that a fault is met where its row is known; long tables show a bar."""
    columns = table.column_names or list(next(iter(table), {}))  # a mapped stream does not know its own
    for column in REQUIRED_COLUMNS:
        if column not in columns:
            raise PatchTableError(f"{name}: no column {column!r}; it has {', '.join(columns)}")
    table = table.select_columns(list(REQUIRED_COLUMNS))
    if table.features is not None:
        for column in ("image", "mask"):
            kind = table.features[column]
            if picture_form(table.features.arrow_schema.field(column).type) not in ("pictures", "paths"):
                remedy = "make a table of arrays by from_arrays or load_hub_dataset"
                raise PatchTableError(f"{name}: the column {column!r} holds no pictures but {kind}; {remedy}")
            table = table.cast_column(column, datasets.Image(decode=False))
    yield from with_bar(table, doing)


def with_bar(table: Table, doing: str) -> Iterator[dict]:
    """Show a progress bar while the rows of a long table are read.

    >>> list(with_bar(datasets.Dataset.from_dict({"a": [1]}), "reading"))
    [{'a': 1}]
    """
    total = len(table) if isinstance(table, datasets.Dataset) else None
    hidden = total is not None and total < ROWS_WITHOUT_BAR
    yield from tqdm(table, doing, total, unit="patch", disable=hidden, delay=1)


def stream_rows(files: list[str], stored: datasets.Features, group_column: str) -> Iterator[dict]:
    """Read the rows of parquet files, with paths as pictures and groups as text.

    Raises:
        PatchTableError: names the file and the rows that are damaged.
    """
    for file in files:
        with pyarrow.parquet.ParquetFile(file, buffer_size=2**20) as parquet:
            first = 0
            for index in range(parquet.num_row_groups):
                n_rows = parquet.metadata.row_group(index).num_rows
                try:
                    row = first
                    for batch in parquet.iter_batches(ROWS_PER_READ, row_groups=[index]):
                        rows = pyarrow.Table.from_batches([batch]).select(list(stored))
                        for values in table_cast(rows, stored.arrow_schema).to_pylist():
                            yield _plain_row(values, stored, group_column, Path(file), row)
                            row += 1
                except (pyarrow.ArrowException, OSError) as error:
                    cause = " ".join(str(error).split())
                    raise PatchTableError(
                        f"{file}: rows {first} to {first + n_rows - 1} (row group {index}) are damaged ({cause})"
                    ) from error
                first += n_rows


def _plain_row(values: dict, stored: datasets.Features, group_column: str, file: Path, row: int) -> dict:
    """Read one row as a file stores it, with its paths as pictures and its group as text."""
    for column in ("image", "mask"):
        if stored[column] == TEXT:
            values[column] = stored_path(values[column], file.parent)
    where = f"{file}, row {row}, column {group_column!r}"
    return {**values, group_column: name_group(values[group_column], where, labels_of(stored[group_column]))}


def stored_path(path: str | None, folder: str | Path) -> dict | None:
    """Store the path of a picture as a table does; a relative one begins at the folder of the table's file.

    >>> stored_path("a.png", "tables")
    {'bytes': None, 'path': 'tables/a.png'}
    """
    return None if path is None else {"bytes": None, "path": str(Path(folder) / path)}
