"""Variants of the generator, each with one choice changed, and what was measured of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sedm.experiments.runs import read_runs

COMMAND = "sedm ablate"
BEFORE = {"style_injection": "film", "aggregation": "mean"}  # one token a style, which knows nothing of classes
FOLDED = {"unshuffle": 2, "channels": (32, 64, 128)}  # the U-Net works at half the side, on four pixels a place
SMALL_STEPS = {"optimiser": "adamw", "batch_size": 4}  # many small steps are best for AdamW
VARIANTS = {  # question → variant → what it changes, by section of the configuration
    "baseline": {"baseline": {}},
    "style encoder": {
        "encoder_frozen": {"training": {"train_style_encoder": False}},
        "no_style": {"training": {"style_sampling": "none"}},
    },
    "style injection": {
        "film": {"model": BEFORE},
        "bottleneck": {"model": BEFORE | {"style_injection": "bottleneck"}},
        "cross_attention": {"model": {"style_injection": "cross_attention", "aggregation": "tokens"}},
        "baseline_2026_11": {
            "model": BEFORE | FOLDED | {"condition_dim": 128},
            "training": SMALL_STEPS | {"class_jitter": 0.0},
        },
    },
    "resolution": {"folded": {"model": FOLDED}},
    "aggregation": {  # of one token a style
        f"{name}_aggregation": {"model": BEFORE | {"aggregation": name}} for name in ("max", "linear", "attention")
    },
    "optimiser": {"adamw": {"training": SMALL_STEPS}},
    "objective": {f"{name}_objective": {"model": {"objective": name}} for name in ("epsilon", "v", "flow")},
    "unannotated images": {name: {"training": {"unannotated": name}} for name in ("null_layout", "left_out")},
    "augmentation": {
        "no_symmetries": {"training": {"symmetries": "none"}},
        "no_colour_jitter": {"training": {"colour_jitter": 0.0}},
        "no_class_jitter": {"training": {"class_jitter": 0.0}},
    },
    "layout": {
        "layout_every_scale": {"model": {"layout_injection": "every_scale"}},
        "no_layout_dropout": {"training": {"layout_dropout": 0.0}},
    },
}
QUESTIONS = {arm: question for question, arms in VARIANTS.items() for arm in arms}

EARLIER = {
    "retrieval_top1": "colour statistics, mean over images",
    "colour_distance": "mean L*a*b*",
    "layout_iou": "the judge's answers",
    "kernel_distance": "encoder of the judge",
}
"""What files measure on that do not say so: they are older than the one measuring system of `fidelity_table`.

They took all images, also where there were more generated than real ones, and the features of the judge itself.
"""


class Measures(NamedTuple):
    """What the finished runs of a folder measured."""

    runs: pd.DataFrame  # one row a run, indexed by (question, arm, seed); one column a measure
    floors: pd.DataFrame  # the same of real images ("real") and of what knows nothing; one row each
    measured_on: dict[str, str]  # measure → the network or the statistics that it is taken on


def read_measures(folder: str | Path) -> Measures:
    """Read what the finished runs of ``folder`` measured.

    Raises:
        ValueError: no run in ``folder``, one of a variant that is no more, or runs of different data or measured in
            different ways.
    """
    runs = [stored["values"] for stored in read_runs(folder, COMMAND)]
    measured_on = [run.get("measured_on", EARLIER) for run in runs]
    if any(ways != measured_on[0] for ways in measured_on):
        raise ValueError(f"{folder}: runs measured on different networks; keep each kind in a folder of its own")
    order = list(QUESTIONS)
    unknown = sorted({run["arm"] for run in runs} - set(order))
    if unknown:
        raise ValueError(
            f"{folder}: holds runs of {unknown[0]!r}, a variant that is no more; keep them in another folder"
        )
    runs.sort(key=lambda run: (order.index(run["arm"]), run["seed"]))
    measures = pd.DataFrame([run["measures"] for run in runs], dtype=float)
    rows = [(QUESTIONS[run["arm"]], run["arm"], run["seed"]) for run in runs]
    measures.index = pd.MultiIndex.from_tuples(rows, names=["question", "arm", "seed"])
    return Measures(measures, pd.DataFrame(runs[0]["floors"]).T.astype(float), measured_on[0])


def ablation_table(folder: str | Path) -> pd.DataFrame:
    """Summarise the runs of a folder: one row a variant, indexed by (question, arm), below the floors.

    Columns are (measure, summary).

    Summaries: ``mean`` over seeds; ``half_range``, half of what lies between the highest and the lowest seed;
    ``difference`` from the baseline, the mean over the seeds that both have. The column ``n_seeds`` counts.

    Raises:
        ValueError: as `read_measures`.
    """
    measures, floors, _ = read_measures(folder)
    baseline = measures.droplevel(["question", "arm"])[measures.index.get_level_values("arm") == "baseline"]
    summaries = {("real images", name): {"mean": row} for name, row in floors.iterrows()}
    n_seeds = {}
    for arm, rows in measures.groupby(level=["question", "arm"], sort=False):
        seeds = rows.droplevel(["question", "arm"])
        summaries[arm] = {"mean": seeds.mean(), "half_range": (seeds.max() - seeds.min()) / 2}
        if len(baseline):
            summaries[arm]["difference"] = (seeds - baseline).mean()
        n_seeds[arm] = len(seeds)
    table = pd.concat({row: pd.DataFrame(summary).stack() for row, summary in summaries.items()}, axis=1).T.astype(
        float
    )
    table = table.reindex(columns=measures.columns, level=0)
    table["n_seeds", ""] = pd.Series(n_seeds)
    return table
