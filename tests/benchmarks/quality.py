"""Quality over core-seconds: today's generator against the one before styles by class, trained in turns.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.quality tissue [--preset quick] [--seeds 0 1] [--slices 8]

One process on one thread trains both on the same images, a slice of the one and then a slice of the other, so that a
machine whose speed drifts is slow for both. After each slice the averaged weights are measured on validation groups,
beside what real images score. The earlier generator is the variant ``baseline_2026_11``: its settings, in today's code,
which trains no slower than the code of its day, with times spread over each batch, the predicted masks of today and its
solver, all of which it gains from. At `quick` it sees the 12,000 images of its day, today's generator those of today.
What it takes to read a checkpoint counts for both.

The ratio that counts is that of core-seconds at which today's generator first reaches all of what the earlier one
reaches at its end, in `REACHED`. Measuring is not counted. An interrupted run goes on. Written to
``figures/benchmarks/quality_<study>.json`` and drawn in ``fig_quality.png``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from sedm.config import PRESETS, STUDIES, Config, build_config
from sedm.experiments.variant_runs import Material, list_variant_runs, load_material
from sedm.fidelity import SHORT_TITLES
from sedm.fidelity.unseen import measure_generator
from sedm.figures.plot_style import set_plot_style
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.training import train_model
from sedm.runtime.files import replacing
from sedm.segmentation.predicted_masks import with_predicted_masks

from .measure import FOLDER, save_results

GENERATORS = {"before": "baseline_2026_11", "today": "baseline"}  # → variant
N_IMAGES = 12_000  # that the earlier generator saw at `quick`
REACHED = {"kernel_distance": -1, "layout_iou": 1, "retrieval_top1": 1}  # → whether more is better


SHOWN = SHORT_TITLES | {"class_contrast": "style: class contrast ↓", "recall": "recall ↑"}


class EndOfSlice(Exception):
    """The slice of this generator is over."""


def train_slice(config: Config, material: Material, folder: Path) -> None:
    """Train until the next checkpoint, and note in ``curve.json`` what it took and what was reached."""
    path, start = folder / "curve.json", time.process_time()
    curve = json.loads(path.read_text()) if path.exists() else []

    def note(pipeline: SEDMPipeline, n_steps: int) -> None:
        if n_steps != min((len(curve) + 1) * config.training.checkpoint_every, config.training.n_steps):
            raise ValueError(f"{folder}: the seconds of a slice were lost when a run was killed; delete it, begin anew")
        seconds = time.process_time() - start + (curve[-1]["core_seconds"] if curve else 0)
        measures = measure_generator(pipeline, config, material.unseen)
        n_images = n_steps * config.training.batch_size
        curve.append({"core_seconds": seconds, "n_steps": n_steps, "n_images": n_images, **measures["measures"]})
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(curve))
        (folder / "floors.json").write_text(json.dumps(measures["floors"]))
        raise EndOfSlice

    try:
        train_model(config, material.train, folder, material.held_out, progress=False, on_checkpoint=note)
        raise ValueError(f"{folder}: the end was reached, but never measured; delete it, begin anew")
    except EndOfSlice:
        print(folder.name, {name: round(curve[-1][name], 3) for name in ("core_seconds", *SHORT_TITLES)}, flush=True)


def first_reached(curve: list[dict], final: dict) -> float:
    """Core-seconds at which a curve is for the first time as good as ``final`` in all of `REACHED`; infinite if never.

    >>> curve = [{"core_seconds": s, "kernel_distance": 3 - s, "layout_iou": 1, "retrieval_top1": 1} for s in (1, 2)]
    >>> first_reached(curve, {"kernel_distance": 1.5, "layout_iou": 0.9, "retrieval_top1": 1})
    2
    """
    for point in curve:
        if all(sign * point[name] >= sign * final[name] for name, sign in REACHED.items()):
            return point["core_seconds"]
    return float("inf")


def draw_quality(results: dict[str, dict]) -> Figure:
    """Draw measures over core-seconds: a row a study, a column a measure, a line a generator and seed."""
    set_plot_style()
    size = 2.1 * len(SHOWN), 2.1 * len(results)
    figure, axes = plt.subplots(len(results), len(SHOWN), figsize=size, squeeze=False, layout="constrained")
    for row, (study, result) in zip(axes, results.items(), strict=True):
        for axis, (name, title) in zip(row, SHOWN.items(), strict=True):
            for colour, generator in zip(("0.6", "C0"), GENERATORS, strict=True):
                for number, curve in enumerate(result["curves"][generator].values()):
                    points = pd.DataFrame(curve)
                    label = generator if number == 0 else None
                    axis.plot(points["core_seconds"], points[name], color=colour, marker=".", label=label)
            axis.axhline(
                result["floors"]["today"]["0"]["real"][name],
                color="0.3",
                linewidth=1,
                linestyle=":",
                label="real images",
            )
            axis.set(title=title, xlabel="core-seconds")
            if name == "kernel_distance":  # it falls by two orders of magnitude
                axis.set_yscale("log")
            else:
                axis.set_ylim(0, None)
        row[0].set_ylabel(study)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--data", default="", help="folder of parquet files, for a study that is not embedded")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--slices", type=int, default=8, help="checkpoints at which each generator is measured")
    parser.add_argument("--runs", type=Path, default=Path("data/runs/quality"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    baseline, folder = build_config(given.study, given.preset), given.runs / given.study
    material = load_material(baseline, given.data, folder, "validation")
    labelled = with_predicted_masks(material.train, baseline, folder)
    curves = {generator: {} for generator in GENERATORS}
    for seed in given.seeds:
        runs = {}
        for generator, variant in GENERATORS.items():
            (run,) = list_variant_runs(baseline, [variant], [seed])
            n_steps = run.config.training.n_steps
            if generator == "before" and given.preset == "quick":
                n_steps = N_IMAGES // run.config.training.batch_size
            every = -(-n_steps // given.slices)
            training = replace(run.config.training, n_steps=n_steps, checkpoint_every=every)
            runs[generator] = replace(run.config, training=training), folder / run.name
        for _ in range(given.slices):
            for generator, (config, out) in runs.items():
                path = out / "curve.json"
                if not path.exists() or json.loads(path.read_text())[-1]["n_steps"] < config.training.n_steps:
                    train_slice(config, material._replace(train=labelled), out)
                curves[generator][str(seed)] = json.loads(path.read_text())
    ratios = {}
    for seed in map(str, given.seeds):
        old, new = (curves[generator][seed] for generator in GENERATORS)
        ratios[seed] = old[-1]["core_seconds"] / first_reached(new, old[-1])
    floors = {generator: {} for generator in GENERATORS}
    for generator, variant in GENERATORS.items():
        for seed in given.seeds:  # chance is other layouts and styles of the same generator
            (run,) = list_variant_runs(baseline, [variant], [seed])
            floors[generator][str(seed)] = json.loads((folder / run.name / "floors.json").read_text())
    alike = {"study": given.study, "preset": given.preset, "data": material.checksum, "split": material.split}
    settings = {name: repr(config.training) + repr(config.model) for name, (config, _) in runs.items()}
    results = alike | {"settings": settings, "fewer_core_seconds": ratios, "floors": floors, "curves": curves}
    print(save_results(f"quality_{given.study}", results), ratios)
    paths = sorted(FOLDER.glob("quality_*.json"))
    drawn = {path.stem.removeprefix("quality_"): json.loads(path.read_text())["results"] for path in paths}
    draw_quality(drawn).savefig(FOLDER / "fig_quality.png")


if __name__ == "__main__":
    main()
