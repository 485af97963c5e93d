"""Pictures: how a table stores them, and how an image or a mask is read from a file or an array.

What could be read in two ways is refused with the file and the remedy: several pages or frames, transparency, more
than 8 bits, colours in a mask. Everything else becomes RGB, or class indices 0…254 and ``UNKNOWN``.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from sedm.data.errors import PatchTableError

UNKNOWN = 255
"""The mask value of a pixel that nobody annotated."""

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that become RGB; not LAB, whose colours Pillow changes."""

ORIENTATION = Image.ExifTags.Base.Orientation
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # the tag of a TIFF that says what its values mean, and one of its values


def encode(pixels: UInt8[np.ndarray, "h w *channels"]) -> dict:
    """Store pixels as a table does: PNG bytes, and no path.

    >>> sorted(encode(np.zeros((8, 8), np.uint8)))
    ['bytes', 'path']
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def decode(stored: dict | Image.Image, where: str) -> Image.Image:
    """Decode a picture that a table stores, in whatever mode, upright as its camera says.

    Args:
        stored: bytes or a path, or a picture that a stream has decoded already.
        where: begins the message of a fault.

    Raises:
        PatchTableError: a missing or unreadable file, several pages or frames, or more than 8 bits a channel.

    >>> decode(encode(np.zeros((8, 8), np.uint8)), "row 0").size
    (8, 8)
    """
    if isinstance(stored, Image.Image):  # a stream that somebody mapped a function over
        return stored
    where = locate(stored, where)
    try:
        image = Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
        check_head(image, where)
        image.load()
        return ImageOps.exif_transpose(image) if ORIENTATION in image.getexif() else image
    except PatchTableError:
        raise
    except FileNotFoundError as error:
        raise PatchTableError(f"{where}: no such file (a relative path begins at {Path.cwd()})") from error
    except Exception as error:  # Pillow raises many types for damaged files
        raise PatchTableError(f"{where}: unreadable image bytes ({error})") from error


def decode_image(stored: dict | Image.Image, where: str) -> Image.Image:
    """Decode an image that a table stores, as RGB.

    Raises:
        PatchTableError: what ``decode`` and ``to_rgb`` refuse.

    >>> decode_image(encode(np.zeros((8, 8), np.uint8)), "row 0").mode
    'RGB'
    """
    return to_rgb(decode(stored, where), locate(stored, where))


def decode_mask(stored: dict | Image.Image, where: str) -> UInt8[np.ndarray, "h w"]:
    """Decode a mask that a table stores, as class indices.

    Raises:
        PatchTableError: what ``decode`` and ``to_class_indices`` refuse, or JPEG.

    >>> decode_mask(encode(np.ones((1, 2), np.uint8)), "row 0")
    array([[1, 1]], dtype=uint8)
    """
    mask, where = decode(stored, where), locate(stored, where)
    if mask.format in ("JPEG", "MPO") or mask.info.get("compression") in ("jpeg", "tiff_jpeg"):
        raise PatchTableError(f"{where}: a mask as JPEG, which blurs class indices; save it as PNG")
    refuse_inverted(mask, where)
    return to_class_indices(mask, where)


def refuse_inverted(mask: Image.Image | np.ndarray, where: str) -> None:
    """Refuse a mask in a TIFF that says "white is zero": Pillow 13 inverts it, and class 1 would read as 254.

    Raises:
        PatchTableError: such a file.
    """
    if getattr(mask, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise PatchTableError(f"{where}: a TIFF whose values are stored inverted (WhiteIsZero); save the mask as PNG")


def decode_pair(
    image: dict | Image.Image | None, mask: dict | Image.Image | None, where: str
) -> tuple[Image.Image, UInt8[np.ndarray, "h w"] | None]:
    """Decode what a row of a table stores: the image as RGB and, where there is a mask, its class indices.

    Args:
        where: the row, for the message of a fault.

    Raises:
        PatchTableError: no image, what ``decode_image`` or ``decode_mask`` refuses, or a mask of another size than
            its image.

    >>> image, mask = decode_pair(encode(np.zeros((8, 8, 3), np.uint8)), None, "row 0")
    >>> image.size, mask
    ((8, 8), None)
    """
    if image is None:
        raise PatchTableError(f"{where}, column 'image': null; only masks may be missing")
    picture = decode_image(image, f"{where}, column 'image'")
    if mask is None:
        return picture, None
    pixels = decode_mask(mask, f"{where}, column 'mask'")
    height, width = pixels.shape
    if (width, height) != picture.size:
        where = locate(mask, f"{where}, column 'mask'")
        raise PatchTableError(
            f"{where}: size {width}×{height}, but the image is {picture.width}×{picture.height}; "
            "a mask is as large as its image"
        )
    return picture, pixels


def check_head(image: Image.Image, where: str) -> None:
    """Refuse an opened picture, before it is decoded, that 8 bits a channel of one page cannot hold.

    Raises:
        PatchTableError: several pages or frames, 16 bits or floats.

    >>> check_head(Image.new("F", (8, 8)), "a.tif")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: a.tif: 16 bits or floats, more than 8 bits a channel (mode F); save it with 8
    """
    n_frames = getattr(image, "n_frames", 1)
    # a photo in several versions (MPO) is, by its standard, the first of them
    if n_frames > 1 and image.format != "MPO":
        raise PatchTableError(f"{where}: {n_frames} frames or pages; save the one that is meant as a file of its own")
    # how the file is packed says more than the mode: Pillow reads 48-bit colour as plain RGB
    packing = str(getattr(image, "tile", ""))
    if image.mode in ("I", "F") or image.mode.startswith("I;") or re.search("(?<!BGR);16", packing):
        raise PatchTableError(
            f"{where}: 16 bits or floats, more than 8 bits a channel (mode {image.mode}); save it with 8"
        )


def locate(stored: Any, where: str) -> str:
    """``where``, and the file that a picture comes from, where the table knows it.

    >>> locate({"bytes": None, "path": "a.png"}, "row 0")
    'row 0 (a.png)'
    """
    return f"{where} ({stored['path']})" if isinstance(stored, dict) and stored["path"] else where


def has_alpha(image: Image.Image) -> bool:
    """Tell whether a picture may be transparent somewhere.

    >>> has_alpha(Image.new("RGBA", (8, 8))), has_alpha(Image.new("RGB", (8, 8)))
    (True, False)
    """
    return image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Convert a picture to RGB: grey, 1-bit, palette and print colours too; an opaque alpha channel is dropped.

    Raises:
        PatchTableError: a pixel that is not opaque, whose colour depends on what lies behind it, or another mode.

    >>> to_rgb(Image.new("L", (1, 1), 7), "a.png").getpixel((0, 0))
    (7, 7, 7)
    """
    if image.mode not in MODES:
        raise PatchTableError(f"{where}: a picture of mode {image.mode}; save it as RGB")
    _check_opaque(image, where)
    return image.convert("RGB")


