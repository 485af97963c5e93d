"""Masks as run lengths, as COCO stores them: read from their text, and outlined along the edges of their pixels.

A mask is told column by column: so many pixels outside, so many inside, and so on in turn. All work is on the runs,
never on the pixels, so a mask of a whole slide costs memory by the length of its border.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def decode_counts(text: str) -> list[int]:
    """Read the lengths of runs from COCO's compressed text.

    Each length is written in digits of five bits, lowest first, as characters from ``0``; a sixth bit says that more
    follow, and the highest bit of the last digit is the sign. From the fourth on, it is the difference to the length
    two before.
    Source: github.com/cocodataset/cocoapi, common/maskApi.c, rleFrString.

    Raises:
        ValueError: a character that is no digit, or a text that breaks off.

    >>> decode_counts("0P8")
    [0, 256]
    """
    counts: list[int] = []
    value, shift = 0, 0
    for place, character in enumerate(text, start=1):
        digit = ord(character) - ord("0")
        if not 0 <= digit < 64:
            raise ValueError(f"character {place} of the counts is {character!r}; expected '0' to 'o'")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the counts break off within a number")
    return counts


def outline_runs(counts: Sequence[int] | Int[np.ndarray, " n"], height: int) -> list[Float64[np.ndarray, "_ 2"]]:
    """Trace the pixels of a mask: one ring (x, y) for each piece that hangs together by the sides of its pixels.

    By the even-odd rule a ring holds exactly the pixels of its piece: where there are holes, it runs into each of
    them and back on the same way.

    Args:
        counts: lengths of the runs outside and inside in turn, down one column of ``height`` pixels after the other.

    >>> [ring.tolist() for ring in outline_runs([1, 2, 2, 1], height=3)]
    [[[0.0, 1.0], [0.0, 3.0], [2.0, 3.0], [2.0, 2.0], [1.0, 2.0], [1.0, 1.0]]]
    """
    ends = _ends_by_column(counts, height)
    piece_of_run = _join_runs(ends, height)
    pieces: dict[int, list[np.ndarray]] = {}
    for loop in _trace(ends, height):
        x, y = loop[0]
        run = np.searchsorted(ends, x * (height + 1) + y) // 2  # it begins or ends at the first corner of the loop
        pieces.setdefault(piece_of_run[run], []).append(loop)
    return [_join_loops(loops).astype(float) for loops in pieces.values()]


def _ends_by_column(counts: Sequence[int] | np.ndarray, height: int) -> Int64[np.ndarray, " ends"]:
    """Top and bottom of each run inside, cut at the ends of columns; row y of column x is x · (height + 1) + y."""
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


def _join_runs(ends: Int64[np.ndarray, " ends"], height: int) -> Int64[np.ndarray, " runs"]:
    """The number of the piece that each run belongs to: runs of neighbouring columns join where they share a row."""
    tops, bottoms = ends[::2], ends[1::2]
    first = np.searchsorted(bottoms, tops + height + 1, side="right")
    n_neighbours = np.searchsorted(tops, bottoms + height + 1, side="left") - first
    left = np.repeat(np.arange(len(tops)), n_neighbours)
    right = np.arange(len(left)) - np.repeat(np.cumsum(n_neighbours) - n_neighbours - first, n_neighbours)
    links = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(tops), len(tops)))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _trace(ends: Int64[np.ndarray, " ends"], height: int) -> Iterator[Int64[np.ndarray, "_ 2"]]:
    """The closed lines between inside and outside, each from its topmost corner on the left.

    An outer line runs down first and a hole's line to the right first, so that the inside is always on the left hand.
    """
    # What a top (+1) or bottom (−1) changes between its column and the one before: not 0 at corners, and ±2 where two
    # pixels touch by a corner alone. There two lines meet, and each keeps to its own pixel.
    kind = np.tile([1, -1], len(ends) // 2)
    places, rows = np.unique(np.concatenate([ends, ends + height + 1]), return_inverse=True)
    changes = np.bincount(rows, weights=np.concatenate([kind, -kind])).astype(np.int64)
    sign = np.repeat(np.sign(changes), np.abs(changes))
    x, y = np.divmod(np.repeat(places, np.abs(changes)), height + 1)
    # down a column, and along a row, every second stretch between corners is border
    number = np.arange(len(x))
    across = np.empty_like(number)
    by_row = np.lexsort((number * sign, x, y))
    across[by_row[::2]], across[by_row[1::2]] = by_row[1::2], by_row[::2]
    corners = np.stack([x, y], axis=1)
    partner, is_outer, visited = across.tolist(), (sign > 0).tolist(), bytearray(len(x))
    for start in range(len(x)):
        if visited[start]:
            continue
        loop = []
        corner = start
        while not visited[corner]:
            loop += [corner, corner ^ 1]
            visited[corner] = visited[corner ^ 1] = True
            corner = partner[corner ^ 1]
        yield corners[loop if is_outer[start] else [start, *loop[:0:-1]]]


def _join_loops(loops: Sequence[Int64[np.ndarray, "_ 2"]]) -> Int64[np.ndarray, "_ 2"]:
    """One ring of the outer line and those of the holes.

    The ways to and fro are level or upright: a pixel's centre is never so near that rounding could put it between.
    """
    start = loops[0][0]
    ring = [loops[0]]
    for hole in loops[1:]:
        bend = np.array([hole[0, 0], start[1]])
        ring.append(np.stack([start, bend]))
        ring.append(hole)
        ring.append(np.stack([hole[0], bend]))
    return np.concatenate(ring)
