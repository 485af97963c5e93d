"""Images and masks as they are in the world: wherever they lie, however they are stored, each with its right pixels."""

import csv
import io
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tifffile
from conftest import CLASSES
from PIL import Image

import sedm
from sedm.data.patch_table import PatchTableError, check_patches, save_patches
from sedm.data.patches import Patches
from sedm.data.source_format import SourceFormat
from sedm.data.sources import find_source_faults, list_splits, load_table

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 12, 3)).astype(np.uint8)  # higher than wide: no axis can be taken for another
MASKS = (RNG.random((3, 16, 12)) < 0.3).astype(np.uint8)
MASKS[:, 0, 0] = 1
GROUPS = ["p1", "p1", "p2"]
NAMES = [f"{group}/{row}" for row, group in enumerate(GROUPS)]  # the last image has no mask


def put(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_is_the_table(table):
    check_patches(table, n_classes=2)
    patches = Patches.from_table(table, CLASSES)
    assert np.array_equal(patches.images.permute(0, 2, 3, 1), IMAGES)
    assert np.array_equal(patches.masks[:2], MASKS[:2])
    assert patches.has_mask.tolist() == [True, True, False]
    assert patches.groups == GROUPS


# ------------------------------------------------------------------------------------------------- where files lie


def put_all(root, image_name, mask_name):
    for row, name in enumerate(NAMES):
        put(root / image_name.format(name), IMAGES[row])
        if row < 2:
            put(root / mask_name.format(name), MASKS[row])
    return root


@pytest.mark.parametrize(
    ("image_name", "mask_name"),
    [
        ("images/{}.png", "masks/{}.png"),
        ("imgs/{}.bmp", "labels/{}.png"),
        ("Images/{}.png", "Ground Truth/{}_mask.tif"),
        ("img/{}.png", "gt/{}.png"),
        ("image/{}.png", "annotation/{}.png"),
        ("{}.png", "{}_mask.png"),
        ("{}.png", "{}_anno.bmp"),
        ("images/{}.png", "images/{}_seg.png"),
        ("{}.png", "masks/{}.png"),
    ],
)
def test_folders_of_every_usual_name_are_the_same_table(tmp_path, image_name, mask_name):
    assert_is_the_table(load_table(put_all(tmp_path / "mine", image_name, mask_name)))
    assert_is_the_table(sedm.load_image_folder(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("image_name", "mask_name"),
    [("train/images/{}.png", "train/masks/{}.png"), ("imgs/train/{}.png", "labels/train/{}.png")],
)
def test_splits_come_first_or_last(tmp_path, image_name, mask_name):
    folder = put_all(tmp_path, image_name, mask_name)
    put(tmp_path / image_name.replace("train", "test").format("p9/0"), IMAGES[0])
    assert list_splits(folder) == ("test", "train")
    assert_is_the_table(load_table(folder, split="train"))
    assert load_table(folder, split="test")["group"][:] == ["p9"]
    assert "several splits; it has test, train: name one of them by split=…" in fault(load_table, folder)
    assert "no split 'val'; it has test, train: choose one of them" in fault(load_table, folder, split="val")


def test_folders_that_nobody_knows_are_named_by_the_caller(tmp_path):
    folder = put_all(tmp_path, "photos/{}.png", "who did it/{}.png")
    form = SourceFormat(images="photos", masks="who did it")
    assert_is_the_table(load_table(folder, form))
    assert_is_the_table(sedm.load_image_folder(folder, images="photos", masks="who did it"))
    assert "no folder masks='truth' in it" in fault(load_table, folder, SourceFormat(images="photos", masks="truth"))
    assert "no folder images='fotos' in it" in fault(load_table, folder, SourceFormat(images="fotos"))


def test_two_folders_that_may_both_hold_the_masks_are_named(tmp_path):
    folder = put_all(tmp_path, "images/{}.png", "labels/{}.png")
    put_all(tmp_path, "images/{}.png", "annotations/{}.png")
    message = fault(load_table, folder)
    assert message == f"{folder}: masks may be in annotations and labels; name the folder that is meant by masks=…"
    assert_is_the_table(load_table(folder, SourceFormat(masks="labels")))


def test_levels_of_folders_reach_below_the_split(tmp_path):
    folder = put_all(tmp_path, "images/train/{}.png", "masks/train/{}.png")
    assert load_table(folder, SourceFormat(group_level=2))["group"][:] == GROUPS  # as if train were any folder
    assert load_table(folder, SourceFormat(group_level=1), "train")["group"][:] == GROUPS


def test_images_with_nothing_in_common_are_groups_of_their_own(tmp_path):
    for row in range(2):
        put(tmp_path / "images" / f"{row}.png", IMAGES[row])
    assert "no group" in fault(load_table, tmp_path)
    assert load_table(tmp_path, SourceFormat(group_column=""))["group"][:] == ["0.png", "1.png"]


# ------------------------------------------------------------------------------------------------- tables of paths


@pytest.fixture
def files(tmp_path):
    """Pictures in a folder ``pixels``, and the rows of a table beside it that names them."""
    rows = []
    for row in range(3):
        put(tmp_path / "pixels" / f"{row}.png", IMAGES[row])
        put(tmp_path / "pixels" / f"{row}_m.png", MASKS[row])
        rows.append([f"pixels/{row}.png", f"pixels/{row}_m.png" if row < 2 else "", GROUPS[row], f"s{row}"])
    return tmp_path, rows


def put_rows(path, rows, head=("photo", "truth", "patient", "stain"), separator=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([head, *rows])
    return path


COLUMNS = {"image_column": "photo", "mask_column": "truth", "group_column": "patient"}


@pytest.mark.parametrize(
    ("name", "separator"), [("mine.csv", ","), ("mine.csv", ";"), ("mine.tsv", "\t"), ("mine.TXT", ",")]
)
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_a_spreadsheet_of_paths_begins_at_its_folder(files, monkeypatch, name, separator, slash):
    folder, rows = files
    rows = [[cell.replace("/", slash) for cell in row] for row in rows]
    monkeypatch.chdir("/")
    table = load_table(put_rows(folder / name, rows, separator=separator), SourceFormat(**COLUMNS))
    assert_is_the_table(table)
    assert table.column_names == ["image", "mask", "group", "stain"]
    assert table["stain"][:] == ["s0", "s1", "s2"]


def test_a_parquet_file_of_paths_is_read_alike(files):
    folder, rows = files
    columns = dict(zip(("photo", "truth", "patient"), zip(*rows, strict=True), strict=False))
    columns["truth"] = [cell or None for cell in columns["truth"]]
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "mine.parquet")
    assert_is_the_table(load_table(folder / "mine.parquet", SourceFormat(**COLUMNS)))


def test_a_spreadsheet_without_masks_or_groups_has_to_be_asked_for(files):
    folder, rows = files
    path = put_rows(folder / "mine.csv", [row[:1] for row in rows], head=["image"])
    assert "expected the columns image and group, found 'image'" in fault(load_table, path)
    hint = "say mask_column=…, which is '' for images that nobody annotated"
    assert fault(load_table, path, SourceFormat(group_column="")) == f"{path}: no column 'mask'; it has image; {hint}"
    table = load_table(path, SourceFormat(group_column="", mask_column=""))
    assert len(set(table["group"])) == 3
    assert table["mask"][:] == [None] * 3


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["pixels/9.png", "", "p", ""], "line 5: no such file, {folder}/pixels/9.png"),
        (["pixels/0.png", "pixels/9_m.png", "p", ""], "line 5: no such file, {folder}/pixels/9_m.png"),
        (["pixels/0.png", "pixels/0_m.png", "p", ""], "line 5: {folder}/pixels/0.png is there twice"),
        (["pixels/0.png", "", "", ""], "line 5: the column 'patient' is empty"),
        (["", "", "p", ""], "line 5: the column 'photo' is empty"),
    ],
)
def test_a_fault_of_a_spreadsheet_is_named_with_its_line(files, row, words):
    folder, rows = files
    path = put_rows(folder / "mine.csv", [*rows, row])
    message = fault(load_table, path, SourceFormat(**COLUMNS))
    assert message == f"{path}, {words.format(folder=folder)}"
    (first, *others) = find_source_faults(path, SourceFormat(**COLUMNS))
    assert str(first) == message
    assert first.row == 5
    assert others == []


