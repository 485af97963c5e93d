"""What the runs of `arm_runs` say together: the scores of arms by group, and their differences from a control.

A group's score in an arm is the mean over label subsets and seeds. Intervals and tests run over groups; how much
subsets and seeds matter is told apart from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from sedm.config import CONTROLS
from sedm.experiments.runs import read_runs
from sedm.group_statistics import compare_groups, holm, summarise_groups

COMMAND = "sedm segment"  # writes the runs
COLUMNS = ["arm", "n_annotated", "draw", "seed", "split", "group", "iou", "dice"]
BOUND = "all_annotations"  # sees all masks, whatever the label subset
SIGNIFICANT = 0.05


def read_scores(folder: str | Path, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the scores of finished runs: one row a run, split and group; columns as in ``COLUMNS``.

    Args:
        names: of the runs to read, as `sedm.experiments.runs.read_runs` takes them.

    Raises:
        ValueError: no run in ``folder``, or runs of different data.
    """
    tables = []
    for stored in read_runs(folder, COMMAND, names):
        values = stored["values"]
        facts = {key: values[key] for key in COLUMNS[:4]}
        for split, scores in values["scores"].items():
            table = pd.DataFrame(scores, dtype=float).rename_axis("group").reset_index()
            tables.append(table.assign(split=split, **facts))
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def group_scores(scores: pd.DataFrame, n_annotated: int, split: str = "test", measure: str = "iou") -> pd.DataFrame:
    """Average scores over label subsets and seeds: one row a group, one column an arm; for one count of annotations.

    >>> rows = [("real", 8, 0, seed, "test", "a", iou, iou) for seed, iou in enumerate((0.5, 0.7))]
    >>> group_scores(pd.DataFrame(rows, columns=COLUMNS), n_annotated=8).loc["a", "real"].round(2)
    np.float64(0.6)
    """
    chosen = _choose(scores, n_annotated, split)
    return chosen.pivot_table(index="group", columns="arm", values=measure, sort=False, dropna=False)


def strongest_control(scores: pd.DataFrame, n_annotated: int, among: Sequence[str] = CONTROLS) -> str:
    """Name the control with the highest mean IoU on the *validation* groups: the test groups must not choose it.

    Raises:
        ValueError: none of them is there.
    """
    means = group_scores(scores, n_annotated, "validation").mean()
    means = means[[arm for arm in among if arm in means]]
    if means.empty:
        raise ValueError(f"no run of {', '.join(among)} with {n_annotated} annotated groups")
    return str(means.idxmax())


def compare_arms(
    scores: pd.DataFrame,
    control: str,
    n_annotated: int,
    *,
    split: str = "test",
    measure: str = "iou",
    untested: Sequence[str] = (BOUND,),
    seed: int = 0,
) -> pd.DataFrame:
    """Compare arms with a control: one row an arm, the best first.

    Columns are those of `summarise_groups`, those of `compare_groups` with the control, and more.

    An arm is compared with the control on the draws and seeds that both have, `BOUND` on all of the control's.
    ``ci_low`` and ``ci_high`` belong to ``mean_difference``, ``mean_low`` and ``mean_high`` to ``mean``: intervals over
    groups, for these draws and seeds. How much other ones matter is told by ``smallest_difference`` and
    ``largest_difference``, of one draw and seed; by ``seed_sd``, the standard deviation of the mean score over seeds of
    the same draw (root mean square over draws), and ``draw_sd``, that over draws of their means over seeds; ``n_units``
    counts them. ``p_adjusted`` is ``wilcoxon_p`` after Holm's correction for all arms in the table, but the control and
    those ``untested``.

    Args:
        control: the arm that others are compared with.
        untested: arms that see more than others may.
        seed: of the bootstraps.

    Raises:
        ValueError: no run of the control, or none of the draws and seeds of another arm.
    """
    by_group, chosen = group_scores(scores, n_annotated, split, measure), _choose(scores, n_annotated, split)
    if control not in by_group:
        raise ValueError(f"no run of the control {control!r} with {n_annotated} annotated groups")
    rows, reference = {}, chosen[chosen["arm"] == control].set_index(["draw", "seed"])
    for arm in by_group:
        own = chosen[chosen["arm"] == arm].set_index(["draw", "seed"])
        means = own.groupby(["draw", "seed"])[measure].mean()
        spread = {
            "seed_sd": float(means.groupby("draw").var().mean() ** 0.5),
            "draw_sd": float(means.groupby("draw").mean().std()),
            "n_units": len(means),
        }
        differences = (means - reference.groupby(["draw", "seed"])[measure].mean()).dropna()
        if differences.empty:
            raise ValueError(f"no run of {arm!r} has the draw and the seed of one of the control {control!r}")
        pair = own, reference
        if arm != BOUND:
            pair = [table[table.index.isin(differences.index)] for table in pair]
        pair = [table.groupby("group")[measure].mean().reindex(by_group.index) for table in pair]
        compared = compare_groups(*pair, seed)
        compared |= {"smallest_difference": differences.min(), "largest_difference": differences.max()}
        summary = summarise_groups(by_group[arm], seed)
        summary |= {"mean_low": summary.pop("ci_low"), "mean_high": summary.pop("ci_high")}
        if arm == control:  # no difference, but the same columns, also when it is the only arm
            compared = {key: float("nan") for key in compared if key not in summary}
        rows[arm] = summary | compared | spread
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("mean", ascending=False)
    tested = table.drop(index=[control, *untested], errors="ignore")
    table["p_adjusted"] = pd.Series(holm(tested["wilcoxon_p"].to_dict()) if len(tested) else {}, dtype=float)
    return table.rename_axis("arm")


