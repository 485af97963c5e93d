"""How far generated images follow the style they were given, and how far they are from real images.

Distances from real images are taken between features of a network that the caller names. With a network of our own
they say which of two models is nearer; they are not comparable with published FID or KID values.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

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


def retrieve_one_left_out(values: Float[np.ndarray, "n d"], groups: list[str]) -> pd.DataFrame:
    """As ``retrieve_groups`` of the rows among themselves, each row left out of its own group's mean.

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
    """Two lists of rows that share each group's rows half and half, at random; groups of one are left out.

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
    """One row a group that is in both: its mean colour statistics, ``generated_mean_l``… and ``real_mean_l``….

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
    """Spearman's rank correlation over groups, of generated with real, for each colour statistic.

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
    sizes = np.array([len(one) for one in members])
    n, k = sizes.sum(), len(sizes)
    between = sum(size * (one.mean() - values.mean()) ** 2 for size, one in zip(sizes, members, strict=True)) / (k - 1)
    within = sum(((one - one.mean()) ** 2).sum() for one in members) / (n - k)
    typical = (n - (sizes**2).sum() / n) / (k - 1)
    return float((between - within) / (between + (typical - 1) * within))


@torch.no_grad()
def stage_features(
    network: nn.Module, stages: Iterable[nn.Module], images: UInt8[Tensor, "n 3 h w"], batch_size: int = 64
) -> Float[np.ndarray, "n d"]:
    """The mean and the standard deviation over the picture of every channel that leaves each of the stages.

    Args:
        network: takes images in [0, 1], such as a segmentation network; it is left in evaluation mode.
        stages: modules inside it, each run once an image, whose output is (batch, channels, h, w).

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> stage_features(network, network, torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape
    (2, 16)
    """
    outputs, rows = [], []
    hooks = [stage.register_forward_hook(lambda *call: outputs.append(call[-1].flatten(2))) for stage in stages]
    try:
        device = next(network.eval().parameters()).device
        for chunk in images.split(batch_size):
            outputs.clear()
            network(chunk.to(device, torch.float32) / 255)
            rows.append(
                torch.cat([torch.cat([one.mean(2), one.std(2, correction=0)], dim=1) for one in outputs], dim=1).cpu()
            )
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(rows).double().numpy()


def kernel_distance(generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
    """The unbiased squared maximum mean discrepancy of two sets of features: near 0, also below it, where they agree.

    Its expectation does not depend on n and m, so a floor from other numbers of real images is a fair one.

    Source: kernel (x·y / d + 1)³ of Bińkowski et al. 2018 (arXiv 1801.01401), there averaged over random subsets,
    here over all pairs; features are first centred and scaled by ``real``.

    Raises:
        ValueError: fewer than two rows on a side, or no feature that varies over ``real``.

    >>> random = np.random.default_rng(0)
    >>> real, same, other = random.normal(size=(90, 4)), random.normal(size=(90, 4)), random.normal(1, 1, size=(90, 4))
    >>> abs(kernel_distance(same, real)) < 0.1 < kernel_distance(other, real)
    True
    """
    x, y = _standardised(generated, real)
    within = [_kernel(one, one) for one in (x, y)]
    within = [(one.sum() - one.trace()) / (len(one) * (len(one) - 1)) for one in within]
    return float(sum(within) - 2 * _kernel(x, y).mean())


def frechet_distance(generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
    """The squared Fréchet distance of the Gaussians fitted to two sets of features; 0 where both are the same.

    Biased upwards, and strongly so with fewer images than features: compare only at equal n, and with a floor at that
    n. `kernel_distance` has no such bias.

    Source: Dowson & Landau 1982, as used by Heusel et al. 2017 (arXiv 1706.08500); features are scaled as in
    `kernel_distance`. The trace of the root of both covariances is taken from singular values, which stay real.

    Raises:
        ValueError: as `kernel_distance`.

    >>> features = np.random.default_rng(0).normal(size=(50, 4))
    >>> frechet_distance(features, features) < 1e-9
    True
    """
    x, y = _standardised(generated, real)
    a, b = ((one - one.mean(0)) / np.sqrt(len(one) - 1) for one in (x, y))  # covariances aᵀa and bᵀb
    # tr (aᵀa bᵀb)^½ is the sum of the singular values of a bᵀ
    common = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.square(a).sum() + np.square(b).sum() - 2 * common)


def _standardised(generated: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in double precision, in units of the mean and the standard deviation of ``real``.

    A unit of a network that hardly ever fires on real images would count a thousandfold where it does, so no standard
    deviation is taken below a tenth of their mean.
    """
    if min(len(generated), len(real)) < 2 or generated.shape[1] != real.shape[1]:
        raise ValueError(f"features {generated.shape} and {real.shape}; two or more rows of each are needed, as wide")
    mean, scale = real.mean(0, dtype=np.float64), real.std(0, dtype=np.float64)
    if not scale.any():
        raise ValueError(f"none of the {real.shape[1]} features varies over the real images")
    scale = np.maximum(scale, 0.1 * scale.mean())
    return (generated - mean) / scale, (real - mean) / scale


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
