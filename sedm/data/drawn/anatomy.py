"""Anatomy of a tissue patch: where its glands end, where its cells lie.

Glands are the surroundings of warped seed points; each cuts a lumen out of epithelium out of stroma, where fat cells
may lie. Other cells are placed along the distance to the gland's border. Geometry lives in µm on a grid of 1 µm that
goes on for `MARGIN` µm outside the field of view, so that the patch's edges cut glands and cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from sedm.data.drawn.canvas import CANVAS, noise, rotate
from sedm.data.drawn.patients import TissueStyle

CLASSES = ("stroma", "epithelium", "lumen")
STROMA, EPITHELIUM, LUMEN = range(3)

FIELD = 128  # µm, side of the field of view, drawn at 0.5 µm per pixel
MARGIN = 24  # µm, anatomy continues this far outside the field
SIDE = FIELD + 2 * MARGIN
FAT_CELL = 23  # µm between the centres of fat cells
WINDOW = 14  # px, half side of the window a cell is drawn in
NUCLEUS, GOBLET, FIBROBLAST, LYMPHOCYTE, RED_CELL = range(5)  # kinds of cells


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a patch lie: distances in µm, float32 (SIDE, SIDE) on the 1 µm grid with margin."""

    inside: np.ndarray  # to the gland's border from within, 0 in the stroma
    outside: np.ndarray  # to it from the stroma, 0 in glands
    lumen: np.ndarray  # to the lumen, 0 in it
    fat: np.ndarray  # to the membrane of a fat cell, positive within one
    classes: np.ndarray  # uint8 (CANVAS, CANVAS), indices into `CLASSES`


def draw_anatomy(style: TissueStyle, rng: np.random.Generator) -> Anatomy:
    """Draw where glands, lumina and fat cells of a patch lie."""
    kind = style.architecture
    pitch = style.gland * {"tubular": 1.0, "crowded": 0.85, "cribriform": 1.5, "solid": 1.1}[kind]
    best, second = _nearest_glands(pitch, style, rng)
    septum = {"tubular": 0.2, "crowded": 0.12, "cribriform": 0.2, "solid": 0.15}[kind]
    field = slice(MARGIN, -MARGIN)
    shape = np.where(best - second > septum, best, -9.0)
    share = 0.30 + 0.42 * rng.beta(2.2, 1.9) + (0.06 if kind == "crowded" else 0.0)
    gland = shape > max(np.quantile(shape[field, field], 1 - share), -8.0)
    gland = ndimage.gaussian_filter(gland.astype(np.float32), 3.0) > 0.5  # rounds off, drops crumbs
    inside = _distance(gland)
    outside = _distance(~gland)

    # How much of the way to the lumen a point has gone: above 1 it is lumen.
    if kind == "cribriform":
        holes = noise(rng, SIDE, 13.0)
        progress = np.minimum(inside / 9.0, 1 + holes - 0.8)
    else:
        depth = style.height * (1.5 if kind == "solid" else 1.0)
        progress = inside / (depth * np.exp(0.16 * noise(rng, SIDE, 22.0) + 0.06 * noise(rng, SIDE, 6.0)))
    within = progress[field, field]
    # Nearer to the usual share: too little would starve the class, too much the epithelium.
    lumen_share = np.clip(0.6 * (within > 1).mean() + 0.05, 0.085, 0.20)
    progress = progress / max(np.quantile(within, 1 - lumen_share), 0.3)
    is_lumen = (progress > 1) & (inside > 2.5)
    lumen = _distance(~is_lumen)

    border = to_canvas(inside - outside)
    empty = to_canvas(ndimage.gaussian_filter(is_lumen.astype(np.float32), 0.8))
    classes = np.where(border <= 0, STROMA, np.where(empty > 0.5, LUMEN, EPITHELIUM)).astype(np.uint8)
    fat = _fat_cells(outside, style.fat, rng.spawn(1)[0])
    return Anatomy(inside=inside, outside=outside, lumen=lumen, fat=fat, classes=classes)


