"""Charts of numbers: points, bars and lines."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure


def scatter_by_group(points: dict[str, tuple[torch.Tensor, Sequence[str]]], n_named: int = 8) -> Figure:
    """Scatter 2-D points, one panel for each kind, one colour a group; at most ``n_named`` groups a panel.

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


def ablation_plot(points: pd.DataFrame, floor: pd.Series, measures: dict[str, str], note: str = "") -> Figure:
    """Plot ablations of the generator: one panel a measure, one row a variant, one point a seed.

    A line marks the mean of the first variant, the baseline, and a dotted one what real images reach. Of a measure that
    should be low, values above four times the median are named at the edge: one failure would hide the others.

    Args:
        points: one row a seed; index (question, variant), columns the measures.
        floor: the measures of real images.
        measures: column → title; ↑ or ↓ in it tells which way is better.
        note: a line below the panels, such as the network that distances are measured on.

    >>> index = pd.MultiIndex.from_tuples([("baseline", "ours"), ("baseline", "ours"), ("style", "none")])
    >>> points = pd.DataFrame({"iou": [0.5, 0.6, 0.1]}, index=index)
    >>> len(ablation_plot(points, pd.Series({"iou": 0.8}), {"iou": "IoU ↑"}).axes)
    1
    """
    variants = list(dict.fromkeys(points.index))
    figure, axes = plt.subplots(
        1, len(measures), figsize=(2.2 * len(measures), 1.2 + 0.22 * len(variants)), sharey=True, squeeze=False
    )
    rows = np.array([variants.index(variant) for variant in points.index])
    questions = dict.fromkeys(question for question, _ in variants)
    colours = {question: f"C{i}" for i, question in enumerate(questions)}
    for axis, (name, title) in zip(axes[0], measures.items(), strict=True):
        axis.axvline(points.loc[[variants[0]], name].mean(), color="0.7", linewidth=1)
        axis.axvline(floor[name], color="0.3", linewidth=1, linestyle=":")
        limit = 4 * points[name].median() if "↓" in title else np.inf
        inside = points[name] <= limit
        colour_of_points = [colours[question] for question, _ in points.index[inside]]
        axis.scatter(points[name][inside], rows[inside], s=14, color=colour_of_points, zorder=2)
        for variant, value in points[name][~inside].groupby(level=[0, 1]).max().items():
            look = {"color": colours[variant[0]], "fontsize": "small", "ha": "right", "va": "center"}
            axis.text(1, variants.index(variant), f"{value:.3g} →", transform=axis.get_yaxis_transform(), **look)
        axis.set(title=title)
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].set(yticks=range(len(variants)), yticklabels=[name.replace("_", " ") for _, name in variants])
    axes[0, 0].invert_yaxis()
    _write_note(figure, note)
    return figure


def agreement_plot(agreement: pd.DataFrame, statistics: dict[str, str]) -> Figure:
    """Plot generated against real, one panel a statistic, one point a group, with the diagonal.

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


def table_plot(table: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Plot a table: one panel a column, one bar a row from 0 to its value, the value beside it.

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
    """Plot a row of points for each case, and a line at its mean; values in [0, 1].

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


def sweep_plot(
    sweeps: dict[str, pd.DataFrame], measures: dict[str, str], floor: pd.Series | dict[str, float], note: str = ""
) -> Figure:
    """Plot sweeps: one row of panels a setting, one column a measure.

    Args:
        sweeps: label of the setting → one row a run; ``value`` is the setting, other columns are measures.
        measures: column → title.
        floor: the measures of real images, drawn as dotted lines.
        note: a line below the panels, such as the network that distances are measured on.

    >>> steps = pd.DataFrame({"value": [5, 10], "iou": [0.5, 0.6]})
    >>> sweep_plot({"steps": steps}, {"iou": "IoU ↑"}, {"iou": 0.8}).axes[0].get_xlabel()
    'steps'
    """
    figure, axes = plt.subplots(
        len(sweeps), len(measures), figsize=(2.2 * len(measures), 1.9 * len(sweeps)), sharex="row", squeeze=False
    )
    for row, (setting, table) in zip(axes, sweeps.items(), strict=True):
        for axis, name in zip(row, measures, strict=True):
            axis.plot(table["value"], table[name], marker="o", markersize=4)
            axis.axhline(floor[name], color="0.3", linewidth=1, linestyle=":")
            axis.set(xlabel=setting, xticks=table["value"])
    for axis, title in zip(axes[0], measures.values(), strict=True):
        axis.set(title=title)
    _write_note(figure, note)
    figure.tight_layout()
    return figure


def _write_note(figure: Figure, note: str) -> None:
    if note:
        figure.supxlabel(note, fontsize="x-small")
        figure.tight_layout()
