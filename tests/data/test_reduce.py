"""Pictures that are no squares: cropped, padded, squeezed or tiled by choice, in the library as on the page."""

import io

import numpy as np
import pytest
from PIL import Image

from sedm.data.folders.image_folder import load_image_folder
from sedm.data.patch_table import UNKNOWN, PatchTableError, from_arrays
from sedm.data.patches import Patches
from sedm.data.reduce import FITS, fit_boxes, reduce_image
from sedm.demo.uploads import LAYOUT_FITS, read_layout, read_style_images

Y, X = np.mgrid[:48, :64]
CLASSES = ("ground", "disc")
DISC = ((X - 31.5) ** 2 + (Y - 23.5) ** 2 < 20**2).astype(np.uint8)  # 40 px wide and high
PLACE = np.stack([4 * X, 4 * Y, 0 * X], axis=2).astype(np.uint8)  # a picture that tells where a pixel was


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def patches_of(image, mask, size, fit):
    """(images, masks) of a table of one picture, channels last."""
    patches = Patches.from_table(from_arrays([image], [mask], ["a"]), (*CLASSES, "other"), size, fit=fit)
    return patches.images.permute(0, 2, 3, 1).numpy(), patches.masks.numpy()


def file_of(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def extent(mask) -> tuple[int, int]:
    """Width and height of the foreground, px."""
    return int((mask == 1).any(0).sum()), int((mask == 1).any(1).sum())


# -------------------------------------------------------------------------------------------------- right values


@pytest.mark.parametrize("upright", [False, True])
def test_a_picture_is_cropped_padded_or_cut_to_the_very_pixels(upright):
    """At the size of the squares nothing is resampled, so every pixel is known."""
    turn = (lambda array: array.swapaxes(0, 1)) if upright else (lambda array: array)
    image, mask = turn(PLACE), turn(DISC)

    images, masks = patches_of(image, mask, 48, "crop")
    assert np.array_equal(images[0], turn(PLACE[:, 8:56]))
    assert np.array_equal(masks[0], turn(DISC[:, 8:56]))

    images, masks = patches_of(image, mask, 64, "pad")
    mirrored = np.concatenate([PLACE[7::-1], PLACE, PLACE[:-9:-1]])
    assert np.array_equal(images[0], turn(mirrored))
    unknown = np.full((8, 64), UNKNOWN)
    assert np.array_equal(masks[0], turn(np.concatenate([unknown, DISC, unknown])))

    images, masks = patches_of(image, mask, 48, "tile")
    assert len(images) == 2
    for row, part in enumerate((slice(0, 48), slice(16, 64))):
        assert np.array_equal(images[row], turn(PLACE[:, part]))
        assert np.array_equal(masks[row], turn(DISC[:, part]))


def test_a_disc_stays_a_disc_unless_it_is_squeezed():
    sizes = {fit: [extent(mask) for mask in patches_of(PLACE, DISC, 32, fit)[1]] for fit in FITS}
    assert all(width == height for width, height in sizes["crop"] + sizes["pad"])
    assert sizes["squeeze"] == [(20, 26)]
    assert sizes["crop"][0][0] > sizes["pad"][0][0] == 20  # 40 px of 48, and 40 of 64


def test_reduced_pictures_are_those_of_lanczos_and_of_the_nearest_neighbour():
    images, masks = patches_of(PLACE, DISC, 32, "crop")
    part = Image.fromarray(PLACE).crop((8, 0, 56, 48))
    assert np.array_equal(images[0], part.resize((32, 32), Image.Resampling.LANCZOS))
    assert np.array_equal(images[0], reduce_image(Image.fromarray(PLACE), 32))  # as the archives are
    part = Image.fromarray(DISC).crop((8, 0, 56, 48))
    assert np.array_equal(masks[0], part.resize((32, 32), Image.Resampling.NEAREST))
    images, masks = patches_of(PLACE, DISC, 32, "squeeze")
    assert np.array_equal(images[0], Image.fromarray(PLACE).resize((32, 32), Image.Resampling.LANCZOS))
    assert np.array_equal(masks[0], Image.fromarray(DISC).resize((32, 32), Image.Resampling.NEAREST))


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (33, 32), (200, 10), (7, 30), (96, 48)])
def test_tiles_are_squares_of_the_shorter_side_that_cover_the_picture(size):
    boxes = fit_boxes(size, "tile", "a.png")
    covered = np.zeros(size[::-1], int)
    for left, top, right, bottom in boxes:
        assert right - left == bottom - top == min(size)
        assert left >= 0
        assert top >= 0
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    assert covered.shape == size[::-1]
    assert len(boxes) == -(-max(size) // min(size))
    assert covered.max() == (1 if max(size) % min(size) == 0 else 2)


@pytest.mark.parametrize("fit", [None, *FITS])
def test_a_square_picture_is_the_same_whatever_is_chosen(fit):
    random = np.random.default_rng(0)
    image, mask = random.integers(0, 256, (24, 24, 3), np.uint8), random.integers(0, 3, (24, 24), np.uint8)
    for size in (8, 24, 32):
        images, masks = patches_of(image, mask, size, fit)
        assert np.array_equal(images[0], Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))
        assert np.array_equal(masks[0], Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))