def to_grey(image: Image.Image, where: str) -> UInt8[np.ndarray, "h w"]:
    """Reduce a grey picture in whatever mode, such as RGB with three equal channels, to its one value a pixel.

    Raises:
        PatchTableError: a pixel that has a colour, or what ``to_rgb`` refuses.

    >>> to_grey(Image.new("RGB", (2, 1), (7, 7, 7)), "a.png")
    array([[7, 7]], dtype=uint8)
    """
    pixels = np.asarray(to_rgb(image, where))
    if (pixels != pixels[..., :1]).any():
        raise PatchTableError(f"{where}: a colour mask; name its colours, such as mask_values={{(255, 0, 0): 1}}")
    return pixels[..., 0]


def to_class_indices(mask: Image.Image, where: str) -> UInt8[np.ndarray, "h w"]:
    """Read the class indices of a mask: its one channel, the indices of a palette, or 0 and 1 of a 1-bit picture.

    Raises:
        PatchTableError: several channels, or grey pixels that are not opaque.

    >>> to_class_indices(Image.new("1", (2, 1), 1), "a.png")
    array([[1, 1]], dtype=uint8)
    """
    if mask.mode in ("L", "LA"):  # a palette may be transparent: that is for the eye alone
        _check_opaque(mask, where)
        mask = mask.getchannel("L")
    if mask.mode not in ("1", "L", "P"):
        size = "×".join(map(str, (*mask.size, len(mask.getbands()))))
        raise PatchTableError(
            f"{where}: size {size}; a mask is one channel of class indices, as large as its image; "
            f"for colours pass mask_values={{(255, 0, 0): 1, …}} when reading, for equal channels {{255: 1, …}}"
        )
    return np.asarray(mask).astype(np.uint8)


