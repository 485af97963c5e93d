"""Splits by whole groups: which groups are for testing, and which are annotated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import datasets
import numpy as np

from sedm.data.groups import check_spelling, name_groups
from sedm.data.patch_table import PatchTableError, Table


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


def draw_groups(groups: Iterable[str], seed: int) -> list[str]:
    """Put the distinct groups into a seeded random order, which does not depend on the order of the rows.

    >>> draw_groups(["b", "a", "b", "c"], seed=0)
    ['c', 'a', 'b']
    """
    distinct = sorted(set(groups))
    check_spelling(distinct, "the table")
    return [str(group) for group in np.random.default_rng(seed).permutation(distinct)]


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
