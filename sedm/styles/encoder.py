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

from sedm.config import N_COLOURS, ModelConfig
from sedm.styles.aggregation import AGGREGATIONS
from sedm.styles.backbones import ConvolutionalBackbone, open_backbone, rebuild_backbone


class StyleEncoder(ModelMixin, ConfigMixin):
    """Make one style of several style images.

    With ``aggregation="by_class"`` a style has a token of whole images and one of each class of the layout. It tells
    the classes of style images apart itself, so nobody has to give their masks. Each token begins with plain colours,
    the mean and the standard deviation of red, green and blue; the denoiser paints with them.

    Source of tokens by class: Zhu et al. 2020, SEAN (arXiv 1911.12861), there for images whose masks are given.

    Args:
        model: its settings of backbone, embeddings and aggregation count; a saved encoder holds them as a dictionary.
        n_classes: of the layout; for "by_class" alone.
        backbone_config: of a saved encoder, which needs nothing else to be opened again; leave it out.

    Raises:
        ValueError: unknown backbone, or no classes where the style has a token for each.

    >>> encoder = StyleEncoder(ModelConfig(style_channels=(8, 16), style_dim=32))
    >>> encoder(torch.rand(2, 4, 3, 32, 32) * 2 - 1).shape
    torch.Size([2, 1, 32])
    """

    @register_to_config
    def __init__(self, model: ModelConfig | dict, n_classes: int = 0, backbone_config: dict | None = None):
        super().__init__()
        model = ModelConfig.restore(model)
        self.tells_classes = model.aggregation == "by_class"
        if self.tells_classes and n_classes < 1:
            raise ValueError(f"n_classes={n_classes}; aggregation='by_class' must know how many classes layouts have")
        if model.style_backbone == "convolutional":
            self.features = ConvolutionalBackbone(model.style_channels, n_classes if self.tells_classes else 0)
        else:
            is_saved = backbone_config is not None
            self.features = rebuild_backbone(backbone_config) if is_saved else open_backbone(model.style_backbone)
            backbone_config = self.features.describe()
        self.register_to_config(model=model, backbone_config=backbone_config)
        n_features, width = self.features.n_features, model.style_dim
        self.embedding_dim = width
        if self.tells_classes:
            self.embedding_dim = (1 + n_classes) * width + n_classes
            n_features, width = n_features + N_COLOURS, width - N_COLOURS
        self.head = nn.Sequential(
            nn.LayerNorm(n_features),
            nn.Linear(n_features, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.LayerNorm(width),  # styles are as large as the time embedding from the first step on
        )
        self.aggregate = AGGREGATIONS[model.aggregation](model, n_classes)

    def embed(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        """Return one embedding an image; ``images`` in [−1, 1]."""
        return self.embed_and_classify(images)[0]

    def embed_and_classify(
        self, images: Float[Tensor, "batch 3 h w"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch n_classes h2 w2"] | None]:
        """Return one embedding an image, and the logits of the classes of its pixels where the encoder tells them."""
        if not self.tells_classes:
            return self.head(self.features(images)), None
        features, colours, logits = self.features.by_class(images)
        tokens = torch.cat([colours, self.head(torch.cat([colours, features], dim=2))], dim=2)
        shares = logits.softmax(dim=1).mean(dim=(2, 3))
        return torch.cat([tokens.flatten(1), shares.to(tokens.dtype)], dim=1), logits

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
