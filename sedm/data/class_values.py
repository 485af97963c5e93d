"""The values in the masks of a data set: classes, unknown pixels, or black and white that were drawn for the eye."""

from __future__ import annotations

import numpy as np

from sedm.data.errors import PatchTableError
from sedm.data.pictures import IN_A_FILE, UNKNOWN


class ClassValues:
    """The values that the masks of a data set hold, met one mask at a time.

    Args:
        n_classes: K, at most 255.

    >>> values = ClassValues(n_classes=2)
    >>> values.add(np.array([[0, 255]], np.uint8), "a.png")
    >>> values.refuse_black_and_white()
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: a.png: no mask has a class above 0, so 255 is not taken for unknown (if it is, \
add a patch that has one): value 255 is outside the classes 0..1; give each class its values in a \
study.toml, or pass mask_values={0: 0, 255: 1} when reading
    """

    def __init__(self, n_classes: int):
        if not 1 <= n_classes <= UNKNOWN:
            raise ValueError(f"n_classes={n_classes}; it lies in 1…{UNKNOWN}, since {UNKNOWN} is where nobody knows")
        self.n_classes = n_classes
        self.is_present = np.zeros(256, bool)
        self.first_unknown = ""  # where the first unknown pixel was met

    def add(self, mask: np.ndarray, where: str) -> None:
        """Add the values of one mask, (h, w) uint8.

        Raises:
            PatchTableError: ``where``, and a value that is neither a class nor UNKNOWN.
        """
        self.add_present(values_present(mask), where)

    def add_present(self, in_mask: np.ndarray, where: str) -> None:
        """Add the values of one mask, as ``values_present`` finds them.

        Raises:
            PatchTableError: as ``add``.
        """
        self.is_present |= in_mask
        outside = np.flatnonzero(in_mask[self.n_classes : UNKNOWN]) + self.n_classes
        if len(outside):
            message = f"{where}: {_outside(np.flatnonzero(in_mask).tolist(), self.n_classes)}"
            raise PatchTableError(message, column="mask", value=int(outside[-1]))
        if in_mask[UNKNOWN]:
            self.first_unknown = self.first_unknown or where

    def refuse_black_and_white(self) -> None:
        """Refuse 255 where no mask holds a class above 0: such masks are drawn in black and white for the eye."""
        if self.first_unknown and self.n_classes > 1 and not self.is_present[1:UNKNOWN].any():
            raise PatchTableError(
                f"{self.first_unknown}: no mask has a class above 0, so 255 is not taken for unknown (if it is, add a "
                f"patch that has one): value 255 is outside the classes 0..{self.n_classes - 1}; "
                f"{IN_A_FILE}pass mask_values={{0: 0, 255: 1}} when reading",
                column="mask",
                value=UNKNOWN,
            )


def values_present(mask: np.ndarray) -> np.ndarray:
    """Tell for each value of 8 bits whether a mask, (h, w) uint8, holds it: (256,) bool.

    >>> np.flatnonzero(values_present(np.array([[0, 255]], np.uint8)))
    array([  0, 255])
    """
    return np.bincount(mask.ravel(), minlength=256) > 0


def _outside(present: list[int], n_classes: int) -> str:
    """Say what is wrong with a mask of these values, and what would mend it."""
    values = sorted({0, *present})
    index_of = {value: index for index, value in enumerate(values)}
    hint = ""
    if values[-1] == 255 and len(values) == n_classes:  # white on black, for the eye
        hint = f"; {IN_A_FILE}pass mask_values={index_of} when reading"
    elif values[-1] > 127 and n_classes == 2:
        hint = "; where black and white were smoothed, say mask_threshold=127 when reading"
    return f"value {max(set(values) - {UNKNOWN})} is outside the classes 0..{n_classes - 1}{hint}"