def test_what_is_no_source_says_what_is(tmp_path):
    (tmp_path / "mine.xlsx").touch()
    assert fault(load_table, tmp_path / "mine.xlsx").endswith("save a spreadsheet as “CSV UTF-8”")
    assert "no such file or folder; expected a folder, .csv" in fault(load_table, tmp_path / "nowhere")
    put(tmp_path / "both" / "images" / "a" / "0.png", IMAGES[0])
    (tmp_path / "both" / "train.parquet").touch()
    assert "parquet files and a folder of images" in fault(load_table, tmp_path / "both")
    folder = put_all(tmp_path / "mine", "images/{}.png", "masks/{}.png")
    assert "mask_kind='run-lengths' is for a table" in fault(load_table, folder, RUNS)


def test_without_network_a_data_set_of_the_hub_is_one_fault(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (found,) = find_source_faults("nobody/no-such-data-set")
    assert "no such folder, and the Hub cannot be reached (" in str(found)
    assert list_splits("nobody/no-such-data-set") == ()


# ------------------------------------------------------------------------------------- data sets and patch tables


def test_class_labels_are_groups_by_their_names(tmp_path):
    features = datasets.Features(
        photo=datasets.Image(), truth=datasets.Image(), patient=datasets.ClassLabel(names=["p2", "p1"])
    )
    rows = {
        "photo": [Image.fromarray(image) for image in IMAGES],
        "truth": [Image.fromarray(mask) for mask in MASKS[:2]] + [None],
        "patient": [1, 1, 0],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    for source in (tmp_path, tmp_path / "train.parquet"):
        assert_is_the_table(load_table(source, SourceFormat(**COLUMNS)))
        assert list(find_source_faults(source, SourceFormat(**COLUMNS))) == []


def test_a_saved_patch_table_needs_no_format(tmp_path):
    folder = put_all(tmp_path / "mine", "images/{}.png", "masks/{}.png")
    for split in ("train", "test"):
        save_patches(load_table(folder), tmp_path / "tables" / f"{split}.parquet")
    assert list_splits(tmp_path / "tables") == ("test", "train")
    assert_is_the_table(load_table(tmp_path / "tables", split="train"))
    assert "several splits" in fault(load_table, tmp_path / "tables")
    assert "several splits" in str(next(find_source_faults(tmp_path / "tables")))


# --------------------------------------------------------------------------------------------- what masks may hold

TRUTH = np.zeros((16, 12), np.uint8)
TRUTH[2:9, 4:11] = 1
TRUTH[10:, :3] = 2
COLOURS = np.array([(0, 0, 0), (255, 0, 0), (0, 128, 255)], np.uint8)
NUMBERS = np.array([0, 1, 0], np.uint8)[TRUTH] * 7 + np.array([0, 0, 1], np.uint8)[TRUTH] * 200  # of two objects


def palette(array):
    image = Image.fromarray(array, mode="P")
    image.putpalette(COLOURS.flatten().tolist())
    return image


def masked(folder, mask, suffix=".png", **options):
    """A folder of one image with this mask, a file's content or pixels."""
    put(folder / "images" / "a" / "0.png", np.zeros((16, 12, 3), np.uint8))
    path = folder / "masks" / "a" / f"0{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    else:
        put(path, mask, **options)
    return folder


def tiff(array, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


BY_NAME = {"glass": "#000000", "gland": "#ff0000", "lumen": "#0080ff"}
ONE_CLASS = (TRUTH > 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("mask", "form", "expected"),
    [
        (palette(TRUTH), {}, TRUTH),
        (palette(TRUTH), {"classes": BY_NAME}, TRUTH),
        (palette(TRUTH), {"classes": {"glass": 0, "tissue": [1, 2]}}, ONE_CLASS),
        (Image.fromarray(TRUTH > 0), {}, ONE_CLASS),
        (COLOURS[TRUTH], {"classes": BY_NAME}, TRUTH),
        (COLOURS[TRUTH], {"classes": {"glass": ["black", "#0080FF"], "gland": "red"}}, TRUTH == 1),
        (COLOURS[TRUTH], {"classes": {"glass": "black", "gland": "red"}, "unknown": "#0080ff"}, [0, 1, 255]),
        (ONE_CLASS * 255, {"classes": {"glass": 0, "tissue": 255}}, ONE_CLASS),
        (ONE_CLASS * 255, {"mask_values": {0: 0, 255: 1}}, ONE_CLASS),
        (NUMBERS, {"mask_kind": "instances"}, ONE_CLASS),
        (palette(TRUTH), {"mask_kind": "instances"}, ONE_CLASS),
        (COLOURS[TRUTH], {"mask_kind": "instances"}, ONE_CLASS),
        (tiff(NUMBERS.astype(np.uint16) * 300), {"mask_kind": "instances"}, ONE_CLASS),
        (tiff(NUMBERS.astype(np.int32) * 99_999), {"mask_kind": "instances"}, ONE_CLASS),
        (tiff(NUMBERS.astype(np.uint32) * 99_999), {"mask_kind": "instances"}, ONE_CLASS),
        (np.array([0, 1000, 65535], np.uint16)[TRUTH], {"classes": {"a": 0, "b": 1000, "c": 65535}}, TRUTH),
        (tiff(np.array([0, 70_000, 9], np.int32)[TRUTH]), {"mask_values": {0: 0, 70_000: 1, 9: 2}}, TRUTH),
        (ONE_CLASS * 100, {"mask_threshold": 99}, ONE_CLASS),
    ],
)
def test_every_coding_of_masks_gives_its_classes(tmp_path, mask, form, expected):
    folder = masked(tmp_path, mask, ".tif" if isinstance(mask, bytes) else ".png")
    form = SourceFormat(**form)
    expected = np.array(expected)[TRUTH] if isinstance(expected, list) else expected
    table = load_table(folder, form)
    check_patches(table, n_classes=3)
    assert np.array_equal(np.asarray(table[0]["mask"]), expected)
    assert list(find_source_faults(folder, form)) == []


@pytest.mark.parametrize(
    ("mask", "form", "words"),
    [
        (
            COLOURS[TRUTH],
            {"classes": {"glass": "black", "gland": "red"}},
            "value #0080ff is not in classes, which has #000000, #ff0000",
        ),
        (
            ONE_CLASS * 255,
            {"classes": {"glass": 0, "tissue": 254}},
            "value 255 is not in classes, which has 0, 254",
        ),
        (
            COLOURS[TRUTH],
            {"classes": {"glass": 0, "tissue": 1}},
            "for colours give each class its values in a study.toml, or pass mask_values=",
        ),
        (tiff(-ONE_CLASS.astype(np.int32)), {"mask_kind": "instances"}, "value -1; objects are numbered from 1"),
        (
            np.uint16(300) * ONE_CLASS,
            {},
            "values 0…300; save it with 8, give each class its values in a study.toml, or pass mask_values={1000: 1",
        ),
    ],
)
def test_masks_that_are_not_as_described_are_refused(tmp_path, mask, form, words):
    folder = masked(tmp_path, mask, ".tif" if isinstance(mask, bytes) else ".png")
    (found,) = find_source_faults(folder, SourceFormat(**form), n_classes=2)
    assert words in str(found)
    assert (Path(found.file).stem, found.row, found.column) == ("0", 0, "mask")

    def load_and_check():
        check_patches(load_table(folder, SourceFormat(**form)), 2, str(folder))

    assert fault(load_and_check) == str(found)


def test_smoothed_masks_are_refused_with_advice_and_thresholded_when_told_so(tmp_path):
    grey = Image.fromarray(ONE_CLASS * 255).resize((24, 32), Image.Resampling.BICUBIC)
    grey = np.asarray(grey.resize((12, 16), Image.Resampling.BILINEAR))
    assert len(np.unique(grey)) > 5
    folder = masked(tmp_path, grey)
    for form, advice in (({}, "127 when reading"), ({"classes": {"glass": 0, "tissue": 255}}, "127 instead")):
        (found,) = find_source_faults(folder, SourceFormat(**form), n_classes=2)
        assert str(found).endswith(f"say mask_threshold={advice}")
    table = load_table(folder, SourceFormat(mask_threshold=127))
    assert np.array_equal(np.asarray(table[0]["mask"]), grey > 127)
    (found,) = find_source_faults(masked(tmp_path, ONE_CLASS), SourceFormat(mask_threshold=127))
    assert "no mask holds a value above mask_threshold=127, the highest is 1" in str(found)


# ----------------------------------------------------------------------------------------------- masks as run lengths


def kaggle(mask) -> str:
    """Starts and lengths, pixel for pixel down the columns."""
    runs = []
    inside = False
    for place, value in enumerate(mask.T.ravel().tolist(), start=1):
        if value and not inside:
            runs.append([place, 0])
        if value:
            runs[-1][1] += 1
        inside = value
    return " ".join(f"{start} {length}" for start, length in runs)


def with_runs(folder, *cells):
    rows = [[f"{row}.png", cell, "p"] for row, cell in enumerate(cells)]
    for row in range(len(rows)):
        put(folder / f"{row}.png", np.zeros((11, 13, 3), np.uint8))
    return put_rows(folder / "mine.csv", rows, head=["image", "mask", "group"])


ROW, COLUMN = np.mgrid[:11, :13]
PATTERN = ((ROW * 7919 + COLUMN * 104729) % 13 % 5 < 2).astype(np.uint8)
PATTERN_OF_COCO = (  # pycocotools.mask.encode of version 2.0.11
    "0120O000000000110O10N0000020O10OO00000000011000OO00000000011000OO00000000011000OO00000000011000OO000000000110O"
)
RUNS = SourceFormat(mask_kind="run-lengths")


def test_run_lengths_of_both_kinds_are_the_pixels(tmp_path):
    cells = [
        kaggle(PATTERN),
        PATTERN_OF_COCO,
        json.dumps({"size": [11, 13], "counts": PATTERN_OF_COCO}),
        "",
        json.dumps({"size": [11, 13], "counts": [143]}),
    ]
    table = load_table(with_runs(tmp_path, *cells), RUNS)
    for row in range(3):
        assert np.array_equal(np.asarray(table[row]["mask"]), PATTERN)
    assert table[3]["mask"] is None
    assert not np.asarray(table[4]["mask"]).any()
    assert list(find_source_faults(tmp_path / "mine.csv", RUNS)) == []


def test_run_lengths_in_a_parquet_file_are_the_pixels_too(tmp_path):
    with_runs(tmp_path, *"abc")
    columns = {"image": ["0.png", "1.png", "2.png"], "group": ["p"] * 3}
    text = pyarrow.array([kaggle(PATTERN), None, PATTERN_OF_COCO])
    coco = pyarrow.array([{"size": [11, 13], "counts": PATTERN_OF_COCO}, None] * 2)[:3]
    for mask in (text, coco):
        pyarrow.parquet.write_table(pyarrow.table({**columns, "mask": mask}), tmp_path / "mine.parquet")
        table = load_table(tmp_path / "mine.parquet", RUNS)
        assert np.array_equal(np.asarray(table[0]["mask"]), PATTERN)
        assert np.array_equal(np.asarray(table[2]["mask"]), PATTERN)
        assert table[1]["mask"] is None


def test_rows_of_the_objects_of_one_image_are_one_mask(tmp_path):
    path = with_runs(tmp_path, kaggle(PATTERN * (ROW > 5)))
    with path.open("a") as file:
        file.write(f"0.png,{kaggle(PATTERN * (ROW <= 5))},p\n")
    table = load_table(path, RUNS)
    assert len(table) == 1
    assert np.array_equal(np.asarray(table[0]["mask"]), PATTERN)
    with path.open("a") as file:
        file.write("0.png,1 1,q\n")
    assert "0.png is in two groups, 'p' and 'q'" in fault(load_table, path, RUNS)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("0 3", "a run starts at 0, but starts count from 1"),
        ("1 3 2 4", "a run starts at 2, but the run before it ends at 3"),
        ("140 5", "a run ends at 144, but the image has 143 pixels"),
        ("1 3 5", "3 numbers, the last start has no length"),
        ('{"size": [13, 11], "counts": [143]}', "size [13, 11], but the image has [height, width] = [11, 13]"),
        ('{"size": [11, 13], "counts": [142]}', "counts of 142 pixels in all; the image has 11×13"),
        ('{"size": [11, 13], "counts": [-1, 144]}', "counts of 143 pixels in all"),
        ('{"size": [11, 13]}', "counts 'None'; expected 'start length"),
        ("what is this", "character 1 of the counts is 'w'"),
    ],
)
def test_impossible_run_lengths_are_named(tmp_path, cell, words):
    path = with_runs(tmp_path, cell)
    message = fault(load_table, path, RUNS)
    assert message.startswith(f"{path}, row 0, column 'mask': run lengths: ")
    assert words in message
    assert [str(found) for found in find_source_faults(path, RUNS)] == [message]


# -------------------------------------------------------------------------------------------- what images may hold

DEEP = RNG.integers(0, 4096, (16, 12)).astype(np.uint16)
ALPHA = RNG.integers(0, 256, (16, 12, 1)).astype(np.uint8)
GREY = IMAGES[0, ..., :1]


def folder_of(folder, image, suffix=".png", **options):
    path = folder / "images" / "a" / f"0{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        put(path, image, **options)
    return folder


def over(colour) -> np.ndarray:
    """The image with its alpha over a colour, by hand."""
    return ALPHA / 255 * IMAGES[0] + (1 - ALPHA / 255) * np.array(colour)


def scaled(values, low, high) -> np.ndarray:
    grey = np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("image", "form", "expected", "tolerance"),
    [
        (np.dstack([IMAGES[0], ALPHA]), {"alpha": "white"}, over((255, 255, 255)), 1),
        (np.dstack([IMAGES[0], ALPHA]), {"alpha": "#0a3264"}, over((10, 50, 100)), 1),
        (
            Image.fromarray(np.dstack([GREY, ALPHA])),
            {"alpha": "black"},
            np.repeat(ALPHA / 255.0 * GREY, 3, axis=2),
            1,
        ),
        (GREY[..., 0], {}, GREY.repeat(3, axis=2), 0),
        (DEEP, {"intensity_range": [0, 4095]}, scaled(DEEP, 0, 4095), 0.5),
        (DEEP, {"intensity_range": [1000, 2000]}, scaled(DEEP, 1000, 2000), 0.5),
        (DEEP, {"intensity_range": "full"}, scaled(DEEP, 0, 65535), 0.5),
        (DEEP, {"intensity_range": "image"}, scaled(DEEP, *np.percentile(DEEP, [0.1, 99.9])), 0.5),
        (tiff(DEEP.byteswap().view(DEEP.dtype.newbyteorder(">"))), {"intensity_range": [0, 4095]}, None, 0.5),
        (tiff(DEEP.astype(np.int32) - 2048), {"intensity_range": [-2048, 2047]}, None, 0.5),
        (tiff((DEEP / 4095).astype(np.float32)), {"intensity_range": [0, 1]}, None, 0.5),
        (tiff(np.dstack([DEEP, DEEP // 2, DEEP * 16]), photometric="rgb"), {"intensity_range": "full"}, "colour", 1),
        (GREY[..., 0], {"intensity_range": [0, 4095]}, GREY.repeat(3, axis=2), 0),  # 8 bits are 8 bits
    ],
)
def test_deep_and_transparent_images_are_read_as_told(tmp_path, image, form, expected, tolerance):
    suffix = ".tif" if isinstance(image, bytes) else ".png"
    folder = folder_of(tmp_path, image, suffix)
    if expected is None:
        expected = scaled(DEEP, 0, 4095)
    elif isinstance(expected, str):
        expected = np.dstack([DEEP, DEEP // 2, DEEP * 16]) / 65535 * 255
    form = SourceFormat(**form)
    table = load_table(folder, form)
    check_patches(table, n_classes=2)
    found = np.asarray(table[0]["image"].convert("RGB")).astype(float)
    assert np.abs(found - expected).max() <= tolerance
    assert list(find_source_faults(folder, form)) == []
    if form.intensity_range == "image":
        assert [table[0][f"intensity_{end}"] for end in ("low", "high")] == np.percentile(DEEP, [0.1, 99.9]).tolist()


@pytest.mark.parametrize(
    ("image", "form", "words"),
    [
        (np.dstack([IMAGES[0], ALPHA]), {}, "transparent pixels; save it without an alpha channel, or name the colour"),
        (
            DEEP,
            {},
            "16 bits or floats, more than 8 bits a channel (mode I;16); save it with 8, or say by intensity_ran",
        ),
        (
            tiff(DEEP.astype(np.float32)),
            {"intensity_range": "full"},
            "32 bits or floats (mode F); intensity_range='full'",
        ),
        (tiff(np.full((8, 8), np.nan, np.float32)), {"intensity_range": [0, 1]}, "a value that is no number"),
        (tiff(np.dstack([DEEP] * 3), photometric="rgb"), {"intensity_range": [0, 9]}, "colours of 16 bits a channel"),
    ],
)
def test_deep_and_transparent_images_are_refused_with_the_choice_that_makes_them_readable(tmp_path, image, form, words):
    folder = folder_of(tmp_path, image, ".tif" if isinstance(image, bytes) else ".png")
    (found,) = find_source_faults(folder, SourceFormat(**form))
    assert words in str(found)
    assert (found.row, found.column) == (0, "image")


def test_print_colours_of_a_photo_are_read_as_their_rgb(tmp_path):
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[40:200:16j, 30:220:12j], 128), axis=-1).astype(np.uint8)
    folder = folder_of(tmp_path, Image.fromarray(smooth).convert("CMYK"), ".jpg", quality=100, subsampling=0)
    assert Image.open(folder / "images" / "a" / "0.jpg").mode == "CMYK"
    found = Patches.from_table(load_table(folder), CLASSES).images[0].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - smooth).max() <= 6


# ------------------------------------------------------------------------------------------------- tiles and scale


def test_tiles_are_the_pixels_at_their_places_and_keep_the_group(tmp_path):
    image = RNG.integers(0, 256, (40, 70, 3)).astype(np.uint8)
    mask = RNG.integers(0, 2, (40, 70)).astype(np.uint8)
    put(tmp_path / "images" / "p7" / "a.png", image)
    put(tmp_path / "masks" / "p7" / "a.png", mask)
    put(tmp_path / "images" / "p8" / "b.png", image[:32, :32])
    table = load_table(tmp_path, SourceFormat(tile_size=32, microns_per_pixel=0.5))
    places = [(row["x"], row["y"]) for row in table]
    assert places == [(0, 0), (19, 0), (38, 0), (0, 8), (19, 8), (38, 8), (0, 0)]
    for row in table.select(range(6)):
        x, y = row["x"], row["y"]
        assert np.array_equal(np.asarray(row["image"]), image[y : y + 32, x : x + 32])
        assert np.array_equal(np.asarray(row["mask"]), mask[y : y + 32, x : x + 32])
        assert (row["x_microns"], row["y_microns"], row["microns_per_pixel"]) == (x / 2, y / 2, 0.5)
    assert table["group"][:] == ["p7"] * 6 + ["p8"]
    assert table[6]["mask"] is None
    check_patches(table, n_classes=2)
    patches = Patches.from_table(table, CLASSES)
    assert patches.places.slides == ["p7/a.png"] * 6 + ["p8/b.png"]


def test_a_picture_below_the_size_of_a_tile_is_named(tmp_path):
    folder = put_all(tmp_path, "images/{}.png", "masks/{}.png")
    form = SourceFormat(tile_size=16)
    faults = list(find_source_faults(folder, form))
    assert [found.row for found in faults] == [0, 1, 2]
    assert fault(load_table, folder, form) == str(faults[0])
    assert "12×16 px, at scale=1 less than a tile; choose a tile_size below 16" in str(faults[0])


def test_resized_pictures_say_their_scale(tmp_path):
    blocks = np.kron(RNG.integers(0, 256, (8, 6, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    mask = np.kron(RNG.integers(0, 3, (8, 6)), np.ones((4, 4))).astype(np.uint8)
    put(tmp_path / "images" / "a" / "0.png", blocks)
    put(tmp_path / "masks" / "a" / "0.png", mask)
    (row,) = load_table(tmp_path, SourceFormat(scale=0.25, microns_per_pixel=1))
    assert row["image"].size == (6, 8)
    assert np.array_equal(np.asarray(row["mask"]), mask[::4, ::4])
    expected = Image.fromarray(blocks).resize((6, 8), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(row["image"]), expected)
    assert (row["scale"], row["microns_per_pixel"]) == (0.25, 4)
    tiles = load_table(tmp_path, SourceFormat(scale=0.25, tile_size=5))
    assert [(tile["x"], tile["y"]) for tile in tiles] == [(0, 0), (4, 0), (0, 12), (4, 12)]  # px of the file
    assert np.array_equal(np.asarray(tiles[3]["mask"]), mask[::4, ::4][3:, 1:])


# ------------------------------------------------------------------------------------------------------ every fault


def test_every_planted_fault_is_listed_in_order_and_the_first_one_is_raised(tmp_path):
    for row in range(9):
        put(tmp_path / "images" / f"p{row % 2}" / f"{row}.png", np.zeros((8, 8, 3), np.uint8))
        put(tmp_path / "masks" / f"p{row % 2}" / f"{row}.png", np.full((8, 8), row % 2, np.uint8))
    images, masks = tmp_path / "images", tmp_path / "masks"
    put(images / "astray.png", np.zeros((8, 8, 3), np.uint8))  # of no group
    put(masks / "p0" / "77.png", np.zeros((8, 8), np.uint8))  # of no image
    (images / "p0" / "0.png").write_bytes(b"no picture")
    put(masks / "p0" / "2.png", np.full((8, 8), 9, np.uint8))
    put(masks / "p0" / "4.png", np.zeros((4, 8), np.uint8))
    put(images / "p1" / "5.png", np.zeros((8, 8), np.uint16))
    put(masks / "p1" / "5.png", np.zeros((8, 8, 3), np.uint8))
    faults = list(find_source_faults(tmp_path, n_classes=2))
    described = [(Path(found.file).relative_to(tmp_path).as_posix(), found.row, found.column) for found in faults]
    assert described == [
        ("images/astray.png", None, "group"),
        ("masks/p0/77.png", None, ""),
        ("images/p0/0.png", 0, "image"),
        ("masks/p0/2.png", 1, "mask"),
        ("masks/p0/4.png", 2, "mask"),
        ("images/p1/5.png", 7, "image"),
        ("masks/p1/5.png", 7, "mask"),
    ]
    assert [found.value for found in faults[3:6]] == [9, "8×4", "I;16"]
    assert all("\n" not in str(found) for found in faults)
    for number in range(2):  # those of files are raised one by one, as each is mended
        assert fault(load_table, tmp_path) == str(faults[number])
        Path(faults[number].file).unlink()
    table = load_table(tmp_path)
    for number in (2, 3, 4, 5):
        assert fault(check_patches, table, 2, str(tmp_path)) == str(faults[number])
        for kind, column in ((images, "image"), (masks, "mask")):
            pixels = np.zeros((8, 8, 3) if column == "image" else (8, 8), np.uint8)
            put(kind / Path(faults[number].file).relative_to(tmp_path).relative_to(f"{faults[number].column}s"), pixels)
    check_patches(table, 2)


def test_a_source_that_cannot_be_opened_at_all_is_one_fault(tmp_path):
    for source in (tmp_path / "nowhere", tmp_path):
        (found,) = find_source_faults(source)
        assert str(found) == fault(load_table, source)


def test_white_on_black_is_one_fault_at_the_end(tmp_path):
    folder = put_all(tmp_path, "images/{}.png", "masks/{}.png")
    for row in range(2):
        put(folder / "masks" / f"{NAMES[row]}.png", 255 * MASKS[row])
    (found,) = find_source_faults(folder)
    assert "no mask has a class above 0, so 255 is not taken for unknown" in str(found)
    assert (found.column, found.value) == ("mask", 255)
    assert list(find_source_faults(folder, SourceFormat(classes={"glass": 0, "tissue": 255}))) == []


# ---------------------------------------------------------------------------------------------------- staged images


def test_staged_biopsies_survive_every_way_through_files(staged_data, tmp_path):
    path = staged_data / "ebhi_seg_128" / "validation.parquet"
    table = load_table(path, SourceFormat(group_column="case")).select(range(0, 60, 3))
    truth = Patches.from_table(table, CLASSES)
    rows = []
    for row, patch in enumerate(table):
        image, mask = patch["image"], np.asarray(patch["mask"])
        put(tmp_path / "files" / "imgs" / patch["group"] / f"{row}.png", image)
        put(tmp_path / "files" / "labels" / patch["group"] / f"{row}_anno.bmp", 255 * mask)
        rows.append([f"files/imgs/{patch['group']}/{row}.png", kaggle(mask), patch["group"]])
    by_folder = load_table(tmp_path / "files", SourceFormat(classes={"background": 0, "epithelium": 255}))
    by_runs = load_table(put_rows(tmp_path / "runs.csv", rows, head=["image", "mask", "group"]), RUNS)
    order = [int(Path(name).stem) for name in by_folder["file_name"]]
    for loaded, rows_of in ((by_folder, order), (by_runs, range(len(table)))):
        patches = Patches.from_table(loaded, CLASSES)
        assert patches.images.equal(truth.images[list(rows_of)])
        assert patches.masks.equal(truth.masks[list(rows_of)])
        assert patches.groups == [truth.groups[row] for row in rows_of]
    shutil.rmtree(tmp_path / "files" / "labels")
    assert not Patches.from_table(load_table(tmp_path / "files"), CLASSES).has_mask.any()


def test_translated_pictures_lie_in_a_file_and_not_in_memory(tmp_path):
    folder = put_all(tmp_path, "images/{}.png", "masks/{}.png")
    assert load_table(folder).cache_files == []  # nothing was read
    table = load_table(folder, SourceFormat(classes={"glass": 1, "tissue": 0}))
    (file,) = table.cache_files
    assert Path(file["filename"]).is_file()
    assert not Path(file["filename"]).is_relative_to(tmp_path)
    assert np.array_equal(np.asarray(table[1]["mask"]), 1 - MASKS[1])
    assert np.array_equal(np.asarray(table[1]["image"]), IMAGES[1])
