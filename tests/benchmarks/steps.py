"""Quality against solver steps, against steps even in time, and against the reference's 143 guided DDIM steps.

    python -m tests.benchmarks.steps [--model data/runs/tissue/quick/model] [--study tissue] [--preset quick]
    python -m tests.benchmarks.steps --model data/models/ebhi --study ebhi --preset full --data <ebhi> --no-recipe

One trained model draws 96 images: layouts and styles of groups that it never saw, judged against other real images of
these groups, beside what real images themselves score (the floor). Steps are chosen with ``--split validation``. About
eight minutes on one core at 64 px, nearly all of it the 286 network evaluations an image of the reference. Written to
``figures/benchmarks/steps_<study>.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sedm.config import PRESETS, build_config
from sedm.config.study import STUDIES
from sedm.data.pixels import to_bytes
from sedm.experiments.variant_runs import load_material
from sedm.fidelity.unseen import values_of
from sedm.generator.denoiser import Denoiser
from sedm.generator.pipeline import SEDMPipeline, noise_generators, sample_images
from sedm.generator.process import N_TIMES, Diffusion
from sedm.runtime.hardware import autocast_dtype, pick_device

from .measure import save_results
from .reference import N_EVALUATIONS, sample_recipe

STEPS = (4, 6, 8, 12, 24)
EVEN_STEPS = (8, 12, 24)  # at times 999·(1 − i / n)
SEEDS = (0, 1)  # the reference's recipe has the first only
SHOWN = ("kernel_distance", "recall", "layout_iou", "retrieval_top1", "spread_within")


Sampler = Callable[[Denoiser, Tensor, Tensor, Tensor], Tensor]  # of (layouts, styles, noise), images about [−1, 1]


@torch.no_grad()
def sample_by(
    sampler: Sampler, pipeline: SEDMPipeline, layouts: Tensor, styles: Tensor, micro_batch: int, seed: int
) -> Tensor:
    """uint8 (n, 3, h, w) by another sampler, from the same noise as ``sample_images`` of this seed.

    Raises:
        ValueError: a model of latents, since the other samplers are of pixels.
    """
    if pipeline.autoencoder is not None:
        raise ValueError("this model works on latents; the other samplers are of pixels")
    size, images = pipeline.denoiser.config.image_size, []
    for rows in tqdm(torch.arange(len(layouts)).split(micro_batch), "sampling", unit="batch"):
        noise = [torch.randn(3, size, size, generator=one) for one in noise_generators(seed, rows.tolist())]
        given = (one.to(pipeline.device) for one in (layouts[rows], styles[rows], torch.stack(noise)))
        images.append(to_bytes(sampler(pipeline.denoiser, *given)).cpu())
    return torch.cat(images)


def sample_evenly(denoiser: Denoiser, layouts: Tensor, styles: Tensor, noise: Tensor, n_steps: int) -> Tensor:
    """Images (batch, 3, h, w), about [−1, 1], by DPM-Solver++ at the times 999·(1 − i / n_steps)."""
    solver, x_t, dtype = Diffusion(denoiser.config.model.objective).solver(), noise, autocast_dtype(noise.device)
    times = [round((N_TIMES - 1) * (1 - i / n_steps)) for i in range(n_steps)]
    solver.set_timesteps(timesteps=times, device=noise.device)
    for t in solver.timesteps:
        with torch.autocast(noise.device.type, dtype, enabled=dtype is not None):
            answer = denoiser(x_t, t.expand(len(x_t)), layouts, styles).float()
        x_t = solver.step(answer, t, x_t).prev_sample
    return x_t


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.steps", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="data/runs/tissue/quick/model", help="folder of a trained pipeline")
    parser.add_argument("--study", choices=list(STUDIES), default="tissue")
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--data", default="", help="folder of parquet files, for a study that is not embedded")
    parser.add_argument("--split", choices=["validation", "test"], default="test", help="whose groups are unseen")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--even-steps", type=int, nargs="+", default=EVEN_STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the noise")
    parser.add_argument("--recipe", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--runs", type=Path, default=Path("data/runs/steps"), help="keeps the networks that measure")
    given = parser.parse_args()
    pipeline = SEDMPipeline.from_pretrained(given.model).to(pick_device())
    config = build_config(given.study, given.preset)
    material = load_material(config, given.data, given.runs / f"{given.study}_{given.preset}", given.split)
    unseen = material.unseen
    style_rows = unseen.style_rows(unseen.groups, config.sampling.n_style_images)
    styles = pipeline.encode_styles(unseen.lenders.images[style_rows])
    found = {}

    def measure(images: Tensor, start: float) -> dict[str, dict]:
        seconds = (time.perf_counter() - start) / len(images)
        record = values_of(unseen.measure(images, stained=config.study.stained))
        record["measures"]["seconds_an_image"] = seconds
        return record

    for seed in given.seeds:
        for n_steps in given.steps:
            sampling = replace(config.sampling, n_steps=n_steps, micro_batch=given.micro_batch)
            start = time.perf_counter()
            images = sample_images(pipeline, unseen.layouts, styles, sampling, seed)
            found[f"DPM-Solver++, {n_steps} steps, seed {seed}"] = measure(images, start)
        for n_steps in given.even_steps:
            start = time.perf_counter()
            images = sample_by(
                partial(sample_evenly, n_steps=n_steps), pipeline, unseen.layouts, styles, given.micro_batch, seed
            )
            found[f"DPM-Solver++, {n_steps} even steps, seed {seed}"] = measure(images, start)
    if given.recipe:
        start = time.perf_counter()
        images = sample_by(sample_recipe, pipeline, unseen.layouts, styles, given.micro_batch, given.seeds[0])
        found[f"recipe, {N_EVALUATIONS} evaluations, seed {given.seeds[0]}"] = measure(images, start)
    measured = {name: record["measures"] for name, record in found.items()}
    for name, values in measured.items():
        print(f"{name:36}", *(f"{measure} {values[measure]:.3f}" for measure in SHOWN))
    about = {"model": given.model, "study": given.study, "preset": given.preset, "split": given.split}
    about |= {"data": material.checksum, "n_images": len(unseen.groups)}
    *_, last = found.values()  # the floors are those of all
    alike = {key: last[key] for key in ("floors", "measured_on")}
    print(save_results(f"steps_{given.study}", about | {"measured": measured} | alike))


if __name__ == "__main__":
    main()
