"""Search for a generator that learns more in a core-second: one change at a time, all at equal core-seconds.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.search tissue [--seeds 0 1] [--changes crops …] [--n-steps 750]

What a step of a change costs is timed in turns with a step of the baseline, and the change gets as many steps as take
the baseline's core-seconds. All are measured on validation groups, by the networks that every variant is measured by.
A change that fails is left here, so that nobody has to try it again; one that wins moves into `sedm`. Written to
``figures/<study>/variants/search_<n>_steps/``, one file a change and seed; finished ones are skipped. ``--table``
prints what was found.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from sedm.config import STUDIES, Config, build_config
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.experiments.variant_runs import load_material
from sedm.fidelity.unseen import measure_generator
from sedm.generator.denoiser import StyleDiffusion, build_model
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.process import N_TIMES, Diffusion
from sedm.generator.training import class_loss
from sedm.generator.training_batch import batch_pools, training_batch
from sedm.runtime.fingerprints import hash_of
from sedm.runtime.hardware import pick_device
from sedm.runtime.loop import make_accelerator, memory_format, optimise
from sedm.runtime.results import Results
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.predicted_masks import with_predicted_masks
from sedm.segmentation.segmenter import kept_segmenter
from sedm.styles.sampling import StyleSampler

N_TIMED = 16  # steps of each, to tell what a step costs
MORE = {"recall", "layout_iou", "retrieval_top1"}  # is better
SHOWN = ("kernel_distance", "recall", "layout_iou", "retrieval_top1", "colour_distance", "class_contrast")


@dataclass
class Batch:
    """What a step is made of; a change may replace any of it."""

    inputs: list[Tensor]  # x_t, t, layout, style images, which style is dropped
    target: Tensor  # x_0
    style_masks: Tensor


@dataclass(frozen=True)
class Change:
    """What a variant does differently."""

    settings: dict[str, dict] = field(default_factory=dict)  # section of the configuration → values
    batch: Callable[[Batch, Diffusion, torch.Generator], None] | None = None
    errors: Callable[[Tensor, Batch], Tensor] | None = None  # of each item, in place of the mean square
    extra: Callable[[StyleDiffusion, torch.nn.Module, Tensor, Batch], Tensor] | None = None  # added to the loss


# ------------------------------------------------------------------------------------------------ changes of a batch


def uniform_times(batch: Batch, diffusion: Diffusion, generator: torch.Generator) -> None:
    """Draw each time by itself."""
    t = torch.randint(N_TIMES, (len(batch.target),), generator=generator)
    noise = torch.randn(batch.target.shape, generator=generator)
    batch.inputs[:2] = diffusion.add_noise(batch.target, noise, t), t


def nearest_noise(batch: Batch, diffusion: Diffusion, generator: torch.Generator) -> None:
    """Take the nearest of four draws of noise; KNN noise, Li et al. 2024, "Immiscible diffusion"."""
    noise = torch.randn(4, *batch.target.shape, generator=generator)
    nearest = (noise - batch.target).square().flatten(2).sum(2).argmin(0)
    noise = noise[nearest, torch.arange(len(nearest))]
    batch.inputs[0] = diffusion.add_noise(batch.target, noise, batch.inputs[1])


def crops(batch: Batch, diffusion: Diffusion, generator: torch.Generator) -> None:
    """Train every second batch, about, on crops of half the side; Wang et al. 2023, "Patch diffusion" (no places)."""
    if torch.rand((), generator=generator) < 0.5:
        size = batch.target.shape[-1] // 2
        top, left = (8 * torch.randint(size // 8 + 1, (2,), generator=generator)).tolist()
        window = (..., slice(top, top + size), slice(left, left + size))
        batch.inputs[0], batch.inputs[2] = batch.inputs[0][window], batch.inputs[2][window]
        batch.target = batch.target[window]


def more_crops(batch: Batch, diffusion: Diffusion, generator: torch.Generator) -> None:
    """Let a batch of crops hold four of each image, so that it costs what a batch of images costs."""
    if torch.rand((), generator=generator) < 0.5:
        half = batch.target.shape[-1] // 2
        windows = [(..., slice(a, a + half), slice(b, b + half)) for a in (0, half) for b in (0, half)]
        t = batch.inputs[1]
        x_0 = torch.cat([batch.target[window] for window in windows])
        t = ((t.repeat(4) + torch.arange(4).repeat_interleave(len(t)) * (N_TIMES // 4)) % N_TIMES).long()
        noise = torch.randn(x_0.shape, generator=generator)
        layout = torch.cat([batch.inputs[2][window] for window in windows])
        batch.inputs[:3] = diffusion.add_noise(x_0, noise, t), t, layout
        batch.target = x_0


def two_times(batch: Batch, diffusion: Diffusion, generator: torch.Generator) -> None:
    """Encode each style once and denoise its target at two times, half of them all apart."""
    x_0 = batch.target.repeat(2, 1, 1, 1)
    t = torch.cat([batch.inputs[1], (batch.inputs[1] + N_TIMES // 2) % N_TIMES])
    noise = torch.randn(x_0.shape, generator=generator)
    batch.inputs[:3] = diffusion.add_noise(x_0, noise, t), t, batch.inputs[2].repeat(2, 1, 1)
    batch.target = x_0


# ------------------------------------------------------------------------------------------------ changes of the loss


def thin_structures(answer: Tensor, batch: Batch) -> Tensor:
    """Let pixels beside another class count three times, relative to the mean."""
    layout = batch.inputs[2].float()
    borders = F.max_pool2d(layout, 3, 1, 1) != -F.max_pool2d(-layout, 3, 1, 1)
    weights = 1 + 2 * (borders & (batch.inputs[2] != UNKNOWN)).float()[:, None]
    weights = weights / weights.mean(dim=(1, 2, 3), keepdim=True)
    return (weights * (answer.float() - batch.target).square()).mean(dim=(1, 2, 3))


def encoder_features(network: StyleDiffusion, features: torch.nn.Module, answer: Tensor, batch: Batch) -> Tensor:
    """Compare the predicted image with the true one by the style encoder's own maps, which do not learn from it."""
    convolutions = network.style_encoder.features.convolutions
    state = {name: weights.detach() for name, weights in convolutions.named_parameters()}

    def maps(images: Tensor) -> list[Tensor]:
        found = []
        for number, convolution in enumerate(convolutions):
            own = {name.split(".", 1)[1]: value for name, value in state.items() if name.startswith(f"{number}.")}
            found.append(torch.func.functional_call(convolution, own, (found[-1] if found else images,)))
        return found

    return _feature_errors(maps, answer, batch)


