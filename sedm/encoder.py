"""Style encoder and aggregation: from n style images to one style vector.

    style image x_j  ──encoder──►  embedding e_j          j = 1…n, n free
    {e_1, …, e_n}    ──aggregation──►  style s            order does not matter

Source: Öttl et al., ECCV 2024 (arXiv 2403.14429), "style encoder" and "aggregation block". There the encoder is a
Swin-V2-T and, in the released code, never trained; here it is a small convolutional network, trained with the
denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn


class MeanPool(nn.Module):
    """The average embedding: any number of style images, in any order."""

    def forward(self, embeddings: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch dim"]:
        return embeddings.mean(dim=1)


class MaxPool(nn.Module):
    """The largest value of each coordinate: any number of style images, in any order."""

    def forward(self, embeddings: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch dim"]:
        return embeddings.amax(dim=1)


AGGREGATIONS = {"mean": MeanPool, "max": MaxPool}


class StyleEncoder(ModelMixin, ConfigMixin):
    """Style images to one style vector.

    Each convolution halves the resolution. The embedding is read from the mean *and the standard deviation* of
    every channel at *every* resolution: colour and stain sit in the means of the first layers, texture in the
    deviations, and neither tells where in the picture it came from.

    Args:
        channels: width after each halving of the resolution.
        style_dim: length of an embedding and of a style.
        aggregation: a name in ``AGGREGATIONS``.

    Raises:
        ValueError: unknown aggregation.

    >>> encoder = StyleEncoder(channels=(8, 16), style_dim=32)
    >>> encoder(torch.rand(2, 4, 3, 32, 32) * 2 - 1).shape
    torch.Size([2, 32])
    """

    @register_to_config
    def __init__(self, channels: Sequence[int] = (24, 48, 96), style_dim: int = 128, aggregation: str = "mean"):
        super().__init__()
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation={aggregation!r}; choose one of {sorted(AGGREGATIONS)}")
        widths = (3, *channels)
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(1, wide), nn.SiLU())
            if narrow != 3  # the first layer keeps absolute colour: no normalisation before its statistics
            else nn.Sequential(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.SiLU())
            for narrow, wide in pairwise(widths)
        )
        self.head = nn.Sequential(
            nn.LayerNorm(2 * sum(channels)),
            nn.Linear(2 * sum(channels), style_dim),
            nn.SiLU(),
            nn.Linear(style_dim, style_dim),
            nn.LayerNorm(style_dim),  # styles are as large as the time embedding from the first step on
        )
        self.aggregate = AGGREGATIONS[aggregation]()

    def embed(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        """One embedding an image; ``images`` in [−1, 1], any size of at least 2 px per halving."""
        statistics, features = [], images
        for convolution in self.convolutions:
            features = convolution(features)
            statistics.append(features.mean(dim=(2, 3)))
            # the small number keeps the root differentiable where a channel is constant
            statistics.append((features.var(dim=(2, 3), unbiased=False) + 1e-6).sqrt())
        return self.head(torch.cat(statistics, dim=1))

    def forward(self, images: Float[Tensor, "batch n 3 h w"]) -> Float[Tensor, "batch dim"]:
        """One style a row: the aggregated embeddings of its n images, each in [−1, 1]."""
        embeddings = self.embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return self.aggregate(embeddings)
