"""Whole-slide images: read at a wanted resolution, find the tissue, and sample patches with their masks.

Places on a slide are in microns from its left top corner, so they do not depend on the resolution of a patch: two
patches of side s lie beside each other when their ``x_microns`` or ``y_microns`` differ by s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Num, UInt8
from PIL import Image
from scipy import ndimage

from sedm.data.annotations import Polygon, contains, rasterise, topmost
from sedm.data.patches import UNKNOWN, PatchTableError
from sedm.extras import extra
from sedm.seeds import seeded_generator

with extra("slides"):
    from tiffslide import TiffSlide

COARSEST = 20.0  # µm a pixel; a file that claims more carries the resolution of a screen or printer
TOLERANCE = 1.05  # a level up to 5 % too coarse will do: 1.013 µm for 1 µm saves reading 16 times the pixels
MARGIN = 3  # result pixels read around a patch, what Lanczos looks at
MIN_SATURATION = 0.05  # glass is never tissue, not even on a slide without any
N_CANDIDATES = [16 << k for k in range(10)]  # places tried at once inside a class, until one is seen


class Slide:
    """A whole-slide image open for reading; use it in a ``with`` block.

    Args:
        path: anything tiffslide reads (Aperio SVS, tiled pyramidal TIFF, …).
        microns_per_pixel: of the finest level; needed only where the file does not say.

    Attributes: ``path``, ``name`` (the file's name), ``microns_per_pixel``, ``size`` (width and height of the finest
    level in pixels), ``size_microns``.

    Raises:
        PatchTableError: no such file, not a slide, no resolution and none given, or pixels that are not square.

    >>> Slide("nowhere/MCT_01_1.svs")
    Traceback (most recent call last):
    ...
    sedm.data.patches.PatchTableError: nowhere/MCT_01_1.svs: no such file
    """

    def __init__(self, path: str | Path, microns_per_pixel: float | None = None):
        self.path, self.name = Path(path), Path(path).name
        if not self.path.is_file():
            raise PatchTableError(f"{path}: no such file")
        try:
            self._file = TiffSlide(self.path)
            self.size: tuple[int, int] = self._file.dimensions
            self._downsamples = self._file.level_downsamples
        except Exception as error:  # tifffile, zarr and the codecs raise many types
            raise PatchTableError(f"{path}: not a readable slide ({_cause(error)})") from error
        try:
            self.microns_per_pixel = float(microns_per_pixel or self._stated_resolution())
        except PatchTableError:
            self._file.close()
            raise
        self.size_microns = (self.size[0] * self.microns_per_pixel, self.size[1] * self.microns_per_pixel)

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def read(
        self, x_microns: float, y_microns: float, shape: tuple[int, int], microns_per_pixel: float
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The rectangle with this left top corner, ``shape`` (rows, columns) in pixels of ``microns_per_pixel``.

        Read from the coarsest level that is still fine enough, then reduced with Lanczos.

        Raises:
            ValueError: the rectangle leaves the slide, or the slide has no pixels that fine.
            PatchTableError: the file is broken there.
        """
        x, y = x_microns / self.microns_per_pixel, y_microns / self.microns_per_pixel  # pixels of the finest level
        downsample = microns_per_pixel / self.microns_per_pixel
        if downsample * TOLERANCE < 1:
            raise ValueError(
                f"{self.path}: has {self.microns_per_pixel:g} µm/px at its finest, asked for {microns_per_pixel:g}"
            )
        rows, columns = shape
        width, height = self.size
        if min(x, y) < -0.5 or x + columns * downsample > width + 0.5 or y + rows * downsample > height + 0.5:
            raise ValueError(
                f"{self.path}: a rectangle of {columns}×{rows} px of {microns_per_pixel:g} µm at ({x_microns:g}, "
                f"{y_microns:g}) µm leaves the slide of {self.size_microns[0]:g}×{self.size_microns[1]:g} µm"
            )
        level = max(k for k, scale in enumerate(self._downsamples) if scale <= max(downsample * TOLERANCE, 1))
        scale = self._downsamples[level]
        level_width, level_height = self._file.level_dimensions[level]
        step = downsample / scale  # level pixels per result pixel
        left, top = max(x / scale, 0), max(y / scale, 0)
        right, bottom = min(left + columns * step, level_width), min(top + rows * step, level_height)
        margin = MARGIN * max(step, 1)
        x0, y0 = max(math.floor(left - margin), 0), max(math.floor(top - margin), 0)
        x1, y1 = min(math.ceil(right + margin), level_width), min(math.ceil(bottom + margin), level_height)
        pixels = self._read_level(level, x0, y0, x1 - x0, y1 - y0)
        box = (left - x0, top - y0, right - x0, bottom - y0)
        return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.LANCZOS, box))

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        scale = self._downsamples[level]
        # tiffslide takes places of the finest level and rounds down: step to the first that means this one
        location = [math.ceil(place * scale) for place in (x, y)]
        location = [at + (int(at / scale) < place) for at, place in zip(location, (x, y), strict=True)]
        try:
            pixels = self._file.read_region(tuple(location), level, (width, height), as_array=True)
        except Exception as error:
            raise PatchTableError(f"{self.path}: broken at level {level}, ({x}, {y}) px ({_cause(error)})") from error
        if pixels.dtype != np.uint8 or pixels.shape[2] < 3:
            raise PatchTableError(f"{self.path}: {pixels.shape[2]} channels of {pixels.dtype}; expected RGB of uint8")
        return np.ascontiguousarray(pixels[..., :3])

    def _stated_resolution(self) -> float:
        stated = [self._file.properties.get(f"tiffslide.mpp-{axis}") for axis in "xy"]
        if None in stated or not 0 < float(max(stated)) <= COARSEST:
            said = "no resolution" if None in stated else f"a resolution of {float(stated[0]):g} µm/px"
            raise PatchTableError(f"{self.path}: the file states {said}; give microns_per_pixel of its finest level")
        x, y = map(float, stated)
        if abs(x - y) > 0.01 * x:
            raise PatchTableError(f"{self.path}: pixels of {x:g}×{y:g} µm; expected square ones")
        return (x + y) / 2


