"""The patch table: what goes in comes out, and every fault is named in one sentence."""

import io
import os
import resource
import struct
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image, ImageOps

import sedm.data.patch_table
import sedm.data.patches
from sedm.config import build_config
from sedm.data.patch_table import (
    UNKNOWN,
    PatchTableError,
    check_patches,
    find_splits,
    from_arrays,
    load_patches,
    save_patches,
)
from sedm.data.patches import Patches, to_tensors
from sedm.data.sources import load_study
from sedm.data.splits import check_splits, hide_annotations, split_by_group


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
    return Patches(pixels, torch.from_numpy(np.stack(masks)), [row["group"] for row in rows])


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
    monkeypatch.setattr(sedm.data.patch_table, "ROWS_PER_READ", 4)


# ------------------------------------------------------------------------------------------ round trip


def test_a_saved_table_comes_back_with_the_same_pixels_nulls_and_columns(table, patches, tmp_path):
    path = save_patches(table, tmp_path / "new" / "train.parquet")
    loaded = load_patches(path)
    assert loaded.column_names == ["image", "mask", "group", "block"]
    assert encoded(loaded) == encoded(table)
    tensors = to_tensors(loaded)
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
    assert same(to_tensors(stream), truth)
    assert same(to_tensors(stream), truth)  # a second pass begins anew
    assert same(to_tensors(copy), truth)
    assert [row["block"] for row in stream] == table["block"][:]
    for streamed, copied in zip(stream, copy, strict=True):
        assert np.array_equal(streamed["image"], copied["image"])
        assert (streamed["mask"] is None) == (copied["mask"] is None)
    check_patches(stream, n_classes=2)


