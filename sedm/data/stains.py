"""Stains of a tissue patch: how much haematoxylin and eosin (no unit, 1 = a typical nucleus or fibre) lies where.

Fibres, cytoplasm and mucin first, then cell by cell: its own stains take the place of those under it.
"""

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from scipy import ndimage

from sedm.data.anatomy import FIELD, GOBLET, NUCLEUS, RED_CELL, WINDOW, place_cells, to_canvas
from sedm.data.drawing import CANVAS, noise, rotate


def draw_stains(anatomy: SimpleNamespace, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Haematoxylin and eosin of a patch, float (2, CANVAS, CANVAS), 0 or more."""
    stains = _background(anatomy, style, rng)
    _paint_cells(stains, place_cells(anatomy, style, rng), style, rng)
    return stains[:, WINDOW:-WINDOW, WINDOW:-WINDOW]


def _background(anatomy: SimpleNamespace, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Haematoxylin and eosin without cells, float (2, h, w) on the canvas padded by `WINDOW`."""
    inside, outside, lumen = (to_canvas(d) for d in (anatomy.inside, anatomy.outside, anatomy.lumen))

    fibre = _fibres(outside, style, rng)
    cleft = np.clip((style.oedema + 0.13 * noise(rng, CANVAS, 50.0) - fibre) / 0.12, 0, 1) * (style.oedema > 0.08)
    stroma_e = style.collagen * (1 + style.fibre_contrast * (fibre - 0.6)) * (1 - 0.85 * cleft)
    stroma_e = stroma_e + 0.18 * np.exp(-(((outside - 1.2) / 0.9) ** 2))  # basement membrane
    stroma_h = 0.10 * (1 - cleft) * (0.7 + 0.6 * fibre)

    height = inside / (inside + np.minimum(lumen, 3 * style.height) + 1e-6)
    granular = 1 + 0.10 * noise(rng, CANVAS, 3.0) + 0.08 * noise(rng, CANVAS, 12.0)
    pallor = 1 - style.apical_pallor * np.clip(height - 0.35, 0, 1)
    cell_e = style.cytoplasm_e * granular * pallor + 0.25 * np.exp(-((lumen / 1.2) ** 2))  # brush border
    cell_h = style.cytoplasm_h * granular * pallor

    wisps = np.clip(noise(rng, CANVAS, 20.0) + 0.7 * noise(rng, CANVAS, 7.0) + 1.6 * style.secretion - 1.2, 0, 1.5)
    mucin = wisps * np.clip(lumen * -1 + 1, 0, 1)
    lumen_e, lumen_h = 0.02 + 0.16 * mucin, 0.02 + 0.10 * mucin

    h = np.choose(anatomy.classes, (stroma_h, cell_h, lumen_h))
    e = np.choose(anatomy.classes, (stroma_e, cell_e, lumen_e))
    return np.pad(np.maximum(np.stack([h, e]), 0), ((0, 0), (WINDOW, WINDOW), (WINDOW, WINDOW)))


def _fibres(outside: np.ndarray, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Density of wavy collagen, float32 (CANVAS, CANVAS) of 0 to 1.3: noise stretched along bent lines."""
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) * (FIELD / CANVAS)
    angle = rng.uniform(0, np.pi)
    across, along = (c + 9 * noise(rng, CANVAS, 80.0) for c in rotate(x, y, angle))
    across = across + style.waves * np.sin(2 * np.pi * along / 26 + 2 * noise(rng, CANVAS, 90.0))
    across = across + 22 * np.exp(-outside / 12)  # sheaths wrap around glands
    fine = _texture(across / style.fibre, along / 14, rng)
    bundles = _texture(across / 5, along / 30, rng)
    return np.clip(0.55 + 0.28 * fine + 0.28 * bundles, 0, 1.3)


def _texture(v: np.ndarray, u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of mean 0, variance 1 at the points (v, u), which changes over about 1."""
    sheet, finer = _texture_sheet(), 4
    corner = rng.integers(0, len(sheet), 2)
    row, column = (np.floor(finer * c).astype(np.int32) + int(o) for c, o in zip((v, u), corner, strict=True))
    return sheet[row % len(sheet), column % len(sheet)]


@lru_cache
def _texture_sheet() -> np.ndarray:
    """Periodic noise, float32 (512, 512), that changes over about 4 pixels; always the same."""
    white = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    smooth = ndimage.gaussian_filter(white, 3.2, mode="wrap")
    return smooth / smooth.std()


def _paint_cells(stains: np.ndarray, cells: np.ndarray, style: SimpleNamespace, rng: np.random.Generator) -> None:
    """Puts each cell's own stains in place of those under it: float (2, h, w) of the padded canvas."""
    if not len(cells):
        return
    x, y, a, b, angle, h, e, kind, bend = (column[:, None, None] for column in cells.T)
    column = np.arange(-WINDOW, WINDOW + 1, dtype=np.float32)
    row = column[:, None]
    dx, dy = column - (x - np.floor(x)), row - (y - np.floor(y))
    along, off = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    off += bend * along**2
    square = (along / a) ** 2 + (off / b) ** 2
    square *= 1 + 0.13 * rng.standard_normal(x.shape, np.float32) * np.sign(along)  # no nucleus is an ellipse

    # Only pixels a cell reaches go on, as lists: `cell` is the row of `cells`, `pixel` the place.
    cell, *at = np.nonzero(square < (1 + 0.7 / b) ** 2)
    radius, along, off = np.sqrt(square[cell, *at]), along[cell, *at], off[cell, *at]
    a, b, h, e, kind = cells[cell][:, [2, 3, 5, 6, 7]].T
    left, top = np.floor(cells[:, :2]).astype(int).T - WINDOW
    pixel = (top[cell] + at[0]) * stains.shape[2] + left[cell] + at[1]
    cover = np.clip((1 - radius) * b / 1.3 + 0.5, 0, 1)
    grain = 1 + style.chromatin * noise(rng, stains.shape[1], 2.2).ravel()[pixel]
    pale = style.vesicular * (kind == NUCLEUS)
    rim = 1 - pale * 0.6 * np.clip(1.1 - radius, 0, 1) + 0.35 * pale * np.clip(1 - ((radius - 0.85) / 0.25) ** 2, 0, 1)
    spot = (along - 0.2 * a) ** 2 + off**2
    rim += 0.7 * pale * np.clip(1 - spot / 6, 0, 1)  # nucleolus, seen where chromatin is open
    h = h * rim * np.where((kind == GOBLET) | (kind == RED_CELL), 1, grain)
    e = e * np.where(kind == RED_CELL, 0.75 + 0.3 * radius, 1)

    own, planes = np.stack([h, e]), stains.reshape(2, -1)
    ends = np.searchsorted(cell, np.arange(len(cells) + 1))
    for i in range(len(cells)):  # one after another, so that cells overlap instead of averaging
        part = slice(ends[i], ends[i + 1])
        under = planes[:, pixel[part]]
        planes[:, pixel[part]] = under + cover[part] * (own[:, part] - under)
