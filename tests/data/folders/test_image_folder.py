"""The user's own pictures: folders in all their forms, and data sets that ``datasets`` loads."""

import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import sedm.data.archives.download
import sedm.data.archives.flowers102
from sedm.commands.data_command import main
from sedm.data.archives.public_tables import PublicTables
from sedm.data.folders.image_folder import load_image_folder, save_image_folder
from sedm.data.hub import load_hub_dataset
from sedm.data.patch_table import UNKNOWN, PatchTableError, check_patches, load_patches, save_patches
from sedm.data.patches import Patches

TRUTH = np.zeros((16, 16), np.uint8)  # of the masks below
TRUTH[2:9, 4:13] = 1
TRUTH[10:, :3] = 2
CLASSES = ("stroma", "epithelium", "lumen")
COLOURS = np.array([(0, 0, 0), (255, 0, 0), (0, 128, 255)], np.uint8)
BY_COLOUR = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 128, 255): 2}


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(path, array_or_image, **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def palette(array):
    image = Image.fromarray(array, mode="P")
    image.putpalette(COLOURS.flatten().tolist())
    return image


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


@pytest.fixture
def masked(tmp_path):
    """A folder of one image, and where its mask goes."""
    put(tmp_path / "one" / "images" / "a" / "0.png", np.zeros((16, 16, 3), np.uint8))
    return tmp_path / "one", tmp_path / "one" / "masks" / "a" / "0.png"


# ------------------------------------------------------------------------------------------ image folders


def test_sub_folders_are_groups_and_a_missing_mask_is_null(folder, patches):
    loaded = load_image_folder(folder)
    assert loaded["file_name"][:] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert loaded["group"][:] == ["a", "a", "b", "b"]
    tensors = Patches.from_table(loaded, CLASSES)
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
    before = Patches.from_table(loaded, CLASSES)
    path = save_patches(loaded, tmp_path / "train.parquet")
    shutil.rmtree(folder)
    after = Patches.from_table(load_patches(path), CLASSES)
    assert after.images.equal(before.images)
    assert after.masks.equal(before.masks)


def test_a_table_of_a_folder_reads_no_picture_before_it_has_to(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(Image, "open", lambda path, **_: opened.append(path))
    load_image_folder(folder)
    assert opened == []


def test_names_of_masks_and_further_columns_come_from_the_metadata(folder, patches, tmp_path):
    for name, new in (("a/0", "x"), ("a/1", "y"), ("b/0", "z")):
        (folder / "masks" / f"{name}.png").rename(folder / "masks" / f"{new}_mask.png")
    rows = ["b/1.png,007,,first", "a/1.png,007,y_mask.png,", "b/0.png,008,x_mask.png", "a/0.png,008,z_mask.png,second"]
    text = "\n".join(["file_name,group,mask_file_name,stain", *rows])
    (folder / "metadata.csv").write_text(text, encoding="utf-8-sig")  # as spreadsheets do
    loaded = load_image_folder(folder)
    assert loaded.column_names == ["image", "mask", "group", "file_name", "stain"]
    assert loaded["group"][:] == ["008", "007", "008", "007"]  # names, not numbers
    assert loaded["stain"][:] == ["second", "", "", "first"]
    tensors = Patches.from_table(loaded, CLASSES)
    assert tensors.masks[:3].equal(patches.masks[[4, 1, 0]])
    assert tensors.has_mask.tolist() == [True, True, True, False]


def test_hidden_files_and_lists_of_classes_are_no_pictures(folder):
    (folder / "images" / "a" / "._0.png").write_bytes(b"of a file manager")
    (folder / "masks" / ".DS_Store").write_bytes(b"of a file manager")
    (folder / "masks" / "classes.txt").write_text("tumour")
    assert len(load_image_folder(folder)) == 4


@pytest.mark.parametrize(
    ("mask", "mask_values"),
    [
        (Image.fromarray(TRUTH), None),
        (palette(TRUTH), None),
        (palette(TRUTH), BY_COLOUR),
        (Image.fromarray(np.array([0, 255, 128], np.uint8)[TRUTH]), {0: 0, 255: 1, 128: 2}),
        (palette(TRUTH), {0: 0, 1: 1, 2: 2}),
        (Image.fromarray(COLOURS[TRUTH]), BY_COLOUR),
        (Image.fromarray(COLOURS[TRUTH]).convert("RGBA"), BY_COLOUR),
    ],
    ids=["indices", "palette", "palette-colours", "grey", "palette-values", "rgb", "rgba"],
)
def test_every_usual_form_of_mask_gives_the_same_classes(masked, tmp_path, mask, mask_values):
    folder, path = masked
    put(path, mask)
    loaded = load_image_folder(folder, mask_values)
    check_patches(loaded, n_classes=3)
    assert np.array_equal(Patches.from_table(loaded, CLASSES).masks[0], TRUTH)
    saved = save_patches(loaded, tmp_path / "train.parquet")
    shutil.rmtree(folder)
    assert np.array_equal(Patches.from_table(load_patches(saved), CLASSES).masks[0], TRUTH)


def test_black_and_white_masks_need_no_translation(masked):
    put(masked[1], Image.fromarray(TRUTH == 1))
    assert Image.open(masked[1]).mode == "1"
    check_patches(load_image_folder(masked[0]), n_classes=2)
    assert np.array_equal(Patches.from_table(load_image_folder(masked[0]), CLASSES).masks[0], TRUTH == 1)


def test_several_values_may_mean_one_class_and_null_masks_stay_null(folder, patches):
    loaded = load_image_folder(folder, {0: 3, 1: 3})
    assert loaded.column_names == ["image", "mask", "group", "file_name"]
    decoded = Patches.from_table(loaded, (*CLASSES, "artefact"))
    assert decoded.masks[:, 0, 0].tolist() == [3, 3, 3, UNKNOWN]
    assert decoded.images.equal(patches.images[[0, 1, 4, 5]])


def test_changed_mask_files_are_read_anew(masked):
    for value in (0, 255):
        put(masked[1], np.full((16, 16), value, np.uint8))
        assert Patches.from_table(load_image_folder(masked[0], {0: 0, 255: 1}), CLASSES).masks.unique().tolist() == [
            value // 255
        ]


# ---------------------------------------------------------------------------------- faults of image folders


def test_an_image_without_a_group_is_named(folder):
    (folder / "metadata.csv").write_text("file_name,group\na/0.png,p\na/1.png,p\nb/0.png,p\n")
    assert str(folder / "images" / "b" / "1.png") in fault(load_image_folder, folder)
    (folder / "metadata.csv").write_text("file,group\na/0.png,p\n")
    assert fault(load_image_folder, folder) == (
        f"{folder / 'metadata.csv'}: expected the columns file_name and group, found 'file,group'"
    )


def test_an_image_folder_without_images_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    assert str(tmp_path / "images") in fault(load_image_folder, tmp_path)


def test_a_value_without_a_class_is_named_with_its_file(masked):
    folder, path = masked
    put(path, np.array([0, 255, 128], np.uint8)[TRUTH])
    message = fault(load_image_folder, folder, {0: 0, 255: 1})
    assert message == f"{folder}, row 0, column 'mask' ({path}): value 128 is not in mask_values, which has 0, 255"
    put(path, COLOURS[TRUTH])
    message = fault(load_image_folder, folder, {(0, 0, 0): 0, (255, 0, 0): 1})
    assert f"({path}): value (0, 128, 255) is not in mask_values, which has (0, 0, 0), (255, 0, 0)" in message
    assert f"({path}): a colour mask; name its colours" in fault(load_image_folder, folder, {0: 0, 255: 1})
    message = fault(check_patches, load_image_folder(folder), 3, "mine")
    assert "for colours give each class its values in a study.toml, or pass mask_values={(255, 0, 0): 1" in message


def test_masks_drawn_for_the_eye_are_named_with_their_file(masked):
    folder, path = masked
    put(path, np.uint8(255) * (TRUTH > 0))
    message = fault(check_patches, load_image_folder(folder), 2, "mine")
    assert message.startswith("mine, row 0, column 'mask' (")
    end = "give each class its values in a study.toml, or pass mask_values={0: 0, 255: 1} when reading"
    assert message.endswith(f"value 255 is outside the classes 0..1; {end}")
    assert str(path) in message


@pytest.mark.parametrize("mask_values", [{}, {0: 0, (1, 1, 1): 1}, {0: 0, 1: 256}, {0: -1}])
def test_impossible_mask_values_are_refused(masked, mask_values):
    with pytest.raises((ValueError, TypeError), match="mask_values"):
        load_image_folder(masked[0], mask_values)


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize(
    ("array", "suffix"), [(TRUTH.astype(np.uint16) * 999, ".png"), (TRUTH.astype(np.float32), ".tif")]
)
def test_deep_or_float_files_are_named(masked, kind, array, suffix):
    folder, mask = masked
    shutil.rmtree(folder / kind, ignore_errors=True)
    put(mask, TRUTH) if kind == "images" else None
    path = put(folder / kind / "a" / f"0{suffix}", array)
    for call, further in ((check_patches, (3,)), (Patches.from_table, (CLASSES,))):
        message = fault(call, load_image_folder(folder), *further)
        assert f"row 0, column '{kind[:-1]}' ({path}): 16 bits or floats" in message
    if kind == "masks":
        words = "value 999 is not in mask_values" if suffix == ".png" else "16 bits or floats"
        assert f"({path}): {words}" in fault(load_image_folder, folder, {0: 0})


def test_a_mask_that_belongs_to_no_image_or_to_two_is_named(masked):
    folder, path = masked
    orphan = put(path.with_name("1.png"), TRUTH)
    assert fault(load_image_folder, folder) == f"{orphan}: a mask without an image of its name"
    orphan.unlink()
    put(path, TRUTH)
    second = put(path.with_name("0.tif"), TRUTH)
    assert fault(load_image_folder, folder) == f"{second}: a second mask of 'a/0.png', besides 0.png"
    second.unlink()
    put(folder / "images" / "a" / "0.jpg", np.zeros((16, 16, 3), np.uint8))
    assert fault(load_image_folder, folder) == f"{path}: a mask of 2 images (a/0.jpg, a/0.png)"


def test_a_mask_in_a_format_that_loses_values_is_named(masked):
    path = put(masked[1].with_suffix(".jpg"), TRUTH)
    assert fault(load_image_folder, masked[0]).startswith(f"{path}: masks are .png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,group\na/0.png,p\na/0.png,q", "line 3: 'a/0.png' is there twice"),
        ("file_name,group\na/0.png,p\na/1.png,q", "line 3: no such file"),
        ("file_name,group\na/0.png,p,7", "line 2: '7' in column 3, which has no name in the head"),
        ("file_name,group,mask\na/0.png,p,m.png", "the column 'mask' is kept for pictures"),
        ("file_name,group,mask_file_name\na/0.png,p,m.png", "the mask of 'a/0.png' is not there"),
        ("file_name,group", "no rows below the head"),
        ("file_name", "expected the columns file_name and group, found 'file_name'"),
    ],
)
def test_a_fault_of_the_metadata_is_named_with_its_line(masked, text, message):
    (masked[0] / "metadata.csv").write_text(text)
    found = fault(load_image_folder, masked[0])
    assert found.startswith(str(masked[0] / "metadata.csv"))
    assert message in found


