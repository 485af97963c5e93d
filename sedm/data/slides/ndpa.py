"""Polygons from the XML of Hamamatsu's NDP.view, ``.ndpa``.

Places are in nanometres from the centre of the glass slide, so they mean something only with the scan beside it, which
says where its own centre lies and how large its pixels are. The title of an annotation says what it shows, or its
colour where it has none.
Source: openslide.org/formats/hamamatsu, and github.com/computationalpathologygroup/ASAP, NDPARepository.cpp.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.polygons import Polygon, as_points, as_polygon, ellipse_ring
from sedm.data.slides.slide import Slide
from sedm.data.slides.xml_files import read_number

UNIT = "nanometers"


def read_ndpa(path: Path, root: Element, slide: Slide | None) -> tuple[list[Polygon], Counter[str]]:
    """Read the polygons of a slide in the order of the file; circles become polygons as well.

    Args:
        slide: the scan that was annotated.

    Returns:
        The polygons, and how many annotations were left out for which reason.

    Raises:
        PatchTableError: no slide, or one that does not say where it lies; another unit; or a place that is nowhere, by
            its annotation.
    """
    if slide is None:
        raise PatchTableError(f"{path}: counts in nanometres from the centre of the glass; give the slide as well")
    polygons: list[Polygon] = []
    left_out: Counter[str] = Counter()
    for number, view in enumerate(root.iter("ndpviewstate"), start=1):
        title = (view.findtext("title") or "").strip()
        annotation = view.find("annotation")
        if annotation is None:
            left_out["no outline"] += 1
            continue
        unit = view.findtext("coordformat") or UNIT
        if unit != UNIT:
            raise PatchTableError(f"{path}: annotation {number} ({title!r}) counts in {unit!r}; expected {UNIT}")
        try:
            ring = _outline(annotation)
            if isinstance(ring, str):
                left_out[ring] += 1
                continue
            polygon = as_polygon(title or annotation.get("color", ""), slide.pixels_of_nanometres(ring))
        except PatchTableError:
            raise
        except ValueError as error:
            raise PatchTableError(f"{path}: annotation {number} ({title!r}): {error}") from error
        if polygon:
            polygons.append(polygon)
        else:
            left_out["no area"] += 1
    return polygons, left_out


def _outline(annotation: Element) -> np.ndarray | str:
    """Read the outline of an annotation in nanometres, or why it has none."""
    kind = annotation.get("type", "")
    if kind == "circle":
        numbers = [read_number(annotation.findtext(name)) for name in ("x", "y", "radius")]
        centre, (radius, _) = as_points([numbers[:2], [numbers[2], 0]])
        return ellipse_ring(centre, np.full(2, abs(radius)))
    if kind != "freehand":
        return kind or "no outline"
    if annotation.findtext("closed") == "0":
        return "open line"
    return as_points([(read_number(p.findtext("x")), read_number(p.findtext("y"))) for p in annotation.iter("point")])
