"""Masks whose values are no class indices yet: each is translated as mask_values, or refused with what to tell."""

import datasets
import numpy as np
import pytest
from conftest import CLASSES
from PIL import Image

from sedm.data.folders.image_folder import load_image_folder
from sedm.data.hub import load_hub_dataset
from sedm.data.patch_table import UNKNOWN, PatchTableError, check_patches, from_arrays, load_patches, save_patches
from sedm.data.patches import Patches

TRUTH = np.zeros((16, 16), np.uint8)
TRUTH[2:9, 4:13] = 1
COLOURS = np.array([(0, 0, 0), (255, 128, 0)], np.uint8)


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def smoothed(mask) -> np.ndarray:
    """A mask in black and white whose borders were smoothed along the rows."""
    grey = mask.astype(float)
    grey[:, 1:-1] = (mask[:, :-2] + 2.0 * mask[:, 1:-1] + mask[:, 2:]) / 4
    return np.round(255 * grey).astype(np.uint8)


@pytest.fixture
def folder_of(tmp_path):
    """Makes a folder of two images and two masks: the truth in some form, and no foreground."""

    def make(*masks):
        for row, mask in enumerate(masks):
            mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
            for kind, picture in (("images", Image.new("RGB", mask.size)), ("masks", mask)):
                path = tmp_path / "mine" / kind / f"case-{row}" / "0.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
        return tmp_path / "mine"

    return make


def masks_of(table) -> np.ndarray:
    check_patches(table, n_classes=2)
    return Patches.from_table(table, CLASSES).masks.numpy()


# --------------------------------------------------------------------------------------------- values and colours


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
def test_values_and_classes_may_be_numbers_of_numpy(folder_of, kind):
    mask_values = {kind(0): np.int64(0), kind(255): np.uint8(1)}
    assert np.array_equal(masks_of(load_image_folder(folder_of(255 * TRUTH), mask_values))[0], TRUTH)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_colours_may_be_numbers_of_numpy(folder_of, kind):
    mask_values = {tuple(colour): index for index, colour in enumerate(COLOURS.astype(kind))}
    assert np.array_equal(masks_of(load_image_folder(folder_of(COLOURS[TRUTH]), mask_values))[0], TRUTH)


@pytest.mark.parametrize("form", ["RGB", "RGBA", "LA"])
def test_values_of_equal_channels_are_those_of_one(folder_of, form):
    mask = Image.fromarray(255 * TRUTH).convert(form)
    assert np.array_equal(masks_of(load_image_folder(folder_of(mask), {0: 0, 255: 1}))[0], TRUTH)


def test_values_of_16_bit_masks_are_those_of_8_bits(folder_of):
    folder = folder_of(255 * TRUTH.astype(np.uint16))
    for options in ({"mask_values": {0: 0, 255: 1}}, {"mask_threshold": 127}):
        assert np.array_equal(masks_of(load_image_folder(folder, **options))[0], TRUTH)


def test_a_value_may_mean_that_nobody_knows(folder_of):
    mask = np.array([0, 100], np.uint8)[TRUTH]
    mask[0] = UNKNOWN
    found = masks_of(load_image_folder(folder_of(mask), {0: 0, 100: 1, 255: 255}))[0]
    assert (found[0] == UNKNOWN).all()
    assert np.array_equal(found[1:], TRUTH[1:])


@pytest.mark.parametrize(
    ("mask_values", "words"),
    [
        ({"0": 0, "255": 1}, "values, colours and classes are whole numbers"),
        ({0: 0, 255: 0.5}, "values, colours and classes are whole numbers"),
        ({"#ff0000": 1}, "values, colours and classes are whole numbers"),
        ({0: 0, 255: 256}, "class indices lie in 0…254, and 255 is where nobody knows"),
        ({(0, 0, 0, 255): 0}, "a colour is red, green and blue, each 0…255"),
        ({(0, 0, 256): 0}, "a colour is red, green and blue, each 0…255"),
        ([0, 255], "give the class of each value, such as {0: 0, 255: 1}"),
    ],
)
def test_impossible_values_are_refused_before_any_file_is_read(unchecked, tmp_path, mask_values, words):
    for load in (load_image_folder, load_hub_dataset):
        with pytest.raises(ValueError, match="mask_values=") as caught:
            load(tmp_path / "nowhere", mask_values=mask_values)
        assert str(caught.value).endswith(words)


def test_transparent_colours_are_not_translated(folder_of):
    mask = Image.fromarray(np.dstack([COLOURS[TRUTH], 254 * TRUTH + 1]))
    mask_values = {tuple(colour.tolist()): index for index, colour in enumerate(COLOURS)}
    folder = folder_of(mask)
    for options in ({"mask_values": mask_values}, {"mask_kind": "instances"}):
        assert fault(load_image_folder, folder, **options).endswith(
            "0.png): transparent pixels; save it without an alpha channel"  # nothing lies behind a mask
        )


# -------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("form", ["L", "RGB", "P", "1", "LA"])
def test_smoothed_masks_are_thresholded_when_asked(folder_of, form):
    mask = smoothed(TRUTH)
    assert {0, 64, 191, 255} == set(np.unique(mask))
    folder = folder_of(Image.fromarray(mask if form != "1" else 255 * TRUTH).convert(form), 0 * TRUTH)
    table = load_image_folder(folder, mask_threshold=127)
    assert np.array_equal(masks_of(table), np.stack([TRUTH, 0 * TRUTH]))


