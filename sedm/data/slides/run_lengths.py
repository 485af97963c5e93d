"""Masks as run lengths, as COCO stores them, outlined along the edges of their pixels.

A mask is told column by column: so many pixels outside, so many inside, and so on in turn. All work is on the runs,
never on the pixels, so a mask of a whole slide costs memory by the length of its border. (pycocotools decodes such
masks to pixels alone.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int64

from sedm.runtime.extras import extra

with extra("slides"):
    import shapely


def outline_runs(counts: Sequence[int] | Int[np.ndarray, " n"], height: int) -> list[shapely.Polygon]:
    """Outline the pixels of a mask: one polygon, with its holes, for each piece that hangs together by pixels' sides.

    Args:
        counts: lengths of the runs outside and inside in turn, down one column of ``height`` pixels after the other.

    >>> [str(piece) for piece in outline_runs([1, 2, 1, 1], height=3)]
    ['POLYGON ((0 1, 0 3, 1 3, 1 2, 2 2, 2 1, 1 1, 0 1))']
    """
    ends = _ends_by_column(counts, height)
    next_column = ends + height + 1
    # What a top (+1) or bottom (−1) changes between its column and the one before: not 0 at corners, and ±2 where two
    # pixels touch by a corner alone. Down a column, every second stretch between corners is border.
    change = np.tile([1, -1], len(ends) // 2)
    places, rows = np.unique(np.concatenate([ends, next_column]), return_inverse=True)
    n_corners = np.abs(np.bincount(rows, weights=np.concatenate([change, -change]))).astype(int)
    upright = np.repeat(places, n_corners).reshape(-1, 2)
    level = np.stack([ends, next_column], axis=1)
    x, y = np.divmod(np.concatenate([upright, level]), height + 1)
    borders = shapely.linestrings(np.stack([x, y], axis=-1).astype(float))
    faces = shapely.get_parts(shapely.polygonize(borders))
    x, y = shapely.get_coordinates(shapely.point_on_surface(faces)).T
    n_ends_above = np.searchsorted(ends, np.floor(x) * (height + 1) + y)
    return list(faces[n_ends_above % 2 == 1])  # the others are holes


def _ends_by_column(counts: Sequence[int] | np.ndarray, height: int) -> Int64[np.ndarray, " ends"]:
    """Cut the runs inside at the ends of columns; row y of column x is x · (height + 1) + y."""
    places, n_times = np.unique(np.cumsum(counts, dtype=np.int64), return_counts=True)
    if len(counts) % 2:
        n_times[-1] -= 1  # the mask ends outside
    places = places[n_times % 2 == 1]  # runs of no length join their neighbours
    tops, bottoms = places[::2], places[1::2]
    n_columns = (bottoms - 1) // height - tops // height + 1
    first = np.cumsum(n_columns) - n_columns
    columns = np.arange(n_columns.sum()) - np.repeat(first - tops // height, n_columns)
    tops = np.maximum(np.repeat(tops, n_columns), columns * height)
    bottoms = np.minimum(np.repeat(bottoms, n_columns), (columns + 1) * height)
    return np.stack([tops + columns, bottoms + columns], axis=1).ravel()
