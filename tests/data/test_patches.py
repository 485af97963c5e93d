"""The patch table: what goes in comes out, and every fault is named in one sentence."""

import io
import os
import resource
import struct
import sys
import zlib
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import CLASSES
from PIL import Image, ImageOps

import sedm.data.mapped_pixels
import sedm.data.patch_table
import sedm.data.table_rows
from sedm.config import build_config
from sedm.data.data_checksum import data_checksum
from sedm.data.patch_table import (
    UNKNOWN,
    PatchTableError,
    check_patches,
    find_splits,
    from_arrays,
    load_patches,
    save_patches,
)
from sedm.data.patches import Patches
from sedm.data.places import Places
from sedm.data.splits import check_splits, split_by_group
from sedm.data.study_data import load_study
from sedm.data.table_decoding import MASK_SOURCES
from sedm.layouts import EmpiricalPrior
from sedm.segmentation.predicted_masks import with_predicted_masks


def encoded(table):
    """The rows with pictures as they are stored."""
    for column in ("image", "mask"):
        table = table.cast_column(column, datasets.Image(decode=False))
    return table[:]


def with_value(table, column, row, value):
    """The table with one stored picture replaced."""
    columns = encoded(table)
    columns[column][row] = value
    changed = datasets.Dataset.from_dict(columns)
    return changed.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())


def with_mask(table, row, mask):
    return with_value(table, "mask", row, picture(mask))


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def picture(array, file_format="PNG", **options):
    """How a table stores a picture."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=file_format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def brute_force(*files) -> Patches:
    """The pixels of parquet files, by pyarrow and Pillow alone."""
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    images = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    masks = [
        np.full(image.shape[:2], UNKNOWN, np.uint8)
        if row["mask"] is None
        else np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
        for row, image in zip(rows, images, strict=True)
    ]
    pixels = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
    return Patches(pixels, torch.from_numpy(np.stack(masks)), [row["group"] for row in rows], CLASSES)


def same(first: Patches, second: Patches) -> bool:
    return first.images.equal(second.images) and first.masks.equal(second.masks) and first.groups == second.groups


def mapped_files(folder) -> int:
    """How many files of a folder, deleted ones included, this process has in its memory map."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[4] for line in lines if f" {folder}/" in line})


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def small_groups(monkeypatch):
    """Four rows a row group."""
    for module in (sedm.data.patch_table, sedm.data.table_rows):
        monkeypatch.setattr(module, "ROWS_PER_READ", 4)


# ------------------------------------------------------------------------------------------ round trip


def test_a_saved_table_comes_back_with_the_same_pixels_nulls_and_columns(table, patches, tmp_path):
    path = save_patches(table, tmp_path / "new" / "train.parquet")
    loaded = load_patches(path)
    assert loaded.column_names == ["image", "mask", "group", "block"]
    assert encoded(loaded) == encoded(table)
    tensors = Patches.from_table(loaded, CLASSES)
    assert tensors.images.equal(patches.images)
    assert tensors.masks.equal(patches.masks)
    assert tensors.groups == patches.groups
    assert [mask is None for mask in loaded["mask"]] == [False] * 8 + [True] * 8
    assert [file.name for file in path.parent.iterdir()] == ["train.parquet"]


