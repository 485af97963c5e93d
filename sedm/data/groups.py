"""Names of groups: every loader writes them alike, so that a patient is one patient in all tables.

Tools write the number of a patient as 7, as 7.0 (a column with a missing value) or as text. A number becomes the text
"7"; text stays as it is. Two names that tools may have made of one are an error where tables are split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import datasets
import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from sedm.data.errors import PatchTableError

LARGEST_EXACT = 2**53  # beyond it a float may stand for several whole numbers


def name_groups(
    values: Iterable, where: str, column: str = "group", labels: datasets.ClassLabel | None = None
) -> list[str]:
    """Name the groups of a table's rows.

    Args:
        values: text or a number a row.
        where: the table, for the error message.
        column: the column that holds them, for the error message.
        labels: whose names the values are indices of.

    Returns:
        Text: a whole number without a point, another as short as its type allows (0.1 also where it has 32 bits), a
        label by its name, and text as it is but for blanks around it.

    Raises:
        PatchTableError: a row without a group, or a value that names none.

    >>> name_groups([7, 7.0, "7", "case-7", np.float32(0.1)], "train.parquet")
    ['7', '7', '7', 'case-7', '0.1']
    """
    return [name_group(value, f"{where}, row {row}, column {column!r}", labels) for row, value in enumerate(values)]


def name_group(value: Any, where: str, labels: datasets.ClassLabel | None = None) -> str:
    """Name the group of one row, as ``name_groups`` does; ``where`` begins the error message.

    >>> name_group(float("nan"), "row 3, column 'patient'")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: row 3, column 'patient': empty; every patch needs the name of its patient or \
species
    """
    if labels is not None and value is not None:
        value = labels.int2str(value) if value >= 0 else None  # a negative label is none
    if hasattr(value, "item"):  # a number of numpy
        value = value.item()
    if isinstance(value, bytes):  # text of tools that do not mark it as such
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise PatchTableError(f"{where}: {value!r} is no UTF-8; store groups as text") from error
    if isinstance(value, str):
        value = value.strip()
    # a missing value of pandas is neither equal to itself nor not
    if value is None or type(value).__name__ == "NAType" or value == "" or value != value:
        raise PatchTableError(f"{where}: empty; every patch needs the name of its patient or species")
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, Real | Decimal) or not math.isfinite(value):
        raise PatchTableError(f"{where}: {value!r}; a group is a name or a number")
    if value == int(value):
        if isinstance(value, float) and abs(value) >= LARGEST_EXACT:
            raise PatchTableError(f"{where}: {value!r}, a float too large to tell groups apart; store them as text")
        return str(int(value))
    is_single = isinstance(value, float) and np.float32(value) == value  # tables read 0.1 as 0.10000000149011612
    return str(np.float32(value) if is_single else value)


def labels_of(feature: Any) -> datasets.ClassLabel | None:
    """Give the class labels of a column of ``datasets``, as ``name_groups`` takes them; None where it holds no labels.

    >>> labels_of(datasets.Value("int64")) is None
    True
    """
    return feature if isinstance(feature, datasets.ClassLabel) else None


def check_spelling(names: Iterable[str], where: str) -> None:
    """Refuse two names that tools may have made of one: numbers that differ in zeros alone, such as 7, 7.0 and 007.

    Args:
        names: of the groups; each may come often.
        where: the tables, for the error message.

    Raises:
        PatchTableError: names the two.

    >>> check_spelling(["7", "8", "007"], "my_slides")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: my_slides: groups '7' and '007' look like one; write its name alike everywhere
    """
    names_by_number: dict[str, str] = {}
    for name in dict.fromkeys(names):
        number = re.fullmatch(r"(-?)0*(\d+)(\.0*)?", name.strip())
        first = names_by_number.setdefault(number[1] + number[2] if number else name.strip(), name)
        if first != name:
            raise PatchTableError(
                f"{where}: groups {first!r} and {name!r} look like one; write its name alike everywhere"
            )


def rows_by_group(groups: Sequence[str]) -> dict[str, Int64[Tensor, " rows"]]:
    """List the rows of each group, groups in the order in which they come.

    >>> rows_by_group(["b", "a", "b"])
    {'b': tensor([0, 2]), 'a': tensor([1])}
    """
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return {group: torch.tensor(members) for group, members in rows.items()}