def test_a_mask_that_the_metadata_forgets_is_named(masked):
    folder, path = masked
    put(path, TRUTH)
    (folder / "metadata.csv").write_text("file_name,group,mask_file_name\na/0.png,p,")
    assert fault(load_image_folder, folder) == f"{path}: metadata.csv names no image for this mask"


def test_a_folder_that_went_away_is_named_and_no_file_is_left(folder, tmp_path):
    loaded = load_image_folder(folder)
    (folder / "images" / "b" / "0.png").unlink()
    message = fault(save_patches, loaded, tmp_path / "tables" / "train.parquet")
    assert str(folder / "images" / "b" / "0.png") in message
    assert list((tmp_path / "tables").iterdir()) == []


# ----------------------------------------------------------------------------------- data sets of datasets


@pytest.fixture
def renamed(table):
    """The table under a stranger's names, with the groups as class labels."""
    labels = datasets.ClassLabel(names=["oak", "elm", "fig", "yew"])
    columns = {"image": "photo", "mask": "annotation", "group": "tree"}
    table = table.map(lambda patch: {"group": labels.names[int(patch["group"][-1])]}).rename_columns(columns)
    return table.cast_column("tree", labels)


@pytest.mark.parametrize("form", ["folder", "file", "shards"])
def test_a_data_set_under_any_names_becomes_a_patch_table(renamed, patches, tmp_path, form):
    source = tmp_path
    if form == "shards":
        for number in range(2):
            renamed.shard(2, number).to_parquet(tmp_path / f"train-{number:05d}-of-00002.parquet")
    else:
        renamed.to_parquet(tmp_path / "train.parquet")
        source = tmp_path / "train.parquet" if form == "file" else tmp_path
    loaded = load_hub_dataset(source, "photo", "annotation", "tree")
    assert loaded.column_names == ["image", "mask", "block", "group"]
    tensors = Patches.from_table(loaded, CLASSES)
    assert tensors.images.equal(patches.images)
    assert tensors.masks.equal(patches.masks)
    assert tensors.groups == [name for name in ("oak", "elm", "fig", "yew") for _ in range(4)]
    check_patches(loaded, n_classes=2)


