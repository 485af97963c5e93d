"""Polygons on a slide: painted in order, turned into masks, and asked what they cover.

Polygons are opaque and painted one after the other: where two overlap, the later one counts. A hole is what its file
calls a hole, a polygon of another class on top, or a ring that runs into itself.

What a ring holds is decided by the even-odd rule: a point is inside when a ray from it crosses the ring an odd number
of times. So the middle of a five-pointed star drawn in one stroke is outside, and a ring that goes round twice holds
nothing. A ring that crosses or touches itself is turned into shapes that do not, once, by :func:`as_polygon`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, Shaped, UInt8

from sedm.runtime.extras import extra

with extra("slides"):
    import shapely
    from rasterio.features import rasterize

LARGEST = 1e9  # px from the corner of the slide; no slide is so large
BEYOND = 2.0  # px around a mask up to which polygons are kept, so that the cut itself is on no pixel
ELLIPSE_CORNERS = 360
OFF_CENTRE = (1e-6, 1e-9)  # px to the right of and below a pixel's centre: the point that decides about the pixel


class Polygon(NamedTuple):
    """One annotated area.

    Attributes:
        class_name: what it shows; empty where its file does not say.
        shape: a valid polygon, with or without holes, or several; in pixels of the slide's finest level.
        name: its own, where somebody gave it one.
    """

    class_name: str
    shape: shapely.Geometry
    name: str = ""


def as_points(corners: Sequence | np.ndarray) -> Float[np.ndarray, "n 2"]:
    """Turn the corners that a file holds into points.

    Args:
        corners: pairs (x, y) in pixels of the finest level.

    Raises:
        ValueError: the first corner that is not two finite numbers, or lies beyond any slide.

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


def as_polygon(
    class_name: str,
    ring: Sequence | np.ndarray,
    holes: Sequence[Sequence | np.ndarray] = (),
    name: str = "",
) -> Polygon | None:
    """Make a polygon of what a ring holds, by the even-odd rule, and of what its holes take away.

    A hole is a hole wherever it lies: along the border, across it, or over another hole.

    Args:
        ring: corners (x, y), as :func:`as_points` takes them; the first may be repeated at the end.
        holes: rings of the same kind.
        name: of the polygon.

    Returns:
        The polygon, or None where no area is left.

    Raises:
        ValueError: a corner that is nowhere.

    >>> square, hole = [(0, 0), (6, 0), (6, 6), (0, 6), (0, 0)], [(1, 1), (3, 1), (3, 3), (1, 3), (1, 1)]
    >>> as_polygon("Dermis", square + hole).shape.area, as_polygon("Dermis", square, [hole]).shape.area
    (32.0, 32.0)
    >>> as_polygon("Dermis", [(0, 0), (4, 0), (2, 0)])
    """
    shape = fill_ring(ring)
    taken = [fill_ring(hole) for hole in holes]
    if taken:
        # make_valid would fill holes that touch the border, unless told method="structure"
        shape = shapely.difference(shape, shapely.union_all(taken))
    return Polygon(class_name, shape, name) if shape.area else None


def fill_ring(ring: Sequence | np.ndarray) -> shapely.Geometry:
    """Make a valid shape of what a ring holds by the even-odd rule, empty where that is no area.

    >>> fill_ring([(0, 0), (4, 4), (4, 0), (0, 4)]).area
    8.0
    """
    points = as_points(ring)
    if len(points) < 3:
        return shapely.Polygon()
    shape = shapely.Polygon(points)
    if not shape.is_valid:
        # make_valid would fill a hole that the ring draws along its own border. Asked for a point, an invalid polygon
        # counts crossings.
        faces = shapely.get_parts(shapely.polygonize([shapely.node(shape.exterior)]))
        probes = shapely.get_coordinates(shapely.point_on_surface(faces))
        shape = shapely.union_all(faces[shapely.contains_xy(shape, *probes.T)])
    return shape


