"""Masks whose values are no class indices yet: translated value by value, colour by colour, or at a threshold."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from sedm.data.errors import PatchTableError
from sedm.data.pictures import (
    UNKNOWN,
    decode,
    encode,
    locate,
    mask_of_array,
    refuse_inverted,
    to_class_indices,
    to_grey,
    to_rgb,
    whole_numbers,
)

MaskValues = Mapping[Any, Any]
"""The class index, or ``UNKNOWN``, of each value (a whole number) or of each colour (a tuple of three)."""

Mask = Image.Image | Integer[np.ndarray, "h w"]


def check_mask_values(mask_values: MaskValues | None, mask_threshold: float | None = None) -> MaskValues | None:
    """Check what a caller says of the values in mask files, before any of them is read.

    Returns:
        ``mask_values`` with plain whole numbers, whatever type they came in.

    Raises:
        ValueError: both arguments, values and colours mixed, or an impossible value, colour, class or threshold.

    >>> check_mask_values({np.uint8(255): np.int64(1)})
    {255: 1}
    """
    if mask_threshold is not None:
        if mask_values is not None:
            raise ValueError(f"mask_values={dict(mask_values)} and mask_threshold={mask_threshold}; give one of them")
        if not 0 <= mask_threshold < 255:
            raise ValueError(f"mask_threshold={mask_threshold}; it lies in 0…254, and what is above it is class 1")
    if mask_values is None:
        return None
    argument = f"mask_values={dict(mask_values)}"
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


def class_indices(mask: Mask, mask_values: MaskValues, where: str) -> UInt8[np.ndarray, "h w"]:
    """Translate a mask to class indices, given what each of its values or colours means.

    Args:
        mask: its values are those of the one channel, of equal channels, or the indices of a palette.
        mask_values: as ``check_mask_values`` returns them.
        where: begins the message of a fault.

    Raises:
        PatchTableError: a value that ``mask_values`` does not name, or a colour mask where it names no colours.

    >>> class_indices(Image.new("RGB", (2, 1), "red"), {(255, 0, 0): 1}, "a.png")
    array([[1, 1]], dtype=uint8)
    """
    by_colour = any(isinstance(value, tuple) for value in mask_values)
    if not by_colour:
        codes = mask_of_values(mask, where)
    elif isinstance(mask, Image.Image):
        codes = np.asarray(to_rgb(mask, where)).astype(np.int64) @ (256 ** np.arange(3)[::-1])
    else:
        raise PatchTableError(f"{where}: an array of one channel, but mask_values names colours; name its values")
    present, places = np.unique(codes, return_inverse=True)
    index_of = {_code(value): index for value, index in mask_values.items()}
    unnamed = [code for code in present.tolist() if code not in index_of]
    if unnamed:
        code = unnamed[0]
        value = (code >> 16, code >> 8 & 255, code & 255) if by_colour else code
        known = ", ".join(map(str, mask_values))
        # one more value is a forgotten class, several between two are a smoothed border
        smoothed = len(unnamed) > 1 and len(mask_values) == 2 and not by_colour
        hint = "; where borders were smoothed pass mask_threshold=127 instead" if smoothed else ""
        raise PatchTableError(f"{where}: value {value} is not in mask_values, which has {known}{hint}")
    return np.array([index_of[code] for code in present.tolist()], np.uint8)[places].reshape(codes.shape)


def mask_of_values(mask: Mask, where: str) -> Integer[np.ndarray, "h w"]:
    """Read the values of a mask as its file holds them.

    Raises:
        PatchTableError: a colour mask.

    >>> mask_of_values(Image.new("RGB", (2, 1), "white"), "a.png")
    array([[255, 255]], dtype=uint8)
    """
    if not isinstance(mask, Image.Image):
        return mask
    return to_class_indices(mask, where) if mask.mode in ("1", "L", "P") else to_grey(mask, where)


def translate_masks(
    table: datasets.Dataset, name: str, mask_values: MaskValues | None = None, mask_threshold: float | None = None
) -> datasets.Dataset:
    """Replace the masks of a table, pictures or arrays, by class indices, held in memory as PNG.

    Args:
        name: of the table, for the message of a fault.
        mask_values: see ``class_indices``; without it, and without a threshold, the masks hold class indices.
        mask_threshold: pixels above it become class 1, the others class 0; black is 0 and white 255.

    Raises:
        PatchTableError: a mask that cannot be translated, or no value above the threshold in any mask but some below.

    >>> from sedm.data.patch_table import from_arrays
    >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
    >>> table = translate_masks(from_arrays(pixels, pixels[..., 0] + 191, ["a"]), "my_slides", mask_threshold=127)
    >>> np.unique(table[0]["mask"])
    array([1], dtype=uint8)
    """
    mask_values = check_mask_values(mask_values, mask_threshold)
    highest = 0

    def translate(stored: Any, row: int) -> dict:
        nonlocal highest
        if stored is None:
            return {"mask": None}
        where = f"{name}, row {row}, column 'mask'"
        mask = decode(stored, where) if isinstance(stored, dict) else whole_numbers(stored, where)
        where = locate(stored, where)
        refuse_inverted(mask, where)
        if mask_values is not None:
            pixels = class_indices(mask, mask_values, where)
        elif mask_threshold is not None:
            values = to_grey(mask, where) if isinstance(mask, Image.Image) else mask
            highest = max(highest, int(values.max()))
            pixels = (values > mask_threshold).astype(np.uint8)
        else:
            pixels = mask_of_array(mask, where)
        return {"mask": encode(pixels)}

    masks = table.select_columns("mask")
    if isinstance(table.features["mask"], datasets.Image):
        masks = masks.cast_column("mask", datasets.Image(decode=False))
    masks = masks.map(
        translate,
        with_indices=True,
        input_columns="mask",
        features=datasets.Features({"mask": datasets.Image()}),
        load_from_cache_file=False,  # what another version of this function made does not count
        new_fingerprint=uuid.uuid4().hex,  # so there is no need to hash the function, which takes seconds
        desc="translating masks",
    )
    if mask_threshold is not None and 0 < highest <= mask_threshold:
        raise PatchTableError(
            f"{name}: no mask holds a value above mask_threshold={mask_threshold}, the highest is {highest}; "
            "leave it out where masks hold class indices"
        )
    order = table.column_names
    return datasets.concatenate_datasets([table.remove_columns("mask"), masks], axis=1).select_columns(order)


def _whole(number: Any) -> Any:
    """A plain whole number, or a tuple of them, of whatever type of number."""
    if isinstance(number, tuple):
        return tuple(map(_whole, number))
    if int(number) != number:
        raise ValueError(f"{number!r} is no whole number")
    return int(number)


def _code(value: int | tuple[int, int, int]) -> int:
    """One number for a value or a colour."""
    return value[0] << 16 | value[1] << 8 | value[2] if isinstance(value, tuple) else value