def test_masks_of_a_data_set_are_translated(renamed, patches, tmp_path):
    renamed.to_parquet(tmp_path / "train.parquet")
    loaded = load_hub_dataset(tmp_path, "photo", "annotation", "tree", mask_values={0: 2, 1: 0})
    expected = patches.masks.where(patches.masks == UNKNOWN, 2 - 2 * patches.masks)
    assert Patches.from_table(loaded, CLASSES).masks.equal(expected)
    assert Patches.from_table(loaded, CLASSES).images.equal(patches.images)
    assert "row 0, column 'mask': value 1 is not" in fault(
        load_hub_dataset, tmp_path, "photo", "annotation", "tree", mask_values={0: 0}
    )


def test_a_folder_of_pictures_in_classes_is_a_data_set_too(tmp_path):
    for species in ("oak", "elm"):
        put(tmp_path / species / "0.png", np.full((8, 8, 3), len(species), np.uint8))
    loaded = load_hub_dataset(tmp_path, mask_column=None, group_column="label")
    assert sorted(loaded["group"]) == ["elm", "oak"]
    assert loaded["mask"][:] == [None, None]
    path = save_patches(loaded, tmp_path / "train.parquet")
    shutil.rmtree(tmp_path / "oak")
    assert Patches.from_table(load_patches(path), CLASSES).images.unique().tolist() == [3]


