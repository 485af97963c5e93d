"""``sedm check``: what it says is there, what it warns of, the study.toml that it drafts, and what it writes."""

import shutil
import tracemalloc
from collections import Counter

import datasets
import numpy as np
import pytest
from PIL import Image

from sedm.__main__ import main
from sedm.config import read_study
from sedm.data.source_summary import FEW_GROUPS, RowFacts, SourceSummary
from sedm.data.study_check import check_source
from sedm.data.study_draft import draft_study
from sedm.data.study_source import StudySource

RNG = np.random.default_rng(7)
SIZE = 32
GROUPS = "abcd"
MASK = np.zeros((SIZE, SIZE), np.uint8)
MASK[4:20, 6:30] = 1
CLASSES = 'classes = ["glass", "gland"]\n'


def put(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)


def put_all(folder, mask=MASK, groups=GROUPS, size=(SIZE, SIZE)):
    for group in groups:
        for row in range(2):
            put(folder / "images" / group / f"{row}.png", RNG.integers(0, 256, (*size, 3)).astype(np.uint8))
            if mask is not None and group != "e":
                put(folder / "masks" / group / f"{row}.png", mask)
    return folder


def source(folder, text=CLASSES):
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return StudySource(read_study(folder))


# ------------------------------------------------------------------------------------------------- what is there


def test_counts_sizes_and_shares_are_those_counted_by_hand(tmp_path):
    counts, n_images, n_annotated = np.zeros(2, int), Counter(), Counter()
    for number, group in enumerate("abcde"):
        for row in range(number + 1):
            put(tmp_path / "images" / group / f"{row}.png", np.zeros((SIZE, SIZE, 3), np.uint8))
            n_images[group] += 1
            if group != "e" and row != 1:
                mask = (RNG.random((SIZE, SIZE)) < 0.1 * (number + 1)).astype(np.uint8)
                mask[0, :4] = 255
                counts += [(mask == 0).sum(), (mask == 1).sum()]
                put(tmp_path / "masks" / group / f"{row}.png", mask)
                n_annotated[group] += 1
    summary, faults = check_source(source(tmp_path))
    assert faults == []
    assert (summary.n_images, summary.n_annotated) == (n_images, n_annotated)
    assert summary.sizes == {(SIZE, SIZE): 15}
    assert summary.shares == {"glass": counts[0] / counts.sum(), "gland": counts[1] / counts.sum()}
    first, sizes, per_group, classes = summary.lines()
    assert first == "15 images of 5 groups: 7 images of 4 groups are annotated"
    assert sizes == "sizes: 32×32 px (15)"
    assert per_group == "images a group: 1 to 5, median 3"
    assert classes == f"classes: glass {counts[0] / counts.sum():.1%}, gland {counts[1] / counts.sum():.1%}"


def test_every_fault_is_listed_with_its_file(tmp_path):
    put_all(tmp_path)
    put(tmp_path / "masks/a/0.png", MASK * 9)
    put(tmp_path / "masks/c/1.png", MASK[:8])
    (tmp_path / "images/d/0.png").write_text("no picture")
    summary, faults = check_source(source(tmp_path))
    assert [fault.column for fault in faults] == ["mask", "mask", "image"]
    paths = ("masks/a/0.png", "masks/c/1.png", "images/d/0.png")
    assert all(path in str(fault) for fault, path in zip(faults, paths, strict=True))
    assert faults[0].value == 9
    assert summary.n_images == {"a": 1, "b": 2, "c": 1, "d": 1}  # of images without a fault


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    def peak(folder, n):
        for row in range(n):
            put(folder / "images" / "ab"[row % 2] / f"{row}.png", np.zeros((256, 256, 3), np.uint8))
            put(folder / "masks" / "ab"[row % 2] / f"{row}.png", np.zeros((256, 256), np.uint8) + row % 2)
        mine = source(folder)
        tracemalloc.start()
        assert check_source(mine)[1] == []
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(tmp_path / "first", 8)  # imports
    few, many = peak(tmp_path / "few", 16), peak(tmp_path / "many", 96)
    assert many - few < 10 * 256 * 256 * 3  # 80 more pictures would need 80 times that


# ------------------------------------------------------------------------------------------------------- warnings


def summary_of(rows, classes=("glass", "gland")):
    summary = SourceSummary(classes)
    for group, size, values in rows:
        counts = None if values is None else np.bincount(values, minlength=256)
        summary.add(RowFacts(group, size, counts, len(summary.first_group)))
    return summary


