"""What a source of images holds, met one image at a time, and what of it will hurt later."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from sedm.data.pictures import UNKNOWN

FEW_GROUPS = 15  # annotated ones; with fewer, test groups cannot carry a finding
LARGE_SHARE = 0.2  # of all pixels, that nobody knows
N_NAMED = 3  # groups in a sentence


class RowFacts(NamedTuple):
    """What is kept of one image."""

    group: str
    size: tuple[int, int]  # width and height, px
    counts: Int[np.ndarray, " 256"] | None  # pixels of each value in the mask; None where nobody annotated
    pixels_hash: int | None  # of the image, to find it again; None where it shows nothing


class SourceSummary:
    """Counts of images, groups, sizes and classes; memory grows with the groups, and by a hash an image.

    Args:
        classes: names of the class indices.
        fit: how images that are no squares become some; "pad" adds unknown pixels to their masks.

    >>> summary = SourceSummary(["glass", "gland"])
    >>> counts = np.bincount([0, 0, 0, 1], minlength=256)
    >>> for number, (group, told) in enumerate((("a", counts), ("b", None), ("b", None))):
    ...     summary.add(RowFacts(group, (64, 64), told, pixels_hash=number))
    >>> summary.lines()[0]
    '3 images of 2 groups: 1 image of 1 group is annotated'
    >>> summary.warnings()[0]
    "1 group has one image, such as 'a': its style is that of this image"
    """

    def __init__(self, classes: Sequence[str], fit: str = ""):
        self.fit = fit
        self.n_complete = 0  # masks without an unknown pixel
        self.classes = list(classes)
        self.n_images: Counter[str] = Counter()  # by group
        self.n_annotated: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.pixels: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(256, np.int64))
        self.first_group: dict[int, str] = {}  # in which an image of these pixels was met
        self.n_shared: Counter[tuple[str, str]] = Counter()  # images in two groups

    def add(self, facts: RowFacts) -> None:
        """Add one image."""
        self.n_images[facts.group] += 1
        self.sizes[facts.size] += 1
        if facts.pixels_hash is not None:
            first = self.first_group.setdefault(facts.pixels_hash, facts.group)
            if first != facts.group:
                self.n_shared[first, facts.group] += 1
        if facts.counts is not None:
            self.n_annotated[facts.group] += 1
            self.pixels[facts.group] += facts.counts
            is_padded = self.fit == "pad" and facts.size[0] != facts.size[1]
            self.n_complete += not is_padded and not facts.counts[UNKNOWN]

    @property
    def shares(self) -> dict[str, float]:
        """The share of each class in all pixels of masks that somebody knows."""
        total = sum(self.pixels.values(), np.zeros(256, np.int64))[: len(self.classes)]
        return dict(zip(self.classes, (total / max(total.sum(), 1)).tolist(), strict=True))

    def lines(self) -> list[str]:
        """Say what is there, a line a fact."""
        groups, annotated = len(self.n_images), len(self.n_annotated)
        n, n_annotated = self.n_images.total(), self.n_annotated.total()
        are = "is" if n_annotated == 1 else "are"
        sizes = ", ".join(f"{w}×{h} px ({count})" for (w, h), count in self.sizes.most_common(3))
        more = f" and {_count(len(self.sizes) - 3, 'other size')}" if len(self.sizes) > 3 else ""
        per_group = sorted(self.n_images.values())
        lines = [
            f"{_count(n, 'image')} of {_count(groups, 'group')}: {_count(n_annotated, 'image')} of "
            f"{_count(annotated, 'group')} {are} annotated",
        ]
        if sizes:
            lines.append(f"sizes: {sizes}{more}")
        if per_group:
            lines.append(f"images a group: {per_group[0]} to {per_group[-1]}, median {per_group[len(per_group) // 2]}")
        if annotated:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in self.shares.items())
            lines.append(f"classes: {shares}")
        return lines

    def warnings(self) -> list[str]:
        """List what will hurt, though nothing is wrong."""
        warnings = []
        if not self.n_images:  # faults say why
            return warnings
        single = [group for group, n in self.n_images.items() if n == 1]
        if single:
            have = "has one image" if len(single) == 1 else "have one image each"
            its = "its style is that of this image" if len(single) == 1 else "their styles are those of these images"
            warnings.append(f"{_count(len(single), 'group')} {have}, such as {_some(single)}: {its}")
        if self.n_shared:
            (pair, _), *_ = self.n_shared.most_common(1)
            warnings.append(
                f"{_count(self.n_shared.total(), 'image')} in two groups, such as {_some(pair)}: with one of them in "
                "training and one in the test, a network is tested on what it learned"
            )
        if len(self.n_images) == 1:
            warnings.append("there is one group, but a split by group needs two annotated ones")
        if not self.n_annotated:
            warnings.append("nobody annotated anything: styles can be borrowed, but no layout can be learned")
        elif len(self.n_annotated) < FEW_GROUPS:
            warnings.append(
                f"{_count(len(self.n_annotated), 'annotated group')}: a part of them is for testing, and few test "
                "groups cannot tell whether synthetic images help"
            )
        if self.n_annotated and len(self.n_annotated) == len(self.n_images):
            warnings.append("every group is annotated, so there is no style of unannotated ones to borrow")
        for index, name in enumerate(self.classes):
            lacking = [group for group, pixels in self.pixels.items() if not pixels[index]]
            if self.pixels and len(lacking) == len(self.pixels):
                warnings.append(f"no mask shows the class {name!r}")
            elif lacking and index:
                warnings.append(f"{_count(len(lacking), 'annotated group')} without {name!r}, such as {_some(lacking)}")
        if self.n_annotated and not self.n_complete:
            because = ", for fit = 'pad' adds some" if self.fit == "pad" else ""
            warnings.append(f"every mask has unknown pixels{because}: no layout can be learned from them")
        silent = [group for group, pixels in self.pixels.items() if pixels[UNKNOWN] == pixels.sum()]
        if silent:
            have = "has masks" if len(silent) == 1 else "have masks"
            warnings.append(
                f"{_count(len(silent), 'annotated group')} {have} of unknown pixels alone, such as {_some(silent)}: "
                "in a test they have no score"
            )
        total = sum(self.pixels.values(), np.zeros(256, np.int64))
        if total[UNKNOWN] > LARGE_SHARE * max(total.sum(), 1):
            warnings.append(f"{total[UNKNOWN] / total.sum():.0%} of the pixels of masks are unknown")
        if len(self.sizes) > 1:
            warnings.append(f"images of {len(self.sizes)} sizes: each is resized on its own, so scales may differ")
        return warnings


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, sorted(names)[:N_NAMED]))
