"""Pictures: how a table stores them, and how an image or a mask is read from a file.

What could be read in two ways is refused with the file and the remedy: several pages or frames, transparency, more
than 8 bits (but in masks whose values are small), colours in a mask. Everything else becomes RGB, or class indices
0…254 and ``UNKNOWN``. `sedm.data.reading` reads more where the caller says what is meant. In all functions, ``where``
names the picture at the beginning of the error message, such as "train.parquet, row 3, column 'mask'".
"""

from __future__ import annotations

import io
import os
import re
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from sedm.data.errors import PatchTableError

UNKNOWN = 255
"""The mask value of a pixel that nobody annotated."""

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that become RGB; not LAB, whose colours Pillow changes."""

IN_A_FILE = "give each class its values in a study.toml, or "
"""The remedy of who has no Python, before that of who has."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # the tag of a TIFF that says what its values mean, and one of its values


def encode(pixels: UInt8[np.ndarray, "h w *channels"]) -> dict:
    """Store pixels as a table does: PNG bytes, and no path.

    >>> sorted(encode(np.zeros((8, 8), np.uint8)))
    ['bytes', 'path']
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def decode(stored: dict | Image.Image, where: str, is_mask: bool = False) -> Image.Image:
    """Decode a picture that a table stores, in whatever mode, upright as its camera says.

    Args:
        stored: bytes or a path, or a picture that a stream has decoded already.
        is_mask: its values matter, not its colours; they may be whole numbers of 16 or 32 bits.

    Raises:
        PatchTableError: what ``open_picture`` and ``load_picture`` refuse, too many bits, a mask that Pillow inverts.

    >>> decode(encode(np.zeros((8, 8), np.uint8)), "row 0").size
    (8, 8)
    """
    image = open_picture(stored, where)
    where = locate(stored, where)
    if not is_mask:
        check_depth(image, where, "save it with 8, or say by intensity_range=[low, high] which values become 0 and 255")
    elif not has_wide_integers(image):
        check_depth(image, where)
    load_picture(image, where)
    # of such a file with 8 bits, Pillow reads class 1 as 254
    if is_mask and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise PatchTableError(f"{where}: a TIFF whose values are stored inverted (WhiteIsZero); save the mask as PNG")
    return image


def check_file(stored: dict, where: str) -> None:
    """Refuse a stored picture whose file is not there.

    Raises:
        PatchTableError: ``where``, which names the file.

    >>> check_file({"bytes": b"a picture", "path": None}, "row 0")
    """
    if stored["bytes"] is None and not os.path.isfile(stored["path"] or ""):
        raise PatchTableError(f"{where}: no such file; paths begin at the folder of the table", file=stored["path"])


def open_picture(stored: dict | Image.Image, where: str) -> Image.Image:
    """Open a picture that a table stores, and decode it not yet.

    Raises:
        PatchTableError: a missing file, one that is no picture, or several pages.

    >>> open_picture(encode(np.zeros((8, 8), np.uint8)), "row 0").size
    (8, 8)
    """
    where = locate(stored, where)
    image = stored
    if isinstance(stored, dict):
        check_file(stored, where)
        try:
            image = Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
        except Exception as error:  # Pillow raises many types for damaged files
            raise PatchTableError(f"{where}: unreadable image bytes ({_line(error)})") from error
    check_pages(image, where)
    return image


def load_picture(image: Image.Image, where: str) -> None:
    """Decode an opened picture, upright as its camera says.

    Raises:
        PatchTableError: damaged bytes.

    >>> load_picture(open_picture(encode(np.zeros((8, 8), np.uint8)), "row 0"), "row 0")
    """
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # Pillow raises many types for damaged files
        raise PatchTableError(f"{where}: unreadable image bytes ({_line(error)})") from error


def decode_mask(stored: dict | Image.Image, where: str) -> UInt8[np.ndarray, "h w"]:
    """Decode a mask that a table stores, as class indices.

    Raises:
        PatchTableError: what ``decode`` and ``to_class_indices`` refuse, or JPEG.

    >>> decode_mask(encode(np.ones((1, 2), np.uint8)), "row 0")
    array([[1, 1]], dtype=uint8)
    """
    mask, where = decode(stored, where, is_mask=True), locate(stored, where)
    if mask.format in ("JPEG", "MPO") or mask.info.get("compression") in ("jpeg", "tiff_jpeg"):
        raise PatchTableError(f"{where}: a mask as JPEG, which blurs class indices; save it as PNG")
    return to_class_indices(mask, where)


def check_pages(image: Image.Image, where: str) -> None:
    """Refuse an opened picture, before it is decoded, that has several pages or frames.

    Raises:
        PatchTableError: how many there are.

    >>> check_pages(Image.new("L", (8, 8)), "a.tif")
    """
    n_frames = getattr(image, "n_frames", 1)
    # a photo in several versions (MPO) is, by its standard, the first of them
    if n_frames > 1 and image.format != "MPO":
        raise PatchTableError(f"{where}: {n_frames} frames or pages; save the one that is meant as a file of its own")


def check_depth(image: Image.Image, where: str, remedy: str = "save it with 8") -> None:
    """Refuse an opened picture, before it is decoded, that has more than 8 bits a channel.

    Raises:
        PatchTableError: the mode of Pillow, and the remedy.

    >>> check_depth(Image.new("F", (8, 8)), "a.tif")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: a.tif: 16 bits or floats, more than 8 bits a channel (mode F); save it with 8
    """
    if is_deep(image):
        raise PatchTableError(f"{where}: {_depth(image)}; {remedy}", value=image.mode)


def is_deep(image: Image.Image) -> bool:
    """Tell whether a picture that was opened, and not yet decoded, has more than 8 bits a channel.

    >>> is_deep(Image.new("F", (8, 8))), is_deep(Image.new("RGB", (8, 8)))
    (True, False)
    """
    # how the file is packed says more than the mode: Pillow reads 48-bit colour as plain RGB
    is_packed_deep = re.search("(?<!BGR);16", str(getattr(image, "tile", ""))) is not None
    return image.mode == "F" or has_wide_integers(image) or is_packed_deep


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


def to_rgb(image: Image.Image, where: str, alpha: str = "") -> Image.Image:
    """Convert a picture to RGB: grey, 1-bit, palette and print colours too; an opaque alpha channel is dropped.

    Args:
        alpha: the colour that lies behind the picture, such as "white" or "#ffffff".

    Raises:
        PatchTableError: a pixel that is not opaque and no ``alpha``, or another mode.

    >>> to_rgb(Image.new("L", (1, 1), 7), "a.png").getpixel((0, 0))
    (7, 7, 7)
    >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), "a.png", alpha="white").getpixel((0, 0))
    (255, 204, 204)
    """
    if image.mode not in MODES:
        raise PatchTableError(f"{where}: a picture of mode {image.mode}; save it as RGB")
    if alpha and has_alpha(image):
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, alpha), picture).convert("RGB")
    check_opaque(image, where, "save it without an alpha channel, or name the colour behind it, such as alpha='white'")
    return image.convert("RGB")


def to_grey(image: Image.Image, where: str) -> UInt8[np.ndarray, "h w"]:
    """Reduce a grey picture in whatever mode, such as RGB with three equal channels, to its one value a pixel.

    Raises:
        PatchTableError: a pixel that has a colour, or what ``to_rgb`` refuses.

    >>> to_grey(Image.new("RGB", (2, 1), (7, 7, 7)), "a.png")
    array([[7, 7]], dtype=uint8)
    """
    check_opaque(image, where)
    pixels = np.asarray(to_rgb(image, where))
    if (pixels != pixels[..., :1]).any():
        raise PatchTableError(
            f"{where}: a colour mask; name its colours: {IN_A_FILE}pass mask_values={{(255, 0, 0): 1}}"
        )
    return pixels[..., 0]


def to_class_indices(mask: Image.Image, where: str) -> UInt8[np.ndarray, "h w"]:
    """Read the class indices of a mask: its one channel, the indices of a palette, or 0 and 1 of a 1-bit picture.

    Raises:
        PatchTableError: several channels, values beyond 8 bits, or grey pixels that are not opaque.

    >>> to_class_indices(Image.new("1", (2, 1), 1), "a.png")
    array([[1, 1]], dtype=uint8)
    """
    mask = with_8_bits(mask, where)
    if mask.mode in ("L", "LA"):  # a palette may be transparent: that is for the eye alone
        check_opaque(mask, where)
        mask = mask.getchannel("L")
    if mask.mode not in ("1", "L", "P"):
        size = "×".join(map(str, (*mask.size, len(mask.getbands()))))
        raise PatchTableError(
            f"{where}: size {size}; a mask is one channel of class indices, as large as its image; "
            f"for colours {IN_A_FILE}pass mask_values={{(255, 0, 0): 1, …}} when reading, "
            "for equal channels {255: 1, …}"
        )
    return np.asarray(mask).astype(np.uint8)


def check_opaque(image: Image.Image, where: str, remedy: str = "save it without an alpha channel") -> None:
    """Refuse a picture with pixels that are not opaque.

    Raises:
        PatchTableError: ``where``, and the remedy.

    >>> check_opaque(Image.new("RGBA", (8, 8), (255, 0, 0, 255)), "a.png")
    """
    if has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise PatchTableError(f"{where}: transparent pixels; {remedy}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _depth(image: Image.Image) -> str:
    return f"16 bits or floats, more than 8 bits a channel (mode {image.mode})"


def has_wide_integers(image: Image.Image) -> bool:
    """Tell whether the pixels are whole numbers of 16 or 32 bits.

    >>> has_wide_integers(Image.new("I;16", (8, 8))), has_wide_integers(Image.new("L", (8, 8)))
    (True, False)
    """
    return image.mode == "I" or image.mode.startswith("I;")


def with_8_bits(mask: Image.Image, where: str) -> Image.Image:
    """Reduce a mask of 16 or 32 bits to 8, where its values are as small as class indices are.

    Raises:
        PatchTableError: a value below 0 or above 255.
    """
    if not has_wide_integers(mask):
        return mask
    values = np.asarray(mask)
    if values.min() < 0 or values.max() > UNKNOWN:
        excess = f"{_depth(mask)} and values {values.min()}…{values.max()}"
        remedies = f"save it with 8, {IN_A_FILE}pass mask_values={{1000: 1, …}}, or say mask_kind='instances'"
        raise PatchTableError(f"{where}: {excess}; {remedies}", value=int(values.max()))
    reduced = Image.fromarray(values.astype(np.uint8))
    reduced.info = mask.info
    return reduced
