"""The error of everything that reads or makes a patch table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class PatchTableError(ValueError):
    """A patch table (or what should become one) breaks the format; the message names the culprit.

    Args:
        message: one sentence that says everything.
        file, row, column, value: the parts of it, as far as they are known: the file at fault, its row in the table
            (from 0) or its line in a spreadsheet, the column, and the value that was found.

    >>> PatchTableError("a.csv, line 3: no group", file="a.csv", row=3, column="group").row
    3
    """

    def __init__(self, message: str, *, file: Any = None, row: int | None = None, column: str = "", value: Any = None):
        super().__init__(message)
        self.file = None if file is None else str(file)
        self.row = row
        self.column = column
        self.value = value

    def at(self, file: Any = None, row: int | None = None, column: str = "") -> PatchTableError:
        """Add what the raising function could not know of the place; what is known already stays.

        >>> PatchTableError("row 3: no group", column="group").at("a.csv", 3, "mask").column
        'group'
        """
        self.file = self.file or (None if file is None else str(file))
        self.row = row if self.row is None else self.row
        self.column = self.column or column
        return self


Report = Callable[[PatchTableError], None]
"""What is done with a fault: ``raise_fault``, or ``append`` of a list where all are collected."""


def raise_fault(fault: PatchTableError) -> None:
    """Raise a fault that was met, so that the first one ends the work.

    >>> raise_fault(PatchTableError("a.png: no such file"))
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: a.png: no such file
    """
    raise fault
