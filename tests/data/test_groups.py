"""A patient is one patient in all tables, whatever tool wrote its name; and nobody else is taken for it."""

from dataclasses import replace
from decimal import Decimal

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from conftest import CLASSES

from sedm.data.hub import load_hub_dataset
from sedm.data.patch_table import PatchTableError, check_patches, encode, from_arrays, load_patches, save_patches
from sedm.data.patches import Patches
from sedm.data.splits import check_splits, split_by_group

PICTURE = encode(np.zeros((8, 8, 3), np.uint8))
MASK = encode(np.ones((8, 8), np.uint8))


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table_of(groups) -> datasets.Dataset:
    """A table of these groups alone, as no loader made it."""
    return datasets.Dataset.from_dict({"group": groups})


def stored(path, groups, column="group"):
    """A parquet file as a tool writes it that knows nothing of ``datasets``; its groups are an arrow array."""
    n = len(groups)
    columns = {"image": [PICTURE["bytes"]] * n, "mask": [MASK["bytes"]] * n, column: groups}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def with_labels(path, names, numbers=(0, 1)):
    """A parquet file whose groups are class labels."""
    features = {"image": datasets.Image(), "mask": datasets.Image(), "group": datasets.ClassLabel(names=names)}
    rows = {"image": [PICTURE] * len(numbers), "mask": [MASK] * len(numbers), "group": list(numbers)}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)
    return path


def loaded(path, how, column="group") -> list[str]:
    """The groups of a file, by each of the loaders."""
    if how == "hub":
        return load_hub_dataset(path, group_column=column)["group"][:]
    rows = load_patches(path, group_column=column, streaming=how == "stream")
    assert rows.features["group"] == datasets.Value("string")
    return [row["group"] for row in rows]


HOW = pytest.mark.parametrize("how", ["table", "stream", "hub"])


@pytest.mark.slow
@HOW
@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (pyarrow.array([7, 8]), ["7", "8"]),
        (pyarrow.array([7.0, 8.5]), ["7", "8.5"]),
        (pyarrow.array([0.1, -7.0], pyarrow.float32()), ["0.1", "-7"]),
        (pyarrow.array([7, 8], pyarrow.uint8()), ["7", "8"]),
        (pyarrow.array([Decimal("7.00"), Decimal("8.50")]), ["7", "8.50"]),
        (pyarrow.array(["007", " 8 "]), ["007", "8"]),
        (pyarrow.array(["a", "b"], pyarrow.large_string()), ["a", "b"]),
        (pyarrow.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pyarrow.array([b"a", b"b"]), ["a", "b"]),
    ],
    ids=["int", "float", "single", "byte", "decimal", "text", "polars", "category", "bytes"],
)
def test_every_loader_writes_a_group_as_the_same_text(tmp_path, how, groups, expected):
    assert loaded(stored(tmp_path / "train.parquet", groups, "patient"), how, "patient") == expected


@HOW
@pytest.mark.parametrize("groups", [[7.0, float("nan")], [7.0, None], ["a", ""], ["a", None], [None, None]])
def test_a_row_without_a_group_is_named(tmp_path, how, groups):
    path = stored(tmp_path / "train.parquet", pyarrow.array(groups, from_pandas=False), "patient")
    row = groups.index(None) if None in groups else 1
    expected = f"row {row}, column 'patient': empty; every patch needs the name of its patient or species"
    assert fault(loaded, path, how, "patient") == f"{path}, {expected}"


@HOW
@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (pyarrow.array([1.0, 2.0**60]), "1.152921504606847e+18, a float too large to tell groups apart; store them as"),
        (pyarrow.array([1.0, float("inf")]), "inf; a group is a name or a number"),
        (pyarrow.array([["a"], ["b"]]), "['a']; a group is a name or a number"),
        (pyarrow.array([True, False]), "True; a group is a name or a number"),
    ],
)
def test_a_value_that_names_no_group_is_refused(tmp_path, how, groups, words):
    path = stored(tmp_path / "train.parquet", groups)
    message = fault(loaded, path, how)
    assert message.startswith(f"{path}, row ")
    assert f"column 'group': {words}" in message


