"""Segmentation networks: from images in [0, 1] to the logits of each class at each pixel."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sedm.config import SEGFORMERS, SegmentationConfig, known_name
from sedm.runtime.network_folders import open_network

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what pretrained weights were shown


def build_segmenter(config: SegmentationConfig, n_classes: int, seed: int) -> nn.Module:
    """Build the network that ``config.network`` names; its first weights depend on the seed alone.

    Raises:
        ValueError: an unknown name, or a folder without a whole SegFormer.

    >>> config = SegmentationConfig(network="segformer_b9")
    >>> build_segmenter(config, n_classes=2, seed=0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: network='segformer_b9'; choose one of unet, ... (did you mean 'segformer_b2'?)
    """
    with torch.random.fork_rng(devices=[]):  # layers initialise themselves from the global state: lend and restore it
        torch.manual_seed(seed)
        if config.network == "unet":
            return UNet(n_classes, config.channels)
        return SegFormer(n_classes, config.network)


class UNet(nn.Module):
    """A U-Net with batch normalisation and one level a width, for images of any size.

    Written here because the import of a library that has one takes 8 s and its network was no faster.

    Source: Ronneberger et al. 2015 (arXiv 1505.04597), here with padded convolutions and nearest-neighbour
    upsampling.

    >>> UNet(n_classes=3, channels=(8, 16)).eval()(torch.zeros(1, 3, 20, 12)).shape
    torch.Size([1, 3, 20, 12])
    """

    def __init__(self, n_classes: int, channels: tuple[int, ...]):
        super().__init__()
        inner = list(pairwise(channels))
        self.stem = _convolutions(3, channels[0])
        self.down = nn.ModuleList(_convolutions(wide, deep) for wide, deep in inner)
        self.up = nn.ModuleList(_convolutions(wide + deep, wide) for wide, deep in reversed(inner))
        self.head = nn.Conv2d(channels[0], n_classes, kernel_size=1)

    def forward(
        self, images: Float[Tensor, "batch 3 h w"], factors: Float[Tensor, "batch width 1 1"] | None = None
    ) -> Float[Tensor, "batch classes h w"]:
        """Compute the logits of each class at each pixel, for images in [0, 1].

        Args:
            factors: multiply the deepest features, to drop some of them; none where left out.
        """
        features = [self.stem(2 * images - 1)]
        for block in self.down:
            features.append(block(F.max_pool2d(features[-1], 2)))
        x = features.pop()
        if factors is not None:
            x = x * factors
        for block in self.up:
            skip = features.pop()
            x = block(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1))
        return self.head(x)


class SegFormer(nn.Module):
    """A SegFormer of the ``transformers`` library, its logits enlarged to the size of the image.

    It draws no random numbers while it trains (no dropout, no stochastic depth), so that a run can be repeated.

    Source: Xie et al. 2021 (arXiv 2105.15203), sizes of its table 6.

    Args:
        name: "segformer_b0" … "segformer_b2", with random weights, or a folder with a pretrained one, whose
            classifier is replaced when it has other classes.

    >>> SegFormer(3, "segformer_b0").eval()(torch.zeros(1, 3, 32, 48)).shape
    torch.Size([1, 3, 32, 48])
    """

    def __init__(self, n_classes: int, name: str):
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        still = {"num_labels": n_classes} | dict.fromkeys(
            ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "drop_path_rate"), 0.0
        )
        if not Path(name).is_dir():
            sizes = SEGFORMERS[known_name("network", name, ("unet", *SEGFORMERS))]
            self.network = SegformerForSemanticSegmentation(SegformerConfig(**sizes, **still))
            return
        self.network = open_network(
            SegformerForSemanticSegmentation,
            name,
            kind="SegFormer of transformers",
            setting="network",
            is_optional=lambda weight: weight.startswith("decode_head"),
            allow_more=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **still,
        )

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes h w"]:
        """Compute the logits of each class at each pixel, for images in [0, 1]."""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        logits = self.network(pixel_values=(images - mean) / std).logits
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


def _convolutions(n_in: int, n_out: int) -> nn.Sequential:
    layers = []
    for width in (n_in, n_out):
        layers += [
            nn.Conv2d(width, n_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
