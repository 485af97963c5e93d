"""Grids of pictures: images, layouts, and their partners beside, above or below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

CLASS_COLOURS = np.array(
    [[236, 231, 242], [208, 70, 106], [66, 129, 164], [240, 175, 74], [110, 160, 90], [120, 90, 160]]
)
UNKNOWN_COLOUR = (170, 170, 170)
LINE_HEIGHT = 0.2  # inches, of a label or caption


def colour_layout(layouts: UInt8[Tensor, "n h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Colour layouts, one colour a class, grey where unknown.

    >>> colour_layout(torch.tensor([[[0, 255]]], dtype=torch.uint8))[0, :, 0, 1].tolist()
    [170, 170, 170]
    """
    table = np.tile(np.array(UNKNOWN_COLOUR), (256, 1))
    table[: len(CLASS_COLOURS)] = CLASS_COLOURS
    return torch.from_numpy(table.astype(np.uint8))[layouts.long()].permute(0, 3, 1, 2)


def image_grid(
    pictures: UInt8[Tensor, "n 3 h w"],
    n_columns: int,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    captions: Sequence[str] = (),
    title: str = "",
    classes: Sequence[str] = (),
    size: float = 1.0,
) -> Figure:
    """Show pictures in rows, labelled at the left and the top.

    Args:
        pictures: filled row by row.
        captions: a line under each picture.
        classes: names of the layout's classes, for a key of their colours below.
        size: inches that a picture is wide.

    >>> figure = image_grid(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), n_columns=2, row_labels=["a", "b"])
    >>> len(figure.axes)
    4
    """
    n_rows = math.ceil(len(pictures) / n_columns)
    picture_height = size * pictures.shape[2] / pictures.shape[3]
    caption_height = LINE_HEIGHT if captions else 0
    height = n_rows * picture_height + (n_rows - 1) * caption_height
    figure, axes = plt.subplots(n_rows, n_columns, squeeze=False, figsize=(size * n_columns, height))
    gap = 0.04 + caption_height / picture_height
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0.04, hspace=gap)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, picture in zip(axes.flat, pictures, strict=False):
        axis.imshow(picture.permute(1, 2, 0).numpy())
    for axis, label in zip(axes[:, 0], row_labels, strict=False):
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")
    for axis, label in zip(axes[0], column_labels, strict=False):
        axis.set_title(label, fontsize="small")
    for axis, caption in zip(axes.flat, captions, strict=False):
        axis.set_xlabel(caption, fontsize="small", labelpad=2)
    if classes:
        below = -0.04 / n_rows - caption_height / height
        handles = class_handles(classes)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, below)}
        figure.legend(handles=handles, ncols=len(handles), frameon=False, fontsize="small", **place)
    if title:
        above = 0.1 / n_rows + (LINE_HEIGHT / height if column_labels else 0)
        figure.suptitle(title, y=1.0 + above, va="bottom", fontsize="medium")
    return figure


def class_handles(classes: Sequence[str]) -> list[Patch]:
    """Make the entries of a legend that names the colours of classes."""
    return [Patch(color=colour / 255, label=name) for name, colour in zip(classes, CLASS_COLOURS, strict=False)]


def crossing_grid(
    top: UInt8[Tensor, "m 3 h w"], left: UInt8[Tensor, "n 3 h w"], images: UInt8[Tensor, "n m 3 h w"], **options
) -> Figure:
    """Show n × m images, with what their columns share above and what their rows share at the left.

    >>> pictures = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> len(crossing_grid(pictures, pictures[:1], pictures[None]).axes)
    6
    """
    corner = torch.full_like(top[:1], 255)
    rows = torch.cat([left[:, None], images], dim=1).flatten(0, 1)
    return image_grid(torch.cat([corner, top, rows]), n_columns=len(top) + 1, **options)


def paired_grid(above: UInt8[Tensor, "n 3 h w"], below: UInt8[Tensor, "n 3 h w"], n_columns: int, **options) -> Figure:
    """Show rows of pictures, with each picture's partner right under it; only whole rows are shown.

    >>> pictures = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    >>> len(paired_grid(pictures, pictures, n_columns=2).axes)
    8
    """
    n_rows = len(above) // n_columns
    pairs = torch.stack([above, below])[:, : n_rows * n_columns].unflatten(1, (n_rows, n_columns))
    return image_grid(pairs.transpose(0, 1).flatten(0, 2), n_columns, **options)


