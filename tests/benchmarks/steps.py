"""Quality against solver steps, and against the reference's 143 guided DDIM steps, on the same trained model.

    python -m tests.benchmarks.steps [--model data/runs/tissue/quick/model] [--study tissue] [--preset quick]

96 images: layouts and styles of groups that the model never saw, judged against other real images of these groups,
beside what real images themselves score (the floor). About eight minutes on one core, nearly all of it the 286
network evaluations an image of the reference. Written to ``figures/benchmarks/steps.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sedm.config import PRESETS, build_config
from sedm.config.studies import STUDIES
from sedm.data.study_data import load_study
from sedm.fidelity import segmenter_extractor
from sedm.fidelity.unseen import draw_unseen, values_of
from sedm.generator.pipeline import SEDMPipeline, noise_generators, sample_images
from sedm.segmentation.segmenter import kept_segmenter

from .measure import save_results
from .reference import N_EVALUATIONS, sample_recipe

STEPS = (4, 6, 8, 12, 24)
SEEDS = (0, 1)  # of the noise; the reference's recipe has the first only


def sample_by_recipe(pipeline: SEDMPipeline, layouts: Tensor, styles: Tensor, micro_batch: int, seed: int) -> Tensor:
    """uint8 (n, 3, h, w) by the reference's sampling, from the same noise as ``sample_images`` of this seed.

    Raises:
        ValueError: a model of latents, since the recipe is rebuilt for pixels.
    """
    if pipeline.autoencoder is not None:
        raise ValueError("this model works on latents; the recipe is rebuilt for pixels")
    size, images = pipeline.denoiser.config.image_size, []
    for rows in tqdm(torch.arange(len(layouts)).split(micro_batch), "recipe", unit="batch"):
        noise = [torch.randn(3, size, size, generator=one) for one in noise_generators(seed, rows.tolist())]
        given = (layouts[rows], styles[rows], torch.stack(noise))
        images.append(sample_recipe(pipeline.denoiser, *(one.to(pipeline.device) for one in given)).cpu())
    return (torch.cat(images).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.steps", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="data/runs/tissue/quick/model", help="folder of a trained pipeline")
    parser.add_argument("--study", choices=list(STUDIES), default="tissue")
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--data", default="", help="folder of parquet files, for a study that is not embedded")
    parser.add_argument("--micro-batch", type=int, default=16)
    given = parser.parse_args()
    pipeline = SEDMPipeline.from_pretrained(given.model)
    config = build_config(given.study, given.preset)
    data = load_study(config, given.data)
    train = data.label_subset(config.data.n_annotated_groups, config.seed)
    with tempfile.TemporaryDirectory() as folder:
        judge, segmenter = (
            kept_segmenter(Path(folder), "network", patches, config.segmentation, seed=0)
            for patches in (data.validation, train)
        )
    unseen = draw_unseen(data.test, judge, segmenter_extractor(segmenter, "the annotated training images"))
    style_rows = unseen.style_rows(unseen.groups, config.sampling.n_style_images)
    styles = pipeline.encode_styles(unseen.lenders.images[style_rows])
    found = {}

    def measure(images: Tensor, start: float) -> dict[str, dict]:
        seconds = (time.perf_counter() - start) / len(images)
        record = values_of(unseen.measure(images))
        record["measures"]["seconds_an_image"] = seconds
        return record

    for n_steps in STEPS:
        sampling = replace(config.sampling, n_steps=n_steps, micro_batch=given.micro_batch)
        for seed in SEEDS:
            start = time.perf_counter()
            images = sample_images(pipeline, unseen.layouts, styles, sampling, seed)
            found[f"DPM-Solver++, {n_steps} steps, seed {seed}"] = measure(images, start)
    start = time.perf_counter()
    images = sample_by_recipe(pipeline, unseen.layouts, styles, given.micro_batch, SEEDS[0])
    found[f"recipe, {N_EVALUATIONS} evaluations, seed {SEEDS[0]}"] = measure(images, start)
    measured = {name: record["measures"] for name, record in found.items()}
    for name, values in measured.items():
        print(f"{name:36} kernel distance {values['kernel_distance']:8.4f}  layout IoU {values['layout_iou']:.3f}")
    about = {"model": given.model, "study": given.study, "preset": given.preset, "n_images": len(unseen.groups)}
    *_, last = found.values()  # the floors are those of all
    alike = {key: last[key] for key in ("floors", "measured_on")}
    print(save_results("steps", about | {"measured": measured} | alike))


if __name__ == "__main__":
    main()
