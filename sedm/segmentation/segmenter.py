"""Training segmentation networks on real and synthetic patches, and what they predict.

The network knows nothing about where its patches come from. Batch s of a training run is a function of
(seed, s): which rows, which flips, which colours.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sedm.config import SegmentationConfig
from sedm.data.augment import apply_symmetries, draw_symmetries
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches, data_checksum
from sedm.runtime.files import replacing
from sedm.runtime.hardware import autocast_dtype, pick_device
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.networks import UNet, build_segmenter

CROSS_ENTROPY_WEIGHT = 0.1  # the rest is Dice; Öttl et al. 2024
WARMUP_FRACTION = 0.05  # of the steps
WEIGHT_DECAY = 1e-2
TEACHER_DECAY = 0.99  # of the moving average; a plain average of all steps before there are 100 of them
RAMP_FRACTION = 0.4  # of the steps, until the teacher counts in full
STUDENT_JITTER = 0.3  # strength of the colour changes that the teacher is not shown


def train_segmenter(
    real: Patches,
    config: SegmentationConfig,
    seed: int,
    synthetic: Patches | None = None,
    unannotated: UInt8[Tensor, "n 3 h w"] | None = None,
    progress: bool = True,
) -> nn.Module:
    """A trained network in evaluation mode, on the GPU where there is one.

    Patches without a mask are never drawn. With ``synthetic``, ``config.synthetic_fraction`` of every
    batch (rounded to whole images) comes from it, so all arms take the same number of steps.

    Args:
        real: patches of which people annotated some; predicted masks among them are left out.
        seed: of the first weights and of every batch.
        synthetic: more patches, of the same size and classes, whoever made their masks.
        unannotated: images that a mean teacher learns from (`consistency_loss`), a batch of them every step; the
            network returned is then the teacher.
        progress: show a bar with images/s and the time left.

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
    from tqdm import tqdm

    device = pick_device()
    sources = _sources(real, synthetic, config)
    sources = [(patches.images.to(device), patches.masks.to(device), n) for patches, n in sources]
    network = build_segmenter(config, real.n_classes, seed).to(device, memory_format=torch.channels_last)
    teacher = None if unannotated is None else AveragedModel(network, avg_fn=_follow, use_buffers=True).eval()
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warmup_cosine(step, config.n_steps))
    network.train()
    steps = range(config.n_steps)
    for step in tqdm(steps, "segmenter", unit="image", unit_scale=config.batch_size, disable=not progress):
        generator = seeded_generator("segmenter batch", seed, step)
        images, masks = _batch(sources, config.colour_jitter, generator)
        loss = segmentation_loss(_logits(network, images), masks)
        if teacher is not None:
            rows = torch.randint(len(unannotated), (config.batch_size,), generator=generator)
            images = unannotated[rows].to(device, torch.float32) / 255
            weight = config.consistency_weight * _ramp(step, config.n_steps)
            loss = loss + weight * consistency_loss(network, teacher, images, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if teacher is not None:
            teacher.update_parameters(network)
    if not loss.isfinite():  # once it is not, it stays so
        raise FloatingPointError(f"the loss of a segmentation network ended as {loss.item()}; lower the learning rate")
    return (network if teacher is None else teacher.module).eval()


def kept_segmenter(folder: Path, name: str, patches: Patches, config: SegmentationConfig, seed: int) -> UNet:
    """A U-Net trained on ``patches``: the one kept in ``folder``, else it is trained and kept there.

    It judges or filters images, and its encoder's features measure them, so it is a U-Net whatever ``config.network``.
    """
    config, patches = replace(config, network="unet"), patches.annotated()  # nothing else decides the weights
    key = hashlib.sha256(repr((config, patches.n_classes, seed, data_checksum(patches))).encode()).hexdigest()[:12]
    path = folder / f"{name}-{key}.safetensors"
    if not path.exists():
        weights = train_segmenter(patches, config, seed, progress=False).state_dict()
        with replacing(path) as temporary:
            save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, temporary)
    with torch.device("meta"):  # no first weights, so no random numbers
        network = UNet(patches.n_classes, config.channels)
    network.load_state_dict(load_file(path), assign=True)
    return network.to(pick_device()).eval()


@torch.no_grad()
def predict(network: nn.Module, images: UInt8[Tensor, "n 3 h w"], batch_size: int = 64) -> UInt8[Tensor, "n h w"]:
    """The most likely class at each pixel, (n, h, w), uint8, on the CPU.

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
        with _autocast(device):
            logits = network(batch.contiguous(memory_format=torch.channels_last))
        predictions[first : first + batch_size] = logits.argmax(1)
    return predictions


def segmentation_loss(
    logits: Float[Tensor, "batch classes h w"], masks: Integer[Tensor, "batch h w"]
) -> Float[Tensor, ""]:
    """0.1 · cross entropy + 0.9 · (1 − Dice), a scalar, at least 0.

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
    overlap, sizes = (probability * one_hot).sum((0, 2, 3)), (probability + one_hot).sum((0, 2, 3))
    present = one_hot.sum((0, 2, 3)) > 0
    dice_loss = ((1 - 2 * overlap / sizes.clamp(min=1)) * present).sum() / present.sum().clamp(min=1)
    return CROSS_ENTROPY_WEIGHT * cross_entropy + (1 - CROSS_ENTROPY_WEIGHT) * dice_loss


