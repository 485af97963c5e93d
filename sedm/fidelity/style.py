"""How far generated images have the colours of the group that lent their style, and how much colours vary."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

STATISTICS = ("mean_l", "mean_a", "mean_b", "sd_l", "sd_a", "sd_b")


def colour_statistics(images: UInt8[Tensor, "n 3 h w"]) -> Float[np.ndarray, "n 6"]:
    """Mean and standard deviation of L*, a*, b* (CIE 1976, D65) of each image, columns as in ``STATISTICS``.

    >>> colour_statistics(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)).round().__abs__().tolist()
    [[100.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    from kornia.color import rgb_to_lab

    chunks = [rgb_to_lab(chunk.float() / 255).flatten(2) for chunk in images.split(256)]
    return torch.cat([torch.cat([lab.mean(2), lab.std(2)], dim=1) for lab in chunks]).numpy()


def retrieve_groups(
    queries: Float[np.ndarray, "n d"],
    query_groups: list[str],
    references: Float[np.ndarray, "m d"],
    reference_groups: list[str],
) -> pd.DataFrame:
    """Rank groups by each query: its ``group``, the ``distance`` to that group's mean, and its ``rank`` among all.

    Each column is divided by its standard deviation over the references first. Rank 1 means: the query looks more
    like its own group than like any other.

    Raises:
        ValueError: a query whose group has no reference.

    >>> references = np.array([[0.0], [1.0], [10.0], [11.0]])
    >>> retrieve_groups(np.array([[0.4], [2.0]]), ["a", "b"], references, list("aabb"))["rank"].tolist()
    [1, 2]
    """
    names = sorted(set(reference_groups))
    missing = sorted(set(query_groups) - set(names))
    if missing:
        raise ValueError(f"no reference images of group {missing[0]!r}")
    scale = references.std(0) + 1e-12
    members = np.array(reference_groups)
    centres = np.stack([references[members == name].mean(0) for name in names]) / scale
    distances = np.linalg.norm(queries[:, None] / scale - centres[None], axis=2)
    own = distances[np.arange(len(queries)), [names.index(group) for group in query_groups]]
    ranks = 1 + (distances < own[:, None]).sum(1)
    return pd.DataFrame({"group": query_groups, "distance": own, "rank": ranks, "n_groups": len(names)})


def retrieve_one_left_out(values: Float[np.ndarray, "n d"], groups: list[str]) -> pd.DataFrame:
    """Retrieve groups as ``retrieve_groups`` does, of the rows among themselves, each left out of its group's mean.

    Rows that are alone in their group have nothing to be retrieved by, and are left out of the table.

    >>> retrieve_one_left_out(np.array([[0.0], [1.0], [9.0], [10.0]]), list("aabb"))["rank"].tolist()
    [1, 1, 1, 1]
    """
    members = np.array(groups)
    tables = [
        retrieve_groups(values[[row]], [groups[row]], np.delete(values, row, 0), [*groups[:row], *groups[row + 1 :]])
        for row in range(len(groups))
        if (members == groups[row]).sum() > 1
    ]
    return pd.concat(tables, ignore_index=True)


def split_halves(groups: list[str], seed: int) -> tuple[list[int], list[int]]:
    """Split the rows of each group half and half into two lists, at random; leave out groups of one.

    >>> first, second = split_halves(list("aaab"), seed=0)
    >>> len(first), len(second), set(first) & set(second)
    (1, 2, set())
    """
    random, halves = np.random.default_rng(seed), ([], [])
    for name in dict.fromkeys(groups):
        rows = random.permutation([row for row, group in enumerate(groups) if group == name]).tolist()
        if len(rows) > 1:
            halves[0].extend(sorted(rows[: len(rows) // 2]))
            halves[1].extend(sorted(rows[len(rows) // 2 :]))
    return halves


def style_agreement(
    generated: Float[np.ndarray, "n 6"],
    generated_groups: list[str],
    real: Float[np.ndarray, "m 6"],
    real_groups: list[str],
) -> pd.DataFrame:
    """Average the colour statistics of each group that is in both: ``generated_mean_l``… and ``real_mean_l``….

    >>> style_agreement(np.ones((2, 6)), ["a", "a"], np.zeros((1, 6)), ["a"])["generated_mean_l"].tolist()
    [1.0]
    """
    of_generated, of_real = (
        pd.DataFrame(values, columns=STATISTICS).groupby(np.array(groups)).mean()
        for values, groups in ((generated, generated_groups), (real, real_groups))
    )
    both = of_generated.add_prefix("generated_").join(of_real.add_prefix("real_"), how="inner")
    return both.rename_axis("group").reset_index()


def style_correlation(agreement: pd.DataFrame) -> pd.Series:
    """Compute Spearman's rank correlation over groups, of generated with real, for each colour statistic.

    >>> values = np.arange(18.0).reshape(3, 6)
    >>> style_correlation(style_agreement(values, list("abc"), 2 * values, list("abc"))).min().round(6)
    np.float64(1.0)
    """
    pairs = {name: agreement[[f"generated_{name}", f"real_{name}"]] for name in STATISTICS}
    return pd.Series({name: pair.corr(method="spearman").iloc[0, 1] for name, pair in pairs.items()})


def intraclass_correlation(values: Float[np.ndarray, " n"], groups: list[str]) -> float:
    """ICC(1) of a one-way layout: the share of variance that lies between groups (1 all, 0 none).

    Groups may differ in size. Source: Shrout & Fleiss 1979, doi:10.1037/0033-2909.86.2.420; mean group size of
    Donner 1986, doi:10.2307/1403259.

    >>> round(intraclass_correlation(np.array([0.0, 0.1, 5.0, 5.1]), list("aabb")), 3)
    1.0
    """
    members = [values[np.array(groups) == name] for name in sorted(set(groups))]
    sizes = np.array([len(group) for group in members])
    n, k = sizes.sum(), len(sizes)
    between = sum(len(group) * (group.mean() - values.mean()) ** 2 for group in members) / (k - 1)
    within = sum(((group - group.mean()) ** 2).sum() for group in members) / (n - k)
    typical = (n - (sizes**2).sum() / n) / (k - 1)
    return float((between - within) / (between + (typical - 1) * within))


def own_and_others(distances: pd.DataFrame) -> pd.DataFrame:
    """Split distances by group: that to itself (``own``), and the mean over all other groups (``others``).

    Args:
        distances: one row a group, one column a group; every row's group has a column.

    >>> own_and_others(pd.DataFrame([[1.0, 3.0, 5.0]], index=["b"], columns=["b", "a", "c"])).loc["b"].to_dict()
    {'own': 1.0, 'others': 4.0}
    """
    itself = distances.index.to_numpy()[:, None] == distances.columns.to_numpy()
    own, others = distances.where(itself).mean(axis=1), distances.mask(itself).mean(axis=1)
    return pd.DataFrame({"own": own, "others": others}).rename_axis("group")


def colour_distances(
    images: Float[np.ndarray, "n 6"], groups: list[str], real: Float[np.ndarray, "m 6"], real_groups: list[str]
) -> pd.DataFrame:
    """Compute the CIE 1976 difference of the mean colours of a group's images and of real ones.

    Args:
        images, real: `colour_statistics`.

    >>> real = np.array([[50.0, 0, 0, 9, 9, 9], [50, 30, 0, 9, 9, 9]])
    >>> colour_distances(real + [0, 4, 3, 0, 0, 0], ["a", "b"], real, ["a", "b"]).round(1).loc["a"].tolist()
    [5.0, 26.2]
    """
    means = pd.DataFrame(images[:, :3]).groupby(np.array(groups)).mean()
    real_means = pd.DataFrame(real[:, :3]).groupby(np.array(real_groups)).mean()
    return own_and_others(pd.DataFrame(cdist(means, real_means), means.index, real_means.index))


def spread_within(values: Float[np.ndarray, "n d"], groups: list[str]) -> pd.Series:
    """Compute the mean distance between two images of each group; NaN for a group of one.

    >>> spread_within(np.array([[0.0], [2.0], [7.0]]), ["a", "a", "b"]).tolist()
    [2.0, nan]
    """
    members = np.array(groups)
    rows = {name: pdist(values[members == name]) for name in dict.fromkeys(groups)}
    return pd.Series({name: distances.mean() if len(distances) else np.nan for name, distances in rows.items()})


def spread_between(values: Float[np.ndarray, "n d"], groups: list[str]) -> float:
    """Compute the mean distance between the means of two groups; NaN for a single group.

    Means of few images lie apart by chance already: compare at equal numbers of images a group.

    >>> spread_between(np.array([[0.0], [2.0], [7.0]]), ["a", "a", "b"])
    6.0
    """
    means = pd.DataFrame(values).groupby(np.array(groups)).mean()
    return float(pdist(means).mean()) if len(means) > 1 else float("nan")
