"""What runs across laboratories say together, by rules that were fixed before they were made.

The groups of one laboratory lend their styles in one study and are tested in another, its *folds*: every group of it
is tested once. An arm of a label subset is a network in each fold, and the mean over all groups is over both.

Which arm stands for the method, and which control is the strongest, is decided on the validation groups of the
annotated laboratory (``figures/protocol.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sedm.experiments.arms import ARMS
from sedm.experiments.comparison import (
    compare_arms,
    describe_finding,
    group_scores,
    read_scores,
    strongest_control,
)
from sedm.experiments.subsets import NEVER_SEEN


@dataclass(frozen=True)
class LaboratoryComparison:
    """Arms over all folds, against the strongest control.

    Args:
        arms: a row an arm, as `sedm.experiments.comparison.compare_arms` gives them, with its ``kind``, and
            ``validation`` and ``source``, mean scores of validation and of test groups of the annotated laboratory.
        control: the strongest one.
        method: the arm that stands for the method.
        by_group: scores of the tested groups, one column an arm.
    """

    arms: pd.DataFrame
    control: str
    method: str
    by_group: pd.DataFrame

    @property
    def finding(self) -> str:
        """What was found of the method, in words."""
        return describe_finding(self.arms, self.control, self.method)


def read_folds(folders: Sequence[str | Path], n_annotated: int) -> pd.DataFrame:
    """Read the scores of all folds as one: runs that each of them has, tested on the groups of all.

    Runs of a sweep are left out: an arm with settings that were tried for one study is no arm of the protocol.
    Scores of splits whose groups are the same in every fold, those of the annotated laboratory, are averaged.

    Args:
        folders: of the runs of each fold, whose data differ.
        n_annotated: groups; runs with other counts are left out, but those that see all masks.

    Raises:
        ValueError: no folder, one without runs, no run that all folds have, or a group that is tested in two of them.
    """
    if not folders:
        raise ValueError("no folder of runs to compare; each fold has one")
    folds = [read_scores(folder) for folder in folders]
    keys = ["arm", "n_annotated", "draw", "seed"]
    shared = set.intersection(*(set(map(tuple, fold[keys].to_numpy().tolist())) for fold in folds))
    both = pd.concat(folds, keys=range(len(folds)), names=["fold"]).reset_index("fold")
    both = both[[tuple(row) in shared for row in both[keys].to_numpy().tolist()]]
    both = both[both["arm"].isin(ARMS)]
    both = both[(both["n_annotated"] == n_annotated) | both["arm"].map(lambda arm: ARMS[arm].all_masks)]
    if both.empty:
        raise ValueError(f"no run with {n_annotated} annotated groups is in each of {', '.join(map(str, folders))}")
    tested = both[both["split"] == "test"]
    repeated = tested.groupby([*keys, "group"])["fold"].nunique() > 1
    if repeated.any():
        raise ValueError(f"the group {repeated.idxmax()[-1]!r} is tested in two folds; each is to test others")
    return both.groupby([*keys, "split", "group"], sort=False)[["iou", "dice"]].mean().reset_index()


def compare_laboratories(folders: Sequence[str | Path], n_annotated: int) -> LaboratoryComparison:
    """Compare all arms that were run in every fold with the strongest control among them.

    Control and method are chosen among the arms of the most label subsets; others are compared, and do not choose.

    Holm's correction is for all arms but the method, whose comparison is the primary one and stands as it is, and
    those that see more than others.

    Args:
        folders: as `read_folds` takes them.

    Raises:
        ValueError: as `read_folds`, no control or no method among the runs, or no scores that choose among them.
    """
    scores = read_folds(folders, n_annotated)
    kinds = {arm: ARMS[arm].kind for arm in scores["arm"].unique()}

    def best(kind: str) -> str:
        # a generator that never saw the lenders is a question of its own
        candidates = [arm for arm in kinds if kinds[arm] == kind and ARMS[arm].synthetic not in NEVER_SEEN]
        if not candidates:
            raise ValueError(f"{', '.join(map(str, folders))}: no arm of the kind {kind!r}")
        # arms compare over the label subsets that all have: one that was run on few must not choose for the others
        n_subsets = scores.groupby("arm")["draw"].nunique()[candidates]
        return strongest_control(scores, n_annotated, n_subsets.index[n_subsets == n_subsets.max()].tolist())

    control, method = best("control"), best("SEDM")
    untested = [method, *(arm for arm in kinds if kinds[arm] == "sees more")]
    arms = compare_arms(scores, control, n_annotated, untested=untested)
    arms["kind"] = pd.Series(kinds)
    arms["validation"] = group_scores(scores, n_annotated, "validation").mean()
    arms["source"] = group_scores(scores, n_annotated, "source").mean()
    return LaboratoryComparison(arms, control, method, group_scores(scores, n_annotated))
