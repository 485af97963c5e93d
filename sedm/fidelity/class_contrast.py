"""How each class looks, and how much lighter or darker it is than the rest: looks that no colour cast explains."""

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
        contrasts.append(torch.stack(of_classes, dim=1) if of_classes else pixels.new_empty(len(rows), 0, 3))
    return torch.cat(contrasts).numpy()


def contrast_distances(patches: Patches, real: Patches) -> pd.DataFrame:
    """Compute the distance of the mean class contrast of every group from that of every real group.

    Returns:
        One row a group of ``patches``, one column a group of ``real``: the mean absolute difference over classes and
        channels, in grey levels; NaN where no class is told in both.
    """
    means, real_means = (_group_means(class_contrasts(side), side) for side in (patches, real))
    differences = np.abs(np.stack(list(means.values()))[:, None] - np.stack(list(real_means.values())))
    return pd.DataFrame(_mean(differences, (2, 3)), list(means), list(real_means))


def class_colours(patches: Patches) -> Float[np.ndarray, "n n_classes 3"]:
    """Compute the mean L*, a*, b* (CIE 1976, D65) of each class in each image; NaN where it covers too little to tell.

    >>> images = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2)
    >>> masks = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    >>> class_colours(Patches(images, masks, ["a"], classes=("stroma", "gland")))[0, :, 0].round()
    array([  0., 100.])
    """
    from kornia.color import rgb_to_lab

    colours = []
    for rows in torch.arange(len(patches)).split(256):
        pixels = rgb_to_lab(patches.images[rows].float() / 255).flatten(2).double()
        masks = patches.masks[rows].flatten(1)
        inside = torch.stack([masks == k for k in range(patches.n_classes)], dim=1).double()
        n_pixels = inside.sum(2, keepdim=True)
        means = inside @ pixels.mT / n_pixels
        colours.append(means.where(n_pixels >= LEAST_COVER * masks.shape[1], torch.nan))
    return torch.cat(colours).numpy()


def class_colour_distances(patches: Patches, real: Patches) -> pd.DataFrame:
    """Compute the CIE 1976 difference of the mean colour of each class, from every group to every real group.

    Returns:
        One row a group of ``patches``, one column a group of ``real``: the mean over classes; NaN where none is told in
        both.
    """
    means, real_means = (_group_means(class_colours(side), side) for side in (patches, real))
    differences = np.stack(list(means.values()))[:, None] - np.stack(list(real_means.values()))
    return pd.DataFrame(_mean(np.linalg.norm(differences, axis=3), 2), list(means), list(real_means))


def share_lighter(contrasts: Float[np.ndarray, "n foreground 3"]) -> float:
    """Compute the share of images in which a class is lighter than the rest, mean over classes; NaN for no image.

    >>> share_lighter(np.array([[[5.0, 5, 5]], [[-9, 1, 1]], [[np.nan] * 3]]))
    0.5
    """
    brightness = contrasts.mean(axis=2)
    return float(_mean(_mean(np.where(np.isnan(brightness), np.nan, brightness > 0), 0)[None], 1)[0])


def contrast_spread(contrasts: Float[np.ndarray, "n foreground 3"]) -> float:
    """Compute the standard deviation of class contrasts over images, mean over classes and channels; NaN for one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.nanmean(np.nanstd(contrasts, axis=0, ddof=1)))


def _group_means(values: Float[np.ndarray, "n k 3"], patches: Patches) -> dict[str, Float[np.ndarray, "k 3"]]:
    return {group: _mean(values[rows.numpy()], 0) for group, rows in patches.by_group().items()}


def _mean(values: np.ndarray, axes: int | tuple[int, ...]) -> np.ndarray:
    """Average what is there; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axes)
