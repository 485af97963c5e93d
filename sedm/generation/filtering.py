"""Filtering: synthetic pairs whose image does not show its layout are dropped, or the pixels where it does not ignored.

A segmentation network that was trained on real images only says what it sees in each synthetic image, and that is
compared with the layout. Pairs are judged class by class, against the other pairs that have the class, because a small
class scores low even where it was drawn well. The network that filters must not be the one that measures layout
fidelity afterwards: what it lets through agrees with it by choice.

Source: after FreeMask, Yang et al. 2023 (arXiv 2310.15160), where single pixels are ignored, those whose loss is above
1.25 times the mean loss of their class on real images. `ignore_contradicted` ignores those that the network is sure are
of another class: trained on few images, it has hardly any loss on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from sedm.data.label_maps import confusion_matrices, intersection_over_union
from sedm.data.patch_table import SHARD, UNKNOWN
from sedm.data.patches import Patches
from sedm.runtime.files import replacing
from sedm.segmentation.segmenter import predict
from sedm.segmentation.teachers import logits_of

REPORT = "filter.parquet"
IMAGES_AT_ONCE = 256


def score_pairs(segmenter: nn.Module, patches: Patches) -> pd.DataFrame:
    """Score how well images show their layouts: one row a pair.

    Columns ``iou_0 … iou_<K−1>`` and ``accuracy``, each in [0, 1], of what is seen with the layout.

    A class that the layout does not hold has no score (NaN), whatever is seen: a single stray pixel would make it 0,
    and what is seen in a wrong place lowers the score of the class that belongs there. Pixels whose layout is UNKNOWN
    count nowhere.

    Args:
        segmenter: trained on real images only, as `sedm.segmentation.segmenter.train_segmenter` returns it.
        patches: images and the layouts they were made for.

    Raises:
        ValueError: no pair, a pair without layout, or a segmenter of another number of classes.

    >>> from sedm.segmentation.networks import UNet
    >>> masks = torch.tensor([0, 1]).repeat(32).view(1, 8, 8).byte()
    >>> pair = Patches(torch.zeros(1, 3, 8, 8).byte(), masks, ["a"], classes=("stroma", "epithelium", "lumen"))
    >>> score_pairs(UNet(n_classes=3, channels=(8, 16)), pair).columns.tolist()
    ['iou_0', 'iou_1', 'iou_2', 'accuracy']
    """
    _check_pairs(segmenter, patches)
    n_classes = patches.n_classes
    parts = torch.arange(len(patches)).split(IMAGES_AT_ONCE)
    tables = []
    for rows in tqdm(parts, "scoring pairs", unit="image", unit_scale=IMAGES_AT_ONCE, delay=1):
        predictions = predict(segmenter, patches.images[rows])
        confusion = confusion_matrices(predictions, patches.masks[rows], n_classes)
        in_layout = confusion.any(axis=2)
        iou = np.where(in_layout, intersection_over_union(confusion), np.nan)
        scores = pd.DataFrame(iou, columns=[f"iou_{k}" for k in range(n_classes)])
        scores["accuracy"] = confusion.trace(axis1=1, axis2=2) / confusion.sum(axis=(1, 2))
        tables.append(scores)
    return pd.concat(tables, ignore_index=True)


def keep_pairs(scores: pd.DataFrame, percentile: float, classes: Sequence[str]) -> pd.DataFrame:
    """Decide which pairs stay; one row a pair: ``kept``, and ``reason``, why it was dropped, "" where it was not.

    Of the n pairs with a class, the ⌊n · percentile / 100⌋ of lowest IoU are dropped, so up to K times the percentile
    of all pairs. A class that few pairs have drops none until there are 100 / percentile of them. Pairs of the same IoU
    are told apart by their accuracy, so the worst go also where many have an IoU of 0; pairs that are alike stay.

    Args:
        scores: as `score_pairs` returns them.
        percentile: in [0, 100); 0 keeps all.
        classes: the name of each class.

    Raises:
        ValueError: a percentile outside [0, 100) or one that drops every pair, or scores of another number of classes.

    >>> scores = pd.DataFrame({"iou_0": [0.9, 0.8, 0.9, 0.7], "iou_1": [0.2, 0.6, 0.8, None], "accuracy": 0.9})
    >>> decisions = keep_pairs(scores, percentile=34, classes=["stroma", "epithelium"])
    >>> decisions["kept"].tolist()
    [False, True, True, False]
    >>> decisions["reason"][0]
    'epithelium: IoU 0.200, the threshold is 0.600 (percentile 34 of 3 pairs with it)'
    """
    _check_percentile(percentile)
    columns = [f"iou_{k}" for k in range(len(classes))]
    score_columns = [name for name in scores.columns if name.startswith("iou_")]
    if score_columns != columns:
        raise ValueError(f"scores have the columns {', '.join(score_columns)}, but {len(classes)} classes were named")
    reasons = pd.Series("", index=scores.index)
    for column, name in zip(columns, classes, strict=True):
        scored = scores.dropna(subset=column)
        if scored.empty:
            continue
        place = scored.groupby([column, "accuracy"]).ngroup()  # from the worst pair to the best
        lowest_kept = place.sort_values().index[math.floor(len(place) * percentile / 100)]
        threshold = scored.loc[lowest_kept, column]
        where = f"the threshold is {threshold:.3f} (percentile {percentile:g} of {len(place)} pairs with it)"
        for row in place.index[place < place[lowest_kept]]:
            reasons[row] += f"{'; ' * bool(reasons[row])}{name}: IoU {scored.loc[row, column]:.3f}, {where}"
    is_kept = reasons == ""
    if not is_kept.any():
        raise ValueError(f"percentile={percentile:g} drops all {len(scores)} pairs; choose a lower one")
    return pd.DataFrame({"kept": is_kept, "reason": reasons})


@torch.no_grad()
def ignore_contradicted(segmenter: nn.Module, pairs: Patches, confidence: float) -> Patches:
    """Make pixels UNKNOWN of which a segmentation network is sure that they are not of the class of their layout.

    Args:
        segmenter: as `score_pairs` takes it.
        confidence: in [0, 1]; the network is sure where it gives another class a higher probability than this.

    Raises:
        ValueError: as `score_pairs`.

    >>> from sedm.segmentation.networks import UNet
    >>> masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    >>> pair = Patches(torch.zeros(1, 3, 8, 8).byte(), masks, ["a"], classes=("stroma", "lumen"))
    >>> (ignore_contradicted(UNet(n_classes=2, channels=(8, 16)), pair, confidence=1.0).masks == UNKNOWN).any().item()
    False
    """
    _check_pairs(segmenter, pairs)
    segmenter.eval()
    device, masks = next(segmenter.parameters()).device, pairs.masks.clone()
    for rows in torch.arange(len(pairs)).split(IMAGES_AT_ONCE):
        probability, seen = logits_of(segmenter, pairs.images[rows].to(device, torch.float32) / 255).softmax(1).max(1)
        is_contradicted = (probability > confidence).cpu() & (seen.cpu() != masks[rows])
        masks[rows] = masks[rows].masked_fill(is_contradicted, UNKNOWN)
    return replace(pairs, masks=masks)


def filter_patches(
    table: datasets.Dataset, segmenter: nn.Module, percentile: float, classes: Sequence[str], folder: str | Path
) -> datasets.Dataset:
    """Keep the rows of a synthetic patch table that `keep_pairs` keeps; the table itself stays as it is.

    ``folder/filter.parquet`` has a row for every pair, also those dropped: all columns of the table but the pictures,
    those of `score_pairs` and those of `keep_pairs`.

    Args:
        folder: beside the table's own folder, not the one with its shards.

    Raises:
        ValueError: as `score_pairs` and `keep_pairs`, or a folder with the shards of a table.

    >>> import tempfile
    >>> from sedm.data.patch_table import from_arrays
    >>> from sedm.segmentation.networks import UNet
    >>> table = from_arrays(*(torch.zeros(2, 8, 8, *channels).byte().numpy() for channels in ([3], [])), ["a", "b"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept = filter_patches(table, UNet(n_classes=1, channels=(8,)), 5, ["stroma"], folder)
    ...     kept["group"][:], pd.read_parquet(f"{folder}/filter.parquet")["kept"].tolist()
    (['a', 'b'], [True, True])
    """
    folder = Path(folder)
    _check_percentile(percentile)
    shards = [path for path in folder.glob("*.parquet") if SHARD.search(path.stem)]
    if shards:
        raise ValueError(f"{folder}: holds {shards[0].name}, so {REPORT} would pass for a split; name another folder")
    scores = score_pairs(segmenter, Patches.from_table(table, classes))
    decisions = keep_pairs(scores, percentile, classes)
    facts = table.remove_columns(["image", "mask"]).to_pandas()
    with replacing(folder / REPORT) as temporary:
        pd.concat([facts, scores, decisions], axis=1).to_parquet(temporary, index=False)
    return table.select(decisions.index[decisions["kept"]].tolist())


def _check_percentile(percentile: float) -> None:
    if not 0 <= percentile < 100:
        raise ValueError(f"percentile={percentile}; it must lie in [0, 100), and 0 keeps all pairs")


@torch.no_grad()
def _check_pairs(segmenter: nn.Module, patches: Patches) -> None:
    if len(patches) == 0:
        raise ValueError("no pairs to score")
    first = patches.images[:1].to(next(segmenter.parameters()).device, torch.float32) / 255
    n_outputs = segmenter.eval()(first).shape[1]
    if n_outputs != patches.n_classes:
        raise ValueError(
            f"a segmenter of {n_outputs} classes for layouts of {patches.n_classes}; take both from one study"
        )
    if not patches.has_mask.all():
        row = int((~patches.has_mask).nonzero()[0])
        raise ValueError(f"row {row} has no layout; only images that were made for one can be scored")