def segmenter_features(network: StyleDiffusion, features: torch.nn.Module, answer: Tensor, batch: Batch) -> Tensor:
    """Compare them by the maps of a frozen segmentation network, of another seed than the one that measures."""

    def maps(images: Tensor) -> list[Tensor]:
        found = []
        for stage in [features.stem, *features.down]:
            found.append(stage(found[-1] if found else (images + 1) / 2))
        return found

    return _feature_errors(maps, answer, batch)


def _feature_errors(maps: Callable[[Tensor], list[Tensor]], answer: Tensor, batch: Batch) -> Tensor:
    """Only where less than 0.7 of the time is noise; PixelGen (arXiv 2602.02493)."""
    with torch.no_grad():
        true = maps(batch.target.to(answer.dtype))
    errors = 0
    for found, wanted in zip(maps(answer), true, strict=True):
        spread = wanted.float().var(dim=(0, 2, 3), keepdim=True) + 1e-3
        errors = errors + ((found.float() - wanted.float()).square() / spread).mean(dim=(1, 2, 3)) / len(true)
    return 0.1 * (errors * (batch.inputs[1] < 0.7 * N_TIMES)).mean()


CHANGES = {
    "baseline": Change(),
    "uniform_times": Change(batch=uniform_times),
    "nearest_noise": Change(batch=nearest_noise),
    "crops": Change(batch=crops),
    "more_crops": Change(batch=more_crops),
    "two_times": Change(batch=two_times),
    "thin_structures": Change(errors=thin_structures),
    "layout_every_scale": Change({"model": {"layout_injection": "every_scale"}}, errors=thin_structures),
    "encoder_features": Change(extra=encoder_features),
    "segmenter_features": Change(extra=segmenter_features),
    "two_style_images": Change({"model": {"n_style_images": 2}}),
    "folded_by_4": Change({"model": {"unshuffle": 4, "channels": (64, 128), "condition_dim": 256}}),
    "batch_16": Change({"training": {"batch_size": 16}}),
    "batch_16_faster": Change({"training": {"batch_size": 16, "learning_rate": 1.4e-3}}),
    "batch_4": Change({"training": {"batch_size": 4, "learning_rate": 7e-4}}),
    "slower": Change({"training": {"learning_rate": 5e-4}}),
    "faster": Change({"training": {"learning_rate": 2e-3}}),
    "adamw": Change({"training": {"optimiser": "adamw", "batch_size": 4}}),
    "adamw_slower": Change({"training": {"optimiser": "adamw", "batch_size": 4, "learning_rate": 5e-4}}),
    "shorter_average": Change({"training": {"ema_decay": 0.99}}),
    "longer_average": Change({"training": {"ema_decay": 0.999}}),
}


