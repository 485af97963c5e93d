"""What each reader of slides offers: levels of pixels, which of their tiles are there, and how large a pixel is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from sedm.data.slides.resolution import Resolution
from sedm.data.slides.stored_tiles import StoredTiles

Window = tuple[int, int, int, int]  # left, top, right and bottom in pixels of a level


class GlassPlace(NamedTuple):
    """Where a scan lies on its glass, which Hamamatsu's annotations count from."""

    x_offset: float  # nm from the centre of the glass to that of the scan
    y_offset: float
    pixel_width: float  # nm of the finest level
    pixel_height: float


@runtime_checkable
class Pyramid(Protocol):
    """The levels of one slide, finest first.

    Attributes:
        level_sizes: width and height of each in pixels.
        tiles: which ground each holds.
        glass_place: None where the file does not say.
    """

    level_sizes: Sequence[tuple[int, int]]
    tiles: Sequence[StoredTiles]
    glass_place: GlassPlace | None

    def stated_resolution(self) -> Resolution:
        """Find the resolution that the file states.

        Raises:
            UnknownResolutionError: none that can be true, or several that contradict each other.
            PatchTableError: pixels that are not square.
        """

    def read(self, level: int, window: Window) -> UInt8[np.ndarray, "h w 3"]:
        """Read whole pixels of a level as RGB; ground that it lacks has any colour."""

    def close(self) -> None:
        """Close the file."""


def describe_cause(error: BaseException) -> str:
    """Say in one line what a reader choked on.

    >>> describe_cause(KeyError("a"))
    "KeyError: 'a'"
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
