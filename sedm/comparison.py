"""What the units of `sedm.arms` say together: the scores of arms by group, and their differences from a control.

A group's score in an arm is the mean over draws and seeds. Intervals and tests run over groups; how much draws and
seeds matter is told apart from them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sedm.statistics import compare_groups, holm, summarise_groups

COLUMNS = ["arm", "n_annotated", "draw", "seed", "split", "group", "iou", "dice"]
CONTROLS = ("real", "colour_augmentation", "reinhard", "macenko", "mean_teacher")  # fair: they need no generator
BOUND = "all_annotations"  # sees all masks, whatever the draw


def read_scores(folder: str | Path) -> pd.DataFrame:
    """One row a unit, split and group; columns as in ``COLUMNS``.

    Raises:
        ValueError: no unit in ``folder``, or units of different data.
    """
    units = [json.loads(path.read_text())["values"] for path in sorted(Path(folder).glob("values_*.json"))]
    if not units:
        raise ValueError(f"{folder}: no values_*.json; python -m sedm.arms writes them")
    if len({unit["data"] for unit in units}) > 1:
        raise ValueError(f"{folder}: units of different data; keep each in a folder of its own")
    tables = []
    for unit in units:
        facts = {key: unit[key] for key in COLUMNS[:4]}
        for split, scores in unit["scores"].items():
            table = pd.DataFrame(scores, dtype=float).rename_axis("group").reset_index()
            tables.append(table.assign(split=split, **facts))
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def group_scores(scores: pd.DataFrame, n_annotated: int, split: str = "test", measure: str = "iou") -> pd.DataFrame:
    """One row a group, one column an arm: means over draws and seeds; for one count of annotated groups.

    >>> rows = [("real", 8, 0, seed, "test", "a", iou, iou) for seed, iou in enumerate((0.5, 0.7))]
    >>> group_scores(pd.DataFrame(rows, columns=COLUMNS), n_annotated=8).loc["a", "real"].round(2)
    np.float64(0.6)
    """
    chosen = _choose(scores, n_annotated, split)
    return chosen.pivot_table(index="group", columns="arm", values=measure, sort=False, dropna=False)


def strongest_control(scores: pd.DataFrame, n_annotated: int, among: Sequence[str] = CONTROLS) -> str:
    """The control with the highest mean IoU on the *validation* groups: the test groups must not choose it.

    Raises:
        ValueError: none of them is there.
    """
    means = group_scores(scores, n_annotated, "validation").mean()
    means = means[[arm for arm in among if arm in means]]
    if means.empty:
        raise ValueError(f"no unit of {', '.join(among)} with {n_annotated} annotated groups")
    return str(means.idxmax())


def compare_arms(
    scores: pd.DataFrame,
    control: str,
    n_annotated: int,
    *,
    split: str = "test",
    measure: str = "iou",
    seed: int = 0,
) -> pd.DataFrame:
    """One row an arm, the best first: what `summarise_groups` and `compare_groups` with the control say, and more.

    ``p_adjusted`` is ``wilcoxon_p`` after Holm's correction for all arms in the table, but those that see more than
    the others may (`BOUND`) and the control. ``seed_sd`` is the standard deviation of the mean score over seeds of the
    same draw (root mean square over draws), ``draw_sd`` that over draws of their means over seeds; ``n_units`` counts.

    Args:
        control: the arm that others are compared with.
        seed: of the bootstraps.

    Raises:
        ValueError: no unit of the control.
    """
    by_group, chosen = group_scores(scores, n_annotated, split, measure), _choose(scores, n_annotated, split)
    if control not in by_group:
        raise ValueError(f"no unit of the control {control!r} with {n_annotated} annotated groups")
    rows = {}
    for arm in by_group:
        means = chosen[chosen["arm"] == arm].groupby(["draw", "seed"])[measure].mean()
        spread = {
            "seed_sd": float(means.groupby("draw").var().mean() ** 0.5),
            "draw_sd": float(means.groupby("draw").mean().std()),
            "n_units": len(means),
        }
        compared = {} if arm == control else compare_groups(by_group[arm], by_group[control], seed)
        rows[arm] = {**summarise_groups(by_group[arm], seed), **_renamed(compared), **spread}
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("mean", ascending=False)
    tested = table["wilcoxon_p"].drop(BOUND, errors="ignore").dropna()
    table["p_adjusted"] = pd.Series(holm(tested.to_dict()), dtype=float)
    return table.rename_axis("arm")


def _choose(scores: pd.DataFrame, n_annotated: int, split: str) -> pd.DataFrame:
    fits = (scores["n_annotated"] == n_annotated) | (scores["arm"] == BOUND)
    return scores[fits & (scores["split"] == split)]


def _renamed(compared: dict) -> dict:
    """The interval of a difference must not be taken for that of the mean."""
    names = {"ci_low": "difference_low", "ci_high": "difference_high"}
    return {names.get(key, key): value for key, value in compared.items() if key != "n_groups"}
