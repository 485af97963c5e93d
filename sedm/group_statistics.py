"""Statistics over groups and repetitions: summaries, comparisons, intervals, and the correction for many tests.

The group (a patient, a species) is the unit: images of one patient are not independent. What one network, or one set
of images, says of groups is a `summarise_groups`; what methods say, which are trained anew with other annotations and
seeds, is an `estimate_crossed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

CONFIDENCE = 0.95
LEAST = 1e-6  # no p below it is told
N_RESAMPLES = 9999


def summarise_groups(scores: Mapping[str, float] | pd.Series, seed: int) -> dict[str, float | int | str]:
    """Summarise scores by their mean over groups, its 95 % interval, the spread between groups, and the worst group.

    The interval is a percentile bootstrap over groups; with few groups it is too narrow (it covers the truth in about
    87 % of draws of 8 groups, and in 93 % of 20).

    Args:
        scores: the score of each group; higher is better. Groups without a score (NaN) are left out.
        seed: of the bootstrap.

    Returns:
        ``mean, sd, tenth_percentile, worst, worst_group, n_groups, ci_low, ci_high``; ``sd`` has n−1 in the
        denominator. With a single group ``sd``, ``ci_low`` and ``ci_high`` are NaN.

    Raises:
        ValueError: no group has a score, or a group appears twice.

    >>> summary = summarise_groups({"case-a": 0.7, "case-b": 0.9, "case-c": 0.8}, seed=0)
    >>> round(summary["mean"], 2), round(summary["sd"], 2), summary["worst_group"]
    (0.8, 0.1, 'case-a')
    """
    values = _by_group(scores).dropna()
    if values.empty:
        raise ValueError("no group has a score; nothing to summarise")
    low, high = _bootstrap_mean(values.to_numpy(), seed)
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)),
        "tenth_percentile": float(values.quantile(0.1)),
        "worst": float(values.min()),
        "worst_group": str(values.idxmin()),
        "n_groups": len(values),
        "ci_low": low,
        "ci_high": high,
    }


class Estimate(NamedTuple):
    """A number with its 95 % interval; ``p`` is the level at which the interval would end at no difference."""

    value: float
    low: float
    high: float
    p: float


def estimate_crossed(
    scores: Float[np.ndarray, "arms cells groups"],
    statistic: Callable[[Float[np.ndarray, "arms c g"]], float] | None = None,
    null: float = 0.0,
) -> Estimate:
    """Estimate a statistic of scores that vary by chance in two ways: by the groups and by the cells.

    A *cell* is one repetition of the experiment: other annotated groups, or other seeds of the networks. All groups of
    a cell share its luck and all cells meet the same groups, so neither many groups nor many cells make up for few of
    the other. The delete-one jackknife of rows, of columns and of both makes the statistic a mean of C·G pseudo-values
    (Tukey 1958, doi:10.1214/aoms/1177706647), which for a mean are the scores themselves; of these a two-way analysis
    of variance without replication knows the mean squares M of cells, groups and rest. The half width h of the interval
    is that of a modified large sample (Graybill & Wang 1980, doi:10.1080/01621459.1980.10477565), t being Student's
    quantiles for C − 1 and G − 1 degrees of freedom:

        C·G·h² = max(t_c²·max(M_cells − M_rest, 0) + t_g²·M_groups,  t_c²·M_cells)

    Between arms that are alike it misses 0 in 1 to 5 % where there are two cells, and in 3 to 5 % from three on (README
    of ``figures``, ``values_calibration.json``); two cells can hardly find anything, six can find 0.02 of IoU.

    Args:
        scores: of one or several arms on the same cells and groups, without NaN.
        statistic: a smooth function of the scores of any number of cells and groups; the mean of the first arm when
            left out.
        null: the value that ``p`` is about.

    Returns:
        The value; the interval and ``p`` are NaN with fewer than two cells or two groups, or where the statistic is not
        finite.

    >>> cells = np.array([[0.02, 0.04, 0.03], [0.01, 0.05, 0.03], [0.03, 0.03, 0.06]])  # differences of three groups
    >>> [round(float(number), 3) for number in estimate_crossed(cells[None])]
    [0.033, 0.005, 0.062, 0.038]
    """
    from scipy.optimize import brentq
    from scipy.stats import t as student  # takes seconds to import

    value = float(scores[0].mean() if statistic is None else statistic(scores))
    n_cells, n_groups = scores.shape[1:]
    if min(n_cells, n_groups) < 2 or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan, math.nan)
    pseudo = scores[0] if statistic is None else _pseudo_values(scores, statistic, value)
    if not np.isfinite(pseudo).all():
        return Estimate(value, math.nan, math.nan, math.nan)
    of_cells, of_groups = pseudo.mean(axis=1, keepdims=True), pseudo.mean(axis=0, keepdims=True)
    rest = pseudo - of_cells - of_groups + pseudo.mean()
    m_cells, m_groups = n_groups * of_cells.var(ddof=1), n_cells * of_groups.var(ddof=1)
    m_rest = np.square(rest).sum() / ((n_cells - 1) * (n_groups - 1))

    def half_width(confidence: float) -> float:
        t_cells, t_groups = (student.ppf((1 + confidence) / 2, n - 1) for n in (n_cells, n_groups))
        both = t_cells**2 * max(m_cells - m_rest, 0) + t_groups**2 * m_groups
        return math.sqrt(max(both, t_cells**2 * m_cells) / pseudo.size)

    distance, margin = abs(value - null), half_width(CONFIDENCE)
    if distance == 0 or half_width(LEAST) >= distance:
        p = 1.0
    elif half_width(1 - LEAST) <= distance:
        p = LEAST
    else:
        p = 1 - brentq(lambda confidence: half_width(confidence) - distance, LEAST, 1 - LEAST)
    return Estimate(value, value - margin, value + margin, p)


def _pseudo_values(scores, statistic, value: float) -> Float[np.ndarray, "cells groups"]:
    n_cells, n_groups = scores.shape[1:]
    without_cell = [np.delete(scores, i, axis=1) for i in range(n_cells)]
    of_cells = np.array([statistic(rest) for rest in without_cell])
    of_groups = np.array([statistic(np.delete(scores, j, axis=2)) for j in range(n_groups)])
    of_both = np.array([[statistic(np.delete(rest, j, axis=2)) for j in range(n_groups)] for rest in without_cell])
    return (
        n_cells * n_groups * value
        - (n_cells - 1) * n_groups * of_cells[:, None]
        - n_cells * (n_groups - 1) * of_groups
        + (n_cells - 1) * (n_groups - 1) * of_both
    )


def compare_crossed(
    scores: Float[np.ndarray, "cells groups"], control: Float[np.ndarray, "cells groups"]
) -> dict[str, float | int]:
    """Compare scores with those of a control, on the same cells and groups (see `estimate_crossed`).

    Returns:
        ``mean_difference`` of score − control with ``ci_low, ci_high`` and ``p``; ``sd_ratio``, the deviation between
        groups over that of the control, each of the mean over cells (below 1: groups vary less), with ``sd_ratio_low,
        sd_ratio_high``, jackknifed on its logarithm; ``n_groups``, ``n_cells``.

    >>> control = np.array([[0.5, 0.7, 0.9], [0.5, 0.7, 0.9], [0.5, 0.7, 0.9]])
    >>> found = compare_crossed(control / 2 + np.array([[0.45], [0.46], [0.44]]), control)
    >>> [round(float(found[key]), 3) for key in ("mean_difference", "ci_low", "ci_high", "sd_ratio")]
    [0.1, -0.15, 0.35, 0.5]
    """
    difference = estimate_crossed((scores - control)[None])
    ratio = estimate_crossed(np.stack([scores, control]), _log_sd_ratio)
    return {
        "mean_difference": difference.value,
        "ci_low": difference.low,
        "ci_high": difference.high,
        "p": difference.p,
        "sd_ratio": math.exp(ratio.value),
        "sd_ratio_low": math.exp(ratio.low),
        "sd_ratio_high": math.exp(ratio.high),
        "n_groups": scores.shape[1],
        "n_cells": scores.shape[0],
    }


def _log_sd_ratio(scores: Float[np.ndarray, "2 cells groups"]) -> float:
    """Compute ln(SD between groups of the first / of the second), each of the mean over cells; NaN where one is 0."""
    ours, theirs = scores.mean(axis=1).std(axis=1, ddof=1) if scores.shape[2] > 1 else (math.nan, math.nan)
    return math.log(ours / theirs) if ours > 0 and theirs > 0 else math.nan


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct p values for testing all of them; one below α is then a finding of the whole family.

    Source: Holm 1979, doi:10.2307/4615733: the k-th smallest of m counts m − k + 1 times, and none less than
    a smaller one before it.

    >>> holm({"style": 0.01, "filter": 0.04, "jitter": 0.03})
    {'style': 0.03, 'filter': 0.06, 'jitter': 0.06}
    """
    adjusted = {}
    highest = 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.get)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def jackknife_groups(statistic: Callable[[Sequence[str]], float], groups: Sequence[str]) -> tuple[float, float, float]:
    """Give a statistic its 95 % interval by leaving out one group after another.

    It serves numbers that are no means over groups, such as the distance of two sets of images. A bootstrap would draw
    groups twice, and an image beside its own copy spoils what looks at pairs and nearest neighbours: it raises an
    unbiased kernel distance and sets radii to 0. The interval is that of Student's t with one degree of freedom fewer
    than groups; it may reach beyond the range of the statistic. In simulated draws of 12 groups it held the expected
    kernel distance, Fréchet distance, precision or recall in 95 to 100 %: rather too wide.

    Args:
        statistic: a function of the names of the groups that are kept.
        groups: distinct names.

    Returns:
        The statistic of all groups, and the ends of the interval; NaN with fewer than three groups, or where the
        statistic is not finite.

    Source: Tukey 1958, doi:10.1214/aoms/1177706647.

    >>> values = {"a": 1.0, "b": 2.0, "c": 6.0}
    >>> [round(x, 2) for x in jackknife_groups(lambda kept: np.mean([values[name] for name in kept]), list(values))]
    [3.0, -3.57, 9.57]
    """
    from scipy.stats import t  # takes seconds to import

    value = float(statistic(groups))
    n = len(groups)
    if n < 3 or not math.isfinite(value):
        return value, math.nan, math.nan
    left_out = np.array([statistic([*groups[:i], *groups[i + 1 :]]) for i in range(n)])
    error = math.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())
    margin = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return value, value - margin, value + margin


def _bootstrap_mean(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Find the percentile interval of the mean under resampling of ``values``; NaN for a single value."""
    from scipy.stats import bootstrap

    if len(values) < 2:
        return math.nan, math.nan
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _by_group(scores: Mapping[str, float] | pd.Series) -> pd.Series:
    """Make a series of numbers, and refuse a group that appears twice."""
    values = pd.Series(scores, dtype=float)
    if not values.index.is_unique:
        raise ValueError(f"group {values.index[values.index.duplicated()][0]!r} appears twice")
    return values
