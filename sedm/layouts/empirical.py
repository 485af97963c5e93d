"""The empirical prior: annotated masks, turned, bent, recombined, and moved to another composition.

Masks are carried as signed distances to each class's border. A distance can be interpolated where a class index
cannot: a bent or enlarged mask keeps smooth borders and no class appears between two others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor

from sedm.data.augment import AffineRange, warp
from sedm.data.drawn.canvas import splines
from sedm.data.label_maps import class_fractions
from sedm.layouts.prior import LayoutPrior, complete, complete_masks, pixel_counts

RANGE = AffineRange(shear=10.0)
ELASTIC = 0.02  # standard deviation of the elastic displacement, of the layout's side; it changes over a quarter of it
RECOMBINED = 0.5  # share of layouts made from two masks
SEAM = 8.0  # how sharply one mask takes over from the other: a wide seam melts shapes, a narrow one cuts them


class EmpiricalPrior(LayoutPrior):
    """Layouts resampled from annotated masks.

    Each is one mask through a random flip, affine map and elastic displacement, borders reflected; half of them
    continue as a second mask beyond a smooth random border. A composition is met by moving all borders.

    Source: the layouts of unannotated styles in Öttl et al. 2024 (arXiv 2403.14429) are class-balanced real masks under
    affine maps; elastic displacement, recombination and exact compositions are added here, and the shear is milder
    (±10° for ±20°).

    >>> masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    >>> masks[:, 4:12, 4:12] = 1
    >>> layouts = EmpiricalPrior.fit_masks(masks, ("stroma", "tumour")).sample(5, seed=0)
    >>> layouts.shape, layouts.unique().tolist()
    (torch.Size([5, 16, 16]), [0, 1])
    """

    kind = "empirical"

    def __init__(self, classes: Sequence[str], masks: UInt8[Tensor, "n h w"]):
        super().__init__(classes, class_fractions(masks, len(classes)))
        self.masks = masks
        self._distances = torch.stack([signed_distances(mask, len(classes)).half() for mask in masks])

    @classmethod
    def fit_masks(cls, masks: UInt8[Tensor, "n h w"], classes: Sequence[str]) -> EmpiricalPrior:
        """Make the prior over these masks.

        Args:
            masks: (n, h, w), uint8, class indices 0…K−1; those with unannotated pixels (255) are left out.
            classes: names of the indices.

        Raises:
            ValueError: no fully annotated mask, or one with a pixel outside the classes.

        >>> EmpiricalPrior.fit_masks(torch.ones(3, 8, 8, dtype=torch.uint8), ("stroma", "tumour")).size
        (8, 8)
        """
        return cls(classes, complete_masks(masks, len(classes)).clone())

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.masks.shape[1:])

    def _draw(self, generator: torch.Generator, wish: Float[Tensor, " classes"] | None) -> UInt8[Tensor, "h w"]:
        weights = self._weights(wish)
        first, second = torch.multinomial(weights, 2, replacement=True, generator=generator).tolist()
        distances = self._bend(first, generator)
        if torch.rand((), generator=generator) < RECOMBINED:
            side = torch.sigmoid(SEAM * _smooth_noise(self.size, 0.5, generator))
            distances = side * distances + (1 - side) * self._bend(second, generator)
        if wish is None:
            return highest(distances)
        fractions = complete(wish, self.fractions[first], self.fractions.mean(0))
        return cut(distances, pixel_counts(fractions, distances[0].numel()))

    def _weights(self, wish: Float[Tensor, " classes"] | None) -> Float[Tensor, " n"]:
        """Weigh the masks for drawing; with a wish, only the nearest quarter of those with all classes in it."""
        if wish is None:
            return torch.ones(len(self.masks))
        gaps = (self.fractions - wish)[:, ~wish.isnan()].abs().sum(1)
        able = ((self.fractions > 0) | ~(wish > 0)).all(1)
        if not able.any():
            names = ", ".join(name for name, fraction in zip(self.classes, wish, strict=True) if fraction > 0)
            raise ValueError(f"composition: no single mask holds all of {names}; ask for fewer, or use another prior")
        nearest = gaps.where(able, torch.inf).argsort(stable=True)[: max(1, int(able.sum()) // 4)]
        return torch.zeros(len(self.masks)).index_fill(0, nearest, 1.0)

    def _bend(self, row: int, generator: torch.Generator) -> Float[Tensor, "classes h w"]:
        """Move the signed distances of one mask through a random affine map and elastic displacement."""
        matrix, shift = RANGE.draw(self.size, generator)
        displacement = torch.stack([_smooth_noise(self.size, 0.25, generator) for _ in range(2)])
        displacement = ELASTIC * displacement * torch.tensor(self.size[::-1]).view(2, 1, 1)
        return warp(self._distances[row].float(), matrix, shift, displacement=displacement)

    def _state(self):
        return {"masks": self.masks}, {}

    @classmethod
    def _restore(cls, classes, tensors, settings):
        return cls(classes, tensors["masks"])


def signed_distances(mask: UInt8[Tensor, "h w"], n_classes: int) -> Float[Tensor, "classes h w"]:
    """Measure the distance to each class's border in px: positive inside, negative outside, ±0.5 beside the border.

    Where a class is everywhere or nowhere, it is plus or minus the mask's larger side.

    >>> signed_distances(torch.tensor([[0, 0, 1, 1]], dtype=torch.uint8), 2)[1]
    tensor([[-1.5000, -0.5000,  0.5000,  1.5000]])
    """
    values = mask.numpy()
    distances = np.empty((n_classes, *values.shape), np.float32)
    for k in range(n_classes):
        inside = values == k
        if inside.all() or not inside.any():
            distances[k] = max(values.shape) * (1 if inside.any() else -1)
        else:
            signed = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
            distances[k] = signed - 0.5 * np.sign(signed)
    return torch.from_numpy(distances)


def highest(scores: Float[Tensor, "classes h w"]) -> UInt8[Tensor, "h w"]:
    """Choose the class of the highest score at each pixel, the first of equals: ``argmax(0)``, 20 times faster.

    >>> highest(torch.tensor([[[0.1, 0.5]], [[0.3, 0.5]]]))
    tensor([[1, 0]], dtype=torch.uint8)
    """
    labels = torch.zeros(scores.shape[1:], dtype=torch.uint8)
    best = scores[0]
    for k in range(1, len(scores)):
        labels[scores[k] > best] = k
        best = torch.maximum(best, scores[k])
    return labels


def cut(scores: Float[Tensor, "classes h w"], counts: Sequence[int]) -> UInt8[Tensor, "h w"]:
    """Label exactly ``counts[k]`` pixels with each class k, so that the sum of their scores is highest.

    Every class gets an offset, and each pixel the class whose score plus offset is highest. The offsets are found class
    by class, each putting its own count right while the others stand (coordinate ascent of the dual of the
    assignment problem); the few pixels that ties leave over go where they lose least.

    >>> cut(torch.tensor([[[0.9, 0.8, 0.7]], [[0.0, 0.1, 0.2]]]), [1, 2])
    tensor([[0, 1, 1]], dtype=torch.uint8)
    """
    present = [k for k, count in enumerate(counts) if count > 0]
    targets = np.array(counts)[present]
    flat = scores.flatten(1).numpy()[present]
    offsets = np.zeros(len(present), np.float32)
    if len(present) > 1:
        sample = flat[:, :: max(1, flat.shape[1] // 512)]  # brings the offsets near at little cost
        targets_in_sample = np.clip((targets * sample.shape[1] / flat.shape[1]).astype(int), 1, sample.shape[1] - 1)
        _balance(sample, targets_in_sample, offsets, n_rounds=8)
        _balance(flat, targets, offsets, n_rounds=1)
    shifted = flat + offsets[:, None]
    labels = highest(torch.from_numpy(shifted)[:, None])[0].numpy()
    _settle(labels, shifted, targets)
    return torch.from_numpy(np.array(present, np.uint8)[labels].reshape(scores.shape[1:]))


def _balance(flat: np.ndarray, targets: np.ndarray, offsets: np.ndarray, n_rounds: int) -> None:
    """Change the offsets, in place and class by class, so that each class wins as many points as its target."""
    for _ in range(n_rounds if len(targets) > 2 else 1):  # of two classes one decides for both
        for k, count in enumerate(targets):
            others = reduce(np.maximum, [flat[j] + offsets[j] for j in range(len(targets)) if j != k]) - flat[k]
            offsets[k] = np.partition(others, count - 1)[count - 1]


def _settle(labels: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> None:
    """Move the pixels that lose least from classes with too many to classes with too few, in place."""
    surplus = np.bincount(labels, minlength=len(targets)) - targets
    for taker, giver in itertools.product(np.flatnonzero(surplus < 0), np.flatnonzero(surplus > 0)):
        n = min(-surplus[taker], surplus[giver])
        if n > 0:
            pixels = np.flatnonzero(labels == giver)
            loss = scores[giver, pixels] - scores[taker, pixels]
            labels[pixels[np.argpartition(loss, n - 1)[:n]]] = taker
            surplus[[taker, giver]] += [n, -n]


def _smooth_noise(size: tuple[int, int], length: float, generator: torch.Generator) -> Float[Tensor, "h w"]:
    """Draw noise of mean 0 and variance 1 that changes over about ``length`` of the side."""
    rows, columns = (torch.from_numpy(splines(n, length * n / 2)) for n in size)
    white = torch.randn(rows.shape[1], columns.shape[1], generator=generator)
    return rows @ white @ columns.T