@dataclass(frozen=True, eq=False)
class Tissue:
    """Where a slide carries tissue: ``cells[row, column]`` is a square of ``cell_microns`` a side."""

    cells: Bool[np.ndarray, "rows columns"]
    cell_microns: float

    def at(self, x_microns: Num[np.ndarray, "*xs"], y_microns: Num[np.ndarray, "*ys"]) -> Bool[np.ndarray, "*places"]:
        """Whether there is tissue at each place, of the shape x and y broadcast to; beyond the last cell its value
        goes on.

        >>> Tissue(np.array([[False, True]]), cell_microns=10.0).at(np.array([5.0, 15.0, 21.0]), np.zeros(3)).tolist()
        [False, True, True]
        """
        row, column = (np.floor(place / self.cell_microns).astype(int) for place in (y_microns, x_microns))
        height, width = self.cells.shape
        return self.cells[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]


def find_tissue(slide: Slide, cell_microns: float = 32.0, min_area_mm2: float = 0.05) -> Tissue:
    """The tissue of a slide: what is more saturated than Otsu's threshold, without specks.

    Args:
        cell_microns: side of a cell; the strip at the right and lower edge that fills no whole cell is left out.
        min_area_mm2: connected pieces of less are dirt.
    """
    cell_microns = min(cell_microns, *slide.size_microns)
    rows, columns = (int(side / cell_microns) for side in slide.size_microns[::-1])
    saturation = np.zeros((rows, columns), np.uint8)
    block = 32  # cells a side read at once, so that a slide without coarse levels fits into memory
    for row in range(0, rows, block):
        for column in range(0, columns, block):
            shape = (min(block, rows - row), min(block, columns - column))
            pixels = slide.read(column * cell_microns, row * cell_microns, shape, cell_microns).astype(float)
            high, low = pixels.max(2), pixels.min(2)
            saturation[row : row + shape[0], column : column + shape[1]] = 255 * (high - low) / np.maximum(high, 1)
    threshold = max(otsu_threshold(np.bincount(saturation.ravel(), minlength=256)), round(255 * MIN_SATURATION))
    pieces, n_pieces = ndimage.label(saturation > threshold)
    areas_mm2 = np.bincount(pieces.ravel(), minlength=n_pieces + 1) * (cell_microns / 1000) ** 2
    keep = areas_mm2 >= min_area_mm2
    keep[0] = False  # the glass
    return Tissue(keep[pieces], cell_microns)


