"""How the pictures of a data set are stored: where they lie, what the values in masks mean, how images become RGB.

A study file says it in the same words, so each field is text, a number, a list, or a mapping of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from numbers import Real
from typing import Any

from sedm.data.mask_values import MaskCoding, check_mask_values, code_classes, parse_colour
from sedm.data.pictures import UNKNOWN

MASK_KINDS = ("classes", "instances", "run-lengths")
"""What a mask stores: the class of each pixel; the number of its object, 0 where there is none; text of runs."""

INTENSITY_RANGES = ("full", "image")
"""Words for the values of deep images that become 0 and 255: all of 16 bits; percentiles of each image."""


@dataclass(frozen=True, kw_only=True)
class SourceFormat:
    """How the pictures of a data set are stored; the default is the patch table's own way.

    Args:
        images: the folder of the images, in the source; "." is the source itself. "" finds a folder of such a name
            (``sedm.data.folders.file_names.IMAGE_FOLDERS``) or, where there is none, pictures in the source itself.
        masks: the folder of the masks, in the source; "" finds one that is named like masks. Masks may lie beside their
            images, too.
        group_level: which folder is the group, where they are nested: 1 is the one in ``images``, 2 the one in that, -1
            the one that holds the file; (1, 2) joins two names with a slash.
        image_column, mask_column, group_column: of a table of pictures or of paths. ``mask_column=""``: nobody
            annotated. ``group_column=""``: every image is its own group (in a folder, too), which is right only for
            pictures that have nothing in common.
        classes: the value, or the list of values, that each class has in the masks; the first class gets the index 0. A
            value is a whole number or a colour, such as "#ff0000". Empty: masks hold class indices. With the values 0,
            1, … they only name the classes, beside any other field that says what masks mean.
        unknown: beside ``classes``, the value or values of pixels that nobody knows.
        mask_values: in place of both, the class index of each value, such as {0: 0, 255: 1}, or of each colour, such as
            {(255, 0, 0): 1}; 255 as a class index means that nobody knows.
        mask_threshold: for masks in black and white whose borders were smoothed: values above it, such as 127, become
            class 1, the others class 0.
        mask_kind: one of ``MASK_KINDS``. Objects become class 1, the rest class 0. Run lengths are Kaggle's text
            "start length start length …", column by column from 1, or COCO's: its compressed text, or
            {"size": [height, width], "counts": …}, also as JSON.
        alpha: the colour that lies behind transparent images, such as "white" or "#ffffff"; "" refuses them.
        intensity_range: the values of images of more than 8 bits that become 0 and 255: [low, high]; "full", 0 and
            65535, for 16 bits; "image", the 0.1 and the 99.9 percentile of each image. "" refuses such images. The
            table says the range of each image in ``intensity_low`` and ``intensity_high``.
        scale: the size of the patches relative to that of the pictures: 0.5 halves them.
        tile_size: px a side of the square tiles into which each picture is cut after that; 0 leaves it whole. Tiles
            cover the whole picture, overlap where its sides are no multiples, and keep its group.
        microns_per_pixel: of the pictures as they are stored; 0 where nobody knows. With it, tiles tell their places.

    Raises:
        ValueError: the first field that makes no sense.

    >>> SourceFormat(classes={"glass": 0, "tissue": [128, 255]}).coding
    {0: 0, 128: 1, 255: 1}
    >>> SourceFormat(classes={"glass": "#000000", "tissue": "red"}, unknown="white").coding
    {(0, 0, 0): 0, (255, 0, 0): 1, (255, 255, 255): 255}
    """

    images: str = ""
    masks: str = ""
    group_level: Any = None
    image_column: str = "image"
    mask_column: str = "mask"
    group_column: str = "group"
    classes: Mapping[str, Any] = field(default_factory=dict)
    unknown: Any = ()
    mask_values: Any = None
    mask_threshold: Any = None
    mask_kind: str = "classes"
    alpha: str = ""
    intensity_range: Any = ""
    scale: Any = 1
    tile_size: Any = 0
    microns_per_pixel: Any = 0

    def __post_init__(self):
        for name in ("images", "masks", "image_column", "mask_column", "group_column", "alpha"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r}; give text, or '' for none")
        self._check_masks()
        if self.group_level is not None:
            levels = self.levels
            if not levels or not all(_is_whole(level) and level != 0 for level in levels):
                level = self.group_level
                raise ValueError(f"group_level={level!r}; 1 is a folder in images/, -1 the folder that holds the file")
        if self.alpha:
            parse_colour(self.alpha, "alpha")
        self._check_intensities()
        if not _is_number(self.scale) or not 0 < self.scale < inf:
            raise ValueError(f"scale={self.scale!r}; give a number above 0, such as 0.5 for half the size")
        if not _is_whole(self.tile_size) or self.tile_size < 0:
            raise ValueError(f"tile_size={self.tile_size!r}; give a whole number of pixels, or 0 for whole pictures")
        if not _is_number(self.microns_per_pixel) or not 0 <= self.microns_per_pixel < inf:
            raise ValueError(f"microns_per_pixel={self.microns_per_pixel!r}; give a number above 0, or 0 for unknown")

    @cached_property
    def coding(self) -> MaskCoding | None:
        """The class index of each value or colour in the masks; None where they hold class indices already."""
        if self.mask_values is not None:
            return check_mask_values(self.mask_values)
        return None if self._names_only else code_classes(self.classes, self.unknown)

    @property
    def levels(self) -> tuple[int, ...] | None:
        """The levels of the folders whose names make a group; None where the caller did not say."""
        level = self.group_level
        return tuple(level) if isinstance(level, (list, tuple)) else None if level is None else (level,)

    @property
    def n_classes(self) -> int | None:
        """The number of classes that the masks can have; None where they hold class indices of whatever number."""
        if self.classes:
            return len(self.classes)
        if self.coding is not None:
            return 1 + max((index for index in self.coding.values() if index != UNKNOWN), default=0)
        return None if self.mask_kind == "classes" and self.mask_threshold is None else 2

    @property
    def changes_masks(self) -> bool:
        """Whether masks are stored in another way than in a patch table."""
        is_coded = self.coding is not None or self.mask_threshold is not None
        return is_coded or self.mask_kind != "classes" or self.cuts

    @property
    def changes_images(self) -> bool:
        """Whether images are stored in another way than in a patch table."""
        return bool(self.alpha or self.intensity_range) or self.cuts

    @property
    def cuts(self) -> bool:
        """Whether pictures are resized or cut into tiles."""
        return self.scale != 1 or self.tile_size > 0

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Compute the width and height, px, to which a picture is resized before it is cut.

        >>> SourceFormat(scale=0.5).scaled((101, 60))
        (50, 30)
        """
        width, height = (max(round(length * self.scale), 1) for length in size)
        return width, height

    @property
    def _names_only(self) -> bool:
        """Whether the classes have their own indices as values, so that no value has to be translated."""
        return all(value == index for value, index in code_classes(self.classes, self.unknown).items())

    def _check_masks(self) -> None:
        # classes that are 0, 1, … already are names alone, and may stand beside any other way
        is_coded = bool(code_classes(self.classes, self.unknown)) and not self._names_only
        codings = {
            "classes": self.classes if is_coded else None,
            "mask_values": self.mask_values,
            "unknown": self.unknown or None,
        }
        codings |= {"mask_threshold": self.mask_threshold}
        given = {name: value for name, value in codings.items() if value is not None}
        if len(given) > 1 and set(given) != {"classes", "unknown"}:
            raise ValueError(f"{' and '.join(f'{name}={value}' for name, value in given.items())}; give one of them")
        if self.mask_kind not in MASK_KINDS:
            raise ValueError(f"mask_kind={self.mask_kind!r}; choose one of {', '.join(MASK_KINDS)}")
        if given and self.mask_kind != "classes":
            raise ValueError(f"{next(iter(given))} with mask_kind={self.mask_kind!r}, which is 0 and 1 already")
        threshold = self.mask_threshold
        if threshold is not None and (not isinstance(threshold, Real) or not 0 <= threshold < 255):
            raise ValueError(
                f"mask_threshold={threshold!r}; it lies in 0…254 and is a number: what is above it is class 1"
            )
        _ = self.coding

    def _check_intensities(self) -> None:
        bounds = self.intensity_range
        if bounds == "" or bounds in INTENSITY_RANGES:
            return
        is_pair = isinstance(bounds, (list, tuple)) and len(bounds) == 2 and all(map(_is_number, bounds))
        if not is_pair or not -inf < bounds[0] < bounds[1] < inf:
            raise ValueError(
                f"intensity_range={bounds!r}; give [low, high], the values that become 0 and 255, "
                f"or one of {', '.join(INTENSITY_RANGES)}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