def test_streamed_rows_come_in_order_and_as_far_as_asked(table, patches, tmp_path, small_groups):
    stream = load_patches(save_patches(table, tmp_path / "train.parquet"), streaming=True)
    assert same(to_tensors(stream.skip(3).take(7)), patches.select(range(3, 10)))
    dark = stream.map(lambda patch: {"image": patch["image"].point(lambda value: value // 2)})
    assert to_tensors(dark).images.equal(patches.images // 2)
    assert fault(check_patches, stream.take(0), 2, "mine") == "mine: the table has no rows"
    assert fault(to_tensors, stream.take(0)) == "the table has no rows"


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
        tensors = to_tensors(loaded)
        assert tensors.groups == [str(row // 4) for row in range(16)]
        assert tensors.images.equal(to_tensors(table).images)
        assert tensors.masks.equal(to_tensors(table).masks)


@pytest.mark.parametrize("layout", ["train-{}-of-00003", "data/train-{}-of-00003", "train/{}", "data/train/part-{}"])
@pytest.mark.parametrize("streaming", [False, True])
def test_shards_are_one_table_in_their_order(table, patches, tmp_path, layout, streaming):
    parts = (range(5), range(5, 6), range(6, 16))
    for number in (2, 0, 1):
        save_patches(table.select(parts[number]), tmp_path / f"{layout.format(f'{number:05d}')}.parquet")
    (tmp_path / "README.md").write_text("about")
    loaded = load_patches(tmp_path, "train", streaming=streaming)
    assert same(to_tensors(loaded), patches)
    assert list(find_splits(tmp_path)) == ["train"]


def test_a_study_may_be_sharded(table, tmp_path):
    table = table.rename_column("group", "case")
    for number, rows in enumerate((range(3), range(3, 8))):
        save_patches(table.select(rows), tmp_path / "data" / f"train-{number:05d}-of-00002.parquet")
    save_patches(table.select(range(8, 16)), tmp_path / "data" / "test-00000-of-00001.parquet")
    splits = load_study(build_config("ebhi", "smoke"), tmp_path)
    assert {split: len(part) for split, part in splits.items()} == {"train": 8, "test": 8}
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
        return to_tensors(load_patches(path, streaming=streaming))

    assert fault(read).startswith(f"{path}: rows 8 to 11 (row group 2) are damaged")
    assert same(to_tensors(load_patches(path, streaming=True).take(7)), patches.select(range(7)))


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
    end = "value 255 is outside the classes 0..1; pass mask_values={0: 0, 255: 1} when reading"
    assert fault(check_patches, with_mask(table, 1, mask), 2).endswith(end)
    assert fault(check_patches, with_mask(table, 1, mask | 255), 2).endswith(end)
    mask[4] = 128
    assert fault(check_patches, with_mask(table, 1, mask), 3).endswith(
        "mask_values={0: 0, 128: 1, 255: 2} when reading"
    )
    end = "outside the classes 0..1; where black and white were smoothed, pass mask_threshold=127 when reading"
    assert fault(check_patches, with_mask(table, 1, mask), 2).endswith(f"value 128 is {end}")


@pytest.mark.parametrize(
    ("array", "file_format"),
    [(np.full((16, 16), 300, np.uint16), "PNG"), (np.full((16, 16), 0.5, np.float32), "TIFF")],
)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_pictures_of_more_than_eight_bits_are_named(table, column, array, file_format):
    damaged = with_value(table, column, 2, picture(array, file_format))
    assert f"mine, row 2, column {column!r}: 16 bits or floats" in fault(check_patches, damaged, 2, "mine")
    assert fault(to_tensors, damaged).startswith(f"row 2, column {column!r}: 16 bits or floats")


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
    assert np.array_equal(to_tensors(photo).images[0].permute(1, 2, 0), np.asarray(upright))


def test_unreadable_pictures_are_named_when_decoded(table):
    stored = encoded(table)["mask"][2]["bytes"]
    damaged = with_value(table, "mask", 2, {"bytes": stored[:60], "path": None})
    assert fault(to_tensors, damaged).startswith("row 2, column 'mask': unreadable image bytes")
    assert fault(to_tensors, with_mask(table, 3, np.zeros((16, 16, 3), np.uint8))).startswith(
        "row 3, column 'mask': size 16×16×3"
    )


def test_a_long_pass_shows_a_bar_and_a_short_one_none(table, monkeypatch):
    shown = []
    monkeypatch.setattr(sedm.data.patch_table, "ROWS_WITHOUT_BAR", 10)
    monkeypatch.setattr(
        sedm.data.patch_table, "tqdm", lambda rows, *_, disable, **__: shown.append(not disable) or rows
    )
    check_patches(table.select(range(9)), 2)
    check_patches(table, 2)
    to_tensors(table)
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
    assert set(load_study(build_config("ebhi", "smoke"), tmp_path)) == {"train", "test"}
    save_patches(damage(table.select(range(8))), tmp_path / "train.parquet")
    assert culprit in fault(load_study, build_config("ebhi", "smoke"), tmp_path)


def test_a_study_may_have_pixels_that_nobody_knows(table, tmp_path):
    """What 255 means is decided by all splits: the one of the test has no foreground of its own."""
    mask = np.zeros((16, 16), np.uint8)
    mask[3:] = UNKNOWN
    table = table.rename_column("group", "case")
    save_patches(with_mask(table.select(range(8)), 5, mask), tmp_path / "train.parquet")
    save_patches(with_mask(table.select(range(8, 16)), 0, mask), tmp_path / "test.parquet")
    splits = load_study(build_config("ebhi", "smoke"), tmp_path)
    assert np.array_equal(to_tensors(splits["train"]).masks[5], mask)
    assert np.array_equal(to_tensors(splits["test"]).masks[0], mask)
    white_on_black = table.select(range(8)).map(lambda patch: {"mask": patch["mask"].point(lambda value: 255 * value)})
    save_patches(white_on_black, tmp_path / "train.parquet")
    message = fault(load_study, build_config("ebhi", "smoke"), tmp_path)
    assert message.startswith(f"{tmp_path / 'train.parquet'}, row 0, column 'mask': no mask has a class above 0")


def test_a_study_on_real_images_needs_its_folder_and_an_embedded_one_none(tmp_path):
    with pytest.raises(ValueError, match="'ebhi' needs DATA"):
        load_study(build_config("ebhi", "smoke"))
    with pytest.raises(ValueError, match="'tissue' is embedded: leave DATA out"):
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


@pytest.mark.slow
def test_hidden_annotations_are_nested_and_touch_only_masks(table, patches):
    fully = from_arrays(
        patches.images.permute(0, 2, 3, 1).numpy(), patches.masks.clamp(max=1).numpy(), patches.groups, row=range(16)
    )
    kept = []
    for n in range(5):
        hidden = hide_annotations(fully, n, seed=3)
        assert set(hidden.column_names) == set(fully.column_names)
        assert hidden["row"][:] == fully["row"][:]
        assert encoded(hidden)["image"] == encoded(fully)["image"]
        visible = [row for row, mask in enumerate(hidden["mask"]) if mask is not None]
        kept.append({fully["group"][row] for row in visible})
        assert visible == [row for row in range(16) if fully["group"][row] in kept[-1]]
        assert [encoded(hidden)["mask"][row] for row in visible] == [encoded(fully)["mask"][row] for row in visible]
    assert [len(groups) for groups in kept] == [0, 1, 2, 3, 4]
    assert all(small < large for small, large in pairwise(kept))


def test_hidden_masks_are_not_in_the_saved_file(table, tmp_path):
    stored = [mask["bytes"] for mask in encoded(table)["mask"][:8]]
    path = save_patches(hide_annotations(table, 1, seed=0), tmp_path / "train.parquet")
    (kept,) = {row["group"] for row in load_patches(path) if row["mask"] is not None}
    content = path.read_bytes()
    assert [mask in content for mask in stored] == [group == kept for group in table["group"][:8]]


@pytest.mark.parametrize("rows", [range(15, -1, -1), [0, 1, 2, 9, 9, 5], range(3, 12)])
@pytest.mark.parametrize("saved", [False, True])
def test_hiding_works_on_rows_in_any_order(table, tmp_path, rows, saved):
    if saved:
        table = load_patches(save_patches(table, tmp_path / "train.parquet"))
    chosen = table.select(rows)
    hidden = hide_annotations(chosen, 1, seed=1)
    before, after = encoded(chosen), encoded(hidden)
    (kept,) = {group for group, mask in zip(after["group"], after["mask"], strict=True) if mask is not None}
    masks = [mask if group == kept else None for group, mask in zip(before["group"], before["mask"], strict=True)]
    assert after["mask"] == masks
    assert [after[name] for name in ("image", "group", "block")] == [
        before[name] for name in ("image", "group", "block")
    ]


def test_a_missing_mask_stays_missing_in_a_group_that_keeps_its_masks(table):
    hidden = hide_annotations(with_value(table, "mask", 2, None), 2, seed=0)
    assert [mask is None for mask in hidden["mask"]] == [False, False, True, *[False] * 5, *[True] * 8]


def test_what_is_computed_from_hidden_tables_is_not_mixed_up(table, tmp_path):
    """``datasets`` keeps results by fingerprint, and the tables differ in their masks alone."""
    loaded = load_patches(save_patches(table, tmp_path / "train.parquet"))
    counts = []
    for n, seed in ((0, 0), (1, 0), (2, 0), (1, 0)):
        marked = hide_annotations(loaded, n, seed).map(lambda patch: {"seen": patch["mask"] is not None})
        counts.append(sum(marked["seen"]))
    assert counts == [0, 4, 8, 4]


def test_only_annotated_groups_can_stay_annotated(table):
    hidden = hide_annotations(table, 2, seed=0)
    assert [mask is None for mask in hidden["mask"]] == [False] * 8 + [True] * 8
    assert "n_annotated_groups=3, but 2 groups have masks" in fault(hide_annotations, table, 3, 0)


def test_numbers_as_groups_become_names(table, tmp_path):
    numbered = table.remove_columns("group").add_column("case", [row // 4 for row in range(16)])
    loaded = load_patches(save_patches(numbered, tmp_path / "train.parquet"), group_column="case")
    check_patches(loaded, n_classes=2)
    train, test = split_by_group(loaded, 0.5, seed=0)
    assert (len(train), len(test)) == (8, 8)
    assert sum(mask is not None for mask in hide_annotations(loaded, 1, seed=0)["mask"]) == 4


# ---------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize("size", [8, 24])
def test_resized_masks_hold_no_new_class_and_images_are_resized_by_lanczos(size):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    masks = random.choice(np.array([0, 2, 7], np.uint8), (3, 16, 16))
    tensors = to_tensors(from_arrays(images, [masks[0], None, masks[2]], list("abc")), image_size=size)
    assert tensors.images.shape == (3, 3, size, size)
    assert tensors.masks[[0, 2]].unique().tolist() == [0, 2, 7]
    assert tensors.masks[1].unique().tolist() == [UNKNOWN]
    for image, resized in zip(images, tensors.images, strict=True):
        expected = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)
        assert np.array_equal(resized.permute(1, 2, 0), expected)


def test_images_of_several_sizes_need_a_common_one():
    sizes = (np.zeros((1, size, size, 3), np.uint8) for size in (8, 12))
    table = datasets.concatenate_datasets([from_arrays(pictures, [None], ["a"]) for pictures in sizes])
    assert "give image_size" in fault(to_tensors, table)
    assert to_tensors(table, 8).images.shape == (2, 3, 8, 8)


@only_linux
@pytest.mark.parametrize("size", [None, 8])
def test_mapped_tensors_equal_those_in_memory_and_their_file_vanishes(table, patches, tmp_path, size):
    in_memory = to_tensors(table, size)
    assert mapped_files(tmp_path) == 0
    mapped = to_tensors(table, size, folder=tmp_path)
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
    monkeypatch.setattr(sedm.data.patches, "MEMORY_LIMIT", patches.images.numel() - 1)
    tensors = to_tensors(table)
    assert mapped_files(tmp_path) == 1  # the images; the masks are a third of them
    assert same(tensors, patches)
    monkeypatch.setattr(sedm.data.patches, "MEMORY_LIMIT", 3 * 3 * 16 * 16)
    rows = [9, 2, 2, 15]
    assert same(tensors.select(rows), Patches(patches.images[rows], patches.masks[rows], tensors.select(rows).groups))
    picked = tensors.select(rows)
    assert mapped_files(tmp_path) == 2
    assert picked.annotated().groups == ["group-0", "group-0"]
    del picked, tensors
    assert mapped_files(tmp_path) == 0


@only_linux
def test_a_failed_decoding_leaves_no_file(table, tmp_path):
    damaged = with_value(table, "image", 15, {"bytes": b"nothing", "path": None})
    opened = len(os.listdir("/proc/self/fd"))
    assert "row 15" in fault(to_tensors, damaged, None, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert mapped_files(tmp_path) == 0
    assert len(os.listdir("/proc/self/fd")) == opened


@only_linux
def test_a_full_disk_is_one_sentence_that_names_the_folder(table, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=f"decoded pixels do not fit into {tmp_path} .*; name another folder"):
            to_tensors(table, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_annotated_rows_are_found_in_parts(patches):
    many = patches.select(list(range(16)) * 150)  # more than one part
    assert many.has_mask.equal((many.masks != UNKNOWN).flatten(1).any(1))
    assert len(many.annotated().groups) == 1200
    assert patches.select(range(8)).annotated().groups == patches.groups[:8]
    assert patches.select([]).has_mask.tolist() == []


def test_selection_keeps_rows_together(patches):
    picked = patches.select([9, 2])
    assert picked.groups == ["group-2", "group-0"]
    assert picked.images.equal(torch.stack([patches.images[9], patches.images[2]]))
    assert patches.annotated().groups == patches.groups[:8]


# ----------------------------------------------------------------------------------------- staged images


@pytest.mark.slow
def test_the_staged_biopsies_are_read_as_they_are(staged_data):
    splits = load_study(build_config("ebhi", "smoke"), staged_data / "ebhi_seg_128")
    sizes = {split: (len(table), len(set(table["group"]))) for split, table in splits.items()}
    assert sizes == {"train": (1301, 204), "validation": (266, 34), "test": (437, 68)}
    groups = [set(table["group"]) for table in splits.values()]
    assert len(set.union(*groups)) == 204 + 34 + 68
    tensors = to_tensors(splits["validation"])
    assert tensors.images.shape == (266, 3, 128, 128)
    assert tensors.masks.unique().tolist() == [0, 1]
    assert {"block", "field", "grade"} <= set(splits["train"].column_names)


@pytest.mark.slow
def test_the_staged_pets_are_read_as_they_are(staged_data):
    splits = load_study(build_config("pets", "smoke"), staged_data / "oxford_pets_3_128")
    assert {split: len(table) for split, table in splits.items()} == {"train": 318, "test": 281}
    assert len(set(splits["train"]["group"])) == 2
    held_out = [group for group in splits["test"]["group"] if group not in set(splits["train"]["group"])]
    assert held_out == ["american_bulldog"] * 200
    assert to_tensors(splits["train"], 32).masks.unique().tolist() == [0, 1]