def otsu_threshold(histogram: Int[np.ndarray, " bins"]) -> int:
    """The bin up to which values form the lower of the two classes that lie furthest apart (Otsu 1979).

    Furthest apart: the variance between the classes is largest; the first bin where several tie.

    >>> otsu_threshold(np.array([5, 5, 0, 0, 5, 5]))
    1
    """
    counts = np.asarray(histogram, float)
    bins = np.arange(len(counts))
    below, moment = np.cumsum(counts), np.cumsum(counts * bins)
    above = below[-1] - below
    between = (moment * above - (moment[-1] - moment) * below) ** 2 / np.maximum(below * above, 1)
    return int(between.argmax())


class Position(NamedTuple):
    """Left top corner of a patch, and the class (mask value) that it was drawn for, None on an unannotated slide."""

    x_microns: float
    y_microns: float
    class_index: int | None


def sample_positions(
    slide: Slide,
    n: int,
    patch_size: int,
    microns_per_pixel: float,
    seed: int,
    polygons: Sequence[Polygon] = (),
    class_index: Mapping[str, int] | None = None,
    tissue: Tissue | None = None,
) -> list[Position]:
    """Where to cut patches: the i-th depends on the slide's name, the seed and i alone, not on ``n``.

    With ``polygons``, each patch picks one of the classes present with equal chance, then a place where that class
    is seen, all equally likely; otherwise a place on the tissue. The patch is centred there, or pushed inside the
    slide so far as it would stick out. Corners lie on whole pixels of the finest level.

    Args:
        patch_size: pixels a side, of ``microns_per_pixel``.
        class_index: mask value of each class name; ``UNKNOWN`` is never picked.
        tissue: needed without polygons.

    Raises:
        PatchTableError: a slide smaller than a patch, without tissue, or whose polygons show no class.
    """
    side = patch_size * microns_per_pixel / slide.microns_per_pixel  # pixels of the finest level
    room = np.floor(np.array(slide.size) - side)
    if (room < 0).any():
        width, height = slide.size_microns
        raise PatchTableError(
            f"{slide.path}: {width:g}×{height:g} µm, smaller than a patch of {patch_size * microns_per_pixel:g} µm"
        )
    if not polygons and (tissue is None or not tissue.cells.any()):
        raise PatchTableError(f"{slide.path}: no tissue found and no annotation to sample from")
    positions = []
    for index in range(n):
        generator = seeded_generator(f"patch of {slide.name}", seed, index)
        if polygons:
            centre, value = _place_in_class(slide, polygons, class_index or {}, generator)
        else:
            centre, value = _place_in_tissue(slide, tissue, generator), None
        corner = np.clip(np.round(centre - side / 2), 0, room)
        positions.append(Position(*(float(place * slide.microns_per_pixel) for place in corner), value))
    return positions


