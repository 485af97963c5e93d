"""The patch table: the one format in which real and synthetic images travel.

A patch table is a Hugging Face ``datasets.Dataset`` with the columns

* ``image``  an RGB picture,
* ``mask``   a picture of class indices 0…K−1 of the same size, or null where nobody annotated,
* ``group``  the unit that shares a style and never straddles a split (patient, case, species, breed),

and any further columns. On disk it is a folder with one parquet file a split, or several shards of it.

No function here needs more memory for a larger table. A table too large to be copied is read row by row
(``load_patches(…, streaming=True)``), and its decoded pixels are mapped from a temporary file (``to_tensors``).
"""

from __future__ import annotations

import io
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
from datasets.table import embed_table_storage, table_cast
from jaxtyping import UInt8
from PIL import Image, ImageOps
from tqdm import tqdm

from sedm.files import replacing

UNKNOWN = 255
"""The mask value of a pixel that nobody annotated."""

REQUIRED_COLUMNS = ("image", "mask", "group")
ROWS_PER_READ = 100  # rows in a row group of a saved table, and in one read of a streamed one
ROWS_WITHOUT_BAR = 2000  # a pass over fewer rows shows no progress bar
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]+)?$")  # how the Hub numbers the files of one split

Table = datasets.Dataset | datasets.IterableDataset


class PatchTableError(ValueError):
    """A patch table (or what should become one) breaks the format; the message names the culprit."""


def from_arrays(
    images: UInt8[np.ndarray, "n h w 3"],
    masks: UInt8[np.ndarray, "n h w"] | Sequence[np.ndarray | None],
    groups: Sequence[str],
    **columns: Sequence,
) -> datasets.Dataset:
    """A patch table of pictures in memory; ``None`` in ``masks`` means not annotated.

    >>> table = from_arrays(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8), ["a", "b"])
    >>> table.column_names, table[0]["image"].size
    (['image', 'mask', 'group'], (8, 8))
    """
    table = datasets.Dataset.from_dict(
        {
            "image": [encode(image) for image in images],
            "mask": [None if mask is None else encode(mask) for mask in masks],
            "group": list(groups),
            **{name: list(values) for name, values in columns.items()},
        }
    )
    return table.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())