# ------------------------------------------------------------------------------------------------- tables and groups


def test_tiles_keep_the_group_the_annotation_and_the_place_of_their_picture():
    square = np.zeros((48, 48, 3), np.uint8)
    places = {
        "slide": ["s", "t", "u"],
        "x_microns": [100.0, 0.0, 7.0],
        "y_microns": [50.0, 0.0, 9.0],
        "microns_per_pixel": [2.0, 2.0, 0.5],
    }
    table = from_arrays([PLACE, square, PLACE.swapaxes(0, 1)], [DISC, None, DISC.T], ["a", "b", "c"], **places)
    patches = Patches.from_table(table, CLASSES, 16, fit="tile")
    assert patches.groups == ["a", "a", "b", "c", "c"]
    assert patches.has_mask.tolist() == [True, True, False, True, True]
    assert patches.places.slides == ["s", "s", "t", "u", "u"]
    assert patches.places.corners.tolist() == [[100, 50], [132, 50], [0, 0], [7, 9], [7, 17]]
    assert patches.places.sides.tolist() == [96, 96, 96, 24, 24]
    padded = Patches.from_table(table.select([0]), CLASSES, 16, fit="pad").places
    assert (padded.corners.tolist(), padded.sides.tolist()) == ([[100, 34]], [128])
    cropped = Patches.from_table(table.select([0]), CLASSES, 16, fit="crop").places
    assert (cropped.corners.tolist(), cropped.sides.tolist()) == ([[116, 50]], [96])


def test_without_a_choice_a_picture_that_is_no_square_is_named(tmp_path):
    for case, array in (("a", PLACE[:, :48]), ("b", PLACE)):
        path = tmp_path / "images" / case / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(array).save(path)
    choices = "fit='crop', fit='pad', fit='squeeze', fit='tile'"
    expected = f"table, row 1, column 'image' ({path}): 64×48 px is no square; choose one of {choices}"
    assert fault(Patches.from_table, load_image_folder(tmp_path), CLASSES, 32) == expected
    assert Patches.from_table(load_image_folder(tmp_path), CLASSES, 32, fit="crop").images.shape == (2, 3, 32, 32)


def test_without_a_size_pictures_stay_as_they_are():
    patches = Patches.from_table(from_arrays([PLACE], [DISC], ["a"]), CLASSES)
    assert np.array_equal(patches.images[0].permute(1, 2, 0), PLACE)
    assert np.array_equal(patches.masks[0], DISC)


def test_an_impossible_choice_is_refused_before_anything_is_decoded():
    table = from_arrays([PLACE], [DISC], ["a"]).select([])
    with pytest.raises(ValueError, match="fit='cropp'; choose one of crop, pad, squeeze, tile"):
        Patches.from_table(table, CLASSES, 32, fit="cropp")
    with pytest.raises(ValueError, match="fit='crop' without image_size"):
        Patches.from_table(table, CLASSES, fit="crop")


# ---------------------------------------------------------------------------------------------------- on the page


@pytest.mark.parametrize("fit", FITS)
def test_the_page_fits_pictures_as_the_library_does(fit):
    images, masks = patches_of(PLACE, DISC, 32, fit)
    uploaded = read_style_images(file_of(PLACE), "mine.png", 32, fit)
    assert np.array_equal(uploaded.permute(0, 2, 3, 1), images)
    if fit in LAYOUT_FITS:
        assert np.array_equal(read_layout(file_of(DISC), "mine.png", CLASSES, 32, fit), masks[0])


def test_the_page_crops_when_nothing_else_is_chosen():
    images, masks = patches_of(PLACE, DISC, 32, "crop")
    assert np.array_equal(read_style_images(file_of(PLACE), "mine.png", 32)[0].permute(1, 2, 0), images[0])
    assert np.array_equal(read_layout(file_of(DISC), "mine.png", CLASSES, 32), masks[0])


def test_a_layout_is_never_in_tiles():
    with pytest.raises(ValueError, match="fit='tile'; a layout is one picture, choose one of crop, pad, squeeze"):
        read_layout(file_of(DISC), "mine.png", CLASSES, 32, "tile")
