"""Masks whose values are no class indices yet: translated value by value, colour by colour, or at a threshold."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import datasets
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from sedm.data.errors import PatchTableError
from sedm.data.pictures import UNKNOWN, decode, encode, locate, to_class_indices, to_grey, to_rgb
from sedm.data.pixel_arrays import mask_of_array, whole_numbers

MaskCoding = Mapping[Any, Any]
"""The class index, or ``UNKNOWN``, of each value (a whole number) or of each colour (a tuple of three)."""

Mask = Image.Image | Integer[np.ndarray, "h w"]


def check_mask_values(mask_values: MaskCoding | None, mask_threshold: float | None = None) -> MaskCoding | None:
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
            raise ValueError(f"mask_values={mask_values} and mask_threshold={mask_threshold}; give one of them")
        if not isinstance(mask_threshold, Real) or not 0 <= mask_threshold < 255:
            raise ValueError(
                f"mask_threshold={mask_threshold!r}; it lies in 0…254 and is a number: what is above it is class 1"
            )
    if mask_values is None:
        return None
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


def class_indices(mask: Mask, mask_values: MaskCoding, where: str) -> UInt8[np.ndarray, "h w"]:
    """Translate a mask to class indices, given what each of its values or colours means.

    Args:
        mask: its values are those of the one channel, of equal channels, or the indices of a palette.
        mask_values: as ``check_mask_values`` returns them.
        where: the mask, for the error message.

    Raises:
        PatchTableError: a value that ``mask_values`` does not name, or a colour mask where it names no colours.

    >>> class_indices(Image.new("RGB", (2, 1), "red"), {(255, 0, 0): 1}, "a.png")
    array([[1, 1]], dtype=uint8)
    """
    by_colour = isinstance(next(iter(mask_values)), tuple)
    if not isinstance(mask, Image.Image):
        codes = mask
        if by_colour:
            raise PatchTableError(f"{where}: an array of one channel, but mask_values names colours; name its values")
    elif by_colour:  # one number for each colour
        codes = np.asarray(to_rgb(mask, where)) @ (256 ** np.arange(3)[::-1])
    else:
        codes = to_class_indices(mask, where) if mask.mode in ("1", "L", "P") else to_grey(mask, where)
    present, places = np.unique(codes, return_inverse=True)
    values = [(code >> 16, code >> 8 & 255, code & 255) if by_colour else code for code in present.tolist()]
    unnamed = [value for value in values if value not in mask_values]
    if unnamed:
        known = ", ".join(map(str, mask_values))
        # one more value is a forgotten class, several between two are a smoothed border
        smoothed = len(unnamed) > 1 and len(mask_values) == 2 and not by_colour
        hint = "; where borders were smoothed pass mask_threshold=127 instead" if smoothed else ""
        raise PatchTableError(f"{where}: value {unnamed[0]} is not in mask_values, which has {known}{hint}")
    return np.array([mask_values[value] for value in values], np.uint8)[places].reshape(codes.shape)


def translate_masks(
    table: datasets.Dataset, name: str, mask_values: MaskCoding | None = None, mask_threshold: float | None = None
) -> datasets.Dataset:
    """Replace the masks of a table, pictures or arrays, by class indices, stored as PNG.

    Args:
        name: of the table, for the error message.
        mask_values: see ``class_indices``; without it, and without a threshold, the masks are arrays of class indices.
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

    def translate(stored: Any, where: str) -> UInt8[np.ndarray, "h w"]:
        nonlocal highest
        mask = decode(stored, where, is_mask=True) if isinstance(stored, dict) else whole_numbers(stored, where)
        where = locate(stored, where)
        if mask_values is not None:
            return class_indices(mask, mask_values, where)
        if mask_threshold is None:
            return mask_of_array(mask, where)
        values = to_grey(mask, where) if isinstance(mask, Image.Image) else mask
        highest = max(highest, int(values.max()))
        return (values > mask_threshold).astype(np.uint8)

    translated = map_pictures(table, "mask", translate, name)
    if mask_threshold is not None and 0 < highest <= mask_threshold:
        raise PatchTableError(
            f"{name}: no mask holds a value above mask_threshold={mask_threshold}, the highest is {highest}; "
            "leave it out where masks hold class indices"
        )
    return translated


def map_pictures(
    table: datasets.Dataset, column: str, function: Callable[[Any, str], np.ndarray], name: str
) -> datasets.Dataset:
    """Replace what one column stores by the pixels that a function makes of it, as PNG; what is null stays so.

    Args:
        function: takes the stored picture or array, and the name of its row for the error message.
        name: of the table.

    >>> table = datasets.Dataset.from_dict({"group": ["a"], "mask": [[[0, 1]]]})
    >>> map_pictures(table, "mask", lambda rows, where: np.array(rows, np.uint8), "my_slides")[0]["mask"].size
    (2, 1)
    """
    pictures = table.select_columns(column)
    if isinstance(table.features[column], datasets.Image):
        pictures = pictures.cast_column(column, datasets.Image(decode=False))

    def encode_row(stored: Any, row: int) -> dict:
        pixels = None if stored is None else function(stored, f"{name}, row {row}, column {column!r}")
        return {column: None if pixels is None else encode(pixels)}

    pictures = pictures.map(
        encode_row,
        with_indices=True,
        input_columns=column,
        features=datasets.Features({column: datasets.Image()}),
        load_from_cache_file=False,  # what another version of the function made does not count
        new_fingerprint=uuid.uuid4().hex,  # so there is no need to hash the function, which takes seconds
        desc=f"encoding column {column!r}",
    )
    others = table.remove_columns(column)
    return datasets.concatenate_datasets([others, pictures], axis=1).select_columns(table.column_names)


def _whole(number: Any) -> Any:
    """Make a plain whole number, or a tuple of them, of whatever type of number."""
    if isinstance(number, tuple):
        return tuple(map(_whole, number))
    if int(number) != number:
        raise ValueError(f"{number!r} is no whole number")
    return int(number)
