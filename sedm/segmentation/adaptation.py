"""Adapting to tested groups without their masks: by their statistics alone, when they are tested.

batch_statistics    batch normalisation takes mean and variance of the tested group's images
reinhard, macenko   the images are moved to the colours of the images that the network was trained on
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from sedm.data.patches import Patches
from sedm.segmentation.segmenter import predict


def predict_with_batch_statistics(
    network: nn.Module, images: UInt8[Tensor, "n 3 h w"], batch_size: int = 64
) -> UInt8[Tensor, "n h w"]:
    """Predict the classes of one group's images, normalised by their own statistics; the network stays as it is.

    Source: Li et al. 2016, AdaBN (arXiv 1603.04779).

    Raises:
        ValueError: a network without batch normalisation.

    >>> from sedm.segmentation.networks import UNet
    >>> network = UNet(n_classes=2, channels=(8, 16)).eval()
    >>> predict_with_batch_statistics(network, torch.zeros(3, 3, 8, 8, dtype=torch.uint8)).shape
    torch.Size([3, 8, 8])
    """
    adapted = copy.deepcopy(network)
    norms = [module for module in adapted.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise ValueError("batch_statistics: this network has no batch normalisation; choose another way to adapt")
    adapted.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches, which are therefore of one size, or nearly so
        norm.train()
    device = next(adapted.parameters()).device
    with torch.no_grad():
        for part in images.tensor_split(max(1, math.ceil(len(images) / batch_size))):
            adapted(part.to(device, torch.float32) / 255)
    return predict(adapted, images)


def predict_groups(
    network: nn.Module,
    patches: Patches,
    adaptation: str,
    references: UInt8[Tensor, "m 3 h w"],
    transfers: Mapping[str, Callable],
) -> UInt8[Tensor, "n h w"]:
    """Predict masks group by group, each group adapted to by itself.

    Args:
        adaptation: "batch_statistics", or a name in ``transfers``.
        references: images that the network was trained on.
        transfers: ways to move colours, as in `sedm.experiments.colour_transfer`.
    """
    predictions = torch.empty(len(patches), *patches.images.shape[2:], dtype=torch.uint8)
    for rows in patches.by_group().values():
        images = patches.images[rows]
        if adaptation == "batch_statistics":
            predictions[rows] = predict_with_batch_statistics(network, images)
        else:
            predictions[rows] = predict(network, transfers[adaptation](images, references, images))
    return predictions
