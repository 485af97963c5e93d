"""The denoiser: a U-Net that sees a layout at its input and a style in every block.

    layout ℓ  ──one-hot──►  concatenated with x_t at the input
    style s   ──linear──►  + time embedding ──►  scale and shift after the norm of every residual block (FiLM)

Source: Öttl et al., ECCV 2024 (arXiv 2403.14429). There the style enters one extra block of the bottleneck; here
it modulates every block, as class vectors do in Dhariwal & Nichol 2021 (arXiv 2105.05233), "AdaGN".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sedm.config import ModelConfig
from sedm.data.patches import UNKNOWN
from sedm.encoder import StyleEncoder

MAX_LOSS_WEIGHT = 5.0


class Denoiser(ModelMixin, ConfigMixin):
    """Predicts the clean image from a noisy one, its time, a layout and a style.

    A layout pixel of value ``UNKNOWN`` has a one-hot channel of its own, so a wholly unknown layout is the learned
    *null layout*, and unannotated images can train too. The learned *null style* stands for "any style".

    Args:
        n_classes: layout values 0…n_classes−1.
        image_size: px a side; a multiple of ``unshuffle`` × 2 for every halving in the U-Net.
        unshuffle: px a side folded into channels, so that the U-Net runs at image_size / unshuffle.
        channels: U-Net width at each resolution; multiples of 4, the number of norm groups.

    >>> denoiser = Denoiser(n_classes=2, image_size=16, channels=(8, 16), style_dim=4)
    >>> x_t, layout = torch.randn(2, 3, 16, 16), torch.zeros(2, 16, 16, dtype=torch.uint8)
    >>> denoiser(x_t, torch.tensor([0, 999]), layout, denoiser.null_style.expand(2, -1)).shape
    torch.Size([2, 3, 16, 16])
    """

    @register_to_config
    def __init__(
        self,
        n_classes: int,
        image_size: int = 64,
        channels: Sequence[int] = (32, 64, 128),
        n_blocks: int = 1,
        unshuffle: int = 2,
        style_dim: int = 128,
    ):
        super().__init__()
        self.null_style = nn.Parameter(torch.zeros(style_dim))
        self.project_style = nn.Linear(style_dim, 4 * channels[0])  # the width of the U-Net's time embedding
        self.unet = UNet2DModel(
            sample_size=image_size // unshuffle,
            in_channels=(3 + n_classes + 1) * unshuffle**2,
            out_channels=3 * unshuffle**2,
            block_out_channels=tuple(channels),
            layers_per_block=n_blocks,
            down_block_types=("DownBlock2D",) * len(channels),
            up_block_types=("UpBlock2D",) * len(channels),
            # few groups: the backward pass is several times slower below 16 channels a group on CPUs
            norm_num_groups=4,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )

    def forward(
        self,
        x_t: Float[Tensor, "batch 3 h w"],
        t: Int[Tensor, " batch"],
        layout: UInt8[Tensor, "batch h w"],
        style: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, "batch 3 h w"]:
        """The clean image x_0 in [−1, 1], as far as it can be told; ``layout`` holds class indices or ``UNKNOWN``."""
        unshuffle = self.config.unshuffle
        condition = one_hot_layout(layout, self.config.n_classes).to(x_t.dtype)
        inputs = F.pixel_unshuffle(torch.cat([x_t, condition], dim=1), unshuffle)
        clean = self.unet(inputs, t, class_labels=self.project_style(style)).sample
        return F.pixel_shuffle(clean, unshuffle)


def one_hot_layout(layout: UInt8[Tensor, "batch h w"], n_classes: int) -> Float[Tensor, "batch k h w"]:
    """The layout as n_classes + 1 channels of 0 and 1; the last one marks ``UNKNOWN`` pixels.

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
        x_t: Float[Tensor, "batch 3 h w"],
        t: Int[Tensor, " batch"],
        layout: UInt8[Tensor, "batch h w"],
        style_images: Float[Tensor, "batch n 3 h w"],
        drop_style: Bool[Tensor, " batch"],
    ) -> Float[Tensor, "batch 3 h w"]:
        """The clean images; rows marked in ``drop_style`` see the null style instead of their own."""
        style = self.style_encoder(style_images)
        style = torch.where(drop_style[:, None], self.denoiser.null_style.to(style.dtype), style)
        return self.denoiser(x_t, t, layout, style)


def build_model(config: ModelConfig, n_classes: int, image_size: int, seed: int) -> StyleDiffusion:
    """An untrained model whose initial weights depend on ``seed`` alone.

    >>> config = ModelConfig((16, 32), style_dim=8, style_channels=(8,))
    >>> sum(p.numel() for p in build_model(config, n_classes=2, image_size=16, seed=0).parameters()) > 0
    True
    """
    with torch.random.fork_rng(devices=[]):  # layers initialise from the global state; leave it as it was
        torch.manual_seed(seed)
        encoder = StyleEncoder(tuple(config.style_channels), config.style_dim, config.aggregation)
        denoiser = Denoiser(
            n_classes, image_size, tuple(config.channels), config.n_blocks, config.unshuffle, config.style_dim
        )
    return StyleDiffusion(encoder, denoiser)


def noise_schedule() -> DDPMScheduler:
    """The diffusion process: T = 1000, cosine (Nichol & Dhariwal 2021, arXiv 2102.09672), x_0-prediction.

    Its signal-to-noise ratio ends at about 2·10⁻⁹, so sampling may start from pure noise: the brightness drift of
    schedules that stop earlier does not arise (Lin et al. 2023, arXiv 2305.08891).

    >>> noise_schedule().config.prediction_type
    'sample'
    """
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample")


def loss_weights(noising: DDPMScheduler, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The weight of each item's squared error of x_0: min(1 / σ_t², ``MAX_LOSS_WEIGHT``).

    1 / σ² makes it the squared error of v (Salimans & Ho 2022, arXiv 2202.00512), so every noise level counts; the
    limit keeps nearly clean images, where nothing is left to decide, from taking over (as in min-SNR, Hang et al.
    2023, arXiv 2303.09556).

    >>> loss_weights(noise_schedule(), torch.tensor([0, 500, 999]))
    tensor([5.0000, 1.9696, 1.0000])
    """
    return (1 / (1 - noising.alphas_cumprod.to(t.device)[t])).clamp(max=MAX_LOSS_WEIGHT)