def train(
    config: Config, patches: Patches, change: Change, features: torch.nn.Module | None = None
) -> tuple[StyleDiffusion, list[float]]:
    """Train as `train_model` does, but for the change; return the model and the core-seconds at each step's begin."""
    settings = config.training
    accelerator, diffusion = make_accelerator(), Diffusion(config.model.objective)
    model = build_model(config.model, patches.n_classes, config.data.image_size, config.seed)
    sampler = StyleSampler(patches, settings.style_sampling, config.model.n_style_images)
    pools = batch_pools(patches.is_annotated, settings)
    seconds = []

    def loss_of(network: StyleDiffusion, step: int) -> Tensor:
        seconds.append(time.process_time())
        generator = seeded_generator("training batch", config.seed, step, 0)
        inputs, target, style_masks = training_batch(patches, None, pools, sampler, diffusion, settings, generator)
        batch = Batch(list(inputs), target, style_masks)
        if change.batch is not None:
            change.batch(batch, diffusion, generator)
        device = accelerator.device
        batch.inputs, batch.target = [one.to(device) for one in batch.inputs], batch.target.to(device)
        answer, class_logits = forward(network, batch.target, *batch.inputs)
        if change.errors is None:
            errors = (answer.float() - batch.target).square().mean(dim=(1, 2, 3))
        else:
            errors = change.errors(answer, batch)
        loss = (diffusion.loss_weights(batch.inputs[1], settings.max_loss_weight) * errors).mean()
        if change.extra is not None:
            loss = loss + change.extra(network, features, answer, batch)
        return loss + settings.class_weight * class_loss(class_logits, batch.style_masks.to(device))

    model.to(memory_format=memory_format(accelerator))
    optimise(accelerator, model, loss_of, settings, None, hash_of("search", str(config.seed)), progress=False)
    return model, seconds