def curve(
    scores: pd.DataFrame, points: Mapping[float | str, tuple[str, int]], split: str = "test", seed: int = 0
) -> pd.DataFrame:
    """Compute the mean IoU over groups with its interval: one row a point, columns ``mean, low, high``.

    Args:
        points: where on the axis → (arm, count of annotated groups); points without a run are left out.
        seed: of the bootstraps.

    >>> rows = [("real", n, 0, 0, "test", group, n / 10, 0.0) for n in (4, 8) for group in "ab"]
    >>> curve(pd.DataFrame(rows, columns=COLUMNS), {4: ("real", 4), 8: ("real", 8), 16: ("real", 16)})["mean"].to_dict()
    {4: 0.4, 8: 0.8}
    """
    rows = {}
    for x, (arm, n_annotated) in points.items():
        by_group = group_scores(scores, n_annotated, split)
        if arm in by_group:
            summary = summarise_groups(by_group[arm], seed)
            rows[x] = {"mean": summary["mean"], "low": summary["ci_low"], "high": summary["ci_high"]}
    return pd.DataFrame.from_dict(rows, orient="index")


def describe_finding(table: pd.DataFrame, control: str, arm: str, called: str = "the strongest control") -> str:
    """Describe what `compare_arms` found of ``arm``: mean, difference, spread between groups, and a verdict.

    The verdict is that of the interval, where the adjusted p agrees at 0.05.

    Args:
        called: the control, in words.
    """
    ours, theirs = table.loc[arm], table.loc[control]
    verdict = "cannot be told from"
    if ours["p_adjusted"] < SIGNIFICANT and ours["ci_low"] > 0:
        verdict = "is better than"
    elif ours["p_adjusted"] < SIGNIFICANT and ours["ci_high"] < 0:
        verdict = "is worse than"
    return (
        f"Over {ours['n_groups']:.0f} test groups, `{arm}` {verdict} {called}, `{control}`: a mean IoU of "
        f"{ours['mean']:.3f} against {theirs['mean']:.3f}, a difference of "
        f"{ours['mean_difference']:+.3f} [{ours['ci_low']:+.3f}, {ours['ci_high']:+.3f}], p = {ours['p_adjusted']:.2g} "
        f"after Holm's correction; of one draw and seed, from {ours['smallest_difference']:+.3f} to "
        f"{ours['largest_difference']:+.3f}. "
        + (
            f"The spread between groups is {ours['sd_ratio']:.2f} times that of the control "
            f"[{ours['sd_ratio_low']:.2f}, {ours['sd_ratio_high']:.2f}], the worst group {ours['worst']:.3f} "
            f"against {theirs['worst']:.3f}."
            if theirs["sd"] > 0
            else f"The worst group scores {ours['worst']:.3f} against {theirs['worst']:.3f}."
        )
        + "".join(
            f" Another {what} of this arm moves its mean by {ours[f'{what}_sd']:.3f} (standard deviation)."
            for what in ("seed", "draw")
            if ours[f"{what}_sd"] == ours[f"{what}_sd"]  # NaN where there is one only
        )
    )


def run_facts(folder: str | Path, names: Sequence[str] | None = None) -> list[dict]:
    """List the facts of each run: arm, draw, seed, the test IoU of each group, and the run that made it.

    Args:
        names: as `read_scores` takes them.

    Raises:
        ValueError: as `read_scores`.
    """
    facts = []
    for stored in read_runs(folder, COMMAND, names):
        values, run = stored["values"], stored["run"]
        kept = {key: values[key] for key in (*COLUMNS[:4], "n_real", "n_synthetic", "data")}
        kept |= {key: run.get(key) for key in ("commit", "device", "precision", "seconds")}
        facts.append(kept | {"iou": values["scores"]["test"]["iou"]})
    return facts


def _choose(scores: pd.DataFrame, n_annotated: int, split: str) -> pd.DataFrame:
    fits = (scores["n_annotated"] == n_annotated) | (scores["arm"] == BOUND)
    return scores[fits & (scores["split"] == split)]
