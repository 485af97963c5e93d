"""Slides that tiffslide does not read, by openslide: MIRAX, Hamamatsu's VMS, Sakura, Ventana and more.

openslide blends neighbouring pixels where a place does not fall on a level's grid, and it takes places in pixels of the
finest level. So only levels are used on whose grid each place can be met: those of a whole downsample, and those so
coarse that the rest is a trifle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sedm.data.slides.pyramid import GlassPlace, Window
from sedm.data.slides.resolution import Resolution, choose_resolution
from sedm.data.slides.stored_tiles import StoredTiles, TileGrid

OFF_GRID = 1 / 32  # level pixels by which a place may miss the grid
BLOCK = 2048  # level pixels a side that are read at once
OPAQUE = 255
SOURCE = "openslide"


class OpenSlidePyramid:
    """The levels of a slide; see :class:`sedm.data.slides.pyramid.Pyramid`.

    openslide does not tell which tiles a file holds, but hands out ground without them as transparent; that of the
    coarsest level counts for all levels.

    Raises:
        ImportError: openslide is not installed.
        openslide.OpenSlideError: not a slide that it reads.
    """

    def __init__(self, path: Path):
        import openslide  # optional

        self._path = path
        self._file: Any = openslide.OpenSlide(path)
        downsamples = self._file.level_downsamples
        self._levels = [k for k, scale in enumerate(downsamples) if k == 0 or _meets_grid(scale)]
        self.level_sizes = [self._file.level_dimensions[k] for k in self._levels]
        self.tiles = self._find_tiles()
        properties = self._file.properties
        place = [_number(properties.get(f"hamamatsu.{axis}OffsetFromSlideCentre")) for axis in "XY"]
        sides = [1000 * _number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
        self.glass_place = GlassPlace(*place, *sides) if np.isfinite(place + sides).all() else None

    def _find_tiles(self) -> list[StoredTiles]:
        """Find the ground that is there, pixel by pixel of the coarsest level."""
        width, height = self.level_sizes[-1]
        stored = np.zeros((height, width), bool)
        for top in range(0, height, BLOCK):
            for left in range(0, width, BLOCK):
                right, bottom = min(left + BLOCK, width), min(top + BLOCK, height)
                rgba = self._read_rgba(len(self._levels) - 1, (left, top, right, bottom))
                stored[top:bottom, left:right] = rgba[..., 3] == OPAQUE
        if stored.all():
            stored = np.ones((1, 1), bool)
        return [
            StoredTiles(
                [
                    TileGrid(
                        *(np.linspace(0, side, n + 1) for side, n in zip(size, stored.shape[::-1], strict=True)), stored
                    )
                ],
                size,
            )
            for size in self.level_sizes
        ]

    def stated_resolution(self) -> Resolution:
        """Find the resolution that the file states."""
        sizes = tuple(_number(self._file.properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
        return choose_resolution({SOURCE: sizes}, self._path)

    def read(self, level: int, window: Window) -> UInt8[np.ndarray, "h w 3"]:
        """Read whole pixels of a level as RGB."""
        return np.ascontiguousarray(self._read_rgba(level, window)[..., :3])

    def _read_rgba(self, level: int, window: Window) -> UInt8[np.ndarray, "h w 4"]:
        left, top, right, bottom = window
        level = self._levels[level]
        scale = self._file.level_downsamples[level]
        location = (round(left * scale), round(top * scale))
        return np.asarray(self._file.read_region(location, level, (right - left, bottom - top)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _meets_grid(scale: float) -> bool:
    """Tell whether the grid of a level can be met by whole pixels of the finest one.

    >>> [_meets_grid(scale) for scale in (4.0, 2.0005, 32.003)]
    [True, False, True]
    """
    return scale == round(scale) or 0.5 / scale <= OFF_GRID


def _number(text: str | None) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return np.nan
