"""Pictures: how a table stores them, and how an image or a mask is read from a file.

What could be read in two ways is refused with the file and the remedy: several pages or frames, transparency, more
than 8 bits (but in masks whose values are small), colours in a mask. Everything else becomes RGB, or class indices
0…254 and ``UNKNOWN``. In all functions, ``where`` names the picture at the beginning of the error message, such as
"train.parquet, row 3, column 'mask'".
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
        is_mask: its values matter, not its colours; 16 and 32 bits become 8 where the values allow it.

    Raises:
        PatchTableError: a missing or unreadable file, what ``check_head`` refuses, or a mask that Pillow inverts.

    >>> decode(encode(np.zeros((8, 8), np.uint8)), "row 0").size
    (8, 8)
    """
    where = locate(stored, where)
    image = stored
    if isinstance(stored, dict):
        try:
            image = Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
            check_head(image, where, is_mask)
            ImageOps.exif_transpose(image, in_place=True)
        except PatchTableError:
            raise
        except FileNotFoundError as error:
            raise PatchTableError(f"{where}: no such file (a relative path begins at {Path.cwd()})") from error
        except Exception as error:  # Pillow raises many types for damaged files
            raise PatchTableError(f"{where}: unreadable image bytes ({error})") from error
    if not is_mask:
        return image
    # of such a file with 8 bits, Pillow reads class 1 as 254
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise PatchTableError(f"{where}: a TIFF whose values are stored inverted (WhiteIsZero); save the mask as PNG")
    return with_8_bits(image, where)


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


def decode_pair(
    image: dict | Image.Image | None, mask: dict | Image.Image | None, where: str
) -> tuple[Image.Image, UInt8[np.ndarray, "h w"] | None]:
    """Decode what a row of a table stores: the image as RGB and, where there is a mask, its class indices.

    Raises:
        PatchTableError: no image, what ``decode``, ``to_rgb`` or ``decode_mask`` refuses, or a mask of another size
            than its image.

    >>> image, mask = decode_pair(encode(np.zeros((8, 8, 3), np.uint8)), None, "row 0")
    >>> image.size, mask
    ((8, 8), None)
    """
    where_image, where_mask = (f"{where}, column {column!r}" for column in ("image", "mask"))
    if image is None:
        raise PatchTableError(f"{where_image}: null; only masks may be missing")
    picture = to_rgb(decode(image, where_image), locate(image, where_image))
    if mask is None:
        return picture, None
    pixels = decode_mask(mask, where_mask)
    height, width = pixels.shape
    if (width, height) != picture.size:
        raise PatchTableError(
            f"{locate(mask, where_mask)}: size {width}×{height}, but the image is {picture.width}×{picture.height}; "
            "a mask is as large as its image"
        )
    return picture, pixels


def check_head(image: Image.Image, where: str, is_mask: bool = False) -> None:
    """Refuse an opened picture, before it is decoded, that 8 bits a channel of one page cannot hold.

    Args:
        is_mask: let whole numbers of 16 or 32 bits pass, which may be small.

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
    is_deep = (
        image.mode == "F" or _has_wide_integers(image) or re.search("(?<!BGR);16", str(getattr(image, "tile", "")))
    )
    if is_deep and not (is_mask and _has_wide_integers(image)):
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


def _check_opaque(image: Image.Image, where: str) -> None:
    if has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise PatchTableError(f"{where}: transparent pixels; save it without an alpha channel")


def _has_wide_integers(image: Image.Image) -> bool:
    """Tell whether the pixels are whole numbers of 16 or 32 bits."""
    return image.mode == "I" or image.mode.startswith("I;")


def with_8_bits(mask: Image.Image, where: str) -> Image.Image:
    """Reduce a mask of 16 or 32 bits to 8, where its values are as small as class indices are.

    Raises:
        PatchTableError: a value below 0 or above 255.
    """
    if not _has_wide_integers(mask):
        return mask
    values = np.asarray(mask)
    if values.min() < 0 or values.max() > UNKNOWN:
        excess = f"(mode {mask.mode}) and values {values.min()}…{values.max()}"
        raise PatchTableError(f"{where}: 16 bits or floats, more than 8 bits a channel {excess}; save it with 8")
    reduced = Image.fromarray(values.astype(np.uint8))
    reduced.info = mask.info
    return reduced
