"""Data sets of other tools: pictures as bytes, paths or arrays become the same table, or the column is named."""

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import CLASSES
from PIL import Image

from sedm.data.hub import load_hub_dataset
from sedm.data.patch_table import UNKNOWN, PatchTableError, check_patches, encode, load_patches, save_patches
from sedm.data.patches import Patches

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (3, 16, 12, 3), dtype=np.uint8)
MASKS = (IMAGES[..., 0] > 127).astype(np.uint8)
PICTURES = [encode(image)["bytes"] for image in IMAGES]
LABELS = [encode(MASKS[0])["bytes"], None, encode(MASKS[2])["bytes"]]


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stored(folder, image=PICTURES, mask=LABELS, name="train"):
    """A parquet file of these columns that knows nothing of ``datasets``."""
    path = folder / f"{name}.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": image, "mask": mask, "group": ["a", "b", "c"]}), path)
    return path


def is_the_table(table) -> bool:
    check_patches(table, n_classes=2)
    patches = Patches.from_table(table, CLASSES)
    expected = MASKS.copy()
    expected[1] = UNKNOWN
    return np.array_equal(patches.images.permute(0, 2, 3, 1), IMAGES) and np.array_equal(patches.masks, expected)


def nested(arrays, mask=True):
    return [None if mask and row == 1 else array.tolist() for row, array in enumerate(arrays)]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (PICTURES, LABELS),
        (pyarrow.array(PICTURES, pyarrow.large_binary()), pyarrow.array(LABELS, pyarrow.large_binary())),
        ([{"bytes": one, "path": None} for one in PICTURES], [one and {"bytes": one} for one in LABELS]),
        (PICTURES, nested(MASKS)),
        (PICTURES, pyarrow.array(nested(MASKS), pyarrow.list_(pyarrow.list_(pyarrow.uint8())))),
        (PICTURES, pyarrow.array(nested(MASKS.astype(float)), pyarrow.large_list(pyarrow.list_(pyarrow.float32())))),
        (PICTURES, pyarrow.array(nested(MASKS), pyarrow.list_(pyarrow.list_(pyarrow.int8(), 12), 16))),
        (PICTURES, nested(MASKS == 1)),
        (nested(IMAGES, mask=False), LABELS),
    ],
    ids=[
        "bytes",
        "large",
        "structs",
        "int64 lists",
        "uint8 lists",
        "float lists",
        "fixed lists",
        "bool",
        "image lists",
    ],
)
def test_pictures_in_every_usual_form_give_the_same_table(tmp_path, image, mask):
    loaded = load_hub_dataset(stored(tmp_path, image, mask))
    assert is_the_table(loaded)
    assert loaded.features["mask"] == datasets.Image()
    assert is_the_table(load_patches(save_patches(loaded, tmp_path / "saved" / "train.parquet")))


def test_arrays_that_datasets_declares_are_read_too(tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Array3D((16, 12, 3), "uint8"),
            "mask": datasets.Array2D((16, 12), "int64"),
            "group": datasets.Value("string"),
        }
    )
    rows = {"image": list(IMAGES), "mask": [MASKS[0], None, MASKS[2]], "group": list("abc")}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    assert is_the_table(load_hub_dataset(tmp_path / "train.parquet"))


@pytest.mark.parametrize("form", ["absolute", "relative", "large"])
@pytest.mark.parametrize("load", [load_hub_dataset, load_patches])
def test_paths_begin_at_the_folder_of_the_table(tmp_path, monkeypatch, form, load):
    (tmp_path / "files").mkdir()
    for row in range(3):
        (tmp_path / "files" / f"{row}.png").write_bytes(PICTURES[row])
        Image.fromarray(MASKS[row]).save(tmp_path / "files" / f"{row}_mask.png")
    start = f"{tmp_path}/files/" if form == "absolute" else "files/"
    paths = [f"{start}{row}.png" for row in range(3)]
    masks = [None if row == 1 else f"{start}{row}_mask.png" for row in range(3)]
    if form == "large":
        paths, masks = (pyarrow.array(column, pyarrow.large_string()) for column in (paths, masks))
    path = stored(tmp_path, paths, masks)
    monkeypatch.chdir("/")
    assert is_the_table(load(path))
    assert load(path).column_names == ["image", "mask", "group"]
    if load is load_patches:
        assert is_the_table(load(path, streaming=True))
        assert is_the_table(load(save_patches(load(path, streaming=True), tmp_path / "saved" / "train.parquet")))


