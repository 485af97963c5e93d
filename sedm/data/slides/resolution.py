"""How large the pixels of a slide are, and who says so.

A file may say it in several places, and wrongly: tools that halve a slide keep its description, and a file that knows
nothing states the 72 dots an inch of a screen. So a statement counts when it can be true and the others agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import ParseError

from sedm.data.patch_table import PatchTableError
from sedm.runtime.extras import extra

with extra("slides"):
    from defusedxml import ElementTree
    from tiffslide import TiffSlide

COARSEST = 20.0  # µm a pixel; a file that claims more carries the resolution of a screen or printer
AGREEMENT = 1.01  # ratio up to which two sizes are the same
LEVEL_AGREEMENT = 1.1  # of two levels: some writers round the sides of a level, others its resolution
DESCRIPTION, OME_XML, TAGS = "its description", "its OME-XML", "its TIFF tags"  # who may state it
TAG_UNITS = {2: 25400.0, 3: 1e4, 4: 1e3, 5: 1.0}  # µm, of the tag ResolutionUnit: inch, cm, mm, µm (1 is no unit)
ADVICE = "give microns_per_pixel of its finest level (--microns-per-pixel on the command line)"
MICRONS = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}  # the first two: micro sign, Greek mu


class UnknownResolutionError(PatchTableError):
    """A slide whose file does not say, or not in a way that can be true, how large its pixels are."""


class Resolution(NamedTuple):
    """The size of a pixel of a slide's finest level, and where it was found."""

    microns_per_pixel: float
    source: str


def tiff_resolution(file: TiffSlide, path: str | Path) -> Resolution:
    """Find the resolution that a TIFF states: in its description, its tags, or its OME-XML.

    Args:
        path: of the slide, for the errors.

    Raises:
        UnknownResolutionError, PatchTableError: as :func:`choose_resolution`.

    >>> import tempfile, tifffile, numpy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
    ...     tifffile.imwrite(f"{folder}/a.tif", numpy.zeros((64, 64, 3), numpy.uint8), tile=(64, 64), **options)
    ...     with TiffSlide(f"{folder}/a.tif") as file:
    ...         tiff_resolution(file, "a.tif")
    Resolution(microns_per_pixel=0.25, source='its TIFF tags')
    """
    resolution = choose_resolution(_tiff_statements(file), path)
    described, size = _described_sizes(file), file.dimensions
    if resolution.source == DESCRIPTION and described and size not in described:
        width, height = described[0]
        raise UnknownResolutionError(
            f"{path}: {resolution.source} states {resolution.microns_per_pixel:g} µm/px, but of an image of "
            f"{width}×{height} px, and the file holds one of {size[0]}×{size[1]}; {ADVICE}"
        )
    _check_levels(file, path, resolution.microns_per_pixel)
    return resolution


def choose_resolution(statements: Mapping[str, tuple[float, float]], path: str | Path) -> Resolution:
    """Choose what to believe of what a file states.

    Args:
        statements: width and height of a pixel in microns by who states them, the most trusted first; NaN where
            unclear.
        path: of the slide, for the errors.

    Raises:
        UnknownResolutionError: none is stated, none that can be true, or several that contradict each other.
        PatchTableError: pixels that are not square.

    >>> choose_resolution({"its header": (0.25, 0.25)}, "a.dcm")
    Resolution(microns_per_pixel=0.25, source='its header')
    """
    stated = {
        source: sizes for source, sizes in statements.items() if all(math.isfinite(size) and size > 0 for size in sizes)
    }
    believable = {source: sizes for source, sizes in stated.items() if max(sizes) <= COARSEST}
    if not stated:
        raise UnknownResolutionError(f"{path}: the file states no resolution; {ADVICE}")
    if not believable:
        source, (x, _) = next(iter(stated.items()))
        sentence = f"{path}: the file states a resolution of {x:g} µm/px ({source})"
        raise UnknownResolutionError(f"{sentence}, but slides have {COARSEST:g} at most; {ADVICE}")
    (source, (x, y)), *others = believable.items()
    for other, sizes in others:
        if not 1 / AGREEMENT < sizes[0] / x < AGREEMENT:
            raise UnknownResolutionError(
                f"{path}: {x:g} µm/px according to {source}, but {sizes[0]:g} according to {other}; {ADVICE}"
            )
    if not 1 / AGREEMENT < x / y < AGREEMENT:
        raise PatchTableError(f"{path}: pixels of {x:g}×{y:g} µm; expected square ones")
    return Resolution((x + y) / 2, source)


