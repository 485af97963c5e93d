"""How well a model does on groups it never saw: style, layout, distance from real images and denoising, as numbers.

Everything that is drawn here (groups, layouts, noise) is drawn alike at every call, so that models compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sedm.config import Config
from sedm.data.tensors import PatchTensors
from sedm.diffusion import Diffusion
from sedm.fidelity import (
    colour_distances,
    colour_statistics,
    kernel_distance,
    retrieve_groups,
    retrieve_one_left_out,
    split_halves,
    stage_features,
    style_agreement,
    style_correlation,
)
from sedm.pipeline import SEDMPipeline, sample_images
from sedm.scores import score_groups
from sedm.seeds import seeded_generator
from sedm.segment import predict
from sedm.segmentation_networks import UNet
from sedm.styles import first_rows

N_GROUPS, N_LAYOUTS = 12, 8  # every unseen group lends its style to as many layouts
NOISE_LEVELS = (100, 300, 500, 700, 900)  # times of the x_0 objective's schedule


class Unseen(NamedTuple):
    """Groups that no model was trained on, and a judge that was trained on others again."""

    lenders: PatchTensors  # half of each group's images; the first of them lend the style
    references: PatchTensors  # the other half, which generated images are compared with
    layouts: UInt8[Tensor, "n h w"]  # to be drawn: masks of other unseen groups
    groups: list[str]  # in the style of these
    judge: UNet  # its predictions tell layouts, its encoder's features distances
    n_classes: int

    def style_images(self, groups: Sequence[str], n_images: int) -> UInt8[Tensor, "m n_images 3 h w"]:
        """The images that lend the style of each of ``groups``."""
        return self.lenders.images[first_rows(self.lenders.groups, list(groups), n_images)]


def draw_unseen(test: PatchTensors, judge: UNet, n_classes: int) -> Unseen:
    """The ``N_GROUPS`` largest groups of ``test``, with ``N_LAYOUTS`` layouts for each.

    Raises:
        ValueError: fewer than two groups with two or more annotated images.
    """
    test = test.annotated()
    sizes = {name: test.groups.count(name) for name in dict.fromkeys(test.groups)}
    names = sorted((name for name in sizes if sizes[name] > 1), key=lambda name: -sizes[name])[:N_GROUPS]
    if len(names) < 2:
        raise ValueError(f"{len(names)} test groups have two or more annotated images; two such groups are needed")
    chosen = test.select([row for row, group in enumerate(test.groups) if group in names])
    lenders, references = (chosen.select(rows) for rows in split_halves(chosen.groups, seed=0))
    rows = []
    for index, name in enumerate(names):
        others = torch.tensor([row for row, group in enumerate(chosen.groups) if group != name])
        order = torch.randperm(len(others), generator=seeded_generator("unseen layouts", 0, index))
        rows += [int(others[order[i % len(others)]]) for i in range(N_LAYOUTS)]
    groups = [name for name in names for _ in range(N_LAYOUTS)]
    return Unseen(lenders, references, chosen.masks[rows], groups, judge, n_classes)


def measure_images(
    images: UInt8[Tensor, "n 3 h w"], groups: Sequence[str], layouts: UInt8[Tensor, "n h w"], unseen: Unseen
) -> dict[str, float]:
    """How far images follow the style of ``groups`` and show ``layouts``, and how far they are from real ones.

    ==============================  ====================================================================================
    ``retrieval_top1``              share of images whose colour statistics are nearest to those of their own group
    ``colour_distance``             CIE 1976 difference between the mean colours of a group's generated and real images
    ``colour_distance_to_others``   … and of the real images of other groups
    ``correlation_mean_l`` …        Spearman's, over groups, of each colour statistic
    ``layout_iou``                  of the judge's answer with the layout: mean over groups, foreground classes
    ``wrong_layout_iou``            … with the layout of the next image
    ``kernel_distance``             from real images, on the encoder features of the judge
    ==============================  ====================================================================================
    """
    real, groups = unseen.references, list(groups)
    of_images, of_real = colour_statistics(images), colour_statistics(real.images)
    ranks = retrieve_groups(of_images, groups, of_real, real.groups)["rank"]
    agreement = style_agreement(of_images, groups, of_real, real.groups)
    distances = colour_distances(of_images, groups, of_real, real.groups).mean()
    answer = predict(unseen.judge, images)
    stages = [unseen.judge.stem, *unseen.judge.down]
    features = [stage_features(unseen.judge, stages, one) for one in (images, real.images)]
    return {
        "retrieval_top1": float((ranks == 1).mean()),
        "colour_distance": float(distances["own"]),
        "colour_distance_to_others": float(distances["others"]),
        **style_correlation(agreement).add_prefix("correlation_").to_dict(),
        "layout_iou": _mean_iou(answer, layouts, groups, unseen.n_classes),
        "wrong_layout_iou": _mean_iou(answer, layouts.roll(1, 0), groups, unseen.n_classes),
        "kernel_distance": kernel_distance(*features),
    }


def measure_floors(unseen: Unseen) -> dict[str, dict[str, float]]:
    """`measure_images` of real images: with their own groups and masks ("real"), and with others' ("shuffled")."""
    lenders, half = unseen.lenders, len(unseen.lenders.groups) // 2
    others = lenders.groups[half:] + lenders.groups[:half]
    return {
        "real": measure_images(lenders.images, lenders.groups, lenders.masks, unseen),
        "shuffled": measure_images(lenders.images, others, lenders.masks.roll(-half, 0), unseen),
    }


