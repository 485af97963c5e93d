"""From a study to an answer: do synthetic images help here? All arms, and a page that shows what came of them.

    sedm compare my_images/study.toml --preset quick

A segmentation network is trained in four ways: on annotated images alone; with random colours; with these and predicted
masks on the unannotated images; with these and synthetic images in the styles of unannotated groups. Everything
finished is kept, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from sedm.config import Config
from sedm.config.study import RESULTS, check_segmentation
from sedm.data.study_data import StudyData
from sedm.experiments.arm_runs import train_arms
from sedm.experiments.arms import ARMS, list_arm_runs
from sedm.experiments.comparison import (
    SIGNIFICANT,
    compare_arms,
    describe_finding,
    group_scores,
    read_scores,
    strongest_control,
)
from sedm.experiments.subsets import LabelSubset, subset_name
from sedm.fidelity import segmenter_extractor
from sedm.fidelity.table import MEASURES
from sedm.fidelity.unseen import draw_in_styles, draw_unseen
from sedm.figures import arms_strip_plot, forest_plot, set_plot_style, style_layout_grid
from sedm.generator.pipeline import sample_crossing
from sedm.runtime.files import replacing
from sedm.runtime.results import Results
from sedm.segmentation.segmenter import kept_segmenter
from sedm.styles.bank import first_rows

TEMPLATE = Path(__file__).with_suffix(".html")
OURS = "sedm_augmented"
WORDS = {
    "real": "annotated images alone",
    "colour_augmentation": "… with random colours",
    "pseudo_labels": "… with random colours, and predicted masks on unannotated images",
    OURS: "… with random colours, and synthetic images in the styles of unannotated groups",
}
"""The arms, and what a reader is told of them."""

TRUST = ("layout_iou", "retrieval_top1", "colour_distance", "recall", "copied_features", "copied_pixels")
FEW_GROUPS = 7  # with fewer, three tests of signed ranks cannot reach 0.05 after Holm's correction
SHARING = (
    "Their layouts are masks of the annotated groups, flipped and combined, so they may go where those masks may. What "
    "looks like a copy of a training image is counted above; beyond that nothing is proven."
)


def compare_study(config: Config, data: StudyData, folder: str | Path) -> Path:
    """Train and score all arms of `WORDS`, and write what came of them as a page.

    Args:
        config: ``data.n_annotated_groups`` groups keep their masks; 0 = all that have some.
        data: of the study.
        folder: keeps all that is trained, and receives ``report.html`` and ``values_report.json``.

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
    table = compare_arms(scores, control, n_annotated, seed=config.seed)
    by_group = group_scores(scores, n_annotated)[list(WORDS)]
    fidelity = measure_trust(subsets[0]) if has_validation else None
    set_plot_style()
    figures = {
        "arms": forest_plot(table.drop(index=control), control, "foreground IoU"),
        "groups": arms_strip_plot(by_group, ylabel="foreground IoU"),
        "samples": draw_samples(subsets[0]),
    }
    warnings = [f"{run.name} diverged and is left out." for run in diverged] + warnings_of(data, table)
    values = {"arms": table.to_dict("index"), "control": control, "groups": by_group.to_dict(), "warnings": warnings}
    if fidelity is not None:
        values["fidelity"] = {
            measure: part.droplevel("measure").to_dict("index") for measure, part in fidelity.groupby("measure")
        }
    path = results.save_values("report", values | {"data": data.checksum, "n_annotated": n_annotated})
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


def warnings_of(data: StudyData, table: pd.DataFrame) -> list[str]:
    """List what makes an answer less certain than it looks."""
    warnings, n_groups = [], int(table["n_groups"].iloc[0])
    if n_groups < FEW_GROUPS:
        warnings.append(
            f"{n_groups} test {data.study.group}s: whatever the numbers look like, so few cannot carry a finding "
            f"(at least {FEW_GROUPS} are needed). Annotate more, or take this for a trial."
        )
    if "validation" not in data.patches:
        warnings.append(
            "No validation groups: the control was not chosen by its scores, and the generated images are not measured."
        )
    return warnings


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
    segmenter = kept_segmenter(subset.folder, "segmenter", subset.train, config.segmentation, seed=subset.number)
    unseen = draw_unseen(data.test, judge, segmenter_extractor(segmenter, "the annotated training images"))
    images = draw_in_styles(subset.generator, config, unseen)
    return unseen.measure(images, train=subset.train, stained=data.study.stained, seed=config.seed)


