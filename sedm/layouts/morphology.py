"""Measures of label maps: fractions, borders, pieces, and how far order reaches."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import fft, ndimage
from torch import Tensor

CRUMB = 0.001  # of the picture: smaller pieces are not counted


def two_point_correlation(
    regions: Bool[Tensor, "n h w"],
) -> tuple[Float[np.ndarray, " distances"], Float[np.ndarray, "n distances"]]:
    """Measure the chance that two points a given distance apart both lie in the region.

    At distance 0 this is the region's area fraction; far away it tends to the square of it. Pairs are counted inside
    the picture only, over all directions.

    Returns:
        Distances in px, about 1 px apart, up to three quarters of the shorter side; and the chances of each map.

    Source: Torquato, Random Heterogeneous Materials (2002), section 2.2, the two-point probability function S_2.

    >>> region = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.3
    >>> distances, chances = two_point_correlation(region)  # of noise: no order at any distance
    >>> distances[:2].round(2).tolist(), chances[0, :4].round(1).tolist()
    ([0.0, 1.21], [0.3, 0.1, 0.1, 0.1])
    """
    h, w = regions.shape[1:]
    padded = [fft.next_fast_len(2 * n - 1, real=True) for n in (h, w)]
    y, x = (np.fft.fftfreq(n, 1 / n) for n in padded)
    distance = np.hypot(y[:, None], x)
    n_bins = int(0.75 * min(h, w))
    ring = np.minimum(np.round(distance).astype(int), n_bins).ravel()
    whole = fft.rfft2(np.ones((h, w)), padded)
    n_pairs = np.bincount(ring, fft.irfft2(np.abs(whole) ** 2, padded).ravel())[:n_bins]
    chances = np.empty((len(regions), n_bins))
    for row, region in enumerate(regions.numpy()):
        hits = fft.irfft2(np.abs(fft.rfft2(region.astype(float), padded)) ** 2, padded)
        chances[row] = np.bincount(ring, hits.ravel())[:n_bins] / n_pairs
    return np.bincount(ring, distance.ravel())[:n_bins] / np.bincount(ring)[:n_bins], chances


def perimeter_per_area(regions: Bool[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """Measure the length of a region's border inside the picture over the picture's area, 1/px.

    Steps between neighbouring pixels count π/4 each, which is right on average over all directions of a border
    (Crofton's formula with two directions).

    >>> region = torch.zeros(1, 64, 64, dtype=torch.bool)
    >>> region[:, 16:48, 16:48] = True
    >>> bool((perimeter_per_area(region) * 64**2 / (4 * 32) - torch.pi / 4).abs() < 1e-3)
    True
    """
    steps = (regions[:, 1:] ^ regions[:, :-1]).sum((1, 2)) + (regions[:, :, 1:] ^ regions[:, :, :-1]).sum((1, 2))
    return steps * (torch.pi / 4) / regions[0].numel()


def contacts(layouts: UInt8[Tensor, "n h w"], n_classes: int) -> Float[Tensor, "classes classes"]:
    """Count how often neighbouring pixels belong to two classes, as shares of all such pairs; the diagonal is 0.

    >>> contacts(torch.tensor([[[0, 1, 1, 2]]], dtype=torch.uint8), 3)[1]
    tensor([0.2500, 0.0000, 0.2500])
    """
    pairs = torch.zeros(n_classes, n_classes)
    layouts = layouts.long()
    for a, b in ((layouts[:, 1:], layouts[:, :-1]), (layouts[:, :, 1:], layouts[:, :, :-1])):
        pairs += torch.bincount((n_classes * a + b).flatten(), minlength=n_classes**2).view(n_classes, n_classes)
    pairs = (pairs + pairs.T).fill_diagonal_(0)
    return pairs / pairs.sum().clamp(min=1)


def component_areas(region: Bool[Tensor, "h w"]) -> Float[np.ndarray, " components"]:
    """Measure the connected pieces of a region (4 neighbours) in shares of the picture, largest first.

    >>> component_areas(torch.tensor([[1, 0, 1, 1]], dtype=torch.bool)).tolist()
    [0.5, 0.25]
    """
    labels, n = ndimage.label(region.numpy())
    areas = np.bincount(labels.ravel(), minlength=n + 1)[1:] / labels.size
    return np.sort(areas)[::-1]
