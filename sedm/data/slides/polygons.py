"""Polygons on a slide: painted in order, turned into masks, and asked what they hold and where they lie.

Polygons are opaque and painted one after the other: where two overlap, the later one counts. A hole is a polygon of
another class on top, or a ring that runs into itself (the inside is decided by the even-odd rule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

LARGEST = 1e9  # px from the corner of the slide: no slide is so large, and areas stay far from overflow
MAX_PAIRS = 1 << 22  # of an edge and a point, held in memory at once


@dataclass(frozen=True, eq=False)
class Polygon:
    """One annotated area; ``points`` are its corners (x, y) in pixels of the slide's finest level, not closed.

    Raises:
        ValueError: a corner that is nowhere (NaN, infinite, beyond any slide).
    """

    class_name: str
    points: Float64[np.ndarray, "n 2"]

    def __post_init__(self):
        as_points(self.points)

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


def as_points(corners: Sequence | np.ndarray) -> Float64[np.ndarray, "n 2"]:
    """Turn the corners that a file holds into points.

    Args:
        corners: pairs (x, y) in pixels of the finest level.

    Raises:
        ValueError: the first corner that is not two finite numbers, or beyond any slide.

    >>> as_points([(0, 0), (4, None)])
    Traceback (most recent call last):
    ...
    ValueError: corner 2 is (4, None); expected two numbers of pixels from -1e9 to 1e9
    """
    points = np.array(corners)  # null and text keep a kind of their own
    if points.dtype.kind not in "iuf" or not (np.abs(points.astype(float)) <= LARGEST).all():
        for number, corner in enumerate(np.array(corners, object).tolist(), start=1):
            if not all(type(value) in (int, float) and abs(value) <= LARGEST for value in corner):
                shown = str(tuple(corner))[:80]
                raise ValueError(f"corner {number} is {shown}; expected two numbers of pixels from -1e9 to 1e9")
    return points.astype(float).reshape(-1, 2)


def as_polygon(class_name: str, points: Float64[np.ndarray, "n 2"]) -> Polygon | None:
    """Make a polygon of a ring, without the closing points; None where the ring has no width or no height.

    >>> as_polygon("Dermis", np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [0.0, 0.0]])).points.tolist()
    [[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]]
    >>> as_polygon("Dermis", np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 0.0]]))
    """
    while len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    return Polygon(class_name, points) if len(points) > 2 and np.ptp(points, axis=0).all() else None


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
    n_at_once = max(MAX_PAIRS // max(len(edges), 1), 1)
    if len(points) > n_at_once:
        blocks = np.split(points, range(n_at_once, len(points), n_at_once))
        return np.concatenate([contains(corners, block) for block in blocks])
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


class Outside(NamedTuple):
    """How many of a slide's polygons leave it."""

    wholly: int  # no part of them is on the slide
    partly: int


def count_outside(polygons: Sequence[Polygon], size: tuple[int, int]) -> Outside:
    """Count the polygons that lie wholly and partly outside of a slide; a shared border is no part.

    Args:
        size: width and height of the finest level in pixels.

    >>> square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    >>> count_outside([Polygon("Dermis", square + shift) for shift in (0, 4, 6, 9)], size=(6, 6))
    Outside(wholly=2, partly=1)
    """
    leaving = [
        polygon
        for polygon in polygons
        if min(polygon.bounds) < 0 or polygon.bounds[2] > size[0] or polygon.bounds[3] > size[1]
    ]
    n_partly = sum(_reaches(polygon, size) for polygon in leaving)
    return Outside(len(leaving) - n_partly, n_partly)


def sort_outer_first(polygons: Sequence[Polygon]) -> list[Polygon]:
    """Sort polygons by how many others enclose each; those of equal depth keep their order.

    >>> square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    >>> inner, outer = Polygon("SCC", square + 1), Polygon("Dermis", 2 * square)
    >>> [polygon.class_name for polygon in sort_outer_first([inner, outer])]
    ['Dermis', 'SCC']
    """
    depth = [sum(_encloses(outer, inner) for outer in polygons if outer is not inner) for inner in polygons]
    return [polygons[row] for row in np.argsort(depth, kind="stable")]


def _reaches(polygon: Polygon, size: tuple[int, int]) -> bool:
    """Whether a part of the polygon is on the slide: its border runs there, or all of the slide is inside."""
    edges = _edges(polygon.points)
    borders = np.array([(0.0, 0.0), size])
    with np.errstate(divide="ignore", invalid="ignore"):  # upright and level edges; on a border they give nan
        shares = (borders - edges[:, :1]) / (edges[:, 1:] - edges[:, :1])  # of each edge, where it meets the borders
    first, last = shares.min(1).max(1), shares.max(1).min(1)
    if (np.maximum(first, 0) < np.minimum(last, 1)).any():
        return True
    return bool(contains(polygon.points, np.array([size]) / 2)[0])


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
