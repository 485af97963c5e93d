"""Features of images, and the name of the network that they come from: no distance is stated without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sedm.segmentation.networks import UNet


@dataclass(frozen=True)
class Extractor:
    """A function from images (n, 3, h, w) uint8 to features (n, d), and its name, to be stored with every number.

    >>> network = UNet(2, (8, 16)).eval()
    >>> extractor = segmenter_extractor(network, "24 real training groups")
    >>> extractor.name
    'encoder of a segmentation U-Net (8, 16) trained on 24 real training groups'
    >>> extractor(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape
    (2, 48)
    """

    name: str
    read: Callable[[UInt8[Tensor, "n 3 h w"]], Float[np.ndarray, "n d"]]

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[np.ndarray, "n d"]:
        """Compute the features of ``images``, double precision, one row an image."""
        return self.read(images)


def segmenter_extractor(network: UNet, trained_on: str) -> Extractor:
    """Take features from the encoder of a segmentation network; ``trained_on`` says in words what it saw."""
    stages = [network.stem, *network.down]
    widths = tuple(stage[0].out_channels for stage in stages)
    name = f"encoder of a segmentation U-Net {widths} trained on {trained_on}"
    return Extractor(name, lambda images: stage_features(network, stages, images))


@torch.no_grad()
def stage_features(
    network: nn.Module, stages: Iterable[nn.Module], images: UInt8[Tensor, "n 3 h w"], batch_size: int = 64
) -> Float[np.ndarray, "n d"]:
    """Compute the mean and the standard deviation over the picture of every channel that leaves each stage.

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
