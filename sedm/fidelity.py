"""How far generated images follow the style they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
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
    queries: Float[np.ndarray, "n d"], query_groups: list[str], references: Float[np.ndarray, "m d"], reference_groups: list[str]
) -> pd.DataFrame:
    """One row a query: its group, and the rank of that group among all groups by distance of their means.

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
    return pd.DataFrame({"group": query_groups, "rank": 1 + (distances < own[:, None]).sum(1), "n_groups": len(names)})


def style_agreement(
    generated: Float[np.ndarray, "n d"], generated_groups: list[str], real: Float[np.ndarray, "m d"], real_groups: list[str]
) -> pd.DataFrame:
    """One row a group: the group's mean statistics in generated (``generated_0``…) and real images (``real_0``…).

    >>> style_agreement(np.array([[1.0], [3.0]]), ["a", "a"], np.array([[2.5]]), ["a"]).to_numpy().tolist()
    [['a', 2.0, 2.5]]
    """
    of_generated, of_real = (
        pd.DataFrame(values).groupby(np.array(groups)).mean()
        for values, groups in ((generated, generated_groups), (real, real_groups))
    )
    both = of_generated.add_prefix("generated_").join(of_real.add_prefix("real_"), how="inner")
    return both.rename_axis("group").reset_index()


def intraclass_correlation(values: Float[np.ndarray, " n"], groups: list[str]) -> float:
    """ICC(1) of a one-way layout: the share of variance that lies between groups (1 all, 0 none).

    Groups may differ in size. Source: Shrout & Fleiss 1979, doi:10.1037/0033-2909.86.2.420; mean group size of
    Donner 1986, doi:10.2307/1403259.

    >>> round(intraclass_correlation(np.array([0.0, 0.1, 5.0, 5.1]), list("aabb")), 3)
    1.0
    """
    members = [values[np.array(groups) == name] for name in sorted(set(groups))]
    sizes = np.array([len(one) for one in members])
    n, k = sizes.sum(), len(sizes)
    between = sum(size * (one.mean() - values.mean()) ** 2 for size, one in zip(sizes, members, strict=True)) / (k - 1)
    within = sum(((one - one.mean()) ** 2).sum() for one in members) / (n - k)
    typical = (n - (sizes**2).sum() / n) / (k - 1)
    return float((between - within) / (between + (typical - 1) * within))
