"""Learning from images without masks: a teacher, the moving average of the network, says what they show.

mean_teacher    the student, shown other colours, should answer as the teacher
unimatch        shown other colours, pieces of other images and half of its own features, it should answer what the
                teacher is sure of; twice, so that each half of the features is used
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sedm import config as settings
from sedm.config import SegmentationConfig
from sedm.data.augment import apply_symmetries, draw_symmetries, jitter_channels
from sedm.runtime.hardware import autocast_dtype
from sedm.segmentation.networks import UNet

PIECE = (0.02, 0.4)  # least and largest share of an image that a piece of another one covers
SQUARENESS = 0.3  # least ratio of its sides


def mean_teacher_loss(
    network: nn.Module,
    teacher: nn.Module,
    images: Float[Tensor, "batch 3 h w"],
    config: SegmentationConfig,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Measure how far the network's answers to images in other colours are from the teacher's to the images themselves.

    Both see the same flips and turns. Mean over pixels of the squared distance of the two class distributions.

    Source: mean teacher, Tarvainen & Valpola 2017 (arXiv 1703.01780); their noise is here a change of colours.

    Args:
        teacher: a moving average of the network; no gradient reaches it.
        images: in [0, 1].
        config: its ``student_jitter`` is the strength of the colour changes (`jitter_channels`).
    """
    images = apply_symmetries(images, draw_symmetries(len(images), "square", generator))
    with torch.no_grad():
        target = logits_of(teacher, images).softmax(1)
    probability = logits_of(network, jitter_channels(images, config.student_jitter, generator)).softmax(1)
    return (probability - target).square().sum(1).mean()


def unimatch_loss(
    network: nn.Module,
    teacher: nn.Module,
    images: Float[Tensor, "batch 3 h w"],
    config: SegmentationConfig,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Compute the cross-entropy of the network's answers to two strong views, where the teacher is sure of the classes.

    A strong view has other colours and a piece of another image of the batch, whose classes it takes along; the network
    answers it from a random half of its deepest features, and the other view from the other half. Pixels that the
    teacher is less sure of than ``config.confidence`` count as 0.

    Source: UniMatch V2, Yang et al. 2024 (arXiv 2410.10777): confidence threshold, CutMix (Yun et al. 2019, arXiv
    1905.04899), two strong views, complementary dropout; their encoder is a pretrained one.

    Args:
        teacher, images: as in `mean_teacher_loss`.
        config: ``student_jitter`` is the strength of the colour changes.

    Raises:
        ValueError: a network that is no U-Net of ours.
    """
    if not isinstance(network, UNet):
        raise ValueError("consistency='unimatch' drops features of the U-Net; choose network='unet' or 'mean_teacher'")
    images = apply_symmetries(images, draw_symmetries(len(images), "square", generator))
    with torch.no_grad():
        confidence, classes = logits_of(teacher, images).softmax(1).max(1)
    width = network.down[-1][0].out_channels
    half = (torch.rand(len(images), width, 1, 1, generator=generator) < 0.5).to(images.device)
    loss = 0
    for kept in (half, ~half):
        piece = draw_pieces(len(images), *images.shape[2:], generator).to(images.device)
        view = images.roll(1, 0).where(piece[:, None], images)
        target, sure = (one.roll(1, 0).where(piece, one) for one in (classes, confidence))
        view = jitter_channels(view, config.student_jitter, generator)
        answer = logits_of(network, view, 2.0 * kept)
        errors = F.cross_entropy(answer, target, reduction="none")
        loss = loss + (errors * (sure >= config.confidence)).mean() / 2
    return loss


CONSISTENCIES = {"mean_teacher": mean_teacher_loss, "unimatch": unimatch_loss}
assert tuple(CONSISTENCIES) == settings.CONSISTENCIES  # settings are checked before torch is imported


def draw_pieces(n: int, height: int, width: int, generator: torch.Generator) -> Bool[Tensor, "n height width"]:
    """Draw a rectangle in each of n images, for CutMix.

    >>> pieces = draw_pieces(100, 64, 64, torch.Generator().manual_seed(0))
    >>> shares = pieces.float().mean((1, 2))
    >>> bool(shares.min() > 0.015), bool(shares.max() < 0.42)
    (True, True)
    """
    area = PIECE[0] + (PIECE[1] - PIECE[0]) * torch.rand(n, generator=generator)
    ratio = SQUARENESS + (1 / SQUARENESS - SQUARENESS) * torch.rand(n, generator=generator)
    rows, columns = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    inside = []
    for share, size in ((rows, height), (columns, width)):
        length = (share * size).round().clamp(min=1)
        start = (torch.rand(n, generator=generator) * (size - length)).round()
        places = torch.arange(size)
        inside.append((places >= start[:, None]) & (places < (start + length)[:, None]))
    return inside[0][:, :, None] & inside[1][:, None]


def ramp(step: int, config: SegmentationConfig) -> float:
    """Compute the share of the consistency weight at this step: it rises while the teacher becomes good."""
    return math.exp(-5 * (1 - min(1.0, step / (config.consistency_ramp * config.n_steps))) ** 2)


def teacher_of(network: nn.Module, config: SegmentationConfig) -> AveragedModel:
    """Begin the moving average of the network that it learns from."""

    def follow(average: Tensor, student: Tensor, n_averaged: Tensor) -> Tensor:
        return average + (student - average) * max(1 - config.teacher_decay, 1 / (int(n_averaged) + 1))

    return AveragedModel(network, avg_fn=follow, use_buffers=True).eval().requires_grad_(False)


def logits_of(
    network: nn.Module, images: Float[Tensor, "batch 3 h w"], *features_kept: Tensor
) -> Float[Tensor, "batch classes h w"]:
    """Compute a network's logits in the precision of the hardware; ``features_kept`` are passed on to it."""
    with autocast(images.device):
        return network(images.contiguous(memory_format=torch.channels_last), *features_kept).float()


def autocast(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where the hardware does."""
    dtype = autocast_dtype(device)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
