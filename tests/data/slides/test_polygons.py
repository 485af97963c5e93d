"""Polygons hold what whole numbers say: the truth is computed in fractions, crossing by crossing, without a library."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import shapely

from sedm.data.slides.polygons import OFF_CENTRE, as_points, as_polygon, count_outside, rasterise, sort_outer_first

SHAPE = (20, 24)


def crossings(ring, y):
    """Where a ring crosses the level line at y, in fractions."""
    points = [(Fraction(float(x)), Fraction(float(y))) for x, y in ring]
    return [
        x1 + (y - y1) * (x2 - x1) / (y2 - y1)
        for (x1, y1), (x2, y2) in pairwise([*points, points[0]])
        if (y1 <= y) != (y2 <= y)
    ]


def inside_by_counting(ring, left=0, top=0, downsample=1, shape=SHAPE):
    """Which pixel centres a ring holds: those from which an odd number of crossings lies to the right.

    A centre on a border counts for what is on its right, or below where the border is level.
    """
    left, top, downsample, half = (Fraction(float(value)) for value in (left, top, downsample, 0.5))
    mask = np.zeros(shape, bool)
    for row in range(shape[0]):
        places = crossings(ring, top + (row + half) * downsample)
        for column in range(shape[1]) if places else ():
            x = left + (column + half) * downsample
            mask[row, column] = sum(x < place for place in places) % 2
    return mask


def mask_of(*rings, left=0, top=0, downsample=1, shape=SHAPE):
    """How often each pixel is painted."""
    polygons = [polygon for ring in rings if (polygon := as_polygon("SCC", ring))]
    return sum(
        (rasterise([polygon], {"SCC": 1}, left, top, downsample, shape).astype(int) for polygon in polygons),
        np.zeros(shape, int),
    )


def star(n_corners, step, radius=9.0):
    angles = 2 * np.pi * step * np.arange(n_corners) / n_corners
    return np.stack([11.3 + radius * np.cos(angles), 9.7 + radius * np.sin(angles)], axis=1)


SQUARE, HOLE = [(2, 2), (18, 2), (18, 18), (2, 18), (2, 2)], [(6, 6), (14, 6), (14, 14), (6, 14), (6, 6)]
RINGS = {
    "a bow tie": [(1, 1), (20, 18), (20, 1), (1, 18)],
    "a five-pointed star": star(5, 2),
    "a seven-pointed star": star(7, 3),
    "a hole": SQUARE + HOLE,
    "a hole the other way round": SQUARE + HOLE[::-1],
    "a hole along the border": [*SQUARE[:4], (2, 14), (10, 14), (10, 6), (2, 6), (2, 14), (2, 6)],
    "an island in a hole": [*SQUARE, *HOLE, (8, 8), (12, 8), (12, 12), (8, 12), (8, 8), (6, 6)],
    "twice round": SQUARE[:4] * 2,
    "three times round": SQUARE[:4] * 3,
    "there and back": [(2, 2), (18, 2), (18, 18), (10, 18), (10, 23), (10, 18), (2, 18)],
    "corners given twice": np.repeat(SQUARE[:4], 3, axis=0),
    "through centres": np.array(SQUARE[:4]) + 0.5,
    "through centres, the other way round": np.array(SQUARE[3::-1]) + 0.5,
    "a hole through centres": np.array(SQUARE + HOLE) + 0.5,
    "a hole through centres, the other way round": np.array(SQUARE + HOLE[::-1]) + 0.5,
    "a diamond through centres": [(10.5, 0.5), (20.5, 10.5), (10.5, 20.5), (0.5, 10.5)],
    "beyond all sides": [(-1e6, -1e6), (1e6, -1e6), (1e6, 7.5), (3.5, 9.5), (1e6, 1e6), (-1e6, 1e6)],
}


@pytest.mark.parametrize("name", RINGS)
def test_rings_of_each_kind_hold_the_pixels_that_counting_gives_them(name):
    assert (mask_of(RINGS[name]) == inside_by_counting(RINGS[name])).all()
    assert (mask_of(RINGS[name][::-1]) == inside_by_counting(RINGS[name])).all()


RANDOM = {
    "anywhere": lambda generator: generator.uniform(-8, 30, (generator.integers(3, 12), 2)),
    "whole numbers, through centres on a coarser grid": lambda generator: generator.integers(-8, 30, (6, 2)),
    "few places, so borders are shared": lambda generator: 4 * generator.integers(0, 6, (generator.integers(4, 14), 2)),
    "as small as a nucleus": lambda generator: generator.uniform(3, 15, 2) + generator.uniform(-2, 2, (6, 2)),
    "slivers": lambda generator: (
        generator.uniform(0, 20, 2)
        + generator.uniform(-12, 12, (3, 1)) * (1, 0.7)
        + generator.uniform(-0.4, 0.4, (3, 2))
    ),
    "far off": lambda generator: generator.integers(-(10**8), 10**8, (6, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("downsample", [1, 2, 3.3])
def test_random_rings_hold_the_pixels_that_counting_gives_them(kind, downsample):
    """Counted at the points that decide, so that rounding can change no pixel."""
    generator = np.random.default_rng(0)
    n_inside = 0
    for _ in range(40):
        ring = RANDOM[kind](generator)
        left, top = (0, 0) if downsample == 2 else generator.uniform(-5, 5, 2)
        x, y = left + OFF_CENTRE[0] * downsample, top + OFF_CENTRE[1] * downsample
        expected = inside_by_counting(ring, x, y, downsample)
        assert (mask_of(ring, left=left, top=top, downsample=downsample) == expected).all()
        n_inside += expected.sum()
    assert n_inside > 0


def mesh(generator, n_points, on_centres):
    """Triangles that fill a square beyond the mask, their corners between or on the centres of pixels."""
    corners = np.array([(-30, -30), (60, -30), (60, 60), (-30, 60)])
    points = np.concatenate([corners, generator.integers(-10, 40, (n_points, 2))])
    points = points + 0.5 if on_centres else points + generator.uniform(0, 1, points.shape)
    points[:4] = corners
    triangles = shapely.get_parts(shapely.delaunay_triangles(shapely.multipoints(points)))
    return [np.array(triangle.exterior.coords)[:: generator.choice([-1, 1])] for triangle in triangles]


@pytest.mark.parametrize("on_centres", [False, True])
@pytest.mark.parametrize("downsample", [1, 0.5, 0.7])
def test_no_pixel_of_a_mesh_is_counted_twice_or_left_out(on_centres, downsample):
    generator = np.random.default_rng(0)
    for _ in range(3):
        triangles = mesh(generator, 60, on_centres)
        assert len(triangles) > 80
        assert (mask_of(*triangles, downsample=downsample) == 1).all()


def test_rectangles_side_by_side_share_no_pixel_whichever_way_they_are_drawn():
    """Their borders run through centres."""
    generator = np.random.default_rng(0)
    rectangles = []
    for x in range(-1, 25, 5):
        for y in range(-1, 25, 5):
            ring = [(x + 0.5, y + 0.5), (x + 5.5, y + 0.5), (x + 5.5, y + 5.5), (x + 0.5, y + 5.5)]
            rectangles.append(ring[:: generator.choice([-1, 1])])
    assert (mask_of(*rectangles) == 1).all()


def test_nuclei_keep_their_area():
    """Discs of 5.3 px: some libraries make them 22 % larger."""
    generator = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    disc = 2.65 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    areas = [mask_of(generator.uniform(8, 12, 2) + disc).sum() for _ in range(300)]
    assert np.mean(areas) == pytest.approx(np.pi * 2.65**2, rel=0.01)


def test_polygons_are_opaque_and_the_last_is_on_top():
    layers = [as_polygon(name, ring) for name, ring in (("SCC", SQUARE), ("Dermis", HOLE), ("SCC", star(5, 1, 2)))]
    mask = rasterise(layers, {"SCC": 1, "Dermis": 255}, 0, 0, 1, SHAPE, background=7)
    expected = np.full(SHAPE, 7)
    for value, ring in ((1, SQUARE), (255, HOLE), (1, star(5, 1, 2))):
        expected[inside_by_counting(ring)] = value
    assert (mask == expected).all()
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("offset", [1e5, 1e8])
def test_a_mask_far_from_the_corner_of_the_slide_is_that_of_the_corner(offset):
    """Whole numbers, which are exact everywhere."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        ring = generator.integers(-8, 60, (7, 2))
        here, there = mask_of(ring, downsample=2), mask_of(ring + offset, left=offset, top=offset, downsample=2)
        assert (here == there).all()


