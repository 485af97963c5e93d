"""Are generated images copies of training images? Each against its nearest one, beside what held-out images get.

Two views, because no distance sees every copy. *Features* do not care where in the picture things are, so a moved copy
stays near. *Pixels* are compared after each image's own brightness and contrast are taken out, in all eight symmetries
of a square, so a mirrored copy in the colours of another group stays near. A layout that was itself made from a
training mask brings an image nearer to that training image: to tell the two apart, give layouts of held-out groups.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from scipy.spatial.distance import cdist
from torch import Tensor
from torch.nn import functional as F

from sedm.data.augment import apply_symmetries
from sedm.fidelity.features import Extractor

SIZE = 32  # px a side, at which pixels are compared
FLAT = 0.5  # grey levels; a channel that varies less shows nothing
HELD_OUT_SHARE = 0.01  # of held-out images, as near as which is suspicious
SYMMETRIES = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)  # (8, 3) coins


class NearestTraining:
    """Finds the training image nearest to each image: ``NearestTraining(train, extractor)(images)``.

    Args:
        train: what the generator was trained on, annotated or not.

    >>> train = torch.randint(256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    >>> mean_colours = Extractor("mean colours", lambda images: images.double().mean((2, 3)).numpy())
    >>> nearest = NearestTraining(train, mean_colours)(train[[3]].flip(-1))
    >>> nearest[["features_row", "pixels_row"]].values.tolist(), nearest["pixels_distance"].abs().round(3).tolist()
    ([[3, 3]], [0.0])
    """

    def __init__(self, train: UInt8[Tensor, "n 3 h w"], extractor: Extractor):
        self._extractor, features = extractor, extractor(train)
        scale = features.std(0)
        # a unit that hardly ever fires would count a thousandfold where it does
        self._scale = np.maximum(scale, 0.1 * scale.mean()) * math.sqrt(features.shape[1]) + 1e-12
        self._features, self._pixels = features / self._scale, _patterns(train)

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> pd.DataFrame:
        """Find the nearest training image of each: ``features_distance, features_row, pixels_distance, pixels_row``.

        Rows are those of the training images. Features: root mean square difference, in standard deviations of the
        training images. Pixels: 1 − Pearson's correlation, mean over red, green and blue, 0 for a copy and about 1
        for images that have nothing in common.
        """
        columns = {"features_distance": [], "features_row": [], "pixels_distance": [], "pixels_row": []}
        for chunk in images.split(64):
            for view, distances in (("features", self._by_features(chunk)), ("pixels", self._by_pixels(chunk))):
                columns[f"{view}_row"].append(distances.argmin(1))
                columns[f"{view}_distance"].append(distances.min(1))
        return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})

    def _by_features(self, images: Tensor) -> np.ndarray:
        return cdist(self._extractor(images) / self._scale, self._features)

    def _by_pixels(self, images: Tensor) -> np.ndarray:
        views = [_patterns(apply_symmetries(images, coins[:, None].expand(3, len(images)))) for coins in SYMMETRIES]
        best = torch.stack([view @ self._pixels.T for view in views]).amax(0)
        return (1 - best).clamp(min=0).numpy()  # rounding may put a copy below 0


def closer_than_held_out(
    distances: Float[np.ndarray, " n"], held_out: Float[np.ndarray, " m"]
) -> tuple[Bool[np.ndarray, " n"], float]:
    """Tell which images are closer to training images than 99 % of held-out real ones, and the expected share.

    Precisely: closer than the k-th closest held-out image, k being 1 % of them, rounded up. Of images that are to
    training images what held-out ones are, k / (m + 1) are so close. Up to 100 held-out images that is: closer than
    real images ever are.

    >>> closer_than_held_out(np.array([0.1, 0.5]), np.array([0.3, 0.4, 0.9]))
    (array([ True, False]), 0.25)
    """
    k = math.ceil(HELD_OUT_SHARE * len(held_out))
    return distances < np.sort(held_out)[k - 1], k / (len(held_out) + 1)


def _patterns(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n pixels"]:
    """Scale pixels so that the product of two images is the mean correlation of their channels."""
    pixels = torch.cat([F.interpolate(part.float(), (SIZE, SIZE), mode="area") for part in images.split(1024)]).flatten(
        2
    )
    pixels = pixels - pixels.mean(2, keepdim=True)
    length = pixels.norm(dim=2, keepdim=True)
    pixels = torch.where(length > FLAT * SIZE, pixels / length, 0)
    return pixels.flatten(1) / math.sqrt(3)
