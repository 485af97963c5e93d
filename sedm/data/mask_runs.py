"""Masks as text of run lengths, as tables of Kaggle and COCO hold them, decoded to pixels.

Both go down the columns. Kaggle's text is "start length start length …", where the first pixel is 1. COCO's tells the
lengths outside and inside in turn, as numbers or compressed to text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sedm.data.errors import PatchTableError

EXPECTED = "expected 'start length start length …' (from 1, down the columns), or the counts of COCO"

STARTS = r"\d+(\s+\d+)+"


def decode_runs(stored: Any, size: tuple[int, int], where: str) -> UInt8[np.ndarray, "h w"]:
    """Decode a mask from its run lengths: 1 inside, 0 outside.

    Args:
        stored: Kaggle's text; COCO's compressed text; or COCO's {"size": [height, width], "counts": numbers or text},
            also as JSON.
        size: width and height of the image, px.
        where: the mask, for the error message.

    Raises:
        PatchTableError: text that is neither, runs that overlap or leave the image, or the size of another image.

    >>> decode_runs("2 1 4 3", (3, 2), "row 0")
    array([[0, 0, 1],
           [1, 1, 1]], dtype=uint8)
    >>> decode_runs({"size": [2, 3], "counts": [1, 1, 1, 3]}, (3, 2), "row 0")
    array([[0, 0, 1],
           [1, 1, 1]], dtype=uint8)
    """
    width, height = size
    try:
        if isinstance(stored, str) and stored.lstrip().startswith("{"):
            stored = json.loads(stored)
        if isinstance(stored, Mapping):
            stated = list(stored.get("size") or ())
            if stated != [height, width]:
                raise ValueError(f"size {stated}, but the image has [height, width] = {[height, width]}")
            counts = _counts(stored.get("counts"))
        elif not isinstance(stored, str):
            raise ValueError(f"{str(stored)[:50]!r}; {EXPECTED}")
        elif re.fullmatch(STARTS, stored.strip()):
            counts = _counts_of_starts([int(number) for number in stored.split()], height * width)
        else:
            counts = decode_counts(stored.strip())
        if min(counts, default=0) < 0 or sum(counts) != height * width:
            raise ValueError(f"counts of {sum(counts)} pixels in all; the image has {height}×{width}")
    except ValueError as error:
        raise PatchTableError(f"{where}: run lengths: {error}", value=str(stored)[:50]) from error
    inside = np.arange(len(counts), dtype=np.uint8) % 2
    return np.repeat(inside, counts).reshape(width, height).T


def holds_runs(stored: Any) -> bool:
    """Tell whether what a table stores can be nothing but run lengths: numbers, or COCO's size and counts.

    >>> holds_runs("1 3 10 5"), holds_runs('{"size": [2, 3], "counts": "06"}'), holds_runs("masks/a 1.png")
    (True, True, False)
    """
    if isinstance(stored, str):
        return re.fullmatch(STARTS, stored.strip()) is not None or stored.lstrip().startswith("{")
    return isinstance(stored, Mapping) and "counts" in stored


def decode_counts(text: str) -> list[int]:
    """Read the lengths of runs from COCO's compressed text.

    Each length is written in digits of five bits, lowest first, as characters from ``0``; a sixth bit says that more
    follow, and the highest bit of the last digit is the sign. From the fourth on, it is the difference to the length
    two before.
    Source: github.com/cocodataset/cocoapi, common/maskApi.c, rleFrString.

    Raises:
        ValueError: a character that is no digit, or a text that breaks off.

    >>> decode_counts("0P8")
    [0, 256]
    """
    counts: list[int] = []
    value, shift = 0, 0
    for place, character in enumerate(text, start=1):
        digit = ord(character) - ord("0")
        if not 0 <= digit < 64:
            raise ValueError(f"character {place} of the counts is {character!r}; expected '0' to 'o'")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the counts break off within a number")
    return counts


def _counts(counts: Any) -> list[int]:
    """Read the lengths outside and inside in turn, as numbers or as text."""
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    if isinstance(counts, str):
        return decode_counts(counts)
    if not isinstance(counts, Sequence) or not all(type(count) is int for count in counts):
        raise ValueError(f"counts {str(counts)[:50]!r}; {EXPECTED}")
    return list(counts)


def _counts_of_starts(numbers: list[int], n_pixels: int) -> list[int]:
    """Turn starts and lengths into lengths outside and inside in turn."""
    if len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers, the last start has no length; {EXPECTED}")
    counts: list[int] = []
    end = 1  # the first pixel after the last run
    for start, length in sorted(zip(numbers[::2], numbers[1::2], strict=True)):
        if start < end:
            fault = "starts count from 1" if start < 1 else f"the run before it ends at {end - 1}"
            raise ValueError(f"a run starts at {start}, but {fault}")
        counts += [start - end, length]
        end = start + length
    if end - 1 > n_pixels:
        raise ValueError(f"a run ends at {end - 1}, but the image has {n_pixels} pixels")
    return [*counts, n_pixels - end + 1]
