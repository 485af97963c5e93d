"""How often intervals find a difference between an arm and itself: over groups alone, and over repetitions as well.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.calibration [--repetitions 70]

A null pair is the same arm twice: the same annotated groups, the same test groups, other seeds. An honest 95 % interval
misses 0 in about 5 of 100 such pairs. Three sources:

    biopsies    pairs of the networks whose scores are committed (``figures/ebhi/full``): two label subsets
    drawn       networks trained here, on drawn tissue: in each repetition other patients, label subsets and seeds
    simulated   scores with components of variance as they are between those networks; also the power at +0.02

About 45 minutes on one core; a repetition that is finished is not trained again (``--runs``). Written to
``figures/benchmarks/values_calibration.json`` and ``fig_calibration.png``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp
from tqdm import tqdm

from sedm.config import SegmentationConfig
from sedm.data.drawn.anatomy import CLASSES
from sedm.data.drawn.tissue import make_tissue
from sedm.data.patches import Patches
from sedm.experiments.comparison import COLUMNS, cells_of
from sedm.figures import set_plot_style
from sedm.group_statistics import estimate_crossed
from sedm.runtime.files import replacing
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.scores import score_groups
from sedm.segmentation.segmenter import predict, train_segmenter

from .measure import FOLDER, save_values

Cells = Float[np.ndarray, "cells groups"]

BIOPSIES = Path("figures/ebhi/full/values_segmentation.json")
EFFECT = 0.02  # of IoU, whose finding is counted
N_CELLS = (2, 3, 4, 6, 12)
# standard deviations of a difference of two arms: between cells, between patients, and the rest. The first is that of
# two seeds of one arm on biopsies, the second that of an arm whose luck depends more on what was annotated, the third
# that of few patients of another laboratory
COMPONENTS = {
    "68 patients": (68, (0.0106, 0.02, 0.03)),
    "68 patients, subsets matter more": (68, (0.025, 0.02, 0.03)),
    "16 patients of another laboratory": (16, (0.0106, 0.04, 0.04)),
}
SUBSETS, SEEDS, PATIENTS, TESTED, IMAGES, SIDE = 6, 3, 3, 12, 6, 32  # of a repetition on drawn tissue
NETWORK = SegmentationConfig(channels=(8, 16, 32), n_steps=120, batch_size=8)


def judge(differences: Cells, effect: float = 0.0) -> dict[str, float]:
    """Tell whether each interval of the mean of ``differences`` + ``effect`` misses 0, as 0 or 1.

    >>> judge(np.array([[0.01, 0.02], [0.02, 0.01]]), effect=1.0)
    {'groups': 1.0, 'groups and repetitions': 1.0}
    """
    moved = differences + effect
    return {
        "groups": float(ttest_1samp(moved.mean(axis=0), 0).pvalue < 0.05),
        "groups and repetitions": float(estimate_crossed(moved[None]).p < 0.05),
    }


def simulated_nulls(n: int, n_cells: int, n_groups: int, components: tuple[float, float, float]) -> Iterator[Cells]:
    """Draw n pairs' differences, Gaussian in every component."""
    rng = np.random.default_rng(0)
    of_cells, of_groups, rest = components
    for _ in range(n):
        alike = rng.normal(0, of_cells, (n_cells, 1)) + rng.normal(0, of_groups, (1, n_groups))
        yield alike + rng.normal(0, rest, (n_cells, n_groups))


def committed_nulls(path: Path) -> Iterator[Cells]:
    """List the differences between two seeds of every arm of a study, on each of its two label subsets."""
    units = json.loads(path.read_text())["values"]["units"]
    rows = [
        (unit["arm"], unit["n_annotated"], unit["draw"], unit["seed"], "test", group, iou, iou)
        for unit in units
        for group, iou in unit["iou"].items()
    ]
    scores = pd.DataFrame(rows, columns=COLUMNS)
    for (arm, n_annotated), _ in scores.groupby(["arm", "n_annotated"]):
        cells = cells_of(scores, arm, n_annotated).dropna(axis=1)
        draws = cells.index.unique("draw")
        seeds = {draw: list(cells.loc[draw].index) for draw in draws}
        if len(draws) == 2 and all(len(found) > 1 for found in seeds.values()):
            for first in permutations(seeds[draws[0]], 2):
                for second in permutations(seeds[draws[1]], 2):
                    pairs = zip(draws, (first, second), strict=True)
                    yield np.stack([cells.loc[(draw, a)] - cells.loc[(draw, b)] for draw, (a, b) in pairs])


