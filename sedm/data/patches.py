"""Patches in memory: a decoded patch table, whose masks know their classes and who made them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from sedm.data import mapped_pixels
from sedm.data.groups import name_groups, rows_by_group
from sedm.data.patch_checks import check_classes, check_masks, check_sizes
from sedm.data.pictures import UNKNOWN
from sedm.data.places import Places
from sedm.data.splits import draw_annotated_groups, draw_test_groups
from sedm.data.table_decoding import MASK_SOURCES, decode_all
from sedm.data.table_rows import Table


@dataclass(frozen=True, eq=False, repr=False)
class Patches:
    """A decoded patch table, checked where it is made; ``len`` is the number of patches.

    Pixels of a large table are mapped from a file, and a batch ``images[rows]`` reads its own pages only.

    Args:
        images: RGB.
        masks: class indices; UNKNOWN where nobody knows, and everywhere where there is no mask.
        groups: the unit that shares a style, of each patch.
        classes: names of the mask values 0…K−1, each once; class 0 is the background.
        mask_source: one of ``MASK_SOURCES`` a patch; "annotated" when left out. A patch of which no pixel is known has
            "none", whatever is given.
        places: where the patches were cut, if known.

    Raises:
        ValueError: other types than these, numbers or sizes that differ, a mask value outside the classes, an unknown
            source, or "none" where there is a mask.

    >>> pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    >>> masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8), torch.full((8, 8), UNKNOWN)]).to(torch.uint8)
    >>> patches = Patches(pixels, masks, groups=["a", "b", "b"], classes=("stroma", "tumour"))
    >>> patches
    Patches(3 of 8×8 px, 2 groups, classes stroma, tumour, masks 2 annotated, 1 none)
    >>> len(patches), len(patches.annotated()), patches.unannotated().groups
    (3, 2, ['b'])
    """

    images: UInt8[Tensor, "n 3 h w"]
    masks: UInt8[Tensor, "n h w"]
    groups: list[str]
    classes: tuple[str, ...]
    mask_source: list[str] = field(default_factory=list)
    places: Places | None = None

    def __post_init__(self):
        object.__setattr__(self, "classes", check_classes(self.classes))
        object.__setattr__(self, "groups", name_groups(self.groups, "patches"))
        check_sizes(self.images, self.masks, self.groups, self.mask_source, self.places)
        object.__setattr__(self, "mask_source", check_masks(self.masks, self.mask_source, len(self.classes)))

    @classmethod
    def from_table(
        cls,
        table: Table,
        classes: Sequence[str],
        image_size: int | None = None,
        *,
        fit: str | None = None,
        name: str = "table",
        folder: str | Path | None = None,
    ) -> Patches:
        """Decode and check a patch table in one pass.

        Images are reduced with Lanczos and masks with the nearest neighbour, so class indices stay class indices. A
        table with all ``PLACE_COLUMNS`` filled gives ``places`` as well, and one with a column ``mask_source`` says
        who made its masks.

        Small pixels lie in memory, larger ones are mapped from a temporary file (`sedm.data.mapped_pixels`), which has
        no name and is freed with them, even if the process is killed. It is not kept for the next run: what a cache
        needs (a fingerprint, a check that it is whole, someone to delete it) costs more than decoding again.

        Args:
            classes: names of the mask values 0…K−1.
            image_size: pixels a side of the result; as stored when left out.
            fit: what becomes of images that are no squares, where there is an ``image_size``: "crop", "pad", "squeeze"
                or "tile" (see `sedm.data.reduce.FITS`). A picture in tiles gives several patches, one after the other,
                of its group.
            name: where the table came from, for messages.
            folder: put the pixels into a file here, whatever their size; by default the system's temporary folder
                (``TMPDIR``), which must lie on a disk.

        Raises:
            PatchTableError: no rows, an unreadable picture, a mask value outside the classes (see `check_patches`),
                images of several sizes and no ``image_size``, or an image that is no square and no ``fit``.
            ValueError: no such fit, or a fit without ``image_size``.
            OSError: no room for the pixels.

        >>> import numpy as np
        >>> from sedm.data.patch_table import from_arrays
        >>> pixels = np.zeros((2, 8, 8, 3), np.uint8)
        >>> table = from_arrays(pixels, [pixels[0, ..., 0], None], ["a", "b"])
        >>> Patches.from_table(table, classes=("stroma", "tumour"), image_size=4)
        Patches(2 of 4×4 px, 2 groups, classes stroma, tumour, masks 1 annotated, 1 none)
        """
        return decode_tables({name: table}, classes, image_size, fit=fit, folder=folder)[name]

    @classmethod
    def concatenate(cls, parts: Sequence[Patches]) -> Patches:
        """Concatenate patches of the same classes and size; places are dropped where there are several parts.

        Raises:
            ValueError: no parts, or parts of different classes or sizes.

        >>> pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        >>> parts = [Patches(pixels, pixels[:, 0], [group], classes=("stroma",)) for group in "ab"]
        >>> Patches.concatenate(parts).groups
        ['a', 'b']
        """
        if not parts:
            raise ValueError("no patches to put together; give one part or more")
        first, *others = parts
        if any(patches.classes != first.classes for patches in others):
            raise ValueError("patches of different classes cannot be put together; take them from one study")
        if any(patches.images.shape[1:] != first.images.shape[1:] for patches in others):
            raise ValueError("patches of different sizes cannot be put together; decode all at one image_size")
        n = sum(map(len, parts))
        return (
            first
            if not others
            else cls(
                images=mapped_pixels.join((patches.images for patches in parts), (n, *first.images.shape[1:])),
                masks=mapped_pixels.join((patches.masks for patches in parts), (n, *first.masks.shape[1:])),
                groups=[group for patches in parts for group in patches.groups],
                classes=first.classes,
                mask_source=[source for patches in parts for source in patches.mask_source],
            )
        )

    def __len__(self) -> int:
        return len(self.groups)

    def __repr__(self) -> str:
        height, width = self.images.shape[2:]
        counts = Counter(self.mask_source)
        masks = ", ".join(f"{counts[source]} {source}" for source in MASK_SOURCES if counts[source])
        classes = ", ".join(self.classes)
        return (
            f"Patches({len(self)} of {height}×{width} px, {len(set(self.groups))} groups, "
            f"classes {classes}, masks {masks})"
        )

    @property
    def n_classes(self) -> int:
        """The number of classes K."""
        return len(self.classes)

    @property
    def is_annotated(self) -> Bool[Tensor, " n"]:
        """Which patches a person annotated."""
        return torch.tensor([source == "annotated" for source in self.mask_source], dtype=torch.bool)

    @property
    def has_mask(self) -> Bool[Tensor, " n"]:
        """Which patches have a mask, whoever made it."""
        return torch.tensor([source != "none" for source in self.mask_source], dtype=torch.bool)

    def annotated(self) -> Patches:
        """Select the patches that a person annotated."""
        return self._where(self.is_annotated)

    def unannotated(self) -> Patches:
        """Select the patches that nobody annotated; their masks may be predicted."""
        return self._where(~self.is_annotated)

    def with_masks(self) -> Patches:
        """Select the patches that have a mask, whoever made it."""
        return self._where(self.has_mask)

    def select(self, rows: Sequence[int] | Tensor) -> Patches:
        """Select patches by row, in the order of ``rows``, which may come twice, or by a truth value a patch.

        Raises:
            ValueError: neither of both.

        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> patches = Patches(pixels, pixels[:, 0], ["a", "b"], classes=("stroma",))
        >>> patches.select([1]).groups, patches.select([True, False]).groups
        (['b'], ['a'])
        """
        rows = torch.as_tensor(rows if isinstance(rows, Tensor) else list(rows))
        if rows.dtype == torch.bool and rows.shape == (len(self),):
            rows = rows.nonzero().flatten()
        if rows.numel() and (rows.dim() != 1 or rows.dtype == torch.bool or rows.is_floating_point()):
            kind = f"{rows.dtype} of shape {tuple(rows.shape)}"
            raise ValueError(
                f"rows: {kind}; give numbers of rows, or a truth value a patch, of which there are {len(self)}"
            )
        rows = rows.tolist()
        return Patches(
            images=mapped_pixels.gather(self.images, rows),
            masks=mapped_pixels.gather(self.masks, rows),
            groups=[self.groups[row] for row in rows],
            classes=self.classes,
            mask_source=[self.mask_source[row] for row in rows],
            places=self.places and self.places.select(rows),
        )

    def by_group(self) -> dict[str, Int64[Tensor, " rows"]]:
        """List the rows of each group, groups in the order in which they come.

        >>> pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
        >>> Patches(pixels, pixels[:, 0], ["b", "a", "b"], classes=("stroma",)).by_group()
        {'b': tensor([0, 2]), 'a': tensor([1])}
        """
        return rows_by_group(self.groups)

    def of_groups(self, names: Collection[str]) -> Patches:
        """Select the patches of some groups, in the order of the rows.

        Args:
            names: of groups; text is the name of one.

        Raises:
            ValueError: a group of which there is no patch.

        >>> pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
        >>> Patches(pixels, pixels[:, 0], ["b", "a", "b"], classes=("stroma",)).of_groups({"b"}).groups
        ['b', 'b']
        """
        names = {names} if isinstance(names, str) else set(names)
        if names - set(self.groups):
            raise ValueError(f"no patch is of the group {min(names - set(self.groups))!r}")
        return self.select([row for row, group in enumerate(self.groups) if group in names])

    def split(self, test_fraction: float, seed: int) -> tuple[Patches, Patches]:
        """Split by group into (train, test), as `sedm.data.splits.split_by_group` splits a table.

        >>> pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> train, test = Patches(pixels, pixels[:, 0], list("aabc"), classes=("stroma",)).split(0.34, seed=0)
        >>> train.groups, test.groups
        (['a', 'a', 'b'], ['c'])
        """
        test_groups = draw_test_groups(self.groups, test_fraction, seed)
        return self.of_groups(set(self.groups) - test_groups), self.of_groups(test_groups)

    def hide_masks(self, n_annotated_groups: int, seed: int, never: Collection[str] = ()) -> Patches:
        """Hide the masks of all groups but a seeded draw of ``n_annotated_groups`` of which people annotated some.

        The draw is nested: the groups of a smaller count are among those of a larger one, at the same seed. Images are
        shared, not copied.

        Args:
            never: groups that are not drawn, whoever annotated them.

        Raises:
            ValueError: fewer annotated groups than asked for.

        >>> pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
        >>> Patches(pixels, pixels[:, 0], list("abc"), classes=("stroma",)).hide_masks(1, seed=0).mask_source
        ['none', 'none', 'annotated']
        """
        annotated = [
            group for group, source in zip(self.groups, self.mask_source, strict=True) if source == "annotated"
        ]
        kept_groups = draw_annotated_groups(set(annotated) - set(never), n_annotated_groups, seed)
        is_kept = torch.tensor([group in kept_groups for group in self.groups], dtype=torch.bool)
        parts = zip(
            self.masks.split(mapped_pixels.ROWS_AT_ONCE), is_kept.split(mapped_pixels.ROWS_AT_ONCE), strict=True
        )
        visible = (masks.where(kept[:, None, None], UNKNOWN) for masks, kept in parts)
        return replace(self, masks=mapped_pixels.join(visible, tuple(self.masks.shape)))

    def _where(self, condition: Bool[Tensor, " n"]) -> Patches:
        return self if condition.all() else self.select(condition.nonzero().flatten())


def decode_tables(
    tables: Mapping[str, Table],
    classes: Sequence[str],
    image_size: int | None = None,
    *,
    fit: str | None = None,
    folder: str | Path | None = None,
) -> dict[str, Patches]:
    """Decode and check several tables by name, as `Patches.from_table` does one.

    What 255 means in their masks is decided by all of them together.

    >>> import numpy as np
    >>> from sedm.data.patch_table import from_arrays
    >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
    >>> tables = {name: from_arrays(pixels, [None], [name]) for name in ("train", "test")}
    >>> {name: patches.groups for name, patches in decode_tables(tables, ("stroma", "tumour")).items()}
    {'train': ['train'], 'test': ['test']}
    """
    classes = check_classes(classes)
    decoded = decode_all(tables, len(classes), image_size, fit, folder)
    return {name: Patches(classes=classes, **fields) for name, fields in decoded.items()}