def measure_model(pipeline: SEDMPipeline, config: Config, unseen: Unseen) -> dict[str, float]:
    """`measure_images` of a model's samples, `denoising_errors`, and what its style encoder knows of unseen groups.

    ``embedding_retrieval_top1``: share of real images whose embedding is nearest to the mean embedding of the other
    images of their group. A model trained without styles (``style_sampling="none"``) gets the null style.
    """
    styles = None, None
    if config.training.style_sampling != "none":
        n_images = config.sampling.n_style_images
        lent = (unseen.style_images(groups, n_images) for groups in (unseen.groups, unseen.references.groups))
        styles = [pipeline.encode_styles(images) for images in lent]
    images = sample_images(pipeline, unseen.layouts, styles[0], config.sampling, seed=0, progress=False)
    embeddings = pipeline.embed(torch.cat([unseen.lenders.images, unseen.references.images]))
    ranks = retrieve_one_left_out(embeddings.numpy(), unseen.lenders.groups + unseen.references.groups)["rank"]
    return {
        **measure_images(images, unseen.groups, unseen.layouts, unseen),
        "embedding_retrieval_top1": float((ranks == 1).mean()),
        **denoising_errors(pipeline, unseen.references, styles[1]),
    }


@torch.no_grad()
def denoising_errors(
    pipeline: SEDMPipeline, patches: PatchTensors, styles: Float[Tensor, "n n_tokens dim"] | None
) -> dict[str, float]:
    """Mean squared error of x_0, in [−1, 1], given each image's own layout: ``x_0_error_100`` … ``x_0_error_900``.

    The number names a time of the x_0 objective's schedule. Other schedules have its ratio of noise to image at
    another time, which is taken there, so that every objective has to clean equally noisy images.
    """
    denoiser, device = pipeline.denoiser, pipeline.device
    diffusion, levels = Diffusion(denoiser.config.model.objective), Diffusion("x_0")
    ratios, wanted = ((one.sigmas / one.alphas).log() for one in (diffusion, levels))
    styles = denoiser.null_style.expand(len(patches.groups), 1, -1) if styles is None else styles.to(device)
    errors = {}
    for level in NOISE_LEVELS:
        t = (ratios - wanted[level]).abs().argmin().to(device)
        generator, squares = seeded_generator("denoising errors", 0, level), []
        for rows in torch.arange(len(patches.groups)).split(64):
            x_0 = (patches.images[rows].float() / 127.5 - 1).to(device)
            noise, times = torch.randn(x_0.shape, generator=generator).to(device), t.expand(len(rows))
            x_t = diffusion.add_noise(x_0, noise, times)
            output = denoiser(x_t, times, patches.masks[rows].to(device), styles[rows])
            squares.append((diffusion.to_x_0(output, x_t, times).clamp(-1, 1) - x_0).square().mean(dim=(1, 2, 3)))
        errors[f"x_0_error_{level}"] = torch.cat(squares).mean().item()
    return errors


def _mean_iou(answer: Tensor, layouts: Tensor, groups: list[str], n_classes: int) -> float:
    return float(score_groups(answer, layouts, groups, n_classes)["mean_iou"].mean())
