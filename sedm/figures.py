"""One plot style for picture grids and charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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


def set_plot_style() -> None:
    """None, after setting the one style of all figures."""
    import seaborn

    seaborn.set_theme(context="paper", style="ticks", palette="deep", font_scale=1.0)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "image.interpolation": "nearest",
        }
    )


def colour_layout(layouts: UInt8[Tensor, "n h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Layouts as pictures, one colour a class, grey where unknown.

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
    title: str = "",
    classes: Sequence[str] = (),
    size: float = 1.0,
) -> Figure:
    """A figure of pictures in rows, labelled at the left and the top.

    Args:
        pictures: filled row by row.
        classes: names of the layout's classes, for a key of their colours below.
        size: inches a picture.

    >>> figure = image_grid(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), n_columns=2, row_labels=["a", "b"])
    >>> len(figure.axes)
    4
    """
    n_rows = math.ceil(len(pictures) / n_columns)
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        squeeze=False,
        figsize=(size * n_columns, size * n_rows),
        gridspec_kw={"wspace": 0.04, "hspace": 0.04, "left": 0, "right": 1, "bottom": 0, "top": 1},
    )
    for index, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if index < len(pictures):
            axis.imshow(pictures[index].permute(1, 2, 0).numpy())
    for axis, label in zip(axes[:, 0], row_labels, strict=False):
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")
    for axis, label in zip(axes[0], column_labels, strict=False):
        axis.set_title(label, fontsize="small")
    if classes:
        keys = [Patch(color=CLASS_COLOURS[k] / 255, label=name) for k, name in enumerate(classes)]
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.04 / n_rows)}
        figure.legend(handles=keys, ncols=len(keys), frameon=False, fontsize="small", **place)
    if title:
        figure.suptitle(title, y=1.0 + 0.1 / n_rows, va="bottom", fontsize="medium")
    return figure


def crossing_grid(
    top: UInt8[Tensor, "m 3 h w"], left: UInt8[Tensor, "n 3 h w"], images: UInt8[Tensor, "n m 3 h w"], **options
) -> Figure:
    """A figure of n × m images, with what their columns share above and what their rows share at the left.

    >>> pictures = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> len(crossing_grid(pictures, pictures[:1], pictures[None]).axes)
    6
    """
    corner = torch.full_like(top[:1], 255)
    rows = [corner, top, *(part for one, row in zip(left, images, strict=True) for part in (one[None], row))]
    return image_grid(torch.cat(rows), n_columns=len(top) + 1, **options)


def paired_grid(above: UInt8[Tensor, "n 3 h w"], below: UInt8[Tensor, "n 3 h w"], n_columns: int, **options) -> Figure:
    """A figure of rows of pictures, with each picture's partner right under it; only whole rows are shown.

    >>> pictures = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    >>> len(paired_grid(pictures, pictures, n_columns=2).axes)
    8
    """
    n_rows = len(above) // n_columns
    pairs = torch.stack([above, below])[:, : n_rows * n_columns].unflatten(1, (n_rows, n_columns))
    return image_grid(pairs.transpose(0, 1).flatten(0, 2), n_columns, **options)


def scatter_by_group(points: dict[str, tuple[Tensor, Sequence[str]]], n_named: int = 8) -> Figure:
    """A figure of 2-D points, one panel for each kind, one colour a group; at most ``n_named`` groups a panel.

    Args:
        points: kind → ((n, 2) coordinates, group of each).

    >>> len(scatter_by_group({"seen": (torch.zeros(2, 2), ["a", "b"])}).axes)
    1
    """
    figure, axes = plt.subplots(1, len(points), figsize=(3.2 * len(points), 3), sharex=True, sharey=True, squeeze=False)
    for axis, (kind, (coordinates, groups)) in zip(axes[0], points.items(), strict=True):
        names = list(dict.fromkeys(groups))
        for index, name in enumerate(names[:n_named]):
            rows = [row for row, group in enumerate(groups) if group == name]
            axis.scatter(*coordinates[rows].T.numpy(), s=9, color=f"C{index}", linewidths=0)
        axis.set(title=f"{kind}: {min(n_named, len(names))} of {len(names)} groups", xlabel="axis 1")
    axes[0, 0].set_ylabel("axis 2")
    return figure


def sample_history(folder: str | Path, n_shown: int = 5) -> Figure:
    """A figure of the sample sheets that training left in ``folder``: layouts, images of some steps, styles.

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


