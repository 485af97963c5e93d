"""A whole-slide image open for reading: its size, its resolution, and any rectangle of it at a wanted resolution.

Places on a slide are in microns from its left top corner, so they do not depend on the resolution of a patch: two
patches of side s lie beside each other when their ``x_microns`` or ``y_microns`` differ by s.
"""

from __future__ import annotations

import math
import warnings
from numbers import Real
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from PIL import Image

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.pyramid import Window, describe_cause
from sedm.data.slides.resolution import AGREEMENT, Resolution, UnknownResolutionError
from sedm.data.slides.slide_files import open_pyramid

TOLERANCE = 1.05  # a level up to 5 % too coarse will do: 1.013 µm for 1 µm saves reading 16 times the pixels
MARGIN = 3  # result pixels read around a patch, what Lanczos looks at
GIVEN = "as given"  # who states the resolution
SLACK = 0.01  # pixels by which a rectangle may touch a tile and yet show nothing of it


class Slide:
    """A whole-slide image open for reading; use it in a ``with`` block.

    Ground counts as left out where the file holds no tile of the finest level: what coarser levels show there was made
    up. A tile that only a coarser level lacks is read from a finer one.

    Args:
        path: anything tiffslide reads (Aperio SVS, tiled pyramidal TIFF, …), a slide in DICOM (its folder or one of its
            files), or anything openslide reads, where that is installed.
        microns_per_pixel: of the finest level, where the file does not say; it also overrides what the file says, with
            a warning if that is another resolution.

    Attributes: ``path``, ``name`` (the file's name), ``microns_per_pixel`` and ``resolution_source`` (who says so),
    ``size`` (width and height of the finest level in pixels), ``size_microns``, and by level, finest first,
    ``n_tiles`` and ``n_tiles_left_out``.

    Raises:
        PatchTableError: no such file, not a slide, no resolution and none given, pixels that are not square, or
            colours that cannot be known.
        ValueError: a ``microns_per_pixel`` that is no size.

    >>> Slide("nowhere/MCT_01_1.svs")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: nowhere/MCT_01_1.svs: no such file
    """

    def __init__(self, path: str | Path, microns_per_pixel: float | None = None):
        self.path, self.name = Path(path), Path(path).name
        is_size = isinstance(microns_per_pixel, Real) and 0 < microns_per_pixel < math.inf
        if microns_per_pixel is not None and not is_size:
            raise ValueError(f"microns_per_pixel={microns_per_pixel!r}; it must be greater than 0, a number of microns")
        self._pyramid = open_pyramid(self.path)
        try:
            self._read_facts(microns_per_pixel)
        except BaseException:
            self._pyramid.close()
            raise

    def _read_facts(self, microns_per_pixel: float | None) -> None:
        self.size: tuple[int, int] = self._pyramid.level_sizes[0]
        width, height = self.size
        self._downsamples = [(width / w + height / h) / 2 for w, h in self._pyramid.level_sizes]
        self._tiles = self._pyramid.tiles
        self.microns_per_pixel, self.resolution_source = self._resolution(microns_per_pixel)
        self.size_microns = (width * self.microns_per_pixel, height * self.microns_per_pixel)
        self.n_tiles = tuple(tiles.n_tiles for tiles in self._tiles)
        self.n_tiles_left_out = tuple(tiles.n_left_out for tiles in self._tiles)

    def _resolution(self, microns_per_pixel: float | None) -> Resolution:
        if microns_per_pixel is None:
            return self._pyramid.stated_resolution()
        try:
            stated = self._pyramid.stated_resolution()
            if not 1 / AGREEMENT < stated.microns_per_pixel / microns_per_pixel < AGREEMENT:
                sentence = f"{self.path}: {stated.source} states {stated.microns_per_pixel:g} µm/px"
                warnings.warn(f"{sentence}; read as {microns_per_pixel:g}, as given", stacklevel=4)
        except UnknownResolutionError:
            pass
        except PatchTableError as error:
            warnings.warn(f"{error}; read as square ones of {microns_per_pixel:g} µm, as given", stacklevel=4)
        return Resolution(float(microns_per_pixel), GIVEN)

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_) -> None:
        self._pyramid.close()

    def __str__(self) -> str:
        width, height = self.size
        facts = f"{width}×{height} px of {self.microns_per_pixel:g} µm ({self.resolution_source})"
        if any(self.n_tiles_left_out):
            facts += f", tiles left out: {self.tiles_left_out}"
        return facts

    @property
    def tiles_left_out(self) -> str:
        """Say how many tiles the scanner left out: ``"3 of 64 on level 0, 1 of 4 on level 1"``."""
        counts = zip(self.n_tiles_left_out, self.n_tiles, strict=True)
        return ", ".join(f"{n_left_out} of {n} on level {level}" for level, (n_left_out, n) in enumerate(counts))

    def holds(
        self,
        x_microns: Num[np.ndarray, "*xs"] | float,
        y_microns: Num[np.ndarray, "*ys"] | float,
        width_microns: float,
        height_microns: float,
    ) -> Bool[np.ndarray, "*rectangles"]:
        """Tell for each rectangle whether the scanner left out none of it.

        Args:
            x_microns, y_microns: left top corners, in arrays that broadcast.

        Returns:
            An array of the shape that the corners broadcast to; true where the slide ends, too.
        """
        left, top = np.asarray(x_microns) / self.microns_per_pixel, np.asarray(y_microns) / self.microns_per_pixel
        right, bottom = left + width_microns / self.microns_per_pixel, top + height_microns / self.microns_per_pixel
        return self._tiles[0].hold(left + SLACK, top + SLACK, right - SLACK, bottom - SLACK)

    def read(
        self,
        x_microns: float,
        y_microns: float,
        shape: tuple[int, int],
        microns_per_pixel: float,
        fill: int | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Read the rectangle with this left top corner.

        Read from the coarsest level that is still fine enough, then reduced with Lanczos.

        Args:
            shape: rows and columns, in pixels of ``microns_per_pixel``.
            fill: grey level of ground that the scanner left out; without one, such ground is an error.

        Raises:
            ValueError: the rectangle leaves the slide, or the slide has no pixels that fine.
            PatchTableError: the file is broken there, or lacks pixels there.
        """
        x, y = x_microns / self.microns_per_pixel, y_microns / self.microns_per_pixel  # pixels of the finest level
        downsample = microns_per_pixel / self.microns_per_pixel
        if downsample * TOLERANCE < 1:
            raise ValueError(
                f"{self.path}: has {self.microns_per_pixel:g} µm/px at its finest, asked for {microns_per_pixel:g}"
            )
        rows, columns = shape
        width, height = self.size
        sides = (columns * microns_per_pixel, rows * microns_per_pixel)
        rectangle = f"{columns}×{rows} px of {microns_per_pixel:g} µm at ({x_microns:g}, {y_microns:g}) µm"
        if min(x, y) < -0.5 or x + columns * downsample > width + 0.5 or y + rows * downsample > height + 0.5:
            extent = f"{self.size_microns[0]:g}×{self.size_microns[1]:g} µm"
            raise ValueError(f"{self.path}: a rectangle of {rectangle} leaves the slide of {extent}")
        if fill is None and not self.holds(x_microns, y_microns, *sides):
            raise PatchTableError(
                f"{self.path}: a rectangle of {rectangle} touches ground that was not scanned (tiles left out: "
                f"{self.tiles_left_out}); read elsewhere, or give fill, a grey level for such ground"
            )
        fine_enough = max(k for k, scale in enumerate(self._downsamples) if scale <= max(downsample * TOLERANCE, 1))
        for level in range(fine_enough, -1, -1):
            scale = self._downsamples[level]
            step = downsample / scale  # level pixels per result pixel
            level_width, level_height = self._pyramid.level_sizes[level]
            left, top = max(x / scale, 0), max(y / scale, 0)
            right, bottom = min(left + columns * step, level_width), min(top + rows * step, level_height)
            window = _pixels_around((left, top, right, bottom), MARGIN * max(step, 1), (level_width, level_height))
            lacking, left_out = self._gaps(level, window)
            if fill is None and left_out.any():  # beside the rectangle, or where a coarse pixel spans its edge
                window = _pixels_around((left, top, right, bottom), -SLACK, (level_width, level_height))
                lacking, left_out = self._gaps(level, window)
                lacking |= left_out
            if not lacking.any():
                break
        pixels = self._read_level(level, window)
        if left_out.any():
            pixels[left_out] = fill
        box = (left - window[0], top - window[1], right - window[0], bottom - window[1])
        return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.LANCZOS, box))

    def _gaps(
        self, level: int, window: tuple[int, int, int, int]
    ) -> tuple[Bool[np.ndarray, "*h w"], Bool[np.ndarray, "*h w"]]:
        """Find the pixels that the level lacks although the finest one has them, and those that were left out."""
        if self._tiles[0].is_complete and self._tiles[level].is_complete:
            return np.zeros((1, 1), bool), np.zeros((1, 1), bool)
        left, right = (np.arange(window[0], window[2]) + shift for shift in (SLACK, 1 - SLACK))
        top, bottom = (np.arange(window[1], window[3])[:, None] + shift for shift in (SLACK, 1 - SLACK))
        scale = self._downsamples[level]
        left_out = ~self._tiles[0].hold(left * scale, top * scale, right * scale, bottom * scale)
        return ~self._tiles[level].hold(left, top, right, bottom) & ~left_out, left_out

    def _read_level(self, level: int, window: Window) -> UInt8[np.ndarray, "h w 3"]:
        x, y, *_ = window
        try:
            pixels = self._pyramid.read(level, window)
        except Exception as error:  # the readers and the codecs raise many types
            raise PatchTableError(
                f"{self.path}: broken at level {level}, ({x}, {y}) px ({describe_cause(error)})"
            ) from error
        if pixels.dtype != np.uint8 or pixels.shape[2] < 3:
            raise PatchTableError(f"{self.path}: {pixels.shape[2]} channels of {pixels.dtype}; expected RGB of uint8")
        return pixels

    def pixels_of_nanometres(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Turn places in nanometres from the centre of the glass, as Hamamatsu counts, into pixels of the finest level.

        Raises:
            PatchTableError: the file does not say where on its glass it lies.
        """
        place = self._pyramid.glass_place
        if place is None:
            raise PatchTableError(
                f"{self.path}: does not say where on its glass the scan lies; expected the .ndpi that was annotated"
            )
        sides = np.array([place.pixel_width, place.pixel_height])
        return (points - (place.x_offset, place.y_offset)) / sides + np.array(self.size) / 2


def _pixels_around(
    rectangle: tuple[float, float, float, float], margin: float, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Enlarge a rectangle by a margin to whole pixels: left, top, right and bottom, no further than the level goes."""
    left, top, right, bottom = rectangle
    return (
        max(math.floor(left - margin), 0),
        max(math.floor(top - margin), 0),
        min(math.ceil(right + margin), size[0]),
        min(math.ceil(bottom + margin), size[1]),
    )
