"""Training the generator: style encoder, aggregation and denoiser together.

    x_0 image, ℓ its layout, s the style of images of the same group, noise ~ N(0, 1), t uniform, spread over a batch
    x_t = α_t·x_0 + σ_t·noise
    minimise  w_t ‖ model(x_t, t, ℓ, s) − target(x_0, noise, t) ‖²          target and w: `sedm.generator.process`

A style encoder that tells the classes of style images learns that from their masks, in the same step.

From the shell, on one process or several: ``sedm train --help``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from sedm.config import Config, TrainingConfig
from sedm.data.patches import Patches
from sedm.data.pixels import to_signed
from sedm.generator.autoencoder import encode_images, latent_shape, make_autoencoder
from sedm.generator.denoiser import StyleDiffusion, build_model, one_hot_layout
from sedm.generator.paint import class_colours
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.process import Diffusion
from sedm.generator.sample_sheet import save_sample_sheet
from sedm.generator.training_batch import batch_pools, training_batch
from sedm.generator.unet import GROUP_WIDTH
from sedm.runtime.fingerprints import hash_of
from sedm.runtime.hardware import pick_device
from sedm.runtime.loop import make_accelerator, memory_format, optimise
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.predicted_masks import with_predicted_masks
from sedm.styles.backbones import MOMENTS_SIDE
from sedm.styles.sampling import StyleSampler

N_COUNTED, BATCH_COUNTED = 1024, 32  # images that deviations of colours are counted on, all and at once


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
    check_training_data(config, patches, held_out, initial)
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

    # a training that goes on from another must not see its batches again
    sitting = [] if initial is None else [int(hash_of(*initial.state_dict().values()), 16)]

    def loss_of(network: StyleDiffusion, step: int) -> Tensor:
        generator = seeded_generator("training batch", config.seed, step, accelerator.process_index, *sitting)
        batch, target, style_masks = training_batch(patches, latents, pools, sampler, diffusion, settings, generator)
        batch, target = [tensor.to(accelerator.device) for tensor in batch], target.to(accelerator.device)
        return generator_loss(network, batch, target, style_masks.to(accelerator.device), diffusion, settings)

    def save_samples(n_steps: int) -> None:
        pipeline = SEDMPipeline.from_model(model.eval(), autoencoder)
        if on_checkpoint is not None:
            on_checkpoint(pipeline, n_steps)
        save_sample_sheet(pipeline, patches, sampler, config, Path(folder) / "samples" / f"step-{n_steps:08d}.png")

    fingerprint = run_fingerprint(config, patches, latents, initial)
    model.to(memory_format=memory_format(accelerator))
    optimise(accelerator, model, loss_of, settings, folder, fingerprint, progress=progress, on_checkpoint=save_samples)
    if model.denoiser.starts_from_paint:
        count_deviations(model, patches, sampler, config.seed)
    return model


def generator_loss(
    model: StyleDiffusion,
    batch: Sequence[Tensor],
    target: Float[Tensor, "batch c s s"],
    style_masks: UInt8[Tensor, "batch n h w"],
    diffusion: Diffusion,
    settings: TrainingConfig,
) -> Float[Tensor, ""]:
    """Compute what training minimises: the weighted error of the answers, and that of the classes of style images.

    Args:
        batch: x_t, t, layouts, style images and which items see the null style, as `training_batch` draws them; with
            it come ``target``, what the model should answer, and ``style_masks``, where the classes really are.
    """
    x_0 = target if diffusion.objective == "x_0" else None  # deviations of colours are those of clean images
    answer, class_logits = model(*batch, x_0=x_0)
    errors = (answer.float() - target).square().mean(dim=(1, 2, 3))
    loss = (diffusion.loss_weights(batch[1], settings.max_loss_weight) * errors).mean()
    if class_logits is None:
        return loss
    return loss + settings.class_weight * class_loss(class_logits, style_masks)


@torch.no_grad()
def count_deviations(model: StyleDiffusion, patches: Patches, sampler: StyleSampler, seed: int) -> None:
    """Count P of `sedm.generator.paint` anew, on training images as they are, for a trained model.

    Training counts it on images whose densities were changed, which differ more. And images differ from their style by
    more than they do from each other, since n style images tell the colours of a group with an error of their own. A
    drawn image has the error of its lenders already, so that with (n − 1) / (n + 1) of the counted variance images of a
    group differ as real ones do.

    Args:
        patches: images with a mask, drawn or predicted; ``N_COUNTED`` of them at most are looked at. Without any
            nothing is counted, as in training.
        sampler: of their style images.
    """
    n, generator = sampler.n_images, seeded_generator("deviations", seed)
    rows = patches.has_mask.nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=generator)[:N_COUNTED]]
    if not len(rows):
        return
    deviations = model.denoiser.deviations
    deviations.forget()
    for part in rows.split(BATCH_COUNTED):
        style_images, _ = sampler.draw_images(part.tolist(), generator)
        style = model.style_encoder(style_images)
        colours, masks = class_colours(style)[..., :3], patches.masks[part.tolist()]
        shares = one_hot_layout(masks, patches.n_classes)
        is_counted = torch.ones(len(part), dtype=torch.bool)
        deviations.observe(to_signed(patches.images[part.tolist()]), shares, colours, is_counted, memory=1.0)
    deviations.products.mul_((n - 1) / (n + 1))


def freeze_encoder(model: StyleDiffusion) -> None:
    """Leave encoder and aggregation as they are, but for the layers that tell classes apart."""
    model.style_encoder.requires_grad_(False)
    if model.style_encoder.tells_classes:
        model.style_encoder.features.class_maps.requires_grad_(True)
        model.style_encoder.features.classes.requires_grad_(True)


def class_loss(logits: Float[Tensor, "m n_classes h2 w2"], masks: UInt8[Tensor, "batch n h w"]) -> Float[Tensor, ""]:
    """Compute the cross-entropy of the classes of style images, whose masks are reduced to shares; unknown is left out.

    >>> import torch
    >>> class_loss(torch.tensor([[[[2.0]], [[0.0]]]]), torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor(0.0635)
    """
    shares = one_hot_layout(masks.flatten(0, 1), logits.shape[1])
    shares = F.adaptive_avg_pool2d(shares, logits.shape[2:])[:, :-1]
    return -(shares * logits.float().log_softmax(dim=1)).sum(dim=1).mean()


def check_training_data(
    config: Config, patches: Patches, held_out: Collection[str], initial: StyleDiffusion | None = None
) -> None:
    """Refuse patches, and a model to go on from, that cannot train a model of this configuration.

    Raises:
        ValueError: a held-out group, another image size, no annotated image, or an initial model of other settings.
    """
    size = config.data.image_size
    if initial is not None:
        check_initial(initial, config, patches.n_classes)
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


def check_initial(initial: StyleDiffusion, config: Config, n_classes: int) -> None:
    """Refuse a model that a training of this configuration cannot go on from.

    Raises:
        ValueError: another number of classes, image size or setting of the model, or weights that are not finite.
    """
    saved = initial.denoiser.config
    before = {"n_classes": saved.n_classes, "image_size": saved.image_size} | dataclasses.asdict(saved.model)
    now = {"n_classes": n_classes, "image_size": config.data.image_size} | dataclasses.asdict(config.model)
    for name, value in now.items():
        if before[name] != value:
            raise ValueError(f"the initial model has {name}={before[name]!r}, but {value!r} is to be trained")
    broken = [name for name, weights in initial.state_dict().items() if not weights.isfinite().all()]
    if broken:
        raise ValueError(f"the initial model has weights that are not finite, such as {broken[0]}; take another")


def run_fingerprint(
    config: Config,
    patches: Patches,
    latents: Tensor | None = None,
    initial: StyleDiffusion | None = None,
) -> str:
    """Hash all that decides the trained weights: seed, settings, data, and the weights that they start from."""
    decisive = [patches.n_classes, config.seed, *map(dataclasses.asdict, (config.model, config.training))]
    decisive += [GROUP_WIDTH, MOMENTS_SIDE]  # no settings, but a checkpoint of other ones would train another network
    parts = [json.dumps(decisive), patches.images, patches.masks, patches.is_annotated]
    parts += [] if latents is None else [latents]
    parts += [] if initial is None else initial.state_dict().values()
    parts += ["\n".join(patches.groups)]
    if patches.places is not None:  # they decide which images are nearby
        places = patches.places
        parts += [repr((places.slides, places.corners.tolist(), places.sides.tolist()))]
    return hash_of(*parts)


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
    check_training_data(config, patches, held_out, initial)  # before anything is trained
    if autoencoder is None:
        autoencoder = make_autoencoder(config, patches, Path(folder) / "autoencoder")
    labelled = with_predicted_masks(patches, config, segmenter_folder or folder)
    model = train_model(config, labelled, folder, held_out, autoencoder=autoencoder, initial=initial, progress=progress)
    return SEDMPipeline.from_model(model, autoencoder).to(pick_device())