BOTH = [0, 1]
SOUND = [(f"{n}", (8, 8), BOTH) for n in range(FEW_GROUPS) for _ in range(2)] + [("u", (8, 8), None)] * 2
WARNINGS = {
    "1 group has one image, such as 'x': its style": [*SOUND, ("x", (8, 8), BOTH)],
    "2 groups have one image each, such as 'x', 'y': their styles": [*SOUND, ("x", (8, 8), BOTH), ("y", (8, 8), None)],
    "there is one group, but a split": [("u", (8, 8), None)] * 2,
    "nobody annotated anything": [("u", (8, 8), None)] * 2 + [("v", (8, 8), None)] * 2,
    f"{FEW_GROUPS - 1} annotated groups: a part of them is for testing": SOUND[2:],
    "every group is annotated": SOUND[:-2],
    "no mask shows the class 'gland'": [(group, size, values and [0, 0]) for group, size, values in SOUND],
    "1 annotated group without 'gland', such as 'x'": [*SOUND, ("x", (8, 8), [0]), ("x", (8, 8), [0])],
    "of the pixels of masks are unknown": [(g, size, v and [*v, 255]) for g, size, v in SOUND],
    "1 annotated group has masks of unknown pixels alone, such as 'x'": [*SOUND, *[("x", (8, 8), [255])] * 2],
    "every mask has unknown pixels: no layout": [(g, size, v and [*v * 9, 255]) for g, size, v in SOUND],
    "images of 2 sizes": [*SOUND, ("u", (9, 9), None)],
}


def test_a_sound_study_is_warned_of_nothing():
    assert summary_of(SOUND).warnings() == []


@pytest.mark.parametrize("words", WARNINGS)
def test_each_warning_appears_where_it_should(words):
    for other, rows in WARNINGS.items():
        warned = any(words in warning for warning in summary_of(rows).warnings())
        if other == words:
            assert warned, summary_of(rows).warnings()
    assert not any(words in warning for warning in summary_of(SOUND).warnings())


def test_an_image_in_two_groups_is_found_and_neither_empty_glass_nor_a_repetition(tmp_path):
    rng = np.random.default_rng(3)
    for group in "abc":
        for row in range(3):
            put(tmp_path / "images" / group / f"{row}.png", rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))
        put(tmp_path / "images" / group / "glass.png", np.full((SIZE, SIZE, 3), 240, np.uint8))
    shutil.copy(tmp_path / "images" / "a" / "0.png", tmp_path / "images" / "a" / "again.png")
    mine = source(tmp_path)
    assert not any("in two groups" in told for told in check_source(mine)[0].warnings())
    Image.open(tmp_path / "images" / "a" / "1.png").save(tmp_path / "images" / "b" / "copy.tif")  # another file
    told = [warning for warning in check_source(mine)[0].warnings() if "in two groups" in warning]
    assert told == [
        "1 image in two groups, such as 'a', 'b': with one of them in training and one in the test, a network is "
        "tested on what it learned"
    ]


def test_of_nothing_nothing_is_said():
    assert summary_of([]).lines() == ["0 images of 0 groups: 0 images of 0 groups are annotated"]
    assert summary_of([]).warnings() == []


def test_padding_makes_masks_incomplete():
    for fit, size, is_warned in (("pad", (8, 9), True), ("pad", (8, 8), False), ("crop", (8, 9), False)):
        summary = SourceSummary(("glass", "gland"), fit)
        for group, _, values in SOUND:
            told = None if values is None else np.bincount(values, minlength=256)
            summary.add(RowFacts(group, size, told, len(summary.first_group)))
        assert any("every mask has unknown pixels, for fit = 'pad'" in told for told in summary.warnings()) == is_warned


def test_a_share_of_unknown_pixels_is_that_of_all_masks():
    rows = [(group, size, values and [0] * 7 + [1] * 2 + [255]) for group, size, values in SOUND]
    assert not any("pixels of masks" in warning for warning in summary_of(rows).warnings())  # a tenth of them
    assert summary_of(rows).shares == {"glass": 7 / 9, "gland": 2 / 9}


# --------------------------------------------------------------------------------------------------------- draft

