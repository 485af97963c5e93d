"""Reading what a row stores as RGB pixels and class indices, in the way that a source format says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from sedm.data.errors import PatchTableError, Report, raise_fault
from sedm.data.mask_runs import decode_runs
from sedm.data.mask_values import class_indices, mask_codes
from sedm.data.pictures import (
    check_opaque,
    decode,
    decode_mask,
    has_alpha,
    has_wide_integers,
    is_deep,
    load_picture,
    locate,
    open_picture,
    to_grey,
    to_rgb,
)
from sedm.data.pixel_arrays import image_of_array, mask_of_array, whole_numbers
from sedm.data.source_format import SourceFormat

PERCENTILES = (0.1, 99.9)
"""Of the values of an image: what ``intensity_range="image"`` makes 0 and 255."""
FULL_RANGE = (0, 2**16 - 1)

Stored = Any
"""What a table holds: {"bytes", "path"}, a picture of Pillow, an array or nested lists, or text of run lengths."""


@dataclass(frozen=True)
class Reading:
    """The pixels of one row."""

    image: Image.Image  # RGB
    mask: UInt8[np.ndarray, "h w"] | None  # class indices; None where nobody annotated
    intensities: tuple[float, float] = (0, 255)  # the values of the stored image that became 0 and 255


@dataclass(frozen=True)
class PatchReader:
    """Reads images and masks as a source format says; ``where`` names the row at the beginning of each error message.

    >>> reader = PatchReader(SourceFormat(mask_threshold=127))
    >>> reader.read_mask([[0, 200]], "row 0")
    array([[0, 1]], dtype=uint8)
    """

    source_format: SourceFormat = field(default_factory=SourceFormat)
    maxima: set[int] = field(default_factory=set)  # the highest value of each mask that met the threshold

    def read(self, image: Stored, mask: Stored, where: str, report: Report = raise_fault) -> Reading | None:
        """Read what a row stores; None after a fault of the image.

        Args:
            report: is told each fault: no image, an image or a mask that the format does not describe, a mask of
                another size than its image, an image smaller than a tile.

        >>> reading = PatchReader().read(np.zeros((8, 8, 3), np.uint8), None, "row 0")
        >>> reading.image.size, reading.mask
        ((8, 8), None)
        """
        picture, pixels = None, None
        try:
            picture, intensities = self.read_image(image, f"{where}, column 'image'")
        except PatchTableError as fault:
            report(fault.at(_file(image), column="image"))
        try:
            if mask is not None and (picture or self.source_format.mask_kind != "run-lengths"):
                pixels = self.read_mask(mask, f"{where}, column 'mask'", picture and picture.size)
        except PatchTableError as fault:
            report(fault.at(_file(mask), column="mask"))
        if picture is None:
            return None
        if pixels is not None and pixels.shape[::-1] != picture.size:
            height, width = pixels.shape
            place = locate(mask, f"{where}, column 'mask'")
            message = f"size {width}×{height}, but the image is {picture.width}×{picture.height}"
            remedy = "a mask is as large as its image"
            fault = PatchTableError(f"{place}: {message}; {remedy}", value=f"{width}×{height}")
            report(fault.at(_file(mask), column="mask"))
            pixels = None
        side = self.source_format.tile_size
        if side > min(self.source_format.scaled(picture.size)):
            place = locate(image, f"{where}, column 'image'")
            message = f"{picture.width}×{picture.height} px, at scale={self.source_format.scale} less than a tile"
            fault = PatchTableError(f"{place}: {message}; choose a tile_size below {side}, or leave the picture out")
            report(fault.at(_file(image), column="image"))
            return None
        return Reading(picture, pixels, intensities)

    def read_image(self, stored: Stored, where: str) -> tuple[Image.Image, tuple[float, float]]:
        """Read an image as RGB, and the values in it that became 0 and 255.

        Raises:
            PatchTableError: no image, or one that 8 bits of RGB cannot hold and the format does not say how.

        >>> deep = Image.fromarray(np.array([[100, 4195]], np.uint16))
        >>> image, intensities = PatchReader(SourceFormat(intensity_range=[100, 4195])).read_image(deep, "row 0")
        >>> image.getdata()[1], intensities
        ((255, 255, 255), (100, 4195))
        """
        if stored is None:
            raise PatchTableError(f"{where}: null; only masks may be missing")
        if not isinstance(stored, (Mapping, Image.Image)):
            return Image.fromarray(image_of_array(stored, where)).convert("RGB"), (0, 255)
        bounds, alpha = self.source_format.intensity_range, self.source_format.alpha
        if bounds == "":
            return to_rgb(decode(stored, where), locate(stored, where), alpha), (0, 255)
        picture = open_picture(stored, where)
        where = locate(stored, where)
        was_deep = is_deep(picture)
        load_picture(picture, where)
        intensities = (0, 255)
        if picture.mode == "F" or has_wide_integers(picture):
            picture, intensities = _to_8_bits(picture, bounds, where)
        elif was_deep:  # Pillow keeps the upper 8 bits of each channel
            intensities = FULL_RANGE
            if bounds != "full" and tuple(bounds) != FULL_RANGE:
                remedy = "they can be read with intensity_range='full' only; save grey images, or 8 bits"
                raise PatchTableError(f"{where}: colours of 16 bits a channel; {remedy}", value=picture.mode)
        return to_rgb(picture, where, alpha), intensities

    def read_mask(self, stored: Stored, where: str, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "h w"]:
        """Read a mask as class indices.

        Args:
            size: width and height of its image, px, without which run lengths mean nothing.

        Raises:
            PatchTableError: a mask that the format does not describe.

        >>> PatchReader(SourceFormat(mask_kind="instances")).read_mask([[0, 1, 300]], "row 0")
        array([[0, 1, 1]], dtype=uint8)
        """
        source = self.source_format
        if source.mask_kind == "run-lengths":
            return decode_runs(stored, size, where)
        is_picture = isinstance(stored, (Mapping, Image.Image))
        if source.mask_kind == "classes" and source.coding is None and source.mask_threshold is None:
            return decode_mask(stored, where) if is_picture else mask_of_array(stored, where)
        mask = decode(stored, where, is_mask=True) if is_picture else whole_numbers(stored, where)
        where = locate(stored, where)
        if source.coding is not None:
            named_in = "mask_values" if source.mask_values is not None else "classes"
            return class_indices(mask, source.coding, where, named_in)
        if source.mask_kind == "instances":
            return _objects(mask, where)
        is_shown = is_picture and not has_wide_integers(mask)  # black is 0 and white 255, in whatever mode
        values = to_grey(mask, where) if is_shown else mask_codes(mask, where)
        self.maxima.add(int(values.max()))
        return (values > source.mask_threshold).astype(np.uint8)

    def refuse_threshold(self, name: str) -> None:
        """Refuse a threshold that no value of any mask read so far was above, though some were above 0.

        Raises:
            PatchTableError: ``name``, the threshold and the highest value.
        """
        threshold = self.source_format.mask_threshold
        highest = max(self.maxima, default=0)
        if threshold is not None and 0 < highest <= threshold:
            raise PatchTableError(
                f"{name}: no mask holds a value above mask_threshold={threshold}, the highest is {highest}; "
                "leave it out where masks hold class indices",
                column="mask",
                value=highest,
            )


def _objects(mask: Image.Image | Integer[np.ndarray, "h w"], where: str) -> UInt8[np.ndarray, "h w"]:
    """Find the pixels of objects: those that are not 0, or not black where each object has a colour."""
    if isinstance(mask, Image.Image) and len(mask.getbands()) > 2:
        check_opaque(mask, where)
        return np.asarray(to_rgb(mask, where)).any(axis=-1).astype(np.uint8)
    values = mask_codes(mask, where)
    if values.min() < 0:
        raise PatchTableError(f"{where}: value {values.min()}; objects are numbered from 1", value=int(values.min()))
    return (values > 0).astype(np.uint8)


def _to_8_bits(picture: Image.Image, bounds: Any, where: str) -> tuple[Image.Image, tuple[float, float]]:
    """Scale a deep grey image to 8 bits, and say which of its values became 0 and 255."""
    if has_alpha(picture):
        raise PatchTableError(f"{where}: a transparent value among 16 bits; save it without transparency")
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise PatchTableError(f"{where}: a value that is no number; an image is finite everywhere", value=float("nan"))
    if bounds == "full":
        if not picture.mode.startswith("I;16"):
            remedy = "intensity_range='full' is for 16 bits; give [low, high]"
            raise PatchTableError(f"{where}: 32 bits or floats (mode {picture.mode}); {remedy}", value=picture.mode)
        low, high = FULL_RANGE
    elif bounds == "image":
        low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    else:
        low, high = bounds
    scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny) * 255
    return Image.fromarray(np.round(scaled.clip(0, 255)).astype(np.uint8)), (low, high)


def _file(stored: Stored) -> str | None:
    return stored.get("path") if isinstance(stored, Mapping) else None
