"""Ablations of the generator: one choice changed at a time, everything else alike.

A *unit* is one arm at one seed: a model trained on as many images as any other, measured as `sedm.evaluation` says,
and written to one file. The seed decides the training alone; data, layouts and noise of the measurement are the same
for all. Finished units are skipped and interrupted ones go on. Processes started with the same folders share the work::

    OMP_NUM_THREADS=1 python -m sedm.ablations tissue --seeds 0 1 & OMP_NUM_THREADS=1 python -m sedm.ablations tissue …
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sedm.config import PRESETS, Config, build_config, flatten, known_name
from sedm.data.sources import load_study
from sedm.data.splits import hide_annotations
from sedm.data.tensors import PatchTensors, data_checksum, to_tensors
from sedm.evaluation import Unseen, draw_unseen, measure_floors, measure_model
from sedm.hardware import pick_device
from sedm.pipeline import SEDMPipeline
from sedm.pseudo_layouts import with_pseudo_layouts
from sedm.results import Results
from sedm.segment import kept_segmenter
from sedm.studies import STUDIES
from sedm.train import train_model
from sedm.units import claim, finish_units, is_finished

ABLATIONS = {  # question → arm → what it changes, by section of the configuration
    "baseline": {"baseline": {}},
    "style encoder": {
        "encoder_frozen": {"training": {"train_style_encoder": False}},
        "no_style": {"training": {"style_sampling": "none"}},
    },
    "style injection": {
        "bottleneck": {"model": {"style_injection": "bottleneck"}},
        "cross_attention": {"model": {"style_injection": "cross_attention", "aggregation": "tokens"}},
    },
    "aggregation": {f"{name}_aggregation": {"model": {"aggregation": name}} for name in ("max", "linear", "attention")},
    "objective": {f"{name}_objective": {"model": {"objective": name}} for name in ("epsilon", "v", "flow")},
    "unannotated images": {name: {"training": {"unannotated": name}} for name in ("null_layout", "left_out")},
    "augmentation": {
        "no_symmetries": {"training": {"symmetries": "none"}},
        "no_colour_jitter": {"training": {"colour_jitter": 0.0}},
    },
    "layout": {
        "layout_every_scale": {"model": {"layout_injection": "every_scale"}},
        "no_layout_dropout": {"training": {"layout_dropout": 0.0}},
    },
}
SHOWN = ("retrieval_top1", "colour_distance", "layout_iou", "kernel_distance")  # when a unit is done
IGNORED = ("layouts.",)  # settings that no unit depends on: layouts are masks of unseen groups
QUESTIONS = {arm: question for question, arms in ABLATIONS.items() for arm in arms}


class Unit(NamedTuple):
    """One arm at one seed."""

    arm: str
    config: Config

    @property
    def name(self) -> str:
        """What its folder and its file are called."""
        return f"{self.arm}-seed{self.config.seed}"


def list_units(baseline: Config, arms: Sequence[str], seeds: Sequence[int]) -> list[Unit]:
    """Every arm at every seed, seed by seed, so that the first seed of all arms is there first.

    Raises:
        ValueError: an unknown arm.

    >>> units = list_units(build_config("tissue", "smoke"), ["baseline", "no_style"], [0, 1])
    >>> [unit.name for unit in units], units[1].config.training.style_sampling
    (['baseline-seed0', 'no_style-seed0', 'baseline-seed1', 'no_style-seed1'], 'none')
    """
    units = []
    for seed in seeds:
        for arm in arms:
            changes = ABLATIONS[QUESTIONS[known_name("arm", arm, QUESTIONS)]][arm]
            sections = {name: replace(getattr(baseline, name), **values) for name, values in changes.items()}
            units.append(Unit(arm, replace(baseline, seed=seed, **sections)))
    return units


def run_units(units: Sequence[Unit], data: str | Path, runs: Path, out: Path) -> list[Unit]:
    """`sedm.units.finish_units` of these units: the ones whose training diverged.

    Args:
        data: folder of parquet files of a study that is not embedded.
        runs: receives checkpoints, metrics and sample sheets.

    Raises:
        ValueError: ``out`` holds a unit of other settings, `IGNORED` ones aside.
    """

    def prepare() -> Callable[[Unit], str]:
        material = load_material(units[0].config, data, runs)

        def finish(unit: Unit) -> str:
            found = run_unit(unit, material, runs / unit.name, out)
            return ", ".join(f"{name} {found[name]:.3f}" for name in SHOWN)

        return finish

    return finish_units(units, prepare, runs, out, IGNORED)


class Material(NamedTuple):
    """The data of a study, alike for all its units."""

    train: PatchTensors  # with masks for the annotated groups only
    held_out: set[str]  # groups that no model may be trained on
    unseen: Unseen
    floors: dict[str, dict[str, float]]
    checksum: str


def load_material(baseline: Config, data: str | Path, runs: Path) -> Material:
    """What the units are trained and measured on, as seed 0 draws it; the judge is trained once and kept in ``runs``.

    Raises:
        ValueError: a study without validation groups, which the judge is trained on.
    """
    config, study = replace(baseline, seed=0), STUDIES[baseline.study]
    tables = load_study(config, data)
    if "validation" not in tables:
        raise ValueError(f"the study {config.study!r} has no validation groups to train a judge of layouts on")
    held_out = {group for split, table in tables.items() if split != "train" for group in table["group"][:]}
    if study.shared_groups:
        held_out -= set(tables["train"]["group"][:])
    if study.kind == "tissue":  # natural images keep all their masks
        tables["train"] = hide_annotations(tables["train"], config.data.n_annotated_groups, config.seed)
    splits = ("train", "validation", "test")
    train, validation, test = (to_tensors(tables[split], config.data.image_size) for split in splits)
    n_classes = len(study.classes)
    with claim(runs / "judge.lock", wait=True):
        judge = kept_segmenter(runs, "judge", validation, config.segmentation, n_classes, seed=0)
    unseen = draw_unseen(test, judge, n_classes)
    return Material(train, held_out, unseen, measure_floors(unseen), data_checksum(train, validation, test))


def run_unit(unit: Unit, material: Material, folder: Path, out: Path) -> dict[str, float]:
    """The measures of one unit, after training it in ``folder`` and writing them to ``out``."""
    config, n_classes = unit.config, material.unseen.n_classes
    results = Results(config, out, folder)
    results.folder = out  # where the user wants it, whatever the preset
    train, annotated = with_pseudo_layouts(material.train, config, n_classes, folder.parent)  # alike for many arms
    progress = sys.stderr.isatty()
    model = train_model(config, train, n_classes, folder, material.held_out, annotated=annotated, progress=progress)
    found = measure_model(SEDMPipeline.from_model(model).to(pick_device()), config, material.unseen)
    values = {"arm": unit.arm, "seed": config.seed, "data": material.checksum, "measures": found}
    values |= {"floors": material.floors, "n_training_images": config.training.n_steps * config.training.batch_size}
    results.save_values(unit.name, values)
    for checkpoint in folder.glob("checkpoint-*.pt"):  # a finished unit does not go on
        checkpoint.unlink()
    return found


def read_units(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The measures of the finished units, one row each, indexed by (question, arm, seed); and those of real images.

    Raises:
        ValueError: no unit in ``folder``, or units of different data.
    """
    units = [json.loads(path.read_text())["values"] for path in sorted(Path(folder).glob("values_*.json"))]
    if not units:
        raise ValueError(f"{folder}: no values_*.json; python -m sedm.ablations writes them")
    if len({unit["data"] for unit in units}) > 1:
        raise ValueError(f"{folder}: units of different data; keep each in a folder of its own")
    order = list(QUESTIONS)
    units.sort(key=lambda unit: (order.index(unit["arm"]), unit["seed"]))
    found = pd.DataFrame([unit["measures"] for unit in units], dtype=float)
    rows = [(QUESTIONS[unit["arm"]], unit["arm"], unit["seed"]) for unit in units]
    found.index = pd.MultiIndex.from_tuples(rows, names=["question", "arm", "seed"])
    return found, pd.DataFrame(units[0]["floors"]).T.astype(float)