def test_without_groups_it_says_what_there_is_and_what_to_do(renamed, tmp_path):
    path = tmp_path / "train.parquet"
    renamed.to_parquet(path)
    message = fault(load_hub_dataset, path, "photo", "annotation")
    assert message.startswith(f"{path}: no column 'group'; it has photo, annotation, tree, block;")
    assert message.endswith("group_column='' makes every image its own group")
    loaded = load_hub_dataset(path, "photo", "annotation", group_column=None)
    assert len(set(loaded["group"])) == 16
    assert loaded.column_names == ["image", "mask", "tree", "block", "group"]


def test_what_a_data_set_lacks_is_named(renamed, tmp_path):
    path = tmp_path / "train.parquet"
    renamed.to_parquet(path)
    assert "no column 'mask'; it has photo" in fault(load_hub_dataset, path, "photo", group_column="tree")
    assert "'tree' holds no pictures but" in fault(load_hub_dataset, path, "photo", "tree", "block")
    message = fault(load_hub_dataset, tmp_path, "photo", "annotation", "tree", split="dest")
    assert message.startswith(f"{tmp_path}: cannot be loaded (")
    assert "'dest'" in message or '"dest"' in message
    renamed.add_column("image", list(range(16))).to_parquet(path)
    assert "it has a column 'image' as well" in fault(load_hub_dataset, path, "photo", "annotation", "tree")
    path.write_bytes(b"PAR1")
    assert str(path) in fault(load_hub_dataset, path, "photo", "annotation", "tree")


def test_without_network_a_name_of_the_hub_is_one_sentence(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = fault(load_hub_dataset, "nobody/no-such-data-set")
    assert message.startswith("nobody/no-such-data-set: no such folder, and the Hub cannot be reached (")


# ------------------------------------------------------------------------------------------- from and to other places


def test_a_table_written_as_a_folder_comes_back_as_it_was(folder, tmp_path):
    table = load_image_folder(folder)
    again = load_image_folder(save_image_folder(table, tmp_path / "copy"))
    before, after = Patches.from_table(table, CLASSES, 16), Patches.from_table(again, CLASSES, 16)
    order = sorted(range(len(table)), key=lambda row: (table[row]["group"], row))
    assert after.images.equal(before.images[order])
    assert after.masks.equal(before.masks[order])
    assert after.groups == [before.groups[row] for row in order]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["catch", "slides", "out"], "the following arguments are required: --annotations"),
        (["catch", "slides", "out", "--annotations", "a.json", "--download"], "unrecognized arguments: --download"),
        (["pets", "photos", "out"], "invalid choice: 'pets'"),
    ],
)
def test_the_command_line_says_what_it_needs(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        main(arguments)


def test_the_command_line_fetches_and_prepares_what_it_is_told(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(sedm.data.archives.download, "fetch", lambda files, folder: done.append((len(files), folder)))
    tables = PublicTables(tables={}, about="# Flowers", notes=[])
    monkeypatch.setattr(
        sedm.data.archives.flowers102,
        "make_flowers102",
        lambda folder, _, **options: done.append((folder, options)) or tables,
    )
    options = ["--download", "--seen", "3", "5", "--image-size", "64", "--seed", "1"]
    main(["flowers102", "archives", str(tmp_path / "tables"), *options])
    assert done == [
        (4, Path("archives")),
        (Path("archives"), {"seen_species": [3, 5], "image_size": 64, "seed": 1}),
    ]
    assert "# Flowers" in (tmp_path / "tables" / "README.md").read_text()


def test_the_command_line_makes_the_tables_of_biopsies(tmp_path):
    with pytest.raises(ValueError, match="no such"):
        main(["ebhi", str(tmp_path / "nothing"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
