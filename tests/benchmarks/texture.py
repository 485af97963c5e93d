"""Texture alone: what a trained style encoder and a frozen one know where groups differ in nothing else.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.texture [--preset quick] [--seeds 0 1] [--n-steps N]

Drawn tissue is changed so that in every image each class has the same mean colour and the same covariance of red,
green and blue (`equalise_colours`). What is left to tell patients apart is texture: how crowded and how large glands
and nuclei are, fibres, blur. A generator is trained with its style encoder, and one whose encoder stays as it was
initialised (but for the layers that tell classes apart). Written to ``figures/benchmarks/texture.json``, for each:

    encoder                  share of real images of unseen patients whose style is nearest to that of their patient's
    generated, by features   share of generated images whose features are nearest to those of the patient that lent the
                             style, by a network that no generator saw
    generated, by colours    the same by mean and deviation of L*, a*, b*

beside what real images reach and what chance does.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sedm.config import PRESETS, build_config
from sedm.data.patches import Patches
from sedm.data.study_data import load_study
from sedm.fidelity import segmenter_extractor
from sedm.fidelity.style import colour_statistics, retrieve_groups
from sedm.fidelity.unseen import draw_in_styles, draw_unseen, measure_generator
from sedm.generator.training import train_generator
from sedm.segmentation.segmenter import kept_segmenter

from .measure import save_results

SPLITS = ("train", "validation", "test")
SMALLEST = 24  # pixels of a class whose covariance is worth the name; smaller ones take its mean colour
ROUNDS = 8  # clipping and rounding shift moments a little, so they are set again


def equalise_colours(patches: Patches, moments: list[tuple[Tensor, Tensor]]) -> Patches:
    """Give each class of every image the same mean and covariance of red, green and blue, those of ``moments``.

    The map is the linear one that moves colours least (Monge–Kantorovich; Pitié & Kokaram 2007). Images whose class is
    flat, or has fewer than ``SMALLEST`` pixels, get its mean colour.
    """
    images = [
        _equalise(image, mask, moments) for image, mask in zip(patches.images.double(), patches.masks, strict=True)
    ]
    return replace(patches, images=torch.stack(images))


def class_moments(patches: Patches) -> list[tuple[Tensor, Tensor]]:
    """Measure the mean colour of each class, and the mean over images of the covariance within them."""
    moments = []
    for k in range(patches.n_classes):
        of_images = [i[:, mask == k].double() for i, mask in zip(patches.images, patches.masks, strict=True)]
        of_images = [pixels for pixels in of_images if pixels.shape[1] >= SMALLEST]
        mean = torch.stack([pixels.mean(dim=1) for pixels in of_images]).mean(dim=0)
        covariance = torch.stack([pixels.cov() for pixels in of_images]).mean(dim=0)
        # a class as bright as empty glass would be clipped
        deviation = covariance.diagonal().sqrt()
        moments.append((torch.minimum(mean, 255 - 2.5 * deviation), covariance))
    return moments


def _equalise(image: Float[Tensor, "3 h w"], mask: UInt8[Tensor, "h w"], moments: list) -> UInt8[Tensor, "3 h w"]:
    image = image.clone()
    for k, (mean, covariance) in enumerate(moments):
        pixels = image[:, mask == k]
        for _ in range(ROUNDS):
            if pixels.shape[1] < SMALLEST:
                pixels = mean[:, None].expand_as(pixels)
                break
            found = pixels.cov() + 1e-3 * torch.eye(3)
            root = _root(found)
            matrix = root.inverse() @ _root(root @ covariance @ root) @ root.inverse()
            pixels = (mean[:, None] + matrix @ (pixels - pixels.mean(dim=1, keepdim=True))).clamp(0, 255).round()
        image[:, mask == k] = pixels
    return image.to(torch.uint8)


def _root(matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT


def retrieval(features, groups: list[str], reference_features, reference_groups: list[str]) -> float:
    """Compute the share of rows nearest to the mean of their own group, as a mean over groups."""
    ranks = retrieve_groups(features, groups, reference_features, reference_groups)
    return float((ranks["rank"] == 1).groupby(ranks["group"]).mean().mean())


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.texture", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--n-steps", type=int, help="of training; the preset's when left out")
    parser.add_argument("--runs", type=Path, default=Path("data/runs/texture"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = build_config("tissue", given.preset)
    data = load_study(config)
    moments = class_moments(data.train)
    train, validation, test = (equalise_colours(data.patches[split], moments) for split in SPLITS)
    subset = train.hide_masks(config.data.n_annotated_groups, seed=0)
    judge = kept_segmenter(given.runs, "judge", validation, config.segmentation, seed=0)
    segmenter = kept_segmenter(given.runs, "segmenter", subset, config.segmentation, seed=0)
    extractor = segmenter_extractor(segmenter, "the annotated training images")
    unseen = draw_unseen(test, judge, extractor)
    references, lenders = unseen.references, unseen.lenders
    ways = {"by features": extractor, "by colours": colour_statistics}
    known = {name: read(references.images) for name, read in ways.items()}
    floors = {"chance": 1 / len(set(references.groups))}
    for name, read in ways.items():
        floors[f"real, {name}"] = retrieval(read(lenders.images), lenders.groups, known[name], references.groups)
    n_steps = given.n_steps or config.training.n_steps
    found = {}
    for name, is_trained in {"trained": True, "frozen": False}.items():
        for seed in given.seeds:
            training = replace(config.training, n_steps=n_steps, train_style_encoder=is_trained)
            run = replace(config, seed=seed, training=training)
            folder = given.runs / f"{name}-seed{seed}-{n_steps}"
            pipeline = train_generator(run, subset, folder, data.held_out_groups, segmenter_folder=given.runs)
            images = draw_in_styles(pipeline, run, unseen)
            record = measure_generator(pipeline, run, unseen, images)["measures"]
            measures = {"encoder": record["embedding_retrieval_top1"]}
            for way, read in ways.items():
                measures[f"generated, {way}"] = retrieval(read(images), unseen.groups, known[way], references.groups)
            kept = ("kernel_distance", "recall", "layout_iou")
            found.setdefault(name, {})[seed] = measures | {measure: record[measure] for measure in kept}
            print(name, seed, found[name][seed], flush=True)
    settings = {"preset": given.preset, "n_images": n_steps * config.training.batch_size, "split": "test"}
    print(save_results("texture", settings | {"floors": floors, "encoders": found}), floors)


if __name__ == "__main__":
    main()
