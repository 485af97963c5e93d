"""Whole-slide images: sample patches with their masks, on annotated areas or on tissue.

Places on a slide are in microns from its left top corner; see :class:`sedm.data.slides.slide.Slide`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from sedm.data.patch_table import UNKNOWN, PatchTableError
from sedm.data.slides.polygons import Polygon, rasterise, shapes_of, topmost
from sedm.data.slides.sections import Ground, Tissue, find_tissue
from sedm.data.slides.slide import Slide
from sedm.runtime.extras import extra
from sedm.runtime.seeds import seeded_generator

with extra("slides"):
    import shapely

N_CANDIDATES = [16 << k for k in range(10)]  # places tried at once inside a class, until one is seen
N_TRIES = 1000  # places tried on tissue, until a patch there is scanned ground alone


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
    """Choose where to cut patches: the i-th depends on the slide's name, the seed and i alone, not on ``n``.

    With ``polygons``, each patch picks one of the classes present with equal chance, then a place where that class
    is seen, all equally likely; otherwise a place on the tissue. The patch is centred there, or pushed inside the
    slide so far as it would stick out. Corners lie on whole pixels of the finest level. No patch touches ground
    that was not scanned, annotated or not: such places are drawn again.

    Args:
        patch_size: pixels a side, of ``microns_per_pixel``.
        class_index: mask value of each class name; ``UNKNOWN`` is never picked.
        tissue: needed without polygons.

    Raises:
        PatchTableError: a slide smaller than a patch, without tissue, whose polygons show no class, or without room for
            a patch on scanned ground.
    """
    side = patch_size * microns_per_pixel / slide.microns_per_pixel  # pixels of the finest level
    room = np.floor(np.array(slide.size) - side)
    if (room < 0).any():
        width, height = slide.size_microns
        raise PatchTableError(
            f"{slide.path}: {width:g}×{height:g} µm, smaller than a patch of {patch_size * microns_per_pixel:g} µm"
        )
    if not polygons and (tissue is None or not tissue.cells.any()):
        report = "" if tissue is None else f" ({tissue}); {tissue.advice}"
        raise PatchTableError(f"{slide.path}: no tissue found and no annotation to sample from{report}")

    def corners(centres: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        return np.clip(np.round(centres - side / 2), 0, room) * slide.microns_per_pixel

    def is_whole(centres: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        return slide.holds(*corners(centres).T, patch_size * microns_per_pixel, patch_size * microns_per_pixel)

    positions = []
    for index in range(n):
        generator = seeded_generator(f"patch of {slide.name}", seed, index)
        if polygons:
            centre, value = _place_in_class(slide, polygons, class_index or {}, generator, is_whole)
        else:
            centre, value = _place_in_tissue(slide, tissue, generator, is_whole), None
        positions.append(Position(*map(float, corners(centre[None])[0]), value))
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
    tissue: Tissue | None = None,
) -> Iterator[dict]:
    """Cut patches at the places of :func:`sample_positions`, one after the other.

    Args:
        unannotated_is_background: ground outside all polygons becomes class 0. If not, only glass and the specks on it
            do, and tissue that nobody outlined becomes ``UNKNOWN``, as does what ink or black hides.
        tissue: of the slide, as :func:`find_tissue` finds it with other settings than its own.

    Yields:
        Rows of a patch table: ``image``, ``mask`` (None without ``polygons``), ``slide``, ``x_microns``, ``y_microns``,
        ``microns_per_pixel``.

    Raises:
        PatchTableError: see :func:`sample_positions`; or the slide is broken.
    """
    if tissue is None and not (polygons and unannotated_is_background):
        tissue = find_tissue(slide)
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
                ground = tissue.ground_at(x + centres[None], y + centres[:, None])
                mask[(outlined == 0) & ~np.isin(ground, (Ground.GLASS, Ground.SPECK))] = UNKNOWN
        yield {
            "image": Image.fromarray(slide.read(x, y, (patch_size, patch_size), microns_per_pixel)),
            "mask": None if mask is None else Image.fromarray(mask),
            "slide": slide.name,
            "x_microns": x,
            "y_microns": y,
            "microns_per_pixel": float(microns_per_pixel),
        }


def _place_in_class(
    slide: Slide,
    polygons: Sequence[Polygon],
    class_index: Mapping[str, int],
    generator: torch.Generator,
    is_whole: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, int]:
    """Draw a place (x, y) in pixels of the finest level, where a patch is whole, and its class."""
    n_refused = 0
    values = np.array([class_index.get(polygon.class_name, UNKNOWN) for polygon in polygons])
    # of a polygon that leaves the slide, only the part of its box on the slide is worth trying
    boxes = np.clip(shapely.bounds(shapes_of(polygons)), 0, np.tile(slide.size, 2))
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
            is_on_slide = ((points >= 0) & (points < slide.size)).all(1)
            seen = points[is_on_slide & (topmost(polygons, points) == picked)]
            whole = is_whole(seen)
            n_refused += int((~whole).sum())
            if whole.any():
                return seen[whole][0], int(value)
    sentence = f"{slide.path}: none of its {len(polygons)} polygons shows a class to sample"
    raise PatchTableError(sentence if n_refused == 0 else f"{sentence}; {_refusal(slide, n_refused)}")


def _place_in_tissue(
    slide: Slide, tissue: Tissue, generator: torch.Generator, is_whole: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Draw a place (x, y) on tissue, in pixels of the finest level, where a patch is whole."""
    cells = np.argwhere(tissue.cells)
    for _ in range(N_TRIES):
        cell = cells[int(torch.randint(len(cells), (), generator=generator))]
        share = torch.rand(2, generator=generator, dtype=torch.float64).numpy()
        place = (cell[::-1] + share) * tissue.cell_microns / slide.microns_per_pixel
        if is_whole(place[None])[0]:
            return place
    raise PatchTableError(f"{slide.path}: no patch to be had on its tissue; {_refusal(slide, N_TRIES)}")


def _refusal(slide: Slide, n_places: int) -> str:
    return (
        f"a patch at each of {n_places} places tried touches ground that was not scanned (tiles left out: "
        f"{slide.tiles_left_out}); choose smaller patches or leave the slide out"
    )
