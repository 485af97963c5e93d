"""Training variants of the generator: one choice changed at a time, everything else alike.

A run is one variant at one seed: a model trained on as many images as any other, measured by
`sedm.fidelity.unseen.measure_generator`, and written to one file. The seed decides the training alone; data, layouts
and noise of the measurement are the same for all. Finished runs are skipped and interrupted ones go on. Processes
started with the same folders share the work::

    OMP_NUM_THREADS=1 sedm ablate tissue --seeds 0 1 & OMP_NUM_THREADS=1 sedm ablate tissue …
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sedm.config import Config, flatten, known_name
from sedm.data.data_checksum import data_checksum
from sedm.data.patches import Patches
from sedm.data.study_data import load_study
from sedm.experiments.runs import claim, finish_runs, is_finished
from sedm.experiments.variants import EARLIER, QUESTIONS, VARIANTS, read_measures
from sedm.fidelity import SHORT_TITLES, segmenter_extractor
from sedm.fidelity.unseen import Unseen, draw_unseen, measure_generator
from sedm.generator.training import train_generator
from sedm.runtime.results import Results
from sedm.segmentation.segmenter import kept_segmenter

IGNORED = ("layouts.",)  # settings that no run depends on: layouts are masks of unseen groups


class VariantRun(NamedTuple):
    """One variant at one seed."""

    variant: str
    config: Config

    @property
    def name(self) -> str:
        """What its folder and its file are called."""
        return f"{self.variant}-seed{self.config.seed}"


def list_variant_runs(baseline: Config, variants: Sequence[str], seeds: Sequence[int]) -> list[VariantRun]:
    """List every variant at every seed, seed by seed, so that the first seed of all variants is there first.

    Raises:
        ValueError: an unknown variant.

    >>> from sedm.config import build_config
    >>> runs = list_variant_runs(build_config("tissue", "smoke"), ["baseline", "no_style"], [0, 1])
    >>> [run.name for run in runs], runs[1].config.training.style_sampling
    (['baseline-seed0', 'no_style-seed0', 'baseline-seed1', 'no_style-seed1'], 'none')
    """
    runs = []
    for seed in seeds:
        for variant in variants:
            changes = VARIANTS[QUESTIONS[known_name("variant", variant, QUESTIONS)]][variant]
            sections = {name: replace(getattr(baseline, name), **values) for name, values in changes.items()}
            training, usual = sections.get("training", baseline.training), baseline.training
            n_steps = usual.n_steps * usual.batch_size // training.batch_size  # on as many images
            sections["training"] = replace(training, n_steps=n_steps)
            runs.append(VariantRun(variant, replace(baseline, seed=seed, **sections)))
    return runs


def train_variants(
    runs: Sequence[VariantRun], data_folder: str | Path, folder: Path, out: Path, split: str = "test"
) -> list[VariantRun]:
    """Train and measure every run that is not finished; return those whose training diverged.

    Args:
        data_folder: parquet files of a study that is not embedded.
        folder: receives checkpoints, metrics and sample sheets.
        split: whose groups lend their styles: "validation" where a variant is to be chosen, "test" for a report.

    Raises:
        ValueError: ``out`` holds a run of other settings, `IGNORED` ones aside, or measured in another way.
    """

    def prepare() -> Callable[[VariantRun], str]:
        if any(out.glob("values_*.json")) and read_measures(out).measured_on == EARLIER:
            raise ValueError(f"{out}: holds runs of an earlier way of measuring; choose another folder with --out")
        material = load_material(runs[0].config, data_folder, folder, split)

        def finish(run: VariantRun) -> str:
            measures = train_variant(run, material, folder / run.name, out)
            return ", ".join(f"{name} {measures[name]:.3f}" for name in SHORT_TITLES)

        return finish

    return finish_runs(runs, prepare, folder, out, IGNORED, facts=lambda run: {"split": split})


class Material(NamedTuple):
    """The data of a study, alike for all its runs."""

    train: Patches  # with masks for the annotated groups only
    held_out: set[str]  # groups that no model may be trained on
    unseen: Unseen
    checksum: str
    split: str  # whose groups are unseen


def load_material(baseline: Config, data_folder: str | Path, folder: Path, split: str = "test") -> Material:
    """Load what the runs are trained and measured on, as seed 0 draws it; train the networks that measure, once.

    The judge is trained on the validation groups; where these are measured on, on the training groups with all their
    masks. The network whose features distances are taken on sees the masks that the generators see. Both are kept in
    ``folder``.

    Raises:
        ValueError: a study without validation groups, which the judge is trained on.
    """
    config = replace(baseline, seed=0)
    data = load_study(config, data_folder)
    train = data.label_subset(config.data.n_annotated_groups, config.seed)
    judged_by = data.train if split == "validation" else data.validation
    with claim(folder / "judge.lock", wait=True):
        judge = kept_segmenter(folder, "judge", judged_by, config.segmentation, seed=0)
        segmenter = kept_segmenter(folder, "segmenter", train, config.segmentation, seed=0)
    extractor = segmenter_extractor(segmenter, "the annotated training images")
    checksum = data_checksum(train, data.validation, data.test)
    return Material(train, data.held_out_groups, draw_unseen(data.patches[split], judge, extractor), checksum, split)


def train_variant(run: VariantRun, material: Material, folder: Path, out: Path) -> dict[str, float]:
    """Train one variant in ``folder``, write its measures to ``out`` and return them."""
    config = run.config
    results = Results(config, out, folder, folder=out)
    pipeline = train_generator(
        config,
        material.train,
        folder,
        material.held_out,
        segmenter_folder=folder.parent,  # alike for many variants
        progress=sys.stderr.isatty(),
    )
    record = measure_generator(pipeline, config, material.unseen)
    values = {"arm": run.variant, "seed": config.seed, "data": material.checksum, "split": material.split, **record}
    values["n_training_images"] = config.training.n_steps * config.training.batch_size
    results.save_values(run.name, values)
    for checkpoint in folder.glob("checkpoint-*.pt"):  # a finished run does not go on
        checkpoint.unlink()
    return record["measures"]


def describe_run(run: VariantRun, baseline: Config, out: Path) -> str:
    """Describe a run in one line: its name, whether it is finished, and the settings it changes.

    >>> from sedm.config import build_config
    >>> baseline = build_config("tissue", "smoke")
    >>> describe_run(list_variant_runs(baseline, ["v_objective"], [1])[0], baseline, Path("no/such/folder"))
    'v_objective-seed1          waiting   seed=1 model.objective=v'
    """
    before, after = flatten(baseline), flatten(run.config)
    changes = " ".join(f"{key}={after[key]}" for key in after if after[key] != before[key])
    return f"{run.name:26} {'finished' if is_finished(run, out, IGNORED) else 'waiting':9} {changes}".rstrip()
