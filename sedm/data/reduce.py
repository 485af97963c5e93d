"""Pictures and masks brought to a square of a size: cropped, padded, squeezed or cut into tiles, by choice."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float64, UInt8
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
        where: the picture, for the error message.

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
        return tile_boxes(size, short)
    side = long if fit == "pad" else short
    left, top = (width - side) // 2, (height - side) // 2  # below 0 where it reaches beyond the picture
    return [(left, top, left + side, top + side)]


def tile_boxes(size: tuple[int, int], side: int) -> list[Box]:
    """Cover a picture with as few square tiles as do, evenly spread, row by row.

    Args:
        size: width and height, px, at least ``side`` each.
        side: of the tiles, px.

    >>> tile_boxes((100, 40), 40)
    [(0, 0, 40, 40), (30, 0, 70, 40), (60, 0, 100, 40)]
    """
    lefts, tops = (_spread_tiles(length, side) for length in size)
    return [(left, top, left + side, top + side) for top in tops for left in lefts]


def cut_image(image: Image.Image, box: Box, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Cut a part out of an RGB image and resample it with Lanczos; beyond the image its mirror image goes on.

    Args:
        size: width and height of the result, px.

    >>> cut_image(Image.new("RGB", (20, 10), "red"), (5, 0, 15, 10), (4, 4))[0, 0].tolist()
    [255, 0, 0]
    """
    left, top, right, bottom = box
    x, y = max(-left, 0), max(-top, 0)  # how far it reaches beyond the left and the upper side
    margins = ((y, max(bottom - image.height, 0)), (x, max(right - image.width, 0)), (0, 0))
    if np.any(margins):
        image = Image.fromarray(np.pad(np.asarray(image), margins, mode="symmetric"))
    part = (left + x, top + y, right + x, bottom + y)
    if part != (0, 0, *image.size):
        image = image.crop(part)  # not resize(box=…), whose filter reaches over the edge of the box
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))


def cut_mask(mask: UInt8[np.ndarray, "h w"], box: Box, size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2"]:
    """Cut a part out of class indices and resample it to the nearest neighbour; beyond the mask it is ``UNKNOWN``.

    Args:
        size: width and height of the result, px.

    >>> cut_mask(np.ones((2, 4), np.uint8), (0, -1, 4, 3), (4, 4))[:, 0]
    array([255,   1,   1, 255], dtype=uint8)
    """
    left, top, right, bottom = box
    part = Image.new("L", (right - left, bottom - top), UNKNOWN)
    part.paste(Image.fromarray(mask), (-left, -top))
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
    weights = area_weights(right - left, image_size)
    area = weights @ foreground[top:bottom, left:right] @ weights.T
    # exactly half is background, whatever the rounding of the sums
    return (area > 0.5 + 1e-9).astype(np.uint8)


@lru_cache
def area_weights(n_in: int, n_out: int) -> Float64[np.ndarray, "n_out n_in"]:
    """Compute the share of each new pixel that lies in each old one, along one axis; rows sum to 1.

    >>> area_weights(6, 4).round(2).tolist()[0]
    [0.67, 0.33, 0.0, 0.0, 0.0, 0.0]
    """
    edges = np.arange(n_out + 1) * (n_in / n_out)
    left = np.maximum(edges[:-1, None], np.arange(n_in))
    right = np.minimum(edges[1:, None], np.arange(1, n_in + 1))
    return np.clip(right - left, 0, None) * (n_out / n_in)


def _spread_tiles(length: int, side: int) -> list[int]:
    """Place the first pixels of tiles along one side of a picture."""
    n_tiles = -(-length // side)
    return [round(tile * (length - side) / max(n_tiles - 1, 1)) for tile in range(n_tiles)]