def augment(
    images: Float[Tensor, "batch 3 h w"],
    masks: UInt8[Tensor, "batch h w"],
    colour_jitter: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch 3 h w"], UInt8[Tensor, "batch h w"]]:
    """The pairs flipped and turned by multiples of 90°, and the images recoloured; same shapes and types.

    Each of the eight symmetries of the square is as likely (of four without turns, if h ≠ w). Recolouring
    stretches each channel of each image about its mean by up to 1 ± ``colour_jitter``, and shifts it by up to
    ± ``colour_jitter`` / 2.

    Args:
        images: in [0, 1].
        colour_jitter: strength; 0 leaves colours alone.
        generator: on the CPU.

    >>> images, masks = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8)
    >>> [x.shape for x in augment(images, masks, 0.1, torch.Generator().manual_seed(0))]
    [torch.Size([2, 3, 8, 8]), torch.Size([2, 8, 8])]
    """
    coins = draw_symmetries(len(images), "square", generator).to(images.device)
    images, masks = apply_symmetries(images, coins), apply_symmetries(masks, coins)
    return jitter_colours(images, colour_jitter, generator), masks


def jitter_colours(
    images: Float[Tensor, "batch 3 h w"], strength: float, generator: torch.Generator
) -> Float[Tensor, "batch 3 h w"]:
    """Each channel of each image stretched about its mean by up to 1 ± strength, and shifted by up to ± strength / 2.

    >>> jitter_colours(torch.full((1, 3, 2, 2), 0.5), 0.1, torch.Generator().manual_seed(0)).std((2, 3)).max().item()
    0.0
    """
    stretch, shift = strength * (2 * torch.rand(2, len(images), 3, 1, 1, generator=generator).to(images.device) - 1)
    mean = images.mean((2, 3), keepdim=True)
    return (mean + (images - mean) * (1 + stretch) + shift / 2).clamp(0, 1) if strength else images


def consistency_loss(
    network: nn.Module, teacher: nn.Module, images: Float[Tensor, "batch 3 h w"], generator: torch.Generator
) -> Float[Tensor, ""]:
    """How far the network's probabilities on recoloured images are from the teacher's on the images as they are.

    Both see the same flips and turns. Mean over pixels of the squared distance of the two distributions.

    Source: mean teacher, Tarvainen & Valpola 2017 (arXiv 1703.01780), whose noise are here the colours.

    Args:
        images: in [0, 1].
        teacher: a moving average of the network; no gradient reaches it.
    """
    coins = draw_symmetries(len(images), "square", generator).to(images.device)
    images = apply_symmetries(images, coins)
    with torch.no_grad():
        wanted = _logits(teacher, images).softmax(1)
    found = _logits(network, jitter_colours(images, STUDENT_JITTER, generator)).softmax(1)
    return (found - wanted).square().sum(1).mean()


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
    sources: list[tuple[Tensor, Tensor, int]], colour_jitter: float, generator: torch.Generator
) -> tuple[Float[Tensor, "batch 3 h w"], UInt8[Tensor, "batch h w"]]:
    rows = [torch.randint(len(masks), (n,), generator=generator).to(masks.device) for _, masks, n in sources]
    images = torch.cat([images[picked] for (images, _, _), picked in zip(sources, rows, strict=True)])
    masks = torch.cat([masks[picked] for (_, masks, _), picked in zip(sources, rows, strict=True)])
    return augment(images.float() / 255, masks, colour_jitter, generator)


def _warmup_cosine(step: int, n_steps: int) -> float:
    """The share of the peak learning rate: a linear rise, then half a cosine to zero."""
    n_warmup = max(1, round(WARMUP_FRACTION * n_steps))
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))


def _ramp(step: int, n_steps: int) -> float:
    """The share of the teacher's weight: it rises over the first two fifths of the steps, as the teacher gets good."""
    return math.exp(-5 * (1 - min(1.0, step / (RAMP_FRACTION * n_steps))) ** 2)


def _follow(average: Tensor, student: Tensor, n_averaged: Tensor) -> Tensor:
    """The teacher's weight after one more step of the student."""
    return average + (student - average) * max(1 - TEACHER_DECAY, 1 / (int(n_averaged) + 1))


def _logits(network: nn.Module, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes h w"]:
    with _autocast(images.device):
        return network(images.contiguous(memory_format=torch.channels_last)).float()


def _autocast(device: torch.device) -> torch.autocast:
    dtype = autocast_dtype(device)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
