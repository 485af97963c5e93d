"""Splits by whole groups: which groups are for testing, and which are annotated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from sedm.data.errors import PatchTableError
from sedm.data.groups import check_spelling, name_groups
from sedm.data.table_rows import Table


def split_by_group(table: Table, test_fraction: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split a table by group into two, (train, test).

    Args:
        test_fraction: share of the *groups* that goes to test, in (0, 1); at least one group on each side.

    Raises:
        PatchTableError: fewer than two groups, two names of one, or a stream, whose rows are in no table.

    >>> from sedm.data.patch_table import from_arrays
    >>> pixels = np.zeros((4, 8, 8, 3), np.uint8)
    >>> train, test = split_by_group(from_arrays(pixels, pixels[..., 0], list("aabc")), 0.34, seed=0)
    >>> sorted(set(train["group"])), sorted(set(test["group"]))
    (['a', 'b'], ['c'])
    """
    names = _group_names(table)
    test_groups = draw_test_groups(names, test_fraction, seed)
    is_test = np.array([group in test_groups for group in names])
    return table.select(np.flatnonzero(~is_test)), table.select(np.flatnonzero(is_test))


def draw_test_groups(groups: Iterable[str], test_fraction: float, seed: int) -> set[str]:
    """Draw the groups of the test split: ``test_fraction`` of all, at least one, and one at least is left.

    >>> draw_test_groups(["a", "a", "b", "c"], test_fraction=0.34, seed=0)
    {'c'}
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction}; it must lie between 0 and 1")
    distinct = draw_groups(groups, seed)
    if len(distinct) < 2:
        raise PatchTableError(f"the table has {len(distinct)} group; a split by group needs two or more")
    n_test = min(max(round(test_fraction * len(distinct)), 1), len(distinct) - 1)
    return set(distinct[:n_test])


def draw_annotated_groups(groups: Iterable[str], n: int, seed: int) -> set[str]:
    """Draw the ``n`` groups that keep their masks; those of a smaller count are among those of a larger one.

    Raises:
        ValueError: fewer groups than asked for.

    >>> draw_annotated_groups(["a", "b", "c"], n=2, seed=0) == set(draw_groups(["a", "b", "c"], seed=0)[:2])
    True
    """
    ordered = draw_groups(groups, seed)
    if not 0 <= n <= len(ordered):
        annotated = "1 group is" if len(ordered) == 1 else f"{len(ordered)} groups are"
        raise ValueError(f"n_annotated_groups={n}, but {annotated} annotated")
    return set(ordered[:n])


def draw_groups(groups: Iterable[str], seed: int, name: str = "the table") -> list[str]:
    """Put the distinct groups into a seeded random order, which does not depend on the order of the rows.

    >>> draw_groups(["b", "a", "b", "c"], seed=0)
    ['c', 'a', 'b']
    """
    distinct = sorted(set(groups))
    check_spelling(distinct, name)
    return [str(group) for group in np.random.default_rng(seed).permutation(distinct)]


SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "shifted": "shifted",
}
"""What people call splits, and what they are called here."""


@dataclass(frozen=True)
class Splits:
    """How the groups of one table are split into train, validation and test.

    Groups are tested on, and train the networks that measure, only where people annotated some of their images; images
    without a mask lend their style, so their groups are all in train.

    Args:
        test_fraction: share of the annotated groups that goes to test; at least one.
        validation_fraction: … to validation; at least one, where three or more groups are annotated.
        seed: of the draw.
        column: the column of the table that names the split of each row, in place of a draw.
        validation, test: lists of names of groups, in place of a draw.

    Raises:
        ValueError: a value of another kind, fractions that leave nothing to train on, or a column beside named groups.
    """

    test_fraction: Any = 0.4
    validation_fraction: Any = 0.2
    seed: Any = 0
    column: Any = ""
    validation: Any = ()
    test: Any = ()

    def __post_init__(self):
        for name in ("test_fraction", "validation_fraction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}; give a number of 0 or more, and less than 1")
        if self.test_fraction == 0 or self.test_fraction + self.validation_fraction >= 1:
            raise ValueError(
                f"test_fraction={self.test_fraction}, validation_fraction={self.validation_fraction}; the first must "
                "be above 0, their sum below 1"
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"seed={self.seed!r}; give a whole number of 0 or more")
        if not isinstance(self.column, str):
            raise ValueError(f"column={self.column!r}; give the name of a column as text")
        for name in ("validation", "test"):
            groups = getattr(self, name)
            if not isinstance(groups, (list, tuple)) or not all(isinstance(group, str) for group in groups):
                raise ValueError(f"{name}={groups!r}; give a list of groups, each as text")
        if self.column and (self.validation or self.test):
            raise ValueError(f"column={self.column!r} beside names of groups; give one of them")


def split_annotated(table: datasets.Dataset, splits: Splits, name: str = "the table") -> dict[str, datasets.Dataset]:
    """Split a table by group; validation and test hold annotated rows only.

    Raises:
        PatchTableError: too few annotated groups, a named group or a column that is not there, an unknown name of a
            split, or a group in two of them.

    >>> from sedm.data.patch_table import from_arrays
    >>> pixels = np.zeros((5, 8, 8, 3), np.uint8)
    >>> masks = [*pixels[:4, ..., 0], None]
    >>> parts = split_annotated(from_arrays(pixels, masks, list("abcde")), Splits(test_fraction=0.25))
    >>> {split: part["group"][:] for split, part in parts.items()}
    {'train': ['b', 'd', 'e'], 'validation': ['a'], 'test': ['c']}
    """
    groups = _group_names(table)
    is_annotated = np.array(table.data.column("mask").is_valid())
    annotated_groups = {group for group, told in zip(groups, is_annotated, strict=True) if told}
    if splits.column:
        split_of_row = _named_splits(table, splits.column, name)
    else:
        split_of = draw_splits(annotated_groups, splits, name)
        split_of_row = [split_of.get(group, "train") for group in groups]
    parts = {}
    for split in dict.fromkeys(("train", "validation", "test", *split_of_row)):
        is_chosen = np.array([one == split for one in split_of_row])
        parts[split] = table.select(np.flatnonzero(is_chosen if split == "train" else is_chosen & is_annotated))
    if not len(parts["validation"]):
        del parts["validation"]
    for split, part in parts.items():
        if split != "validation" and not annotated_groups & set(part["group"][:]):
            raise PatchTableError(f"{name}: no group of the split {split!r} is annotated; choose other splits")
    check_splits(parts)
    return parts


def draw_splits(annotated_groups: set[str], splits: Splits, name: str = "the table") -> dict[str, str]:
    """Draw the groups that are not for training, and return the split of each.

    Raises:
        PatchTableError: too few annotated groups, or a named group that is not there.

    >>> draw_splits({"a", "b", "c", "d"}, Splits(test_fraction=0.25))
    {'c': 'test', 'a': 'validation'}
    """
    for asked in (*splits.validation, *splits.test):
        if asked not in annotated_groups:
            raise PatchTableError(
                f"{name}: no annotated group {asked!r} to be held out; there are {_list(annotated_groups)}"
            )
    split_of = {group: "validation" for group in splits.validation} | {group: "test" for group in splits.test}
    if len(split_of) < len(splits.validation) + len(splits.test):
        raise PatchTableError(f"{name}: a group is named for validation and for test, or twice")
    free = [group for group in draw_groups(annotated_groups, splits.seed, name) if group not in split_of]
    n_annotated = len(annotated_groups)
    if n_annotated < 2:
        groups = "1 group" if n_annotated == 1 else f"{n_annotated} groups"
        raise PatchTableError(
            f"{name}: people annotated {groups}; at least two are needed, one to train and one to test on"
        )
    for split, fraction, least in (
        ("test", splits.test_fraction, 1),
        ("validation", splits.validation_fraction, 1 if n_annotated > 2 and splits.validation_fraction else 0),
    ):
        if not getattr(splits, split):
            n = min(max(round(fraction * n_annotated), least), len(free) - 1)
            split_of |= {group: split for group in free[:n]}
            free = free[n:]
    for split, is_empty in (("train", not free), ("test", "test" not in split_of.values())):
        if is_empty:
            raise PatchTableError(f"{name}: of {n_annotated} annotated groups none is left to {split} on; name fewer")
    return split_of


def _named_splits(table: datasets.Dataset, column: str, name: str) -> list[str]:
    if column not in table.column_names:
        raise PatchTableError(f"{name}: no column {column!r} of splits; it has {', '.join(table.column_names)}")
    split_of_row = []
    for row, value in enumerate(table[column][:]):
        if str(value).lower() not in SPLIT_WORDS:
            raise PatchTableError(f"{name}, row {row}, column {column!r}: {value!r}; give train, validation or test")
        split_of_row.append(SPLIT_WORDS[str(value).lower()])
    return split_of_row


def _list(names: Iterable[str]) -> str:
    """List some names for a message."""
    names = sorted(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def check_splits(splits: Mapping[str, Table]) -> None:
    """Refuse tables of which two share a group.

    Args:
        splits: tables, or streams, by name.

    Raises:
        PatchTableError: names the group and both splits, or two names that look like one group.

    >>> from sedm.data.patch_table import from_arrays
    >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
    >>> table = from_arrays(pixels, pixels[..., 0], ["case-7"])
    >>> check_splits({"train": table, "test": table})
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: group 'case-7' is in two splits, 'train' and 'test'; split by group instead
    """
    split_of: dict[str, str] = {}
    for split, table in splits.items():
        if isinstance(table, datasets.Dataset):
            names = _group_names(table)
        else:
            names = name_groups((row["group"] for row in table.select_columns(["group"])), split)
        for group in dict.fromkeys(names):
            if split_of.setdefault(group, split) != split:
                raise PatchTableError(
                    f"group {group!r} is in two splits, {split_of[group]!r} and {split!r}; split by group instead"
                )
    check_spelling(split_of, f"splits {', '.join(splits)}")


def _group_names(table: Table) -> list[str]:
    if not isinstance(table, datasets.Dataset):
        raise PatchTableError("a stream cannot be split by group; load the table without streaming=True")
    return name_groups(table["group"][:], "the table")  # all at once: a hundred times faster than one by one
