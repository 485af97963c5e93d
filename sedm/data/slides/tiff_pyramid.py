"""Slides in TIFF, read by tiffslide: Aperio, Hamamatsu, Leica, Philips, OME and plain pyramids."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sedm.data.slides.colours import holds_ycbcr, ycbcr_to_rgb
from sedm.data.slides.pyramid import GlassPlace, Window
from sedm.data.slides.resolution import Resolution, tag_sizes, tiff_resolution
from sedm.data.slides.stored_tiles import StoredTiles, level_regions
from sedm.runtime.extras import extra

with extra("slides"):
    from tiffslide import TiffSlide

X_OFFSET, Y_OFFSET = 65422, 65423  # tags of NDPI: nm from the centre of the glass to that of the scan


class TiffPyramid:
    """The levels of a TIFF; see :class:`sedm.data.slides.pyramid.Pyramid`.

    Raises:
        PatchTableError: colours that cannot be known; the message lacks the file's name.
        Exception: of many types, not a TIFF of a slide.

    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tifffile.imwrite(f"{folder}/a.tif", np.full((64, 96, 3), 9, np.uint8), photometric="rgb", tile=(32, 32))
    ...     pyramid = TiffPyramid(Path(folder) / "a.tif")
    ...     pixels = pyramid.read(0, (90, 0, 96, 2))
    ...     pyramid.close()
    >>> pyramid.level_sizes, pixels.shape
    (((96, 64),), (2, 6, 3))
    """

    def __init__(self, path: Path):
        self._path = path
        self._file = TiffSlide(path)
        try:
            self._read_facts()
        except BaseException:
            self._file.close()
            raise

    def _read_facts(self) -> None:
        for series in self._file.ts_tifffile.series:
            for level in series.levels:
                if level.axes == "SYX":  # planes apart: tiffslide reads them as channels (C), not as samples (S)
                    level._axes, level._axes_squeezed = "CYX", "CYX"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of formats whose metadata tiffslide reads in part
            self.level_sizes = self._file.level_dimensions
        self._downsamples = self._file.level_downsamples
        regions = level_regions(self._file)
        self.tiles = [
            StoredTiles([region.grid for region in level], size)
            for level, size in zip(regions, self.level_sizes, strict=True)
        ]
        self._holds_ycbcr = [holds_ycbcr(level) for level in regions]
        tags = regions[0][0].keyframe.tags
        offsets = [tags.valueof(code) for code in (X_OFFSET, Y_OFFSET)]
        sides = [1000 * side for side in tag_sizes(tags)]
        is_placed = None not in offsets and all(map(math.isfinite, sides))
        self.glass_place = GlassPlace(*map(float, offsets), *sides) if is_placed else None

    def stated_resolution(self) -> Resolution:
        """Find the resolution that the file states."""
        return tiff_resolution(self._file, self._path)

    def read(self, level: int, window: Window) -> UInt8[np.ndarray, "h w c"]:
        """Read whole pixels of a level as RGB."""
        x, y, right, bottom = window
        scale = self._downsamples[level]
        # tiffslide takes places of the finest level and rounds down: step to the first that means this one
        location = [math.ceil(place * scale) for place in (x, y)]
        location = [at + (int(at / scale) < place) for at, place in zip(location, (x, y), strict=True)]
        pixels = self._file.read_region(tuple(location), level, (right - x, bottom - y), as_array=True)
        pixels = np.ascontiguousarray(pixels[..., :3])
        return ycbcr_to_rgb(pixels) if self._holds_ycbcr[level] else pixels

    def close(self) -> None:
        """Close the file."""
        self._file.close()
