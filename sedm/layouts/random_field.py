r"""The random-field prior: correlated Gaussian fields, cut so that every class covers exactly what is wanted.

Classes form a chain, such as stroma – epithelium – lumen, in which neighbours touch. A first field separates the first
class from the others where it is lowest, a second field the second class within what is left, and so on. Consecutive
fields are correlated, :math:`f_k = \alpha f_{k-1} + \sqrt{1 - \alpha^2}\, g_k`, so that what comes later in the chain
lies deep inside what comes earlier: lumen in epithelium, not beside stroma.

A field may be folded, :math:`|g + s|` in place of g: where g changes its sign runs a wall that no piece crosses, so
that pieces stay apart in a connected ground, as glands do in stroma. (The pieces and the ground of an unfolded field
look alike.)

The covariance of each field is the one that gives the cut region the two-point correlation of a mask: the chance that
two points both lie above the level is a bivariate normal integral of the covariance between them, which is inverted
distance by distance (``level_cut_covariance``).

Source: level-cut Gaussian fields, Quiblier 1984 (J. Colloid Interface Sci. 98), Berk 1991 (Phys. Rev. A 44); nested
cuts, the truncated plurigaussian model, Armstrong et al. 2011 (Plurigaussian Simulations in Geosciences).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import fft
from scipy.interpolate import CubicSpline
from scipy.special import j0
from scipy.stats import foldnorm, norm
from torch import Tensor

from sedm.data.label_maps import class_fractions
from sedm.layouts.morphology import CRUMB, component_areas, contacts, perimeter_per_area, two_point_correlation
from sedm.layouts.prior import LayoutPrior, complete, complete_masks, pixel_counts

GRID = 64  # px, fields are made on a grid about this large and interpolated, where structures are coarse enough
COUPLINGS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)  # α, tried in fitting
FOLDS = (math.inf, 1.0, 0.5, 0.25, 0.0)  # s, tried in fitting; infinite = not folded
SMOOTHINGS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)  # px of the grid, tried in fitting
N_TRIED = 48  # layouts a trial
JITTER = 0.1  # standard deviation of the logarithm of a drawn class fraction around a mask's


class RandomFieldPrior(LayoutPrior):
    """Layouts from correlated Gaussian fields; fitted to masks, or described in words and micrometres.

    Each layout takes its spectra (the size and spacing of structures) and, unless wished otherwise, its composition
    from one mask drawn at random, and nothing else: phases are random, so no mask can be recognised.

    >>> masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    >>> masks[:, 8:20, 8:20] = 1
    >>> prior = RandomFieldPrior.fit(masks, ("stroma", "tumour"))
    >>> (prior.sample(2, {"tumour": 0.25}, seed=0) == 1).float().mean((1, 2))
    tensor([0.2500, 0.2500])
    """

    kind = "random_field"

    def __init__(self, classes, fractions, order, profiles, size, step, folds, couplings, smoothing):
        super().__init__(classes, fractions)
        self.order = tuple(order)  # the chain of classes
        self.profiles = profiles  # (n, K − 1, r): covariance of each field at 0, 1, 2… px; NaN where there is no region
        self._size = tuple(size)
        self.step = step  # px of the layout in one of the grid that fields are made on
        self.folds = tuple(folds)  # s of each field, K − 1
        self.couplings = tuple(couplings)  # α between consecutive fields, K − 2
        self.smoothing = smoothing  # px of the grid, standard deviation
        self._amplitudes: dict[tuple[int, int], Tensor] = {}

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @classmethod
    def fit(cls, masks: UInt8[Tensor, "n h w"], classes: Sequence[str]) -> RandomFieldPrior:
        """The prior with the spectra and compositions of these masks.

        Args:
            masks: (n, h, w), uint8, class indices 0…K−1; those with unannotated pixels (255) are left out.
            classes: names of the indices.

        Raises:
            ValueError: no fully annotated mask, fewer than two classes, or a mask with a pixel outside them.

        >>> masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
        >>> masks[:, 8:20, 8:20] = 1
        >>> RandomFieldPrior.fit(masks, ("stroma", "tumour")).order
        (0, 1)
        """
        masks = complete_masks(masks, len(classes))
        if len(classes) < 2:
            raise ValueError(f"classes={tuple(classes)}; a random field needs at least two to separate")
        fractions = class_fractions(masks, len(classes))
        n_pieces = [_n_pieces(masks == k)[0].item() for k in range(len(classes))]
        order = _chain(contacts(masks, len(classes)), n_pieces)
        rank = torch.empty(len(classes), dtype=torch.uint8)
        rank[list(order)] = torch.arange(len(classes), dtype=torch.uint8)
        ranks = rank[masks.long()]
        size, n_cuts = masks.shape[1:], len(classes) - 1
        curves = [two_point_correlation(ranks > k) for k in range(n_cuts)]
        profiles = {fold: torch.stack([_covariances(*curve, fold) for curve in curves], dim=1) for fold in FOLDS}
        step = _grid_step(profiles[math.inf], size)
        folds, couplings = [math.inf] * n_cuts, [0.9] * (n_cuts - 1)
        prior = cls(classes, fractions, order, profiles[math.inf], size, step, folds, couplings, 1.5)
        prior._tune(masks, ranks, profiles)
        return prior

    @classmethod
    def describe(
        cls,
        composition: Mapping[str, float],
        sizes_in_microns: Mapping[str, float],
        *,
        image_size: int,
        microns_per_pixel: float,
    ) -> RandomFieldPrior:
        """A prior from words alone: no mask is needed.

        Args:
            composition: every class with its fraction, in the order of their indices; the first is the ground, and each
                other lies within those before it as lumen lies within a gland.
            sizes_in_microns: for each class but the first, how large its pieces (with all that lies in them) are: the
                diameter in µm of a disc with the same mean chord.
            image_size: px a side.
            microns_per_pixel: size of a pixel, µm.

        Raises:
            ValueError: fractions that do not sum to 1, a class without a size, or pieces that are smaller than 3 pixels
                or larger than the picture.

        Source: the mean chord follows from the border length of a level set, √β/2 · exp(−u²/2) per area for a
        Gaussian field with gradient variance β cut at u (Rice's formula in the plane; Adler, The Geometry of Random
        Fields, 1981).

        >>> prior = RandomFieldPrior.describe({"stroma": 0.7, "tumour": 0.3}, {"tumour": 30.0},
        ...                                   image_size=64, microns_per_pixel=2.0)
        >>> (prior.sample(1, seed=0) == 1).float().mean().round(decimals=2)
        tensor(0.3000)
        """
        classes, fractions = tuple(composition), torch.tensor(list(composition.values()), dtype=torch.float32)
        if len(classes) < 2 or (fractions <= 0).any() or abs(fractions.sum() - 1) > 1e-4:
            raise ValueError(f"composition={dict(composition)}; give two or more positive fractions that sum to 1")
        if set(sizes_in_microns) != set(classes[1:]):
            raise ValueError(f"sizes_in_microns={dict(sizes_in_microns)}; give a size of each of {classes[1:]}")
        profiles = []
        for k, name in enumerate(classes[1:], start=1):
            size = sizes_in_microns[name] / microns_per_pixel
            if not 3 <= size <= image_size:
                raise ValueError(
                    f"sizes_in_microns: {name}={sizes_in_microns[name]} µm is {size:.3g} px; "
                    f"pieces must be 3 to {image_size} px large at {microns_per_pixel} µm per pixel"
                )
            profiles.append(_covariance_for_size(size, fractions[k:].sum().item()))
        longest = max(map(len, profiles))
        profiles = torch.stack([torch.from_numpy(np.pad(one, (0, longest - len(one)))) for one in profiles])[None]
        n_cuts, size = len(classes) - 1, (image_size, image_size)
        folds, couplings = [math.inf] * n_cuts, [0.9] * (n_cuts - 1)
        step = _grid_step(profiles, size)
        return cls(classes, fractions[None], range(len(classes)), profiles, size, step, folds, couplings, 0.0)

    def _draw(self, generator: torch.Generator, wish: Float[Tensor, " classes"] | None) -> UInt8[Tensor, "h w"]:
        row = int(torch.randint(len(self.fractions), (), generator=generator))
        jitter = JITTER * torch.randn(len(self.classes), generator=generator) * (len(self.fractions) > 1)
        drawn = self.fractions[row] * jitter.exp()
        drawn = drawn / drawn.sum()
        fractions = drawn if wish is None else complete(wish, drawn, self.fractions.mean(0))
        n_pixels = math.prod(self.size)
        counts = pixel_counts(fractions, n_pixels)
        layout = np.full(n_pixels, self.order[0], dtype=np.uint8)
        within, left, field = np.arange(n_pixels), n_pixels, None  # pixels that the classes still to come share
        for k in range(1, len(self.classes)):
            left -= counts[self.order[k - 1]]
            if left == 0:
                break
            if left == len(within):  # the class before has nothing: no border to draw
                layout[within] = self.order[k]
                continue
            new = self._field(row, k - 1, generator)
            alpha = self.couplings[k - 2] if k > 1 else 0.0
            field = new if field is None else alpha * field + math.sqrt(1 - alpha**2) * new
            within = within[np.argpartition(field[within], len(within) - left)[-left:]]
            layout[within] = self.order[k]
        return torch.from_numpy(layout).view(self.size)

    def _field(self, row: int, cut: int, generator: torch.Generator) -> Float[np.ndarray, " pixels"]:
        """A Gaussian field of mean 0 and variance 1 with the covariance of one mask's cut."""
        usable = (~self.profiles[:, cut, 0].isnan()).nonzero().flatten()
        if len(usable) == 0:
            names = [self.classes[k] for k in self.order]
            raise ValueError(f"composition: no mask shows a border between {names[: cut + 1]} and {names[cut + 1 :]}")
        if row not in usable:
            row = int(usable[torch.randint(len(usable), (), generator=generator)])
        if (row, cut) not in self._amplitudes:
            self._amplitudes[row, cut] = self._amplitude(self.profiles[row, cut].numpy())
        amplitude = self._amplitudes[row, cut]
        torus = (amplitude.shape[0], 2 * (amplitude.shape[1] - 1))
        white = torch.fft.rfft2(torch.randn(torus, generator=generator))
        rows, columns = self._grid
        field = torch.fft.irfft2(white * amplitude, torus)[:rows, :columns]
        if self.step > 1:
            rows, columns = (_interpolation(n, self.step) for n in self.size)
            field = rows @ field @ columns.T
        field, fold = field.flatten().numpy(), self.folds[cut]
        if fold == math.inf:
            return field
        mean = fold * math.erf(fold / math.sqrt(2)) + math.sqrt(2 / math.pi) * math.exp(-(fold**2) / 2)
        return (np.abs(field + fold) - mean) / math.sqrt(1 + fold**2 - mean**2)

    @property
    def _grid(self) -> tuple[int, int]:
        return tuple(-(-n // self.step) for n in self.size)

    def _amplitude(self, profile: np.ndarray) -> Float[Tensor, "rows columns"]:
        """What white noise is multiplied with, in the Fourier domain of a torus on which no point meets itself."""
        reach = len(profile) / self.step
        torus = [2 * fft.next_fast_len(math.ceil((n + reach) / 2), real=True) for n in self._grid]
        y, x = (np.fft.fftfreq(n, 1 / n) for n in torus)
        distance = np.hypot(y[:, None], x) * self.step
        # level at the origin: a kink there, as of linear interpolation, would roughen every border
        spline = CubicSpline(np.arange(len(profile)), profile, bc_type=((1, 0.0), (1, 0.0)))
        covariance = np.where(distance < len(profile) - 1, spline(distance), 0.0)
        power = np.clip(fft.rfft2(covariance).real, 0, None)  # an estimate, cut off, has some negative power
        ky, kx = np.fft.fftfreq(torus[0]), np.fft.rfftfreq(torus[1])
        power *= np.exp(-((2 * np.pi * self.smoothing) ** 2) * (ky[:, None] ** 2 + kx**2))
        power /= fft.irfft2(power, torus)[0, 0]
        return torch.from_numpy(np.sqrt(power)).float()

    def _tune(self, masks, ranks, profiles: dict[float, Tensor]) -> None:
        """Sets, one after another, what makes samples most like the masks.

        The fold of each field by the number of pieces on both sides of its cut, the couplings by which classes touch,
        the smoothing by the length of borders.
        """
        rank = torch.tensor(self.order).argsort()

        def gap(measure, wanted, **setting):
            for name, value in setting.items():
                setattr(self, name, value)
            self._amplitudes.clear()
            return float((measure(self.sample(N_TRIED, seed=0)) - wanted).abs().sum())

        def best(measure, wanted, trials):
            setting = min(trials, key=lambda trial: gap(measure, wanted, **trial))
            gap(measure, wanted, **setting)

        n_classes = len(self.classes)
        for cut in range(n_classes - 1):
            trials = []
            for fold in FOLDS:
                changed = self.profiles.clone()
                changed[:, cut] = profiles[fold][:, cut]
                trials.append({"profiles": changed, "folds": (*self.folds[:cut], fold, *self.folds[cut + 1 :])})
            best(lambda maps, cut=cut: _n_pieces(rank[maps.long()] > cut), _n_pieces(ranks > cut), trials)
            if cut > 0:
                before, after = self.couplings[: cut - 1], self.couplings[cut:]
                touching = contacts(masks, n_classes)
                trials = [{"couplings": (*before, alpha, *after)} for alpha in COUPLINGS]
                best(lambda maps: contacts(maps, n_classes), touching, trials)
        trials = [{"smoothing": smoothing} for smoothing in SMOOTHINGS]
        best(lambda maps: _border_length(maps, n_classes), _border_length(masks, n_classes), trials)

    def _state(self):
        settings = {
            "order": self.order,
            "size": self.size,
            "step": self.step,
            "folds": self.folds,
            "couplings": self.couplings,
            "smoothing": self.smoothing,
        }
        return {"fractions": self.fractions, "profiles": self.profiles}, settings

    @classmethod
    def _restore(cls, classes, tensors, settings):
        return cls(classes, **tensors, **settings)


def _chain(contact: Float[Tensor, "classes classes"], n_pieces: Sequence[float]) -> tuple[int, ...]:
    """The order of classes in which neighbours touch most; begins with the end that is in fewer pieces, the ground."""
    n = len(n_pieces)
    if n <= 7:
        best = max(itertools.permutations(range(n)), key=lambda p: sum(contact[a, b] for a, b in itertools.pairwise(p)))
    else:  # too many orders to try: always on to the class that touches most
        best = [int(np.argmin(n_pieces))]
        while len(best) < n:
            best.append(max(set(range(n)) - set(best), key=lambda k: contact[best[-1], k]))
    return tuple(best) if n_pieces[best[0]] <= n_pieces[best[-1]] else tuple(best[::-1])


def _border_length(layouts: UInt8[Tensor, "n h w"], n_classes: int) -> Float[Tensor, ""]:
    return torch.stack([perimeter_per_area(layouts == k).mean() for k in range(n_classes)]).sum()


def _n_pieces(regions: Bool[Tensor, "n h w"]) -> Float[Tensor, 2]:
    """Mean number of pieces of the regions and of what is outside them, crumbs not counted."""
    sides = (regions, ~regions)
    return torch.tensor([np.mean([(component_areas(one) > CRUMB).sum() for one in side]) for side in sides])


def _covariances(distances, chances, fold: float) -> Float[Tensor, "n distances"]:
    """Covariance at 0, 1, 2… px of the Gaussian field whose cut has each region's two-point correlation.

    NaN where the region is empty or everything. Tapers to 0 between a quarter and three quarters of the shorter side.
    """
    profiles = np.full(chances.shape, np.nan)
    at = np.arange(chances.shape[1])
    for row, chance in enumerate(chances):
        if 1e-4 < chance[0] < 1 - 1e-4:
            profiles[row] = np.interp(at, distances, level_cut_covariance(chance, chance[0], fold)) * _taper(at)
            profiles[row, 0] = 1
    return torch.from_numpy(profiles.astype(np.float32))


def level_cut_covariance(
    chances: Float[np.ndarray, " distances"], fraction: float, fold: float = math.inf
) -> Float[np.ndarray, " distances"]:
    r"""Covariance ρ of a Gaussian field such that two points both lie in its highest ``fraction`` with these chances.

    The chance :math:`S_2` is the fraction itself at ρ = 1, and falls with ρ by the density of the bivariate normal at
    the edges :math:`e_i` of the highest part, with sign + where it begins and − where it ends:
    :math:`dS_2 / d\rho = \sum_{ij} \pm \phi_2(e_i, e_j; \rho)`. Of an unfolded field that part is all above one level;
    of a folded one, :math:`|g + s|`, it is all outside two. A folded field cannot have a chance below the fraction
    squared: there ρ is 0.

    Args:
        chances: S₂ at some distances, each 0 to ``fraction``.
        fraction: area share of the region, in (0, 1).
        fold: s, or infinity for an unfolded field.

    Source: Berk 1991, equation 12, for an unfolded field; at fraction 1/2 it is the arcsine law
    S₂ = 1/4 + arcsin(ρ)/2π. Folded at 0, two-level cuts as in the same paper, section III.

    >>> level_cut_covariance(np.array([0.5, 0.25 + np.arcsin(0.3) / (2 * np.pi), 0.25]), 0.5).round(3).tolist()
    [1.0, 0.3, -0.0]
    """
    if fold == math.inf:
        edges, signs, lowest = [norm.isf(fraction)], [1], -np.pi / 2 + 1e-6
    else:
        level = foldnorm.isf(fraction, fold)
        edges, signs, lowest = [level - fold, -level - fold], [1, -1], 0.0
    angle = np.linspace(lowest, np.pi / 2 - 1e-6, 4001)
    density = sum(
        sign_a * sign_b * np.exp(-(a**2 + b**2 - 2 * a * b * np.sin(angle)) / (2 * np.cos(angle) ** 2))
        for (a, sign_a), (b, sign_b) in itertools.product(zip(edges, signs, strict=True), repeat=2)
    ) / (2 * np.pi)
    steps = (density[1:] + density[:-1]) / 2 * np.diff(angle)
    chance = fraction - np.concatenate([[0], np.cumsum(steps[::-1])])[::-1]
    return np.interp(chances, chance, np.sin(angle))


def _covariance_for_size(size: float, fraction: float) -> Float[np.ndarray, " distances"]:
    """Covariance at 0, 1, 2… px of a field whose highest ``fraction`` has pieces of this size (px)."""
    gradient = (8 * fraction / size * math.exp(norm.isf(fraction) ** 2 / 2)) ** 2  # β, 1/px²
    width = 0.3  # of the spectrum's ring, in units of its radius: how unequal the pieces are
    k = np.linspace(1e-3, 3, 2000)
    weight = k * np.exp(-((k - 1) ** 2) / (2 * width**2))
    radius = math.sqrt(gradient / ((weight * k**2).sum() / weight.sum() / 2))
    at = np.arange(math.ceil(3 / (width * radius)) + 4)
    return (j0(radius * at[:, None] * k) @ weight / weight.sum() * _taper(at)).astype(np.float32)


def _grid_step(profiles: Float[Tensor, "n cuts distances"], size: Sequence[int]) -> int:
    """Pixels a step of a grid of about `GRID` points a side, or fewer where structures are too fine for it."""
    step = max(1, min(size) // GRID)
    while step > 1 and profiles[:, :, 2 * step].nanmedian(0).values.nan_to_num(1.0).min() < 0.4:
        step //= 2
    return step


@lru_cache
def _interpolation(n: int, step: int) -> Float[Tensor, "pixels grid"]:
    """Matrix of cubic interpolation from a grid of every ``step``-th point to ``n`` pixels (Keys 1981, a = −1/2)."""
    n_grid = -(-n // step)
    at = ((torch.arange(n) + 0.5) / step - 0.5).clamp(0, n_grid - 1)
    d = (at[:, None] - torch.arange(n_grid)).abs()
    weights = torch.where(
        d < 1, 1.5 * d**3 - 2.5 * d**2 + 1, torch.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0.0)
    )
    return weights / weights.sum(1, keepdim=True)


def _taper(at: np.ndarray) -> np.ndarray:
    """1 at the start, smoothly to 0 at the end; flat in its first third, so that it changes no border."""
    t = np.clip(1.5 * at / len(at) - 0.5, 0, 1)
    return 0.5 * (1 + np.cos(np.pi * t))