@pytest.mark.parametrize(
    "ring", [[], [(1, 1)], [(1, 1)] * 5, [(0, 0), (4, 4)], [(0, 0), (4, 4), (2, 2)], SQUARE[:4] * 2]
)
def test_a_ring_that_holds_nothing_is_no_polygon(ring):
    assert as_polygon("SCC", ring) is None


@pytest.mark.parametrize("name", RINGS)
def test_shapes_are_valid_and_have_the_area_of_their_pixels(name):
    polygon = as_polygon("SCC", RINGS[name])
    if polygon is None:
        assert not inside_by_counting(RINGS[name]).any()
    else:
        assert polygon.shape.is_valid
        assert np.abs(RINGS[name]).max() > 100 or polygon.shape.area == pytest.approx(
            inside_by_counting(RINGS[name], downsample=0.25, shape=(96, 96)).sum() / 16, rel=0.03
        )


def test_corners_that_are_nowhere_are_refused():
    with pytest.raises(ValueError, match=r"^corner 2 is \(nan, 1.0\); expected two numbers"):
        as_polygon("Dermis", np.array([[0.0, 0.0], [np.nan, 1.0], [2.0, 2.0]]))
    assert as_points([(1, 2), (3.5, 4)]).tolist() == [[1, 2], [3.5, 4]]


