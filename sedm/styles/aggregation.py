"""Aggregation: from the embeddings of n style images to one style, a row of tokens.

    {e_1, …, e_n}, each of length dim  ──aggregation──►  style s, (n_tokens, dim)

Pooled, a style is one token (n_tokens = 1); kept as they are, the embeddings are n of them.

Source: Öttl et al., ECCV 2024 (arXiv 2403.14429), "aggregation block". Their transformer over the stacked images is not
here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sedm import config

LEAST_SHARE = 1e-3  # of an image, below which a class hardly counts as shown


class Aggregation(nn.Module, ABC):
    """Make one style of several embeddings.

    A batch may hold items with fewer images than others, padded with anything: ``present`` marks the real ones. An
    embedding that is not present reaches neither style nor gradient.

    Raises:
        ValueError: an item without any image, or with fewer than others where padding cannot be left out.
    """

    takes_padding = True

    def forward(
        self, embeddings: Float[Tensor, "batch n length"], present: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch n_tokens dim"]:
        """Return one style an item; without ``present``, every embedding counts."""
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
    def pool(
        self, embeddings: Float[Tensor, "batch n length"], present: Bool[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n_tokens dim"]:
        """Return the style of embeddings that are zero where not ``present``."""


class MeanPool(Aggregation):
    """The average embedding: any number of style images, in any order.

    >>> MeanPool()(torch.tensor([[[1.0], [3.0]]])).item()
    2.0
    """

    def pool(self, embeddings, present):
        return embeddings.sum(dim=1, keepdim=True) / present.sum(dim=1)[:, None, None]


class MaxPool(Aggregation):
    """The largest value of each coordinate: any number of style images, in any order.

    >>> MaxPool()(torch.tensor([[[1.0], [3.0]]]), present=torch.tensor([[True, False]])).item()
    1.0
    """

    def pool(self, embeddings, present):
        return embeddings.masked_fill(~present[..., None], -math.inf).amax(dim=1, keepdim=True)


class LinearPool(Aggregation):
    """A learned linear map of all embeddings side by side: exactly ``n_images`` of them, and their order matters.

    >>> LinearPool(dim=4, n_images=3)(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 4])
    """

    takes_padding = False

    def __init__(self, dim: int, n_images: int):
        super().__init__()
        self.n_images = n_images
        self.map = nn.Linear(n_images * dim, dim)

    def pool(self, embeddings, present):
        if embeddings.shape[1] != self.n_images:
            raise ValueError(
                f"{embeddings.shape[1]} style images; 'linear' aggregates exactly {self.n_images}, as in training"
            )
        return self.map(embeddings.flatten(1))[:, None]


class AttentionPool(Aggregation):
    """An average with learned weights: any number of style images, in any order.

    The coordinates are split among the heads. Each head has a query q that scores every embedding, e·q/√dim, and
    averages its own coordinates with the softmax of the scores. The embeddings are their own keys, since a linear
    map of keys would melt into the query, and their own values, so the style of one image is its embedding. Queries
    start at zero, which is the mean.

    Source: pooling by multi-head attention, Lee et al. 2019 (arXiv 1810.00825), reduced to what one query needs.

    >>> AttentionPool(dim=4)(torch.tensor([[[1.0, 2, 3, 4], [3, 2, 1, 0]]])).tolist()
    [[[2.0, 2.0, 2.0, 2.0]]]
    """

    def __init__(self, dim: int):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(math.gcd(8, dim), dim))

    def weigh(
        self, embeddings: Float[Tensor, "batch n dim"], present: Bool[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n heads"]:
        """Return the share of each image in each head; sums to 1 over the images, 0 where not ``present``."""
        scores = embeddings @ self.queries.T / math.sqrt(embeddings.shape[-1])
        return scores.float().masked_fill(~present[..., None], -math.inf).softmax(dim=1)

    def pool(self, embeddings, present):
        values = embeddings.unflatten(-1, (len(self.queries), -1))
        shares = self.weigh(embeddings, present)[..., None].to(values.dtype)
        # not a matrix product: in mixed precision it would round the values
        return (shares * values).sum(dim=1, keepdim=True).flatten(2)


class KeepTokens(Aggregation):
    """No pooling: one token an image, which the denoiser attends to; it cannot tell padding, so there may be none.

    >>> KeepTokens()(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    takes_padding = False

    def pool(self, embeddings, present):
        return embeddings


class ClassPool(Aggregation):
    """One token for the whole of the images, and one for each class that they show.

    An embedding holds the token of the whole image, a token of each class, and the share of the image that each class
    covers. The first are averaged; those of a class are averaged by the shares, so that an image that hardly shows it
    hardly counts. Where all shares of a class are 0, its token is that of the whole; where an encoder takes some pixels
    for it by mistake, it is that of these pixels.

    >>> pool = ClassPool(dim=1, n_classes=2)
    >>> embeddings = torch.tensor([[[0.0, 1.0, 7.0, 1.0, 0.0], [2.0, 3.0, 9.0, 0.5, 0.5]]])  # two images
    >>> pool(embeddings).flatten()
    tensor([1.0000, 1.6658, 8.9681])
    """

    def __init__(self, dim: int, n_classes: int):
        super().__init__()
        self.dim, self.n_classes = dim, n_classes

    def pool(self, embeddings, present):
        tokens, shares = embeddings.split([self.dim * (1 + self.n_classes), self.n_classes], dim=2)
        tokens = tokens.unflatten(2, (1 + self.n_classes, self.dim))
        n_images = present.sum(dim=1)[:, None, None]
        whole = tokens[:, :, :1].sum(dim=1) / n_images
        shares = shares[..., None] / n_images[..., None]  # an absent image has none
        total = shares.sum(dim=1)
        classes = ((shares * tokens[:, :, 1:]).sum(dim=1) + LEAST_SHARE * whole) / (total + LEAST_SHARE)
        return torch.cat([whole, classes], dim=1)


AGGREGATIONS = {
    "mean": lambda model, n_classes: MeanPool(),
    "max": lambda model, n_classes: MaxPool(),
    "linear": lambda model, n_classes: LinearPool(model.style_dim, model.n_style_images),
    "attention": lambda model, n_classes: AttentionPool(model.style_dim),
    "tokens": lambda model, n_classes: KeepTokens(),
    "by_class": lambda model, n_classes: ClassPool(model.style_dim, n_classes),
}
"""How a `sedm.config.ModelConfig` becomes an aggregation, by the name that it asks for."""

assert tuple(AGGREGATIONS) == config.AGGREGATIONS  # settings are checked before torch is imported
