"""Masks whose values are no class indices yet: translated value by value, or colour by colour."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageColor

from sedm.data.errors import PatchTableError
from sedm.data.pictures import UNKNOWN, check_opaque, has_alpha, has_wide_integers, to_class_indices, to_grey, to_rgb

MaskCoding = Mapping[Any, Any]
"""The class index, or ``UNKNOWN``, of each value (a whole number) or of each colour (a tuple of three)."""

Mask = Image.Image | Integer[np.ndarray, "h w"]


def check_mask_values(mask_values: MaskCoding) -> MaskCoding:
    """Check what a caller says of the values in mask files, before any of them is read.

    Returns:
        ``mask_values`` with plain whole numbers, whatever type they came in.

    Raises:
        ValueError: values and colours mixed, or an impossible value, colour or class.

    >>> check_mask_values({np.uint8(255): np.int64(1)})
    {255: 1}
    """
    argument = f"mask_values={mask_values!r}"
    if not isinstance(mask_values, Mapping):
        raise ValueError(f"{argument}; give the class of each value, such as {{0: 0, 255: 1}}")
    if not mask_values or len({isinstance(value, tuple) for value in mask_values}) > 1:
        raise ValueError(f"{argument}; give the class of each value, or of each colour")
    try:
        plain = {_whole(value): _whole(index) for value, index in mask_values.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}; values, colours and classes are whole numbers") from error
    if not all(0 <= index <= UNKNOWN for index in plain.values()):
        raise ValueError(f"{argument}; class indices lie in 0…{UNKNOWN - 1}, and {UNKNOWN} is where nobody knows")
    for value in plain:
        if isinstance(value, tuple) and not (len(value) == 3 and all(0 <= part <= 255 for part in value)):
            raise ValueError(f"{argument}; a colour is red, green and blue, each 0…255")
    return plain


def class_indices(
    mask: Mask, mask_values: MaskCoding, where: str, named_in: str = "mask_values"
) -> UInt8[np.ndarray, "h w"]:
    """Translate a mask to class indices, given what each of its values or colours means.

    Args:
        mask: its values are those of the one channel, of equal channels, or the indices of a palette.
        mask_values: as ``check_mask_values`` returns them.
        where: the mask, for the error message.
        named_in: what the caller named the values in: "mask_values", or "classes", where colours are text.

    Raises:
        PatchTableError: a value that ``mask_values`` does not name, or a colour mask where it names no colours.

    >>> class_indices(Image.new("RGB", (2, 1), "red"), {(255, 0, 0): 1}, "a.png")
    array([[1, 1]], dtype=uint8)
    """
    by_colour = isinstance(next(iter(mask_values)), tuple)
    if not by_colour:
        codes = mask_codes(mask, where)
    elif isinstance(mask, Image.Image):
        check_opaque(mask, where)
        # one number for each colour
        codes = np.asarray(to_rgb(mask, where)) @ (256 ** np.arange(3)[::-1])
    else:
        raise PatchTableError(f"{where}: an array of one channel, but {named_in} names colours; name its values")
    present, places = _count(codes)
    values = [(code >> 16, code >> 8 & 255, code & 255) if by_colour else code for code in present.tolist()]
    unnamed = [value for value in values if value not in mask_values]
    if unnamed:
        written = _hexadecimal if by_colour and named_in == "classes" else str
        known = ", ".join(map(written, mask_values))
        # one more value is a forgotten class, several between two are a smoothed border
        smoothed = len(unnamed) > 1 and len(mask_values) == 2 and not by_colour
        hint = "; where borders were smoothed say mask_threshold=127 instead" if smoothed else ""
        message = f"{where}: value {written(unnamed[0])} is not in {named_in}, which has {known}{hint}"
        raise PatchTableError(message, value=unnamed[0])
    return np.array([mask_values[value] for value in values], np.uint8)[places].reshape(codes.shape)


def mask_codes(mask: Mask, where: str) -> Integer[np.ndarray, "h w"]:
    """Read the values of a mask, whatever they mean: of its one channel or equal channels, or indices of a palette.

    Raises:
        PatchTableError: a colour, or pixels that are not opaque.

    >>> mask_codes(Image.new("RGB", (2, 1), (7, 7, 7)), "a.png")
    array([[7, 7]], dtype=uint8)
    """
    if not isinstance(mask, Image.Image):
        return mask
    if has_wide_integers(mask):
        if has_alpha(mask):
            raise PatchTableError(f"{where}: a transparent value; save the mask without transparency")
        return np.asarray(mask)
    return to_class_indices(mask, where) if mask.mode in ("1", "L", "P") else to_grey(mask, where)


def code_classes(classes: Mapping[str, Any], unknown: Any = ()) -> MaskCoding:
    """Give the class index of each value or colour, from the values or colours of each class.

    Args:
        classes: of each class the value, or the list of values: whole numbers or colours as text.
        unknown: the value or values of pixels that nobody knows.

    Raises:
        ValueError: a class without a value, one that is neither number nor colour, or one of two classes.

    >>> code_classes({"stroma": [0, 3], "tumour": 1}, unknown=9)
    {0: 0, 3: 0, 1: 1, 9: 255}
    """
    coding: dict[Any, int] = {}
    names: dict[Any, str] = {}
    if not isinstance(classes, Mapping):
        raise ValueError(f"classes={classes!r}; name the value of each class in the masks")
    entries = [(name, values, index) for index, (name, values) in enumerate(classes.items())]
    for name, values, index in [*entries, ("unknown", unknown, UNKNOWN)]:
        values = list(values) if isinstance(values, (list, tuple)) else [values]
        if not values and index != UNKNOWN:
            raise ValueError(f"class {name!r} has no values; name those that it has in the masks")
        for value in values:
            if isinstance(value, str):
                value = parse_colour(value, f"class {name!r}")
            elif not isinstance(value, Integral) or isinstance(value, bool):
                raise ValueError(f"class {name!r}: {value!r}; a value is a whole number or a colour, such as '#ff0000'")
            if value in coding:
                raise ValueError(f"{value} is a value of {names[value]!r} and of {name!r}; give each its own")
            coding[value] = index
            names[value] = name
    return check_mask_values(coding) if coding else coding


def parse_colour(text: str, where: str) -> tuple[int, int, int]:
    """Read a colour without alpha, by name or as "#rrggbb".

    Raises:
        ValueError: ``where``, and the text.

    >>> parse_colour("#ff8000", "alpha")
    (255, 128, 0)
    """
    try:
        colour = ImageColor.getrgb(text)
    except ValueError as error:
        raise ValueError(f"{where}: {text!r} is no colour; write it as '#rrggbb' or by its name") from error
    if len(colour) != 3:
        raise ValueError(f"{where}: {text!r} is transparent itself; write a colour as '#rrggbb'")
    return colour


def _hexadecimal(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _count(codes: Integer[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray]:
    """Find the different values, in order, and the place of each pixel's value among them."""
    if codes.dtype != np.uint8:
        return np.unique(codes, return_inverse=True)
    is_present = np.bincount(codes.ravel(), minlength=256) > 0  # many times faster than sorting
    return np.flatnonzero(is_present), (np.cumsum(is_present) - 1)[codes]


def _whole(number: Any) -> Any:
    """Make a plain whole number, or a tuple of them, of whatever type of number."""
    if isinstance(number, tuple):
        return tuple(map(_whole, number))
    if int(number) != number:
        raise ValueError(f"{number!r} is no whole number")
    return int(number)
