"""What people drew on slides: polygons, read from SlideRunner's data bases and from JSON in the manner of COCO."""

from __future__ import annotations

import json
import sqlite3
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.coco import read_coco
from sedm.data.slides.polygons import Polygon, rasterise
from sedm.data.slides.sliderunner import read_sliderunner

__all__ = ["Polygon", "rasterise", "read_polygons"]

READABLE = "expected a SQLite data base of SlideRunner or JSON in the manner of COCO"
XML = {
    "ASAP_Annotations": "XML of ASAP",
    "Annotations": "XML of ImageScope or HALO",
    "annotations": "XML of NDP.view",
}


def read_polygons(path: str | Path) -> dict[str, list[Polygon]]:
    """Read the polygons of every slide by its file name, each list in drawing order; empty where none was drawn.

    The format is recognised by the content of the file.

    The order: JSON is painted in the order of its ``annotations``, as the authors of CATCH do. A data base knows no
    order, so a polygon comes after every polygon that covers it, and otherwise in order of its number; that is how
    the authors made their JSON from their data base.
    Source: github.com/DeepMicroscopy/CanineCutaneousTumors, annotation_conversion/sql_to_coco.py and
    slide/slide_container.py.

    Annotations without an outline (spots), a class, or an area are left out, and a warning counts them.

    Raises:
        PatchTableError: no such file, another format, or what is wrong in it: which annotation, and what was expected.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "CATCH.json"
    ...     _ = path.write_text(json.dumps({
    ...         "images": [{"id": 1, "file_name": "MCT_01_1.svs"}],
    ...         "categories": [{"id": 3, "name": "Dermis"}],
    ...         "annotations": [{"image_id": 1, "category_id": 3, "segmentation": [0, 0, 4, 0, 0, 3, 0, 0]}]}))
    ...     [(polygon.class_name, polygon.shape.area) for polygon in read_polygons(path)["MCT_01_1.svs"]]
    [('Dermis', 6.0)]
    """
    path = Path(path)
    if not path.is_file():
        raise PatchTableError(f"{path}: no such file; {READABLE}")
    with path.open("rb") as file:
        is_sqlite = file.read(15) == b"SQLite format 3"
    if is_sqlite:
        try:
            slides, left_out = read_sliderunner(path)
        except sqlite3.Error as error:
            raise PatchTableError(f"{path}: not a readable SlideRunner data base ({error})") from error
    else:
        slides, left_out = read_coco(path, _read_json(path))
    polygons: dict[str, list[Polygon]] = {}
    for name, drawn in slides:
        if drawn and polygons.get(name):
            raise PatchTableError(f"{path}: polygons on two slides named {name}; give each a file name of its own")
        polygons[name] = polygons.get(name, []) + drawn
    if left_out.total():
        reasons = ", ".join(f"{reason} ({n})" for reason, n in sorted(left_out.items()) if n)
        warnings.warn(f"{path}: annotations left out: {reasons}", stacklevel=2)
    return polygons


def _read_json(path: Path) -> Any:
    """Read JSON, and refuse what is known by name but not read."""
    try:
        content = json.loads(path.read_bytes())  # bytes: json finds out about UTF-16 and byte order marks
    except (ValueError, RecursionError) as error:
        tag = _root_tag(path)
        if tag:
            raise PatchTableError(f"{path}: seems to be {XML.get(tag, f'XML (<{tag}>)')}; {READABLE}") from error
        raise PatchTableError(f"{path}: neither SQLite nor readable JSON ({error})") from error
    first = content[0] if isinstance(content, list) and content else content
    if isinstance(first, dict) and "type" in first and first.keys() & {"features", "geometry", "coordinates"}:
        raise PatchTableError(f"{path}: seems to be GeoJSON, as QuPath writes it; {READABLE}")
    return content


def _root_tag(path: Path) -> str | None:
    """Find the outermost tag, without its namespace, of a file that begins like XML."""
    try:
        with path.open("rb") as file:
            _, root = next(ElementTree.iterparse(file, events=["start"]))
    except (ElementTree.ParseError, LookupError, ValueError, StopIteration):  # the middle two: strange encodings
        return None
    return root.tag.rpartition("}")[2]
