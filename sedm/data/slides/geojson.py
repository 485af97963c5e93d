"""Polygons from GeoJSON as QuPath exports it: a collection of features, a bare list of them, or a single one.

QuPath writes rectangles and ellipses as polygons, and holes as the further rings of a polygon. An object shows what its
``classification`` says; its ``name`` is its own. A cell has two outlines: its own, and that of its nucleus.
Source: github.com/qupath/qupath, qupath-core, qupath/lib/io/QuPathTypeAdapters.java and PathObjectTypeAdapters.java.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.polygons import Polygon, as_polygon, sort_outer_first
from sedm.runtime.extras import extra

with extra("slides"):
    import shapely

WITHOUT_AREA = {"Point": "point", "MultiPoint": "point", "LineString": "line", "MultiLineString": "line"}


def is_geojson(content: Any) -> bool:
    """Tell whether JSON is GeoJSON, of features or of a bare shape.

    >>> is_geojson([{"type": "Feature", "geometry": None}]), is_geojson({"images": []})
    (True, False)
    """
    first = content[0] if isinstance(content, list) and content else content
    if not isinstance(first, dict):
        return content == []  # an export of no object
    return "type" in first and bool(first.keys() & {"features", "geometry", "coordinates"})


def read_geojson(path: Path, content: Any, nuclei: bool = False) -> tuple[list[Polygon], Counter[str]]:
    """Read the polygons of a slide, each after every polygon that covers it, as QuPath draws them.

    Args:
        path: what the errors name.
        content: of the file, as ``json`` reads it.
        nuclei: outline cells by their nuclei; those without one are left out.

    Returns:
        The polygons, and how many objects were left out for which reason.

    Raises:
        PatchTableError: what is wrong, by the place and the id of the object.

    >>> square = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}
    >>> feature = {"type": "Feature", "geometry": square, "properties": {"classification": {"name": "Tumor"}}}
    >>> [(polygon.class_name, polygon.shape.area) for polygon in read_geojson(Path("a.geojson"), feature)[0]]
    [('Tumor', 16.0)]
    """
    features = content if isinstance(content, list) else [content]
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        features = content.get("features")
        if not isinstance(features, list):
            raise PatchTableError(f"{path}: a FeatureCollection without a list 'features'; export it from QuPath again")
    polygons: list[Polygon] = []
    left_out: Counter[str] = Counter()
    for row, feature in enumerate(features):
        try:
            polygon = _read_feature(feature, nuclei)
        except ValueError as error:
            number = f" (id {str(feature['id'])[:40]})" if isinstance(feature, dict) and "id" in feature else ""
            raise PatchTableError(f"{path}: features[{row}]{number}: {error}") from error
        if isinstance(polygon, Polygon):
            polygons.append(polygon)
        else:
            left_out[polygon] += 1
    return sort_outer_first(polygons), left_out


def _read_feature(feature: Any, nuclei: bool) -> Polygon | str:
    """Read the polygon of an object, or why it has none."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise ValueError(f"is {str(feature)[:80]}; expected a Feature with geometry and properties")
    properties = feature.get("properties") or {}
    geometry = feature.get("geometry")
    if nuclei and (properties.get("objectType") == "cell" or feature.get("nucleusGeometry")):
        geometry = feature.get("nucleusGeometry")
        if not geometry:
            return "cell without nucleus"
    if not geometry:
        return "no outline"
    class_name, name = _class_name(properties.get("classification")), str(properties.get("name") or "")
    parts = list(_areas(geometry))
    kinds = [part for part in parts if isinstance(part, str)]
    shapes = [part.shape for part in parts if isinstance(part, Polygon)]
    if not shapes:
        return kinds[0] if kinds else "no area"
    return Polygon(class_name, shapes[0] if len(shapes) == 1 else shapely.union_all(shapes), name)


def _class_name(classification: Any) -> str:
    """Read the name of a class; a derived one, such as ``Tumor: Positive``, may be stored as its parts."""
    if not classification:
        return ""
    names = classification.get("names") or [classification.get("name")] if isinstance(classification, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classification is {str(classification)[:80]}; expected a name")
    return ": ".join(names)


def _areas(geometry: Any) -> Iterator[Polygon | str]:
    """Read the parts of a geometry that have an area, and name those of other kinds."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection":
        for part in geometry.get("geometries") or []:
            yield from _areas(part)
        return
    if kind in WITHOUT_AREA:
        yield WITHOUT_AREA[kind]
        return
    coordinates = geometry.get("coordinates") if isinstance(geometry, dict) else None
    polygons = {"Polygon": [coordinates], "MultiPolygon": coordinates}.get(kind)
    if polygons is None or not _nests(polygons, 3):
        raise ValueError(f"geometry is {str(geometry)[:80]}; expected a Polygon or MultiPolygon with its coordinates")
    for ring, *holes in filter(None, polygons):
        part = as_polygon("", ring, holes)
        if part:
            yield part


def _nests(value: Any, depth: int) -> bool:
    """Tell whether lists lie in lists so deep."""
    if depth == 0:
        return isinstance(value, list) and len(value) >= 2
    return isinstance(value, list) and all(_nests(part, depth - 1) for part in value)
