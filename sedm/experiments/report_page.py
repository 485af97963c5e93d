"""The page that says whether synthetic images help on a data set: one file that needs no other.

Its text is ``report_page.html``.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment
from matplotlib.figure import Figure

from sedm.data.study_data import StudyData
from sedm.experiments.comparison import describe_finding, is_found
from sedm.fidelity.table import MEASURES
from sedm.runtime.files import replacing

TEMPLATE = Path(__file__).with_suffix(".html")
OURS = "sedm_augmented"
WORDS = {
    "real": "annotated images",
    "colour_augmentation": "+ random colours",
    "pseudo_labels": "+ colours, predicted masks",
    OURS: "+ colours, synthetic images",
}
"""The arms, and what they are called on the page."""

TRUST = ("layout_iou", "retrieval_top1", "colour_distance", "recall", "copied_features", "copied_pixels")
FEW_GROUPS = 6  # with fewer, intervals are wider by a third and more than if the spread between groups were known
FEW_REPETITIONS = 3
SHARING = (
    "Their layouts are masks of the annotated {groups}, flipped and combined, so they may go where those masks may. "
    "{copies}; beyond that nothing is proven."
)
COPIES = {
    True: "What looks like a copy of a training image is counted above",
    False: "Copies of training images were not looked for",
}


def answer(table: pd.DataFrame, control: str, group: str = "group") -> str:
    """Say in one sentence whether synthetic images help.

    >>> numbers = {"mean_difference": [0.03], "ci_low": [0.01], "ci_high": [0.05], "p": [0.01], "p_adjusted": [0.01]}
    >>> numbers |= {"n_groups": [12]}
    >>> answer(pd.DataFrame(numbers, index=["sedm_augmented"]), "colour_augmentation")
    'Yes: synthetic images raise the IoU by 0.030 (0.010 to 0.050) over “+ random colours”.'
    """
    if OURS not in table.index:
        return "It cannot be told: the networks trained on synthetic images diverged."
    ours = table.loc[OURS]
    if ours["n_groups"] == 1:
        return f"It cannot be told: there is one test {group}, and what it shows may be chance."
    difference = f"{abs(ours['mean_difference']):.3f}"
    if math.isnan(ours["ci_low"]):
        return (
            f"It cannot be told from one network an arm: with synthetic images the IoU differs by "
            f"{ours['mean_difference']:+.3f} from “{WORDS[control]}”."
        )
    if is_found(ours):
        interval = "{:.3f} to {:.3f}".format(*sorted(abs(ours[["ci_low", "ci_high"]].astype(float))))
        found = ("Yes", "raise", "over") if ours["mean_difference"] > 0 else ("No", "lower", "against")
        return "{}: synthetic images {} the IoU by {} ({}) {} “{}”.".format(
            *found[:2], difference, interval, found[2], WORDS[control]
        )
    signed = "{:+.3f} ({:+.3f} to {:+.3f})".format(*ours[["mean_difference", "ci_low", "ci_high"]])
    return f"It cannot be told: with synthetic images the IoU differs by {signed} from “{WORDS[control]}”."


def warnings_of(data: StudyData, table: pd.DataFrame, by_group: pd.DataFrame, preset: str) -> list[str]:
    """List what makes an answer less certain than it looks.

    Args:
        table: what `compare_arms` says.
        by_group: the score of each test group in each arm.
    """
    warnings, n_groups, n_cells = [], int(table["n_groups"].iloc[0]), int(table["n_cells"].min())
    if preset == "smoke":
        warnings.append("The preset smoke only proves that everything runs: its numbers and pictures mean nothing.")
    if n_groups < FEW_GROUPS:
        groups = data.study.group if n_groups == 1 else data.study.groups
        warnings.append(
            f"{n_groups} test {groups}: whatever the numbers look like, so few can hardly carry a finding "
            f"({FEW_GROUPS} can). Annotate more, or take this for a trial."
        )
    if n_cells < FEW_REPETITIONS:
        repetitions = "A single network" if n_cells == 1 else f"{n_cells} networks"
        warnings.append(
            f"{repetitions} an arm: two networks of the same arm differ as well, so that so few can hardly carry a "
            f"finding. Ask for more by [presets.{preset}] arms.n_seeds = 6 in the file of the study."
        )
    unscored = sorted(by_group.index[by_group.isna().any(axis=1)])
    if unscored:
        warnings.append(
            f"Left out, because in some way of training neither masks nor predictions show a foreground class there: "
            f"{', '.join(unscored)}. Other ways may predict one there, which counts for nothing."
        )
    if "validation" not in data.patches:
        warnings.append(
            "No validation groups: the control was not chosen by its scores, and the generated images are not measured."
        )
    return warnings


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
    template = Environment(autoescape=True, trim_blocks=False).from_string(TEMPLATE.read_text(encoding="utf-8"))
    study = data.study
    columns = ("mean", ("mean_low", "mean_high"), "sd", "worst", ("mean_difference", "ci_low", "ci_high"))
    rows = [
        {"words": words, "cells": [_cell(table.loc[arm], column) for column in columns]}
        for arm, words in WORDS.items()
        if arm in table.index
    ]
    trust = {}
    if fidelity is not None:
        wide = fidelity["value"].unstack("of").reindex(columns=["generated", "real", "chance"])
        trust = {
            name: {"words": MEASURES[name], "cells": [_number(value) for value in wide.loc[name]]}
            for name in TRUST
            if name in wide.index and not math.isnan(wide.loc[name, "generated"])
        }
    splits = []
    for split, patches in data.patches.items():
        annotated = patches.annotated()
        counts = [len(set(patches.groups)), len(set(annotated.groups)), len(patches), len(annotated)]
        splits.append({"split": split, "cells": counts})
    html = template.render(
        title=study.title or study.name,
        group=study.group,
        groups=study.groups,
        redistributable=study.redistributable,
        attribution=study.attribution,
        answer=answer(table, control, study.group),
        finding=_finding(table, control, "validation" in data.patches),
        warnings=warnings,
        rows=rows,
        control=f"“{WORDS[control]}”",
        n_test=int(table["n_groups"].max()),
        n_units=int(table["n_units"].max()),
        figures={name: _embedded(figure) for name, figure in figures.items()},
        fidelity=list(trust.values()),
        sharing=SHARING.format(groups=study.groups, copies=COPIES["copied_pixels" in trust]),
        splits=splits,
        run=json.loads(values.read_text())["run"],
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _finding(table: pd.DataFrame, control: str, is_chosen: bool) -> str:
    """Say in more words what was found; nothing where there is no interval, or nothing to compare."""
    if OURS not in table.index or math.isnan(table.loc[OURS, "ci_low"]):
        return ""
    called = "the strongest control" if is_chosen else "the control"
    finding = describe_finding(table.rename(WORDS), WORDS[control], WORDS[OURS], called)
    return re.sub("`([^`]*)`", r"“\1”", finding)


def _cell(row: pd.Series, columns: str | tuple[str, ...]) -> str:
    if isinstance(columns, str):
        return _number(row[columns])
    values = [_number(row[column], sign="+" if "mean_difference" in columns else "") for column in columns]
    if "" in values:  # of one group there are no intervals
        return values[0] or "–"
    return f"{values[0]} to {values[1]}" if len(values) == 2 else f"{values[0]} ({values[1]} to {values[2]})"


def _number(value: float, sign: str = "") -> str:
    return "" if value is None or math.isnan(value) else f"{value:{sign}.3f}"


def _embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
