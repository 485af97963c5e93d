"""The denoiser: a U-Net that sees a noisy image, a layout and a style; and both networks as one model.

    layout ℓ  ──one-hot──►  shares of the classes in each pixel of x_t  ──►  U-Net
    style s   ──────────────────────────────────────────────────────────►  U-Net

A style by class (``style_injection="class_film"``) is also painted: every pixel of the layout in the mean colour and
the deviation that its class has in the style images, moved towards what x_t tells of them (`paint`). The U-Net sees the
painted layout, and where it predicts images (x_0) it predicts how they differ from it. So the look of each class comes
from the style images by construction, also of a laboratory that training never saw.

Source: Öttl et al., ECCV 2024 (arXiv 2403.14429). How the two conditions enter the U-Net: `unet`; what it predicts:
`process`.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sedm.config import N_COLOURS, ModelConfig
from sedm.data.patch_table import UNKNOWN
from sedm.generator.paint import ColourDeviations, class_colours, paint
from sedm.generator.process import Diffusion
from sedm.generator.unet import StyledUNet
from sedm.styles.encoder import StyleEncoder


class Denoiser(ModelMixin, ConfigMixin):
    """Answers to a noisy sample, its time, a layout and a style with what its objective asks for.

    A sample is an image, or its latents behind an autoencoder. A layout pixel of value ``UNKNOWN`` has a one-hot
    channel of its own, so a wholly unknown layout is the learned *null layout*, and unannotated images can train too.
    The learned *null style* stands for "any style".

    Args:
        model: its settings of the U-Net, the conditions and the objective count; a saved denoiser holds them as a
            dictionary.
        n_classes: layout values 0…n_classes−1.
        image_size: px a side of a layout.
        sample_channels, sample_size: of latents; left out, samples are RGB images of the layout's size.

    Raises:
        ValueError: a sample size that unshuffling and halving do not divide.

    >>> denoiser = Denoiser(ModelConfig((8, 16), style_dim=4), n_classes=2, image_size=16)
    >>> x_t, layout = torch.randn(2, 3, 16, 16), torch.zeros(2, 16, 16, dtype=torch.uint8)
    >>> denoiser(x_t, torch.tensor([0, 999]), layout, denoiser.null_style.expand(2, 1, -1)).shape
    torch.Size([2, 3, 16, 16])
    """

    @register_to_config
    def __init__(
        self,
        model: ModelConfig | dict,
        n_classes: int,
        image_size: int,
        sample_channels: int = 3,
        sample_size: int | None = None,
    ):
        super().__init__()
        model = ModelConfig.restore(model)
        self.register_to_config(model=model)
        divisor = model.unshuffle * 2 ** (len(model.channels) - 1)
        if (sample_size or image_size) % divisor:
            raise ValueError(
                f"samples of {sample_size or image_size} px; unshuffle={model.unshuffle} and {len(model.channels)} "
                f"resolutions need a multiple of {divisor}"
            )
        by_class = model.style_injection == "class_film"
        n_tokens = 1 + n_classes if by_class else 1
        self.null_style = nn.Parameter(torch.zeros(*([n_tokens] if n_tokens > 1 else []), model.style_dim))
        n_folded = model.unshuffle**2
        n_channels, n_layout = sample_channels * n_folded, (n_classes + 1) * n_folded
        self.unet = StyledUNet(model, n_channels, n_layout, N_COLOURS * n_folded if by_class else 0)
        # latents have other channels than colours
        self.starts_from_paint = by_class and model.objective == "x_0" and sample_size is None
        if self.starts_from_paint:
            self.deviations = ColourDeviations(1 + n_classes)
            self._diffusion = Diffusion(model.objective)

    def null_styles(self, n: int) -> Float[Tensor, "n n_tokens dim"]:
        """Return the null style of ``n`` items."""
        return self.null_style.view(-1, self.null_style.shape[-1]).expand(n, -1, -1)

    def forward(
        self,
        x_t: Float[Tensor, "batch c s s"],
        t: Int[Tensor, " batch"],
        layout: UInt8[Tensor, "batch h w"],
        style: Float[Tensor, "batch n_tokens dim"],
    ) -> Float[Tensor, "batch c s s"]:
        """Return the network's answer; ``layout`` holds class indices or ``UNKNOWN``."""
        unshuffle = self.config.model.unshuffle
        shares = one_hot_layout(layout, self.config.n_classes).to(x_t.dtype)
        if shares.shape[-1] != x_t.shape[-1]:  # latents are smaller than the layout
            shares = F.adaptive_avg_pool2d(shares, x_t.shape[-2:])
        by_class = self.config.model.style_injection == "class_film"
        painted = self._paint(x_t, t, shares, style) if by_class else None
        inputs, folded = F.pixel_unshuffle(x_t, unshuffle), F.pixel_unshuffle(shares, unshuffle)
        folded_paint = None if painted is None else F.pixel_unshuffle(painted, unshuffle)
        answer = F.pixel_shuffle(self.unet(inputs, t, style, folded, folded_paint), unshuffle)
        return answer + painted[:, :3] if self.starts_from_paint else answer

    def _paint(self, x_t, t, shares, style):
        """Paint the layout; where images are predicted, in the colours that are to be expected of the one in x_t."""
        colours = class_colours(style)
        if self.starts_from_paint:
            alpha, sigma = (one.to(t.device)[t] for one in (self._diffusion.alphas, self._diffusion.sigmas))
            moved = self.deviations(x_t, alpha, sigma, shares, colours[..., :3])
            colours = torch.cat([colours[..., :3] + moved, colours[..., 3:]], dim=2)
        return paint(shares, colours).to(x_t.dtype)

    def observe(
        self,
        x_0: Float[Tensor, "batch 3 s s"],
        layout: UInt8[Tensor, "batch h w"],
        style: Float[Tensor, "batch n_tokens dim"],
        is_counted: Bool[Tensor, " batch"],
    ) -> None:
        """Count how the colours of classes in clean images deviate from those of their styles (`ColourDeviations`)."""
        shares = one_hot_layout(layout, self.config.n_classes)
        with torch.autocast(x_0.device.type, enabled=False):  # as in `ColourDeviations.forward`
            self.deviations.observe(x_0, shares, class_colours(style)[..., :3], is_counted)


