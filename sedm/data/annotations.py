"""What people drew on a slide: polygons, read from two file formats, in drawing order, and turned into masks.

Polygons are opaque and painted one after the other: where two overlap, the later one counts. A hole is a polygon of
another class on top, or a ring that runs into itself (the inside is decided by the even-odd rule).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from sedm.data.patches import PatchTableError

POLYGON_TYPE = 3  # Annotations.type of a polygon; the others are spots, rectangles, circles and whole images
# Source: SlideRunner, SlideRunner/dataAccess/annotations.py and database.py (tables and columns)


@dataclass(frozen=True, eq=False)
class Polygon:
    """One annotated area; ``points`` are its corners (x, y) in pixels of the slide's finest level, not closed."""

    class_name: str
    points: Float64[np.ndarray, "n 2"]

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom.

        >>> Polygon("Dermis", np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])).bounds
        (0.0, 0.0, 4.0, 3.0)
        """
        return (*map(float, self.points.min(0)), *map(float, self.points.max(0)))

    @property
    def area(self) -> float:
        """Square pixels of the finest level, by the shoelace formula.

        >>> Polygon("Dermis", np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])).area
        6.0
        """
        x, y = self.points.T
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def read_polygons(path: str | Path) -> dict[str, list[Polygon]]:
    """The polygons of every slide by its file name, each list in drawing order; an empty list where none was drawn.

    Reads SlideRunner's SQLite data base and JSON in the manner of COCO (recognised by their content).

    The order: JSON is painted in the order of its ``annotations``, as the authors of CATCH do. A data base knows no
    order, so a polygon comes after every polygon that encloses it, and otherwise in order of its number; that is how
    the authors made their JSON from their data base.
    Source: github.com/DeepMicroscopy/CanineCutaneousTumors, annotation_conversion/sql_to_coco.py and
    slide/slide_container.py.

    Deleted and unlabelled annotations, and rings without width or height, are left out.

    Raises:
        PatchTableError: no such file, neither of the two formats, or what is missing in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "CATCH.json"
    ...     _ = path.write_text(json.dumps({
    ...         "images": [{"id": 1, "file_name": "MCT_01_1.svs"}],
    ...         "categories": [{"id": 3, "name": "Dermis"}],
    ...         "annotations": [{"image_id": 1, "category_id": 3, "segmentation": [0, 0, 4, 0, 0, 3, 0, 0]}]}))
    ...     [(polygon.class_name, len(polygon.points)) for polygon in read_polygons(path)["MCT_01_1.svs"]]
    [('Dermis', 3)]
    """
    path = Path(path)
    if not path.is_file():
        raise PatchTableError(f"{path}: no such file; expected the annotations as SQLite or JSON")
    with path.open("rb") as file:
        is_sqlite = file.read(15) == b"SQLite format 3"
    try:
        return _read_sqlite(path) if is_sqlite else _read_json(path)
    except sqlite3.Error as error:
        raise PatchTableError(f"{path}: not a readable SlideRunner data base ({error})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PatchTableError(f"{path}: neither SQLite nor readable JSON ({error})") from error


def rasterise(
    polygons: Sequence[Polygon],
    class_index: Mapping[str, int],
    left: float,
    top: float,
    downsample: float,
    shape: tuple[int, int],
    background: int = 0,
) -> UInt8[np.ndarray, "h w"]:
    """The mask of a rectangle of the slide: a pixel belongs to the last polygon that holds its centre.

    Args:
        class_index: mask value of each class name.
        left, top: corner of the rectangle, in pixels of the finest level.
        downsample: pixels of the finest level per mask pixel, along each side.
        shape: rows and columns of the mask.
        background: mask value of ground outside all polygons.

    Raises:
        ValueError: a polygon of a class that has no index.

    >>> square = Polygon("Dermis", np.array([[2.0, 2.0], [6.0, 2.0], [6.0, 6.0], [2.0, 6.0]]))
    >>> rasterise([square], {"Dermis": 1}, left=0, top=0, downsample=2, shape=(4, 4)).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    mask = np.full(shape, background, np.uint8)
    right, bottom = left + shape[1] * downsample, top + shape[0] * downsample
    for polygon in polygons:
        if polygon.class_name not in class_index:
            raise ValueError(f"class {polygon.class_name!r} has no index; class_index has {', '.join(class_index)}")
        x0, y0, x1, y1 = polygon.bounds
        if x0 < right and left < x1 and y0 < bottom and top < y1:
            mask[_inside_grid((polygon.points - (left, top)) / downsample, shape)] = class_index[polygon.class_name]
    return mask


