"""Who is in which split, and who is annotated: always decided by whole groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import datasets
import numpy as np
import pyarrow
import pyarrow.compute
from datasets.fingerprint import Hasher

from sedm.data.groups import check_spelling, name_groups
from sedm.data.patch_table import PatchTableError, Table


def split_by_group(table: Table, test_fraction: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Two tables, (train, test), that share no group.

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
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction}; it must lie between 0 and 1")
    names = _group_names(table)
    groups = _draw_groups(names, seed)
    if len(groups) < 2:
        raise PatchTableError(f"the table has {len(groups)} group; a split by group needs two or more")
    n_test = min(max(round(test_fraction * len(groups)), 1), len(groups) - 1)
    test_groups = set(groups[:n_test])
    is_test = np.array([group in test_groups for group in names])
    return table.select(np.flatnonzero(~is_test)), table.select(np.flatnonzero(is_test))


def hide_annotations(table: Table, n_annotated_groups: int, seed: int) -> datasets.Dataset:
    """The table with the masks of all but a seeded draw of ``n_annotated_groups`` groups set to null.

    The draw is nested: the groups of a smaller count are among those of a larger one, at the same seed.

    Raises:
        PatchTableError: fewer annotated groups than asked for, two names of one, or a stream.

    >>> from sedm.data.patch_table import from_arrays
    >>> pixels = np.zeros((3, 8, 8, 3), np.uint8)
    >>> hidden = hide_annotations(from_arrays(pixels, pixels[..., 0], list("abc")), 1, seed=0)
    >>> [mask is None for mask in hidden["mask"]]
    [True, True, False]
    """
    names = _group_names(table)
    batches = table.cast_column("mask", datasets.Image()).select_columns("mask").with_format("arrow").iter(1000)
    # views of the stored masks: their bytes are neither read nor copied
    stored = [chunk for batch in batches for chunk in batch["mask"].chunks]
    has_mask = [valid for masks in stored for valid in masks.is_valid().to_pylist()]
    groups = _draw_groups((name for name, annotated in zip(names, has_mask, strict=True) if annotated), seed)
    if not 0 <= n_annotated_groups <= len(groups):
        raise PatchTableError(f"n_annotated_groups={n_annotated_groups}, but {len(groups)} groups have masks")
    keep = set(groups[:n_annotated_groups])
    others = iter(name not in keep for name in names)
    visible = [_hide(masks, list(islice(others, len(masks)))) for masks in stored]
    visible = pyarrow.chunked_array(visible, datasets.Image().pa_type)
    fingerprint = Hasher.hash([table._fingerprint, "hide_annotations", n_annotated_groups, seed])  # not of all bytes
    hidden = table.remove_columns("mask")
    return hidden.add_column("mask", visible, feature=datasets.Image(), new_fingerprint=fingerprint)


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
        raise PatchTableError("a stream cannot be split or hidden by group; load the table without streaming=True")
    return name_groups(table["group"][:], "the table")  # all at once: a hundred times faster than one by one


def _draw_groups(groups: Iterable[str], seed: int) -> list[str]:
    """The distinct groups in a seeded random order that does not depend on the order of the rows."""
    distinct = sorted(set(groups))
    check_spelling(distinct, "the table")
    return [str(group) for group in np.random.default_rng(seed).permutation(distinct)]


def _hide(masks: pyarrow.StructArray, hidden: list[bool]) -> pyarrow.StructArray:
    """The same masks, also null where ``hidden``: new marks over the same bytes."""
    null = pyarrow.compute.or_(masks.is_null(), pyarrow.array(hidden, pyarrow.bool_()))
    return pyarrow.StructArray.from_arrays([masks.field("bytes"), masks.field("path")], ["bytes", "path"], mask=null)