def style_layout_grid(
    layouts: UInt8[Tensor, "m h w"],
    styles: UInt8[Tensor, "n 3 h w"] | Sequence[str],
    images: UInt8[Tensor, "n m 3 h w"],
    **options,
) -> Figure:
    """Show every layout in every style: layouts along the top, styles at the left.

    Args:
        styles: an image that lent each style, or its name.

    >>> layouts, images = torch.zeros(2, 8, 8).byte(), torch.zeros(3, 2, 3, 8, 8).byte()
    >>> len(style_layout_grid(layouts, images[:, 0], images).axes), len(style_layout_grid(layouts, "abc", images).axes)
    (12, 8)
    """
    top = colour_layout(layouts)
    if not isinstance(styles, Tensor):
        return image_grid(torch.cat([top, *images]), len(top), row_labels=["layout", *styles], **options)
    figure = crossing_grid(top, styles, images, **options)
    corner = figure.axes[0]
    corner.text(0.95, 0.5, "layout →", ha="right", va="center", fontsize="small", transform=corner.transAxes)
    corner.text(0.5, 0.05, "style ↓", ha="center", va="bottom", fontsize="small", transform=corner.transAxes)
    return figure


def pairs_grid(
    left: UInt8[Tensor, "n 3 h w"],
    right: UInt8[Tensor, "n 3 h w"],
    values: Iterable[float],
    n_columns: int = 4,
    **options,
) -> Figure:
    """Show pictures with each one's partner close beside it, and a value under the two.

    >>> pictures = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    >>> pairs_grid(pictures, pictures, [0.1, 0.2, 0.3, 0.4, 12.34567]).axes[4].get_xlabel()
    '12.3'
    """
    gap, margin = (torch.full_like(left[..., : left.shape[3] // part + 1], 255) for part in (32, 12))
    pairs = torch.cat([margin, left, gap, right, margin], dim=3)
    captions = [f"{value:#.3g}".rstrip(".") for value in values]
    return image_grid(pairs, min(n_columns, len(left)), captions=captions, size=2.0, **options)


def scored_grid(
    images: UInt8[Tensor, "n 3 h w"],
    layouts: UInt8[Tensor, "n h w"],
    scores: Iterable[float],
    n_shown: int = 16,
    *,
    low_is_bad: bool = True,
    **options,
) -> Figure:
    """Show the worst images by a score, the worst first, with their layouts beside and their scores under them.

    Images without a score (NaN) are left out.

    Args:
        low_is_bad: False for scores that are distances or ranks.

    Raises:
        ValueError: no image has a score.

    >>> images, scores = torch.zeros(3, 3, 8, 8).byte(), [0.5, 0.2, float("nan")]
    >>> [axis.get_xlabel() for axis in scored_grid(images, images[:, 0], scores).axes]
    ['0.200', '0.500']
    """
    scores = np.array(list(scores), float)
    order = np.argsort(scores if low_is_bad else -scores, kind="stable")
    rows = order[~np.isnan(scores[order])][:n_shown]
    if len(rows) == 0:
        raise ValueError(f"none of the {len(scores)} images has a score; there is no worst one to show")
    return pairs_grid(images[rows], colour_layout(layouts[rows]), scores[rows].tolist(), **options)


def sample_history(folder: str | Path, n_shown: int = 5) -> Figure:
    """Show the sample sheets that training left in ``folder``: layouts, images of some steps, styles.

    Args:
        n_shown: sheets, evenly spaced from the first to the last.

    Raises:
        ValueError: no sheets in ``folder``.
    """
    paths = sorted(Path(folder).glob("step-*.png"))
    if not paths:
        raise ValueError(f"{folder}: no sample sheets; training writes them")
    chosen = [paths[round(i)] for i in np.linspace(0, len(paths) - 1, min(n_shown, len(paths)))]
    sheets = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in chosen]
    size = sheets[0].shape[1] // 3  # three rows of square pictures
    rows = [sheets[0][:, :size], *(sheet[:, size : 2 * size] for sheet in sheets), sheets[0][:, 2 * size :]]
    labels = ["layout", *(f"step {int(path.stem[5:])}" for path in chosen), "style"]
    pictures = torch.cat([torch.stack(row.split(size, dim=2)) for row in rows])
    return image_grid(pictures, len(pictures) // len(rows), row_labels=labels)
