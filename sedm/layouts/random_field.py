r"""The random-field prior: correlated Gaussian fields, cut so that every class covers exactly its share.

Classes form a chain, such as stroma – epithelium – lumen, in which neighbours touch. A first field separates the first
class from the others where it is lowest, a second field the second class within what is left, and so on. Consecutive
fields are correlated, :math:`f_k = \alpha f_{k-1} + \sqrt{1 - \alpha^2}\, g_k`, so that what comes later in the chain
lies deep inside what comes earlier: lumen in epithelium, not beside stroma. `sedm.layouts.gaussian_fields` has the
fields themselves.

Source: nested cuts, the truncated plurigaussian model, Armstrong et al. 2011 (Plurigaussian Simulations in
Geosciences).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from sedm.data.label_maps import class_fractions
from sedm.layouts.gaussian_fields import (
    covariance_for_size,
    covariances_of_regions,
    draw_field,
    field_amplitude,
    grid_step,
)
from sedm.layouts.morphology import CRUMB, component_areas, contacts, perimeter_per_area, two_point_correlation
from sedm.layouts.prior import LayoutPrior, complete, complete_masks, pixel_counts

COUPLINGS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)  # α, tried in fitting
FOLDS = (math.inf, 1.0, 0.5, 0.25, 0.0)  # s, tried in fitting; infinite = not folded
SMOOTHINGS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)  # px of the grid, tried in fitting
COUPLING = 0.9  # α where nothing was fitted
N_TRIED = 48  # layouts a trial
JITTER = 0.1  # standard deviation of the logarithm of a drawn class fraction around a mask's


class RandomFieldPrior(LayoutPrior):
    """Layouts from correlated Gaussian fields; fitted to masks, or described in words and micrometres.

    Each layout takes its spectra (the size and spacing of structures) and, unless asked otherwise, its composition
    from one mask drawn at random, and nothing else: phases are random, so no mask can be recognised.

    Args:
        classes: names of the values 0…K−1.
        fractions: the share of each class in every mask.
        order: the chain of classes.
        profiles: covariance of each field at 0, 1, 2… px; NaN where a mask has no border to cut.
        size: height and width of a layout, px.
        step: px of the layout in one of the grid that fields are made on.
        folds: s of each field, infinite where it is not folded.
        couplings: α between consecutive fields.
        smoothing: standard deviation, px of the grid.

    >>> masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    >>> masks[:, 8:20, 8:20] = 1
    >>> prior = RandomFieldPrior.fit_masks(masks, ("stroma", "tumour"))
    >>> (prior.sample(2, {"tumour": 0.25}, seed=0) == 1).float().mean((1, 2))
    tensor([0.2500, 0.2500])
    """

    kind = "random_field"

    def __init__(
        self,
        classes: Sequence[str],
        *,
        fractions: Float[Tensor, "n classes"],
        order: Sequence[int],
        profiles: Float[Tensor, "n cuts distances"],
        size: Sequence[int],
        step: int,
        folds: Sequence[float],
        couplings: Sequence[float],
        smoothing: float,
    ):
        super().__init__(classes, fractions)
        self.order = tuple(order)
        self.profiles = profiles
        self._size = tuple(size)
        self.step = step
        self.folds = tuple(folds)
        self.couplings = tuple(couplings)
        self.smoothing = smoothing
        self._amplitudes: dict[tuple[int, int], Tensor] = {}  # by mask and cut, computed when first drawn

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @classmethod
    def fit_masks(cls, masks: UInt8[Tensor, "n h w"], classes: Sequence[str]) -> RandomFieldPrior:
        """Fit spectra and compositions to masks, then choose folds, couplings and smoothing by trial.

        Args:
            masks: (n, h, w), uint8, class indices 0…K−1; those with unannotated pixels (255) are left out.
            classes: names of the indices.

        Raises:
            ValueError: no fully annotated mask, fewer than two classes, or a mask with a pixel outside them.

        >>> masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
        >>> masks[:, 8:20, 8:20] = 1
        >>> RandomFieldPrior.fit_masks(masks, ("stroma", "tumour")).order
        (0, 1)
        """
        masks = complete_masks(masks, len(classes))
        if len(classes) < 2:
            raise ValueError(f"classes={tuple(classes)}; a random field needs at least two to separate")
        n_cuts = len(classes) - 1
        n_pieces = [_count_pieces(masks == k)[0].item() for k in range(len(classes))]
        order = _chain(contacts(masks, len(classes)), n_pieces)
        ranks = _ranks(masks, order)
        curves = [two_point_correlation(ranks > cut) for cut in range(n_cuts)]
        profiles_of = {
            fold: torch.stack([covariances_of_regions(*curve, fold) for curve in curves], dim=1) for fold in FOLDS
        }
        size = masks.shape[1:]
        prior = cls(
            classes,
            fractions=class_fractions(masks, len(classes)),
            order=order,
            profiles=profiles_of[math.inf],
            size=size,
            step=grid_step(profiles_of[math.inf], size),
            folds=[math.inf] * n_cuts,
            couplings=[COUPLING] * (n_cuts - 1),
            smoothing=1.5,
        )
        for cut in range(n_cuts):
            folded = [prior._with_fold(cut, fold, profiles_of[fold][:, cut]) for fold in FOLDS]
            prior = _most_like(masks, folded, partial(_count_pieces_beyond, order=order, cut=cut))
            if cut > 0:
                coupled = [prior._with_coupling(cut, alpha) for alpha in COUPLINGS]
                prior = _most_like(masks, coupled, partial(contacts, n_classes=len(classes)))
        smoothed = [prior._changed(smoothing=smoothing) for smoothing in SMOOTHINGS]
        return _most_like(masks, smoothed, partial(_border_length, n_classes=len(classes)))

    @classmethod
    def describe(
        cls,
        composition: Mapping[str, float],
        sizes_in_microns: Mapping[str, float],
        *,
        image_size: int,
        microns_per_pixel: float,
    ) -> RandomFieldPrior:
        """Make a prior from words alone: no mask is needed.

        Args:
            composition: every class with its fraction, in the order of their indices; the first is the ground, and each
                other lies within those before it as lumen lies within a gland.
            sizes_in_microns: for each class but the first, how large its pieces (with all that lies in them) are: the
                diameter in µm of a disc with the same mean chord.
            image_size: px a side.
            microns_per_pixel: size of a pixel, µm.

        Raises:
            ValueError: fractions that do not sum to 1, a class without a size, pieces that are smaller than 3 pixels or
                larger than the picture, or pixels without a size.

        >>> prior = RandomFieldPrior.describe({"stroma": 0.7, "tumour": 0.3}, {"tumour": 30.0},
        ...                                   image_size=64, microns_per_pixel=2.0)
        >>> (prior.sample(1, seed=0) == 1).float().mean().round(decimals=2)
        tensor(0.3000)
        """
        classes = tuple(composition)
        fractions = torch.tensor(list(composition.values()), dtype=torch.float32)
        if len(classes) < 2 or (fractions <= 0).any() or abs(fractions.sum() - 1) > 1e-4:
            raise ValueError(f"composition={dict(composition)}; give two or more positive fractions that sum to 1")
        if set(sizes_in_microns) != set(classes[1:]):
            raise ValueError(f"sizes_in_microns={dict(sizes_in_microns)}; give a size of each of {classes[1:]}")
        if not microns_per_pixel > 0:
            raise ValueError(f"microns_per_pixel={microns_per_pixel}; it must be greater than 0")
        profiles = []
        for k, name in enumerate(classes[1:], start=1):
            pixels = sizes_in_microns[name] / microns_per_pixel
            if not 3 <= pixels <= image_size:
                raise ValueError(
                    f"sizes_in_microns: {name}={sizes_in_microns[name]} µm is {pixels:.3g} px; "
                    f"pieces must be 3 to {image_size} px large at {microns_per_pixel} µm per pixel"
                )
            profiles.append(torch.from_numpy(covariance_for_size(pixels, fractions[k:].sum().item())))
        profiles = torch.nn.utils.rnn.pad_sequence(profiles, batch_first=True)[None]
        size = (image_size, image_size)
        return cls(
            classes,
            fractions=fractions[None],
            order=range(len(classes)),
            profiles=profiles,
            size=size,
            step=grid_step(profiles, size),
            folds=[math.inf] * (len(classes) - 1),
            couplings=[COUPLING] * (len(classes) - 2),
            smoothing=0.0,
        )

    def _draw(self, generator: torch.Generator, wish: Float[Tensor, " classes"] | None) -> UInt8[Tensor, "h w"]:
        row = int(torch.randint(len(self.fractions), (), generator=generator))
        jitter = JITTER * torch.randn(len(self.classes), generator=generator) * (len(self.fractions) > 1)
        drawn = self.fractions[row] * jitter.exp()
        drawn = drawn / drawn.sum()
        fractions = drawn if wish is None else complete(wish, drawn, self.fractions.mean(0))
        n_pixels = math.prod(self.size)
        counts = pixel_counts(fractions, n_pixels)
        layout = np.full(n_pixels, self.order[0], dtype=np.uint8)
        within = np.arange(n_pixels)  # the pixels that the classes still to come share
        n_left = n_pixels
        field = None
        for k in range(1, len(self.classes)):
            n_left -= counts[self.order[k - 1]]
            if n_left == 0:
                break
            if n_left == len(within):  # the class before has nothing: no border to draw
                layout[within] = self.order[k]
                continue
            new = self._draw_field(row, k - 1, generator)
            alpha = self.couplings[k - 2] if k > 1 else 0.0
            field = new if field is None else alpha * field + math.sqrt(1 - alpha**2) * new
            within = within[np.argpartition(field[within], len(within) - n_left)[-n_left:]]
            layout[within] = self.order[k]
        return torch.from_numpy(layout).view(self.size)

    def _draw_field(self, row: int, cut: int, generator: torch.Generator) -> Float[np.ndarray, " pixels"]:
        """Draw a field with the covariance of one mask's cut, or of another mask's where this one has no border."""
        usable = (~self.profiles[:, cut, 0].isnan()).nonzero().flatten()
        if len(usable) == 0:
            names = [self.classes[k] for k in self.order]
            raise ValueError(f"composition: no mask shows a border between {names[: cut + 1]} and {names[cut + 1 :]}")
        if row not in usable:
            row = int(usable[torch.randint(len(usable), (), generator=generator)])
        if (row, cut) not in self._amplitudes:
            profile = self.profiles[row, cut].numpy()
            self._amplitudes[row, cut] = field_amplitude(profile, self.size, self.step, self.smoothing)
        return draw_field(self._amplitudes[row, cut], self.size, self.step, self.folds[cut], generator)

    def _with_fold(self, cut: int, fold: float, profiles: Float[Tensor, "n distances"]) -> RandomFieldPrior:
        """Make the prior whose field ``cut`` is folded at ``fold``, with the covariances that belong to it."""
        changed = self.profiles.clone()
        changed[:, cut] = profiles
        return self._changed(profiles=changed, folds=(*self.folds[:cut], fold, *self.folds[cut + 1 :]))

    def _with_coupling(self, cut: int, alpha: float) -> RandomFieldPrior:
        """Make the prior whose field ``cut`` is correlated by ``alpha`` with the one before."""
        return self._changed(couplings=(*self.couplings[: cut - 1], alpha, *self.couplings[cut:]))

    def _changed(self, **changes) -> RandomFieldPrior:
        tensors, settings = self._state()
        return type(self)(self.classes, **(tensors | settings | changes))

    def _state(self):
        names = ("order", "size", "step", "folds", "couplings", "smoothing")
        settings = {name: getattr(self, name) for name in names}
        return {"fractions": self.fractions, "profiles": self.profiles}, settings

    @classmethod
    def _restore(cls, classes, tensors, settings):
        return cls(classes, **tensors, **settings)


def _most_like(
    masks: UInt8[Tensor, "n h w"], priors: Sequence[RandomFieldPrior], measure: Callable[[Tensor], Tensor]
) -> RandomFieldPrior:
    """Choose the prior whose layouts measure most like the masks, the first of equals."""
    target = measure(masks)
    return min(priors, key=lambda prior: float((measure(prior.sample(N_TRIED, seed=0)) - target).abs().sum()))


def _chain(contact: Float[Tensor, "classes classes"], n_pieces: Sequence[float]) -> tuple[int, ...]:
    """Order classes so that neighbours touch most, beginning with the end that is in fewer pieces, the ground."""
    n = len(n_pieces)
    if n <= 7:
        best = max(itertools.permutations(range(n)), key=lambda p: sum(contact[a, b] for a, b in itertools.pairwise(p)))
    else:  # too many orders to try: always on to the class that touches most
        best = [int(np.argmin(n_pieces))]
        while len(best) < n:
            best.append(max(set(range(n)) - set(best), key=lambda k: contact[best[-1], k]))
    return tuple(best) if n_pieces[best[0]] <= n_pieces[best[-1]] else tuple(best[::-1])


def _ranks(layouts: UInt8[Tensor, "n h w"], order: Sequence[int]) -> UInt8[Tensor, "n h w"]:
    """Replace each class by its place in the chain."""
    return torch.tensor(order).argsort().byte()[layouts.long()]


def _count_pieces(regions: Bool[Tensor, "n h w"]) -> Float[Tensor, 2]:
    """Count the pieces of the regions, and of what is outside them, on average and without crumbs."""
    sides = (regions, ~regions)
    return torch.tensor([np.mean([(component_areas(region) > CRUMB).sum() for region in side]) for side in sides])


def _count_pieces_beyond(layouts: UInt8[Tensor, "n h w"], order: Sequence[int], cut: int) -> Float[Tensor, 2]:
    """Count the pieces on both sides of one cut of the chain."""
    return _count_pieces(_ranks(layouts, order) > cut)


def _border_length(layouts: UInt8[Tensor, "n h w"], n_classes: int) -> Float[Tensor, ""]:
    """Measure the border length per area of all classes together, on average over layouts, 1/px."""
    return torch.stack([perimeter_per_area(layouts == k).mean() for k in range(n_classes)]).sum()
