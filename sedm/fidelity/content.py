"""Does an image show the layout it was given, and nothing of the content of the images that lent its style?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from sedm.data.groups import rows_by_group
from sedm.data.label_maps import cohen_kappa, one_hot_maps
from sedm.data.patches import Patches


def agreement_beyond_chance(
    predictions: UInt8[Tensor, "n h w"], masks: UInt8[Tensor, "m h w"], n_classes: int
) -> Float[np.ndarray, "n m"]:
    """Compute Cohen's κ of every prediction with every mask (`sedm.data.label_maps.cohen_kappa`).

    NaN where there is nothing to agree on: both hold one class only, the same one, or nothing is known.

    Args:
        predictions: class indices.
        masks: class indices; UNKNOWN pixels count nowhere.

    >>> masks = torch.tensor([[[0, 0], [1, 1]], [[0, 1], [0, 1]], [[1, 1], [0, 0]]], dtype=torch.uint8)
    >>> agreement_beyond_chance(masks[:1], masks, n_classes=2).tolist()
    [[1.0, 0.0, -1.0]]
    """
    return cohen_kappa(one_hot_maps(predictions, n_classes), one_hot_maps(masks, n_classes)).numpy()


def content_agreement(
    predictions: UInt8[Tensor, "n h w"],
    groups: Sequence[str],
    style_rows: Int[Tensor, "n k"],
    lenders: Patches,
    references: Patches,
) -> pd.DataFrame:
    """Compute Cohen's κ of each image's prediction with the masks of its own style images, and with others.

    ``own`` is the mean over the style images, ``others`` over the references of the same group, which never lent. A
    style image that leaves its content behind makes ``own`` the higher one; what all images of a group share, such as
    a gland in the middle, raises both alike. NaN where no mask has anything to agree on.

    Args:
        predictions: what a segmentation network sees in the images.
        style_rows: rows of ``lenders`` that lent the style of each image.

    >>> masks = torch.tensor([[[0, 0], [1, 1]], [[0, 1], [0, 1]]], dtype=torch.uint8)
    >>> lenders, references = (
    ...     Patches(torch.zeros(1, 3, 2, 2).byte(), mask[None], ["a"], classes=("stroma", "tumour")) for mask in masks
    ... )
    >>> content_agreement(masks[:1], ["a"], torch.tensor([[0]]), lenders, references)
      group  own  others
    0     a  1.0     0.0
    """
    own, others = np.full(len(groups), np.nan), np.full(len(groups), np.nan)
    n_classes, reference_rows = references.n_classes, references.by_group()
    for name, rows in rows_by_group(groups).items():
        lender_rows, columns = style_rows[rows].unique(return_inverse=True)
        with_lenders = agreement_beyond_chance(predictions[rows], lenders.masks[lender_rows], n_classes)
        own[rows.numpy()] = _mean(np.take_along_axis(with_lenders, columns.numpy(), axis=1))
        never_lent = references.masks[reference_rows[name]]
        others[rows.numpy()] = _mean(agreement_beyond_chance(predictions[rows], never_lent, n_classes))
    return pd.DataFrame({"group": list(groups), "own": own, "others": others})


def other_layouts(layouts: UInt8[Tensor, "n h w"], seed: int) -> UInt8[Tensor, "n h w"]:
    """Choose for each layout another one of them, at random, that differs from it.

    Raises:
        ValueError: all layouts are the same.

    >>> layouts = torch.tensor([[[0]], [[0]], [[1]]], dtype=torch.uint8)
    >>> other_layouts(layouts, seed=0).flatten().tolist()
    [1, 1, 0]
    """
    distinct, which = layouts.flatten(1).unique(dim=0, return_inverse=True)
    if len(distinct) < 2:
        raise ValueError("all layouts are the same; two or more are needed to tell what a wrong one scores")
    step = np.random.default_rng(seed).integers(1, len(distinct), len(layouts))
    return distinct[(which + torch.from_numpy(step)) % len(distinct)].view_as(layouts)


def _mean(values: np.ndarray) -> np.ndarray:
    """Average each row's numbers; NaN where it has none."""
    numbers = ~np.isnan(values)
    return np.divide(np.nansum(values, 1), numbers.sum(1), out=np.full(len(values), np.nan), where=numbers.any(1))
