"""What may be said about the mean, the spread and the differences of scores by group.

The group (a patient, a species) is the unit: images of one patient are not independent, so intervals and tests run
over groups.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

CONFIDENCE = 0.95
N_RESAMPLES = 9999


def summarise_groups(scores: Mapping[str, float] | pd.Series, seed: int) -> dict[str, float | int | str]:
    """The mean over groups with its 95 % interval, the spread between groups, and the worst groups.

    Keys: ``mean, sd, tenth_percentile, worst, worst_group, n_groups, ci_low, ci_high``. The interval is a
    percentile bootstrap over groups; with few groups it is too narrow (it covers the truth in about 87 % of
    draws of 8 groups, and in 93 % of 20). ``sd`` has n−1 in the denominator. Groups without a score (NaN) are
    left out. One group alone tells nothing about the spread: ``sd``, ``ci_low`` and ``ci_high`` are NaN.

    Args:
        scores: the score of each group; higher is better.
        seed: of the bootstrap.

    Raises:
        ValueError: no group has a score, or a group appears twice.

    >>> summary = summarise_groups({"case-a": 0.7, "case-b": 0.9, "case-c": 0.8}, seed=0)
    >>> round(summary["mean"], 2), round(summary["sd"], 2), summary["worst_group"]
    (0.8, 0.1, 'case-a')
    """
    values = _scored(scores)
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


def compare_groups(
    scores: Mapping[str, float] | pd.Series, control: Mapping[str, float] | pd.Series, seed: int
) -> dict[str, float | int]:
    """How ``scores`` differ from ``control`` on the same groups: the mean of score − control, how certain.

    Keys: ``mean_difference, ci_low, ci_high`` (paired percentile bootstrap over groups, 95 %), ``wilcoxon_p``
    (signed ranks, two-sided; 1 when nothing differs), ``sd_ratio, sd_ratio_low, sd_ratio_high`` (between-group
    SD of the scores over that of the control, and its interval from the same bootstrap: below 1 means that
    groups vary less) and ``n_groups``. Groups that lack a score (NaN) on either side are left out of
    everything. With one group, intervals and ratio are NaN.

    Raises:
        ValueError: the two sides do not hold the same groups, or share no scored one.

    >>> control = {"case-a": 0.5, "case-b": 0.7, "case-c": 0.9}
    >>> comparison = compare_groups({"case-a": 0.7, "case-b": 0.8, "case-c": 0.9}, control, seed=0)
    >>> round(comparison["mean_difference"], 2), round(comparison["sd_ratio"], 2)
    (0.1, 0.5)
    """
    from scipy.stats import wilcoxon

    both = pd.DataFrame({"score": _by_group(scores), "control": _by_group(control)})
    odd = sorted(set(_by_group(scores).index) ^ set(_by_group(control).index))
    if odd:
        raise ValueError(f"group {odd[0]!r} is on one side only; a paired comparison needs the same groups")
    both = both.dropna()
    if both.empty:
        raise ValueError("no group has a score on both sides; nothing to compare")
    differences = (both["score"] - both["control"]).to_numpy()
    low, high = _bootstrap_mean(differences, seed)
    spread = both.std(ddof=1)
    ratio_low, ratio_high = _bootstrap_sd_ratio(both.to_numpy(), seed)
    return {
        "mean_difference": float(differences.mean()),
        "ci_low": low,
        "ci_high": high,
        "wilcoxon_p": float(wilcoxon(differences).pvalue) if differences.any() else 1.0,
        "sd_ratio": float(spread["score"] / spread["control"]) if spread["control"] > 0 else float("nan"),
        "sd_ratio_low": ratio_low,
        "sd_ratio_high": ratio_high,
        "n_groups": len(both),
    }


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p values after Holm's correction for testing all of them; below α, a finding of the whole family.

    Source: Holm 1979, doi:10.2307/4615733: the k-th smallest of m counts m − k + 1 times, and none less than
    a smaller one before it.

    >>> holm({"style": 0.01, "filter": 0.04, "jitter": 0.03})
    {'style': 0.03, 'filter': 0.06, 'jitter': 0.06}
    """
    adjusted, highest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.get)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def _bootstrap_mean(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile interval of the mean under resampling of ``values``; NaN for a single value."""
    from scipy.stats import bootstrap

    if len(values) < 2:
        return float("nan"), float("nan")
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _bootstrap_sd_ratio(pairs: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile interval of SD(first) / SD(second) under resampling of the rows of (n, 2) ``pairs``.

    Resamples in which the second does not vary have no ratio and are left out; NaN where all have none.
    """
    rows = np.random.default_rng(seed).integers(len(pairs), size=(N_RESAMPLES, len(pairs)))
    first, second = pairs[rows].std(axis=1).T
    ratios = first[second > 1e-12] / second[second > 1e-12]
    return (
        tuple(np.percentile(ratios, 50 + 50 * np.array([-CONFIDENCE, CONFIDENCE])).tolist())
        if len(ratios)
        else (np.nan, np.nan)
    )


def _by_group(scores: Mapping[str, float] | pd.Series) -> pd.Series:
    values = pd.Series(scores, dtype=float)
    if not values.index.is_unique:
        raise ValueError(f"group {values.index[values.index.duplicated()][0]!r} appears twice")
    return values


def _scored(scores: Mapping[str, float] | pd.Series) -> pd.Series:
    values = _by_group(scores).dropna()
    if values.empty:
        raise ValueError("no group has a score; nothing to summarise")
    return values