# ------------------------------------------------------------------------------------------ polygons and each other


@pytest.mark.slow
def test_polygons_that_cover_others_come_first():
    """Their borders lie between pixels, so they cover what their pixels cover."""
    generator = np.random.default_rng(0)
    n_covered = 0
    for _ in range(20):
        rings = [SQUARE + HOLE]
        for _ in range(6):
            left, right = np.sort(generator.choice(20, 2, replace=False))
            top, bottom = np.sort(generator.choice(20, 2, replace=False))
            rings.append([(left, top), (right, top), (right, bottom), (left, bottom)])
        masks = [inside_by_counting(ring) for ring in rings]
        depth = [sum(not (inner & ~outer).any() for outer in masks) for inner in masks]
        polygons = [as_polygon(str(row), ring) for row, ring in enumerate(rings)]
        order = [int(polygon.class_name) for polygon in sort_outer_first(polygons)]
        assert order == sorted(range(len(rings)), key=depth.__getitem__)
        n_covered += sum(depth) - len(rings)
    assert n_covered > 20


def area_by_shoelace(ring):
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise([*ring, *ring[:1]]))) / 2


def shown_area(ring, width, height):
    """Of a convex ring, what is on the slide: cut at one border after the other (Sutherland and Hodgman)."""
    for axis, sign, border in ((0, 1, 0), (0, -1, -width), (1, 1, 0), (1, -1, -height)):
        kept = []
        for start, end in zip(ring, [*ring[1:], *ring[:1]], strict=True):
            before, after = sign * start[axis] - border, sign * end[axis] - border
            if before >= 0:
                kept.append(start)
            if before * after < 0:
                kept.append(start + (end - start) * before / (before - after))
        ring = kept
    return area_by_shoelace(ring)


def test_polygons_outside_of_the_slide_are_those_that_show_no_part_of_it():
    generator = np.random.default_rng(0)
    kinds = {(0, 0): 0, (0, 1): 0, (1, 0): 0}
    for _ in range(600):
        points = generator.integers((-4, -4), (14, 12), (3, 2)).astype(float)
        area = area_by_shoelace(points)
        if area == 0:
            continue
        shown = shown_area(list(points), 10, 8)
        expected = (int(shown == 0), int(0 < shown < area - 1e-9))
        assert count_outside([as_polygon("SCC", points)], size=(10, 8)) == expected
        kinds[expected] += 1
    assert min(kinds.values()) > 20


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        ([(0, 0), (10, 0), (10, 8), (0, 8)], (0, 0)),  # the slide itself
        ([(10, 0), (20, 0), (20, 8), (10, 8)], (1, 0)),  # shares a border
        ([(-9, -9), (30, -9), (30, 30), (-9, 30)], (0, 1)),  # holds the slide
        ([(-5, 0), (5, 0), (5, 8), (-5, 8)], (0, 1)),  # its corners lie on borders or outside
        (
            [(-5, -5), (20, -5), (20, -1), (-1, -1), (-1, 20), (-5, 20)],
            (1, 0),
        ),  # its box reaches the slide, it does not
        ([(-1, 4), (0, 4), (-1, 5)], (1, 0)),  # touches it in a point
    ],
)
def test_borders_do_not_count_as_outside_or_inside(ring, expected):
    assert count_outside([as_polygon("SCC", ring)], size=(10, 8)) == expected