def image_of_array(pixels, where: str) -> UInt8[np.ndarray, "h w *channels"]:
    """Check the pixels of one image in memory: (h, w, 3), or (h, w) and (h, w, 1) for grey, whole numbers 0…255.

    Args:
        pixels: an array, what numpy makes one of, or a Pillow picture.
        where: begins the message of a fault.

    Raises:
        PatchTableError: floats, values beyond 0…255, channels first, or another shape.

    >>> image_of_array(np.zeros((3, 8, 8), np.uint8), "image 0")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: image 0: shape (3, 8, 8); an image is (h, w, 3), or (h, w) for grey: move the \
channels last
    """
    if isinstance(pixels, Image.Image):
        return np.asarray(to_rgb(pixels, where))
    pixels = _as_array(pixels, where)
    shape, channels = pixels.shape, pixels.shape[2:]
    if channels == (1,):
        pixels, channels = pixels[..., 0], ()
    if len(shape) < 2 or channels not in ((), (3,)) or pixels.size == 0:
        remedy = ": move the channels last" if len(shape) == 3 and shape[0] in (1, 3, 4) else ""
        remedy = ": leave out the alpha channel" if channels == (4,) else remedy
        raise PatchTableError(f"{where}: shape {shape}; an image is (h, w, 3), or (h, w) for grey{remedy}")
    if pixels.dtype.kind not in "iu":
        remedy = "give whole numbers 0…255 as uint8; values in 0…1 are to be multiplied by 255 and rounded"
        raise PatchTableError(f"{where}: pixels of type {pixels.dtype}; {remedy}")
    _check_range(pixels, where, "pixels are whole numbers 0…255")
    return pixels.astype(np.uint8)


def mask_of_array(pixels, where: str) -> UInt8[np.ndarray, "h w"]:
    """Check the class indices of one mask in memory: (h, w) or (h, w, 1), whole numbers of any type, or bool.

    Args:
        pixels: an array, what numpy makes one of (lists), or a Pillow picture.
        where: begins the message of a fault.

    Raises:
        PatchTableError: fractions, values beyond 0…255, or another shape.

    >>> mask_of_array([[0, 1], [1, 255]], "mask 0")
    array([[  0,   1],
           [  1, 255]], dtype=uint8)
    """
    if isinstance(pixels, Image.Image):
        return to_class_indices(pixels, where)
    pixels = whole_numbers(pixels, where)
    _check_range(pixels, where, f"class indices are 0…{UNKNOWN - 1}, and {UNKNOWN} where nobody knows")
    return pixels.astype(np.uint8)


def whole_numbers(pixels, where: str) -> np.ndarray:
    """Check a mask in memory, whatever its values mean: (h, w) or (h, w, 1), whole numbers of any type, or bool.

    Raises:
        PatchTableError: fractions, or another shape.

    >>> whole_numbers(np.full((1, 2, 1), -1.0), "mask 0")
    array([[-1, -1]])
    """
    pixels = _as_array(pixels, where)
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise PatchTableError(f"{where}: shape {pixels.shape}; a mask is one channel of class indices, (h, w)")
    if pixels.dtype.kind not in "biuf":
        raise PatchTableError(f"{where}: {pixels.dtype} values; class indices are whole numbers")
    if pixels.dtype.kind == "f":
        fractions = pixels[~np.isfinite(pixels) | (pixels != np.round(pixels))]
        if len(fractions):
            raise PatchTableError(f"{where}: value {fractions[0]:g}; class indices are whole numbers")
    return pixels.astype(np.int64)


def _check_opaque(image: Image.Image, where: str) -> None:
    if has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise PatchTableError(f"{where}: transparent pixels; save it without an alpha channel")


def _as_array(pixels, where: str) -> np.ndarray:
    try:
        return np.asarray(pixels)
    except (TypeError, ValueError) as error:  # lists of rows that are not equally long
        raise PatchTableError(f"{where}: no array of pixels ({' '.join(str(error).split())})") from error


def _check_range(pixels: np.ndarray, where: str, expected: str) -> None:
    for value in (pixels.min(), pixels.max()):
        if not 0 <= value <= 255:
            raise PatchTableError(f"{where}: value {value}; {expected}")