def sample_patches(
    slide: Slide,
    n: int,
    patch_size: int,
    microns_per_pixel: float,
    seed: int,
    polygons: Sequence[Polygon] | None = None,
    class_index: Mapping[str, int] | None = None,
    unannotated_is_background: bool = True,
) -> Iterator[dict]:
    """Rows of a patch table, one after the other: ``image``, ``mask`` (None without ``polygons``), ``slide``,
    ``x_microns``, ``y_microns``, ``microns_per_pixel``.

    Places are those of :func:`sample_positions`.

    Args:
        unannotated_is_background: ground outside all polygons becomes class 0. If not, only glass does, and
            tissue that nobody outlined becomes ``UNKNOWN``.

    Raises:
        PatchTableError: see :func:`sample_positions`; or the slide is broken.
    """
    tissue = None if polygons and unannotated_is_background else find_tissue(slide)
    for x, y, _ in sample_positions(slide, n, patch_size, microns_per_pixel, seed, polygons or (), class_index, tissue):
        mask = None
        if polygons is not None:
            corner = (x / slide.microns_per_pixel, y / slide.microns_per_pixel)
            downsample = microns_per_pixel / slide.microns_per_pixel
            shape = (patch_size, patch_size)
            mask = rasterise(polygons, class_index or {}, *corner, downsample, shape)
            if not unannotated_is_background:
                outlined = rasterise(polygons, dict.fromkeys(class_index or {}, 1), *corner, downsample, shape)
                centres = (np.arange(patch_size) + 0.5) * microns_per_pixel
                mask[(outlined == 0) & tissue.at(x + centres[None], y + centres[:, None])] = UNKNOWN
        yield {
            "image": Image.fromarray(slide.read(x, y, (patch_size, patch_size), microns_per_pixel)),
            "mask": None if mask is None else Image.fromarray(mask),
            "slide": slide.name,
            "x_microns": x,
            "y_microns": y,
            "microns_per_pixel": float(microns_per_pixel),
        }


def _place_in_class(
    slide: Slide, polygons: Sequence[Polygon], class_index: Mapping[str, int], generator: torch.Generator
) -> tuple[np.ndarray, int]:
    """A place (x, y) in pixels of the finest level, and its class."""
    values = np.array([class_index.get(polygon.class_name, UNKNOWN) for polygon in polygons])
    # of a polygon that leaves the slide, only the part of its box on the slide is worth trying
    boxes = np.clip([polygon.bounds for polygon in polygons], 0, np.tile(slide.size, 2))
    values[(boxes[:, 2:] <= boxes[:, :2]).any(1)] = UNKNOWN
    present = np.unique(values[values != UNKNOWN])
    # a class that is wholly covered by others is not seen: the next one in the random order steps in
    for value in present[torch.randperm(len(present), generator=generator).numpy()]:
        rows = np.flatnonzero(values == value)
        # boxes by their area, points anywhere in the box, kept where their own polygon is seen: all places of the
        # class are equally likely
        weights = torch.from_numpy(np.prod(boxes[rows, 2:] - boxes[rows, :2], axis=1))
        for n_candidates in N_CANDIDATES:
            picked = rows[torch.multinomial(weights, n_candidates, replacement=True, generator=generator).numpy()]
            share = torch.rand(n_candidates, 2, generator=generator, dtype=torch.float64).numpy()
            points = boxes[picked, :2] + share * (boxes[picked, 2:] - boxes[picked, :2])
            inside = ((points >= 0) & (points < slide.size)).all(1)
            for row in np.unique(picked):
                mine = np.flatnonzero(inside & (picked == row))
                inside[mine] = contains(polygons[row].points, points[mine])
            seen = np.flatnonzero(inside)
            seen = seen[topmost(polygons, points[seen]) == picked[seen]]
            if len(seen):
                return points[seen[0]], int(value)
    raise PatchTableError(f"{slide.path}: none of its {len(polygons)} polygons shows a class to sample")


def _place_in_tissue(slide: Slide, tissue: Tissue, generator: torch.Generator) -> np.ndarray:
    cells = np.argwhere(tissue.cells)
    cell = cells[int(torch.randint(len(cells), (), generator=generator))]
    share = torch.rand(2, generator=generator, dtype=torch.float64).numpy()
    return (cell[::-1] + share) * tissue.cell_microns / slide.microns_per_pixel


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
