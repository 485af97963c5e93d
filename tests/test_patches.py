"""The patch table: what goes in comes out, and every fault is named in one sentence."""

import io
import shutil
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from sedm.config import build_config
from sedm.data.patches import (
    UNKNOWN,
    PatchTableError,
    check_patches,
    from_arrays,
    load_patches,
    save_patches,
    to_tensors,
)
from sedm.data.sources import load_image_folder, load_study
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
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return with_value(table, "mask", row, {"bytes": buffer.getvalue(), "path": None})


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path, patches):
    """An image folder of two groups of two images; the last image has no mask."""
    for row, name in ((0, "a/0"), (1, "a/1"), (4, "b/0"), (5, "b/1")):
        for kind, picture in (("images", patches.images[row].permute(1, 2, 0)), ("masks", patches.masks[row])):
            path = tmp_path / "folder" / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.numpy()).save(path)
    path.unlink()
    return tmp_path / "folder"


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


def test_sub_folders_are_groups_and_a_missing_mask_is_null(folder, patches):
    loaded = load_image_folder(folder)
    assert loaded["file_name"][:] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert loaded["group"][:] == ["a", "a", "b", "b"]
    tensors = to_tensors(loaded)
    assert tensors.images.equal(patches.images[[0, 1, 4, 5]])
    assert tensors.masks[:3].equal(patches.masks[[0, 1, 4]])
    assert (tensors.masks[3] == UNKNOWN).all()
    check_patches(loaded, n_classes=2)


def test_metadata_decides_the_groups_whatever_its_order(folder):
    rows = ["b/1.png,p-2", "a/1.png,p-1", "b/0.png,p-1", "a/0.png,p-3"]
    (folder / "metadata.csv").write_text("\n".join(["file_name,group", *rows]))
    assert load_image_folder(folder)["group"][:] == ["p-3", "p-1", "p-1", "p-2"]


def test_a_table_saved_from_an_image_folder_holds_the_pictures_themselves(folder, tmp_path):
    loaded = load_image_folder(folder)
    before = to_tensors(loaded)
    path = save_patches(loaded, tmp_path / "train.parquet")
    shutil.rmtree(folder)
    after = to_tensors(load_patches(path))
    assert after.images.equal(before.images)
    assert after.masks.equal(before.masks)


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


def test_an_image_without_a_group_is_named(folder):
    (folder / "metadata.csv").write_text("file_name,group\na/0.png,p\na/1.png,p\nb/0.png,p\n")
    assert str(folder / "images" / "b" / "1.png") in fault(load_image_folder, folder)
    (folder / "metadata.csv").write_text("file,group\na/0.png,p\n")
    assert fault(load_image_folder, folder) == f"{folder / 'metadata.csv'}: expected the columns file_name,group"


def test_an_image_folder_without_images_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    assert str(tmp_path / "images") in fault(load_image_folder, tmp_path)


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


def test_selection_keeps_rows_together(patches):
    picked = patches.select([9, 2])
    assert picked.groups == ["group-2", "group-0"]
    assert picked.images.equal(torch.stack([patches.images[9], patches.images[2]]))
    assert patches.annotated().groups == patches.groups[:8]


# ----------------------------------------------------------------------------------------- staged images


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


def test_the_staged_pets_are_read_as_they_are(staged_data):
    splits = load_study(build_config("pets", "smoke"), staged_data / "oxford_pets_3_128")
    assert {split: len(table) for split, table in splits.items()} == {"train": 318, "test": 281}
    assert len(set(splits["train"]["group"])) == 2
    held_out = [group for group in splits["test"]["group"] if group not in set(splits["train"]["group"])]
    assert held_out == ["american_bulldog"] * 200
    assert to_tensors(splits["train"], 32).masks.unique().tolist() == [0, 1]