def rectangle_ring(corners: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """Draw the upright rectangle around some points; no corner without points.

    >>> rectangle_ring(np.array([(4.0, 1.0), (0.0, 3.0)])).tolist()
    [[0.0, 1.0], [4.0, 1.0], [4.0, 3.0], [0.0, 3.0]]
    """
    if not len(corners):
        return corners
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def ellipse_ring(centre: Float[np.ndarray, " 2"], radii: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "n 2"]:
    """Draw an upright ellipse, or a circle, as a ring of many corners.

    >>> ellipse_ring(np.array([5.0, 5.0]), np.array([4.0, 2.0]))[0].tolist()
    [9.0, 5.0]
    """
    angles = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
    return centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def shapes_of(polygons: Sequence[Polygon]) -> Shaped[np.ndarray, " n"]:
    """Collect the shapes of polygons in an array of objects, prepared to be asked more than once."""
    shapes = np.array([polygon.shape for polygon in polygons], object)
    shapely.prepare(shapes)
    return shapes


def rasterise(
    polygons: Sequence[Polygon],
    class_index: Mapping[str, int],
    left: float,
    top: float,
    downsample: float,
    shape: tuple[int, int],
    background: int = 0,
) -> UInt8[np.ndarray, "h w"]:
    """Draw the mask of a rectangle of the slide: a pixel belongs to the last polygon that holds its centre.

    A centre on a border belongs to the polygon on its right, or below it where the border is level, so that each pixel
    of a mesh of polygons belongs to exactly one. rasterio is asked at points a trifle off the centres: where a level
    border runs through centres, as those of whole numbers do at even downsamples, it makes holes a row too small.

    Args:
        class_index: mask value of each class name, 0…255.
        left, top: corner of the rectangle, in pixels of the finest level.
        downsample: pixels of the finest level per mask pixel, along each side.
        shape: rows and columns of the mask.
        background: mask value of ground outside all polygons.

    Raises:
        ValueError: a polygon of a class that has no index.

    >>> square = as_polygon("Dermis", [(2, 2), (6, 2), (6, 6), (2, 6)])
    >>> rasterise([square], {"Dermis": 1}, left=0, top=0, downsample=2, shape=(4, 4)).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    for polygon in polygons:
        if polygon.class_name not in class_index:
            raise ValueError(f"class {polygon.class_name!r} has no index; class_index has {', '.join(class_index)}")
    height, width = shape
    margin = BEYOND * downsample
    window = (left - margin, top - margin, left + width * downsample + margin, top + height * downsample + margin)
    shapes = shapes_of(polygons)
    near = np.flatnonzero(shapely.intersects(shapely.box(*window), shapes))
    shown = shapely.clip_by_rect(shapes[near], *window)
    shown = shapely.transform(shown, lambda corners: (corners - (left, top)) / downsample - OFF_CENTRE)
    values = [class_index[polygons[row].class_name] for row in near]
    painted = [pair for pair in zip(shown, values, strict=True) if not pair[0].is_empty]
    if not painted:
        return np.full(shape, background, np.uint8)
    return rasterize(painted, shape, fill=background, dtype=np.uint8)


def topmost(polygons: Sequence[Polygon], points: Float[np.ndarray, "n 2"]) -> Int64[np.ndarray, " n"]:
    """Find the row in ``polygons`` of the one that is seen at each point, −1 where there is none.

    >>> outer = as_polygon("Dermis", [(0, 0), (9, 0), (9, 9), (0, 9)])
    >>> inner = as_polygon("SCC", [(1, 1), (4, 1), (4, 4), (1, 4)])
    >>> topmost([outer, inner], np.array([[2.0, 2.0], [8.0, 8.0], [10.0, 10.0]])).tolist()
    [1, 0, -1]
    """
    shapes = shapes_of(polygons)
    place, row = shapely.STRtree(shapes).query(shapely.points(points))
    is_inside = shapely.contains_xy(shapes[row], *points[place].T)
    seen = np.full(len(points), -1, np.int64)
    np.maximum.at(seen, place[is_inside], row[is_inside])
    return seen


class Outside(NamedTuple):
    """How many of a slide's polygons leave it."""

    wholly: int  # no part of them is on the slide
    partly: int


def count_outside(polygons: Sequence[Polygon], size: tuple[int, int]) -> Outside:
    """Count the polygons that lie wholly and partly outside of a slide; a shared border is no part.

    Args:
        size: width and height of the finest level in pixels.

    >>> squares = [as_polygon("SCC", [(x, 0), (x + 4, 0), (x + 4, 4), (x, 4)]) for x in (0, 4, 6, 9)]
    >>> count_outside(squares, size=(6, 6))
    Outside(wholly=2, partly=1)
    """
    shapes = shapes_of(polygons)
    slide = shapely.box(0, 0, *size)
    is_shown = shapely.relate_pattern(shapes, slide, "T********")  # the insides of both meet
    is_partly = is_shown & ~shapely.covered_by(shapes, slide)
    return Outside(wholly=int((~is_shown).sum()), partly=int(is_partly.sum()))


def sort_outer_first(polygons: Sequence[Polygon]) -> list[Polygon]:
    """Sort polygons by how many others cover each; those of equal depth keep their order.

    >>> inner = as_polygon("SCC", [(1, 1), (4, 1), (4, 4), (1, 4)])
    >>> outer = as_polygon("Dermis", [(0, 0), (9, 0), (9, 9), (0, 9)])
    >>> [polygon.class_name for polygon in sort_outer_first([inner, outer])]
    ['Dermis', 'SCC']
    """
    shapes = shapes_of(polygons)
    covered, _ = shapely.STRtree(shapes).query(shapes, predicate="covered_by")  # each by itself as well
    depth = np.bincount(covered, minlength=len(polygons))
    return [polygons[row] for row in np.argsort(depth, kind="stable")]
