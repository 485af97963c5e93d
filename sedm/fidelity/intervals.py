"""Intervals of numbers that are no means over groups, such as the distance of two sets of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.95


def jackknife_groups(statistic: Callable[[Sequence[str]], float], groups: Sequence[str]) -> tuple[float, float, float]:
    """The statistic of all groups and its 95 % interval, from leaving out one group after another.

    A bootstrap would draw groups twice, and an image beside its own copy ruins what looks at pairs and nearest
    neighbours: it moves an unbiased kernel distance upwards and sets radii to 0. The interval is that of Student's t
    with one degree of freedom fewer than groups; it may reach beyond what the statistic can be. In simulated draws of
    12 groups it held the expected kernel distance, Fréchet distance, precision or recall in 95 to 100 %: rather too
    wide.

    Source: Tukey 1958, doi:10.1214/aoms/1177706647.

    Args:
        statistic: takes the groups that are kept.
        groups: distinct names. With fewer than three, or where the statistic is not finite, low and high are NaN.

    >>> values = {"a": 1.0, "b": 2.0, "c": 6.0}
    >>> [round(x, 2) for x in jackknife_groups(lambda kept: np.mean([values[name] for name in kept]), list(values))]
    [3.0, -3.57, 9.57]
    """
    from scipy.stats import t  # takes seconds to import

    value, n = float(statistic(groups)), len(groups)
    if n < 3 or not math.isfinite(value):
        return value, math.nan, math.nan
    left_out = np.array([statistic([*groups[:i], *groups[i + 1 :]]) for i in range(n)])
    error = math.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())
    margin = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return value, value - margin, value + margin