def train_repetition(number: int) -> Float[np.ndarray, "subsets seeds groups"]:
    """Train networks on label subsets of drawn patients, three seeds each, and score them on other patients."""

    def draw(n_patients: int, first: int) -> Patches:
        table = make_tissue(n_patients, IMAGES, image_size=SIDE, seed=number, first_patient=first)
        return Patches.from_table(table, CLASSES)

    test = draw(TESTED, SUBSETS * PATIENTS)
    scores = np.empty((SUBSETS, SEEDS, TESTED))
    for subset in range(SUBSETS):
        real = draw(PATIENTS, subset * PATIENTS)
        for repeat in range(SEEDS):
            seed = seeded_generator("calibration", number, subset, repeat).initial_seed() % 2**31
            network = train_segmenter(real, NETWORK, seed=seed, progress=False)
            scores[subset, repeat] = score_groups(predict(network, test.images), test)["mean_iou"]
    return scores


def drawn_nulls(repetitions: list[Float[np.ndarray, "subsets seeds groups"]], n_cells: int) -> Iterator[Cells]:
    """List the differences between two seeds, on ``n_cells`` label subsets at a time."""
    for scores in repetitions:
        for a, b in ((0, 1), (1, 2), (2, 0)):
            for start in range(0, SUBSETS - n_cells + 1, n_cells):
                part = slice(start, start + n_cells)
                yield scores[part, a] - scores[part, b]


def share(pairs: Iterator[Cells], effect: float = 0.0) -> dict[str, float]:
    """Count the pairs, and the share of them in which each interval misses 0."""
    found = pd.DataFrame([judge(differences, effect) for differences in pairs])
    return found.mean().to_dict() | {"n_pairs": len(found)}


def draw_calibration(results: dict) -> Figure:
    """Draw how often each interval finds a difference where there is none, and one of 0.02, over repetitions."""
    set_plot_style()
    figure, (null, power) = plt.subplots(1, 2, figsize=(7.6, 3.2), layout="constrained")
    colours = {"groups": "0.55", "groups and repetitions": "C0"}
    styles = dict(zip(COMPONENTS, ("-", "--", ":"), strict=True))
    for name, by_cells in results["simulated"].items():
        for interval, colour in colours.items():
            for axis, key in ((null, "null"), (power, "power")):
                if axis is null or interval == "groups and repetitions":
                    values = [found[key][interval] for found in by_cells.values()]
                    axis.plot([int(n) for n in by_cells], values, styles[name], color=colour, linewidth=1.3)
    for source, marker in (("biopsies", "D"), ("drawn", "o")):
        for interval, colour in colours.items():
            points = {int(n): found[interval] for n, found in results[source].items()}
            null.plot(list(points), list(points.values()), marker, color=colour, markersize=5.5, zorder=3)
    null.axhspan(0.03, 0.08, color="C2", alpha=0.18, linewidth=0)
    null.set(ylabel="share of pairs told apart", title="the same arm twice", ylim=(0, None))
    power.set(title=f"a difference of {EFFECT}", ylim=(0, 1.02))
    for axis in (null, power):
        axis.set(xlabel="repetitions (label subsets)", xscale="log")
        axis.set_xticks(N_CELLS, [str(n) for n in N_CELLS])
        axis.minorticks_off()
    line = {"color": "black", "linewidth": 1.3}
    handles = [
        plt.Line2D([], [], color=colour, linewidth=3, label=f"interval over {name}") for name, colour in colours.items()
    ]
    handles += [plt.Line2D([], [], linestyle=style, label=name, **line) for name, style in styles.items()]
    handles += [
        plt.Line2D([], [], linestyle="", marker=marker, color="black", label=label)
        for marker, label in (("D", "networks on biopsies"), ("o", "networks on drawn tissue"))
    ]
    handles.append(plt.Rectangle((0, 0), 1, 1, color="C2", alpha=0.18, label="0.03 to 0.08"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.calibration", description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=70, help="of networks trained on drawn tissue")
    parser.add_argument("--pairs", type=int, default=2000, help="that are simulated, of each kind")
    parser.add_argument("--runs", type=Path, default=Path("data/runs/calibration"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.runs.mkdir(parents=True, exist_ok=True)
    repetitions = []
    for number in tqdm(range(given.repetitions), "drawn tissue", unit="repetition"):
        path = given.runs / f"scores_{number}.npy"
        if not path.is_file():
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.save(file, train_repetition(number))
        repetitions.append(np.load(path))
    results = {
        "biopsies": {2: share(committed_nulls(BIOPSIES))},
        "drawn": {n: share(drawn_nulls(repetitions, n)) for n in N_CELLS if n <= SUBSETS},
        "simulated": {
            name: {
                n: {
                    key: share(simulated_nulls(given.pairs, n, n_groups, components), effect)
                    for key, effect in (("null", 0.0), ("power", EFFECT))
                }
                for n in N_CELLS
            }
            for name, (n_groups, components) in COMPONENTS.items()
        },
        "components": COMPONENTS,
        "effect": EFFECT,
    }
    figure = FOLDER / "fig_calibration.png"
    draw_calibration(results).savefig(figure, metadata={"Software": None})
    print(json.dumps(results, indent=1), f"\nwritten to {save_values('calibration', results, [figure])}")


if __name__ == "__main__":
    main()
