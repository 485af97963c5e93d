"""Training the generator: style encoder, aggregation and denoiser together.

    x_0 image, ℓ its layout, s the style of images of the same group, noise ~ N(0, 1), t uniform, spread over a batch
    x_t = α_t·x_0 + σ_t·noise
    minimise  w_t ‖ model(x_t, t, ℓ, s) − target(x_0, noise, t) ‖²          target and w: `sedm.generator.process`

A style encoder that tells the classes of style images learns that from their masks, in the same step.

From the shell, on one process or several: ``sedm train --help``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from sedm.config import Config, TrainingConfig, build_config
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
from sedm.data.study_data import load_study
from sedm.generator.autoencoder import encode_images, latent_shape, make_autoencoder
from sedm.generator.denoiser import StyleDiffusion, build_model, one_hot_layout
from sedm.generator.pipeline import SEDMPipeline, sample_images
from sedm.generator.process import N_TIMES, Diffusion
from sedm.runtime.files import replacing
from sedm.runtime.fingerprints import hash_of
from sedm.runtime.hardware import pick_device
from sedm.runtime.loop import make_accelerator, memory_format, optimise
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.predicted_masks import with_predicted_masks
from sedm.styles.sampling import StyleSampler

N_SHOWN = 8  # images on a sample sheet


def train_model(
    config: Config,
    patches: Patches,
    folder: str | Path,
    held_out: Collection[str],
    *,
    autoencoder=None,
    initial: StyleDiffusion | None = None,
    progress: bool = True,
    on_checkpoint: Callable[[SEDMPipeline, int], None] | None = None,
) -> StyleDiffusion:
    """Train a model and return it with averaged weights, in evaluation mode on the CPU.

    ``folder`` receives checkpoints and metrics (see `optimise`) and ``samples/``, a sheet of images at each
    checkpoint. An interrupted run of the same configuration and data goes on, on as many processes as began it; a
    finished one is loaded.

    Args:
        patches: annotated and unannotated images; ``config.training.unannotated`` says what the latter do.
        held_out: groups that must not be among ``patches``, such as those of the test split.
        autoencoder: the denoiser works on its latents; None for pixels.
        initial: a model to go on from, of the same architecture; without it the weights are drawn.
        progress: show a bar with images/s, loss and time left.
        on_checkpoint: called after each checkpoint with the pipeline of the averaged weights, to be measured, and the
            number of steps made; what it raises ends the training there, and a later call goes on.

    Raises:
        ValueError: an image without the predicted mask that the configuration asks for; see `check_training_data` and
            `sedm.runtime.loop.optimise`.
        FloatingPointError: the loss diverged; the last checkpoint stays.
    """
    settings = config.training
    check_training_data(config, patches, held_out)
    if settings.unannotated == "predicted_masks" and not patches.has_mask.all():
        row = int((~patches.has_mask).nonzero()[0])
        raise ValueError(f"unannotated='predicted_masks', but row {row} has no mask; train_generator predicts it")
    if settings.unannotated == "left_out":
        patches = patches.annotated()

    accelerator, diffusion = make_accelerator(), Diffusion(config.model.objective)
    latents = None if autoencoder is None else encode_images(autoencoder, patches.images)
    shape = None if autoencoder is None else latent_shape(autoencoder, config.data.image_size)
    model = build_model(config.model, patches.n_classes, config.data.image_size, config.seed, shape)
    if initial is not None:
        model.load_state_dict(initial.state_dict())
    if not settings.train_style_encoder:
        freeze_encoder(model)
    sampler = StyleSampler(patches, settings.style_sampling, config.model.n_style_images)
    pools = batch_pools(patches.is_annotated, settings)

    def loss_of(network: StyleDiffusion, step: int) -> Tensor:
        generator = seeded_generator("training batch", config.seed, step, accelerator.process_index)
        batch, target, style_masks = training_batch(patches, latents, pools, sampler, diffusion, settings, generator)
        batch, target = [tensor.to(accelerator.device) for tensor in batch], target.to(accelerator.device)
        answer, class_logits = network(*batch)
        errors = (answer.float() - target).square().mean(dim=(1, 2, 3))
        loss = (diffusion.loss_weights(batch[1], settings.max_loss_weight) * errors).mean()
        if class_logits is None:
            return loss
        return loss + settings.class_weight * class_loss(class_logits, style_masks.to(accelerator.device))

    def save_samples(n_steps: int) -> None:
        pipeline = SEDMPipeline.from_model(model.eval(), autoencoder)
        if on_checkpoint is not None:
            on_checkpoint(pipeline, n_steps)
        save_sample_sheet(pipeline, patches, sampler, config, Path(folder) / "samples" / f"step-{n_steps:08d}.png")

    fingerprint = run_fingerprint(config, patches, latents, initial)
    model.to(memory_format=memory_format(accelerator))
    optimise(accelerator, model, loss_of, settings, folder, fingerprint, progress=progress, on_checkpoint=save_samples)
    return model


def freeze_encoder(model: StyleDiffusion) -> None:
    """Leave encoder and aggregation as they are, but for the layers that tell classes apart."""
    model.style_encoder.requires_grad_(False)
    if model.style_encoder.tells_classes:
        model.style_encoder.features.class_maps.requires_grad_(True)
        model.style_encoder.features.classes.requires_grad_(True)


def class_loss(logits: Float[Tensor, "m n_classes h2 w2"], masks: UInt8[Tensor, "batch n h w"]) -> Float[Tensor, ""]:
    """Compute the cross-entropy of the classes of style images, whose masks are reduced to shares; unknown is left out.

    >>> class_loss(torch.tensor([[[[2.0]], [[0.0]]]]), torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor(0.0635)
    """
    shares = one_hot_layout(masks.flatten(0, 1), logits.shape[1])
    shares = F.adaptive_avg_pool2d(shares, logits.shape[2:])[:, :-1]
    return -(shares * logits.float().log_softmax(dim=1)).sum(dim=1).mean()


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
        factors = draw_density_factors(len(rows) * patches.n_classes, settings.class_jitter, generator)
        factors = factors.view(len(rows), -1, 3)
        has_masks = (style_masks != UNKNOWN).flatten(2).any(2).all(1)  # else they would keep their colours
        factors[drop_style | ~patches.is_annotated[rows] | ~has_masks] = 1
        x_0 = _jitter_classes(x_0[:, None], patches.masks[rows][:, None], factors)[:, 0]
        style_images = _jitter_classes(style_images, style_masks, factors)

    symmetry = draw_symmetries(len(rows), settings.symmetries, generator)
    x_0 = apply_symmetries(x_0, symmetry)
    layout = apply_symmetries(layout, symmetry)
    symmetry = draw_symmetries(style_images.shape[0] * style_images.shape[1], settings.symmetries, generator)
    style_images = apply_symmetries(style_images.flatten(0, 1), symmetry).unflatten(0, style_images.shape[:2])
    style_masks = apply_symmetries(style_masks.flatten(0, 1), symmetry).unflatten(0, style_masks.shape[:2])
    if settings.colour_jitter:
        factors = draw_density_factors(len(rows), settings.colour_jitter, generator)
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


def check_training_data(config: Config, patches: Patches, held_out: Collection[str]) -> None:
    """Refuse patches that cannot train a model of this configuration.

    Raises:
        ValueError: a held-out group, another image size, or no annotated image.
    """
    size = config.data.image_size
    if isinstance(held_out, str):
        raise ValueError(f"held_out={held_out!r}; give a set of groups, also of a single one")
    leaked = sorted(set(patches.groups) & set(held_out))
    if leaked:
        raise ValueError(
            f"group {leaked[0]!r} is held out for testing, but {len(leaked)} such groups are to be trained on"
        )
    if tuple(patches.images.shape[2:]) != (size, size):
        raise ValueError(f"images of {tuple(patches.images.shape[2:])} px, but data.image_size={size}")
    if not patches.is_annotated.any() and config.training.unannotated != "null_layout":
        raise ValueError(
            "no annotated image: layouts cannot be learned; give at least one group its masks, or pretrain without any "
            "by unannotated='null_layout'"
        )


def run_fingerprint(
    config: Config,
    patches: Patches,
    latents: Tensor | None = None,
    initial: StyleDiffusion | None = None,
) -> str:
    """Hash all that decides the trained weights: seed, settings, data, and the weights that they start from."""
    decisive = [patches.n_classes, config.seed, *map(dataclasses.asdict, (config.model, config.training))]
    parts = [json.dumps(decisive), patches.images, patches.masks, patches.is_annotated]
    parts += [] if latents is None else [latents]
    parts += [] if initial is None else initial.state_dict().values()
    parts += ["\n".join(patches.groups)]
    if patches.places is not None:  # they decide which images are nearby
        places = patches.places
        parts += [repr((places.slides, places.corners.tolist(), places.sides.tolist()))]
    return hash_of(*parts)


def save_sample_sheet(
    pipeline: SEDMPipeline, patches: Patches, sampler: StyleSampler, config: Config, path: Path
) -> None:
    """Save a sheet of samples: layouts in grey, below them images in the styles that their columns' bottom row shows.

    Where nothing is annotated, all layouts are null, which is white. Layouts and styles belong to different images and
    stay the same from sheet to sheet, as does the noise.
    """
    from PIL import Image

    generator, annotated = seeded_generator("sample sheet", config.seed), patches.is_annotated
    layout_rows, style_rows = (
        rows[torch.randperm(len(rows), generator=generator)].repeat(N_SHOWN)[:N_SHOWN]  # few rows are shown again
        for rows in ((annotated if annotated.any() else ~annotated).nonzero().flatten(), torch.arange(len(annotated)))
    )
    lenders = patches.images[sampler.draw_rows(style_rows.tolist(), generator)]
    layouts = patches.masks[layout_rows]
    images = sample_images(
        pipeline, layouts, pipeline.encode_styles(lenders), config.sampling, config.seed, progress=False
    )
    grey = layouts.float() * (255 / layouts.where(layouts != UNKNOWN, 0).max().clamp(min=1))
    rows = [grey.clamp(max=255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1), images, lenders[:, 0]]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    with replacing(path) as temporary:
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(temporary)


def train_generator(
    config: Config,
    patches: Patches,
    folder: str | Path,
    held_out: Collection[str],
    *,
    segmenter_folder: str | Path | None = None,
    autoencoder: AutoencoderKL | None = None,
    initial: StyleDiffusion | None = None,
    progress: bool = True,
) -> SEDMPipeline:
    """Train a generator and all that it needs: an autoencoder and predicted masks, as the configuration asks for.

    Everything trained is kept, and loaded when the same is asked for again; see `train_model`.

    Args:
        patches: annotated and unannotated images.
        folder: receives what `train_model` writes.
        held_out: groups that must not be among ``patches``, such as those of the test split.
        segmenter_folder: keeps the network that predicts masks, which several generators may share; ``folder`` when
            left out.
        autoencoder: already trained, shared by several generators; where the configuration asks for one and there is
            none, it is trained on ``patches`` and kept in ``folder/autoencoder``.
        initial: a model to go on from, of the same architecture.
        progress: show a bar with images/s, loss and time left.

    Returns:
        The pipeline, on the GPU where there is one.

    Raises:
        ValueError: see `check_training_data`.
        FloatingPointError: a loss diverged; the last checkpoint stays.
    """
    check_training_data(config, patches, held_out)  # before anything is trained
    if autoencoder is None:
        autoencoder = make_autoencoder(config, patches, Path(folder) / "autoencoder")
    labelled = with_predicted_masks(patches, config, segmenter_folder or folder)
    model = train_model(config, labelled, folder, held_out, autoencoder=autoencoder, initial=initial, progress=progress)
    return SEDMPipeline.from_model(model, autoencoder).to(pick_device())


def main(arguments: list[str] | None = None) -> None:
    """Train the generator of a study and save its pipeline; under a launcher, on several processes."""
    from sedm.config import PRESETS
    from sedm.config.studies import STUDIES

    parser = argparse.ArgumentParser("sedm train", description=main.__doc__)
    parser.add_argument("--study", choices=list(STUDIES), required=True)
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--data", default="", help="folder of parquet files, for a study that is not embedded")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the trained pipeline")
    options = parser.parse_args(arguments)
    accelerator = make_accelerator()  # a precision that it does not know is refused before data are drawn
    config = build_config(options.study, options.preset, options.seed)
    data = load_study(config, options.data)
    patches = data.label_subset(config.data.n_annotated_groups, config.seed)
    pipeline = train_generator(config, patches, options.out, data.held_out_groups)
    if accelerator.is_main_process:
        pipeline.save_pretrained(options.out / "model")
