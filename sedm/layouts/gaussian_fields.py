r"""Gaussian random fields: which covariance gives a cut its two-point correlation, and how a field is drawn.

The highest part of a Gaussian field, cut at a level, is a region. The chance that two points both lie in it is a
bivariate normal integral of the covariance between them, which is inverted distance by distance.

A field may be folded, :math:`|g + s|` in place of g: where g changes its sign runs a wall that no piece crosses, so
that pieces stay apart in a connected ground, as glands do in stroma. (The pieces and the ground of an unfolded field
look alike.)

Source: level-cut Gaussian fields, Quiblier 1984 (J. Colloid Interface Sci. 98), Berk 1991 (Phys. Rev. A 44).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy import fft
from scipy.interpolate import CubicSpline
from scipy.special import j0
from scipy.stats import foldnorm, norm
from torch import Tensor

GRID = 64  # px, fields are made on a grid about this large and interpolated, where structures are coarse enough


def level_cut_covariance(
    chances: Float[np.ndarray, " distances"], fraction: float, fold: float = math.inf
) -> Float[np.ndarray, " distances"]:
    r"""Find the covariance ρ with which two points both lie in the highest ``fraction`` of a field with these chances.

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
        edges, signs = [norm.isf(fraction)], [1]
        lowest = -np.pi / 2 + 1e-6
    else:
        level = foldnorm.isf(fraction, fold)
        edges, signs = [level - fold, -level - fold], [1, -1]
        lowest = 0.0
    angle = np.linspace(lowest, np.pi / 2 - 1e-6, 4001)
    density = sum(
        sign_a * sign_b * np.exp(-(a**2 + b**2 - 2 * a * b * np.sin(angle)) / (2 * np.cos(angle) ** 2))
        for (a, sign_a), (b, sign_b) in itertools.product(zip(edges, signs, strict=True), repeat=2)
    ) / (2 * np.pi)
    steps = (density[1:] + density[:-1]) / 2 * np.diff(angle)
    chance = fraction - np.concatenate([[0], np.cumsum(steps[::-1])])[::-1]
    return np.interp(chances, chance, np.sin(angle))


def covariances_of_regions(
    distances: Float[np.ndarray, " distances"], chances: Float[np.ndarray, "n distances"], fold: float
) -> Float[Tensor, "n distances"]:
    """Find the covariances at 0, 1, 2… px of the fields whose cuts have the two-point correlations of some regions.

    Args:
        distances: px, as `sedm.layouts.morphology.two_point_correlation` returns them.
        chances: of each region, from the same function.
        fold: s, or infinity for an unfolded field.

    Returns:
        One row a region, NaN where it is empty or everything; it tapers to 0 between a quarter and three quarters of
        the shorter side.
    """
    profiles = np.full(chances.shape, np.nan)
    at = np.arange(chances.shape[1])
    for row, chance in enumerate(chances):
        if 1e-4 < chance[0] < 1 - 1e-4:
            profiles[row] = np.interp(at, distances, level_cut_covariance(chance, chance[0], fold)) * _taper(at)
            profiles[row, 0] = 1
    return torch.from_numpy(profiles.astype(np.float32))


def covariance_for_size(size: float, fraction: float) -> Float[np.ndarray, " distances"]:
    """Find the covariance at 0, 1, 2… px of a field whose highest ``fraction`` has pieces of ``size`` px.

    The size is the diameter of a disc with the same mean chord.

    Source: the mean chord follows from the border length of a level set, √β/2 · exp(−u²/2) per area for a Gaussian
    field with gradient variance β cut at u (Rice's formula in the plane; Adler, The Geometry of Random Fields, 1981).
    """
    gradient = (8 * fraction / size * math.exp(norm.isf(fraction) ** 2 / 2)) ** 2  # β, 1/px²
    width = 0.3  # of the spectrum's ring, in units of its radius: how unequal the pieces are
    k = np.linspace(1e-3, 3, 2000)
    weight = k * np.exp(-((k - 1) ** 2) / (2 * width**2))
    radius = math.sqrt(gradient / ((weight * k**2).sum() / weight.sum() / 2))
    at = np.arange(math.ceil(3 / (width * radius)) + 4)
    return (j0(radius * at[:, None] * k) @ weight / weight.sum() * _taper(at)).astype(np.float32)


