"""Pixels: what a file or an array holds is read faithfully, or refused in one sentence with what to do."""

import io

import datasets
import numpy as np
import pytest
import tifffile
import torch
from conftest import CLASSES
from PIL import Image

from sedm.data.folders.image_folder import load_image_folder
from sedm.data.patch_table import UNKNOWN, PatchTableError, check_patches, from_arrays
from sedm.data.patches import Patches
from sedm.data.pictures import decode_mask

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (16, 16, 3), dtype=np.uint8)
MASK = (PIXELS[..., 0] > 127).astype(np.uint8)
OPAQUE = np.full((16, 16, 1), 255, np.uint8)
HOLE = OPAQUE.copy()
HOLE[3, 5] = 254


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(picture, file_format="PNG", **options) -> bytes:
    """A picture as the bytes of a file."""
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def tiff(array, **options) -> bytes:
    """An array as a TIFF file of a microscope's software."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def palette(array, **options) -> Image.Image:
    """Class indices with a colour each."""
    image = Image.fromarray(array, mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0])
    return image


def upside_down(array) -> bytes:
    """An array as a photo that its camera says to turn."""
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 3
    return content(array, "JPEG", quality=100, exif=exif)


def with_files(image: bytes = b"", mask: bytes = b"") -> datasets.Dataset:
    """A table of one row that holds these files."""
    rows = {"image": [{"bytes": image or content(PIXELS), "path": None}], "mask": [None], "group": ["a"]}
    rows["mask"] = [{"bytes": mask or content(MASK), "path": None}]
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())


def image_of(table) -> np.ndarray:
    """The one image of a checked table, (h, w, 3)."""
    check_patches(table, n_classes=2)
    return Patches.from_table(table, CLASSES).images[0].permute(1, 2, 0).numpy()


def mask_of(table) -> np.ndarray:
    """The one mask of a checked table."""
    check_patches(table, n_classes=2)
    return Patches.from_table(table, CLASSES).masks[0].numpy()


# ------------------------------------------------------------------------------------------------ files of images


@pytest.mark.parametrize(
    ("file", "n_frames"),
    [
        (tiff(np.stack([PIXELS, PIXELS // 2, PIXELS // 4]), photometric="rgb"), 3),
        (content(PIXELS, save_all=True, append_images=[Image.fromarray(PIXELS // 2)]), 2),
        (content(PIXELS, "GIF", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]), 2),
        (content(PIXELS, "TIFF", save_all=True, append_images=[Image.fromarray(PIXELS[::2, ::2])]), 2),
    ],
    ids=["pages", "moving PNG", "moving GIF", "page and its thumbnail"],
)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_file_of_several_pages_or_frames_is_refused(file, n_frames, column):
    table = with_files(**{column: file})
    end = f"row 0, column {column!r}: {n_frames} frames or pages; save the one that is meant as a file of its own"
    assert fault(check_patches, table, 2, "mine") == f"mine, {end}"
    assert fault(Patches.from_table, table, CLASSES, name="mine") == f"mine, {end}"


def test_the_file_with_several_pages_is_named(tmp_path):
    path = tmp_path / "images" / "case-7" / "stack.tif"
    path.parent.mkdir(parents=True)
    path.write_bytes(tiff(np.stack([PIXELS, PIXELS]), photometric="rgb"))
    assert f"({path}): 2 frames or pages" in fault(check_patches, load_image_folder(tmp_path), 2)


def test_a_photo_with_a_preview_in_its_file_is_the_photo():
    both = content(PIXELS, "MPO", save_all=True, append_images=[Image.fromarray(PIXELS[::2, ::2])], quality=95)
    alone = np.asarray(Image.open(io.BytesIO(content(PIXELS, "JPEG", quality=95))))
    assert np.array_equal(image_of(with_files(both)), alone)


@pytest.mark.parametrize(
    "file",
    [
        content(np.dstack([PIXELS, HOLE])),
        content(np.dstack([PIXELS[..., 0], HOLE])),
        tiff(np.dstack([PIXELS, HOLE]), photometric="rgb", extrasamples=["unassalpha"]),
        content(PIXELS, transparency=tuple(PIXELS[3, 5].tolist())),
        content(PIXELS[..., 0], transparency=int(PIXELS[3, 5, 0])),
        content(palette(MASK), transparency=1),
    ],
    ids=["RGBA", "grey and alpha", "TIFF", "a colour", "a grey level", "a palette's colour"],
)
def test_an_image_with_a_pixel_that_is_not_opaque_is_refused(file):
    end = "row 0, column 'image': transparent pixels; save it without an alpha channel"
    end += ", or name the colour behind it, such as alpha='white'"
    assert fault(check_patches, with_files(file), 2, "mine") == f"mine, {end}"
    assert fault(Patches.from_table, with_files(file), CLASSES, name="mine") == f"mine, {end}"


GREY = PIXELS[..., :1].repeat(3, axis=2)
PRINT = Image.fromarray(PIXELS).convert("CMYK")
VIDEO = Image.fromarray(PIXELS).convert("YCbCr")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (content(np.dstack([PIXELS, OPAQUE])), PIXELS),
        (tiff(np.dstack([PIXELS, OPAQUE]), photometric="rgb"), PIXELS),
        (content(np.dstack([PIXELS[..., 0], OPAQUE])), GREY),
        (content(PIXELS[..., 0]), GREY),
        (content(MASK == 1), 255 * MASK[..., None].repeat(3, axis=2)),
        (content(palette(MASK)), np.array([[0, 0, 0], [255, 0, 0]])[MASK]),
        (content(PRINT, "TIFF"), np.asarray(PRINT.convert("RGB"))),
        (content(VIDEO, "TIFF"), np.asarray(VIDEO.convert("RGB"))),
        (tiff(np.moveaxis(PIXELS, 2, 0), photometric="rgb", planarconfig="separate"), PIXELS),
    ],
    ids=["RGBA", "TIFF with alpha", "grey and alpha", "grey", "1 bit", "palette", "CMYK", "YCbCr", "planes"],
)
def test_opaque_images_of_every_mode_are_read_as_their_rgb(file, expected):
    assert np.array_equal(image_of(with_files(file)), expected)


def test_colours_that_would_be_changed_are_refused():
    lab = content(Image.frombytes("LAB", (16, 16), PIXELS.tobytes()), "TIFF")
    assert fault(image_of, with_files(lab)) == "table, row 0, column 'image': a picture of mode LAB; save it as RGB"


# ------------------------------------------------------------------------------------------------- files of masks


@pytest.mark.parametrize(
    "file",
    [
        content(MASK),
        content(MASK == 1),
        content(palette(MASK)),
        content(palette(MASK), transparency=0),
        content(np.dstack([MASK[..., None], OPAQUE])),
        tiff(MASK, compression="zlib"),
        content(MASK.astype(np.uint16)),
        *(tiff(MASK.astype(kind)) for kind in (np.uint16, np.int16, np.int32, np.uint32)),
    ],
    ids=[
        *("grey", "1 bit", "palette", "palette, background not shown", "grey and alpha", "TIFF", "16-bit PNG"),
        *("uint16", "int16", "int32", "uint32"),
    ],
)
def test_a_mask_of_one_channel_is_its_values_or_indices(file):
    assert np.array_equal(mask_of(with_files(mask=file)), MASK)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (content(np.dstack([MASK[..., None], HOLE])), "transparent pixels; save it without an alpha channel"),
        (content(MASK, transparency=0), "transparent pixels; save it without an alpha channel"),
        (content(MASK, "JPEG", quality=100), "a mask as JPEG, which blurs class indices; save it as PNG"),
        (content(MASK, "TIFF", compression="jpeg"), "a mask as JPEG, which blurs class indices; save it as PNG"),
        (content(MASK.astype(np.uint16), transparency=0), "transparent pixels; save it without an alpha channel"),
        (
            tiff(MASK.astype(np.uint16) * 256),
            "16 bits or floats, more than 8 bits a channel (mode I;16) and values 0…256",
        ),
        (tiff(-MASK.astype(np.int32)), "16 bits or floats, more than 8 bits a channel (mode I) and values -1…0"),
        (tiff(MASK.astype(np.float32)), "16 bits or floats, more than 8 bits a channel (mode F)"),
        (upside_down(MASK), "a mask as JPEG, which blurs class indices; save it as PNG"),
        (content(np.dstack([MASK] * 3)), "size 16×16×3; a mask is one channel of class indices, as large as its image"),
    ],
    ids=[
        *("alpha", "a transparent level", "JPEG", "JPEG in TIFF", "a transparent deep level", "256", "-1", "float"),
        *("turned JPEG", "three equal channels"),
    ],
)
def test_a_mask_that_is_not_plainly_class_indices_is_refused(file, words):
    table = with_files(mask=file)
    assert fault(check_patches, table, 2, "mine").startswith(f"mine, row 0, column 'mask': {words}")
    assert fault(Patches.from_table, table, CLASSES).startswith(f"table, row 0, column 'mask': {words}")


def test_a_mask_is_never_resized_to_fit_another_image():
    table = with_files(mask=content(MASK[:8]))
    message = fault(Patches.from_table, table, CLASSES, 8)
    assert message.startswith("table, row 0, column 'mask': size 16×8, but the image is 16×16")


def test_a_picture_that_is_gone_is_named(tmp_path):
    rows = {"image": [{"bytes": None, "path": "gone.png"}], "mask": [None], "group": ["a"]}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table = table.cast_column("mask", datasets.Image())
    assert fault(check_patches, table, 2, "mine").startswith("mine, row 0, column 'image' (gone.png): no such file")


# --------------------------------------------------------------------------------------------- arrays in memory

STACK = np.stack([PIXELS, PIXELS[::-1]])
MASKS = np.stack([MASK, MASK[::-1]])
MASKS[0, 0, 0] = UNKNOWN


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.int32, np.uint16, np.uint64, np.int8, np.float32, bool])
def test_masks_of_any_type_of_whole_numbers_are_stored_exactly(kind):
    masks = (MASKS % 3).astype(kind) if kind in (np.int8, bool) else MASKS.astype(kind)
    table = from_arrays(STACK, masks, ["a", "b"])
    check_patches(table, n_classes=3)
    assert np.array_equal(Patches.from_table(table, ("dark", "light", "bright")).masks, masks.astype(np.uint8))
    assert table[0]["mask"].mode == "L"


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_deep_pictures_of_small_values_are_masks(kind):
    table = from_arrays(STACK, [Image.fromarray(mask.astype(kind)) for mask in MASKS], ["a", "b"])
    assert np.array_equal(Patches.from_table(table, CLASSES).masks, MASKS)
    message = fault(from_arrays, STACK, [Image.fromarray(256 * MASK.astype(kind)), None], ["a", "b"])
    assert message.startswith("row 0, column 'mask': 16 bits or floats")


@pytest.mark.parametrize(
    "masks",
    [MASKS.tolist(), list(MASKS), MASKS[..., None], torch.from_numpy(MASKS).long(), list(map(Image.fromarray, MASKS))],
    ids=["nested lists", "a list of arrays", "one channel", "tensor", "pictures"],
)
def test_masks_in_every_usual_container_are_stored_exactly(masks):
    assert np.array_equal(Patches.from_table(from_arrays(STACK, masks, ["a", "b"]), CLASSES).masks, MASKS)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (MASK / 2, "value 0.5; class indices are whole numbers"),
        (np.where(MASK == 1, np.nan, 0), "value nan; class indices are whole numbers"),
        (np.full((16, 16), np.inf), "value inf; class indices are whole numbers"),
        (MASK.astype(int) - 1, "value -1; class indices are 0…254, and 255 where nobody knows"),
        (MASK.astype(int) * 256, "value 256; class indices are 0…254, and 255 where nobody knows"),
        (np.eye(2)[MASK], "shape (16, 16, 2); a mask is one channel of class indices, (h, w)"),
        (MASK[None], "shape (1, 16, 16); a mask is one channel of class indices, (h, w)"),
        ([[0, 1], [1]], "no array of pixels ("),
        ("a.png", "shape (); a mask is one channel of class indices, (h, w)"),
        (np.zeros((0, 0)), "shape (0, 0); a mask is one channel of class indices, (h, w)"),
        (MASK * 1j, "complex128 values; class indices are whole numbers"),
    ],
)
def test_an_array_that_holds_no_class_indices_is_refused(mask, words):
    message = fault(from_arrays, STACK, [MASK, mask], ["a", "b"])
    assert message.startswith(f"row 1, column 'mask': {words}")


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (STACK.astype(np.int64), STACK),
        (torch.from_numpy(STACK), STACK),
        (STACK[..., 0], STACK[..., :1].repeat(3, axis=3)),
        (STACK[..., :1], STACK[..., :1].repeat(3, axis=3)),
        ([Image.fromarray(pixels) for pixels in STACK], STACK),
        ([palette(MASK), palette(MASK)], np.array([[0, 0, 0], [255, 0, 0]])[np.stack([MASK, MASK])]),
    ],
    ids=["int64", "tensor", "grey", "one channel", "pictures", "palettes"],
)
def test_images_in_every_usual_container_are_stored_exactly(images, expected):
    table = from_arrays(images, [None, None], ["a", "b"])
    check_patches(table, n_classes=2)
    assert np.array_equal(Patches.from_table(table, CLASSES).images.permute(0, 2, 3, 1), expected)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (STACK / 255, "pixels of type float64; give whole numbers 0…255 as uint8; values in 0…1 are to be multiplied"),
        (STACK.astype(np.float32), "pixels of type float32; give whole numbers 0…255"),
        (STACK > 127, "pixels of type bool; give whole numbers 0…255"),
        (STACK.astype(np.int16) - 300, f"value {int(PIXELS.min()) - 300}; pixels are whole numbers 0…255"),
        (STACK.astype(np.uint16) + 1, f"value {int(PIXELS.max()) + 1}; pixels are whole numbers 0…255"),
        (
            np.moveaxis(STACK, 3, 1),
            "shape (3, 16, 16); an image is (h, w, 3), or (h, w) for grey: move the channels last",
        ),
        (
            STACK[:, None, ..., 0],
            "shape (1, 16, 16); an image is (h, w, 3), or (h, w) for grey: move the channels last",
        ),
        (
            np.concatenate([STACK, STACK[..., :1]], 3),
            "shape (16, 16, 4); an image is (h, w, 3), or (h, w) for grey: leave",
        ),
        (STACK[..., :2], "shape (16, 16, 2); an image is (h, w, 3), or (h, w) for grey"),
        ([Image.fromarray(np.dstack([PIXELS, HOLE]))] * 2, "transparent pixels"),
    ],
    ids=["0…1", "float", "bool", "negative", "256", "channels first", "one first", "alpha", "two channels", "picture"],
)
def test_an_array_that_is_no_image_is_refused_with_what_to_do(images, words):
    assert fault(from_arrays, images, [None, None], ["a", "b"]).startswith(f"row 0, column 'image': {words}")


def test_columns_of_other_lengths_are_named():
    assert fault(from_arrays, STACK, [None], ["a", "b"]) == "2 images, but 1 masks; give one a row"
    assert fault(from_arrays, PIXELS, MASK[None], ["a"]) == "16 images, but 1 masks; give one a row"  # not a stack
    assert fault(from_arrays, STACK, MASKS, ["a", "b"], stain=["x"]) == "2 images, but 1 stain; give one a row"


def test_without_any_mask_the_column_still_holds_pictures():
    table = from_arrays(STACK, [None, None], ["a", "b"])
    assert table.features["mask"] == datasets.Image()
    assert not Patches.from_table(table, CLASSES).has_mask.any()


def test_a_table_of_lists_is_not_taken_for_one_of_pictures():
    table = datasets.Dataset.from_dict({"image": [PIXELS.tolist()], "mask": [MASK.tolist()], "group": ["a"]})
    message = fault(check_patches, table, 2, "mine")
    assert message.startswith("mine: the column 'image' holds no pictures but List")
    assert message.endswith("make a table of arrays by from_arrays or load_hub_dataset")


def test_a_mask_that_pillow_would_invert_is_refused(tmp_path):
    """A TIFF may say that white is zero; tifffile hands out what is stored, Pillow 255 minus that."""
    path = tmp_path / "a.tif"
    mask = np.repeat(np.array([[0, 1, 2]], np.uint8), 4, axis=0)
    stored = {"bytes": None, "path": str(path)}
    tifffile.imwrite(path, mask, photometric="miniswhite")
    with pytest.raises(PatchTableError, match=r"a\.tif.*stored inverted \(WhiteIsZero\); save the mask as PNG"):
        decode_mask(stored, "row 0")
    tifffile.imwrite(path, mask, photometric="minisblack")
    assert np.array_equal(decode_mask(stored, "row 0"), mask)
