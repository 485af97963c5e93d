"""Polygons from the XML of ASAP.

The group of an annotation says what it shows. ASAP has no holes: a hole is an annotation of a group of its own
(``Exclusion``, or ``_2`` in CAMELYON16), whose value is that of the background and which is painted last. ASAP's masks
join the control points of a spline by straight lines, and so does this reader.
Source: github.com/computationalpathologygroup/ASAP, annotation/XmlRepository.cpp and AnnotationToMask.cpp.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.polygons import Polygon, as_polygon
from sedm.data.slides.xml_files import read_number

AREAS = ("Polygon", "Rectangle", "Spline")
WITHOUT_AREA = {"Dot": "dot", "PointSet": "point set", "Measurement": "measurement"}
NO_GROUP = ("", "None")


def read_asap(path: Path, root: Element) -> tuple[list[Polygon], Counter[str]]:
    """Read the polygons of a slide in the order of the file.

    Returns:
        The polygons, and how many annotations were left out for which reason.

    Raises:
        PatchTableError: a corner that is nowhere, by its annotation.

    >>> from xml.etree.ElementTree import fromstring
    >>> corners = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, x, y in [(0, 0, 0), (2, 0, 3), (1, 4, 0)])
    >>> annotation = f'<Annotation Type="Polygon" PartOfGroup="Tumor"><Coordinates>{corners}</Coordinates></Annotation>'
    >>> root = fromstring(f"<ASAP_Annotations><Annotations>{annotation}</Annotations></ASAP_Annotations>")
    >>> [(polygon.class_name, polygon.shape.area) for polygon in read_asap(Path("a.xml"), root)[0]]
    [('Tumor', 6.0)]
    """
    polygons: list[Polygon] = []
    left_out: Counter[str] = Counter()
    for number, annotation in enumerate(root.iter("Annotation"), start=1):
        kind, name = annotation.get("Type", ""), annotation.get("Name", "")
        if kind not in AREAS:
            left_out[WITHOUT_AREA.get(kind, f"unknown type {kind!r}")] += 1
            continue
        group = annotation.get("PartOfGroup", "")
        try:
            polygon = as_polygon("" if group in NO_GROUP else group, _corners(annotation), name=name)
        except ValueError as error:
            raise PatchTableError(
                f"{path}: annotation {number} ({name!r}): {error}; mend or delete it in ASAP"
            ) from error
        if polygon:
            polygons.append(polygon)
        else:
            left_out["no area"] += 1
    return polygons, left_out


def _corners(annotation: Element) -> list[tuple[float | str | None, float | str | None]]:
    """Read the corners of an annotation in their order."""
    coordinates = list(annotation.iter("Coordinate"))
    orders = [read_number(coordinate.get("Order")) for coordinate in coordinates]
    if all(isinstance(order, float) for order in orders):
        coordinates = [coordinates[row] for row in sorted(range(len(orders)), key=orders.__getitem__)]
    return [(read_number(coordinate.get("X")), read_number(coordinate.get("Y"))) for coordinate in coordinates]
