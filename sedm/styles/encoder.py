"""Style encoder: from n style images to one style.

    style image x_j  ──backbone, head──►  embedding e_j          j = 1…n
    {e_1, …, e_n}    ──aggregation─────►  style s          `sedm.styles.aggregation`

Source: Öttl et al., ECCV 2024 (arXiv 2403.14429), "style encoder". There the encoder is a Swin-V2-T and, in the
released code, never trained; here it is trained with the denoiser, and by default a small convolutional network.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sedm.config import ModelConfig
from sedm.styles.aggregation import AGGREGATIONS
from sedm.styles.backbones import ConvolutionalBackbone, open_backbone, rebuild_backbone


class StyleEncoder(ModelMixin, ConfigMixin):
    """Make one style of several style images.

    Args:
        model: its settings of backbone, embeddings and aggregation count; a saved encoder holds them as a dictionary.
        backbone_config: of a saved encoder, which needs nothing else to be opened again; leave it out.

    Raises:
        ValueError: unknown backbone.

    >>> encoder = StyleEncoder(ModelConfig(style_channels=(8, 16), style_dim=32))
    >>> encoder(torch.rand(2, 4, 3, 32, 32) * 2 - 1).shape
    torch.Size([2, 1, 32])
    """

    @register_to_config
    def __init__(self, model: ModelConfig | dict, backbone_config: dict | None = None):
        super().__init__()
        model = ModelConfig.restore(model)
        if model.style_backbone == "convolutional":
            n_regions = model.style_regions if model.aggregation == "regions" else 0
            self.features = ConvolutionalBackbone(model.style_channels, n_regions)
        else:
            is_saved = backbone_config is not None
            self.features = rebuild_backbone(backbone_config) if is_saved else open_backbone(model.style_backbone)
            backbone_config = self.features.describe()
        self.register_to_config(model=model, backbone_config=backbone_config)
        n_features = self.features.n_features
        self.head = nn.Sequential(
            nn.LayerNorm(n_features),
            nn.Linear(n_features, model.style_dim),
            nn.SiLU(),
            nn.Linear(model.style_dim, model.style_dim),
            nn.LayerNorm(model.style_dim),  # styles are as large as the time embedding from the first step on
        )
        self.aggregate = AGGREGATIONS[model.aggregation](model)
        self.has_regions = model.aggregation == "regions"
        n_regions = model.style_regions
        self.embedding_dim = (1 + n_regions) * model.style_dim + n_regions if self.has_regions else model.style_dim

    def embed(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        """Return one embedding an image; ``images`` in [−1, 1]."""
        if not self.has_regions:
            return self.head(self.features(images))
        features, shares = self.features.of_regions(images)
        return torch.cat([self.head(features).flatten(1), shares.to(features.dtype)], dim=1)

    def forward(
        self, images: Float[Tensor, "batch n 3 h w"], present: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch n_tokens dim"]:
        """Return one style an item: the aggregated embeddings of its n images, each in [−1, 1].

        Args:
            present: which images are not padding; all of them when left out.

        Raises:
            ValueError: an item without images, or a number of them that the aggregation does not take.
        """
        if present is not None:
            images = images.masked_fill(~present[..., None, None, None], 0)  # padding may be NaN
        embeddings = self.embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return self.aggregate(embeddings, present)