def contains(corners: Float64[np.ndarray, "m 2"], points: Float64[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Which points lie inside the ring of ``corners``, by the even-odd rule.

    >>> contains(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), np.array([[1.0, 1.0], [3.0, 3.0]])).tolist()
    [True, False]
    """
    if not len(points):
        return np.zeros(0, bool)
    edges = _edges(corners)
    edges = edges[_edges_in(edges, (points[:, 0].min(), points[:, 1].min(), np.inf, points[:, 1].max()))]
    (x1, y1), (x2, y2) = edges[:, 0].T, edges[:, 1].T
    x, y = points[:, :1], points[:, 1:]
    spans = (y1 <= y) != (y2 <= y)  # a ray to the right may meet these edges
    with np.errstate(divide="ignore", invalid="ignore"):  # level edges span no row
        crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return ((spans & (x < crossing)).sum(1) % 2).astype(bool)


def topmost(polygons: Sequence[Polygon], points: Float64[np.ndarray, "n 2"]) -> Int64[np.ndarray, " n"]:
    """The row in ``polygons`` of the one that is seen at each point, −1 where there is none.

    >>> outer = Polygon("Dermis", np.array([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [0.0, 9.0]]))
    >>> inner = Polygon("SCC", np.array([[1.0, 1.0], [4.0, 1.0], [4.0, 4.0], [1.0, 4.0]]))
    >>> topmost([outer, inner], np.array([[2.0, 2.0], [8.0, 8.0], [10.0, 10.0]])).tolist()
    [1, 0, -1]
    """
    seen = np.full(len(points), -1, np.int64)
    for row, polygon in enumerate(polygons):
        x0, y0, x1, y1 = polygon.bounds
        near = np.flatnonzero((points[:, 0] >= x0) & (points[:, 0] <= x1) & (points[:, 1] >= y0) & (points[:, 1] <= y1))
        if len(near):
            seen[near[contains(polygon.points, points[near])]] = row
    return seen


def _inside_grid(corners: np.ndarray, shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Which pixel centres lie inside the ring: each row is crossed by edges, and each crossing switches in and out."""
    height, width = shape
    (x1, y1), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    first = np.clip(np.ceil(np.minimum(y1, y2) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y1, y2) - 0.5), 0, height).astype(np.int64)
    n_rows = last - first
    edge = np.repeat(np.arange(len(corners)), n_rows)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows) + first[edge]
    crossing = x1[edge] + (row + 0.5 - y1[edge]) * (x2 - x1)[edge] / (y2 - y1)[edge]
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)  # the first centre to the right
    switches = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return (np.cumsum(switches, axis=1)[:, :width] % 2).astype(bool)


def _read_sqlite(path: Path) -> dict[str, list[Polygon]]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        slides = dict(database.execute("SELECT uid, filename FROM Slides ORDER BY uid"))
        # with MIN, SQLite takes the other columns from the same row: the first label of each annotation
        labels = {
            uid: (slide, name)
            for uid, slide, name, _ in database.execute(
                """SELECT Annotations.uid, Annotations.slide, Classes.name, MIN(Annotations_label.uid)
                   FROM Annotations JOIN Annotations_label ON Annotations_label.annoId = Annotations.uid
                   JOIN Classes ON Classes.uid = Annotations_label.class
                   WHERE Annotations.type = ? AND COALESCE(Annotations.deleted, 0) != 1
                   GROUP BY Annotations.uid ORDER BY Annotations.uid""",
                (POLYGON_TYPE,),
            )
        }
        found: dict[str, list[Polygon]] = {name: [] for name in slides.values()}
        corners = database.execute(
            "SELECT annoId, coordinateX, coordinateY FROM Annotations_coordinates ORDER BY annoId, orderIdx"
        )
        for uid, rows in groupby(corners, key=lambda row: row[0]):
            if uid in labels and labels[uid][0] in slides:
                slide, class_name = labels[uid]
                found[slides[slide]] += _ring(class_name, np.array([row[1:] for row in rows], float))
    return {name: _outer_first(polygons) for name, polygons in found.items()}


