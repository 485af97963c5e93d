"""From a study to an answer: do synthetic images help here? Every arm, and a page that shows what came of them.

    sedm compare my_images/study.toml --preset quick

A segmentation network is trained in four ways: on annotated images alone; with random colours; with these and predicted
masks on the unannotated images; with these and synthetic images in the styles of unannotated groups. Everything
finished is kept, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from sedm.config import Config
from sedm.config.study import RESULTS, check_segmentation
from sedm.data.pictures import UNKNOWN
from sedm.data.study_data import StudyData
from sedm.experiments.arm_runs import train_arms
from sedm.experiments.arms import ARMS, list_arm_runs
from sedm.experiments.comparison import compare_arms, group_scores, read_scores, strongest_control
from sedm.experiments.report_page import WORDS, warnings_of, write_page
from sedm.experiments.runs import claim
from sedm.experiments.subsets import LabelSubset, subset_name
from sedm.fidelity import segmenter_extractor
from sedm.fidelity.unseen import draw_in_styles, draw_unseen
from sedm.figures import arms_strip_plot, forest_plot, set_plot_style, style_layout_grid
from sedm.generation.generate import embed_bank
from sedm.generator.pipeline import sample_crossing
from sedm.layouts import LayoutPrior
from sedm.runtime.results import Results
from sedm.segmentation.segmenter import kept_segmenter
from sedm.styles.bank import first_rows


def compare_study(config: Config, data: StudyData, folder: str | Path) -> Path:
    """Train and score all arms of `WORDS`, and write what came of them as a page.

    Args:
        config: ``data.n_annotated_groups`` groups keep their masks; 0 = all that have some.
        data: of the study.
        folder: keeps all that is trained, and receives ``report.html`` and ``values_report.json``, and of the first
            choice of annotated groups what `sedm generate` takes: ``model/``, the layout prior and the style bank.

    Returns:
        The page.

    Raises:
        ValueError: a study without a question of segmentation, unannotated images, or a foreground class.
    """
    folder = Path(folder)
    check_comparable(config, data)
    config = data.settle(config)
    results = Results(config, folder, folder, folder=folder)
    subsets = [
        LabelSubset(config, data, draw, folder / "runs")
        for draw in range(config.seed, config.seed + config.arms.n_draws)
    ]
    generators = {subset_name(config, subset.number): subset.generator for subset in subsets}
    runs = list_arm_runs(config, list(WORDS))
    units = folder / "runs" / "units"
    diverged = train_arms(config, runs, data, folder / "runs", units, generators, replace_stale=True, wait=True)
    scores = read_scores(units, [run.name for run in runs])
    n_annotated = config.data.n_annotated_groups
    controls = [arm for arm in WORDS if ARMS[arm].kind == "control"]
    has_validation = "validation" in data.patches
    control = strongest_control(scores, n_annotated, controls) if has_validation else "colour_augmentation"
    table = compare_arms(scores, control, n_annotated)
    by_group = group_scores(scores, n_annotated)
    by_group = by_group[[arm for arm in WORDS if arm in by_group]]
    fidelity = measure_trust(subsets[0]) if has_validation else None
    set_plot_style()
    figures = {
        "arms": forest_plot(table.drop(index=control).rename(WORDS), WORDS[control], "foreground IoU"),
        "groups": arms_strip_plot(by_group.rename(columns=WORDS), ylabel="foreground IoU"),
        "samples": draw_samples(subsets[0]),
    }
    warnings = [f"{run.name} diverged and is left out." for run in diverged]
    warnings += warnings_of(data, table, by_group, config.preset)
    if has_validation and fidelity is None:
        several = f"two test {data.study.groups} with several images each, and masks that differ"
        warnings.append(f"The generated images are not measured: that takes {several}.")
    values = {"arms": table.to_dict("index"), "control": control, "groups": by_group.to_dict(), "warnings": warnings}
    if fidelity is not None:
        values["fidelity"] = {
            measure: part.droplevel("measure").to_dict("index") for measure, part in fidelity.groupby("measure")
        }
    path = results.save_values("report", values | {"data": data.checksum, "n_annotated": n_annotated})
    save_parts(subsets[0], folder)
    shown = replace(data, patches=data.patches | {"train": subsets[0].train})
    return write_page(folder / "report.html", path, shown, table, control, fidelity, figures, warnings)


def check_comparable(config: Config, data: StudyData) -> None:
    """Refuse a study in which the question makes no sense, before anything is trained.

    Raises:
        ValueError: see `compare_study`.
    """
    study = data.study
    check_segmentation(study)
    train = data.label_subset(config.data.n_annotated_groups, config.seed)
    if not len(train.unannotated()):
        raise ValueError(
            f"{study}: all {len(train)} training images are annotated, so there is no style to borrow; add images "
            f"without masks, or see what fewer annotations would do: [presets.{config.preset}] "
            "data.n_annotated_groups = 8"
        )
    for draw in range(config.seed, config.seed + config.arms.n_draws):
        subset = data.label_subset(config.data.n_annotated_groups, draw).annotated()
        if (subset.masks == UNKNOWN).flatten(1).any(1).all():
            reason = "fit = 'pad' adds such pixels, so choose another" if study.fit == "pad" else "complete some"
            raise ValueError(
                f"{study}: each of the {len(subset)} masks to train on has pixels that nobody knows (group "
                f"{subset.groups[0]!r} and others), so there is no layout to draw; {reason}"
            )


def measure_trust(subset: LabelSubset) -> pd.DataFrame | None:
    """Measure what the generator of a subset draws for unseen groups.

    Returns:
        The measures; None where such groups are too few, or all their masks the same.
    """
    config, data = subset.config, subset.data
    tested = data.test.annotated()
    sizes = [len(rows) for rows in tested.by_group().values()]
    if sum(size > 1 for size in sizes) < 2 or (tested.masks == tested.masks[:1]).all():
        return None
    judge = kept_segmenter(subset.shared_folder, "judge", data.validation, config.segmentation, seed=0)
    unseen = draw_unseen(data.test, judge, segmenter_extractor(subset.segmenter, "the annotated training images"))
    images = draw_in_styles(subset.generator, config, unseen)
    return unseen.measure(images, train=subset.train, stained=data.study.stained, seed=config.seed)


def save_parts(subset: LabelSubset, folder: Path) -> None:
    """Save the generator, layouts and styles of a subset, from which `sedm generate` makes as many pairs as wanted."""
    temporary = folder / ".model.tmp"
    with claim(folder / "runs" / "model.lock", wait=True):
        shutil.rmtree(temporary, ignore_errors=True)
        subset.generator.save_pretrained(temporary)
        shutil.rmtree(folder / "model", ignore_errors=True)
        temporary.rename(folder / "model")
        if isinstance(subset.layouts, LayoutPrior):
            subset.layouts.save(folder)
        embed_bank(subset.generator, subset.lenders).save(folder / "style_bank.safetensors")


def draw_samples(subset: LabelSubset, n: int = 6) -> Figure:
    """Draw layouts in the styles of the largest unannotated groups, beside an image of each."""
    lenders, config = subset.lenders, subset.config
    sizes = {name: len(rows) for name, rows in lenders.by_group().items()}
    names = sorted(sizes, key=lambda name: -sizes[name])[:n]
    rows = first_rows(lenders.groups, names, config.sampling.n_style_images)
    layouts = subset.layouts.sample(n, seed=config.seed + 1)
    styles = subset.generator.encode_styles(lenders.images[rows])
    images = sample_crossing(subset.generator, layouts, styles, config.sampling, config.seed)
    return style_layout_grid(layouts, lenders.images[rows[:, 0]], images, classes=lenders.classes)


def results_folder(config: Config) -> Path:
    """Choose where results go that nobody named a folder for: beside the file of the study, or in ``data/runs``."""
    study = config.study
    if study.file is None:
        return Path("data/runs", study.name, config.preset, "comparison")
    return study.file.parent / RESULTS / config.preset
