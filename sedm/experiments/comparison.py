"""What the runs of `arm_runs` say together: the scores of arms by group, and their differences from a control.

A group's score in an arm is the mean over label subsets and seeds. A comparison of two arms counts all that is left
to chance: the groups that are tested, the label subsets that are annotated, and the seeds of the training
(`sedm.group_statistics.estimate_crossed`). An interval over groups alone compares two *networks*: between two of the
same arm, which differ in their seed only, it finds a difference in half of all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from pathlib import Path

import pandas as pd

from sedm.config import CONTROLS
from sedm.experiments.runs import read_runs
from sedm.group_statistics import compare_crossed, estimate_crossed, holm, summarise_groups

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

    Means are over the draws and seeds that all of them have, since groups annotated in another draw may teach more.

    Raises:
        ValueError: none of them is there, or nothing that all of them have was scored.
    """
    cells = {arm: cells_of(scores, arm, n_annotated, "validation") for arm in among}
    cells = {arm: table for arm, table in cells.items() if len(table)}
    if not cells:
        raise ValueError(
            f"no run of {', '.join(among)} with {n_annotated} annotated groups has scores of validation groups"
        )
    shared = reduce(lambda one, other: one.intersection(other, sort=False), (table.index for table in cells.values()))
    cells = {arm: table.loc[shared] for arm, table in cells.items()}
    groups = _scored_everywhere(cells.values())
    if shared.empty or not groups:
        what = "draw and seed" if shared.empty else "validation group with a score"
        raise ValueError(f"{', '.join(cells)} have no {what} in common; nothing says which is the strongest")
    means = {arm: table[groups].mean().mean() for arm, table in cells.items()}
    return max(means, key=means.get)


def cells_of(
    scores: pd.DataFrame, arm: str, n_annotated: int, split: str = "test", measure: str = "iou"
) -> pd.DataFrame:
    """Tabulate the scores of an arm: one row a (draw, seed), one column a group.

    >>> rows = [("real", 8, 0, seed, "test", "a", iou, iou) for seed, iou in enumerate((0.5, 0.7))]
    >>> cells_of(pd.DataFrame(rows, columns=COLUMNS), "real", n_annotated=8)["a"].to_dict()
    {(0, 0): 0.5, (0, 1): 0.7}
    """
    chosen = _choose(scores, n_annotated, split)
    chosen = chosen[chosen["arm"] == arm]
    return chosen.pivot_table(index=["draw", "seed"], columns="group", values=measure, sort=False, dropna=False)


def average_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """Average the seeds of each draw, which share its luck; of a single draw, its seeds are the repetitions."""
    return cells if cells.index.unique("draw").size < 2 else cells.groupby("draw", sort=False).mean()


def compare_arms(
    scores: pd.DataFrame,
    control: str,
    n_annotated: int,
    *,
    split: str = "test",
    measure: str = "iou",
    untested: Sequence[str] = (BOUND,),
) -> pd.DataFrame:
    """Compare arms with a control: one row an arm, the best first.

    Columns are ``mean`` with its interval ``mean_low, mean_high``; ``sd`` between groups, ``tenth_percentile, worst,
    worst_group`` of the groups' means; those of `compare_crossed` with the control; and more.

    Groups count that every run could score: one without foreground has no score where none is predicted either.

    An arm is compared with the control on the draws and seeds that both have, `BOUND`, which has no draws, by the mean
    of its seeds. Intervals count groups and repetitions: the draws, each the mean over its seeds, or the seeds of a
    single draw; with a single network an arm there are none. ``smallest_difference`` and ``largest_difference`` are
    those of one draw and seed; ``seed_sd`` is the standard deviation of the mean score over seeds of the same draw
    (root mean square over draws), and ``draw_sd`` that over draws of their means over seeds; ``n_units`` counts
    networks. ``p_adjusted`` is ``p`` after Holm's correction for all arms in the table, but the control and those
    ``untested``.

    Args:
        control: the arm that others are compared with.
        untested: arms that see more than others may.

    Raises:
        ValueError: no run of the control, none of the draws and seeds of another arm, or no group that counts.
    """
    by_group = group_scores(scores, n_annotated, split, measure)
    if control not in by_group:
        raise ValueError(f"no run of the control {control!r} with {n_annotated} annotated groups")
    cells = {arm: cells_of(scores, arm, n_annotated, split, measure) for arm in by_group}
    groups = _scored_everywhere(cells.values())
    if not groups:
        raise ValueError(f"no group of the {split} split has a score in every run; nothing to compare")
    rows, reference = {}, cells[control][groups]
    for arm, table in cells.items():
        own = table[groups]
        means, mean = own.mean(axis=1), estimate_crossed(average_seeds(own).to_numpy()[None])
        if arm == BOUND:
            own = pd.DataFrame({cell: own.mean() for cell in reference.index}).T.rename_axis(reference.index.names)
        shared = own.index.intersection(reference.index, sort=False)
        if shared.empty:
            raise ValueError(f"no run of {arm!r} has the draw and the seed of one of the control {control!r}")
        ours, theirs = (average_seeds(table.loc[shared]) for table in (own, reference))
        compared = compare_crossed(ours.to_numpy(), theirs.to_numpy())
        differences = (own - reference).loc[shared].mean(axis=1)
        compared |= {"smallest_difference": differences.min(), "largest_difference": differences.max()}
        if arm == control:  # no difference, but the same columns, also when it is the only arm
            compared |= {key: math.nan for key in compared if not key.startswith("n_")}
        of_groups = by_group.loc[groups, arm]
        rows[arm] = {
            "mean": of_groups.mean(),
            "mean_low": mean.low,
            "mean_high": mean.high,
            "sd": of_groups.std(),
            "tenth_percentile": of_groups.quantile(0.1),
            "worst": of_groups.min(),
            "worst_group": of_groups.idxmin(),
            "seed_sd": float(means.groupby("draw").var().mean() ** 0.5),
            "draw_sd": float(means.groupby("draw").mean().std()),
            "n_units": len(means),
        } | compared
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("mean", ascending=False)
    tested = table.drop(index=[control, *untested], errors="ignore")["p"].dropna()
    table["p_adjusted"] = pd.Series(holm(tested.to_dict()), dtype=float)
    return table.rename_axis("arm")


