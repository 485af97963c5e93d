"""Pictures and masks brought to a square of a size: cropped, padded, squeezed or cut into tiles, by choice."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from sedm.data.errors import PatchTableError
from sedm.data.pictures import UNKNOWN

FITS = ("crop", "pad", "squeeze", "tile")
"""What may become of a picture that is no square.

``crop``: its central square. ``pad``: all of it in the middle of a square; its mirror image goes on around it, and its
mask is ``UNKNOWN`` there. ``squeeze``: all of it, but shapes are distorted. ``tile``: as few squares as hold all of it,
as large as its shorter side and evenly spaced, so that neighbours overlap; each becomes a patch.
"""

Box = tuple[int, int, int, int]
"""A part of a picture: left, top, right, bottom, px; it may reach beyond the picture."""


def fit_boxes(size: tuple[int, int], fit: str | None, where: str) -> list[Box]:
    """Choose the parts of a picture that become square patches.

    Args:
        size: width and height, px.
        fit: one of ``FITS``; it may be left out for a square picture, which stays as it is.
        where: the picture, for the message of a fault.

    Raises:
        ValueError: no such fit.
        PatchTableError: no fit for a picture that is no square.

    >>> fit_boxes((64, 48), "crop", "a.png"), fit_boxes((64, 48), "pad", "a.png")
    ([(8, 0, 56, 48)], [(0, -8, 64, 56)])
    >>> fit_boxes((100, 40), "tile", "a.png")
    [(0, 0, 40, 40), (30, 0, 70, 40), (60, 0, 100, 40)]
    """
    if fit is not None and fit not in FITS:
        raise ValueError(f"fit={fit!r}; choose one of {', '.join(FITS)}")
    width, height = size
    if width == height or fit == "squeeze":
        return [(0, 0, width, height)]
    if fit is None:
        choices = ", ".join(f"fit={name!r}" for name in FITS)
        raise PatchTableError(f"{where}: {width}×{height} px is no square; choose one of {choices}")
    short, long = sorted(size)
    if fit == "tile":
        n_tiles = -(-long // short)
        starts = [round(row * (long - short) / (n_tiles - 1)) for row in range(n_tiles)]
        return [_box(start, 0, short, width > height) for start in starts]
    if fit == "pad":
        return [_box(0, (short - long) // 2, long, width > height)]
    return [_box((long - short) // 2, 0, short, width > height)]


def cut_image(image: Image.Image, box: Box, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Cut a part out of an RGB image and resample it with Lanczos; beyond the image its mirror image goes on.

    Args:
        size: width and height of the result, px.

    >>> cut_image(Image.new("RGB", (20, 10), "red"), (5, 0, 15, 10), (4, 4))[0, 0].tolist()
    [255, 0, 0]
    """
    around = _beyond(box, image.size)
    if np.any(around):
        image = Image.fromarray(np.pad(np.asarray(image), (*around, (0, 0)), mode="symmetric"))
    if _inside(box) != (0, 0, *image.size):
        image = image.crop(_inside(box))  # not resize(box=…), whose filter reaches over the edge of the box
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))


def cut_mask(mask: UInt8[np.ndarray, "h w"], box: Box, size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2"]:
    """Cut a part out of class indices and resample it to the nearest neighbour; beyond the mask it is ``UNKNOWN``.

    Args:
        size: width and height of the result, px.

    >>> cut_mask(np.ones((2, 4), np.uint8), (0, -1, 4, 3), (4, 4))[:, 0]
    array([255,   1,   1, 255], dtype=uint8)
    """
    left, top, right, bottom = _inside(box)
    mask = np.pad(mask, _beyond(box, mask.shape[::-1]), constant_values=UNKNOWN)
    part = Image.fromarray(mask[top:bottom, left:right])
    return np.asarray(part if part.size == size else part.resize(size, Image.Resampling.NEAREST))


def reduce_image(image: Image.Image, image_size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Reduce an RGB image to its central square, resampled with Lanczos.

    >>> reduce_image(Image.new("RGB", (20, 10), "red"), 4)[0, 0].tolist()
    [255, 0, 0]
    """
    (box,) = fit_boxes(image.size, "crop", "the image")
    return cut_image(image.convert("RGB"), box, (image_size, image_size))


def reduce_mask(foreground: Bool[np.ndarray, "height width"], image_size: int) -> UInt8[np.ndarray, "size size"]:
    """Reduce a mask to its central square: 1 where more than half of a pixel's area is foreground, else 0.

    >>> reduce_mask(np.arange(6)[None].repeat(6, axis=0) < 4, 3)[0].tolist()
    [1, 1, 0]
    """
    ((left, top, right, bottom),) = fit_boxes(foreground.shape[::-1], "crop", "the mask")
    overlap = _overlap(right - left, image_size)
    area = overlap @ foreground[top:bottom, left:right] @ overlap.T
    # exactly half is background, whatever the rounding of the sums
    return (area > 0.5 + 1e-9).astype(np.uint8)


def _box(along: int, across: int, side: int, is_wide: bool) -> Box:
    """A square by its start along the longer side of a picture and across it."""
    left, top = (along, across) if is_wide else (across, along)
    return left, top, left + side, top + side


def _beyond(box: Box, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """How far a box reaches beyond a picture: above and below it, left and right of it."""
    left, top, right, bottom = box
    width, height = size
    return (max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0))


def _inside(box: Box) -> Box:
    """The same box in a picture that was padded by what the box reaches beyond it."""
    left, top, right, bottom = box
    return max(left, 0), max(top, 0), max(left, 0) + right - left, max(top, 0) + bottom - top


@lru_cache
def _overlap(n_in: int, n_out: int) -> Float[np.ndarray, "n_out n_in"]:
    """The share of each new pixel that lies in each old one, along one axis; rows sum to 1."""
    edges = np.arange(n_out + 1) * (n_in / n_out)
    left = np.maximum(edges[:-1, None], np.arange(n_in))
    right = np.minimum(edges[1:, None], np.arange(1, n_in + 1))
    return np.clip(right - left, 0, None) * (n_out / n_in)
