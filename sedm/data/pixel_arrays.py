"""Images and masks in memory: arrays, lists and Pillow pictures, read faithfully or refused with the remedy.

In all functions, ``where`` names the picture at the beginning of the error message, as in `sedm.data.pictures`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from sedm.data.errors import PatchTableError
from sedm.data.pictures import UNKNOWN, to_class_indices, to_rgb


def image_of_array(pixels, where: str) -> UInt8[np.ndarray, "h w *channels"]:
    """Check the pixels of one image in memory.

    Args:
        pixels: (h, w, 3), or (h, w) or (h, w, 1) for grey, whole numbers 0…255: an array, what numpy makes one of, or a
            Pillow picture.

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
    shape = pixels.shape
    if shape[2:] not in ((), (3,)) or pixels.ndim < 2 or pixels.size == 0:
        remedy = ": move the channels last" if len(shape) == 3 and shape[0] in (1, 3, 4) else ""
        remedy = ": leave out the alpha channel" if shape[2:] == (4,) else remedy
        raise PatchTableError(f"{where}: shape {shape}; an image is (h, w, 3), or (h, w) for grey{remedy}")
    if pixels.dtype.kind not in "iu":
        remedy = "give whole numbers 0…255 as uint8; values in 0…1 are to be multiplied by 255 and rounded"
        raise PatchTableError(f"{where}: pixels of type {pixels.dtype}; {remedy}")
    return _as_bytes(pixels, where, "pixels are whole numbers 0…255")


def mask_of_array(pixels, where: str) -> UInt8[np.ndarray, "h w"]:
    """Check the class indices of one mask in memory.

    Args:
        pixels: (h, w) or (h, w, 1), whole numbers 0…255 of any type, or bool: an array, what numpy makes one of
            (lists), or a Pillow picture.

    Raises:
        PatchTableError: fractions, values beyond 0…255, or another shape.

    >>> mask_of_array([[0, 1], [1, 255]], "mask 0")
    array([[  0,   1],
           [  1, 255]], dtype=uint8)
    """
    if isinstance(pixels, Image.Image):
        return to_class_indices(pixels, where)
    expected = f"class indices are 0…{UNKNOWN - 1}, and {UNKNOWN} where nobody knows"
    return _as_bytes(whole_numbers(pixels, where), where, expected)


def whole_numbers(pixels, where: str) -> np.ndarray:
    """Check a mask in memory, whatever its values mean: (h, w) or (h, w, 1), whole numbers of any type, or bool.

    Raises:
        PatchTableError: fractions, or another shape.

    >>> whole_numbers(np.full((1, 2, 1), -1.0), "mask 0")
    array([[-1, -1]])
    """
    pixels = _as_array(pixels, where)
    if pixels.ndim != 2 or pixels.size == 0:
        raise PatchTableError(f"{where}: shape {pixels.shape}; a mask is one channel of class indices, (h, w)")
    if pixels.dtype.kind not in "biuf":
        raise PatchTableError(f"{where}: {pixels.dtype} values; class indices are whole numbers")
    if pixels.dtype.kind == "f":
        fractions = pixels[~np.isfinite(pixels) | (pixels != np.round(pixels))]
        if len(fractions):
            raise PatchTableError(f"{where}: value {fractions[0]:g}; class indices are whole numbers")
    return pixels.astype(np.int64)


def _as_array(pixels, where: str) -> np.ndarray:
    """Make an array of pixels, whose last axis goes if it is one channel."""
    try:
        array = np.asarray(pixels)
    except (TypeError, ValueError) as error:  # lists of rows that are not equally long
        raise PatchTableError(f"{where}: no array of pixels ({' '.join(str(error).split())})") from error
    return array[..., 0] if array.shape[2:] == (1,) else array


def _as_bytes(pixels: Integer[np.ndarray, "h w *c"], where: str, expected: str) -> UInt8[np.ndarray, "h w *c"]:
    for value in (pixels.min(), pixels.max()):
        if not 0 <= value <= 255:
            raise PatchTableError(f"{where}: value {value}; {expected}")
    return pixels.astype(np.uint8)