def ablation_table(folder: str | Path) -> pd.DataFrame:
    """One row an arm, indexed by (question, arm), below the floors; columns (measure, summary).

    Summaries: ``mean`` over seeds; ``half_range``, half of what lies between the highest and the lowest seed;
    ``difference`` from the baseline, the mean over the seeds that both have. The column ``n_seeds`` counts.

    Raises:
        ValueError: as `read_units`.
    """
    found, floors = read_units(folder)
    baseline = found.droplevel(["question", "arm"])[found.index.get_level_values("arm") == "baseline"]
    summaries = {("real images", name): {"mean": row} for name, row in floors.iterrows()}
    n_seeds = {}
    for arm, rows in found.groupby(level=["question", "arm"], sort=False):
        seeds = rows.droplevel(["question", "arm"])
        summaries[arm] = {"mean": seeds.mean(), "half_range": (seeds.max() - seeds.min()) / 2}
        if len(baseline):
            summaries[arm]["difference"] = (seeds - baseline).mean()
        n_seeds[arm] = len(seeds)
    table = pd.concat({row: pd.DataFrame(one).stack() for row, one in summaries.items()}, axis=1).T.astype(float)
    table = table.reindex(columns=found.columns, level=0)
    table["n_seeds", ""] = pd.Series(n_seeds)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Trains and measures the arms of a study, one file for each arm and seed."""
    parser = argparse.ArgumentParser("python -m sedm.ablations", description=main.__doc__)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", default=list(QUESTIONS), metavar="ARM", help=f"of {', '.join(QUESTIONS)}")
    parser.add_argument("--n-steps", type=int, help="of training, for every arm; the preset's when left out")
    parser.add_argument("--data", default="", help="folder of parquet files, for a study that is not embedded")
    parser.add_argument("--runs", type=Path, default=Path("data/runs/ablations"), help="for checkpoints and metrics")
    parser.add_argument("--out", type=Path, help="for the results; figures/<study>/ablations when left out")
    parser.add_argument("--dry-run", action="store_true", help="only list the units and what they change")
    given = parser.parse_args(arguments)
    out = given.out or Path("figures") / given.study / "ablations"
    try:
        baseline = build_config(given.study, given.preset)
        if given.n_steps is not None:
            baseline = replace(baseline, training=replace(baseline.training, n_steps=given.n_steps))
        units = list_units(baseline, given.arms, given.seeds)
        if given.dry_run:
            print("\n".join(describe_unit(unit, baseline, out) for unit in units))
            return 0
        return 1 if run_units(units, given.data, given.runs / given.study, out) else 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def describe_unit(unit: Unit, baseline: Config, out: Path) -> str:
    """One line: its name, whether it is finished, and the settings it changes.

    >>> baseline = build_config("tissue", "smoke")
    >>> describe_unit(list_units(baseline, ["v_objective"], [1])[0], baseline, Path("no/such/folder"))
    'v_objective-seed1          waiting   seed=1 model.objective=v'
    """
    before, after = flatten(baseline), flatten(unit.config)
    changes = " ".join(f"{key}={after[key]}" for key in after if after[key] != before[key])
    return f"{unit.name:26} {'finished' if is_finished(unit, out, IGNORED) else 'waiting':9} {changes}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
