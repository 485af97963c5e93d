"""Two laboratories as one study: who is annotated, who lends, who is tested, and what their file may say."""

import numpy as np
import pytest

from sedm.config import build_config, read_study
from sedm.data.drawn.tissue import make_tissue
from sedm.data.patch_table import PatchTableError, load_patches, save_patches
from sedm.data.study_data import load_study
from sedm.data.study_source import StudySource

SIZE = 32
CLASSES = 'classes = ["stroma", "epithelium", "lumen"]\n'
PAIR = '[laboratories]\nannotated = "ours/study.toml"\ntarget = "theirs/study.toml"\n'


def write_laboratory(folder, first, population="source", text=CLASSES):
    """Six training and two test patients as parquet files, with a study.toml."""
    folder.mkdir(parents=True)
    for split, n_patients, start in (("train", 6, first), ("test", 2, first + 6)):
        table = make_tissue(n_patients, 3, image_size=SIZE, seed=1, first_patient=start, population=population)
        save_patches(table, folder / f"{split}.parquet")
    (folder / "study.toml").write_text(text)


@pytest.fixture
def laboratories(tmp_path):
    """The file of a pair, in a folder with both laboratories."""
    write_laboratory(tmp_path / "ours", 0, text=CLASSES + 'group = "patient"\ncite = "Us 2026"\nlicence = "CC0"\n')
    write_laboratory(tmp_path / "theirs", 20, "shifted", text=CLASSES + 'cite = "Them 2025"\n')
    path = tmp_path / "study.toml"
    path.write_text(PAIR)
    return path


def load(path, n_annotated=2):
    config = build_config(path, "smoke")
    return config, load_study(config)


def test_masks_come_from_the_one_and_styles_and_tests_from_the_other(laboratories):
    data = load(laboratories)[1]
    ours, theirs = (set(map("patient-{:03d}".format, range(first, first + 6))) for first in (0, 20))
    assert set(data.train.groups) == ours | theirs
    assert data.lenders == theirs
    assert set(data.test.groups) == {"patient-026", "patient-027"}
    assert set(data.held_out["source"].groups) == {"patient-006", "patient-007"}
    assert data.n_annotated_groups == 6
    images = data.train.of_groups({"patient-021"}).images
    drawn = make_tissue(1, 3, image_size=SIZE, seed=1, first_patient=21, population="shifted")
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack([np.asarray(one) for one in drawn["image"]]))


@pytest.mark.parametrize("n_annotated", [0, 2, 6])
def test_lenders_are_never_annotated_whatever_the_draw(laboratories, n_annotated):
    data = load(laboratories)[1]
    for draw in range(12):
        subset = data.label_subset(n_annotated, draw)
        annotated = set(subset.annotated().groups)
        assert len(annotated) == (n_annotated or 6)
        assert not annotated & data.lenders
        lent = subset.of_groups(data.lenders)
        assert (lent.masks == 255).all()
        assert set(lent.mask_source) == {"none"}
    with pytest.raises(ValueError, match="n_annotated_groups=7, but 6 groups are annotated"):
        data.label_subset(7, 0)


def test_swapped_the_halves_of_the_target_change_places(laboratories):
    laboratories.write_text(PAIR + "swapped = true\n")
    data = load(laboratories)[1]
    assert data.lenders == {"patient-026", "patient-027"}
    assert set(data.test.groups) == set(map("patient-{:03d}".format, range(20, 26)))


def test_what_the_file_leaves_out_is_said_by_the_annotated_laboratory(laboratories):
    study = read_study(laboratories)
    assert study.classes == ("stroma", "epithelium", "lumen")
    assert study.group == "patient"
    assert study.attribution == "Us 2026, CC0; Them 2025"
    assert not study.redistributable
    laboratories.write_text('title = "A to B"\ngroup = "case"\n' + PAIR)
    assert (read_study(laboratories).title, read_study(laboratories).group) == ("A to B", "case")