PALETTE = Image.fromarray(MASK).convert("P")
PALETTE.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
SMOOTH = Image.fromarray(MASK * 255).resize((96, 96)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
COLOURS = np.where(MASK[..., None], (200, 30, 30), (240, 240, 240)).astype(np.uint8)
RED = np.where(MASK[..., None], (0, 0, 0), (255, 0, 0)).astype(np.uint8)  # most of it
OBJECTS = np.zeros((SIZE, SIZE), np.uint16)
for number in range(64):
    OBJECTS[4 * (number // 8) + 1 : 4 * (number // 8) + 3, 4 * (number % 8) + 1 : 4 * (number % 8) + 3] = number + 1
UNKNOWN = MASK.copy()
UNKNOWN[:2] = 255
THREE = MASK + (np.arange(SIZE) > 20)
DRAFTS = {  # masks as they are stored → values of the classes, keys of [data], and what is read
    "black and white": (MASK * 255, {"background": 0, "foreground": 255}, {}, MASK),
    "indices": (MASK, {"background": 0, "foreground": 1}, {}, MASK),
    "three indices": (THREE.astype(np.uint8), {"background": 0, "class_1": 1, "class_2": 2}, {}, THREE),
    "a palette": (PALETTE, {"background": 0, "foreground": 1}, {}, MASK),
    "one bit": (Image.fromarray(MASK.astype(bool)), {"background": 0, "foreground": 1}, {}, MASK),
    "colours": (COLOURS, {"background": "#f0f0f0", "class_1": "#c81e1e"}, {}, MASK),
    "a colour on little black": (RED, {"background": "#000000", "foreground": "#ff0000"}, {}, 1 - MASK),
    "another value than 255": (7 * MASK, {"background": 0, "foreground": 7}, {}, MASK),
    "no 0": (MASK + 1, {"background": 1, "class_1": 2}, {}, MASK),
    "smoothed": (SMOOTH, None, {"mask_threshold": 127}, np.asarray(SMOOTH) > 127),
    "objects": (OBJECTS, None, {"mask_kind": "instances"}, OBJECTS > 0),
    "unknown": (UNKNOWN, {"background": 0, "foreground": 1}, {"unknown": 255}, UNKNOWN),
    "all alike": (0 * MASK, {"background": 0, "foreground": 255}, {}, 0 * MASK),
    "no masks": (None, None, {}, None),
}


@pytest.mark.parametrize("name", DRAFTS)
def test_a_draft_says_what_the_masks_hold_and_reads_back(tmp_path, name):
    mask, values, data, read = DRAFTS[name]
    put_all(tmp_path, mask)
    study = read_study(tmp_path / "study.toml", text=draft_study(tmp_path))
    assert study.class_values == values
    assert study.data == data
    mine = StudySource(study)
    summary, faults = check_source(mine)
    assert summary.n_images == dict.fromkeys(GROUPS, 2)
    if mask is None:
        assert study.classes == ("background", "foreground")
        assert ["people annotated 0 groups" in str(fault) for fault in faults] == [True]
        return
    assert faults == []
    for table in mine.load().values():
        for stored in table["mask"]:
            assert np.array_equal(np.asarray(stored), read)


def test_a_draft_of_a_spreadsheet_names_it(tmp_path):
    put_all(tmp_path)
    lines = [f"images/{g}/{i}.png,masks/{g}/{i}.png,{g}" for g in GROUPS for i in range(2)]
    (tmp_path / "table.csv").write_text("\n".join(["image,mask,group", *lines]))
    study = read_study(tmp_path / "study.toml", text=draft_study(tmp_path / "table.csv"))
    assert study.data == {"source": "table.csv"}
    tables = StudySource(study).load()
    assert sum(map(len, tables.values())) == 2 * len(GROUPS)


def test_a_draft_of_run_lengths_says_so(tmp_path):
    put_all(tmp_path, mask=None)
    runs = " ".join(f"{SIZE * x + 5} 16" for x in range(6, 30))  # down the columns, from 1
    rows = [[f"images/{g}/{i}.png", runs if g != "d" else "", g] for g in GROUPS for i in range(2)]
    (tmp_path / "table.csv").write_text("\n".join(["image,mask,group", *map(",".join, rows)]))
    names = ("image", "mask", "group")
    columns = dict(zip(names, zip(*([path, mask or None, g] for path, mask, g in rows), strict=True), strict=True))
    datasets.Dataset.from_dict({name: list(values) for name, values in columns.items()}).to_parquet(
        tmp_path / "table.parquet"
    )
    for name in ("table.csv", "table.parquet"):
        study = read_study(tmp_path / "study.toml", text=draft_study(tmp_path / name))
        assert study.data == {"source": name, "mask_kind": "run-lengths"}
        assert study.classes == ("background", "foreground")
        summary, faults = check_source(StudySource(study))
        assert faults == []
        assert summary.shares == {"background": 1 - MASK.mean(), "foreground": MASK.mean()}


def test_a_draft_holds_what_nobody_can_guess(tmp_path):
    for group in GROUPS:
        for row in range(2):
            put(tmp_path / "images" / "site" / group / f"{row}.png", np.zeros((SIZE, SIZE, 3), np.uint8))
            put(tmp_path / "masks" / "site" / group / f"{row}.png", MASK)
    for level, groups in ((2, dict.fromkeys(GROUPS, 2)), ([1, 2], {f"site/{group}": 2 for group in GROUPS})):
        study = read_study(tmp_path / "study.toml", text=draft_study(tmp_path, {"group_level": level}))
        assert study.data == {"group_level": level}
        assert check_source(StudySource(study))[0].n_images == groups
    lines = [f"images/site/{g}/{i}.png,masks/site/{g}/{i}.png,{g}" for g in GROUPS for i in range(2)]
    (tmp_path / "table.csv").write_text("\n".join(["image,mask,Prüfling", *lines]), encoding="utf-8")
    text = draft_study(tmp_path / "table.csv", {"group_column": "Prüfling"})
    study = read_study(tmp_path / "study.toml", text=text)
    assert study.group == "Prüfling"
    assert check_source(StudySource(study))[0].n_images == dict.fromkeys(GROUPS, 2)


def test_a_draft_tells_what_images_need(tmp_path):
    put_all(tmp_path, size=(SIZE, 2 * SIZE), mask=np.tile(MASK, 2))
    assert read_study(tmp_path / "study.toml", text=draft_study(tmp_path)).fit == "crop"
    clear = Image.fromarray(RNG.integers(0, 200, (SIZE, 2 * SIZE, 4)).astype(np.uint8))
    put(tmp_path / "images/a/0.png", clear)
    assert read_study(tmp_path / "study.toml", text=draft_study(tmp_path)).data == {"alpha": "white"}


# -------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_a_sheet_and_a_study_only_where_asked(tmp_path, capsys):
    put_all(tmp_path, groups="abcde")
    sheet = tmp_path / "sedm-results" / "check.png"
    assert main(["check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"picture sheet: {sheet}" in said
    assert "No study.toml describes these images; it may look like this" in said
    assert not (tmp_path / "study.toml").exists()
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    assert main(["check", str(tmp_path), "--write"]) == 0
    text = (tmp_path / "study.toml").read_text()
    assert text == draft_study(tmp_path)
    assert "10 images of 5 groups: 8 images of 4 groups are annotated" in capsys.readouterr().out


def test_the_command_takes_what_cannot_be_guessed(tmp_path, capsys):
    for group in "abcde":
        put(tmp_path / "images" / "site" / group / "0.png", np.zeros((SIZE, SIZE, 3), np.uint8))
        put(tmp_path / "masks" / "site" / group / "0.png", MASK)
    assert main(["check", str(tmp_path), "--write"]) == 2
    error = capsys.readouterr().err
    assert "say group_level=1 for 'site', 2 for 'a' or [1, 2] for 'site/a'" in error
    assert error.rstrip().endswith("(here by --set, or in [data] of a study.toml)")
    assert main(["check", str(tmp_path), "--write", "--set", "group_level=2"]) == 0
    assert "group_level = 2" in (tmp_path / "study.toml").read_text()
    assert "5 images of 5 groups" in capsys.readouterr().out
    assert main(["check", str(tmp_path), "--set", "group_level=1"]) == 2
    assert "study.toml describes these images; say it there, in [data]" in capsys.readouterr().err


def test_the_command_never_writes_over_a_study(tmp_path, capsys):
    put_all(tmp_path, groups="abcde")
    mine = f"# by hand\n{CLASSES}"
    (tmp_path / "study.toml").write_text(mine)
    assert main(["check", str(tmp_path), "--write", "--sheet", str(tmp_path / "out" / "sheet.png")]) == 0
    assert (tmp_path / "study.toml").read_text() == mine
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert not (tmp_path / "sedm-results").exists()
    assert "written" not in capsys.readouterr().out


def test_a_table_beside_a_study_leaves_the_study_alone(tmp_path, capsys):
    """The study.toml of the folder describes its images, which need not be those of the table."""
    put_all(tmp_path)
    (tmp_path / "study.toml").write_text(f"# by hand\n{CLASSES}")
    lines = [f"images/{g}/{i}.png,masks/{g}/{i}.png,{g}" for g in GROUPS for i in range(2)]
    (tmp_path / "table.csv").write_text("\n".join(["image,mask,group", *lines]))
    assert main(["check", str(tmp_path / "table.csv"), "--write"]) == 2
    assert "study.toml: exists already, for other images; --write never replaces it" in capsys.readouterr().err
    assert (tmp_path / "study.toml").read_text() == f"# by hand\n{CLASSES}"