def test_what_is_above_the_threshold_is_foreground_and_the_threshold_itself_is_not(folder_of):
    folder = folder_of(smoothed(TRUTH))
    for threshold in (0, 63, 64, 190, 191, 254):
        table = load_image_folder(folder, mask_threshold=threshold)
        assert np.array_equal(masks_of(table)[0], smoothed(TRUTH) > threshold)


def test_an_error_of_smoothed_masks_names_the_threshold(folder_of):
    folder = folder_of(smoothed(TRUTH))
    mask = folder / "masks" / "case-0" / "0.png"
    message = fault(check_patches, load_image_folder(folder), 2, "mine")
    where = f"mine, row 0, column 'mask' ({mask}): value 191 is outside the classes 0..1"
    assert message == f"{where}; where black and white were smoothed, say mask_threshold=127 when reading"
    message = fault(load_image_folder, folder, {0: 0, 255: 1})
    assert message.endswith(
        "not in mask_values, which has 0, 255; where borders were smoothed say mask_threshold=127 instead"
    )


def test_class_indices_are_not_thresholded_to_nothing(folder_of):
    folder = folder_of(TRUTH)
    message = fault(load_image_folder, folder, mask_threshold=127)
    assert message == (
        f"{folder}: no mask holds a value above mask_threshold=127, the highest is 1; leave it out where masks hold "
        "class indices"
    )
    assert not masks_of(load_image_folder(folder_of(0 * TRUTH), mask_threshold=127)).any()  # no foreground anywhere


def test_colours_have_no_threshold(folder_of):
    assert "a colour mask; name its colours" in fault(load_image_folder, folder_of(COLOURS[TRUTH]), mask_threshold=127)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_threshold": 127, "mask_values": {0: 0}}, "give one of them"),
        ({"mask_threshold": 255}, "mask_threshold=255; it lies in 0…254"),
        ({"mask_threshold": -1}, "mask_threshold=-1; it lies in 0…254"),
        ({"mask_threshold": "127"}, "mask_threshold='127'; it lies in 0…254 and is a number"),
        ({"mask_threshold": float("nan")}, "mask_threshold=nan; it lies in 0…254"),
        ({"mask_threshold": 127, "mask_values": [0, 255]}, "mask_values=[0, 255] and mask_threshold=127; give one"),
    ],
)
def test_an_impossible_threshold_is_refused_before_any_file_is_read(unchecked, tmp_path, options, words):
    for load in (load_image_folder, load_hub_dataset):
        with pytest.raises(ValueError, match="mask_threshold") as caught:
            load(tmp_path / "nowhere", **options)
        assert words in str(caught.value)


def test_masks_of_a_data_set_are_thresholded_too(tmp_path):
    images = np.zeros((2, 16, 16, 3), np.uint8)
    path = save_patches(from_arrays(images, [smoothed(TRUTH), None], ["a", "b"]), tmp_path / "train.parquet")
    found = masks_of(load_hub_dataset(path, mask_threshold=127))
    assert np.array_equal(found[0], TRUTH)
    assert (found[1] == UNKNOWN).all()


# ------------------------------------------------------------------------------------------- 255 = nobody knows


def with_masks(*masks) -> datasets.Dataset:
    images = np.zeros((len(masks), 16, 16, 3), np.uint8)
    return from_arrays(images, masks, [f"case-{row}" for row in range(len(masks))])


PARTLY = TRUTH.copy()
PARTLY[12:] = UNKNOWN
GLASS = 0 * TRUTH
GLASS[:8] = UNKNOWN


@pytest.mark.parametrize("n_classes", [2, 3, 255])
def test_pixels_that_nobody_knows_are_accepted(tmp_path, n_classes):
    table = with_masks(PARTLY, None, GLASS, np.full((16, 16), UNKNOWN, np.uint8))
    check_patches(table, n_classes)
    path = save_patches(table, tmp_path / "train.parquet")
    for streaming in (False, True):
        again = load_patches(path, streaming=streaming)
        check_patches(again, n_classes)
        patches = Patches.from_table(again, list(map(str, range(n_classes))))
        assert np.array_equal(patches.masks[0], PARTLY)
        assert patches.has_mask.tolist() == [True, False, True, False]


def test_white_on_black_is_not_taken_for_unknown(folder_of):
    """No mask shows a class, so 255 is foreground that was drawn for the eye; both remedies are named."""
    end = "; give each class its values in a study.toml, or pass mask_values={{0: 0, 255: 1}} when reading"
    end = f"value 255 is outside the classes 0..{{}}{end}"
    for n_classes in (2, 3):
        message = fault(check_patches, with_masks(None, GLASS, 0 * TRUTH), n_classes, "mine")
        assert message.startswith("mine, row 1, column 'mask': no mask has a class above 0, so 255 is not taken for")
        assert "if it is, add a patch that has one" in message
        assert message.endswith(end.format(n_classes - 1))
    check_patches(with_masks(None, GLASS, TRUTH), n_classes=2)
    check_patches(with_masks(GLASS), n_classes=1)  # there is no other class


def test_more_classes_than_a_mask_can_hold_are_refused():
    with pytest.raises(ValueError, match="n_classes=256; it lies in 1…255, since 255 is where nobody knows"):
        check_patches(with_masks(TRUTH), 256)
