"""From a study.toml to tables: every source and coding with its right pixels, and groups split as the file says."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from sedm.config import build_config, read_study
from sedm.data.patch_table import PatchTableError, from_arrays, save_patches
from sedm.data.patches import Patches
from sedm.data.splits import Splits, split_annotated
from sedm.data.study_data import load_study
from sedm.data.study_source import StudySource

RNG = np.random.default_rng(5)
SIZE = 32
ROWS = [(group, row) for group in "abcdef" for row in range(2)]  # e and f are not annotated
PIXELS = {key: RNG.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8) for key in ROWS}
MASKS = {key: (RNG.random((SIZE, SIZE)) < 0.4).astype(np.uint8) for key in ROWS if key[0] < "e"}
CLASSES = 'classes = ["glass", "gland"]\n'


def put(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def put_all(folder, coded=lambda mask: mask, keys=ROWS, within=""):
    for group, row in keys:
        put(folder / within / "images" / group / f"{row}.png", PIXELS[group, row])
        if group < "e":
            put(folder / within / "masks" / group / f"{row}.png", coded(MASKS[group, row]))
    return folder


def source(folder, text=CLASSES):
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return StudySource(read_study(folder))


def assert_right(tables):
    """Every row of every table has the pixels and the mask that were written."""
    seen = []
    for split, table in tables.items():
        for row in table:
            image = np.asarray(row["image"])
            (key,) = [key for key, pixels in PIXELS.items() if np.array_equal(image, pixels)]
            assert row["group"] == key[0]
            assert row["mask"] is None if key[0] >= "e" else np.array_equal(np.asarray(row["mask"]), MASKS[key])
            assert key[0] < "e" or split == "train"
            seen.append(key)
    assert sorted(seen) == ROWS


def groups_of(tables):
    return {split: set(table["group"][:]) for split, table in tables.items()}


def csv_of(folder, columns="image,mask,group"):
    lines = [f"images/{g}/{i}.png,{f'masks/{g}/{i}.png' if g < 'e' else ''},{g}" for g, i in ROWS]
    (folder / "table.csv").write_text("\n".join([columns, *lines]) + "\n")


def test_a_folder_is_split_by_group(tmp_path):
    tables = source(put_all(tmp_path)).load()
    assert_right(tables)
    parts = groups_of(tables)
    assert {split: len(groups) for split, groups in parts.items()} == {"train": 3, "validation": 1, "test": 2}
    assert {"e", "f"} < parts["train"]


@pytest.mark.parametrize(
    ("coded", "text"),
    [
        (lambda mask: mask * 255, "[classes]\nglass = 0\ngland = 255\n"),
        (lambda mask: np.where(mask, 3, 7).astype(np.uint8), "[classes]\nglass = [0, 7]\ngland = 3\n"),
        (
            lambda mask: np.where(mask[..., None], (255, 0, 0), (0, 0, 128)).astype(np.uint8),
            '[classes]\nglass = "#000080"\ngland = "red"\n',
        ),
        (lambda mask: mask * np.uint8(200), f"{CLASSES}[data]\nmask_threshold = 127\n"),
        (lambda mask: mask.astype(np.uint16) * 999, f'{CLASSES}[data]\nmask_kind = "instances"\n'),
    ],
)
def test_masks_mean_what_the_file_says(tmp_path, coded, text):
    assert_right(source(put_all(tmp_path, coded), text).load())


def test_a_spreadsheet_with_other_columns(tmp_path):
    put_all(tmp_path)
    csv_of(tmp_path, "picture,label,patient")
    text = f'group_column = "patient"\n{CLASSES}[data]\nsource = "table.csv"\n'
    assert_right(source(tmp_path, f'{text}image_column = "picture"\nmask_column = "label"\n').load())


def test_tables_of_splits(tmp_path):
    parts = {"train": "abef", "val": "c", "test": "d"}
    for split, names in parts.items():
        keys = [key for key in ROWS if key[0] in names]
        masks = [MASKS.get(key) for key in keys]
        table = from_arrays([PIXELS[key] for key in keys], masks, [key[0] for key in keys])
        save_patches(table.rename_column("group", "case"), tmp_path / "tables" / f"{split}.parquet")
    tables = source(tmp_path, f'group_column = "case"\n{CLASSES}[data]\nsource = "tables"\n').load()
    assert_right(tables)
    assert groups_of(tables) == {"train": set("abef"), "validation": {"c"}, "test": {"d"}}


def test_folders_of_splits(tmp_path):
    for split, names in {"train": "abef", "valid": "c", "test": "d"}.items():
        put_all(tmp_path, keys=[key for key in ROWS if key[0] in names], within=split)
    tables = source(tmp_path).load()
    assert_right(tables)
    assert groups_of(tables) == {"train": set("abef"), "validation": {"c"}, "test": {"d"}}


def test_groups_that_the_file_names(tmp_path):
    tables = source(put_all(tmp_path), f'{CLASSES}[splits]\ntest = ["b", "d"]\nvalidation = ["a"]\n').load()
    assert_right(tables)
    assert groups_of(tables) == {"train": {"c", "e", "f"}, "validation": {"a"}, "test": {"b", "d"}}


def test_a_column_that_names_the_splits(tmp_path):
    put_all(tmp_path)
    split_of = {"a": "Training", "b": "val", "c": "test", "d": "train", "e": "train", "f": "train"}
    lines = [f"images/{g}/{i}.png,{f'masks/{g}/{i}.png' if g < 'e' else ''},{g},{split_of[g]}" for g, i in ROWS]
    (tmp_path / "table.csv").write_text("\n".join(["image,mask,group,fold", *lines]) + "\n")
    tables = source(tmp_path, f'{CLASSES}[data]\nsource = "table.csv"\n[splits]\ncolumn = "fold"\n').load()
    assert_right(tables)
    assert groups_of(tables) == {"train": set("adef"), "validation": {"b"}, "test": {"c"}}


def test_a_group_in_two_named_splits_is_refused(tmp_path):
    put_all(tmp_path)
    lines = [
        f"images/{g}/{i}.png,{f'masks/{g}/{i}.png' if g < 'e' else ''},{g},{'test' if (g, i) == ('a', 0) else 'train'}"
        for g, i in ROWS
    ]
    (tmp_path / "table.csv").write_text("\n".join(["image,mask,group,fold", *lines]) + "\n")
    mine = source(tmp_path, f'{CLASSES}[data]\nsource = "table.csv"\n[splits]\ncolumn = "fold"\n')
    for call in (mine.load, mine.check_splits):
        with pytest.raises(PatchTableError, match="group 'a' is in two splits, 'train' and 'test'"):
            call()


def test_whole_numbers_as_groups_can_be_named(tmp_path):
    names = {"a": 7, "b": 8, "c": 9, "d": 10, "e": 11, "f": 12}
    put_all(tmp_path)
    pyarrow.parquet.write_table(
        pyarrow.table(
            {
                "image": [f"images/{g}/{i}.png" for g, i in ROWS],
                "mask": [f"masks/{g}/{i}.png" if g < "e" else None for g, i in ROWS],
                "group": [names[g] for g, _ in ROWS],
            }
        ),
        tmp_path / "table.parquet",
    )
    mine = source(tmp_path, f'{CLASSES}[data]\nsource = "table.parquet"\n[splits]\ntest = ["10"]\n')
    mine.check_splits()
    assert groups_of(mine.load())["test"] == {"10"}


@pytest.mark.parametrize("fit", ["crop", "pad", "squeeze", "tile"])
def test_a_study_is_what_its_tables_make_by_hand(tmp_path, fit):
    for group in "abcde":
        pixels = RNG.integers(0, 256, (40, 64, 3)).astype(np.uint8)
        put(tmp_path / "images" / group / "0.png", pixels)
        if group != "e":
            put(tmp_path / "masks" / group / "0.png", (pixels[..., 0] > 99).astype(np.uint8) * 255)
    text = f'fit = "{fit}"\n[classes]\nglass = 0\ngland = 255\n'
    mine = source(tmp_path, text)
    data = load_study(build_config(tmp_path, "smoke"))
    for split, table in mine.load().items():
        by_hand = Patches.from_table(table, ("glass", "gland"), SIZE, fit=fit)
        patches = data.patches[split]
        assert patches.images.equal(by_hand.images)
        assert patches.masks.equal(by_hand.masks)
        assert (patches.groups, patches.mask_source) == (by_hand.groups, by_hand.mask_source)
    assert data.study.file == tmp_path / "study.toml"


# ---------------------------------------------------------------------------------------------------- the split


def table_of(groups, annotated):
    pixels = np.zeros((len(groups), 8, 8, 3), np.uint8)
    return from_arrays(pixels, [pixels[0, ..., 0] if group in annotated else None for group in groups], list(groups))


@pytest.mark.parametrize("n_annotated", [2, 3, 5, 17])
@pytest.mark.parametrize("fractions", [(0.4, 0.2), (0.5, 0.0), (0.1, 0.1), (0.6, 0.3)])
def test_groups_are_split_as_the_fractions_say(n_annotated, fractions):
    annotated = [f"a{number}" for number in range(n_annotated)]
    groups = [*annotated, *annotated, "u1", "u2", "u1"]
    splits = Splits(*fractions, seed=3)
    parts = groups_of(split_annotated(table_of(groups, annotated), splits))
    held_out = parts.get("validation", set()) | parts["test"]
    assert not parts.get("validation", set()) & parts["test"]
    assert not held_out & parts["train"]
    assert held_out | parts["train"] == set(groups)
    assert {"u1", "u2"} <= parts["train"]
    assert parts["train"] & set(annotated)
    n_test = min(max(round(fractions[0] * n_annotated), 1), n_annotated - 1)
    wanted = max(round(fractions[1] * n_annotated), 1 if n_annotated > 2 and fractions[1] else 0)
    assert len(parts["test"]) == n_test
    assert len(parts.get("validation", ())) == min(wanted, n_annotated - n_test - 1)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows():
    annotated = [f"a{number}" for number in range(12)]
    groups = np.array([*annotated, *annotated, "u"])
    first = groups_of(split_annotated(table_of(groups.tolist(), annotated), Splits()))
    shuffled = RNG.permutation(groups).tolist()
    assert groups_of(split_annotated(table_of(shuffled, annotated), Splits())) == first
    table = table_of(groups.tolist(), annotated)
    draws = {frozenset(groups_of(split_annotated(table, Splits(seed=seed)))["test"]) for seed in range(6)}
    assert len(draws) == 6


def test_a_group_annotated_in_part_is_tested_on_its_annotated_images():
    pixels = np.zeros((6, 8, 8, 3), np.uint8)
    masks = [pixels[0, ..., 0], None, pixels[0, ..., 0], None, pixels[0, ..., 0], None]
    parts = split_annotated(from_arrays(pixels, masks, list("aabbcc")), Splits(test=["a"], validation=["b"]))
    assert {split: len(part) for split, part in parts.items()} == {"train": 2, "validation": 1, "test": 1}
    assert parts["test"]["mask"][0] is not None


def test_a_split_of_another_population_is_read_beside_the_others(tmp_path):
    """``datasets`` passes over a file shifted.parquet beside train.parquet, and calls val.parquet "validation"."""
    for number, split in enumerate(("train", "val", "test", "shifted")):
        pixels = np.full((1, SIZE, SIZE, 3), number, np.uint8)
        save_patches(from_arrays(pixels, pixels[..., 0] * 0, [split]), tmp_path / "tables" / f"{split}.parquet")
    tables = source(tmp_path, f'{CLASSES}[data]\nsource = "tables"\n').load()
    firsts = {split: np.asarray(table[0]["image"])[0, 0, 0] for split, table in tables.items()}
    assert firsts == {"train": 0, "validation": 1, "test": 2, "shifted": 3}