def one_hot_layout(layout: UInt8[Tensor, "batch h w"], n_classes: int) -> Float[Tensor, "batch k h w"]:
    """Write the layout as n_classes + 1 channels of 0 and 1; the last one marks ``UNKNOWN`` pixels.

    >>> one_hot_layout(torch.tensor([[[0, 1, UNKNOWN]]], dtype=torch.uint8), n_classes=2)[0, :, 0]
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    indices = layout.long().masked_fill(layout == UNKNOWN, n_classes)
    return F.one_hot(indices, n_classes + 1).movedim(-1, 1).float()


class StyleDiffusion(nn.Module):
    """Style encoder and denoiser as one module: one forward pass to train, one set of weights to average."""

    def __init__(self, style_encoder: StyleEncoder, denoiser: Denoiser):
        super().__init__()
        self.style_encoder = style_encoder
        self.denoiser = denoiser

    def forward(
        self,
        x_t: Float[Tensor, "batch c s s"],
        t: Int[Tensor, " batch"],
        layout: UInt8[Tensor, "batch h w"],
        style_images: Float[Tensor, "batch n 3 height width"],
        drop_style: Bool[Tensor, " batch"],
        x_0: Float[Tensor, "batch c s s"] | None = None,
    ) -> tuple[Float[Tensor, "batch c s s"], Float[Tensor, "m n_classes h2 w2"] | None]:
        """Denoise a batch in the styles of images; rows marked in ``drop_style`` see the null style.

        Args:
            x_0: the clean samples, in training: where they are images, how these deviate from their styles is counted.

        Returns:
            The answers; the logits of the classes of the m = batch · n style images, where the encoder tells them.
        """
        embeddings, class_logits = self.style_encoder.embed_and_classify(style_images.flatten(0, 1))
        style = self.style_encoder.aggregate(embeddings.unflatten(0, style_images.shape[:2]))
        style = torch.where(drop_style[:, None, None], self.denoiser.null_style.to(style.dtype), style)
        answer = self.denoiser(x_t, t, layout, style)
        if x_0 is not None and self.denoiser.starts_from_paint:
            self.denoiser.observe(x_0, layout, style, ~drop_style)
        return answer, class_logits


def build_model(
    config: ModelConfig, n_classes: int, image_size: int, seed: int, latents: tuple[int, int] | None = None
) -> StyleDiffusion:
    """Build an untrained model whose initial weights depend on ``seed`` alone.

    Args:
        n_classes: layout values 0…n_classes−1.
        image_size: px a side of images and layouts.
        latents: channels and px a side of the latents that the denoiser works on; None for pixels.

    >>> config = ModelConfig((16, 32), style_dim=8, style_channels=(8,))
    >>> sum(p.numel() for p in build_model(config, n_classes=2, image_size=16, seed=0).parameters()) > 0
    True
    """
    sample_channels, sample_size = latents or (3, None)
    with torch.random.fork_rng(devices=[]):  # layers initialise from the global state; leave it as it was
        torch.manual_seed(seed)
        encoder = StyleEncoder(config, n_classes if config.aggregation == "by_class" else 0)
        denoiser = Denoiser(config, n_classes, image_size, sample_channels, sample_size)
    return StyleDiffusion(encoder, denoiser)
