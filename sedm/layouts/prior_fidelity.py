"""Fidelity of layout priors: how close sampled layouts come to real masks, and whether they copy them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from scipy.stats import wasserstein_distance
from torch import Tensor

from sedm.data.augment import warp
from sedm.data.label_maps import class_fractions, cohen_kappa
from sedm.layouts.morphology import CRUMB, component_areas, perimeter_per_area, two_point_correlation
from sedm.layouts.prior import complete_masks

STATISTICS = ("fraction", "perimeter_per_area", "n_components", "mean_component_area")
NOVELTY_SIZE = 32  # px, layouts are compared at this size
ANGLES = 24  # turns that are tried, 15° apart
LEAST_DISAGREEMENT = 0.02  # of two maps that are nearly all of one class
SHIFTS = (-3, 0, 3)  # px of NOVELTY_SIZE, tried along both axes


def describe_layouts(layouts: UInt8[Tensor, "n h w"], classes: Sequence[str]) -> pd.DataFrame:
    """Measure the morphology of each layout.

    Returns:
        One row a layout, columns (class, statistic): ``fraction``, a share of the picture; ``perimeter_per_area``,
        1/px; ``n_components``, connected pieces above 0.1 % of the picture; ``mean_component_area``, a share of the
        picture (0 where there is no piece).

    >>> masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    >>> masks[:, 2:6, 2:6] = masks[:, 10:14, 2:6] = 1
    >>> describe_layouts(masks, ("stroma", "tumour"))["tumour"].loc[0, ["n_components", "mean_component_area"]].tolist()
    [2.0, 0.0625]
    """
    fractions = class_fractions(layouts, len(classes))
    columns = {}
    for k, name in enumerate(classes):
        areas = [component_areas(layout == k) for layout in layouts]
        areas = [pieces[pieces > CRUMB] for pieces in areas]
        columns[name, "fraction"] = fractions[:, k].numpy()
        columns[name, "perimeter_per_area"] = perimeter_per_area(layouts == k).numpy()
        columns[name, "n_components"] = np.array([len(pieces) for pieces in areas], float)
        columns[name, "mean_component_area"] = np.array([pieces.mean() if len(pieces) else 0.0 for pieces in areas])
    return pd.DataFrame(columns)


def compare_layouts(
    sources: Mapping[str, UInt8[Tensor, "_ h w"]], reference: UInt8[Tensor, "n h w"], classes: Sequence[str]
) -> pd.DataFrame:
    """Compare each source of layouts with reference masks.

    Give every source about the same number of layouts, among them real masks of other groups: their row is the floor
    that a perfect prior would reach. Masks with unannotated pixels are left out.

    Returns:
        One row a source. For the four `STATISTICS`: the Wasserstein-1 distance between the two distributions over
        layouts, in standard deviations of the reference, averaged over classes. For ``two_point``: the largest
        difference of the mean two-point correlation at any distance, averaged over classes.

    >>> masks = (torch.rand(40, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    >>> table = compare_layouts({"same kind": masks[:20], "other": 0 * masks[:20]}, masks[20:], ("a", "b"))
    >>> bool(table.loc["same kind", "fraction"] < 1 < 10 < table.loc["other", "fraction"]), table.columns[-1]
    (True, 'two_point')
    """
    reference = complete_masks(reference, len(classes))
    target = describe_layouts(reference, classes)
    curves = [two_point_correlation(reference == k)[1].mean(0) for k in range(len(classes))]
    rows = {}
    for source, layouts in sources.items():
        layouts = complete_masks(layouts, len(classes))
        table = describe_layouts(layouts, classes)
        rows[source] = {
            statistic: np.mean([_distance(table[name, statistic], target[name, statistic]) for name in classes])
            for statistic in STATISTICS
        }
        gaps = [two_point_correlation(layouts == k)[1].mean(0) - curve for k, curve in enumerate(curves)]
        rows[source]["two_point"] = np.mean([np.abs(gap).max() for gap in gaps])
    return pd.DataFrame(rows).T


def nearest_mask(layouts: UInt8[Tensor, "n h w"], masks: UInt8[Tensor, "m h w"], n_classes: int) -> Float[Tensor, " k"]:
    """Measure how well each layout agrees with the most similar mask: Cohen's κ, 0 for chance and 1 for a copy.

    Each mask is tried in both reflections, 24 turns and 9 small shifts, at 32 px inside the inscribed
    disc (so that no corner depends on what lies beyond the border). A coarse pixel counts as the class that fills most
    of it, and everything is counted in whole numbers, so the same layouts give the same bytes on any number of threads.
    Compare with the same number for real masks of other groups, which are no copies. Layouts and masks with unannotated
    pixels are left out.

    >>> generator = torch.Generator().manual_seed(0)
    >>> masks = (torch.rand(3, 8, 8, generator=generator) < 0.5).to(torch.uint8)
    >>> masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    >>> nearest_mask(masks[:1].rot90(dims=(1, 2)), masks, 2).round(decimals=2)
    tensor([1.])
    """
    layouts, masks = (complete_masks(maps, n_classes) for maps in (layouts, masks))
    y, x = torch.meshgrid(*[torch.arange(NOVELTY_SIZE) + 0.5 - NOVELTY_SIZE / 2] * 2, indexing="ij")
    disc = (x**2 + y**2 < (NOVELTY_SIZE / 2 - max(SHIFTS)) ** 2).flatten()
    inside = _one_hot(layouts, n_classes)[:, :, disc]
    best = torch.full((len(layouts),), -1.0)
    for mask in _one_hot(masks, n_classes).unflatten(2, (NOVELTY_SIZE, NOVELTY_SIZE)):
        views = torch.stack([_view(mask, flip, turn) for flip in (1.0, -1.0) for turn in range(ANGLES)])
        views = torch.stack([views.roll((i, j), (2, 3)) for i in SHIFTS for j in SHIFTS], 1).flatten(0, 1)
        views = views.flatten(2)[:, :, disc]
        kappa = cohen_kappa(inside, views, least_disagreement=LEAST_DISAGREEMENT)  # of so few pixels, exact in float32
        best = torch.maximum(best, kappa.amax(1))
    return best


def _view(mask: Float[Tensor, "classes h w"], flip: float, turn: int) -> Float[Tensor, "classes h w"]:
    """Turn a mask by ``turn`` of `ANGLES`, and mirror it where ``flip`` is −1."""
    angle = torch.tensor(2 * torch.pi * turn / ANGLES)
    matrix = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return _harden(warp(mask, matrix @ torch.tensor([[flip, 0.0], [0.0, 1.0]]), torch.zeros(2)), dim=0)


def _one_hot(layouts: UInt8[Tensor, "n h w"], n_classes: int) -> Float[Tensor, "n classes pixels"]:
    """Mark, at NOVELTY_SIZE, the class that fills most of each pixel."""
    hot = torch.nn.functional.one_hot(layouts.long(), n_classes).permute(0, 3, 1, 2).float()
    return _harden(torch.nn.functional.adaptive_avg_pool2d(hot, NOVELTY_SIZE).flatten(2), dim=1)


def _harden(shares: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(shares).scatter_(dim, shares.argmax(dim, keepdim=True), 1.0)


def _distance(values: pd.Series, target: pd.Series) -> float:
    """Measure the Wasserstein-1 distance in standard deviations of the target."""
    return wasserstein_distance(values, target) / max(float(target.std()), 1e-9)
