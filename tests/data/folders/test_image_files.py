"""The user's folders as they are: what is a picture in them, whose mask is whose, and which group each is of."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from sedm import load_image_folder
from sedm.data.folders.image_folder import save_image_folder
from sedm.data.patch_table import PatchTableError, from_arrays
from sedm.data.patches import Patches


@pytest.fixture
def make(tmp_path):
    """Put pictures into a folder: random noise, or in masks a value for each."""

    def put_pictures(*names, folder="mine"):
        rng = np.random.default_rng(0)
        for row, name in enumerate(names):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            is_mask = any(word in name.lower() for word in ("mask", "anno", "gt", "label"))
            pixels = np.full((8, 8), row, np.uint8) if is_mask else rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(path)
        return tmp_path / folder

    return put_pictures


def fault(folder, **options) -> str:
    with pytest.raises(PatchTableError) as caught:
        load_image_folder(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(folder, **options):
    """(file name, group, whether annotated) of each row."""
    table = load_image_folder(folder, **options)
    annotated = [mask is not None for mask in table["mask"]]
    return list(zip(table["file_name"][:], table["group"][:], annotated, strict=True))


# ------------------------------------------------------------------------------------------ hidden files and links

SYSTEM = [
    ".ipynb_checkpoints/a-checkpoint.png",
    "case-1/.ipynb_checkpoints/a-checkpoint.png",
    "case-1/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg",
    "@eaDir/a.png",
    "__MACOSX/case-1/._a.png",
    "__MACOSX/case-1/a.png",
    "case-1/._a.png",
    "$RECYCLE.BIN/b.png",
    "System Volume Information/b.png",
    "lost+found/b.png",
    "#recycle/case-1/b.png",
]


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("name", SYSTEM)
def test_what_systems_leave_in_a_folder_is_neither_picture_nor_mask(make, kind, name):
    folder = make("images/case-1/a.png", "masks/case-1/a.png", f"{kind}/{name}")
    (folder / kind / "Thumbs.db").touch()
    (folder / kind / "case-1" / "desktop.ini").touch()
    assert rows(folder) == [("case-1/a.png", "case-1", True)]


def test_the_folder_itself_may_be_hidden(make):
    assert rows(make("images/case-1/a.png", folder=".cache/mine")) == [("case-1/a.png", "case-1", False)]


def test_links_to_folders_are_followed_and_end(make, tmp_path):
    folder = make("images/case-1/a.png")
    other = make("case-2/a.png", folder="elsewhere")
    (folder / "images" / "case-2").symlink_to(other / "case-2")
    (folder / "images" / "case-1" / "up").symlink_to(folder / "images")
    assert rows(folder) == [("case-1/a.png", "case-1", False), ("case-2/a.png", "case-2", False)]


# ------------------------------------------------------------------------------------------ masks and their names


@pytest.mark.parametrize(
    "name", ["x_mask.png", "x-Mask.tif", "x.masks.png", "x_anno.bmp", "x_gt.png", "x labels.png", "label_x.png"]
)
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_mask_may_add_a_word_to_the_name_of_its_picture(make, kind, name):
    folder = make("images/case-0/x.jpg", f"{kind}/case-0/{name}", "images/case-1/y.jpg")
    assert rows(folder) == [("case-0/x.jpg", "case-0", True), ("case-1/y.jpg", "case-1", False)]
    assert Patches.from_table(load_image_folder(folder), list("abcd")).masks[0].unique().tolist() == [1]


def test_masks_beside_pictures_without_groups_need_only_the_metadata(make):
    folder = make("images/a.png", "images/a_mask.png", "images/b.png", "masks/b_mask.png")
    (folder / "metadata.csv").write_text("file_name;group\na.png;p1\nb.png;p2")
    assert rows(folder) == [("a.png", "p1", True), ("b.png", "p2", True)]
    assert Patches.from_table(load_image_folder(folder), list("abcd")).masks[:, 0, 0].tolist() == [1, 3]
    (folder / "metadata.csv").write_text("file_name;group;mask_file_name\na.png;p1;b_mask.png\n.\\b.png;p2;a_mask.png")
    assert Patches.from_table(load_image_folder(folder), list("abcd")).masks[:, 0, 0].tolist() == [3, 1]


def test_a_mask_in_the_list_of_pictures_is_named_with_its_line(make):
    folder = make("images/a.png", "images/a_mask.png")
    (folder / "metadata.csv").write_text("file_name,group\na.png,p1\na_mask.png,p1")
    assert "metadata.csv, line 3: a mask by its name, or no picture" in fault(folder)


@pytest.mark.parametrize(
    "names",
    [
        ("image_1.png", "mask_1.png"),
        ("image.png", "mask.png"),
        ("x.png", "x_bin_mask.png"),
        ("x.png", "x_mask_2.png"),
        ("x_HE.png", "x_mask.png"),
        ("x1.png", "x1mask.png"),
        ("x.png", "x_mask.png", "y_mask.png"),
    ],
)
def test_what_may_be_a_mask_is_never_taken_for_a_picture(make, names):
    folder = make(*(f"images/case-0/{name}" for name in names))
    assert fault(folder).startswith(f"{folder / 'images' / 'case-0' / names[-1]}: named like a mask")


def test_pictures_whose_names_only_contain_such_words_are_pictures(make):
    names = ["GT/seg_3.png", "label-free/masked_1.png", "p/HE_1.png", "p/label_free_1.png", "p/unlabelled_1.png"]
    assert [name for name, _, _ in rows(make(*(f"images/{name}" for name in names)))] == names


def test_a_mask_beside_its_picture_must_keep_its_values_too(make):
    folder = make("images/case-0/a.png", "images/case-0/a_mask.jpg")
    assert "a_mask.jpg: masks are .png" in fault(folder)
    make("masks/case-0/a.png")  # then the other is a preview
    assert rows(folder) == [("case-0/a.png", "case-0", True)]


def test_two_masks_of_a_picture_are_named(make):
    folder = make("images/case-0/a.png", "images/case-0/a_mask.png", "masks/case-0/a.png")
    assert "a second mask of 'case-0/a.png'" in fault(folder)


def test_a_folder_without_images_in_it_is_told_what_is_expected(make, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    message = fault(folder)
    assert message.startswith(f"{folder}: no folder images/ in it; expected images/<group>/<file> and masks/<group>/")
    assert "metadata.csv that has the columns file_name,group" in message
    assert fault(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'}: no such folder; expected images/<group>/")


@pytest.mark.parametrize("name", ["train_masks", "SegmentationClass"])
def test_a_folder_of_masks_under_another_name_is_not_nothing_annotated(make, name):
    folder = make("images/case-0/a.png", f"{name}/case-0/a.png")
    message = fault(folder)
    assert message.startswith(f"{folder / name}: none of these files was read as a mask")
    assert f"{folder / 'masks'} under the names of their images" in message
    assert f"name this folder by masks={name!r}" in message
    assert rows(folder, masks=name) == [("case-0/a.png", "case-0", True)]
    make("masks/case-0/a.png")
    assert rows(folder) == [("case-0/a.png", "case-0", True)]


def test_a_folder_of_masks_that_are_none_is_not_nothing_annotated(make):
    folder = make("images/case-0/a.png")
    (folder / "masks").mkdir()
    assert rows(folder) == [("case-0/a.png", "case-0", False)]
    (folder / "masks" / "0001.npy").touch()
    assert fault(folder).startswith(f"{folder / 'masks'}: none of these files was read as a mask")


def test_a_folder_of_masks_among_the_pictures_is_named(make):
    folder = make("images/case-0/a.png", "images/case-0/masks/a.png")
    assert "a folder 'masks' in images/" in fault(folder, group_level=1)


# ------------------------------------------------------------------------------------------ groups in folders


def test_which_of_nested_folders_is_the_group_has_to_be_said(make):
    folder = make("images/HE/p1/a.png", "images/HE/p2/a.png", "images/IHC/p1/b.png", "masks/IHC/p1/b.png")
    message = fault(folder)
    assert message.startswith(f"{folder / 'images' / 'HE' / 'p1' / 'a.png'}: 2 folders deep in images/")
    assert "group_level=1 for 'HE', 2 for 'p1' or [1, 2] for 'HE/p1', or name the groups in metadata.csv" in message
    groups = {level: load_image_folder(folder, group_level=level)["group"][:] for level in (1, 2, -1, (1, 2))}
    assert groups == {
        1: ["HE", "HE", "IHC"],
        2: ["p1", "p2", "p1"],
        -1: ["p1", "p2", "p1"],
        (1, 2): ["HE/p1", "HE/p2", "IHC/p1"],
    }
    assert [annotated for _, _, annotated in rows(folder, group_level=2)] == [False, False, True]
    (folder / "metadata.csv").write_text("file_name,group\nHE\\p1\\a.png,x\nHE/p2/a.png,y\nIHC/p1/b.png,x")
    assert load_image_folder(folder)["group"][:] == ["x", "y", "x"]
    with pytest.raises(ValueError, match=r"group_level=1, but .*metadata\.csv names the groups"):
        load_image_folder(folder, group_level=1)


def test_folders_of_mixed_depth_have_a_group_on_the_level_that_was_said(make):
    folder = make("images/p1/a.png", "images/site/p2/a.png")
    assert "2 folders deep in images/, and any of them may be the group" in fault(folder)
    assert "1 folders deep in images/, too few for group_level=2" in fault(folder, group_level=2)
    assert load_image_folder(folder, group_level=-1)["group"][:] == ["p1", "p2"]


@pytest.mark.parametrize("group_level", [0, (), (1, 0)])
def test_a_level_that_is_none_is_refused(make, group_level):
    with pytest.raises(ValueError, match="group_level"):
        load_image_folder(make("images/p1/a.png"), group_level=group_level)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_that_disks_and_keyboards_store_in_two_ways_are_the_same(make, forms):
    one, other = (unicodedata.normalize(form, "Köln") for form in forms)
    assert one != other
    folder = make(f"images/{one}/{one}.png", f"masks/{other}/{other}_mask.png")
    composed = unicodedata.normalize("NFC", one)
    assert [(group, annotated) for _, group, annotated in rows(folder)] == [(composed, True)]
    (folder / "metadata.csv").write_text(f"file_name,group\n{other}/{other}.png,p1")
    assert [(group, annotated) for _, group, annotated in rows(folder)] == [("p1", True)]


@pytest.mark.parametrize(
    "name", ["metadata.xlsx", "metadata.tsv", "Metadata.csv", "metadata.csv.txt", "images/metadata.csv"]
)
def test_a_table_of_groups_that_would_go_unread_is_named(make, name):
    folder = make("images/case-0/a.png")
    (folder / name).write_text("file_name,group\ncase-0/a.png,p1")
    message = fault(folder)
    assert message.startswith(f"{folder / name}: save this table as {folder / 'metadata.csv'}")
    (folder / name).rename(folder / "metadata.csv")
    assert rows(folder) == [("case-0/a.png", "p1", False)]


# ------------------------------------------------------------------------------------------ writing and reading back

STRANGE = [
    "site/case",
    "..",
    "../../outside",
    "/outside",
    "C:\\outside",
    "case-1",
    "Case-1",
    "case_1",
    "CON",
    "nul.txt",
    "masks",
    ".hidden",
    "@eaDir",
    "x" * 300,
    "ö" * 200,
    "dot.",
    "two\nlines",
    'a;b,"c"',
    "007",
    "é",
    "e\u0301",
    "site/case",
]


def save_and_read(folder, groups):
    """The groups of the rows that come back, by the order in which they were written."""
    pixels = np.arange(len(groups), dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    masks = [None if row % 3 == 0 else mask for row, mask in enumerate(pixels)]
    save_image_folder(from_arrays(np.stack([pixels] * 3, axis=-1), masks, groups), folder)
    table = load_image_folder(folder)
    patches = Patches.from_table(table, list(map(str, range(len(groups)))))
    values = patches.images[:, 0, 0, 0].tolist()
    assert sorted(values) == list(range(len(groups)))
    assert patches.has_mask.tolist() == [value % 3 != 0 for value in values]
    assert all(mask.unique().tolist() == [v] for v, mask in zip(values, patches.masks, strict=True) if v % 3)
    return [table["group"][values.index(row)] for row in range(len(groups))]


@pytest.mark.parametrize(
    "groups", [STRANGE, STRANGE[::-1], *([name] for name in STRANGE)], ids=lambda names: repr(names)[:30]
)
def test_every_name_of_a_group_survives_and_nothing_is_written_outside(tmp_path, groups):
    folder = tmp_path / "around" / "mine"
    assert save_and_read(folder, groups) == groups
    assert list(tmp_path.iterdir()) == [tmp_path / "around"]
    assert list((tmp_path / "around").iterdir()) == [folder]
    assert {path.name for path in folder.iterdir()} <= {"images", "masks", "metadata.csv"}


def test_the_folders_of_strange_groups_are_ones_that_every_disk_can_hold(tmp_path):
    save_and_read(tmp_path, STRANGE)
    names = [path.name for path in (tmp_path / "images").iterdir()]
    assert len(names) == len({name.casefold() for name in names}) == len(set(STRANGE))
    for name in names:
        assert len(name.encode()) < 255
        assert not set(name) & set('<>:"/\\|?*\n')
        assert name.split(".")[0].upper() not in ("CON", "NUL")
        assert name[0] != "."
        assert name[-1] not in ". "
    assert {"case-1", "case_1", "007", "é"} < set(names)  # what is no trouble stays


@pytest.mark.parametrize("group", ["", " ", "case-1 ", "\tcase-1", None, "a\0b"])
def test_a_group_that_no_spreadsheet_keeps_is_refused_before_anything_is_written(tmp_path, group):
    table = from_arrays(np.zeros((2, 8, 8, 3), np.uint8), [None, None], ["case-1", "case-2"])
    table = table.remove_columns("group").add_column("group", ["case-1", group])
    with pytest.raises(PatchTableError, match="row 1, column 'group'"):
        save_image_folder(table, tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_not_mixed_with_another_in_one_folder(tmp_path):
    table = from_arrays(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8), ["a", "b"])
    for _ in range(2):  # the same again is no other
        save_image_folder(table, tmp_path)
    unannotated = from_arrays(np.zeros((2, 8, 8, 3), np.uint8), [None, None], ["a", "b"])
    before = (tmp_path / "metadata.csv").read_bytes()
    for other, path in ((table.select([0]), "images/b/000001.png"), (unannotated, "masks/a/000000.png")):
        with pytest.raises(PatchTableError) as caught:
            save_image_folder(other, tmp_path)
        assert str(caught.value) == f"{tmp_path / path}: no picture of this table; save it into a folder of its own"
        assert (tmp_path / "metadata.csv").read_bytes() == before


def test_what_an_interruption_leaves_is_not_taken_for_a_table(tmp_path, monkeypatch):
    table = from_arrays(np.zeros((2, 8, 8, 3), np.uint8), [None, None], ["a", "b"])
    save = Image.Image.save

    def save_the_first(picture, path):
        if path.name != "000000.png":
            raise OSError("no space left on device")
        save(picture, path)

    monkeypatch.setattr(Image.Image, "save", save_the_first)
    with pytest.raises(OSError, match="no space left"):
        save_image_folder(table, tmp_path)
    assert "metadata.csv, line 3: no such file" in fault(tmp_path)
    monkeypatch.undo()
    save_image_folder(table, tmp_path)
    assert [group for _, group, _ in rows(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("name", ["b.webp", "b.npy", "b.svs"])
def test_a_picture_that_cannot_be_read_is_named_and_not_left_out_in_silence(make, name):
    folder = make("images/case-1/a.png")
    (folder / "images" / "case-1" / name).touch()
    assert fault(folder).startswith(f"{folder / 'images' / 'case-1' / name}: pictures are .png, ")
