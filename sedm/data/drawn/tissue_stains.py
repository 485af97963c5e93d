"""Stains of a tissue patch: how much haematoxylin and eosin (no unit, 1 = a typical nucleus or fibre) lies where.

Fibres, cytoplasm and mucin first, then cell by cell: its own stains take the place of those under it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from sedm.data.drawn.anatomy import FIELD, GOBLET, NUCLEUS, RED_CELL, WINDOW, Anatomy, place_cells, to_canvas
from sedm.data.drawn.canvas import CANVAS, noise, rotate
from sedm.data.drawn.patients import TissueStyle


def draw_stains(anatomy: Anatomy, style: TissueStyle, rng: np.random.Generator) -> np.ndarray:
    """Stain a patch: haematoxylin and eosin, float (2, CANVAS, CANVAS), 0 or more."""
    stains = _background(anatomy, style, rng)
    _paint_cells(stains, place_cells(anatomy, style, rng), style, rng)
    return stains[:, WINDOW:-WINDOW, WINDOW:-WINDOW]


def _background(anatomy: Anatomy, style: TissueStyle, rng: np.random.Generator) -> np.ndarray:
    """Stain all but the cells: haematoxylin and eosin, float (2, h, w) on the canvas padded by `WINDOW`."""
    inside, outside, lumen = (to_canvas(d) for d in (anatomy.inside, anatomy.outside, anatomy.lumen))

    fibre, bundles = _fibres(outside, style, rng)
    # Bundles come apart along lines: clefts stay thin, or they would pass for lumen.
    cleft = np.clip(1.4 - np.abs(bundles) / np.maximum(style.oedema + 0.08 * noise(rng, CANVAS, 50.0), 0.01), 0, 1)
    stroma_e = style.collagen * (1 + style.fibre_contrast * (fibre - 0.6)) * (1 - 0.7 * cleft)
    stroma_e = stroma_e + 0.18 * np.exp(-(((outside - 1.2) / 0.9) ** 2))  # basement membrane
    stroma_h = 0.10 * (1 - 0.7 * cleft) * (0.7 + 0.6 * fibre)
    if anatomy.fat.max() > 0:
        fat = to_canvas(anatomy.fat)
        fibre_share = 1 - np.clip(fat / 0.5 + 0.5, 0, 1)
        stroma_e, stroma_h = (fibre_share * s for s in (stroma_e + 0.3 * np.exp(-(((fat + 0.5) / 0.6) ** 2)), stroma_h))

    height = inside / (inside + np.minimum(lumen, 3 * style.height) + 1e-6)
    granular = 1 + 0.10 * _grain(rng, CANVAS, 1) + 0.08 * noise(rng, CANVAS, 12.0)
    pallor = 1 - style.apical_pallor * np.clip(height - 0.35, 0, 1)
    cell_e = style.cytoplasm_e * granular * pallor + 0.25 * np.exp(-((lumen / 1.2) ** 2))  # brush border
    cell_h = style.cytoplasm_h * granular * pallor

    wisps = np.clip(noise(rng, CANVAS, 20.0) + 0.7 * noise(rng, CANVAS, 7.0) + 1.6 * style.secretion - 1.2, 0, 1.5)
    mucin = wisps * np.clip(lumen * -1 + 1, 0, 1)
    lumen_e, lumen_h = 0.02 + 0.14 * mucin, 0.02 + 0.10 * mucin
    if style.necrosis > 0:
        debris_h, debris_e = _debris(style.architecture, style.necrosis, rng.spawn(1)[0]) * np.clip(1 - lumen, 0, 1)
        lumen_h, lumen_e = lumen_h + debris_h, lumen_e + debris_e

    h = np.choose(anatomy.classes, (stroma_h, cell_h, lumen_h))
    e = np.choose(anatomy.classes, (stroma_e, cell_e, lumen_e))
    return np.pad(np.maximum(np.stack([h, e]), 0), ((0, 0), (WINDOW, WINDOW), (WINDOW, WINDOW)))


def _debris(kind: str, necrosis: float, rng: np.random.Generator) -> np.ndarray:
    """Stain dead cells, float32 (2, CANVAS, CANVAS): pink ghosts, dark dust of burst nuclei.

    Glands shed some into their lumen; the middle of solid and cribriform nests dies as a whole (comedo necrosis).
    """
    comedo = 0.9 if kind in ("solid", "cribriform") else 0.0
    extent = np.clip(3 * (noise(rng, CANVAS, 26.0) + 1.2 * min(necrosis, 1) + comedo - 1), 0, 1)
    grain, dust = noise(rng, CANVAS, 9.0), _grain(rng, CANVAS, 1)
    return extent * np.stack([0.12 + 0.9 * np.clip(3 * dust - 3.6, 0, 1), 0.5 + 0.14 * grain + 0.06 * dust])


def _fibres(outside: np.ndarray, style: TissueStyle, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw wavy collagen, 0 to 1.3, and its bundles, of mean 0 and variance 1: two float32 (CANVAS, CANVAS).

    Both are noise stretched along bent lines.
    """
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) * (FIELD / CANVAS)
    angle = rng.uniform(0, np.pi)
    across, along = (c + 9 * noise(rng, CANVAS, 80.0) for c in rotate(x, y, angle))
    across = across + style.waves * np.sin(2 * np.pi * along / 26 + 2 * noise(rng, CANVAS, 90.0))
    across = across + 22 * np.exp(-outside / 12)  # sheaths wrap around glands
    fine = _texture(across / style.fibre, along / 14, rng)
    bundles = _texture(across / 5, along / 30, rng)
    return np.clip(0.55 + 0.28 * fine + 0.28 * bundles, 0, 1.3), bundles