def test_the_same_rows_give_the_same_file(table, tmp_path):
    first, second = (save_patches(table, tmp_path / name / "train.parquet") for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_split_is_found_in_a_folder_and_the_group_column_is_renamed(table, tmp_path):
    save_patches(table.rename_column("group", "case"), tmp_path / "train.parquet")
    only = load_patches(tmp_path, group_column="case")
    save_patches(table.select(range(3)).rename_column("group", "case"), tmp_path / "test.parquet")
    assert len(only) == len(load_patches(tmp_path, "train", "case")) == 16
    test = load_patches(tmp_path, "test", "case")
    assert test["group"][:] == ["group-0"] * 3
    assert "case" not in test.column_names


# ------------------------------------------------------------------------------- streams, shards, row groups


def test_streamed_and_copied_tables_hold_what_a_brute_force_decoder_reads(table, patches, tmp_path, small_groups):
    path = save_patches(table, tmp_path / "train.parquet")
    truth = brute_force(path)
    assert same(truth, patches)
    stream, copy = load_patches(path, streaming=True), load_patches(path)
    assert stream.features == copy.features
    assert same(Patches.from_table(stream, CLASSES), truth)
    assert same(Patches.from_table(stream, CLASSES), truth)  # a second pass begins anew
    assert same(Patches.from_table(copy, CLASSES), truth)
    assert [row["block"] for row in stream] == table["block"][:]
    for streamed, copied in zip(stream, copy, strict=True):
        assert np.array_equal(streamed["image"], copied["image"])
        assert (streamed["mask"] is None) == (copied["mask"] is None)
    check_patches(stream, n_classes=2)


def test_streamed_rows_come_in_order_and_as_far_as_asked(table, patches, tmp_path, small_groups):
    stream = load_patches(save_patches(table, tmp_path / "train.parquet"), streaming=True)
    assert same(Patches.from_table(stream.skip(3).take(7), CLASSES), patches.select(range(3, 10)))
    dark = stream.map(lambda patch: {"image": patch["image"].point(lambda value: value // 2)})
    assert Patches.from_table(dark, CLASSES).images.equal(patches.images // 2)
    assert fault(check_patches, stream.take(0), 2, "mine") == "mine: the table has no rows"
    assert fault(Patches.from_table, stream.take(0), CLASSES) == "table: the table has no rows"


@pytest.mark.parametrize("rows", [3, 4, 100])
def test_a_stream_is_saved_as_the_table_is(table, tmp_path, monkeypatch, rows):
    """Whether a batch has masks, has none, or some of its rows have."""
    monkeypatch.setattr(sedm.data.patch_table, "ROWS_PER_READ", rows)
    first = save_patches(table, tmp_path / "a.parquet")
    stream = load_patches(first, streaming=True)
    assert save_patches(stream, tmp_path / "b.parquet").read_bytes() == first.read_bytes()
    assert "forgot its columns" in fault(save_patches, stream.map(lambda patch: patch), tmp_path / "c.parquet")


def test_a_saved_table_has_small_row_groups(tmp_path):
    pixels = np.zeros((250, 8, 8, 3), np.uint8)
    path = save_patches(from_arrays(pixels, pixels[..., 0], ["a"] * 250), tmp_path / "train.parquet")
    metadata = pyarrow.parquet.read_metadata(path)
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [100, 100, 50]


def test_columns_of_numbers_bytes_and_names_are_read_alike(table, tmp_path):
    """A table that never knew of ``datasets``: pictures are bytes, groups are numbers."""
    rows = {"image": [row["bytes"] for row in encoded(table)["image"]], "case": [row // 4 for row in range(16)]}
    rows["mask"] = [row and row["bytes"] for row in encoded(table)["mask"]]
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "train.parquet")
    for streaming in (False, True):
        loaded = load_patches(tmp_path, group_column="case", streaming=streaming)
        tensors = Patches.from_table(loaded, CLASSES)
        assert tensors.groups == [str(row // 4) for row in range(16)]
        assert tensors.images.equal(Patches.from_table(table, CLASSES).images)
        assert tensors.masks.equal(Patches.from_table(table, CLASSES).masks)


@pytest.mark.parametrize("layout", ["train-{}-of-00003", "data/train-{}-of-00003", "train/{}", "data/train/part-{}"])
@pytest.mark.parametrize("streaming", [False, True])
def test_shards_are_one_table_in_their_order(table, patches, tmp_path, layout, streaming):
    parts = (range(5), range(5, 6), range(6, 16))
    for number in (2, 0, 1):
        save_patches(table.select(parts[number]), tmp_path / f"{layout.format(f'{number:05d}')}.parquet")
    (tmp_path / "README.md").write_text("about")
    loaded = load_patches(tmp_path, "train", streaming=streaming)
    assert same(Patches.from_table(loaded, CLASSES), patches)
    assert list(find_splits(tmp_path)) == ["train"]


def test_a_study_may_be_sharded(table, tmp_path):
    table = table.rename_column("group", "case")
    for number, rows in enumerate((range(3), range(3, 8))):
        save_patches(table.select(rows), tmp_path / "data" / f"train-{number:05d}-of-00002.parquet")
    save_patches(table.select(range(8, 16)), tmp_path / "data" / "test-00000-of-00001.parquet")
    data = load_study(build_config("ebhi", "smoke"), tmp_path)
    assert {split: len(part) for split, part in data.patches.items()} == {"train": 8, "test": 8}
    wrong = with_mask(table.select(range(3, 8)), 2, np.full((16, 16), 7, np.uint8))
    save_patches(wrong, tmp_path / "data" / "train-00001-of-00002.parquet")
    message = fault(load_study, build_config("ebhi", "smoke"), tmp_path)
    assert message.startswith(f"{tmp_path}/train, row 5, column 'mask': value 7")  # of the whole split


def test_a_missing_shard_and_mixed_shards_are_named(table, tmp_path):
    for number in (0, 2):
        save_patches(table, tmp_path / f"train-{number:05d}-of-00003.parquet")
    assert fault(load_patches, tmp_path) == f"{tmp_path}: of 3 shards of 'train' number 1 is missing"
    save_patches(table, tmp_path / "train.parquet")
    assert "the split 'train' is there more than once: train-00000-of-00003.parquet," in fault(load_patches, tmp_path)


def test_shards_of_other_columns_are_named(table, tmp_path):
    save_patches(table, tmp_path / "train-00000-of-00002.parquet")
    second = save_patches(table.remove_columns("block"), tmp_path / "train-00001-of-00002.parquet")
    assert fault(load_patches, tmp_path).startswith(
        f"{second}: its columns or their types differ from those of train-0"
    )
    save_patches(table.remove_columns("mask"), second)
    assert fault(load_patches, tmp_path).startswith(f"{second}: no column 'mask'")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_damaged_row_group_in_the_middle_is_named(table, patches, tmp_path, small_groups, streaming):
    path = save_patches(table, tmp_path / "train.parquet")
    start = pyarrow.parquet.read_metadata(path).row_group(2).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)

    def read():
        return Patches.from_table(load_patches(path, streaming=streaming), CLASSES)

    assert fault(read).startswith(f"{path}: rows 8 to 11 (row group 2) are damaged")
    assert same(Patches.from_table(load_patches(path, streaming=True).take(7), CLASSES), patches.select(range(7)))


# ----------------------------------------------------------------------------------------------- faults


def test_a_missing_table_is_named(tmp_path):
    assert str(tmp_path / "gone.parquet") in fault(load_patches, tmp_path / "gone.parquet")
    assert str(tmp_path) in fault(load_patches, tmp_path)


def test_a_missing_split_is_named_with_those_there_are(table, tmp_path):
    for split in ("train", "test"):
        save_patches(table, tmp_path / f"{split}.parquet")
    assert "no split 'tset'; it has test, train" in fault(load_patches, tmp_path, "tset")


def test_an_empty_table_is_named(table, tmp_path):
    path = save_patches(table.select([]), tmp_path / "train.parquet")
    assert fault(load_patches, path) == f"{path}: the table has no rows"
    assert fault(check_patches, table.select([]), 2, "mine") == "mine: the table has no rows"


@pytest.mark.parametrize("column", ["image", "mask", "group"])
def test_a_missing_column_is_named(table, tmp_path, column):
    path = save_patches(table.remove_columns(column), tmp_path / "train.parquet")
    assert f"{path}: no column {column!r}; it has" in fault(load_patches, path)
    assert f"mine: no column {column!r}; it has" in fault(check_patches, table.remove_columns(column), 2, "mine")


def test_a_missing_group_column_is_named(table, tmp_path):
    path = save_patches(table, tmp_path / "train.parquet")
    assert "no column 'case'; it has image, mask, group, block" in fault(load_patches, path, group_column="case")


def test_an_image_and_a_mask_of_different_size_are_named(table):
    message = fault(check_patches, with_mask(table, 3, np.zeros((8, 16), np.uint8)), 2, "train.parquet")
    assert message.startswith("train.parquet, row 3, column 'mask': size 16×8, but the image is 16×16")


def test_a_mask_with_colour_channels_is_named(table):
    message = fault(check_patches, with_mask(table, 3, np.zeros((16, 16, 3), np.uint8)), 2, "train.parquet")
    assert message.startswith("train.parquet, row 3, column 'mask': size 16×16×3")


def test_a_mask_value_outside_the_classes_is_named(table):
    mask = np.zeros((16, 16), np.uint8)
    mask[15, 7] = 2
    message = fault(check_patches, with_mask(table, 5, mask), 2, "train.parquet")
    assert message == "train.parquet, row 5, column 'mask': value 2 is outside the classes 0..1"
    check_patches(with_mask(table, 5, mask), n_classes=3)


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize("cut", [0, 60])
def test_unreadable_image_bytes_are_named(table, column, cut):
    stored = encoded(table)[column][2]["bytes"]
    damaged = with_value(table, column, 2, {"bytes": stored[:cut], "path": None})
    message = fault(check_patches, damaged, 2, "train.parquet")
    assert message.startswith(f"train.parquet, row 2, column {column!r}: unreadable image bytes")


def test_a_null_image_and_an_empty_group_are_named(table):
    assert "row 4, column 'image': null" in fault(check_patches, with_value(table, "image", 4, None), 2)
    assert "row 1, column 'group': empty" in fault(check_patches, with_value(table, "group", 1, ""), 2)


def test_the_first_fault_is_the_one_reported(table):
    wrong = np.full((16, 16), 9, np.uint8)
    assert "row 2," in fault(check_patches, with_mask(with_mask(table, 6, wrong), 2, wrong), 2)


def test_masks_drawn_for_the_eye_are_named_with_what_to_do(table):
    """Of a table whose other masks show no class either; a single one in a table that does is of unknown pixels."""
    table = table.select(range(4, 16))
    for row in range(4):
        table = with_mask(table, row, np.zeros((16, 16), np.uint8))
    mask = np.zeros((16, 16), np.uint8)
    mask[3] = 255
    remedy = "give each class its values in a study.toml, or pass mask_values={0: 0, 255: 1} when reading"
    end = f"value 255 is outside the classes 0..1; {remedy}"
    assert fault(check_patches, with_mask(table, 1, mask), 2).endswith(end)
    assert fault(check_patches, with_mask(table, 1, mask | 255), 2).endswith(end)
    mask[4] = 128
    assert fault(check_patches, with_mask(table, 1, mask), 3).endswith(
        "mask_values={0: 0, 128: 1, 255: 2} when reading"
    )
    end = "outside the classes 0..1; where black and white were smoothed, say mask_threshold=127 when reading"
    assert fault(check_patches, with_mask(table, 1, mask), 2).endswith(f"value 128 is {end}")


@pytest.mark.parametrize(
    ("array", "file_format"),
    [(np.full((16, 16), 300, np.uint16), "PNG"), (np.full((16, 16), 0.5, np.float32), "TIFF")],
)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_pictures_of_more_than_eight_bits_are_named(table, column, array, file_format):
    damaged = with_value(table, column, 2, picture(array, file_format))
    assert f"mine, row 2, column {column!r}: 16 bits or floats" in fault(check_patches, damaged, 2, "mine")
    assert fault(Patches.from_table, damaged, CLASSES).startswith(f"table, row 2, column {column!r}: 16 bits or floats")


def test_deep_colour_is_named_though_pillow_would_cut_it_off(table):
    stored = picture(np.zeros((16, 16, 3), np.uint8))["bytes"]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)  # 16 bits, RGB
    pixels = zlib.compress((b"\0" + bytes(16 * 6)) * 16)
    deep = stored[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    assert Image.open(io.BytesIO(deep)).mode == "RGB"
    damaged = with_value(table, "image", 1, {"bytes": deep, "path": None})
    assert "row 1, column 'image': 16 bits" in fault(check_patches, damaged, 2)


def test_a_photo_is_turned_upright_wherever_it_is_read(table):
    array = np.zeros((8, 24, 3), np.uint8)
    array[:, :5] = 200
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    stored = picture(array, "JPEG", exif=turned, quality=95)
    photo = with_value(with_mask(table, 0, np.ones((24, 8), np.uint8)), "image", 0, stored).select([0])
    check_patches(photo, n_classes=2)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(stored["bytes"])))
    assert np.array_equal(Patches.from_table(photo, CLASSES).images[0].permute(1, 2, 0), np.asarray(upright))


def test_unreadable_pictures_are_named_when_decoded(table):
    stored = encoded(table)["mask"][2]["bytes"]
    damaged = with_value(table, "mask", 2, {"bytes": stored[:60], "path": None})
    assert fault(Patches.from_table, damaged, CLASSES).startswith("table, row 2, column 'mask': unreadable image bytes")
    assert fault(Patches.from_table, with_mask(table, 3, np.zeros((16, 16, 3), np.uint8)), CLASSES).startswith(
        "table, row 3, column 'mask': size 16×16×3"
    )


def test_a_long_pass_shows_a_bar_and_a_short_one_none(table, monkeypatch):
    shown = []
    monkeypatch.setattr(sedm.data.table_rows, "ROWS_WITHOUT_BAR", 10)
    monkeypatch.setattr(sedm.data.table_rows, "tqdm", lambda rows, *_, disable, **__: shown.append(not disable) or rows)
    check_patches(table.select(range(9)), 2)
    check_patches(table, 2)
    Patches.from_table(table, CLASSES)
    assert shown == [False, True, True]


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_parquet_file_is_named(table, tmp_path, keep):
    path = save_patches(table, tmp_path / "train.parquet")
    path.write_bytes(path.read_bytes()[:keep])
    assert fault(load_patches, path).startswith(f"{path}: not a readable parquet file")


def test_a_parquet_file_damaged_in_its_middle_is_named(table, tmp_path):
    path = save_patches(table, tmp_path / "train.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 3) + content[4 + len(content) // 3 :])
    assert str(path) in fault(load_patches, path)


def test_a_group_in_two_splits_is_named(table):
    splits = {"train": table.select(range(5)), "test": table.select(range(4, 16))}
    assert fault(check_splits, splits).startswith("group 'group-1' is in two splits, 'train' and 'test'")
    check_splits({"train": table.select(range(4)), "test": table.select(range(4, 16))})


@pytest.mark.parametrize(
    ("damage", "culprit"),
    [
        (lambda table: table.remove_columns("mask"), "train.parquet: no column 'mask'"),
        (lambda table: with_mask(table, 1, np.full((16, 16), 2, np.uint8)), "train.parquet, row 1, column 'mask': v"),
        (lambda table: with_value(table, "case", 7, "group-2"), "group 'group-2' is in two splits"),
    ],
)
def test_a_study_is_refused_for_the_fault_of_one_table(table, tmp_path, damage, culprit):
    table = table.rename_column("group", "case")
    save_patches(table.select(range(8, 16)), tmp_path / "test.parquet")
    save_patches(table.select(range(8)), tmp_path / "train.parquet")
    assert set(load_study(build_config("ebhi", "smoke"), tmp_path).patches) == {"train", "test"}
    save_patches(damage(table.select(range(8))), tmp_path / "train.parquet")
    assert culprit in fault(load_study, build_config("ebhi", "smoke"), tmp_path)


def test_a_study_may_have_pixels_that_nobody_knows(table, tmp_path):
    """What 255 means is decided by all splits: the one of the test has no foreground of its own."""
    config = build_config("ebhi", "smoke")
    mask = np.zeros((16, 16), np.uint8)
    mask[3:] = UNKNOWN
    table = table.rename_column("group", "case")
    save_patches(with_mask(table.select(range(8)), 5, mask), tmp_path / "train.parquet")
    save_patches(with_mask(table.select(range(8, 16)), 0, mask), tmp_path / "test.parquet")
    data = load_study(replace(config, data=replace(config.data, image_size=16)), tmp_path)
    assert np.array_equal(data.train.masks[5], mask)
    assert np.array_equal(data.test.masks[0], mask)
    white_on_black = table.select(range(8)).map(lambda patch: {"mask": patch["mask"].point(lambda value: 255 * value)})
    save_patches(white_on_black, tmp_path / "train.parquet")
    message = fault(load_study, config, tmp_path)
    assert message.startswith(f"{tmp_path / 'train.parquet'}, row 0, column 'mask': no mask has a class above 0")


def test_a_study_on_real_images_needs_its_folder_and_an_embedded_one_none(tmp_path):
    with pytest.raises(ValueError, match="'ebhi' needs the folder of its parquet files"):
        load_study(build_config("ebhi", "smoke"))
    with pytest.raises(ValueError, match="'tissue' is embedded: leave --data or DATA out"):
        load_study(build_config("tissue", "smoke"), tmp_path)
    assert f"{tmp_path}: no train.parquet" in fault(load_study, build_config("ebhi", "smoke"), tmp_path)
    assert str(tmp_path / "no") in fault(load_study, build_config("ebhi", "smoke"), tmp_path / "no")


# ------------------------------------------------------------------------------- splits and annotations


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("fraction", "n_test_groups"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.99, 3)])
def test_a_split_shares_no_group_and_loses_no_row(table, fraction, n_test_groups, seed):
    train, test = split_by_group(table, fraction, seed)
    assert set(train["group"]) | set(test["group"]) == set(table["group"])
    assert not set(train["group"]) & set(test["group"])
    assert len(set(test["group"])) == n_test_groups
    assert sorted([*train["block"], *test["block"]]) == sorted(table["block"])


def test_a_split_depends_on_the_seed_but_not_on_the_order_of_rows(table):
    tests = [frozenset(split_by_group(table, 0.5, seed)[1]["group"]) for seed in range(10)]
    assert len(set(tests)) > 1
    backwards = table.select(range(15, -1, -1))
    assert tests == [frozenset(split_by_group(backwards, 0.5, seed)[1]["group"]) for seed in range(10)]


def test_one_group_cannot_be_split(table):
    assert "has 1 group" in fault(split_by_group, table.select(range(4)), 0.5, 0)
    with pytest.raises(ValueError, match=r"test_fraction=1\.5"):
        split_by_group(table, 1.5, 0)


def test_numbers_as_groups_become_names(table, tmp_path):
    numbered = table.remove_columns("group").add_column("case", [row // 4 for row in range(16)])
    loaded = load_patches(save_patches(numbered, tmp_path / "train.parquet"), group_column="case")
    check_patches(loaded, n_classes=2)
    train, test = split_by_group(loaded, 0.5, seed=0)
    assert (len(train), len(test)) == (8, 8)
    assert Patches.from_table(loaded, CLASSES).hide_masks(1, seed=0).has_mask.sum() == 4


# ------------------------------------------------------------------------------------------ masks that are hidden


@pytest.fixture
def fully(patches):
    """The same images with a mask each: annotated ones of two groups, a predicted and a generated one of two."""
    masks = patches.masks.clone()
    masks[8:] = masks[:8]
    sources = ["annotated"] * 8 + ["predicted"] * 4 + ["generated"] * 4
    return replace(patches, masks=masks, mask_source=sources)


@pytest.mark.parametrize("seed", [0, 3])
def test_hidden_masks_are_nested_and_touch_only_masks(fully, seed):
    fully = replace(fully, mask_source=[*["annotated"] * 4, *["predicted", "annotated"] * 6])  # four annotated groups
    kept = []
    for n in range(5):
        hidden = fully.hide_masks(n, seed)
        assert hidden.images.data_ptr() == fully.images.data_ptr()  # shared, not copied
        assert (hidden.groups, hidden.classes) == (fully.groups, fully.classes)
        kept.append({group for group, visible in zip(hidden.groups, hidden.has_mask, strict=True) if visible})
        for row, group in enumerate(fully.groups):
            assert hidden.masks[row].equal(fully.masks[row]) == (group in kept[-1])
            assert (hidden.masks[row] == UNKNOWN).all() == (group not in kept[-1])
            assert hidden.mask_source[row] == (fully.mask_source[row] if group in kept[-1] else "none")
        order = np.random.default_rng(seed).permutation([f"group-{number}" for number in range(4)])
        assert kept[-1] == set(order[:n])
    assert [len(groups) for groups in kept] == [0, 1, 2, 3, 4]
    assert all(small < large for small, large in pairwise(kept))
    assert (fully.masks != UNKNOWN).all()  # of which nothing was hidden


@pytest.mark.parametrize("rows", [range(15, -1, -1), [0, 1, 2, 9, 9, 5], range(3, 12)])
def test_which_masks_are_hidden_does_not_depend_on_the_order_of_rows(patches, rows):
    chosen = patches.select(rows)
    hidden = chosen.hide_masks(1, seed=1)
    (kept,) = {group for group, visible in zip(hidden.groups, hidden.has_mask, strict=True) if visible}
    assert kept == str(np.random.default_rng(1).permutation(["group-0", "group-1"])[0])
    for row, mask in enumerate(hidden.masks):
        assert mask.equal(chosen.masks[row] if chosen.groups[row] == kept else torch.full_like(mask, UNKNOWN))


def test_predicted_masks_are_hidden_too(fully):
    """Nothing of a hidden group is left, whoever made its masks; only groups that people annotated are drawn."""
    for seed in range(8):
        hidden = fully.hide_masks(1, seed)
        assert Counter(hidden.mask_source) == {"annotated": 4, "none": 12}
    with pytest.raises(ValueError, match="n_annotated_groups=3, but 2 groups are annotated"):
        fully.hide_masks(3, seed=0)
    assert set(fully.hide_masks(0, seed=0).mask_source) == {"none"}


def test_a_missing_mask_stays_missing_in_a_group_that_keeps_its_masks(patches):
    masks = patches.masks.clone()
    masks[2] = UNKNOWN
    hidden = replace(patches, masks=masks).hide_masks(2, seed=0)
    assert hidden.has_mask.tolist() == [True, True, False, *[True] * 5, *[False] * 8]
    assert hidden.masks.equal(masks)


def test_what_is_computed_from_hidden_masks_is_not_mixed_up(patches):
    """What is kept by a checksum must not be taken for that of other masks."""
    checksums = [data_checksum(patches.hide_masks(n, seed=0)) for n in (0, 1, 2, 1)]
    assert checksums[1] == checksums[3]
    assert len(set(checksums)) == 3


def test_only_annotated_groups_can_stay_annotated(patches):
    assert patches.hide_masks(2, seed=0).is_annotated.tolist() == [True] * 8 + [False] * 8
    for n in (3, -1):
        with pytest.raises(ValueError, match=f"^n_annotated_groups={n}, but 2 groups are annotated$"):
            patches.hide_masks(n, seed=0)


# ------------------------------------------------------------------------------------------ decoded pixels


@pytest.mark.parametrize("size", [8, 24])
def test_resized_masks_hold_no_new_class_and_images_are_resized_by_lanczos(size):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    masks = random.choice(np.array([0, 2, 7], np.uint8), (3, 16, 16))
    table = from_arrays(images, [masks[0], None, masks[2]], list("abc"))
    tensors = Patches.from_table(table, list("01234567"), image_size=size)
    assert tensors.images.shape == (3, 3, size, size)
    assert tensors.masks[[0, 2]].unique().tolist() == [0, 2, 7]
    assert tensors.masks[1].unique().tolist() == [UNKNOWN]
    for image, resized in zip(images, tensors.images, strict=True):
        expected = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)
        assert np.array_equal(resized.permute(1, 2, 0), expected)


def test_images_of_several_sizes_need_a_common_one():
    sizes = (np.zeros((1, size, size, 3), np.uint8) for size in (8, 12))
    table = datasets.concatenate_datasets([from_arrays(pictures, [None], ["a"]) for pictures in sizes])
    assert "give image_size" in fault(Patches.from_table, table, CLASSES)
    assert Patches.from_table(table, CLASSES, 8).images.shape == (2, 3, 8, 8)


@only_linux
@pytest.mark.parametrize("size", [None, 8])
def test_mapped_tensors_equal_those_in_memory_and_their_file_vanishes(table, patches, tmp_path, size):
    in_memory = Patches.from_table(table, CLASSES, size)
    assert mapped_files(tmp_path) == 0
    mapped = Patches.from_table(table, CLASSES, size, folder=tmp_path)
    assert mapped_files(tmp_path) == 2
    assert list(tmp_path.iterdir()) == []  # no name that somebody would have to delete
    assert same(mapped, in_memory)
    assert size or same(mapped, patches)
    rows = torch.tensor([3, 3, 11, 0])
    assert mapped.images[rows].equal(in_memory.images[rows])
    mapped.images[2] = 7  # writable, as those in memory are
    assert mapped.images[2].unique().tolist() == [7]
    view = mapped.images[1]
    del mapped
    assert view.equal(in_memory.images[1])  # a part keeps the file alive
    del view
    assert mapped_files(tmp_path) == 0


@only_linux
def test_large_tensors_are_mapped_unasked(table, patches, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sedm.data.mapped_pixels, "MEMORY_LIMIT", patches.images.numel() - 1)
    tensors = Patches.from_table(table, CLASSES)
    assert mapped_files(tmp_path) == 1  # the images; the masks are a third of them
    assert same(tensors, patches)
    monkeypatch.setattr(sedm.data.mapped_pixels, "MEMORY_LIMIT", 3 * 3 * 16 * 16)
    rows = [9, 2, 2, 15]
    expected = Patches(patches.images[rows], patches.masks[rows], [patches.groups[row] for row in rows], CLASSES)
    assert same(tensors.select(rows), expected)
    picked = tensors.select(rows)
    assert mapped_files(tmp_path) == 2
    assert picked.annotated().groups == ["group-0", "group-0"]
    del picked, tensors
    assert mapped_files(tmp_path) == 0


@only_linux
def test_a_failed_decoding_leaves_no_file(table, tmp_path):
    damaged = with_value(table, "image", 15, {"bytes": b"nothing", "path": None})
    opened = len(os.listdir("/proc/self/fd"))
    assert "row 15" in fault(Patches.from_table, damaged, CLASSES, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert mapped_files(tmp_path) == 0
    assert len(os.listdir("/proc/self/fd")) == opened


@only_linux
def test_a_full_disk_is_one_sentence_that_names_the_folder(table, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=f"decoded pixels do not fit into {tmp_path} .*; name another folder"):
            Patches.from_table(table, CLASSES, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_annotated_rows_are_found_in_parts(patches):
    many = patches.select(list(range(16)) * 150)  # more than one part
    assert many.has_mask.equal((many.masks != UNKNOWN).flatten(1).any(1))
    assert len(many.annotated()) == 1200
    assert patches.select(range(8)).annotated().groups == patches.groups[:8]
    assert patches.select([]).has_mask.tolist() == []


def test_selection_keeps_rows_together(patches):
    picked = patches.select([9, 2])
    assert picked.groups == ["group-2", "group-0"]
    assert picked.images.equal(torch.stack([patches.images[9], patches.images[2]]))
    assert patches.annotated().groups == patches.groups[:8]


# --------------------------------------------------------------------------------------------- who made a mask


def some_patches(n=40, n_classes=3, seed=0, size=6) -> Patches:
    """Random pixels, masks with unknown pixels, groups, places, and sources; a known pixel is in every mask."""
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.integers(0, 256, (n, 3, size, size), dtype=np.uint8))
    masks = torch.from_numpy(random.choice(np.array([*range(n_classes), UNKNOWN], np.uint8), (n, size, size)))
    masks[:, 0, 0] = 0
    sources = random.choice(MASK_SOURCES, n).tolist()
    masks[[row for row, source in enumerate(sources) if source == "none"]] = UNKNOWN
    corners = torch.from_numpy(random.random((n, 2)))
    places = Places([f"slide {row}" for row in range(n)], corners, torch.arange(n).double())
    groups = [f"case {number}" for number in random.integers(0, 7, n)]
    return Patches(images, masks, groups, tuple("abcdef"[:n_classes]), sources, places)


def rows_of(patches: Patches) -> list[tuple]:
    """All that is told of each patch, for comparisons that know nothing of ``Patches``."""
    where = patches.places
    places = [where.slides, where.corners, where.sides] if where else [[None] * len(patches)] * 3
    pixels = [[row.numpy().tobytes() for row in part] for part in (patches.images, patches.masks)]
    places = [places[0], *([str(number) for number in part] for part in places[1:])]
    return list(zip(*pixels, patches.groups, patches.mask_source, *places, strict=True))


def test_the_length_of_patches_is_their_number(patches):
    """Of a tuple of their parts, as they once were, it was the number of parts."""
    assert len(patches) == 16
    assert len(patches.select([])) == 0
    assert not patches.select([])
    with pytest.raises(TypeError):
        iter(patches)
    with pytest.raises(TypeError):
        patches[0]
    with pytest.raises(AttributeError):  # what others hold is not changed
        patches.groups = ["a"] * 16


def test_masks_are_annotated_unless_it_is_said_who_made_them(patches):
    assert patches.mask_source == ["annotated"] * 8 + ["none"] * 8
    assert patches.is_annotated.tolist() == patches.has_mask.tolist() == [True] * 8 + [False] * 8
    one_pixel = patches.masks.clone()
    one_pixel[9, 3, 3] = 1
    assert replace(patches, masks=one_pixel, mask_source=[]).is_annotated.nonzero().flatten().tolist() == [*range(8), 9]


def test_sources_that_are_given_stay_with_their_patches(patches):
    sources = ["predicted", "annotated"] * 4 + ["none"] * 8
    told = replace(patches, mask_source=sources)
    assert told.mask_source == sources
    assert told.has_mask.tolist() == [True] * 8 + [False] * 8
    assert told.is_annotated.tolist() == [False, True] * 4 + [False] * 8
    assert told.annotated().groups == ["group-0"] * 2 + ["group-1"] * 2
    assert replace(told, groups=["a"] * 16).mask_source == sources


def test_a_mask_of_which_no_pixel_is_known_is_nobodys(patches):
    """Else a network would be trained on it, or a prior refuse it."""
    for source in ("annotated", "predicted", "generated"):
        told = replace(patches, mask_source=[source] * 16)
        assert told.mask_source == [source] * 8 + ["none"] * 8
    assert not replace(patches, masks=torch.full_like(patches.masks, UNKNOWN)).has_mask.any()


def test_a_mask_that_nobody_made_is_refused(patches):
    """Else it would be trained on as a layout, and scored, though `has_mask` is false."""
    hidden = patches.hide_masks(0, seed=0)
    with pytest.raises(ValueError, match=r"^row 0 has a mask, but the mask source 'none'; say who made it"):
        replace(hidden, masks=patches.masks)
    assert replace(hidden, masks=patches.masks, mask_source=[]).is_annotated.sum() == 8


@pytest.mark.parametrize(("fit", "n"), [(None, 1), ("tile", 2)])
def test_a_column_of_a_table_says_who_made_its_masks(tmp_path, fit, n):
    """As tables of generated images do. The third row has no mask, whatever its column says."""
    width = 8 * n
    images, mask = np.zeros((4, 8, width, 3), np.uint8), np.ones((8, width), np.uint8)
    sources = ["generated", "annotated", "annotated", "predicted"]
    table = from_arrays(images, [mask, mask, None, mask], list("abcd"), mask_source=sources)
    path = save_patches(table, tmp_path / "train.parquet")
    expected = [source for source in ("generated", "annotated", "none", "predicted") for _ in range(n)]
    for read in (table, load_patches(path), load_patches(path, streaming=True)):
        assert Patches.from_table(read, CLASSES, 8, fit=fit).mask_source == expected


@pytest.mark.parametrize("word", ["pseudo", "", "Annotated", None])
def test_a_source_that_is_none_of_the_words_is_refused_with_its_row(patches, table, word):
    if word is not None:  # which the types of these tests refuse, when they happen to look at this row
        with pytest.raises(ValueError, match=rf"^row 3, mask source {word!r}; choose one of annotated, predicted, gen"):
            replace(patches, mask_source=[*patches.mask_source[:3], word, *patches.mask_source[4:]])
    wrong = table.add_column("mask_source", [*["annotated"] * 5, word, *["other"] * 10])
    message = fault(Patches.from_table, wrong, CLASSES, name="mine")
    choices = "annotated, predicted, generated, none"
    assert message == f"mine, row 5, column 'mask_source': {word!r}; choose one of {choices}"


def test_a_predicted_mask_is_never_among_the_annotated_ones(config, patches, tmp_path):
    config = replace(config, training=replace(config.training, unannotated="predicted_masks"))
    predicted = with_predicted_masks(patches, config, tmp_path)
    assert predicted.has_mask.all()
    assert predicted.mask_source == ["annotated"] * 8 + ["predicted"] * 8
    assert predicted.images.equal(patches.images)
    assert predicted.groups == patches.groups
    assert rows_of(predicted.annotated()) == rows_of(patches.annotated())
    assert predicted.unannotated().masks.equal(predicted.masks[8:])
    assert predicted.masks[8:].max() < 2
    before, after = (EmpiricalPrior.fit_masks(part.annotated().masks, CLASSES) for part in (patches, predicted))
    assert before.sample(6, seed=0).equal(after.sample(6, seed=0))
    of_all = EmpiricalPrior.fit_masks(predicted.masks, CLASSES)
    assert not before.sample(6, seed=0).equal(of_all.sample(6, seed=0))


# --------------------------------------------------------------------------------- parts of patches, by brute force


@pytest.mark.parametrize("seed", range(3))
def test_parts_of_patches_are_those_that_loops_over_rows_find(seed):
    patches = some_patches(seed=seed)
    rows = rows_of(patches)
    chosen = np.random.default_rng(seed).integers(0, 40, 25).tolist()  # some of them twice
    assert rows_of(patches.select(chosen)) == [rows[row] for row in chosen]
    assert rows_of(patches.select(torch.tensor(chosen))) == [rows[row] for row in chosen]
    for condition in (patches.has_mask, torch.ones(40, dtype=torch.bool), torch.zeros(40, dtype=torch.bool)):
        expected = [row for row, chosen in zip(rows, condition.tolist(), strict=True) if chosen]
        assert rows_of(patches.select(condition)) == rows_of(patches.select(condition.tolist())) == expected
    for wrong in (torch.tensor([1.0]), torch.tensor([[0, 1]]), torch.tensor(1), torch.ones(39, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"give numbers of rows, or a truth value a patch, of which there are 40$"):
            patches.select(wrong)
    for part, sources in (
        (patches.annotated(), ["annotated"]),
        (patches.unannotated(), ["predicted", "generated", "none"]),
        (patches.with_masks(), ["annotated", "predicted", "generated"]),
    ):
        assert 0 < len(part) < 40
        assert rows_of(part) == [row for row in rows if row[3] in sources]
        assert part.classes == patches.classes
    for names in ({"case 1", "case 5"}, ["case 3"], []):
        assert rows_of(patches.of_groups(names)) == [row for row in rows if row[2] in names]
    assert rows_of(patches.of_groups("case 3")) == rows_of(patches.of_groups(["case 3"]))  # one name, not six letters
    with pytest.raises(ValueError, match=r"^no patch is of the group 'nobody'$"):
        patches.of_groups({"case 2", "nobody"})
    by_group = {name: members.tolist() for name, members in patches.by_group().items()}
    assert list(by_group) == list(dict.fromkeys(patches.groups))
    assert by_group == {name: [row for row in range(40) if patches.groups[row] == name] for name in patches.groups}


@pytest.mark.parametrize("seed", range(3))
def test_patches_are_split_as_their_table_is(table, patches, seed):
    for fraction in (0.01, 0.5, 0.99):
        parts = patches.split(fraction, seed)
        for part, of_table in zip(parts, split_by_group(table, fraction, seed), strict=True):
            assert same(part, Patches.from_table(of_table, CLASSES))
    many = some_patches(seed=seed)
    train, test = many.split(0.3, seed)
    assert set(train.groups).isdisjoint(test.groups)
    assert len(set(test.groups)) == round(0.3 * 7)
    assert sorted(rows_of(train) + rows_of(test)) == sorted(rows_of(many))
    with pytest.raises(ValueError, match=r"test_fraction=1\.5"):
        many.split(1.5, seed)
    assert "has 1 group" in fault(many.of_groups(["case 1"]).split, 0.5, seed)


def test_parts_are_put_together_in_their_order():
    parts = [some_patches(n, seed=n) for n in (5, 1, 9)]
    whole = Patches.concatenate(parts)
    assert rows_of(whole) == [row for part in parts for row in rows_of(replace(part, places=None))]
    assert whole.places is None  # slides of two tables may have one name
    assert whole.classes == tuple("abc")
    assert Patches.concatenate(parts[:1]) is parts[0]
    with pytest.raises(ValueError, match="patches of different classes cannot be put together"):
        Patches.concatenate([parts[0], some_patches(5, n_classes=2)])
    with pytest.raises(ValueError, match="patches of different sizes cannot be put together"):
        Patches.concatenate([parts[0], some_patches(5, size=8)])
    with pytest.raises(ValueError, match="no patches to put together"):
        Patches.concatenate([])


def test_a_mask_value_outside_the_classes_is_refused_with_its_row(patches, table):
    masks = patches.masks.repeat(150, 1, 1)  # more than one part
    masks[2100, 7, 7] = 4
    masks[2200, 7, 7] = 9
    images, groups = patches.images.repeat(150, 1, 1, 1), patches.groups * 150
    with pytest.raises(ValueError, match=r"^the mask of row 2100 holds 4, outside the classes 0\.\.1$"):
        Patches(images, masks, groups, CLASSES)
    assert Patches(images, masks, groups, tuple("abcdefghij")).n_classes == 10
    wrong = with_mask(table, 5, np.full((16, 16), 4, np.uint8))
    message = fault(Patches.from_table, wrong, CLASSES, name="mine")
    assert message == "mine, row 5, column 'mask': value 4 is outside the classes 0..1"
    assert Patches.from_table(wrong, list("abcde")).masks[5].unique().tolist() == [4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ()}, "0 classes; a mask tells 1 to 255 apart"),
        ({"classes": tuple(map(str, range(256)))}, "256 classes; a mask tells 1 to 255 apart"),
        ({"groups": ["a"] * 15, "mask_source": []}, "16 images, 16 masks, 15 groups; give one each"),
        ({"mask_source": ["annotated"]}, "16 images, 16 masks, 16 groups and 1 mask sources; give one each"),
        ({"masks": torch.zeros(15, 16, 16, dtype=torch.uint8)}, "16 images, 15 masks, 16 groups"),
        ({"masks": torch.zeros(16, 16, 8, dtype=torch.uint8)}, "images of 16×16 px with masks of 16×8 px"),
        ({"images": torch.zeros(16, 3, 16, 16)}, r"images of torch\.float32, shape \(16, 3, 16, 16\); give a tensor"),
        ({"images": torch.zeros(16, 16, 16, 3, dtype=torch.uint8)}, r"images of torch\.uint8, shape \(16, 16, 16, 3\)"),
        ({"images": np.zeros((16, 3, 16, 16), np.uint8)}, "images of the type ndarray; give a tensor of uint8"),
        ({"masks": torch.full((16, 16, 16), -1)}, "masks of torch.int64"),  # the usual "ignore" of others
        ({"masks": torch.zeros(16, 1, 16, 16, dtype=torch.uint8)}, r"masks of torch\.uint8, shape \(16, 1, 16, 16\)"),
        ({"classes": "ab"}, "classes='ab'; give a name for each class"),
        ({"classes": ("", "tumour")}, "give a name for each class"),
        ({"classes": ("tumour", "tumour")}, "'tumour' is the name of 2 classes; give each its own"),
        ({"groups": [*["a"] * 15, ""]}, "patches, row 15, column 'group': empty"),
        ({"groups": [*["a"] * 15, None]}, "patches, row 15, column 'group': empty"),
        ({"places": Places(["a"], torch.zeros(1, 2).double(), torch.ones(1).double())}, "16 images, but 1 places"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(unchecked, patches, change, words):
    with pytest.raises(ValueError, match=words):
        replace(patches, **change)


def test_classes_in_a_list_and_numbers_as_groups_become_what_a_table_would_give(unchecked, patches):
    numbered = replace(patches, classes=list(CLASSES), groups=[1, 1, 2.0, "7 "] * 4)
    assert numbered.classes == CLASSES
    assert numbered.groups == ["1", "1", "2", "7"] * 4


@pytest.mark.parametrize("image_size", [0, -8, 8.0, "8"])
def test_an_image_size_that_is_no_number_of_pixels_is_refused(unchecked, table, image_size):
    with pytest.raises(ValueError, match=f"^image_size={image_size!r}; give a whole number of pixels"):
        Patches.from_table(table, CLASSES, image_size)


def test_one_name_is_not_taken_for_the_classes_of_a_table(table):
    """("stroma") without its comma is a text, of six letters."""
    with pytest.raises(ValueError, match=r"^classes='stroma'; give a name for each class"):
        Patches.from_table(table, "stroma")


@only_linux
def test_parts_of_a_mapped_table_are_mapped(tmp_path, monkeypatch):
    """A part as large as the table must not be read into memory either."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    patches = some_patches(n=64)

    def parts():
        return {
            "select": patches.select(range(63, -1, -1)),
            "hidden": patches.hide_masks(3, seed=0),
            "split": patches.split(0.2, seed=0)[0],
            "together": Patches.concatenate([patches, patches]),
        }

    expected = {name: rows_of(part) for name, part in parts().items()}
    monkeypatch.setattr(sedm.data.mapped_pixels, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(sedm.data.mapped_pixels, "MEMORY_LIMIT", patches.masks.numel() // 4)
    assert mapped_files(tmp_path) == 0
    mapped = parts()
    assert mapped_files(tmp_path) == 2 + 1 + 2 + 2  # where masks are hidden, the images are shared
    for name, part in mapped.items():
        assert rows_of(part) == expected[name], name
    assert list(tmp_path.iterdir()) == []
    del part, mapped
    assert mapped_files(tmp_path) == 0


# ----------------------------------------------------------------------------------------- staged images


@pytest.mark.slow
def test_the_staged_biopsies_are_read_as_they_are(staged_data):
    config = build_config("ebhi", "smoke")
    data = load_study(replace(config, data=replace(config.data, image_size=128)), staged_data / "ebhi_seg_128")
    sizes = {split: (len(patches), len(set(patches.groups))) for split, patches in data.patches.items()}
    assert sizes == {"train": (1301, 204), "validation": (266, 34), "test": (437, 68)}
    groups = [set(patches.groups) for patches in data.patches.values()]
    assert len(set.union(*groups)) == 204 + 34 + 68
    assert data.validation.images.shape == (266, 3, 128, 128)
    assert data.validation.masks.unique().tolist() == [0, 1]
    assert {"block", "field", "grade"} <= set(data.tables["train"].column_names)


@pytest.mark.slow
def test_the_staged_pets_are_read_as_they_are(staged_data):
    config = build_config("pets", "smoke")
    data = load_study(replace(config, data=replace(config.data, image_size=32)), staged_data / "oxford_pets_3_128")
    assert {split: len(patches) for split, patches in data.patches.items()} == {"train": 318, "test": 281}
    assert len(set(data.train.groups)) == 2
    held_out = [group for group in data.test.groups if group not in set(data.train.groups)]
    assert held_out == ["american_bulldog"] * 200
    assert data.held_out_groups == {"american_bulldog"}
    assert data.train.masks.unique().tolist() == [0, 1]