def load_patches(
    source: str | Path, split: str | None = None, group_column: str = "group", streaming: bool = False
) -> Table:
    """The patch table stored at ``source``.

    Args:
        source: a parquet file, or a folder of them as ``find_splits`` reads it.
        split: which split of a folder; may be left out when there is only one.
        group_column: the column to be called ``group`` from here on.
        streaming: give a ``datasets.IterableDataset`` that opens at once and is read row by row from the parquet
            files. Otherwise ``datasets`` copies them, at the first call, into its cache, for access in any order.

    Raises:
        PatchTableError: nothing there, an empty or unreadable file, or a missing column, split or shard.

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
    files = _split_files(source, split) if source.is_dir() else [source]
    features = _features(files, group_column)
    paths = [str(path) for path in files]
    if streaming:
        given = {"files": paths, "features": features}
        table = datasets.IterableDataset.from_generator(_stream_rows, features=features, gen_kwargs=given)
    else:
        try:
            table = datasets.Dataset.from_parquet(paths, features=features)
        except datasets.exceptions.DatasetGenerationError as error:
            for _ in _stream_rows(paths, features):  # names the file and the rows, where reading alone fails
                pass
            cause = " ".join(str(error.__cause__).split())
            raise PatchTableError(f"{source}: damaged between its head and its end ({cause})") from error
    return table if group_column == "group" else table.rename_column(group_column, "group")


def find_splits(folder: str | Path) -> dict[str, list[Path]]:
    """The parquet files of every split in a folder, in order.

    A split is ``train.parquet`` or its shards ``train-00000-of-00012.parquet`` …; in a folder without such files, its
    sub-folders are the splits (``train/*.parquet``), and ``data/`` is looked into, as the Hub lays tables out.

    Raises:
        PatchTableError: a shard is missing, or shards of two tables are mixed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("test", "train-00001-of-00002", "train-00000-of-00002"):
    ...         (Path(folder) / f"{name}.parquet").touch()
    ...     {split: len(files) for split, files in find_splits(folder).items()}
    {'test': 1, 'train': 2}
    """
    folder = Path(folder)
    splits = defaultdict(list)
    for path in sorted(folder.glob("*.parquet")):
        splits[SHARD.sub("", path.stem)].append(path)
    if not splits and (folder / "data").is_dir():
        return find_splits(folder / "data")
    if not splits:
        for path in sorted(folder.glob("*/*.parquet")):
            splits[path.parent.name].append(path)
    for split, files in splits.items():
        _check_shards(split, files)
    return dict(splits)


def check_header(path: str | Path, group_column: str = "group") -> None:
    """None, when the head of a parquet file promises a patch table; reads no picture.

    Raises:
        PatchTableError: no such file, not parquet, a missing column, or no rows.

    >>> check_header("nowhere/train.parquet")
    Traceback (most recent call last):
    ...
    sedm.data.patches.PatchTableError: nowhere/train.parquet: no such file
    """
    _read_schema(Path(path), group_column)


def save_patches(table: Table, path: str | Path) -> Path:
    """The path of the parquet file that now holds ``table``; written whole or not at all.

    Pictures that a table keeps as paths are copied into the file, so it depends on no other.

    Raises:
        PatchTableError: such a picture is no longer there, or a stream does not know its columns.

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
        with replacing(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema, **options) as writer:
            for batch in _arrow_batches(table, schema):
                writer.write_table(embed_table_storage(batch))
    except FileNotFoundError as error:
        raise PatchTableError(f"{path}: not saved; the table's picture {error.filename} is gone") from error
    return Path(path)


def check_patches(table: Table, n_classes: int, name: str = "table") -> None:
    """None, after every picture was opened and found in order.

    Args:
        n_classes: masks must hold 0…n_classes−1 only.
        name: where the table came from, for the message (a file name).

    Raises:
        PatchTableError: names table, row and column of the first fault: a missing column, an empty table,
            unreadable bytes, more than 8 bits a channel, an image and a mask of different size, a value outside
            the classes, no group.

    >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
    >>> check_patches(from_arrays(pixels, pixels[..., 0] + 3, ["a"]), n_classes=2, name="train.parquet")
    Traceback (most recent call last):
    ...
    sedm.data.patches.PatchTableError: train.parquet, row 0, column 'mask': value 3 is outside the classes 0..1
    """
    row = -1
    for row, patch in enumerate(read_rows(table, name, f"checking {name}")):
        where = f"{name}, row {row}, column "
        if not patch["group"]:
            raise PatchTableError(f"{where}'group': empty; every patch needs the name of its patient or species")
        if patch["image"] is None:
            raise PatchTableError(f"{where}'image': null; only masks may be missing")
        image = decode(patch["image"], f"{where}'image'").convert("RGB")
        if patch["mask"] is not None:
            mask = decode(patch["mask"], f"{where}'mask'")
            _check_mask(mask, image.size, n_classes, locate(patch["mask"], f"{where}'mask'"))
    if row < 0:
        raise PatchTableError(f"{name}: the table has no rows")


def encode(pixels: UInt8[np.ndarray, "h w *channels"]) -> dict:
    """A picture as a table stores it: PNG bytes, and no path.

    >>> sorted(encode(np.zeros((8, 8), np.uint8)))
    ['bytes', 'path']
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def decode(stored: dict | Image.Image, where: str) -> Image.Image:
    """A picture from how a table stores it, upright as its camera says; ``where`` begins the message of a fault.

    Raises:
        PatchTableError: unreadable, or more than 8 bits a channel, which would be cut off.

    >>> decode(encode(np.zeros((8, 8), np.uint8)), "row 0").size
    (8, 8)
    """
    if isinstance(stored, Image.Image):  # a stream that somebody mapped a function over
        return stored
    where = locate(stored, where)
    try:
        image = Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
        packing = str(getattr(image, "tile", ""))  # says more than the mode: 48-bit colour becomes plain RGB
        image.load()
        if image.getexif().get(Image.ExifTags.Base.Orientation) is not None:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises many types for damaged files
        raise PatchTableError(f"{where}: unreadable image bytes ({error})") from error
    if image.mode in ("I", "F") or image.mode.startswith("I;") or re.search("(?<!BGR);16", packing):
        raise PatchTableError(f"{where}: 16 bits or floats (mode {image.mode}); save it with 8 bits a channel")
    return image


def locate(stored: dict | Image.Image, where: str) -> str:
    """``where``, and the file that a picture comes from, where the table knows it.

    >>> locate({"bytes": None, "path": "a.png"}, "row 0")
    'row 0 (a.png)'
    """
    return f"{where} ({stored['path']})" if isinstance(stored, dict) and stored["path"] else where


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


def read_rows(table: Table, name: str, doing: str) -> Iterator[dict]:
    """The rows with undecoded pictures, so that a fault is met where its row is known; long tables show a bar."""
    columns = table.column_names or list(next(iter(table), {}))  # a mapped stream does not know its own
    for column in REQUIRED_COLUMNS:
        if column not in columns:
            raise PatchTableError(f"{name}: no column {column!r}; it has {', '.join(columns)}")
    total = len(table) if isinstance(table, datasets.Dataset) else None
    table = table.select_columns(list(REQUIRED_COLUMNS))
    if table.features is not None:
        for column in ("image", "mask"):
            table = table.cast_column(column, datasets.Image(decode=False))
    hidden = total is not None and total < ROWS_WITHOUT_BAR
    yield from tqdm(table, doing, total, unit="patch", disable=hidden, delay=1)


def _check_mask(mask: Image.Image, size: tuple[int, int], n_classes: int, where: str) -> None:
    pixels = np.asarray(mask)
    if pixels.shape != size[::-1]:
        found = "×".join(map(str, pixels.shape[1::-1] + pixels.shape[2:]))
        hint = "; for colours pass mask_values={(255, 0, 0): 1, …} when reading" if pixels.ndim > 2 else ""
        raise PatchTableError(
            f"{where}: size {found}, but the image is {size[0]}×{size[1]}; "
            f"a mask is one channel of class indices, as large as its image{hint}"
        )
    if pixels.max() >= n_classes:
        values = sorted({0, *np.unique(pixels).tolist()})
        meant = {value: index for index, value in enumerate(values)}
        # white on black, for the eye
        hint = f"; pass mask_values={meant} when reading" if values[-1] == 255 and len(values) == n_classes else ""
        raise PatchTableError(f"{where}: value {pixels.max()} is outside the classes 0..{n_classes - 1}{hint}")


def _stream_rows(files: list[str], features: datasets.Features) -> Iterator[dict]:
    for file in files:
        with pyarrow.parquet.ParquetFile(file, buffer_size=2**20) as parquet:
            first = 0
            for index in range(parquet.num_row_groups):
                n_rows = parquet.metadata.row_group(index).num_rows
                try:
                    for batch in parquet.iter_batches(ROWS_PER_READ, row_groups=[index]):
                        rows = pyarrow.Table.from_batches([batch]).select(list(features))
                        yield from table_cast(rows, features.arrow_schema).to_pylist()
                except (pyarrow.ArrowException, OSError) as error:
                    cause = " ".join(str(error).split())
                    raise PatchTableError(
                        f"{file}: rows {first} to {first + n_rows - 1} (row group {index}) are damaged ({cause})"
                    ) from error
                first += n_rows


def _features(files: list[Path], group_column: str) -> datasets.Features:
    """What the columns hold, the same in all files: pictures, names of groups, and the rest as it is stored."""
    schema = _read_schema(files[0], group_column)
    for path in files[1:]:
        if not _read_schema(path, group_column).equals(schema):
            raise PatchTableError(f"{path}: its columns or their types differ from those of {files[0].name}")
    features = datasets.Features.from_arrow_schema(schema)
    return datasets.Features(
        {**features, "image": datasets.Image(), "mask": datasets.Image(), group_column: datasets.Value("string")}
    )


def _read_schema(path: Path, group_column: str) -> pyarrow.Schema:
    if not path.is_file():
        raise PatchTableError(f"{path}: no such file")
    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise PatchTableError(f"{path}: not a readable parquet file ({error})") from error
    schema = metadata.schema.to_arrow_schema()
    for column in ("image", "mask", group_column):
        if column not in schema.names:
            raise PatchTableError(f"{path}: no column {column!r}; it has {', '.join(schema.names)}")
    if metadata.num_rows == 0:
        raise PatchTableError(f"{path}: the table has no rows")
    return schema


def _split_files(folder: Path, split: str | None) -> list[Path]:
    splits = find_splits(folder)
    if not splits:
        raise PatchTableError(f"{folder}: no parquet files in it")
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        raise PatchTableError(f"{folder}: no split {split!r}; it has {', '.join(splits)}")
    return splits[split]


def _check_shards(split: str, files: list[Path]) -> None:
    found = [SHARD.search(path.stem) for path in files]
    totals = {match and int(match[2]) for match in found}
    if len(totals) > 1:
        names = ", ".join(path.name for path in files)
        raise PatchTableError(f"{files[0].parent}: the split {split!r} is there more than once: {names}")
    numbers = [int(match[1]) for match in found if match]
    missing = [number for number in range(next(iter(totals)) or 0) if number not in numbers]
    if missing:
        total = next(iter(totals))
        raise PatchTableError(f"{files[0].parent}: of {total} shards of {split!r} number {missing[0]} is missing")
