"""Counts of label maps (masks, layouts, predictions): class shares, confusion, overlap and agreement."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Integer, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from sedm.data.patch_table import UNKNOWN


def class_fractions(maps: UInt8[Tensor, "n h w"], n_classes: int) -> Float[Tensor, "n classes"]:
    """Count the share of each class among the known pixels of each map.

    Returns:
        float32; a row sums to 1, and is NaN where every pixel is UNKNOWN.

    >>> class_fractions(torch.tensor([[[0, 1, 1, 1]], [[0, 2, 255, 255]]], dtype=torch.uint8), n_classes=3)
    tensor([[0.2500, 0.7500, 0.0000],
            [0.5000, 0.0000, 0.5000]])
    """
    n_known = (maps != UNKNOWN).sum((1, 2))
    return torch.stack([(maps == k).sum((1, 2)) / n_known for k in range(n_classes)], dim=1)


def one_hot_maps(maps: UInt8[Tensor, "n h w"], n_classes: int) -> Float64[Tensor, "n classes pixels"]:
    """Write each map as one plane a class: 1 where a pixel has the class, 0 elsewhere and wherever it is UNKNOWN.

    >>> one_hot_maps(torch.tensor([[[0, 1, 255]]], dtype=torch.uint8), n_classes=2).tolist()
    [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    """
    classes = maps.long().where(maps != UNKNOWN, n_classes)
    return F.one_hot(classes, n_classes + 1)[..., :n_classes].flatten(1, 2).mT.double()


def cohen_kappa(
    first: Float[Tensor, "n classes pixels"],
    second: Float[Tensor, "m classes pixels"],
    least_disagreement: float = 0.0,
) -> Float[Tensor, "n m"]:
    """Measure how well every map agrees with every other beyond chance: 1 where they are the same, about 0 by chance.

    Chance is what two maps of these class shares agree on when their pixels do not know of each other.

    Args:
        first: one plane a class (`one_hot_maps`), each pixel of one class.
        second: the same; a pixel without a class counts nowhere. Counts are whole numbers, so they are exact.
        least_disagreement: the smallest share of pixels that chance is taken to get wrong.

    Returns:
        At most 1. NaN where nothing is known, and where both maps hold one class only, the same one: there is nothing
        to agree on.

    Source: Cohen 1960, doi:10.1177/001316446002000104.

    >>> maps = torch.tensor([[[0, 0], [1, 1]], [[0, 1], [0, 1]], [[1, 1], [0, 0]]], dtype=torch.uint8)
    >>> planes = one_hot_maps(maps, n_classes=2)
    >>> cohen_kappa(planes[:1], planes).tolist()
    [[1.0, 0.0, -1.0]]
    """
    known = second.sum(1)
    n_known = known.sum(1)
    of_first = first.sum(2)[:, None] if known.all() else torch.einsum("nkp,mp->nmk", first, known)
    observed = first.flatten(1) @ second.flatten(1).T / n_known
    chance = (of_first * second.sum(2)).sum(2) / n_known**2
    return (observed - chance) / (1 - chance).clamp(min=least_disagreement)  # 0 / 0 is NaN


def confusion_matrices(
    predictions: Integer[Tensor, "n h w"], masks: Integer[Tensor, "n h w"], n_classes: int
) -> Int64[np.ndarray, "n classes classes"]:
    """Count the pixels of each image by [image, class in the mask, class predicted]; UNKNOWN pixels count nowhere.

    Raises:
        ValueError: a value outside the classes 0…K−1.

    >>> confusion_matrices(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 255]]]), n_classes=2).tolist()
    [[[1, 1], [0, 0]]]
    """
    known = masks != UNKNOWN
    for name, values in (("masks", masks[known]), ("predictions", predictions)):
        outside = (values < 0) | (values >= n_classes)
        if outside.any():
            raise ValueError(f"{name} hold {int(values[outside][0])}, outside the classes 0..{n_classes - 1}")
    image = torch.arange(len(masks), device=masks.device)[:, None, None]
    cell = (image * n_classes + masks.long()) * n_classes + predictions.long()
    counts = torch.bincount(cell[known], minlength=len(masks) * n_classes**2)
    return counts.view(len(masks), n_classes, n_classes).cpu().numpy()


def intersection_over_union(confusion: Shaped[np.ndarray, "*n classes classes"]) -> Float64[np.ndarray, "*n classes"]:
    """Divide the intersection of mask and prediction by their union, class by class; NaN where both are empty.

    Args:
        confusion: pixel counts, as `confusion_matrices` returns them, of one image or summed over several.

    >>> intersection_over_union(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(2).tolist()
    [0.75, 0.67, nan]
    """
    intersection = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = confusion.sum(axis=-2) + confusion.sum(axis=-1) - intersection
    return np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0)
