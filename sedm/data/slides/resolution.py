"""How large the pixels of a slide are, and who says so.

A file may say it in several places, and wrongly: tools that halve a slide keep its description, and a file that knows
nothing states the 72 dots an inch of a screen. So a statement counts when it can be true and the others agree.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from sedm.data.patch_table import PatchTableError
from sedm.runtime.extras import extra

with extra("slides"):
    from tiffslide import TiffSlide

COARSEST = 20.0  # µm a pixel; a file that claims more carries the resolution of a screen or printer
AGREEMENT = 1.01  # ratio up to which two sizes are the same
DESCRIPTION, OME_XML, TAGS = "its description", "its OME-XML", "its TIFF tags"  # who may state it
TAG_UNITS = {2: 25400.0, 3: 1e4, 4: 1e3, 5: 1.0}  # µm, of the tag ResolutionUnit: inch, cm, mm, µm (1 is no unit)
MICRONS = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}  # the first two: micro sign, Greek mu


class UnknownResolutionError(PatchTableError):
    """A slide whose file does not say, or not in a way that can be true, how large its pixels are."""


class Resolution(NamedTuple):
    """The size of a pixel of a slide's finest level, and where it was found."""

    microns_per_pixel: float
    source: str


def stated_resolution(file: TiffSlide, path: str | Path) -> Resolution:
    """Find the resolution that a slide's file states: in its description, its TIFF tags, or its OME-XML.

    Args:
        path: of the slide, for the errors.

    Raises:
        UnknownResolutionError: none is stated, none that can be true, or several that contradict each other.
        PatchTableError: pixels that are not square.

    >>> import tempfile, tifffile, numpy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
    ...     tifffile.imwrite(f"{folder}/a.tif", numpy.zeros((64, 64, 3), numpy.uint8), tile=(64, 64), **options)
    ...     with TiffSlide(f"{folder}/a.tif") as file:
    ...         stated_resolution(file, "a.tif")
    Resolution(microns_per_pixel=0.25, source='its TIFF tags')
    """
    advice = "give microns_per_pixel of its finest level (--microns-per-pixel on the command line)"
    statements = {
        source: sizes
        for source, sizes in _statements(file).items()
        if all(math.isfinite(size) and size > 0 for size in sizes)
    }
    believable = {source: sizes for source, sizes in statements.items() if max(sizes) <= COARSEST}
    if not statements:
        raise UnknownResolutionError(f"{path}: the file states no resolution; {advice}")
    if not believable:
        source, (x, _) = next(iter(statements.items()))
        sentence = f"{path}: the file states a resolution of {x:g} µm/px ({source})"
        raise UnknownResolutionError(f"{sentence}, but slides have {COARSEST:g} at most; {advice}")
    (source, (x, y)), *others = believable.items()
    for other, sizes in others:
        if not 1 / AGREEMENT < sizes[0] / x < AGREEMENT:
            raise UnknownResolutionError(
                f"{path}: {x:g} µm/px according to {source}, but {sizes[0]:g} according to {other}; {advice}"
            )
    described, size = _described_sizes(file), file.dimensions
    if source == DESCRIPTION and described and size not in described:
        width, height = described[0]
        raise UnknownResolutionError(
            f"{path}: {source} states {x:g} µm/px, but of an image of {width}×{height} px, and the file holds one of "
            f"{size[0]}×{size[1]}; {advice}"
        )
    if not 1 / AGREEMENT < x / y < AGREEMENT:
        raise PatchTableError(f"{path}: pixels of {x:g}×{y:g} µm; expected square ones")
    return Resolution((x + y) / 2, source)


def _statements(file: TiffSlide) -> dict[str, tuple[float, float]]:
    """Read width and height of a pixel in microns by who states them, the most trusted first; NaN where unclear."""
    properties, tiff = file.properties, file.ts_tifffile
    statements = {}
    if (tiff.is_svs and "aperio.MPP" in properties) or tiff.is_scn or tiff.is_philips:
        statements[DESCRIPTION] = tuple(_number(properties.get(f"tiffslide.mpp-{axis}")) for axis in "xy")
    if tiff.is_ome:
        statements[OME_XML] = _ome_sizes(tiff.ome_metadata)
    tags = tiff.series[properties["tiffslide.series-index"]].keyframe.tags
    unit = TAG_UNITS.get(tags.valueof("ResolutionUnit"))
    if unit is not None:
        per_unit = (tags.valueof(f"{axis}Resolution", default=(0, 1)) for axis in "XY")
        statements[TAGS] = tuple(unit * below / above if above else math.nan for above, below in per_unit)
    return statements


def _number(value: object) -> float:
    try:
        return float(str(value).replace(",", "."))  # a scanner may write as its country does
    except ValueError:
        return math.nan


def _ome_sizes(xml: str) -> tuple[float, float]:
    try:
        parts = list(ElementTree.fromstring(xml).iter())
    except ElementTree.ParseError:
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
