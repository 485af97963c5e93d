"""The recipe of the reference, rebuilt from its description around *our* U-Net, so that equal networks are compared.

Source: Öttl et al., ECCV 2024 (arXiv 2403.14429), and what is known of how it is run:

    style     a Swin-V2-T at 512 px gives 512 numbers; frozen and random; one more block in the middle of the U-Net
    training  mean |ε − answer|, AdamW, float32, the style dropped for a quarter of the items
    sampling  DDIM (Song et al. 2020, arXiv 2010.02502), η = 0: 128 steps asked for, 143 run, each with two network
              evaluations one after the other, guidance 1.5 on the style, then a rescaling of the standard deviation;
              the style images are encoded anew for every image

What differs, always in favour of the reference: pixels instead of latents, so no autoencoder has to decode; one style
image; the standard deviation is taken over each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedm.config import ModelConfig
from sedm.generator.denoiser import Denoiser
from sedm.generator.process import N_TIMES, Diffusion

STYLE_DIM = 512
STYLE_IMAGE_SIZE = 512  # px
N_STEPS_ASKED = 128
GUIDANCE_SCALE = 1.5
RESCALED_SHARE = 0.7  # the rest is the styled answer itself
STYLE_DROPOUT = 0.25


class SwinEncoder(nn.Module):
    """The reference's style encoder: a Swin-V2-T and a linear layer, random and frozen.

    Args:
        image_size: px a side to which style images are resized.
    """

    def __init__(self, image_size: int = STYLE_IMAGE_SIZE):
        super().__init__()
        from transformers import Swinv2Config, Swinv2Model

        config = Swinv2Config(image_size=image_size, window_size=8)  # the other defaults are those of "tiny"
        self.image_size = image_size
        self.backbone = Swinv2Model(config)
        self.head = nn.Linear(config.hidden_size, STYLE_DIM)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return one style an image, (n, 1, 512); ``images`` (n, 3, h, w) in [−1, 1]."""
        images = F.interpolate(images, size=(self.image_size, self.image_size), mode="bilinear")
        return self.head(self.backbone(images).pooler_output)[:, None]


def recipe_times() -> list[int]:
    """The times that DDIM visits, from noise to image: every seventh, since 1000 // 128 is 7, which makes 143.

    >>> len(recipe_times()), recipe_times()[:2], recipe_times()[-1]
    (143, [995, 988], 1)
    """
    return list(range(1, N_TIMES, N_TIMES // N_STEPS_ASKED))[::-1]


N_EVALUATIONS = 2 * len(recipe_times())  # of the network, an image


def ddim_step(diffusion: Diffusion, noise: Tensor, x_t: Tensor, t: int, previous: int | None) -> Tensor:
    """x at the time ``previous`` (None: the image) from x_t and the noise that is said to be in it, η = 0."""
    x_0 = (x_t - diffusion.sigmas[t] * noise) / diffusion.alphas[t]
    if previous is None:
        return x_0
    return diffusion.alphas[previous] * x_0 + diffusion.sigmas[previous] * noise


def noise_in(denoiser: Denoiser, diffusion: Diffusion, x_t: Tensor, t: int, layouts: Tensor, styles: Tensor) -> Tensor:
    """The noise that the network sees in x_t, whatever its objective."""
    times = torch.full((len(x_t),), t, device=x_t.device)
    answer = denoiser(x_t, times, layouts, styles)
    if diffusion.objective == "epsilon":
        return answer
    return (x_t - diffusion.alphas[t] * diffusion.to_x_0(answer, x_t, times)) / diffusion.sigmas[t]


def guide(of_null: Tensor, of_style: Tensor, scale: float = GUIDANCE_SCALE) -> Tensor:
    """null + scale · (styled − null), stretched to the spread of styled, mixed with styled.

    >>> of_null, of_style = torch.randn(2, 1, 3, 4, 4)
    >>> torch.allclose(guide(of_null, of_style, scale=1.0), of_style, atol=1e-6)
    True
    """
    guided = of_null + scale * (of_style - of_null)
    spread = of_style.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True)
    return RESCALED_SHARE * spread * guided + (1 - RESCALED_SHARE) * of_style


def guided_noise(denoiser: Denoiser, layouts: Tensor, styles: Tensor) -> Callable[[Tensor, int], Tensor]:
    """A function of (x_t, t): the guided noise, from two network evaluations, one after the other."""
    diffusion = Diffusion(denoiser.config.model.objective)
    null = denoiser.null_style.detach().expand_as(styles)

    def predict(x_t: Tensor, t: int) -> Tensor:
        return guide(*(noise_in(denoiser, diffusion, x_t, t, layouts, style) for style in (null, styles)))

    return predict


@torch.no_grad()
def sample_recipe(
    denoiser: Denoiser, layouts: Tensor, styles: Tensor, noise: Tensor, times: Sequence[int] | None = None
) -> Tensor:
    """Images (batch, 3, h, w), about [−1, 1], from ``noise``; ``times`` is for tests."""
    times = recipe_times() if times is None else times
    diffusion, predict, x_t = Diffusion(denoiser.config.model.objective), guided_noise(denoiser, layouts, styles), noise
    for t, previous in zip(times, [*times[1:], None], strict=True):
        x_t = ddim_step(diffusion, predict(x_t, t), x_t, t, previous)
    return x_t


def recipe_loss(denoiser: Denoiser, x_0: Tensor, layouts: Tensor, styles: Tensor) -> Tensor:
    """The loss of one training batch, a scalar; random numbers come from torch's global state."""
    diffusion, noise = Diffusion("epsilon"), torch.randn_like(x_0)
    t = torch.randint(N_TIMES, (len(x_0),), device=x_0.device)
    dropped = torch.rand(len(x_0), 1, 1, device=x_0.device) < STYLE_DROPOUT
    styles = torch.where(dropped, denoiser.null_style, styles)
    return F.l1_loss(denoiser(diffusion.add_noise(x_0, noise, t), t, layouts, styles), noise)


def recipe_denoiser(config: ModelConfig, n_classes: int, image_size: int) -> Denoiser:
    """Our U-Net, as wide and deep as ``config`` says, with the reference's style injection and objective."""
    injection = {"style_injection": "bottleneck", "aggregation": "mean"}
    model = replace(config, style_dim=STYLE_DIM, objective="epsilon", **injection)
    return Denoiser(model, n_classes, image_size)
