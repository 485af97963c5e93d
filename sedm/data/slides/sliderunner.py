"""Polygons from the SQLite data bases of SlideRunner, the program that CATCH was annotated with.

Source of tables, columns and shapes: github.com/DeepMicroscopy/SlideRunner, SlideRunner/dataAccess/database.py and
annotations.py.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Container
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.polygons import (
    Polygon,
    as_points,
    as_polygon,
    ellipse_ring,
    rectangle_ring,
    sort_outer_first,
)

# values of Annotations.type
RECTANGLE = 2
POLYGON = 3
CIRCLE = 5
WITHOUT_OUTLINE = {1: "spot", 4: "special spot", 6: "whole image"}


def read_sliderunner(path: Path) -> tuple[list[tuple[str, list[Polygon]]], Counter[str]]:
    """Read the polygons of every slide; rectangles and circles become polygons as well.

    A data base knows no order of drawing, so a polygon comes after every polygon that covers it, and otherwise in
    order of its number. Where several people labelled an annotation, the first label counts. Deleted annotations are
    passed over.

    Returns:
        File name and polygons of each slide, and how many annotations were left out for which reason.

    Raises:
        PatchTableError: a corner that is not two finite numbers, by its annotation and slide.
        sqlite3.Error: not a data base with SlideRunner's tables.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "annotations.sqlite"
    ...     with closing(sqlite3.connect(path)) as database:
    ...         _ = database.executescript('''
    ...             CREATE TABLE Slides (uid, filename); INSERT INTO Slides VALUES (1, 'a.svs');
    ...             CREATE TABLE Classes (uid, name); INSERT INTO Classes VALUES (3, 'Dermis');
    ...             CREATE TABLE Annotations (uid, slide, type); INSERT INTO Annotations VALUES (7, 1, 2), (8, 1, 1);
    ...             CREATE TABLE Annotations_label (uid, class, annoId); INSERT INTO Annotations_label VALUES (1, 3, 7);
    ...             CREATE TABLE Annotations_coordinates (uid, coordinateX, coordinateY, annoId, orderIdx);
    ...             INSERT INTO Annotations_coordinates VALUES (1, 2, 3, 7, 1), (2, 9, 5, 7, 2), (3, 4, 4, 8, 1);''')
    ...     [(name, polygons)], left_out = read_sliderunner(path)
    >>> name, [(polygon.class_name, polygon.shape.bounds) for polygon in polygons], left_out["spot"]
    ('a.svs', [('Dermis', (2.0, 3.0, 9.0, 5.0))], 1)
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        slides = dict(database.execute("SELECT uid, filename FROM Slides WHERE filename IS NOT NULL ORDER BY uid"))
        # with MIN, SQLite takes the other columns from the same row: the first label of each annotation
        labels = database.execute(
            """SELECT annoId, name, MIN(Annotations_label.uid) FROM Annotations_label
               JOIN Classes ON Classes.uid = class WHERE name IS NOT NULL GROUP BY annoId"""
        )
        class_names = {number: str(name) for number, name, _ in labels}
        outlined, left_out = _select(database, slides)
        polygons: dict[int, list[Polygon]] = {slide: [] for slide in slides}
        corners = database.execute(
            "SELECT annoId, coordinateX, coordinateY FROM Annotations_coordinates ORDER BY annoId, orderIdx, uid"
        )
        for number, rows in groupby(corners, key=itemgetter(0)):
            if number not in outlined:
                continue
            slide, kind = outlined[number]
            try:
                points = as_points([row[1:] for row in rows])
            except ValueError as error:
                raise PatchTableError(
                    f"{path}: annotation {number} on {slides[slide]}: {error}; mend or delete it in SlideRunner"
                ) from error
            polygon = as_polygon(class_names.get(number, ""), _outline(points, kind))
            if polygon:
                polygons[slide].append(polygon)
    left_out["no area"] = len(outlined) - sum(map(len, polygons.values()))
    return [(str(name), sort_outer_first(polygons[slide])) for slide, name in slides.items()], left_out


def _select(database: sqlite3.Connection, slides: Container[int]) -> tuple[dict[int, tuple[int, int]], Counter[str]]:
    """Find slide and type of the annotations with an outline and a slide, and count the others by reason."""
    columns = [column for _, column, *_ in database.execute("PRAGMA table_info(Annotations)")]
    # older data bases lack the column: there, what was deleted is gone
    condition = "WHERE COALESCE(deleted, 0) != 1" if "deleted" in columns else ""
    outlined = {}
    left_out: Counter[str] = Counter()
    for number, slide, kind in database.execute(f"SELECT uid, slide, type FROM Annotations {condition} ORDER BY uid"):
        if kind not in (RECTANGLE, POLYGON, CIRCLE):
            left_out[WITHOUT_OUTLINE.get(kind, f"unknown type {kind}")] += 1
        elif slide not in slides:
            left_out["unknown slide"] += 1
        else:
            outlined[number] = (slide, kind)
    return outlined, left_out


def _outline(points: Float[np.ndarray, "n 2"], kind: int) -> Float[np.ndarray, "m 2"]:
    """Draw the ring of an annotation; a rectangle and a circle are stored as two opposite corners of their box."""
    if kind == POLYGON or not len(points):
        return points
    if kind == RECTANGLE:
        return rectangle_ring(points)
    first, last = points.min(0), points.max(0)
    radius = (last - first)[0] / 2  # SlideRunner's
    return ellipse_ring((first + last) / 2, np.full(2, radius))