def test_a_patient_is_one_patient_as_a_number_a_float_and_text(tmp_path):
    """What pandas makes of a column of numbers when a value is missing somewhere below."""
    whole = pd.DataFrame({"image": [PICTURE["bytes"]], "mask": [MASK["bytes"]], "patient": [7]})
    floats = pd.DataFrame({"image": [PICTURE["bytes"]] * 2, "mask": [MASK["bytes"]] * 2, "patient": [7.0, np.nan]})
    whole.to_parquet(tmp_path / "whole.parquet")
    floats.iloc[:1].to_parquet(tmp_path / "floats.parquet")
    whole.astype({"patient": str}).to_parquet(tmp_path / "text.parquet")
    for load in (load_patches, load_hub_dataset):
        tables = [load(tmp_path / f"{name}.parquet", group_column="patient") for name in ("whole", "floats", "text")]
        assert [table["group"][:] for table in tables] == [["7"]] * 3
        for other in tables[1:]:
            assert "group '7' is in two splits" in fault(check_splits, {"train": tables[0], "test": other})


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (pd.NA, "row 0, column 'group': empty; "),
        ("Köln".encode("cp1252"), "row 0, column 'group': b'K\\xf6ln' is no UTF-8; "),
    ],
)
def test_a_missing_value_of_pandas_and_bytes_that_are_no_utf_8_are_named(group, words):
    assert fault(from_arrays, np.zeros((1, 8, 8, 3), np.uint8), [None], [group]).startswith(words)


@pytest.mark.parametrize("names", [("7", "7.0"), ("7", "007"), ("0", "000"), ("12.", "12"), ("-7", "-7.0")])
def test_two_spellings_of_one_number_are_refused_wherever_groups_are_split(names, patches):
    words = f"groups {names[0]!r} and {names[1]!r} look like one; write its name alike everywhere"
    tables = {"train": table_of([names[0]]), "test": table_of([names[1]])}
    assert fault(check_splits, tables) == f"splits train, test: {words}"
    images = patches.images[:2].permute(0, 2, 3, 1).numpy()
    table = from_arrays(images, patches.masks[:2].numpy(), names)
    named = replace(patches.select(range(2)), groups=list(names))
    for call in (lambda: split_by_group(table, 0.5, 0), lambda: named.split(0.5, 0), lambda: named.hide_masks(1, 0)):
        message = fault(call)
        assert message.startswith("the table: groups ")
        assert message.endswith("look like one; write its name alike everywhere")


def test_other_names_stay_different_groups():
    names = ["7", "70", "7a", "v7.0", "-7", "7.5", "case-7", "case-07"]
    check_splits({"train": table_of(names[:4]), "test": table_of(names[4:])})
    train, test = split_by_group(table_of(names), 0.5, seed=0)
    assert sorted([*train["group"], *test["group"]]) == sorted(names)


def test_groups_of_a_table_in_memory_are_text_and_none_is_empty(patches, tmp_path):
    images, masks = patches.images[:3].permute(0, 2, 3, 1).numpy(), patches.masks[:3].numpy()
    table = from_arrays(images, masks, [np.int64(7), 7.0, "7"])
    assert table["group"][:] == ["7", "7", "7"]
    assert from_arrays(images, masks, [np.float32(0.1), 0.1, "0.1"])["group"][:] == ["0.1", "0.1", "0.1"]
    assert "row 1, column 'group': True; a group is a name or a number" in fault(
        from_arrays, images, masks, ["a", np.True_, "b"]
    )
    assert from_arrays(images, masks, np.array([0.0, 1.0, 2.0]))["group"][:] == ["0", "1", "2"]
    assert "row 1, column 'group': empty" in fault(from_arrays, images, masks, ["a", None, "b"])
    numbers = table.remove_columns("group").add_column("group", [0, 1, 2])  # group 0 is a group
    check_patches(numbers, n_classes=2)
    assert Patches.from_table(numbers, CLASSES).groups == ["0", "1", "2"]
    assert loaded(save_patches(numbers, tmp_path / "train.parquet"), "table") == ["0", "1", "2"]