def forward(network: StyleDiffusion, x_0, x_t, t, layout, style_images, drop_style):
    """Denoise as `StyleDiffusion.forward` does; several items in a row of a batch may share a style."""
    embeddings, class_logits = network.style_encoder.embed_and_classify(style_images.flatten(0, 1))
    style = network.style_encoder.aggregate(embeddings.unflatten(0, style_images.shape[:2]))
    style = torch.where(drop_style[:, None, None], network.denoiser.null_style.to(style.dtype), style)
    style = style.repeat(len(x_t) // len(style), 1, 1)
    answer = network.denoiser(x_t, t, layout, style)
    network.denoiser.observe(x_0, layout, style, ~drop_style.repeat(len(x_t) // len(drop_style)))
    return answer, class_logits


def cost_of_a_step(config: Config, changed: Config, patches: Patches, change: Change, features) -> float:
    """Time steps in turns, and return the core-seconds of one over those of one of the baseline."""

    def seconds_of_a_step(one: Config, of: Change) -> float:
        few = replace(one, training=replace(one.training, n_steps=N_TIMED, warmup_steps=2))
        seconds = train(few, patches, of, features)[1][2:]
        return fmean(b - a for a, b in pairwise(seconds))  # not the median: a change may have steps of two kinds

    ratios = [seconds_of_a_step(changed, change) / seconds_of_a_step(config, CHANGES["baseline"]) for _ in range(3)]
    return median(ratios)


def changed_config(baseline: Config, change: Change, seed: int) -> Config:
    """Build the configuration of a change; its steps are those of the baseline."""
    sections = {name: replace(getattr(baseline, name), **values) for name, values in change.settings.items()}
    return replace(baseline, seed=seed, **sections)


def table(folder: Path) -> pd.DataFrame:
    """List the mean of each change over its seeds, and the number of measures that all of them have better."""
    runs = [json.loads(path.read_text())["values"] for path in sorted(folder.glob("values_*.json"))]
    if not runs:
        raise SystemExit(f"{folder}: no results; run the search first, or name another folder by --out")
    rows = {(run["arm"], run["seed"]): {name: run["measures"][name] for name in SHOWN} for run in runs}
    measures = pd.DataFrame(rows).T.rename_axis(["change", "seed"])
    means = measures.groupby("change").mean()
    means["n_steps"] = pd.Series({run["arm"]: run["n_steps"] for run in runs})
    means["better"] = [
        sum(
            (measures.loc[name, one] - measures.loc["baseline", one]).mul(1 if one in MORE else -1).gt(0).all()
            for one in SHOWN
        )
        for name in means.index
    ]
    return means.loc[[name for name in CHANGES if name in means.index]]


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.search", description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--n-steps", type=int, default=750, help="of the baseline")
    parser.add_argument("--data", default="", help="folder of parquet files, for a study that is not embedded")
    parser.add_argument("--runs", type=Path, default=Path("data/runs/search"))
    parser.add_argument("--out", type=Path, help="figures/<study>/variants/search_<n>_steps when left out")
    parser.add_argument("--table", action="store_true", help="only print what was found")
    given = parser.parse_args()
    torch.set_num_threads(1)
    baseline = build_config(given.study, "quick")
    baseline = replace(baseline, training=replace(baseline.training, n_steps=given.n_steps))
    out = given.out or Path("figures", given.study, "variants", f"search_{given.n_steps}_steps")
    if given.table:
        print(table(out).round(3).to_string())
        return
    folder = given.runs / given.study
    material = load_material(baseline, given.data, folder, "validation")
    patches = with_predicted_masks(material.train, baseline, folder)
    features = kept_segmenter(folder, "features", material.train, baseline.segmentation, seed=1)
    features.requires_grad_(False)
    for seed in given.seeds:
        for name in given.changes:
            change = CHANGES[name]
            config = changed_config(baseline, change, seed)
            run = f"{name}-seed{seed}"
            if (out / f"values_{run}.json").exists():
                continue
            cost = cost_of_a_step(baseline, config, patches, change, features) if name != "baseline" else 1.0
            config = replace(config, training=replace(config.training, n_steps=round(given.n_steps / cost)))
            results = Results(config, out, folder, folder=out)
            start = time.process_time()
            model, _ = train(config, patches, change, features)
            seconds = time.process_time() - start
            pipeline = SEDMPipeline.from_model(model).to(pick_device())
            record = measure_generator(pipeline, config, material.unseen)
            values = {"arm": name, "seed": seed, "n_steps": config.training.n_steps, "cost_of_a_step": cost}
            values |= {"core_seconds": seconds, "data": material.checksum, "split": material.split, **record}
            results.save_values(run, values)
            print(run, *(f"{one} {record['measures'][one]:.3f}" for one in SHOWN), f"{seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
