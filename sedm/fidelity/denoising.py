"""How well a denoiser cleans images of groups that it never saw, at equal noise whatever its objective."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sedm.data.patches import Patches
from sedm.data.pixels import to_signed
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.process import Diffusion
from sedm.runtime.seeds import seeded_generator

NOISE_LEVELS = (100, 300, 500, 700, 900)  # times of the x_0 objective's schedule


@torch.no_grad()
def denoising_errors(
    pipeline: SEDMPipeline, patches: Patches, styles: Float[Tensor, "n n_tokens dim"] | None
) -> dict[str, float]:
    """Mean squared error of x_0, in [−1, 1], given each image's own layout: ``x_0_error_100`` … ``x_0_error_900``.

    The number names a time of the x_0 objective's schedule. Other schedules have its ratio of noise to image at
    another time, which is taken there, so that every objective has to clean equally noisy images.
    """
    denoiser, device = pipeline.denoiser, pipeline.device
    diffusion, levels = Diffusion(denoiser.config.model.objective), Diffusion("x_0")
    ratios, level_ratios = ((process.sigmas / process.alphas).log() for process in (diffusion, levels))
    styles = denoiser.null_styles(len(patches)) if styles is None else styles.to(device)
    errors = {}
    for level in NOISE_LEVELS:
        t = (ratios - level_ratios[level]).abs().argmin().to(device)
        generator = seeded_generator("denoising errors", 0, level)
        squares = []
        for rows in torch.arange(len(patches)).split(64):
            x_0 = to_signed(patches.images[rows]).to(device)
            noise, times = torch.randn(x_0.shape, generator=generator).to(device), t.expand(len(rows))
            x_t = diffusion.add_noise(x_0, noise, times)
            output = denoiser(x_t, times, patches.masks[rows].to(device), styles[rows])
            squares.append((diffusion.to_x_0(output, x_t, times).clamp(-1, 1) - x_0).square().mean(dim=(1, 2, 3)))
        errors[f"x_0_error_{level}"] = torch.cat(squares).mean().item()
    return errors