def test_a_drawn_study_can_be_one_of_them(laboratories):
    laboratories.write_text(PAIR.replace('"ours/study.toml"', '"tissue"'))
    (laboratories.parent / "theirs" / "study.toml").write_text(CLASSES)
    config = build_config(laboratories, "smoke")
    data = load_study(config)
    assert data.n_annotated_groups == config.data.n_train_groups
    assert "validation" in data.patches


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[laboratories]\nannotated = 'ours'\n", "key 'laboratories': .*; give the studies 'annotated' and 'target'"),
        (PAIR + "lenders = 3\n", "key 'laboratories': key='lenders'; choose one of annotated, target, swapped"),
        (PAIR + "swapped = 'yes'\n", "swapped = 'yes'; give true or false"),
        (CLASSES + PAIR, "key 'classes': the files of the laboratories say that; leave it out"),
        (PAIR.replace("ours/study.toml", "nowhere/study.toml"), "nowhere/study.toml: no such file"),
        (PAIR.replace("ours/study.toml", "ebhi"), "annotated = 'ebhi' has no data here; name a study.toml"),
        (CLASSES + "swapped = true\n", "key='swapped'"),
    ],
)
def test_a_file_that_makes_no_pair_is_refused_with_its_key(laboratories, text, words):
    laboratories.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_study(laboratories)


def test_other_classes_and_groups_of_the_same_name_are_refused(laboratories):
    laboratories.write_text(PAIR.replace("theirs", "ours"))
    with pytest.raises(ValueError, match="both laboratories have a group 'patient-000'; rename those of one"):
        load(laboratories)
    laboratories.write_text(PAIR)
    (laboratories.parent / "theirs" / "study.toml").write_text(CLASSES.replace("lumen", "glass"))
    with pytest.raises(ValueError, match="has the classes stroma, epithelium, lumen, but"):
        load(laboratories)


def test_a_pair_is_no_laboratory_of_another_nor_of_itself(laboratories):
    """The lenders of the inner pair, whose masks are there, would be annotated groups of the outer one."""
    outer = laboratories.parent / "outer" / "study.toml"
    outer.parent.mkdir()
    for annotated in ("../study.toml", "study.toml", "."):
        outer.write_text(PAIR.replace("ours/study.toml", annotated).replace("theirs", "../theirs"))
        with pytest.raises(ValueError, match=r"study\.toml: pairs two laboratories itself; name a study of one"):
            read_study(outer)


def test_a_laboratory_may_lie_in_the_folder_above(laboratories):
    inner = laboratories.parent / "ours" / "pair" / "study.toml"
    inner.parent.mkdir()
    inner.write_text(PAIR.replace("ours", "..").replace("theirs", "../../theirs"))
    assert [one.name for one in read_study(inner).laboratories] == ["ours", "theirs"]


def test_a_folder_of_data_beside_a_pair_is_refused(laboratories):
    with pytest.raises(ValueError, match="says where its data lie: leave --data or DATA out"):
        load_study(build_config(laboratories, "smoke"), laboratories.parent)


def test_lenders_are_not_annotated_in_a_study_of_styles_either(laboratories):
    laboratories.write_text('question = "styles"\n' + PAIR)
    data = load(laboratories)[1]
    assert set(data.label_subset(2, 0).annotated().groups) == set(data.train.groups) - data.lenders


def test_where_nobody_annotated_whom_to_test_the_pair_is_refused(laboratories):
    """A target may have training images without masks, which lend; swapped, they would be tested."""
    path = laboratories.parent / "theirs" / "train.parquet"
    table = load_patches(path)
    save_patches(table.map(lambda row: {"mask": None}, features=table.features), path)
    assert len(load(laboratories)[1].lenders) == 6
    laboratories.write_text(PAIR + "swapped = true\n")
    with pytest.raises(ValueError, match="no image of the split 'train' is annotated, so there is nothing to test on"):
        load(laboratories)


def test_names_of_both_laboratories_that_look_like_one_are_refused(laboratories):
    for folder, name in (("ours", "7"), ("theirs", "007")):
        path = laboratories.parent / folder / "train.parquet"
        table = load_patches(path)
        save_patches(table.map(lambda row, name=name: {"group": name + row["group"][-1]}), path)
    for folder in ("ours", "theirs"):
        (laboratories.parent / folder / "study.toml").write_text(CLASSES)
    with pytest.raises(PatchTableError, match="look like one; write its name alike everywhere"):
        load(laboratories)


def test_a_pair_has_no_images_of_its_own_to_be_checked(laboratories):
    with pytest.raises(ValueError, match=r"pairs two studies and has no images of its own; take .*ours.* and .*theirs"):
        StudySource(read_study(laboratories))
