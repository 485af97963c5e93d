"""Polygons from the XML of Aperio ImageScope, and from HALO's ``.annotations``, which is built alike.

A layer says what its regions show: by its name, its description, or, where it has neither, its colour (``#ffff00``). A
negative region is a hole in the areas of its own layer. ImageScope counts its kinds of regions, HALO names them; both
keep an ellipse as two opposite corners of its box, and HALO a rectangle as well.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.polygons import Polygon, as_points, ellipse_ring, fill_ring, rectangle_ring
from sedm.data.slides.xml_files import read_number
from sedm.runtime.extras import extra

with extra("slides"):
    import shapely

POLYGON, RECTANGLE, ELLIPSE = "polygon", "rectangle", "ellipse"
KINDS = {"0": POLYGON, "1": RECTANGLE, "2": ELLIPSE, "3": "arrow", "4": "ruler"}
"""What ImageScope's numbers mean; HALO writes ``Polygon``, ``Rectangle``, ``Ellipse``, ``Ruler`` and ``Pin``."""


class Region(NamedTuple):
    """One drawn area of a layer."""

    shape: shapely.Geometry
    name: str
    is_hole: bool


def read_imagescope(path: Path, root: Element) -> tuple[list[Polygon], Counter[str]]:
    """Read the polygons of a slide, layer by layer in the order of the file.

    A hole is taken out of each area of its layer, but not out of one that lies wholly within it: that is an island.

    Returns:
        The polygons, and how many regions were left out for which reason.

    Raises:
        PatchTableError: a corner that is nowhere, by its layer and region.

    >>> from xml.etree.ElementTree import fromstring
    >>> def region(start, end, **attributes):
    ...     corners = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in [(start, start), (end, end)])
    ...     stated = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    ...     return f'<Region {stated}><Vertices>{corners}</Vertices></Region>'
    >>> layer = region(0, 6, Type="1") + region(4, 8, Type="1", NegativeROA="1")
    >>> layer = f'<Annotation Name="Tumor"><Regions>{layer}</Regions></Annotation>'
    >>> root = fromstring(f"<Annotations>{layer}</Annotations>")
    >>> [(polygon.class_name, polygon.shape.area) for polygon in read_imagescope(Path("a.xml"), root)[0]]
    [('Tumor', 32.0)]
    """
    polygons: list[Polygon] = []
    left_out: Counter[str] = Counter()
    for layer in root.iter("Annotation"):
        class_name = _class_name(layer)
        regions = []
        for number, element in enumerate(layer.iter("Region"), start=1):
            try:
                region = _read_region(element)
            except ValueError as error:
                label = element.get("Id", number)
                raise PatchTableError(f"{path}: layer {class_name!r}, region {label}: {error}") from error
            if isinstance(region, Region):
                regions.append(region)
            else:
                left_out[region] += 1
        polygons += _without_holes(class_name, regions, left_out)
    return polygons, left_out


def _class_name(layer: Element) -> str:
    """Find what the regions of a layer show."""
    descriptions = [
        attribute.get("Value", "")
        for attribute in layer.iterfind("Attributes/Attribute")
        if attribute.get("Name") == "Description"
    ]
    for name in (layer.get("Name", ""), *descriptions):
        if name.strip():
            return name.strip()
    try:
        colour = int(layer.get("LineColor", ""))
    except ValueError:
        return ""
    return "#" + (colour & 0xFFFFFF).to_bytes(3, "little").hex()  # red is the lowest byte


def _read_region(element: Element) -> Region | str:
    """Read one region, or why it is none."""
    kind = element.get("Type", "0")
    kind = KINDS.get(kind, kind.lower() if kind.isalpha() else f"unknown type {kind!r}")
    if kind not in (POLYGON, RECTANGLE, ELLIPSE):
        return kind
    vertices = [*element.iterfind("Vertices/Vertex"), *element.iterfind("Vertices/V")]
    corners = as_points([(read_number(vertex.get("X")), read_number(vertex.get("Y"))) for vertex in vertices])
    if kind == RECTANGLE and len(corners) == 2:
        corners = rectangle_ring(corners)
    elif kind == ELLIPSE and len(corners):
        first, last = corners.min(0), corners.max(0)
        corners = ellipse_ring((first + last) / 2, (last - first) / 2)
    shape = fill_ring(corners)
    if not shape.area:
        return "no area"
    return Region(shape, element.get("Text", ""), is_hole=element.get("NegativeROA") == "1")


def _without_holes(class_name: str, regions: list[Region], left_out: Counter[str]) -> list[Polygon]:
    """Take the holes of a layer out of its areas, and count those that take nothing."""
    shapes = {row: region.shape for row, region in enumerate(regions) if not region.is_hole}
    for hole in (region.shape for region in regions if region.is_hole):
        # by the areas as drawn: one that another hole has cut is no island
        cut = [row for row in shapes if hole.intersects(regions[row].shape) and not hole.covers(regions[row].shape)]
        if not any(hole.intersection(regions[row].shape).area for row in cut):
            left_out["hole beside all areas"] += 1
        for row in cut:
            shapes[row] = shapes[row].difference(hole)
    left_out["no area"] += sum(not shape.area for shape in shapes.values())
    return [Polygon(class_name, shape, regions[row].name) for row, shape in shapes.items() if shape.area]
