"""A batch to train the generator on: what the model gets of it, what it should answer, and how both are augmented."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from sedm.config import TrainingConfig
from sedm.data.augment import (
    apply_symmetries,
    draw_density_factors,
    draw_symmetries,
    scale_class_density,
    scale_density,
)
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.data.pixels import to_signed
from sedm.generator.process import N_TIMES, Diffusion
from sedm.styles.sampling import StyleSampler


def training_batch(
    patches: Patches,
    latents: Float[Tensor, "n c s s"] | None,
    pools: list[tuple[Tensor, int]],
    sampler: StyleSampler,
    diffusion: Diffusion,
    settings: TrainingConfig,
    generator: torch.Generator,
) -> tuple[tuple[Tensor, ...], Tensor, UInt8[Tensor, "batch lenders height width"]]:
    """Draw ((x_t, t, layout, style_images, drop_style), target, style_masks).

    The first is what the model gets, the second what it should answer; the third are the masks of the style images.
    """
    rows = [pool[torch.randint(len(pool), (count,), generator=generator)] for pool, count in pools]
    rows = torch.cat(rows).tolist()
    x_0 = to_signed(patches.images[rows]) if latents is None else latents[rows]
    noise = torch.randn(x_0.shape, generator=generator)
    t = draw_times(len(rows), generator)
    style_images, style_masks = sampler.draw_images(rows, generator)
    drop_style = sampler.draw_dropped(len(rows), settings.style_dropout, generator)
    drop_layout = torch.rand(len(rows), generator=generator) < settings.layout_dropout
    layout = patches.masks[rows].masked_fill(drop_layout[:, None, None], UNKNOWN)

    if settings.class_jitter:
        factors = draw_density_factors((len(rows), patches.n_classes), settings.class_jitter, generator)
        has_masks = (style_masks != UNKNOWN).flatten(2).any(2).all(1)  # else they would keep their colours
        jittered = (~drop_style & patches.is_annotated[rows] & has_masks).nonzero().flatten()
        factors, masks = factors[jittered], patches.masks[rows][jittered]
        x_0[jittered] = _jitter_classes(x_0[jittered, None], masks[:, None], factors)[:, 0]
        style_images[jittered] = _jitter_classes(style_images[jittered], style_masks[jittered], factors)

    symmetry = draw_symmetries(len(rows), settings.symmetries, generator)
    x_0 = apply_symmetries(x_0, symmetry)
    layout = apply_symmetries(layout, symmetry)
    symmetry = draw_symmetries(style_images.shape[0] * style_images.shape[1], settings.symmetries, generator)
    style_images = apply_symmetries(style_images.flatten(0, 1), symmetry).unflatten(0, style_images.shape[:2])
    style_masks = apply_symmetries(style_masks.flatten(0, 1), symmetry).unflatten(0, style_masks.shape[:2])
    if settings.colour_jitter:
        factors = draw_density_factors((len(rows),), settings.colour_jitter, generator)
        factors[drop_style] = 1  # the null style is of colours that occur
        x_0 = scale_density(x_0, factors)
        style_images = scale_density(style_images, factors)
    x_t = diffusion.add_noise(x_0, noise, t)
    return (x_t, t, layout, style_images, drop_style), diffusion.target(x_0, noise, t), style_masks


def draw_times(n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Draw one time from each of n equal parts of 0…999, in random order: together uniform, and never all alike.

    >>> sorted((draw_times(4, torch.Generator().manual_seed(0)) // 250).tolist())
    [0, 1, 2, 3]
    """
    parts = torch.randperm(n, generator=generator)
    return ((parts + torch.rand(n, generator=generator)) * (N_TIMES / n)).long().clamp(max=N_TIMES - 1)


def _jitter_classes(images, masks, factors):
    """Change the density of each class of the n images of an item by its factors."""
    factors = factors.repeat_interleave(images.shape[1], dim=0)
    changed = scale_class_density((images.flatten(0, 1) + 1) / 2, masks.flatten(0, 1), factors)
    return (2 * changed - 1).unflatten(0, images.shape[:2])


def batch_pools(annotated: Bool[Tensor, " n"], settings: TrainingConfig) -> list[tuple[Tensor, int]]:
    """List (rows, how many of them a batch takes): annotated rows, then the others, where there are any.

    Layouts are learned from annotated rows, so they must not drown among thousands of others.

    >>> batch_pools(torch.tensor([True, False, False]), TrainingConfig(batch_size=8, annotated_fraction=0.25))
    [(tensor([0]), 2), (tensor([1, 2]), 6)]
    """
    rows, others = annotated.nonzero().flatten(), (~annotated).nonzero().flatten()
    fraction = settings.annotated_fraction if len(rows) and len(others) else float(len(rows) > 0)
    n_annotated = round(settings.batch_size * fraction)
    pools = [(rows, n_annotated), (others, settings.batch_size - n_annotated)]
    return [(rows, count) for rows, count in pools if count]
