"""How far generated images are from real ones, as distributions of the features of a network that the caller names.

With a network of our own the numbers say which of two models is nearer; they are not comparable with published FID or
KID values.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

N_NEIGHBOURS = 3  # of the manifolds of precision and recall, as in their source


def kernel_distance(generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
    """Estimate the squared maximum mean discrepancy of two sets of features: near 0, also below it, where they agree.

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
    kernels = [_kernel(features, features) for features in (x, y)]
    within = [(kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1)) for kernel in kernels]
    return float(sum(within) - 2 * _kernel(x, y).mean())


def frechet_distance(generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
    """Compute the squared Fréchet distance of the Gaussians fitted to two sets of features; 0 for the same set.

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
    a, b = (
        (features - features.mean(0)) / np.sqrt(len(features) - 1) for features in (x, y)
    )  # covariances aᵀa and bᵀb
    # tr (aᵀa bᵀb)^½ is the sum of the singular values of a bᵀ; those of their triangles are the same, and quicker
    triangles = [np.linalg.qr(root, mode="r") for root in (a, b)]
    common = np.linalg.svd(triangles[0] @ triangles[1].T, compute_uv=False).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.square(a).sum() + np.square(b).sum() - 2 * common)


def precision_recall(generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> tuple[float, float]:
    """Compute the share of generated images among the real ones, and of real images among the generated ones.

    An image is among others when it lies as close to one of them as the third nearest of its own kind does. Precision
    falls when images look like no real one, recall when they leave out a part of what is real. Both depend on n and
    m: compare at equal numbers, and with a floor at those numbers.

    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991, equations 1 and 2) with k = 3; features are scaled as in
    `kernel_distance`.

    Raises:
        ValueError: four or more rows are needed on each side; else as `kernel_distance`.

    >>> random = np.random.default_rng(0)
    >>> real, narrow = random.normal(size=(200, 4)), random.normal(0, 0.2, size=(200, 4))
    >>> precision, recall = precision_recall(narrow, real)
    >>> precision > 0.95, recall < 0.1
    (True, True)
    """
    if min(len(generated), len(real)) <= N_NEIGHBOURS:
        raise ValueError(
            f"{len(generated)} generated and {len(real)} real images; precision and recall look at the "
            f"{N_NEIGHBOURS} nearest others, give {N_NEIGHBOURS + 1} or more of each"
        )
    x, y = _standardised(generated, real)
    between = cdist(x, y)
    # the nearest of all is the image itself, at distance 0
    radius_x, radius_y = (
        np.partition(cdist(features, features), N_NEIGHBOURS, axis=1)[:, N_NEIGHBOURS] for features in (x, y)
    )
    precision, recall = (between <= radius_y).any(1), (between <= radius_x[:, None]).any(0)
    return float(precision.mean()), float(recall.mean())


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