def _tiff_statements(file: TiffSlide) -> dict[str, tuple[float, float]]:
    """Read width and height of a pixel in microns by who states them, the most trusted first; NaN where unclear."""
    properties, tiff = file.properties, file.ts_tifffile
    statements = {}
    if (tiff.is_svs and "aperio.MPP" in properties) or tiff.is_scn or tiff.is_philips:
        statements[DESCRIPTION] = tuple(_number(properties.get(f"tiffslide.mpp-{axis}")) for axis in "xy")
    if tiff.is_ome:
        statements[OME_XML] = _ome_sizes(tiff.ome_metadata)
    statements[TAGS] = tag_sizes(tiff.series[properties["tiffslide.series-index"]].keyframe.tags)
    return statements


def tag_sizes(tags: Any) -> tuple[float, float]:
    """Read width and height of a pixel in microns from the tags of a page, tifffile's; NaN where they do not say."""
    unit = TAG_UNITS.get(tags.valueof("ResolutionUnit"), math.nan)
    per_unit = (tags.valueof(f"{axis}Resolution", default=(0, 1)) for axis in "XY")
    return tuple(unit * below / above if above else math.nan for above, below in per_unit)


def _check_levels(file: TiffSlide, path: str | Path, microns_per_pixel: float) -> None:
    """Refuse a file whose coarser levels state pixels that are neither as many times larger nor, copied, the same."""
    if "tiffslide.series-composition" in file.properties:  # of several scans
        return
    levels = file.ts_tifffile.series[file.properties["tiffslide.series-index"]].levels
    for level, scale in enumerate(file.level_downsamples):
        size, _ = tag_sizes(levels[level].keyframe.tags)
        ratio = size / microns_per_pixel
        agrees = 1 / AGREEMENT < ratio < AGREEMENT or 1 / LEVEL_AGREEMENT < ratio / scale < LEVEL_AGREEMENT
        if size <= COARSEST and not agrees:
            raise UnknownResolutionError(
                f"{path}: level {level} states {size:g} µm/px, but it is {scale:g} times coarser than level 0 of "
                f"{microns_per_pixel:g} µm/px; {ADVICE}"
            )


def _number(value: object) -> float:
    try:
        return float(str(value).replace(",", "."))  # a scanner may write as its country does
    except ValueError:
        return math.nan


def _ome_sizes(xml: str) -> tuple[float, float]:
    try:
        parts = list(ElementTree.fromstring(xml, forbid_dtd=True).iter())
    except (ParseError, ValueError):  # the second: with entities
        parts = []
    stated = next((part.attrib for part in parts if part.tag.endswith("}Pixels")), {})
    return tuple(
        _number(stated.get(f"PhysicalSize{axis}")) * MICRONS.get(stated.get(f"PhysicalSize{axis}Unit", "µm"), math.nan)
        for axis in "XY"
    )


def _described_sizes(file: TiffSlide) -> list[tuple[int, int]]:
    """Read the widths and heights of the scans and cuts in an Aperio description; none from other descriptions."""
    if not file.ts_tifffile.is_svs:
        return []
    # "46920x33014 [0,100 46000x32914] (256x256) JPEG/RGB Q=30|MPP = 0.4990": the scan, the part kept, the tiles; what
    # is scaled down afterwards, "46000x32914 -> 1024x732", keeps the MPP of the scan
    steps = re.sub(r"\(\d+x\d+\)|->\s*\d+x\d+", "", file.properties["tiff.ImageDescription"].split("|")[0])
    return [(int(width), int(height)) for width, height in re.findall(r"(\d+)x(\d+)", steps)]
