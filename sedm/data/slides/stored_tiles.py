"""Which tiles of a slide its file holds: scanners leave tiles out, and readers make them up, black or white."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Num

from sedm.runtime.extras import extra

with extra("slides"):
    from tiffslide import TiffSlide


class TileGrid(NamedTuple):
    """Some ground of a level in tiles, and which of these the file holds."""

    x_edges: Num[np.ndarray, " columns+1"]  # of the columns of tiles, in level pixels
    y_edges: Num[np.ndarray, " rows+1"]
    stored: Bool[np.ndarray, "rows columns"]


class Region(NamedTuple):
    """One image of a level at its place; most levels have one, those of Leica's SCN one for each scanned area."""

    left: int  # level pixels
    top: int
    pages: Sequence[Any]  # tifffile's: one, or one for each colour; None where one is missing
    keyframe: Any  # tifffile's page that says how all of them are stored

    @property
    def width(self) -> int:
        """Pixels of the level."""
        return self.keyframe.imagewidth

    @property
    def height(self) -> int:
        """Pixels of the level."""
        return self.keyframe.imagelength

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Height and width of a tile, or of a strip, which is as wide as the image."""
        if self.keyframe.is_tiled:
            return self.keyframe.tilelength, self.keyframe.tilewidth
        return self.keyframe.rowsperstrip, self.keyframe.imagewidth

    @property
    def stored(self) -> Bool[np.ndarray, "rows columns"]:
        """Tell whether the file holds each tile, in all its colours."""
        grid = tuple(-(-side // tile) for side, tile in zip((self.height, self.width), self.tile_shape, strict=True))
        stored = np.ones(grid, bool)
        for page in self.pages:
            if page is None:
                return np.zeros(grid, bool)
            offsets, counts = (np.asarray(values) for values in (page.dataoffsets, page.databytecounts))
            if len(offsets) == 1:  # strips that follow each other are one piece to tifffile
                held = np.full(self.keyframe.chunked, offsets[0] > 0 and counts[0] > 0)
            else:
                held = np.zeros(self.keyframe.chunked, bool)  # some writers forget the last row of tiles altogether
                n = min(held.size, len(offsets), len(counts))
                held.flat[:n] = (offsets[:n] > 0) & (counts[:n] > 0)
            stored &= held.reshape(-1, *grid).all(axis=0)
        return stored

    @property
    def grid(self) -> TileGrid:
        """The tiles at their place."""
        height, width = self.tile_shape
        x_edges = self.left + np.append(np.arange(0, self.width, width), self.width)
        y_edges = self.top + np.append(np.arange(0, self.height, height), self.height)
        return TileGrid(x_edges, y_edges, self.stored)


def level_regions(file: TiffSlide) -> list[list[Region]]:
    """List the images that make up each level of a slide, finest level first."""
    properties = file.properties
    composition = properties.get("tiffslide.series-composition")
    if composition is None:
        places = {properties["tiffslide.series-index"]: [(0, 0)] * file.level_count}
    else:
        places = {series: [place[:2] for place in levels] for series, levels in composition["located_series"].items()}
    regions: list[list[Region]] = [[] for _ in range(file.level_count)]
    for series, corners in places.items():
        for level, (top, left) in enumerate(corners):
            image = file.ts_tifffile.series[series].levels[level]
            regions[level].append(Region(left, top, tuple(image.pages), image.keyframe))
    return regions


class StoredTiles:
    """Which ground of one level the file holds.

    Args:
        grids: all ground of the level that is in tiles; the rest counts as left out.
        size: width and height of the level in pixels.

    Attributes: ``n_tiles`` and, of these, ``n_left_out``; ``is_complete``, whether the file holds every pixel.

    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tiles = (np.zeros((64, 64, 3), np.uint8), None)  # the right one is left out
    ...     options = {"shape": (64, 128, 3), "dtype": "uint8", "tile": (64, 64), "photometric": "rgb"}
    ...     tifffile.imwrite(f"{folder}/a.tif", iter(tiles), compression="deflate", **options)
    ...     with TiffSlide(f"{folder}/a.tif") as file:
    ...         stored = StoredTiles([region.grid for region in level_regions(file)[0]], file.dimensions)
    >>> stored.n_left_out, stored.hold(left=np.array([0, 60]), top=0, right=np.array([64, 70]), bottom=9).tolist()
    (1, [True, False])
    """

    def __init__(self, grids: Sequence[TileGrid], size: tuple[int, int]):
        self.n_tiles = sum(grid.stored.size for grid in grids)
        self.n_left_out = sum(int((~grid.stored).sum()) for grid in grids)
        # the edges of all tiles cut the level into cells, each wholly on a tile or off it
        self._x_edges, self._y_edges = (
            np.unique(np.clip(np.concatenate([[0, side], *edges]), 0, side))
            for side, edges in zip(size, ([grid[axis] for grid in grids] for axis in (0, 1)), strict=True)
        )
        held = np.zeros((len(self._y_edges) - 1, len(self._x_edges) - 1), bool)
        for grid in grids:
            row, rows = _tiles_at(self._y_edges, grid.y_edges)
            column, columns = _tiles_at(self._x_edges, grid.x_edges)
            held[np.ix_(rows, columns)] |= grid.stored[np.ix_(row, column)]
        self.is_complete = bool(held.all())
        # cells left out above and to the left of each crossing of edges
        self._n_missing = np.zeros((held.shape[0] + 1, held.shape[1] + 1), int)
        self._n_missing[1:, 1:] = (~held).cumsum(axis=0).cumsum(axis=1)

    def hold(
        self,
        left: Num[np.ndarray, "*left"] | float,
        top: Num[np.ndarray, "*top"] | float,
        right: Num[np.ndarray, "*right"] | float,
        bottom: Num[np.ndarray, "*bottom"] | float,
    ) -> Bool[np.ndarray, "*rectangles"]:
        """Tell for each rectangle, in level pixels, whether the file holds all of it; ground off the level counts as
        held. The sides may be of any shapes that broadcast.
        """
        if self.is_complete:  # a map of a whole slide is large
            return np.ones(np.broadcast_shapes(*map(np.shape, (left, top, right, bottom))), bool)
        first_column = np.searchsorted(self._x_edges[1:], left, side="right")
        first_row = np.searchsorted(self._y_edges[1:], top, side="right")
        # at least one cell each way; a rectangle that begins beyond the last cell is off the level
        end_column = np.maximum(np.searchsorted(self._x_edges[:-1], right, side="left"), first_column)
        end_row = np.maximum(np.searchsorted(self._y_edges[:-1], bottom, side="left"), first_row)
        n_missing = (
            self._n_missing[end_row, end_column]
            - self._n_missing[first_row, end_column]
            - self._n_missing[end_row, first_column]
            + self._n_missing[first_row, first_column]
        )
        return np.asarray(n_missing == 0)


def _tiles_at(
    cells: Num[np.ndarray, " n"], edges: Num[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " found"]]:
    """Find the tiles that lie at cells, along one side, and these cells; both by their edges."""
    tile = np.searchsorted(edges, cells[:-1], side="right") - 1
    found = np.flatnonzero((tile >= 0) & (tile < len(edges) - 1))
    return tile[found], found
