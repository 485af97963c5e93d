"""The page that says whether synthetic images help on a data set: one file that needs no other.

Its text is ``report_page.html``.
"""

from __future__ import annotations

import base64
import io
import json
import math
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
    "Their layouts are masks of the annotated groups, flipped and combined, so they may go where those masks may. What "
    "looks like a copy of a training image is counted above; beyond that nothing is proven."
)


def answer(table: pd.DataFrame, control: str) -> str:
    """Say in one sentence whether synthetic images help.

    >>> numbers = {"mean_difference": [0.03], "ci_low": [0.01], "ci_high": [0.05], "p": [0.01], "p_adjusted": [0.01]}
    >>> answer(pd.DataFrame(numbers, index=["sedm_augmented"]), "colour_augmentation")
    'Yes: synthetic images raise the IoU by 0.030 (0.010 to 0.050) over “+ random colours”.'
    """
    if OURS not in table.index:
        return "It cannot be told: the networks trained on synthetic images diverged."
    ours = table.loc[OURS]
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


def warnings_of(data: StudyData, table: pd.DataFrame, preset: str) -> list[str]:
    """List what makes an answer less certain than it looks."""
    warnings, n_groups, n_cells = [], int(table["n_groups"].iloc[0]), int(table["n_cells"].min())
    if n_groups < FEW_GROUPS:
        warnings.append(
            f"{n_groups} test {data.study.group}s: whatever the numbers look like, so few can hardly carry a finding "
            f"({FEW_GROUPS} can). Annotate more, or take this for a trial."
        )
    if n_cells < FEW_REPETITIONS:
        repetitions = "A single network" if n_cells == 1 else f"{n_cells} networks"
        warnings.append(
            f"{repetitions} an arm: two networks of the same arm differ as well, so that so few can hardly carry a "
            f"finding. Ask for more by [presets.{preset}] arms.n_seeds = 6 in the file of the study."
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
        finding=describe_finding(table.rename(WORDS), WORDS[control], WORDS[OURS]) if OURS in table.index else "",
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
