"""Pictures and masks cut to a central square and reduced to a size: what every archive needs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image


def reduce_image(image: Image.Image, image_size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The central square of an RGB image, resampled with Lanczos.

    >>> reduce_image(Image.new("RGB", (20, 10), "red"), 4)[0, 0].tolist()
    [255, 0, 0]
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # not resize(box=…), whose filter reaches over the edge of the box
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(square.resize((image_size, image_size), Image.Resampling.LANCZOS))


def reduce_mask(foreground: Bool[np.ndarray, "height width"], image_size: int) -> UInt8[np.ndarray, "size size"]:
    """The central square of a mask: 1 where more than half of a pixel's area is foreground, else 0.

    >>> reduce_mask(np.arange(6)[None].repeat(6, axis=0) < 4, 3)[0].tolist()
    [1, 1, 0]
    """
    height, width = foreground.shape
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    overlap = _overlap(side, image_size)
    area = overlap @ foreground[top : top + side, left : left + side] @ overlap.T
    # exactly half is background, whatever the rounding of the sums
    return (area > 0.5 + 1e-9).astype(np.uint8)


@lru_cache
def _overlap(n_in: int, n_out: int) -> Float[np.ndarray, "n_out n_in"]:
    """The share of each new pixel that lies in each old one, along one axis; rows sum to 1."""
    edges = np.arange(n_out + 1) * (n_in / n_out)
    left = np.maximum(edges[:-1, None], np.arange(n_in))
    right = np.minimum(edges[1:, None], np.arange(1, n_in + 1))
    return np.clip(right - left, 0, None) * (n_out / n_in)
