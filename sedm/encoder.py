"""Style encoder and aggregation: from n style images to one style.

    style image x_j  ──backbone, head──►  embedding e_j          j = 1…n
    {e_1, …, e_n}    ──aggregation─────►  style s

Source: Öttl et al., ECCV 2024 (arXiv 2403.14429), "style encoder" and "aggregation block". There the encoder is a
Swin-V2-T and, in the released code, never trained; here it is trained with the denoiser, and by default a small
convolutional network. Their aggregation by a transformer over the stacked images is not here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sedm.backbones import ConvolutionalBackbone, open_backbone, rebuild_backbone
from sedm.config import known_name


class Aggregation(nn.Module, ABC):
    """Several embeddings to one style.

    A batch may hold items with fewer images than others, padded with anything: ``present`` marks the real ones. An
    embedding that is not present reaches neither style nor gradient.

    Args:
        dim: length of an embedding and of a style.
        n_images: how many images make up a style; ``LinearPool`` alone depends on it.

    Raises:
        ValueError: an item without any image, or with fewer than others where padding cannot be left out.
    """

    takes_padding = True

    def __init__(self, dim: int, n_images: int):
        super().__init__()

    def forward(
        self, embeddings: Float[Tensor, "batch n dim"], present: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch ... dim"]:
        """One style a row; without ``present``, every embedding counts."""
        if present is None:
            present = embeddings.new_ones(embeddings.shape[:2], dtype=torch.bool)
            empty = embeddings.shape[1] == 0  # read off the shape: no wait for the GPU
        else:
            empty = not present.any(dim=1).all()
            if not self.takes_padding and not present.all():
                raise ValueError(f"an item with fewer style images than others; {type(self).__name__} needs them all")
        if empty:
            raise ValueError("an item without any style image; give it one, or the null style")
        return self.pool(embeddings.masked_fill(~present[..., None], 0), present)

    @abstractmethod
    def pool(self, embeddings: Float[Tensor, "batch n dim"], present: Bool[Tensor, "batch n"]):
        """The style of embeddings that are zero where not ``present``."""


class MeanPool(Aggregation):
    """The average embedding: any number of style images, in any order.

    >>> MeanPool(1, 2)(torch.tensor([[[1.0], [3.0]]])).item()
    2.0
    """

    def pool(self, embeddings, present):
        return embeddings.sum(dim=1) / present.sum(dim=1, keepdim=True)


class MaxPool(Aggregation):
    """The largest value of each coordinate: any number of style images, in any order.

    >>> MaxPool(1, 2)(torch.tensor([[[1.0], [3.0]]]), present=torch.tensor([[True, False]])).item()
    1.0
    """

    def pool(self, embeddings, present):
        return embeddings.masked_fill(~present[..., None], -math.inf).amax(dim=1)


class LinearPool(Aggregation):
    """A learned linear map of all embeddings side by side: exactly ``n_images`` of them, and their order matters.

    >>> LinearPool(4, n_images=3)(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 4])
    """

    takes_padding = False

    def __init__(self, dim: int, n_images: int):
        super().__init__(dim, n_images)
        self.n_images = n_images
        self.map = nn.Linear(n_images * dim, dim)

    def pool(self, embeddings, present):
        if embeddings.shape[1] != self.n_images:
            raise ValueError(
                f"{embeddings.shape[1]} style images; 'linear' aggregates exactly {self.n_images}, as in training"
            )
        return self.map(embeddings.flatten(1))


class AttentionPool(Aggregation):
    """An average with learned weights: any number of style images, in any order.

    The coordinates are split among the heads. Each head has a query q that scores every embedding, e·q/√dim, and
    averages its own coordinates with the softmax of the scores. The embeddings are their own keys, since a linear
    map of keys would melt into the query, and their own values, so the style of one image is its embedding. Queries
    start at zero, which is the mean.

    Source: pooling by multi-head attention, Lee et al. 2019 (arXiv 1810.00825), reduced to what one query needs.

    >>> AttentionPool(4, 2)(torch.tensor([[[1.0, 2, 3, 4], [3, 2, 1, 0]]])).tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """

    def __init__(self, dim: int, n_images: int):
        super().__init__(dim, n_images)
        self.queries = nn.Parameter(torch.zeros(math.gcd(8, dim), dim))

    def weigh(
        self, embeddings: Float[Tensor, "batch n dim"], present: Bool[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n heads"]:
        """Share of each image in each head; sums to 1 over the images, 0 where not ``present``."""
        scores = embeddings @ self.queries.T / math.sqrt(embeddings.shape[-1])
        return scores.float().masked_fill(~present[..., None], -math.inf).softmax(dim=1)

    def pool(self, embeddings, present):
        values = embeddings.unflatten(-1, (len(self.queries), -1))
        # not a matrix product: in mixed precision it would round the values
        return (self.weigh(embeddings, present)[..., None].to(values.dtype) * values).sum(dim=1).flatten(1)


class KeepTokens(Aggregation):
    """No pooling: one token an image, which the denoiser attends to; it cannot tell padding, so there may be none.

    >>> KeepTokens(4, 2)(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    takes_padding = False

    def pool(self, embeddings, present):
        return embeddings


AGGREGATIONS = {
    "mean": MeanPool,
    "max": MaxPool,
    "linear": LinearPool,
    "attention": AttentionPool,
    "tokens": KeepTokens,
}


class StyleEncoder(ModelMixin, ConfigMixin):
    """Style images to one style.

    Args:
        channels: width after each halving of the resolution, of the convolutional backbone.
        style_dim: length of an embedding and of a style.
        aggregation: a name in ``AGGREGATIONS``.
        n_images: how many images make up a style; "linear" aggregates exactly so many, the others any number.
        backbone: "convolutional", or what `sedm.backbones.open_backbone` opens.
        backbone_config: of a saved encoder, which needs nothing else to be opened again; leave it out.

    Raises:
        ValueError: unknown aggregation or backbone.

    >>> encoder = StyleEncoder(channels=(8, 16), style_dim=32)
    >>> encoder(torch.rand(2, 4, 3, 32, 32) * 2 - 1).shape
    torch.Size([2, 32])
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (24, 48, 96),
        style_dim: int = 128,
        aggregation: str = "mean",
        n_images: int = 4,
        backbone: str = "convolutional",
        backbone_config: dict | None = None,
    ):
        super().__init__()
        known_name("aggregation", aggregation, AGGREGATIONS)
        if backbone == "convolutional":
            self.features = ConvolutionalBackbone(channels)
        else:
            self.features = rebuild_backbone(backbone_config) if backbone_config else open_backbone(backbone)
            self.register_to_config(backbone_config=self.features.describe())
        n_features = self.features.n_features
        self.head = nn.Sequential(
            nn.LayerNorm(n_features),
            nn.Linear(n_features, style_dim),
            nn.SiLU(),
            nn.Linear(style_dim, style_dim),
            nn.LayerNorm(style_dim),  # styles are as large as the time embedding from the first step on
        )
        self.aggregate = AGGREGATIONS[aggregation](style_dim, n_images)

    def embed(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        """One embedding an image; ``images`` in [−1, 1]."""
        return self.head(self.features(images))

    def forward(
        self, images: Float[Tensor, "batch n 3 h w"], present: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch ... dim"]:
        """One style a row: the aggregated embeddings of its n images, each in [−1, 1].

        Args:
            present: which images are not padding; all of them when left out.

        Raises:
            ValueError: an item without images, or a number of them that the aggregation does not take.
        """
        if present is not None:
            images = images.masked_fill(~present[..., None, None, None], 0)  # else not-a-numbers reach the gradients
        embeddings = self.embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return self.aggregate(embeddings, present)