def test_a_path_without_a_file_is_named_before_anything_is_read(tmp_path):
    path = stored(tmp_path, [f"{row}.png" for row in range(3)])
    (tmp_path / "0.png").write_bytes(PICTURES[0])
    message = fault(load_hub_dataset, path)
    expected = "no such file; paths begin at the folder of the table"
    assert message == f"{path}, row 1, column 'image' ({tmp_path / '1.png'}): {expected}"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"mask": nested(MASKS.astype(int) - 1)}, "row 0, column 'mask': value -1; class indices are 0…254"),
        ({"mask": nested(MASKS * 0.5)}, "row 0, column 'mask': value 0.5; class indices are whole numbers"),
        ({"mask": [[[0, 1], [1]], None, None]}, "row 0, column 'mask': no array of pixels ("),
        ({"mask": [[0, 1], None, None]}, "row 0, column 'mask': shape (2,); a mask is one channel of class indices"),
        (
            {"image": nested(np.moveaxis(IMAGES, 3, 1), mask=False)},
            "row 0, column 'image': shape (3, 16, 12); an image",
        ),
        (
            {"image": nested(IMAGES / 255, mask=False)},
            "row 0, column 'image': pixels of type float64; give whole numbers",
        ),
        ({"image": [1, 2, 3]}, "the column 'image' holds no pictures but Value('int64')"),
        ({"mask": [0.5, None, 1.0]}, "the column 'mask' holds no pictures but Value('float64')"),
    ],
)
def test_a_column_that_holds_no_pictures_is_named_with_its_row(tmp_path, columns, words):
    path = stored(tmp_path, **columns)
    assert words in fault(load_hub_dataset, path)
    assert fault(load_hub_dataset, path).startswith(str(path))


def test_values_of_arrays_are_translated(tmp_path):
    labels = np.where(MASKS == 1, 1000, -1)
    loaded = load_hub_dataset(stored(tmp_path, mask=nested(labels)), mask_values={-1: 255, 1000: 1})
    assert np.array_equal(Patches.from_table(loaded, CLASSES).masks[0], np.where(MASKS[0] == 1, 1, UNKNOWN))
    message = fault(load_hub_dataset, stored(tmp_path, mask=nested(labels)), mask_values={(0, 0, 0): 1})
    assert "row 0, column 'mask': an array of one channel, but mask_values names colours; name its values" in message


def test_a_saved_table_of_arrays_is_refused_with_what_reads_it(tmp_path):
    path = stored(tmp_path, mask=nested(MASKS))
    for streaming in (False, True):
        message = fault(load_patches, path, streaming=streaming)
        assert message.startswith(f"{path}: the column 'mask' holds no pictures but List")
        assert message.endswith("load_hub_dataset reads arrays")


def test_a_table_without_masks_says_what_reads_it(tmp_path):
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": PICTURES, "group": list("abc")}), path)
    message = fault(load_patches, path)
    expected = "no column 'mask'; it has image, group; load_hub_dataset(…, mask_column=None) reads images that nobody"
    assert message == f"{path}: {expected} annotated"
    assert not Patches.from_table(load_hub_dataset(path, mask_column=None), CLASSES).has_mask.any()


def test_splits_are_read_together_or_in_part(tmp_path):
    for name in ("train", "test"):
        stored(tmp_path, name=name)
    assert len(load_hub_dataset(tmp_path, split="all")) == 6
    for split, n_rows in (("all", 3), ("train[:2]", 2), ("train", 3)):
        assert len(load_hub_dataset(tmp_path / "train.parquet", split=split)) == n_rows