def _read_json(path: Path) -> dict[str, list[Polygon]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        slides = {image["id"]: image["file_name"] for image in content["images"]}
        classes = {category["id"]: category["name"] for category in content["categories"]}
        found: dict[str, list[Polygon]] = {name: [] for name in slides.values()}
        for annotation in content["annotations"]:
            for ring in _rings(annotation["segmentation"]):
                corners = np.asarray(ring, float).reshape(-1, 2)
                found[slides[annotation["image_id"]]] += _ring(classes[annotation["category_id"]], corners)
    except (KeyError, TypeError, ValueError) as error:
        raise PatchTableError(
            f"{path}: not annotations in the manner of COCO ({type(error).__name__}: {error}); expected images, "
            "categories and annotations with image_id, category_id and segmentation"
        ) from error
    return found


def _rings(segmentation: list) -> Iterator[list[float]]:
    """CATCH writes one flat list x, y, x, y, …; COCO itself a list of such lists, the parts of one object."""
    if segmentation and isinstance(segmentation[0], list):
        yield from segmentation
    else:
        yield segmentation


def _ring(class_name: str, points: Float64[np.ndarray, "n 2"]) -> list[Polygon]:
    """One polygon without its closing points, or none when no area is left."""
    while len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    return [Polygon(class_name, points)] if len(points) > 2 and np.ptp(points, axis=0).all() else []


def _outer_first(polygons: list[Polygon]) -> list[Polygon]:
    """Sorted by how many others enclose each; those of equal depth keep their order."""
    depth = [sum(_encloses(outer, inner) for outer in polygons if outer is not inner) for inner in polygons]
    return [polygons[row] for row in np.argsort(depth, kind="stable")]


def _encloses(outer: Polygon, inner: Polygon) -> bool:
    """Whether no part of ``inner`` is outside of ``outer``; a shared border is no part."""
    if any(a > b for a, b in zip(outer.bounds[:2], inner.bounds[:2], strict=True)):
        return False
    if any(a < b for a, b in zip(outer.bounds[2:], inner.bounds[2:], strict=True)):
        return False
    edges = _edges(outer.points)
    near = edges[_edges_in(edges, inner.bounds)]
    if not len(near):  # far from the border one point speaks for all
        return bool(contains(outer.points, inner.points[:1])[0])
    mine = _edges(inner.points)
    probes = np.concatenate([mine[:, 0], mine.mean(1)])
    for some in (probes[:: len(probes) // 16 + 1], probes):  # a few first: most pairs part here
        if not contains(outer.points, some[~_on_border(near, some)]).all():
            return False
    return not _cross(near, mine[_edges_in(mine, (*near.min((0, 1)), *near.max((0, 1))))])


def _edges(corners: np.ndarray) -> np.ndarray:
    """Start and end of each edge; shape (m, 2, 2)."""
    return np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)


def _edges_in(edges: np.ndarray, bounds: tuple) -> np.ndarray:
    """Which edges may have a part in the rectangle."""
    return ((edges.max(1) >= bounds[:2]) & (edges.min(1) <= bounds[2:])).all(1)


def _sides(edges: np.ndarray, points: np.ndarray) -> np.ndarray:
    """On which side of each edge (m) each point (n) lies: positive, negative, or 0 on its line; shape (n, m)."""
    start, along = edges[:, 0], edges[:, 1] - edges[:, 0]
    return along[:, 0] * (points[:, 1:] - start[:, 1]) - along[:, 1] * (points[:, :1] - start[:, 0])


def _on_border(edges: np.ndarray, points: np.ndarray) -> np.ndarray:
    within = ((points[:, None] >= edges.min(1)) & (points[:, None] <= edges.max(1))).all(2)
    return (within & (_sides(edges, points) == 0)).any(1)


def _cross(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether some edge among the first runs right through an edge among the second."""
    parted = [
        np.sign(_sides(a, b[:, 0])) * np.sign(_sides(a, b[:, 1])) < 0 for a, b in ((first, second), (second, first))
    ]
    return bool((parted[0] & parted[1].T).any())
