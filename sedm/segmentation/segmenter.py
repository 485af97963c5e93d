"""Train segmentation networks on real and synthetic patches, and let them predict masks.

The network knows nothing about where its patches come from. Batch s of a training run is a function of
(seed, s): which rows, which flips, which colours.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sedm.config import SegmentationConfig
from sedm.data.augment import (
    apply_symmetries,
    draw_density_factors,
    draw_symmetries,
    jitter_channels,
    jitter_stains,
    scale_class_density,
)
from sedm.data.data_checksum import data_checksum
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.runtime.files import replacing
from sedm.runtime.fingerprints import hash_of
from sedm.runtime.hardware import pick_device
from sedm.runtime.loop import OneProcess, optimise
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.networks import UNet, build_segmenter
from sedm.segmentation.teachers import CONSISTENCIES, autocast, logits_of, ramp, teacher_of

CROSS_ENTROPY_WEIGHT = 0.1  # the rest is Dice; Öttl et al. 2024


def train_segmenter(
    real: Patches,
    config: SegmentationConfig,
    seed: int,
    synthetic: Patches | None = None,
    unannotated: UInt8[Tensor, "n 3 h w"] | None = None,
    progress: bool = True,
) -> nn.Module:
    """Train a network and return it in evaluation mode, on the GPU where there is one.

    Patches without a mask are never drawn. With ``synthetic``, ``config.synthetic_fraction`` of every batch (rounded
    to whole images) comes from it, so all arms take the same number of steps. Each process of a launcher trains for
    itself.

    Args:
        real: patches of which people annotated some; predicted masks among them are left out.
        seed: of the first weights and of every batch.
        synthetic: more patches, of the same size and classes, whoever made their masks.
        unannotated: images that the network learns from by what its teacher says of them (`teachers`), a batch of them
            every step; the network returned is then the teacher.
        progress: show a bar with images/s, loss and time left.

    Raises:
        ValueError: no annotated patch, or patches of different size or classes.
        FloatingPointError: the loss is no longer finite.

    >>> images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    >>> patches = Patches(images, (images[:, 0] > 127).to(torch.uint8), list("aabb"), classes=("dark", "light"))
    >>> config = SegmentationConfig(channels=(8, 16), n_steps=2, batch_size=4)
    >>> network = train_segmenter(patches, config, seed=0, progress=False)
    >>> predict(network, images).shape
    torch.Size([4, 16, 16])
    """
    device = pick_device()
    sources = _sources(real, synthetic, config)
    sources = [(patches.images.to(device), patches.masks.to(device), n) for patches, n in sources]
    network = build_segmenter(config, real.n_classes, seed).to(device, memory_format=torch.channels_last)
    teacher = None if unannotated is None else teacher_of(network, config)

    def loss_of(student: nn.Module, step: int) -> Tensor:
        if teacher is not None and step:
            teacher.update_parameters(student)  # which has just taken a step
        generator = seeded_generator("segmenter batch", seed, step)
        images, masks = _batch(sources, real.n_classes, config, generator)
        loss = segmentation_loss(logits_of(student, images), masks)
        if teacher is None:
            return loss
        rows = torch.randint(len(unannotated), (config.batch_size,), generator=generator)
        images = unannotated[rows].to(device, torch.float32) / 255
        weight = config.consistency_weight * ramp(step, config)
        return loss + weight * CONSISTENCIES[config.consistency](student, teacher, images, config, generator)

    optimise(OneProcess(device), network, loss_of, config, name="segmenter", progress=progress)
    network = network.to(device, memory_format=torch.channels_last)
    if teacher is None:
        return network
    teacher.update_parameters(network)
    return teacher.module


def kept_segmenter(folder: Path, name: str, patches: Patches, config: SegmentationConfig, seed: int) -> UNet:
    """Load the U-Net that ``folder`` keeps for these patches and settings, or train it on ``patches`` and keep it.

    It judges or filters images, and its encoder's features measure them, so it is a U-Net whatever ``config.network``.
    """
    config, patches = replace(config, network="unet"), patches.annotated()  # nothing else decides the weights
    key = hash_of(repr((config, patches.n_classes, seed, data_checksum(patches))))
    path = folder / f"{name}-{key}.safetensors"
    if not path.exists():
        weights = train_segmenter(patches, config, seed).state_dict()
        with replacing(path) as temporary:
            save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, temporary)
    with torch.device("meta"):  # no first weights, so no random numbers
        network = UNet(patches.n_classes, config.channels)
    network.load_state_dict(load_file(path), assign=True)
    return network.to(pick_device()).eval()


@torch.no_grad()
def predict(network: nn.Module, images: UInt8[Tensor, "n 3 h w"], batch_size: int = 64) -> UInt8[Tensor, "n h w"]:
    """Predict the most likely class at each pixel, (n, h, w), uint8, on the CPU.

    Args:
        network: as ``train_segmenter`` returns it; it is left in evaluation mode.
        images: RGB, uint8.
        batch_size: images at a time; the result does not depend on it beyond rounding.

    >>> predict(UNet(n_classes=2, channels=(8, 16)).eval(), torch.zeros(3, 3, 8, 8, dtype=torch.uint8)).dtype
    torch.uint8
    """
    network.eval()
    device = next(network.parameters()).device
    predictions = torch.empty(len(images), *images.shape[2:], dtype=torch.uint8)
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size].to(device, torch.float32) / 255
        with autocast(device):
            logits = network(batch.contiguous(memory_format=torch.channels_last))
        predictions[first : first + batch_size] = logits.argmax(1)
    return predictions


def segmentation_loss(
    logits: Float[Tensor, "batch classes h w"], masks: Integer[Tensor, "batch h w"]
) -> Float[Tensor, ""]:
    """Compute 0.1 · cross entropy + 0.9 · (1 − Dice), a scalar, at least 0.

    Dice is soft, pooled over the batch, and averaged over the classes that the batch's masks hold. Pixels
    whose mask is UNKNOWN count nowhere.

    Source: weights of Öttl et al. 2024; Dice of Milletari et al. 2016 (arXiv 1606.04797, section 3), here
    without squares in the denominator.

    >>> masks = torch.tensor([[[0, 1], [1, 255]]])
    >>> logits = 100 * F.one_hot(masks % 2, 2).permute(0, 3, 1, 2).float()
    >>> segmentation_loss(logits, masks).item() < 1e-6
    True
    """
    known = masks != UNKNOWN
    target = masks.long().where(known, 0)
    one_hot = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2) * known[:, None]
    log_probability = logits.log_softmax(1)
    cross_entropy = -(log_probability * one_hot).sum() / known.sum().clamp(min=1)
    probability = log_probability.exp() * known[:, None]
    overlap = (probability * one_hot).sum((0, 2, 3))
    sizes = (probability + one_hot).sum((0, 2, 3))
    present = one_hot.sum((0, 2, 3)) > 0
    dice_loss = ((1 - 2 * overlap / sizes.clamp(min=1)) * present).sum() / present.sum().clamp(min=1)
    return CROSS_ENTROPY_WEIGHT * cross_entropy + (1 - CROSS_ENTROPY_WEIGHT) * dice_loss


def augment(
    images: Float[Tensor, "batch 3 h w"],
    masks: UInt8[Tensor, "batch h w"],
    n_classes: int,
    config: SegmentationConfig,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch 3 h w"], UInt8[Tensor, "batch h w"]]:
    """Flip and turn images and masks alike, by multiples of 90°, then change the colours of the images.

    Each of the eight symmetries of the square is as likely (of four without turns, if h ≠ w).

    Args:
        images: in [0, 1].
        config: its ``class_jitter``, ``stain_jitter`` and ``colour_jitter`` change the colours, in this order.
        generator: on the CPU.

    >>> images, masks = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8)
    >>> config = SegmentationConfig(colour_jitter=0.1, class_jitter=0.5)
    >>> [x.shape for x in augment(images, masks, 2, config, torch.Generator().manual_seed(0))]
    [torch.Size([2, 3, 8, 8]), torch.Size([2, 8, 8])]
    """
    coins = draw_symmetries(len(images), "square", generator)
    images, masks = apply_symmetries(images, coins), apply_symmetries(masks, coins)
    if config.class_jitter:
        factors = draw_density_factors((len(images), n_classes), config.class_jitter, generator)
        images = scale_class_density(images, masks, factors.to(images.device))
    images = jitter_stains(images, config.stain_jitter, generator)
    return jitter_channels(images, config.colour_jitter, generator), masks


def _sources(real: Patches, synthetic: Patches | None, config: SegmentationConfig) -> list[tuple[Patches, int]]:
    """List what a batch is drawn from: patches with masks, and how many of them a batch holds."""
    n_synthetic = 0 if synthetic is None else round(config.synthetic_fraction * config.batch_size)
    n_real = config.batch_size - n_synthetic
    sources = [(real.annotated(), n_real)] if n_real else []
    if n_synthetic:
        sources.append((synthetic.with_masks(), n_synthetic))
    if any(len(patches) == 0 for patches, _ in sources):
        name = "real patch was annotated" if n_real and len(sources[0][0]) == 0 else "synthetic patch has a mask"
        raise ValueError(f"no {name}; at least one is needed to train on")
    if n_synthetic and real.classes != synthetic.classes:
        classes = [", ".join(patches.classes) for patches in (real, synthetic)]
        raise ValueError(f"synthetic patches of the classes {classes[1]}, real ones of {classes[0]}; take one study")
    if n_synthetic and real.images.shape[2:] != synthetic.images.shape[2:]:
        sizes = [f"{height}×{width}" for height, width in (real.images.shape[2:], synthetic.images.shape[2:])]
        raise ValueError(f"synthetic patches of {sizes[1]} px, real ones of {sizes[0]} px; decode both at one size")
    return sources


def _batch(
    sources: list[tuple[Tensor, Tensor, int]], n_classes: int, config: SegmentationConfig, generator: torch.Generator
) -> tuple[Float[Tensor, "batch 3 h w"], UInt8[Tensor, "batch h w"]]:
    rows = [torch.randint(len(masks), (n,), generator=generator).to(masks.device) for _, masks, n in sources]
    images = torch.cat([images[picked] for (images, _, _), picked in zip(sources, rows, strict=True)])
    masks = torch.cat([masks[picked] for (_, masks, _), picked in zip(sources, rows, strict=True)])
    return augment(images.float() / 255, masks, n_classes, config, generator)
