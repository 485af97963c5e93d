"""What people drew on slides, read as polygons from the files of the tools they drew with: one reader a format."""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections import Counter
from pathlib import Path

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.asap import read_asap
from sedm.data.slides.coco import read_coco
from sedm.data.slides.geojson import is_geojson, read_geojson
from sedm.data.slides.imagescope import read_imagescope
from sedm.data.slides.ndpa import read_ndpa
from sedm.data.slides.polygons import Polygon, rasterise
from sedm.data.slides.slide import Slide
from sedm.data.slides.sliderunner import read_sliderunner
from sedm.data.slides.xml_files import parse_xml

__all__ = ["SUFFIXES", "Polygon", "rasterise", "read_polygons"]

SUFFIXES = (".geojson", ".json", ".xml", ".annotations", ".ndpa", ".sqlite", ".db")
"""How the names of annotation files end."""

READABLE = (
    "expected GeoJSON of QuPath, XML of ASAP, ImageScope, HALO or NDP.view, a SQLite data base of SlideRunner, or JSON "
    "in the manner of COCO"
)
SHOWN_NAMES = 3

Drawn = tuple[list[tuple[str, list[Polygon]]], Counter[str]]  # polygons by slide, and how many were left out, and why


def read_polygons(
    path: str | Path,
    slide: Slide | None = None,
    unclassified: str | None = None,
    names_are_classes: bool = False,
    boxes_are_areas: bool = False,
    nuclei: bool = False,
) -> dict[str, list[Polygon]]:
    """Read the polygons of every slide by its file name, each list in drawing order; empty where none was drawn.

    The format is recognised by the content of the file. A file of a single slide names none; its polygons are found
    under its own name without the ending (``a`` of ``a.geojson``, ``a.ndpi`` of ``a.ndpi.ndpa``).

    The order, in which later polygons lie on top: that of the file for ASAP, ImageScope, HALO and NDP.view, and that of
    the ``annotations`` for COCO, as the authors of CATCH do. QuPath and data bases know none, so a polygon comes after
    every polygon that covers it, and otherwise in order of the file or of its number; that is how QuPath draws, and how
    the authors of CATCH made their JSON from their data base.
    Source: github.com/DeepMicroscopy/CanineCutaneousTumors, annotation_conversion/sql_to_coco.py and
    slide/slide_container.py.

    Annotations without an outline (spots), a class, or an area are left out, and a warning counts them.

    Args:
        slide: that was annotated; only NDP.view's files need it.
        unclassified: the class of polygons whose file gives them none.
        names_are_classes: the class of such a polygon is its own name, where it has one.
        boxes_are_areas: COCO's objects with a box and no outline are all of their box; else they are an error.
        nuclei: QuPath's cells are outlined by their nuclei.

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
    slides, left_out = _read(path, slide, boxes_are_areas, nuclei)
    polygons: dict[str, list[Polygon]] = {}
    nameless: Counter[str] = Counter()
    for name, drawn in slides:
        if drawn and polygons.get(name):
            raise PatchTableError(f"{path}: polygons on two slides named {name}; give each a file name of its own")
        classified = [_classify(polygon, unclassified, names_are_classes) for polygon in drawn]
        polygons[name] = polygons.get(name, []) + [polygon for polygon in classified if polygon.class_name]
        nameless.update(polygon.name for polygon in classified if not polygon.class_name)
    _warn(path, left_out, nameless)
    return polygons


def _read(path: Path, slide: Slide | None, boxes_are_areas: bool, nuclei: bool) -> Drawn:
    """Read a file by the reader of its format."""
    with path.open("rb") as file:
        is_sqlite = file.read(15) == b"SQLite format 3"
    if is_sqlite:
        try:
            return read_sliderunner(path)
        except sqlite3.Error as error:
            raise PatchTableError(f"{path}: not a readable SlideRunner data base ({error})") from error
    root = parse_xml(path)
    if root is None:
        try:
            content = json.loads(path.read_bytes())  # bytes: json finds out about UTF-16 and byte order marks
        except (ValueError, RecursionError) as error:
            raise PatchTableError(
                f"{path}: neither SQLite, nor XML, nor readable JSON ({error}); {READABLE}"
            ) from error
        if not is_geojson(content):
            return read_coco(path, content, boxes_are_areas)
        polygons, left_out = read_geojson(path, content, nuclei)
    elif root.tag == "ASAP_Annotations":
        polygons, left_out = read_asap(path, root)
    elif root.tag == "Annotations":
        polygons, left_out = read_imagescope(path, root)
    elif root.tag == "annotations":
        polygons, left_out = read_ndpa(path, root, slide)
    else:
        raise PatchTableError(f"{path}: seems to be XML (<{root.tag.rpartition('}')[2]}>); {READABLE}")
    return [(path.stem, polygons)], left_out


def _classify(polygon: Polygon, unclassified: str | None, names_are_classes: bool) -> Polygon:
    """Give a polygon without a class the one that the caller says it has."""
    if polygon.class_name:
        return polygon
    own_name = polygon.name if names_are_classes else ""
    return polygon._replace(class_name=own_name or unclassified or "")


def _warn(path: Path, left_out: Counter[str], nameless: Counter[str]) -> None:
    """Say how many annotations were left out, and what may be done about those without a class."""
    counts = {reason: n for reason, n in left_out.items() if n}
    if nameless:
        names = [repr(name) for name in sorted(nameless) if name]
        shown = ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")
        counts[f"no class, named {shown}" if names else "no class"] = nameless.total()
    if not counts:
        return
    sentence = f"{path}: annotations left out: {', '.join(f'{reason} ({n})' for reason, n in sorted(counts.items()))}"
    if nameless:
        sentence += "; unclassified=CLASS takes those without one as a class"
        sentence += ", names_are_classes=True their names" if any(nameless) else ""
    warnings.warn(sentence, stacklevel=3)