# ---------------------------------------------------------------------------------------------------- class labels


@HOW
def test_class_labels_are_groups_by_their_names(tmp_path, how):
    path = with_labels(tmp_path / "train.parquet", ["Abyssinian", "Bengal"], (1, 0, 1))
    assert loaded(path, how) == ["Bengal", "Abyssinian", "Bengal"]


@HOW
def test_a_row_without_a_label_is_named(tmp_path, how):
    path = with_labels(tmp_path / "train.parquet", ["Abyssinian", "Bengal"], (1, -1))
    assert "row 1, column 'group': empty" in fault(loaded, path, how)


@HOW
def test_tables_with_other_codings_share_the_groups_of_the_same_name_alone(tmp_path, how):
    first = loaded(with_labels(tmp_path / "1.parquet", ["p1", "p2"]), how)
    second = loaded(with_labels(tmp_path / "2.parquet", ["p3", "p4"]), how)
    third = loaded(with_labels(tmp_path / "3.parquet", ["x", "p1"]), how)
    assert (first, second, third) == (["p1", "p2"], ["p3", "p4"], ["x", "p1"])
    check_splits({"train": table_of(first), "test": table_of(second)})
    assert "group 'p1' is in two splits" in fault(check_splits, {"train": table_of(first), "test": table_of(third)})


@HOW
def test_files_that_are_read_together_must_have_the_same_labels(tmp_path, how):
    """``datasets`` would call the groups of the second file by the names of the first one's."""
    for number, names in enumerate((["p1", "p2"], ["p3", "p4"])):
        with_labels(tmp_path / f"train-{number:05d}-of-00002.parquet", names)
    message = fault(loaded, tmp_path, how)
    assert message.startswith(f"{tmp_path / 'train-00001-of-00002.parquet'}: the class labels of column 'group'")
    assert message.endswith("load each file by its own name")


def test_a_split_of_a_folder_is_not_read_with_the_labels_of_another(tmp_path):
    with_labels(tmp_path / "train.parquet", ["p1", "p2"])
    test = with_labels(tmp_path / "test.parquet", ["p3", "p4"])
    for split in ("train", "test", "all"):
        assert "the class labels of column 'group'" in fault(load_hub_dataset, tmp_path, split=split)
    assert load_hub_dataset(test, split="test")["group"][:] == ["p3", "p4"]
    assert load_patches(tmp_path, "test")["group"][:] == ["p3", "p4"]


# -------------------------------------------------------------------------------------------------------- streams


def test_streams_are_checked_against_each_other_but_not_split(table, tmp_path):
    path = save_patches(table, tmp_path / "train.parquet")
    stream = load_patches(path, streaming=True)
    assert "group 'group-0' is in two splits" in fault(check_splits, {"train": stream, "test": table})
    check_splits({"train": stream.take(4), "test": stream.skip(4)})
    words = "a stream cannot be split by group; load the table without streaming=True"
    assert fault(split_by_group, stream, 0.5, 0) == words


def test_a_data_set_is_not_streamed_and_says_what_is(table, tmp_path):
    path = save_patches(table, tmp_path / "train.parquet")
    message = fault(load_hub_dataset, path, streaming=True)
    assert message == f"{path}: no streaming=True here; load_patches(…, streaming=True) streams a saved table"


def test_images_that_are_their_own_groups_are_other_groups_in_another_split(table, tmp_path):
    for split in ("train", "test"):
        save_patches(table.remove_columns("group"), tmp_path / f"{split}.parquet")
    tables = {split: load_hub_dataset(tmp_path, group_column=None, split=split) for split in ("train", "test")}
    check_splits(tables)
    assert set(tables["train"]["group"]).isdisjoint(tables["test"]["group"])