def draw_samples(subset: LabelSubset, n: int = 6) -> Figure:
    """Draw layouts in the styles of the largest unannotated groups, beside an image of each."""
    lenders, config = subset.train.unannotated(), subset.config
    sizes = {name: len(rows) for name, rows in lenders.by_group().items()}
    names = sorted(sizes, key=lambda name: -sizes[name])[:n]
    rows = first_rows(lenders.groups, names, config.sampling.n_style_images)
    layouts = subset.layouts.sample(n, seed=config.seed + 1)
    styles = subset.generator.encode_styles(lenders.images[rows])
    images = sample_crossing(subset.generator, layouts, styles, config.sampling, config.seed)
    return style_layout_grid(layouts, lenders.images[rows[:, 0]], images, classes=lenders.classes)


def answer(table: pd.DataFrame, control: str) -> str:
    """Say in one sentence whether synthetic images help.

    >>> numbers = {"mean_difference": [0.03], "ci_low": [0.01], "ci_high": [0.05], "p_adjusted": [0.01]}
    >>> answer(pd.DataFrame(numbers, index=["sedm_augmented"]), "colour_augmentation")
    'Yes: synthetic images raise the IoU by 0.030 (0.010 to 0.050) over “… with random colours”.'
    """
    ours = table.loc[OURS]
    difference = f"{abs(ours['mean_difference']):.3f}"
    interval = "{:.3f} to {:.3f}".format(*sorted(abs(ours[["ci_low", "ci_high"]].astype(float))))
    if ours["p_adjusted"] < SIGNIFICANT and ours["ci_low"] > 0:
        return f"Yes: synthetic images raise the IoU by {difference} ({interval}) over “{WORDS[control]}”."
    if ours["p_adjusted"] < SIGNIFICANT and ours["ci_high"] < 0:
        return f"No: synthetic images lower the IoU by {difference} ({interval}) against “{WORDS[control]}”."
    signed = "{:+.3f} ({:+.3f} to {:+.3f})".format(*ours[["mean_difference", "ci_low", "ci_high"]])
    return f"It cannot be told: with synthetic images the IoU differs by {signed} from “{WORDS[control]}”."


def write_page(
    path: Path,
    values: Path,
    data: StudyData,
    table: pd.DataFrame,
    control: str,
    fidelity: pd.DataFrame | None,
    figures: Mapping[str, Figure],
    warnings: Sequence[str],
) -> Path:
    """Write the report as one file that needs no other, and return its path."""
    import json

    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=False).from_string(TEMPLATE.read_text(encoding="utf-8"))
    study = data.study
    columns = ("mean", ("mean_low", "mean_high"), "sd", "worst", ("mean_difference", "ci_low", "ci_high"))
    rows = [
        {"words": words, "cells": [_cell(table.loc[arm], column) for column in columns]} for arm, words in WORDS.items()
    ]
    trust = []
    if fidelity is not None:
        wide = fidelity["value"].unstack("of").reindex(columns=["generated", "real", "chance"])
        trust = [
            {"words": MEASURES[name], "cells": [_number(value) for value in wide.loc[name]]}
            for name in TRUST
            if name in wide.index
        ]
    splits = []
    for split, patches in data.patches.items():
        annotated = patches.annotated()
        counts = [len(set(patches.groups)), len(set(annotated.groups)), len(patches), len(annotated)]
        splits.append({"split": split, "cells": counts})
    html = template.render(
        title=study.title or study.name,
        group=study.group,
        attribution=study.attribution,
        answer=answer(table, control),
        finding=describe_finding(table, control, OURS) if control != OURS else "",
        warnings=warnings,
        rows=rows,
        control=f"“{WORDS[control]}”",
        n_test=int(table["n_groups"].iloc[0]),
        n_units=int(table["n_units"].max()),
        figures={name: _embedded(figure) for name, figure in figures.items()},
        fidelity=trust,
        sharing=SHARING,
        splits=splits,
        run=json.loads(values.read_text())["run"],
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _cell(row: pd.Series, columns: str | tuple[str, ...]) -> str:
    if isinstance(columns, str):
        return _number(row[columns])
    values = [_number(row[column], sign="+" if "mean_difference" in columns else "") for column in columns]
    if not values[0]:
        return "–"
    return f"{values[0]} to {values[1]}" if len(values) == 2 else f"{values[0]} ({values[1]} to {values[2]})"


def _number(value: float, sign: str = "") -> str:
    return "" if value is None or math.isnan(value) else f"{value:{sign}.3f}"


def _embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def results_folder(config: Config) -> Path:
    """Choose where results go that nobody named a folder for: beside the file of the study, or in ``data/runs``."""
    study = config.study
    if study.file is None:
        return Path("data/runs", study.name, config.preset, "comparison")
    return study.file.parent / RESULTS / config.preset