def grid_step(profiles: Float[Tensor, "n cuts distances"], size: Sequence[int]) -> int:
    """Choose how many pixels lie between points of a grid of about `GRID` a side; fewer for fine structures."""
    step = max(1, min(size) // GRID)
    while step > 1 and profiles[:, :, 2 * step].nanmedian(0).values.nan_to_num(1.0).min() < 0.4:
        step //= 2
    return step


def field_amplitude(
    profile: Float[np.ndarray, " distances"], size: Sequence[int], step: int, smoothing: float
) -> Float[Tensor, "rows columns"]:
    """Compute what white noise is multiplied with, in the Fourier domain of a torus on which no point meets itself.

    Args:
        profile: covariance at 0, 1, 2… px.
        size: height and width, px.
        step: px between points of the grid.
        smoothing: standard deviation in points of the grid.
    """
    reach = len(profile) / step
    torus = [2 * fft.next_fast_len(math.ceil((n + reach) / 2), real=True) for n in _grid(size, step)]
    y, x = (np.fft.fftfreq(n, 1 / n) for n in torus)
    distance = np.hypot(y[:, None], x) * step
    # level at the origin: a kink there, as of linear interpolation, would roughen every border
    spline = CubicSpline(np.arange(len(profile)), profile, bc_type=((1, 0.0), (1, 0.0)))
    covariance = np.where(distance < len(profile) - 1, spline(distance), 0.0)
    power = np.clip(fft.rfft2(covariance).real, 0, None)  # an estimate, cut off, has some negative power
    ky, kx = np.fft.fftfreq(torus[0]), np.fft.rfftfreq(torus[1])
    power *= np.exp(-((2 * np.pi * smoothing) ** 2) * (ky[:, None] ** 2 + kx**2))
    power /= fft.irfft2(power, torus)[0, 0]
    return torch.from_numpy(np.sqrt(power)).float()


def draw_field(
    amplitude: Float[Tensor, "rows columns"], size: Sequence[int], step: int, fold: float, generator: torch.Generator
) -> Float[np.ndarray, " pixels"]:
    """Draw a field of mean 0 and variance 1.

    Args:
        amplitude: as `field_amplitude` returns it for the same size and step.
        fold: s, or infinity for an unfolded field.
    """
    torus = (amplitude.shape[0], 2 * (amplitude.shape[1] - 1))
    white = torch.fft.rfft2(torch.randn(torus, generator=generator))
    rows, columns = _grid(size, step)
    field = torch.fft.irfft2(white * amplitude, torus)[:rows, :columns]
    if step > 1:
        rows, columns = (_interpolation(n, step) for n in size)
        field = rows @ field @ columns.T
    field = field.flatten().numpy()
    if fold == math.inf:
        return field
    mean = fold * math.erf(fold / math.sqrt(2)) + math.sqrt(2 / math.pi) * math.exp(-(fold**2) / 2)
    return (np.abs(field + fold) - mean) / math.sqrt(1 + fold**2 - mean**2)


def _grid(size: Sequence[int], step: int) -> tuple[int, int]:
    """Count the points of the grid along height and width."""
    return tuple(-(-n // step) for n in size)


@lru_cache
def _interpolation(n: int, step: int) -> Float[Tensor, "pixels grid"]:
    """Make the matrix of cubic interpolation from every ``step``-th point to ``n`` pixels (Keys 1981, a = −1/2)."""
    n_grid = -(-n // step)
    at = ((torch.arange(n) + 0.5) / step - 0.5).clamp(0, n_grid - 1)
    d = (at[:, None] - torch.arange(n_grid)).abs()
    weights = torch.where(
        d < 1, 1.5 * d**3 - 2.5 * d**2 + 1, torch.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0.0)
    )
    return weights / weights.sum(1, keepdim=True)


def _taper(at: np.ndarray) -> np.ndarray:
    """Fall from 1 at the start smoothly to 0 at the end; flat in the first third, so that no border changes."""
    t = np.clip(1.5 * at / len(at) - 0.5, 0, 1)
    return 0.5 * (1 + np.cos(np.pi * t))