def _texture(v: np.ndarray, u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw smooth noise of mean 0, variance 1 at the points (v, u), which changes over about 1."""
    sheet, finer = _texture_sheet(), 4
    corner = rng.integers(0, len(sheet), 2)
    row, column = (np.floor(finer * c).astype(np.int32) + int(o) for c, o in zip((v, u), corner, strict=True))
    return sheet[row % len(sheet), column % len(sheet)]


def _grain(rng: np.random.Generator, size: int, step: int) -> np.ndarray:
    """Draw noise of mean 0, variance 1, float32 (size, size), that changes over about 4 / `step` pixels."""
    rows, columns = ((step * np.arange(size) + offset) % 512 for offset in rng.integers(0, 512, 2))
    return _texture_sheet()[rows[:, None], columns]


@lru_cache
def _texture_sheet() -> np.ndarray:
    """Draw periodic noise, float32 (512, 512), that changes over about 4 pixels; always the same."""
    white = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    smooth = ndimage.gaussian_filter(white, 3.2, mode="wrap")
    return smooth / smooth.std()


def _paint_cells(stains: np.ndarray, cells: np.ndarray, style: TissueStyle, rng: np.random.Generator) -> None:
    """Put each cell's own stains in place of those under it: float (2, h, w) of the padded canvas."""
    if not len(cells):
        return
    # Only pixels in the box around a cell go on, as lists: `cell` is the row of `cells`, `pixel` the place.
    x, y, a, b, angle, _, _, _, bend = (column[:, None] for column in cells.T)
    step = np.arange(-WINDOW, WINDOW + 1, dtype=np.float32)
    dx, dy, cosine, sine = step - (x - np.floor(x)), step - (y - np.floor(y)), np.cos(angle), np.sin(angle)
    spare = 1 + np.abs(bend) * a**2
    wide, high = (1.1 * np.hypot(a * c, b * s) + spare for c, s in ((cosine, sine), (sine, cosine)))
    cell, row, column = np.nonzero((np.abs(dy) < high)[:, :, None] & (np.abs(dx) < wide)[:, None])
    left, top = np.floor(cells[:, :2]).astype(int).T - WINDOW
    pixel = (top * stains.shape[2] + left)[cell] + row * stains.shape[2] + column

    # Along and across a cell, in its half axes.
    row, column = row + len(step) * cell, column + len(step) * cell
    along = (dx * cosine / a).take(column) + (dy * sine / a).take(row)
    off = (dy * cosine / b).take(row) - (dx * sine / b).take(column) + (bend * a**2 / b).take(cell) * along**2
    uneven = 0.13 * rng.standard_normal(len(cells), np.float32)  # no nucleus is an ellipse
    square = (along**2 + off**2) * (1 + uneven[cell] * np.sign(along))
    reached = np.flatnonzero(square < ((1 + 0.7 / b) ** 2).take(cell))
    cell, pixel, along, off, radius = (v[reached] for v in (cell, pixel, along, off, np.sqrt(square)))
    a, b, h, e, kind = (values[cell] for values in cells.T[[2, 3, 5, 6, 7]])

    cover = np.clip((1 - radius) * b / 1.3 + 0.5, 0, 1)
    grain = 1 + style.chromatin * _grain(rng, stains.shape[1], 2).ravel()[pixel]
    pale, goblet = np.float32(style.vesicular) * (kind == NUCLEUS), np.float32(0.6) * (kind == GOBLET)
    rim = 1 - pale * 0.6 * np.clip(1.1 - radius, 0, 1) + 0.35 * pale * np.clip(1 - ((radius - 0.85) / 0.25) ** 2, 0, 1)
    spot = ((along - 0.2) * a) ** 2 + (off * b) ** 2
    rim += 0.7 * pale * np.clip(1 - spot / 6, 0, 1)  # nucleolus, seen where chromatin is open
    rim += goblet * np.clip(1 - ((radius - 0.95) / 0.2) ** 2, 0, 1)  # squeezed cytoplasm
    h = h * rim * np.where((kind == GOBLET) | (kind == RED_CELL), 1, grain)
    e = e * np.where(kind == RED_CELL, 0.75 + 0.3 * radius, 1)

    # Cells overlap instead of averaging: in each pixel one after another, in all pixels at once.
    cell_stains = np.stack([h, e])
    planes = stains.reshape(2, -1)
    waiting = np.arange(len(pixel))
    first = np.empty(planes.shape[1], dtype=int)
    while len(waiting):
        first[pixel[waiting[::-1]]] = waiting[::-1]  # of several numbers, the last one assigned stays
        now = first[pixel[waiting]] == waiting
        top, waiting = waiting[now], waiting[~now]
        under = planes[:, pixel[top]]
        planes[:, pixel[top]] = under + cover[top] * (cell_stains[:, top] - under)
