"""Style sampling: the choice of images that lend their style to a training batch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import cKDTree
from torch import Tensor

from sedm.config import STYLE_SAMPLING, known_name
from sedm.data.augment import AffineRange, warp
from sedm.data.patches import Patches
from sedm.data.pixels import to_signed
from sedm.data.places import PLACE_COLUMNS


class StyleSampler:
    """Draw style images for the target images of a batch.

    =============  ====================================================================================
    ``augmented``  the target itself, flipped and warped (the reference's default)
    ``nearby``     one other image that lies within one patch of the target, in x and in y, on the same
                   slide (it may overlap the target); where there is none, the nearest of the slide
    ``same_group`` one other image of the target's group
    ``multi``      ``n_images`` other images of the target's group, drawn with replacement
    ``none``       no style: the null style takes the place of whatever is drawn
    =============  ====================================================================================

    Each image that may lend is as likely as any other. The target never lends its style unwarped: an image alone on
    its slide borrows from its group, and one alone in its group is warped as in ``augmented``.

    Source: Öttl et al., ECCV 2024 (arXiv 2403.14429), style sampling strategies.

    Args:
        patches: where the images come from.
        strategy: a name in ``STYLE_SAMPLING``.
        n_images: how many images make up one style; ``multi`` only, the others take one.

    Raises:
        ValueError: unknown strategy, or ``nearby`` without places of the patches.

    >>> images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 16, 16).contiguous()
    >>> patches = Patches(images, images[:, 0], groups=list("aabb"), classes=tuple("klmn"))
    >>> sampler = StyleSampler(patches, "same_group")
    >>> sampler.draw_rows([0, 3], torch.Generator().manual_seed(0)).tolist()
    [[1], [2]]
    """

    def __init__(self, patches: Patches, strategy: str, n_images: int = 4):
        known_name("style_sampling", strategy, STYLE_SAMPLING)
        if strategy == "nearby" and patches.places is None:
            raise ValueError(
                "style_sampling='nearby' must know where each patch lies; "
                f"the patch table needs the columns {', '.join(PLACE_COLUMNS)}, filled in every row"
            )
        self.images, self.masks = patches.images, patches.masks
        self.strategy = strategy
        self._places = patches.places
        self.n_images = n_images if strategy == "multi" else 1
        self._of_group = _members(patches.groups)
        if strategy == "nearby":
            self._slides = list(zip(patches.groups, patches.places.slides, strict=True))
            self._of_slide = _members(self._slides)
            rows_of = {slide: rows for slide, (rows, _) in zip(self._slides, self._of_slide, strict=True)}
            self._tree_of = {slide: cKDTree(patches.places.corners[rows]) for slide, rows in rows_of.items()}

    def draw_rows(self, rows: list[int], generator: torch.Generator) -> Int[Tensor, "batch n"]:
        """Draw which images lend their style to those in ``rows``; a row itself only where nothing else can."""
        return torch.stack([self._draw_lenders(row, generator) for row in rows])

    def draw_images(
        self, rows: list[int], generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch n 3 h w"], UInt8[Tensor, "batch n h w"]]:
        """Draw the style images for the images in ``rows``, in [−1, 1], and their masks."""
        style_rows = self.draw_rows(rows, generator)
        images, masks = to_signed(self.images[style_rows.flatten()]), self.masks[style_rows.flatten()]
        itself = (style_rows == torch.tensor(rows)[:, None]).flatten()
        for i in itself.nonzero().flatten():
            matrix, shift = AffineRange().draw(images.shape[2:], generator)
            images[i] = warp(images[i], matrix, shift)
            masks[i] = warp(masks[i, None], matrix, shift, mode="nearest")[0]
        return images.unflatten(0, style_rows.shape), masks.unflatten(0, style_rows.shape)

    def draw_dropped(self, n: int, dropout: float, generator: torch.Generator) -> Bool[Tensor, " n"]:
        """Draw which of n items see the null style: each with probability ``dropout``; all of them for ``none``."""
        return torch.rand(n, generator=generator) < (1.0 if self.strategy == "none" else dropout)

    def _draw_lenders(self, row: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        rows, position = self._candidates(row)
        if len(rows) == 1:
            return torch.full((self.n_images,), row)
        picks = torch.randint(len(rows) - 1, (self.n_images,), generator=generator)
        return rows[picks + (picks >= position)]  # stepping over itself, without a look at every candidate

    def _candidates(self, row: int) -> tuple[Int[Tensor, " candidates"], int]:
        """Return the images that may lend their style to ``row``, itself among them, and its position there."""
        if self.strategy in ("augmented", "none"):
            return torch.tensor([row]), 0
        if self.strategy == "nearby":
            of_slide, position = self._of_slide[row]
            if len(of_slide) > 1:
                near = self._nearby(row)
                return of_slide[near], near.index(position)
        return self._of_group[row]

    def _nearby(self, row: int) -> list[int]:
        """Find the images of its slide within one patch of ``row``, else the nearest one; with ``row`` itself."""
        tree = self._tree_of[self._slides[row]]
        corner = self._places.corners[row]
        # places are rounded: two patches side by side may be a little more than one side apart
        reach = self._places.sides[row].item() * (1 + 1e-6)
        near = tree.query_ball_point(corner, reach, p=math.inf, return_sorted=True)
        return near if len(near) > 1 else tree.query(corner, k=2)[1].tolist()


def _members(names: Sequence[Hashable]) -> list[tuple[Int[Tensor, " members"], int]]:
    """Return for each row the rows that have its name, and its position among them."""
    rows_of = defaultdict(list)
    positions = []
    for row, name in enumerate(names):
        positions.append(len(rows_of[name]))
        rows_of[name].append(row)
    tensors = {name: torch.tensor(rows) for name, rows in rows_of.items()}
    return [(tensors[name], position) for name, position in zip(names, positions, strict=True)]