def is_found(row: Mapping[str, float] | pd.Series) -> bool:
    """Tell whether a row of `compare_arms` is a difference: its p after correction, or its own where it is untested.

    >>> is_found({"p": 0.03, "p_adjusted": 0.06}), is_found({"p": 0.03, "p_adjusted": float("nan")})
    (False, True)
    """
    p = row["p"] if math.isnan(row["p_adjusted"]) else row["p_adjusted"]
    return bool(p < SIGNIFICANT)


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

    Args:
        called: the control, in words.
    """
    ours, theirs = table.loc[arm], table.loc[control]
    verdict = "cannot be told from"
    if is_found(ours):
        verdict = "is better than" if ours["mean_difference"] > 0 else "is worse than"
    told = (
        f"Over {ours['n_groups']:.0f} test groups, `{arm}` {verdict} {called}, `{control}`: a mean IoU of "
        f"{ours['mean']:.3f} against {theirs['mean']:.3f}, a difference of {ours['mean_difference']:+.3f}"
    )
    if math.isnan(ours["ci_low"]):
        told += "; one network an arm or one group tells nothing of methods. "
    else:
        told += (
            f" [{ours['ci_low']:+.3f}, {ours['ci_high']:+.3f}], an interval that counts groups and "
            f"{ours['n_cells']:.0f} repetitions{_corrected(ours)}; of one draw and seed, from "
            f"{ours['smallest_difference']:+.3f} to {ours['largest_difference']:+.3f}. "
        )
    if math.isnan(ours["sd_ratio_low"]):
        told += f"The worst group scores {ours['worst']:.3f} against {theirs['worst']:.3f}."
    else:
        told += (
            f"The spread between groups is {ours['sd_ratio']:.2f} times that of the control "
            f"[{ours['sd_ratio_low']:.2f}, {ours['sd_ratio_high']:.2f}], the worst group {ours['worst']:.3f} "
            f"against {theirs['worst']:.3f}."
        )
    for what in ("seed", "draw"):
        if not math.isnan(ours[f"{what}_sd"]):  # where there are several
            told += f" Another {what} of this arm moves its mean by {ours[f'{what}_sd']:.3f} (standard deviation)."
    return told


def _corrected(row: pd.Series) -> str:
    return "" if math.isnan(row["p_adjusted"]) else f"; p = {row['p_adjusted']:.2g} after Holm's correction"


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


def _scored_everywhere(cells: Collection[pd.DataFrame]) -> list[str]:
    """List the groups that have a score in every row of every table of `cells_of`."""
    first, *others = (table.columns[table.notna().all()] for table in cells)
    return [group for group in first if all(group in columns for columns in others)]


def _choose(scores: pd.DataFrame, n_annotated: int, split: str) -> pd.DataFrame:
    fits = (scores["n_annotated"] == n_annotated) | (scores["arm"] == BOUND)
    return scores[fits & (scores["split"] == split)]
