"""How well predictions agree with masks, group by group: intersection over union, and Dice.

Images of one group (a patient, a species) are not independent, so their pixels are pooled before anything is divided.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Integer
from torch import Tensor

from sedm.data.label_maps import confusion_matrices, intersection_over_union
from sedm.data.patches import Patches


def score_groups(predictions: Integer[Tensor, "n h w"], patches: Patches) -> pd.DataFrame:
    """Score predictions against the masks of patches: one row a group, sorted by name.

    Columns ``group, n_images, iou_0 … iou_<K−1>, mean_iou``, and as much of Dice.

    The intersection and union of a class are summed over a group's images before they are divided. A class
    that is neither in a group's masks nor in its predictions has no score there (NaN); one that is predicted
    but absent scores 0. ``mean_iou`` is the mean over the *foreground* classes 1…K−1 that have a score (NaN
    if none has). Pixels whose mask is 255 count nowhere; ``n_images`` counts images with any other pixel.
    ``dice_0 … dice_<K−1>, mean_dice`` follow the same rules; the Dice of a class is 2·IoU / (1 + IoU).

    Args:
        predictions: class indices 0…K−1.
        patches: as many, with the masks to compare with.

    Raises:
        ValueError: nothing to score, shapes or lengths that differ, values outside the classes, or a predicted mask.

    >>> import torch
    >>> masks = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 0]]], dtype=torch.uint8)
    >>> images = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    >>> patches = Patches(images, masks, ["case-a", "case-b"], classes=("stroma", "tumour"))
    >>> predictions = torch.tensor([[[0, 0], [1, 1]], [[0, 0], [0, 0]]])
    >>> score_groups(predictions, patches).round(2).iloc[:, :5]
        group  n_images  iou_0  iou_1  mean_iou
    0  case-a         1    0.5   0.67      0.67
    1  case-b         1    1.0    NaN       NaN
    """
    if predictions.shape != patches.masks.shape or predictions.numel() == 0:
        shapes = [tuple(maps.shape) for maps in (predictions, patches.masks)]
        raise ValueError(f"predictions {shapes[0]} for masks {shapes[1]}; expected one for each, and at least one")
    if "predicted" in patches.mask_source:
        row = patches.mask_source.index("predicted")
        raise ValueError(f"the mask of row {row} is predicted; score on masks that people annotated: annotated()")
    if patches.n_classes < 2:
        raise ValueError(f"only the class {patches.classes[0]!r}; a background and a foreground class are needed")
    confusion = confusion_matrices(predictions, patches.masks, patches.n_classes)
    rows = []
    for group, group_rows in sorted(patches.by_group().items()):
        members = confusion[group_rows.numpy()]
        iou = intersection_over_union(members.sum(axis=0))
        row = {"group": group, "n_images": int(members.any(axis=(1, 2)).sum())}
        for name, scores in (("iou", iou), ("dice", 2 * iou / (1 + iou))):
            foreground = scores[1:][~np.isnan(scores[1:])]
            row |= {f"{name}_{k}": scores[k] for k in range(patches.n_classes)}
            row[f"mean_{name}"] = foreground.mean() if len(foreground) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)