def _fat_cells(outside: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Draw fat cells: distance to the nearest membrane, µm, positive inside a cell, float32 (SIDE, SIDE).

    Fat cells crowd together in lobules, wherever the stroma has room for them; none where `amount` is 0 or less.
    """
    if amount <= 0:
        return np.full(outside.shape, -9, dtype=np.float32)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    x, y = x + 0.9 * noise(rng, SIDE, 14.0), y + 0.9 * noise(rng, SIDE, 14.0)
    n = math.ceil(SIDE / FAT_CELL) + 1
    row, column = np.mgrid[:n, :n].reshape(2, -1)
    jitter = 0.14 * rng.standard_normal((2, n * n))
    at = FAT_CELL * np.stack([0.87 * (row + jitter[0]), column + 0.5 * (row % 2) - 0.5 + jitter[1]])
    pixel = tuple(np.clip(at, 0, SIDE - 1).astype(int))
    lobule = noise(rng, SIDE, 60.0)[pixel] > 1 - 1.5 * min(amount, 1.2)
    first, second = np.full((2, SIDE, SIDE), 99, dtype=np.float32)
    for centre_y, centre_x in at.T[lobule & (outside[pixel] > 6)].astype(np.float32):
        distance = np.hypot(x - centre_x, y - centre_y)
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
    return np.minimum(np.minimum((second - first) / 2 - 0.8, 0.58 * FAT_CELL - first), outside - 2.5)


def _distance(within: np.ndarray) -> np.ndarray:
    """Measure the distance to the nearest point outside, µm, float32 on the 1 µm grid; far away where there is none."""
    if within.all():
        return np.full(within.shape, 99, dtype=np.float32)
    return ndimage.distance_transform_edt(within).astype(np.float32)


def _nearest_glands(pitch: float, style: TissueStyle, rng: np.random.Generator):
    """Draw glands: closeness to the nearest and second nearest centre, 1 at the centre, each (SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE / 2
    x = x + 0.10 * pitch * noise(rng, SIDE, 0.8 * pitch) + 0.8 * noise(rng, SIDE, 11.0)
    y = y + 0.10 * pitch * noise(rng, SIDE, 0.8 * pitch) + 0.8 * noise(rng, SIDE, 11.0)
    angle, stretch = rng.uniform(0, np.pi), math.sqrt(style.stretch)
    u, v = rotate(x, y, angle)
    u, v = u / stretch, v * stretch
    n = math.ceil(0.85 * SIDE / pitch)
    shift_u, shift_v = rng.uniform(-0.5, 0.5) * pitch, rng.uniform(-0.5, 0.5) * pitch
    best, second = np.full_like(u, -9), np.full_like(u, -9)
    for i in range(-n, n + 1):
        for j in range(-n, n + 1):
            centre_u = (j + 0.5 * (i % 2) + 0.13 * rng.standard_normal()) * pitch + shift_u
            centre_v = (0.87 * i + 0.13 * rng.standard_normal()) * pitch + shift_v
            radius = pitch / 2 * math.exp(0.18 * rng.standard_normal())
            if math.hypot(centre_u * stretch, centre_v / stretch) > 0.5 * FIELD * 1.42 + 2 * radius:
                continue  # too far away to be seen
            near = 1 - np.sqrt((u - centre_u) ** 2 + (v - centre_v) ** 2) / radius
            second = np.maximum(second, np.minimum(best, near))
            best = np.maximum(best, near)
    return best, second


def place_cells(anatomy: Anatomy, style: TissueStyle, rng: np.random.Generator) -> np.ndarray:
    """Place cells, in painting order, (n, 9): x, y, half axes (px of the padded canvas), angle, h, e, kind, bend.

    Candidates are taken in order of preference and kept where no earlier cell is too near (dart throwing), so
    that epithelial nuclei fill the base of the gland first and climb only as far as the patient stratifies.
    """
    n = 2600
    x, y = rng.uniform(MARGIN - 7, SIDE - MARGIN + 7, (2, n))
    at = y.astype(int), x.astype(int)
    inside, outside, lumen = anatomy.inside[at], anatomy.outside[at], anatomy.lumen[at]
    height = inside / (inside + np.minimum(lumen, 3 * style.height))
    across = np.arctan2(*(g[at] for g in np.gradient(ndimage.gaussian_filter(anatomy.inside - anatomy.outside, 1.5))))
    chance, normal = rng.uniform(size=n), rng.standard_normal((4, n))
    short = style.nucleus * np.exp(style.pleomorphism * normal[0])
    kinds = np.where(inside > 0, NUCLEUS, FIBROBLAST)
    cluster = noise(rng, SIDE, 18.0)[at]
    kinds = np.where((inside == 0) & (chance < style.lymphocytes * (0.35 + 0.65 * (cluster > 0.6))), LYMPHOCYTE, kinds)
    kinds = np.where((kinds == NUCLEUS) & (height > 0.5) & (chance < style.goblets * 0.4), GOBLET, kinds)
    pool = rng.uniform(0.2, 0.8, 2) * FIELD + MARGIN
    near_pool = np.hypot(x - pool[0], y - pool[1]) < 11
    kinds = np.where((kinds == FIBROBLAST) & near_pool & (rng.uniform() < style.bleeding), RED_CELL, kinds)

    climb = style.stratification * (3 if style.architecture in ("cribriform", "solid") else 1)
    order = np.abs(height - 0.30) / climb + 0.5 * chance
    order = np.where(kinds == NUCLEUS, order, np.where(kinds == GOBLET, -1, 2 * chance - 0.5 * (kinds == RED_CELL)))
    limit = {NUCLEUS: 1.5, GOBLET: 9, FIBROBLAST: 2 * style.fibroblasts, LYMPHOCYTE: 9, RED_CELL: 9}
    fits = (lumen > 2.5) & np.where(inside > 0, inside > 0.8 * short, outside > 1.2)
    fits &= anatomy.fat[at] < -1.5
    fits &= order < np.choose(kinds, [limit[k] for k in range(5)])

    # By kind: half axes and distance to the next cell in µm, haematoxylin, eosin.
    by_kind = {
        NUCLEUS: (np.minimum(short * style.elongation, 5.8), short, short * style.spacing, style.hyperchromasia, 0.25),
        GOBLET: (4.7 + 0.5 * normal[0], 3.3 + 0.4 * normal[1], 6.2, style.mucin, 0.12),
        FIBROBLAST: (4.4 + 0.8 * normal[0], 1.05 + 0.15 * normal[1], 7.0, 0.85, 0.4),
        LYMPHOCYTE: (2.0 + 0.2 * normal[0], 1.75 + 0.2 * normal[1], 4.4, 1.2, 0.1),
        RED_CELL: (2.7 + 0.2 * normal[0], 2.4 + 0.2 * normal[1], 4.6, 0.0, 1.5),
    }
    a, b, gap, h, e = (np.choose(kinds, [by_kind[kind][i] for kind in range(5)]) for i in range(5))
    turn = np.where(kinds == FIBROBLAST, across + np.pi / 2, across) + 0.22 * normal[2]
    h = h * np.exp(0.12 * normal[3] * (kinds != GOBLET))

    placed = []
    taken = np.zeros((2 * SIDE, 2 * SIDE), dtype=bool)
    turns = np.argsort(order)
    turns = turns[fits[turns]]
    halves = (2 * y).astype(int), (2 * x).astype(int), np.rint(2 * gap).astype(int)  # in half µm
    for i, row, column, reach in zip(turns.tolist(), *(values[turns].tolist() for values in halves), strict=True):
        if not taken[row, column]:
            around = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
            taken[around] |= _disc(reach)
            placed.append(i)
    # Vacuoles and red cells lie under nuclei, so that no nucleus is cut.
    rows = np.array(sorted(placed, key=lambda i: kinds[i] not in (GOBLET, RED_CELL)), dtype=int)
    scale = CANVAS / FIELD
    x, y = ((place - MARGIN) * scale + WINDOW for place in (x, y))
    bend = 0.03 * normal[1] * (kinds == FIBROBLAST)
    cells = np.stack([x, y, a * scale, b * scale, turn, h, e, kinds, bend], axis=1)[rows].astype(np.float32)
    is_visible = ((cells[:, :2] >= WINDOW) & (cells[:, :2] < CANVAS + WINDOW)).all(axis=1)
    return cells[is_visible]


def to_canvas(values: np.ndarray) -> np.ndarray:
    """Interpolate values (SIDE, SIDE) on the 1 µm grid to the canvas: (CANVAS, CANVAS).

    >>> to_canvas(np.ones((SIDE, SIDE), np.float32)).shape
    (256, 256)
    """
    weights = _upsampling()
    return weights @ values @ weights.T


@lru_cache
def _upsampling() -> np.ndarray:
    """Make the matrix (CANVAS, SIDE) of linear interpolation from the 1 µm grid with margin to the canvas."""
    at = (np.arange(CANVAS) + 0.5) * (FIELD / CANVAS) + MARGIN - 0.5
    return np.clip(1 - np.abs(at[:, None] - np.arange(SIDE)), 0, None).astype(np.float32)


@lru_cache
def _disc(reach: int) -> np.ndarray:
    """Draw a boolean disc (2 * reach + 1, 2 * reach + 1)."""
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return x**2 + y**2 <= reach**2
