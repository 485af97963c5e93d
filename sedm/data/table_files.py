"""The parquet files that a patch table is stored in: its splits, their shards, and what their heads say."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet

from sedm.data.errors import PatchTableError

SHARD = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]+)?$")  # how the Hub numbers the files of one split

PICTURE_FORMS = {
    **dict.fromkeys(("binary", "large_binary", "null"), "pictures"),
    **dict.fromkeys(("string", "large_string", "string_view"), "paths"),
    **dict.fromkeys(("list", "large_list", "fixed_size_list"), "arrays"),
}
"""In what form a column of an arrow type may hold pictures."""


def find_splits(folder: str | Path) -> dict[str, list[Path]]:
    """Find the parquet files of every split in a folder, in order.

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


def files_of_split(folder: Path, split: str | None) -> list[Path]:
    """Find the parquet files of one split of a folder; of the only one for None.

    Raises:
        PatchTableError: no parquet files, or no such split.
    """
    splits = find_splits(folder)
    if not splits:
        raise PatchTableError(f"{folder}: no parquet files in it")
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        raise PatchTableError(f"{folder}: no split {split!r}; it has {', '.join(splits)}")
    return splits[split]


def as_pattern(path: Path) -> str:
    """Write the name of a file so that ``datasets``, which expands names, reads that file and no other.

    Raises:
        PatchTableError: a name with what cannot be written so: a variable of the shell, or the ``::`` of chained URLs.

    >>> as_pattern(Path("/tables/[a]/train.parquet"))
    '/tables/[[]a]/train.parquet'
    """
    name = str(path.absolute())
    if os.path.expandvars(name) != name or "::" in name:
        raise PatchTableError(f"{path}: datasets reads another name for $… or :: in this one; rename the folder")
    return glob.escape(name)


def check_header(path: str | Path, group_column: str = "group") -> pyarrow.Schema:
    """Read the columns and their types from the head of a parquet file that holds a patch table; open no picture.

    Raises:
        PatchTableError: no such file, not parquet, a missing column, or no rows.

    >>> check_header("nowhere/train.parquet")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: nowhere/train.parquet: no such file
    """
    if not Path(path).is_file():
        raise PatchTableError(f"{path}: no such file")
    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise PatchTableError(f"{path}: not a readable parquet file ({error})") from error
    schema = metadata.schema.to_arrow_schema()
    remedies = {
        "image": "",
        "mask": "; load_hub_dataset(…, mask_column=None) reads images that nobody annotated",
        group_column: "; name what shares a style by group_column=…",
    }
    for column, remedy in remedies.items():
        if column not in schema.names:
            raise PatchTableError(f"{path}: no column {column!r}; it has {', '.join(schema.names)}{remedy}")
    if metadata.num_rows == 0:
        raise PatchTableError(f"{path}: the table has no rows")
    return schema


def stored_features(files: Sequence[Path], group_column: str) -> datasets.Features:
    """Read what the columns of some files hold, the same in all of them.

    Pictures are ``Image``, paths of pictures ``Value("string")``; a group is text, or what the file has.

    Raises:
        PatchTableError: a file that ``check_header`` refuses, a column that holds no pictures, or files that differ.
    """
    schemas = [check_header(path, group_column) for path in files]
    for path, schema in zip(files, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise PatchTableError(f"{path}: its columns or their types differ from those of {files[0].name}")
    check_labels(files)
    features = datasets.Features.from_arrow_schema(schemas[0])
    for column in ("image", "mask"):
        form = picture_form(schemas[0].field(column).type)
        if form not in ("pictures", "paths"):
            hint = "; load_hub_dataset reads arrays" if form == "arrays" else ""
            raise PatchTableError(f"{files[0]}: the column {column!r} holds no pictures but {features[column]}{hint}")
        features[column] = datasets.Image() if form == "pictures" else datasets.Value("string")
    if picture_form(schemas[0].field(group_column).type) == "paths":  # text of any type
        features[group_column] = datasets.Value("string")
    return features


def picture_form(kind: pyarrow.DataType) -> str | None:
    """Tell in what form a column of this type may hold pictures: as pictures, paths or arrays; None for neither.

    >>> picture_form(pyarrow.binary()), picture_form(pyarrow.large_string()), picture_form(pyarrow.float32())
    ('pictures', 'paths', None)
    """
    kind = getattr(kind, "storage_type", kind)  # arrays of a fixed shape are a type of their own
    kind = getattr(kind, "value_type", kind) if pyarrow.types.is_dictionary(kind) else kind
    if pyarrow.types.is_struct(kind):
        names = {kind.field(i).name for i in range(kind.num_fields)}
        return "pictures" if names and names <= {"bytes", "path"} else None
    return PICTURE_FORMS.get(str(kind).split("<")[0])


def check_labels(files: Sequence[Path]) -> None:
    """Refuse files that are read together, but in which a class label has another name.

    The numbers in a column are names only by the head of its own file, and a table has the head of the first one.

    Raises:
        PatchTableError: names the file, and the column where it is not the whole file.
    """
    reference: dict[str, list[str]] = {}
    for number, path in enumerate(files):
        try:
            features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))
        except pyarrow.ArrowInvalid as error:
            raise PatchTableError(f"{path}: not a readable parquet file ({error})", file=path) from error
        labels = {name: feature.names for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
        if number == 0:
            reference = labels
        for column in labels.keys() & reference.keys():
            if labels[column] != reference[column]:
                raise PatchTableError(
                    f"{path}: the class labels of column {column!r} are others than in {files[0].name}, with which it "
                    "is read; load each file by its own name"
                )


def _check_shards(split: str, files: list[Path]) -> None:
    """Refuse a split that has a shard too few, or files of two tables."""
    shards = [SHARD.search(path.stem) for path in files]
    totals = {shard and int(shard[2]) for shard in shards}
    if len(totals) > 1:
        names = ", ".join(path.name for path in files)
        raise PatchTableError(f"{files[0].parent}: the split {split!r} is there more than once: {names}")
    total = totals.pop() or 0
    missing = set(range(total)) - {int(shard[1]) for shard in shards if shard}
    if missing:
        raise PatchTableError(f"{files[0].parent}: of {total} shards of {split!r} number {min(missing)} is missing")
