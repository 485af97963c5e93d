"""Places: where patches were cut from their slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

PLACE_COLUMNS = ("slide", "x_microns", "y_microns", "microns_per_pixel")
"""With all of these, a patch table tells where its patches lie."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where patches were cut from their slides; ``len`` is the number of patches."""

    slides: list[str]  # unique within a group
    corners: Float64[Tensor, "n 2"]  # x and y of the left top corner from that of the slide, in microns
    sides: Float64[Tensor, " n"]  # width of a patch, in microns

    def __len__(self) -> int:
        return len(self.slides)

    def select(self, rows: Sequence[int]) -> Places:
        """Select places by row, in the order of ``rows``.

        >>> import torch
        >>> Places(["a", "b"], torch.zeros(2, 2).double(), torch.ones(2).double()).select([1]).slides
        ['b']
        """
        rows = list(rows)
        return Places([self.slides[row] for row in rows], self.corners[rows], self.sides[rows])
