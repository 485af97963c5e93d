"""How much lighter or darker a class is than the rest of the image: a look that no colour cast explains."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches

LEAST_COVER = 0.05  # of an image, by a class and by the rest, for their mean colours to be told


def class_contrasts(patches: Patches) -> Float[np.ndarray, "n foreground 3"]:
    """Subtract the mean colour of the other known pixels of each image from that of each foreground class.

    Returns:
        Grey levels of red, green and blue; NaN where the class or the rest covers less than ``LEAST_COVER``.

    >>> images = torch.tensor([100, 130], dtype=torch.uint8).expand(1, 3, 1, 2)
    >>> masks = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    >>> class_contrasts(Patches(images, masks, ["a"], classes=("stroma", "gland"))).tolist()
    [[[30.0, 30.0, 30.0]]]
    """
    contrasts = []
    for rows in torch.arange(len(patches)).split(256):
        pixels, masks = patches.images[rows].double().flatten(2), patches.masks[rows].flatten(1)
        known = (masks != UNKNOWN).double()
        n_pixels = masks.shape[1]
        of_classes = []
        for k in range(1, patches.n_classes):
            inside = (masks == k).double()
            outside = known - inside
            means = [(pixels * part[:, None]).sum(2) / part.sum(1, keepdim=True) for part in (inside, outside)]
            is_told = torch.minimum(inside.sum(1), outside.sum(1)) >= LEAST_COVER * n_pixels
            of_classes.append((means[0] - means[1]).where(is_told[:, None], torch.nan))
        contrasts.append(torch.stack(of_classes, dim=1))
    return torch.cat(contrasts).numpy()


def contrast_distances(patches: Patches, real: Patches) -> pd.DataFrame:
    """Compute the distance of the mean class contrast of every group from that of every real group.

    Returns:
        One row a group of ``patches``, one column a group of ``real``: the mean absolute difference over classes and
        channels, in grey levels; NaN where no class is told in both.
    """
    means, real_means = (_group_means(side) for side in (patches, real))
    differences = np.abs(np.stack(list(means.values()))[:, None] - np.stack(list(real_means.values())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing, which are NaN
        distances = np.nanmean(differences.reshape(*differences.shape[:2], -1), axis=2)
    return pd.DataFrame(distances, list(means), list(real_means))


def contrast_spread(contrasts: Float[np.ndarray, "n foreground 3"]) -> float:
    """Compute the standard deviation of class contrasts over images, mean over classes and channels; NaN for one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.nanmean(np.nanstd(contrasts, axis=0, ddof=1)))


def _group_means(patches: Patches) -> dict[str, Float[np.ndarray, "foreground 3"]]:
    contrasts = class_contrasts(patches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return {group: np.nanmean(contrasts[rows.numpy()], axis=0) for group, rows in patches.by_group().items()}