def ablation_plot(points: pd.DataFrame, floor: pd.Series, measures: dict[str, str]) -> Figure:
    """A figure of ablations: one panel a measure, one row an arm, one point a seed.

    A line marks the mean of the first arm, the baseline, and a dotted one what real images reach.

    Args:
        points: one row a seed; index (question, arm), columns the measures.
        floor: the measures of real images.
        measures: column → what it is called; ↑ or ↓ in it tells which way is better.

    >>> index = pd.MultiIndex.from_tuples([("baseline", "ours"), ("baseline", "ours"), ("style", "none")])
    >>> points = pd.DataFrame({"iou": [0.5, 0.6, 0.1]}, index=index)
    >>> len(ablation_plot(points, pd.Series({"iou": 0.8}), {"iou": "IoU ↑"}).axes)
    1
    """
    arms = list(dict.fromkeys(points.index))
    figure, axes = plt.subplots(
        1, len(measures), figsize=(2.2 * len(measures), 0.8 + 0.22 * len(arms)), sharey=True, squeeze=False
    )
    rows = np.array([arms.index(arm) for arm in points.index])
    colours = {question: f"C{i}" for i, question in enumerate(dict.fromkeys(question for question, _ in arms))}
    for axis, (name, title) in zip(axes[0], measures.items(), strict=True):
        axis.axvline(points.loc[[arms[0]], name].mean(), color="0.7", linewidth=1)
        axis.axvline(floor[name], color="0.3", linewidth=1, linestyle=":")
        axis.scatter(points[name], rows, s=14, color=[colours[question] for question, _ in points.index], zorder=2)
        axis.set(title=title)
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].set(yticks=range(len(arms)), yticklabels=[arm.replace("_", " ") for _, arm in arms])
    axes[0, 0].invert_yaxis()
    return figure


def agreement_plot(agreement: pd.DataFrame, statistics: dict[str, str]) -> Figure:
    """A figure with a panel for each statistic: generated against real, one point a group, with the diagonal.

    Args:
        agreement: as ``fidelity.style_agreement`` returns it.
        statistics: column name without its prefix → label.
    """
    figure, axes = plt.subplots(1, len(statistics), figsize=(2.6 * len(statistics), 2.6), squeeze=False)
    for axis, (name, label) in zip(axes[0], statistics.items(), strict=True):
        real, generated = agreement[f"real_{name}"], agreement[f"generated_{name}"]
        axis.axline((real.mean(), real.mean()), slope=1, color="0.7", linewidth=1, zorder=0)
        axis.scatter(real, generated, s=16)
        axis.set(xlabel=f"real, {label}", ylabel=f"generated, {label}")
        axis.set_box_aspect(1)
    figure.tight_layout()
    return figure


def paired_groups_plot(scores: pd.DataFrame, ylabel: str) -> Figure:
    """A figure with a column of points for each arm, one point a group, the same group joined by a line.

    Args:
        scores: one row a group, one column an arm.

    >>> figure = paired_groups_plot(pd.DataFrame({"real": [0.5, 0.7], "both": [0.6, 0.8]}), ylabel="IoU")
    >>> figure.axes[0].get_ylabel()
    'IoU'
    """
    figure, axis = plt.subplots(figsize=(1.2 + 1.3 * scores.shape[1], 3.2))
    places = np.arange(scores.shape[1])
    axis.plot(places, scores.to_numpy().T, color="0.6", linewidth=0.7, alpha=0.7, zorder=1)
    for place, arm in zip(places, scores, strict=True):
        axis.scatter(np.full(len(scores), place), scores[arm], s=14, zorder=2)
        axis.hlines(scores[arm].mean(), place - 0.18, place + 0.18, color="black", linewidth=2, zorder=3)
    axis.set(xticks=places, xticklabels=list(scores), ylabel=ylabel, xlim=(-0.4, places[-1] + 0.4))
    return figure


def table_plot(table: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """A figure with a panel for each column, one bar a row of the table from 0 to its value, the value beside it.

    Args:
        table: numbers of 0 or more; its index names the bars.
        labels: column → what its axis says, in the order of the panels.

    >>> table = pd.DataFrame({"fraction": [0.1, 0.2]}, index=["floor", "prior"])
    >>> table_plot(table, {"fraction": "distance"}).axes[0].get_xlabel()
    'distance'
    """
    figure, axes = plt.subplots(
        1, len(labels), figsize=(1.2 + 1.7 * len(labels), 0.6 + 0.32 * len(table)), sharey=True, squeeze=False
    )
    for axis, (column, label) in zip(axes[0], labels.items(), strict=True):
        bars = axis.barh(table.index, table[column], height=0.6, color=[f"C{i}" for i in range(len(table))])
        axis.bar_label(bars, fmt="%.2g", padding=2, fontsize="x-small")
        axis.set(xlabel=label, xlim=(0, 1.25 * table[column].max()), xticks=[])
        axis.spines["bottom"].set_visible(False)
        axis.xaxis.label.set_size("small")
    axes[0, 0].invert_yaxis()
    figure.tight_layout()
    return figure


def strip_plot(scores: dict[str, Sequence[float]], xlabel: str) -> Figure:
    """A figure with a row of points for each case, and a line at its mean; values in [0, 1].

    >>> strip_plot({"real": [0.7, 0.8], "generated": [0.6, 0.7]}, xlabel="IoU").axes[0].get_xlabel()
    'IoU'
    """
    figure, axis = plt.subplots(figsize=(4.6, 0.5 + 0.45 * len(scores)))
    for place, values in enumerate(scores.values()):
        axis.scatter(values, np.full(len(values), place), s=14, alpha=0.7, linewidths=0)
        axis.vlines(np.nanmean(values), place - 0.3, place + 0.3, color="black", linewidth=2)
    axis.set(yticks=range(len(scores)), yticklabels=list(scores), xlabel=xlabel, xlim=(0, 1))
    axis.invert_yaxis()
    return figure
