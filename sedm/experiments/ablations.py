"""Ablations of the generator: one choice changed at a time, everything else alike.

A *unit* is one arm at one seed: a model trained on as many images as any other, measured by
`sedm.fidelity.unseen.measure_generator`, and written to one file. The seed decides the training alone; data, layouts
and noise of the measurement are the same for all. Finished units are skipped and interrupted ones go on. Processes
started with the same folders share the work::

    OMP_NUM_THREADS=1 sedm ablate tissue --seeds 0 1 & OMP_NUM_THREADS=1 sedm ablate tissue …
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sedm.config import PRESETS, Config, build_config, flatten, known_name
from sedm.config.studies import STUDIES
from sedm.data.patches import Patches, data_checksum, to_tensors
from sedm.data.sources import load_study
from sedm.data.splits import hide_annotations
from sedm.experiments.units import claim, finish_units, is_finished
from sedm.experiments.variants import ABLATIONS, EARLIER, QUESTIONS, read_measures
from sedm.fidelity import SHORT_TITLES, segmenter_extractor
from sedm.fidelity.unseen import Unseen, draw_unseen, measure_generator
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.training import train_model
from sedm.runtime.hardware import pick_device
from sedm.runtime.results import Results
from sedm.segmentation.predicted_masks import with_pseudo_layouts
from sedm.segmentation.segmenter import kept_segmenter

IGNORED = ("layouts.",)  # settings that no unit depends on: layouts are masks of unseen groups


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
    """`sedm.experiments.units.finish_units` of these units: the ones whose training diverged.

    Args:
        data: folder of parquet files of a study that is not embedded.
        runs: receives checkpoints, metrics and sample sheets.

    Raises:
        ValueError: ``out`` holds a unit of other settings, `IGNORED` ones aside, or measured in another way.
    """

    def prepare() -> Callable[[Unit], str]:
        if any(out.glob("values_*.json")) and read_measures(out).measured_on == EARLIER:
            raise ValueError(f"{out}: holds units of an earlier way of measuring; choose another folder with --out")
        material = load_material(units[0].config, data, runs)

        def finish(unit: Unit) -> str:
            found = run_unit(unit, material, runs / unit.name, out)
            return ", ".join(f"{name} {found[name]:.3f}" for name in SHORT_TITLES)

        return finish

    return finish_units(units, prepare, runs, out, IGNORED)


class Material(NamedTuple):
    """The data of a study, alike for all its units."""

    train: Patches  # with masks for the annotated groups only
    held_out: set[str]  # groups that no model may be trained on
    unseen: Unseen
    checksum: str


def load_material(baseline: Config, data: str | Path, runs: Path) -> Material:
    """What the units are trained and measured on, as seed 0 draws it; the networks that measure are trained once.

    The judge is trained on the validation groups, the network whose features distances are taken on
    with the masks that the generators see. Both are kept in ``runs``.

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
        segmenter = kept_segmenter(runs, "segmenter", train, config.segmentation, n_classes, seed=0)
    extractor = segmenter_extractor(segmenter, "the annotated training images")
    unseen = draw_unseen(test, judge, extractor, study.classes)
    return Material(train, held_out, unseen, data_checksum(train, validation, test))


def run_unit(unit: Unit, material: Material, folder: Path, out: Path) -> dict[str, float]:
    """The measures of one unit, after training it in ``folder`` and writing them to ``out``."""
    config, n_classes = unit.config, len(material.unseen.classes)
    results = Results(config, out, folder)
    results.folder = out  # where the user wants it, whatever the preset
    train, annotated = with_pseudo_layouts(material.train, config, n_classes, folder.parent)  # alike for many arms
    progress = sys.stderr.isatty()
    model = train_model(config, train, n_classes, folder, material.held_out, annotated=annotated, progress=progress)
    measured = measure_generator(SEDMPipeline.from_model(model).to(pick_device()), config, material.unseen)
    values = {"arm": unit.arm, "seed": config.seed, "data": material.checksum, **measured}
    values["n_training_images"] = config.training.n_steps * config.training.batch_size
    results.save_values(unit.name, values)
    for checkpoint in folder.glob("checkpoint-*.pt"):  # a finished unit does not go on
        checkpoint.unlink()
    return measured["measures"]


def main(arguments: list[str] | None = None) -> int:
    """Train and measure the arms of a study, one file for each arm and seed."""
    parser = argparse.ArgumentParser("sedm ablate", description=main.__doc__)
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
    baseline = build_config(given.study, given.preset)
    if given.n_steps is not None:
        baseline = replace(baseline, training=replace(baseline.training, n_steps=given.n_steps))
    units = list_units(baseline, given.arms, given.seeds)
    if given.dry_run:
        print("\n".join(describe_unit(unit, baseline, out) for unit in units))
        return 0
    return 1 if run_units(units, given.data, given.runs / given.study, out) else 0


def describe_unit(unit: Unit, baseline: Config, out: Path) -> str:
    """One line: its name, whether it is finished, and the settings it changes.

    >>> baseline = build_config("tissue", "smoke")
    >>> describe_unit(list_units(baseline, ["v_objective"], [1])[0], baseline, Path("no/such/folder"))
    'v_objective-seed1          waiting   seed=1 model.objective=v'
    """
    before, after = flatten(baseline), flatten(unit.config)
    changes = " ".join(f"{key}={after[key]}" for key in after if after[key] != before[key])
    return f"{unit.name:26} {'finished' if is_finished(unit, out, IGNORED) else 'waiting':9} {changes}".rstrip()
