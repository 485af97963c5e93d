"""Figures that compare arms, the ways to train a segmenter, over groups."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import Integer, UInt8
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.transforms import offset_copy
from torch import Tensor

from sedm.figures.grids import CLASS_COLOURS, UNKNOWN_COLOUR, class_handles, colour_layout, image_grid

COLOURS = ("#4d4d4d", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito, and a grey
MARKERS = "osD^vPX*"  # one more than the colours: pairs repeat late
KINDS = ("control", "SEDM", "one part missing", "sees more")  # these have the same colour in every figure
KEY = {"frameon": False, "fontsize": "small", "handlelength": 1.4, "columnspacing": 1.2}
UNKNOWN = 255  # as in sedm.data.patch_table, repeated: figures stand alone
SIGNIFICANT = 0.05
SHADE = 0.35  # of the brightness is left where a prediction is wrong: seen without telling colours apart


def forest_plot(comparisons: pd.DataFrame, control: str, xlabel: str) -> Figure:
    """Plot one row an arm: its mean difference from the control and the 95 % interval, with both as numbers beside.

    A dot is filled where the adjusted p is below 0.05, and a stroke where there is none. Numbers that are NaN are left
    out.

    Args:
        comparisons: one row an arm, the first at the top; columns ``mean_difference, ci_low, ci_high, p_adjusted`` and,
            if rows are to be coloured, ``kind``.
        control: the arm that all were compared with.
        xlabel: what differs.

    >>> row = {"mean_difference": [0.012], "ci_low": [0.004], "ci_high": [0.02], "p_adjusted": [0.03]}
    >>> figure = forest_plot(pd.DataFrame(row, index=["more_colour"]), control="plain", xlabel="IoU")
    >>> [text.get_text() for text in figure.axes[0].texts][-2:]
    ['+0.012 [0.004, 0.020]', '0.030']
    """
    numbers = comparisons[["mean_difference", "ci_low", "ci_high", "p_adjusted"]].astype(float)
    kinds = [str(kind) for kind in comparisons.get("kind", [KINDS[0]] * len(comparisons))]
    palette = _palette(kinds)
    is_tested = numbers["p_adjusted"].notna().any()
    figure, axis = plt.subplots(figsize=(6.8, 1.1 + 0.27 * len(numbers)), layout="constrained")
    axis.axvline(0, color="0.6", linewidth=1, zorder=0)
    head = "difference [95 % interval]" if numbers["ci_low"].notna().any() else "difference"
    words = [(head, "adjusted p" if is_tested else "")]
    for place, (kind, (mean, low, high, p)) in enumerate(zip(kinds, numbers.to_numpy(), strict=True)):
        colour = palette[kind]
        axis.hlines(place, low, high, color=colour, linewidth=1.6)
        if np.isnan(p):
            axis.scatter(mean, place, s=28, linewidth=1.4, zorder=2, marker="|", color=colour)
        else:
            inside = colour if p < SIGNIFICANT else "white"
            axis.scatter(mean, place, s=28, linewidth=1.4, zorder=2, facecolor=inside, edgecolor=colour)
        words.append((_interval_text(mean, low, high), _p_text(p)))
    for place, texts in enumerate(words, start=-1):
        for text, offset in zip(texts, (10, 152), strict=True):  # points from the panel's right side
            beside = offset_copy(axis.get_yaxis_transform(), figure, x=offset, units="points")
            axis.text(1, place, text, transform=beside, va="center_baseline")
    axis.set(xlabel=f"{xlabel}: difference from “{_words(control)}”", ylim=(len(numbers) - 0.4, -1.4))
    axis.set_yticks(range(len(numbers)), [_words(arm) for arm in numbers.index])
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.spines["left"].set_visible(False)
    handles = [Line2D([], [], color=palette[kind], label=_words(kind)) for kind in palette if "kind" in comparisons]
    if is_tested:
        dot = {"color": COLOURS[0], "marker": "o", "linestyle": ""}
        handles.append(Line2D([], [], **dot, label=f"adjusted p < {SIGNIFICANT}"))
        handles.append(Line2D([], [], **dot, markerfacecolor="white", label="otherwise"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), **KEY)
    return figure


def arms_strip_plot(scores: pd.DataFrame, ylabel: str, highlighted: int = 3) -> Figure:
    """Plot a column of points for each arm, one point a group, and mean ± SD between groups beside it.

    A thin line joins the points of a group; it has a gap where an arm lacks the group's score.

    Args:
        scores: one row a group, one column an arm; NaN where there is no score.
        highlighted: how many groups, those with the lowest scores in the first arm, have a colour and are named.

    >>> scores = pd.DataFrame({"real": [0.5, 0.7], "both": [0.6, 0.8]}, index=["patient-1", "patient-2"])
    >>> figure = arms_strip_plot(scores, ylabel="IoU", highlighted=1)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['patient-1', 'mean ± SD\\nbetween groups']
    """
    figure, axis = plt.subplots(figsize=(1.4 + 0.62 * scores.shape[1], 4.2), layout="constrained")
    places = np.arange(scores.shape[1])
    worst = list(scores.iloc[:, 0].nsmallest(highlighted).index)
    for group, values in scores.drop(index=worst).iterrows():
        axis.plot(places, values, color="0.75", linewidth=0.6, marker="o", markersize=3, label=f"_{group}")
    for number, group in enumerate(worst):
        colour = COLOURS[1:][number % len(COLOURS[1:])]
        marker = MARKERS[number % len(MARKERS)]
        axis.plot(places, scores.loc[group], color=colour, lw=1.3, marker=marker, ms=4.5, label=str(group), zorder=3)
    black = {"color": "black", "elinewidth": 1.6, "ms": 8, "mew": 2, "zorder": 4}
    means, spreads = scores.mean(), scores.std(ddof=1)
    axis.errorbar(places + 0.22, means, spreads, fmt="_", label="mean ± SD\nbetween groups", **black)
    axis.set(ylabel=ylabel, xlim=(-0.4, places[-1] + 0.5))
    # slanted, so that long names of narrow columns do not touch
    axis.set_xticks(places, [_words(arm) for arm in scores], rotation=35, rotation_mode="anchor", ha="right")
    figure.legend(loc="outside lower center", ncols=2, **KEY)
    return figure


def curves_plot(
    curves: dict[str, pd.DataFrame], xlabel: str, ylabel: str, log_x: bool = False, ceiling: float | None = None
) -> Figure:
    """Plot a curve for each arm: means over groups, joined, with their 95 % intervals.

    Curves are moved sideways, by less than a marker each, so that intervals do not hide each other.

    Args:
        curves: arm → one row a point, the index its x (above 0 if ``log_x``); columns ``mean, low, high``.
        ceiling: what is reached with all annotations.

    Raises:
        ValueError: an x that a logarithmic axis does not have.

    >>> curve = pd.DataFrame({"mean": [0.5, 0.7], "low": [0.4, 0.6], "high": [0.6, 0.8]}, index=[1, 10])
    >>> figure = curves_plot({"real_only": curve}, "annotated patients", "IoU", log_x=True, ceiling=0.8)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['real only', 'all annotations']
    """
    figure, axis = plt.subplots(figsize=(4.4, 3.6), layout="constrained")
    forward, back = (np.log, np.exp) if log_x else (np.asarray, np.asarray)
    xs = np.unique(np.concatenate([curve.index.to_numpy(float) for curve in curves.values()]))
    if log_x and xs[0] <= 0:
        raise ValueError(f"x = {xs[0]:g} has no place on a logarithmic axis")
    steps = np.diff(forward(xs)) if len(xs) > 1 else np.ones(1)
    shift = min(0.012 * steps.sum(), 0.5 * steps.min() / len(curves))
    for number, (arm, curve) in enumerate(curves.items()):
        x = back(forward(curve.index.to_numpy(float)) + shift * (number - (len(curves) - 1) / 2))
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number % len(MARKERS)]
        axis.vlines(x, curve["low"], curve["high"], color=colour, linewidth=1.2, alpha=0.7)
        axis.plot(x, curve["mean"], color=colour, linewidth=1.5, marker=marker, markersize=4.5, label=_words(arm))
    if ceiling is not None:
        axis.axhline(ceiling, color="0.3", linewidth=1.2, linestyle=":", label="all annotations")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if log_x:
        axis.set_xscale("log")
        axis.set_xticks(xs, [f"{x:g}" for x in xs])
        axis.xaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside lower center", ncols=3, **KEY)
    return figure


def sweeps_plot(sweeps: dict[str, pd.DataFrame], ylabel: str) -> Figure:
    """Plot one panel a setting, its values along the axis, with 95 % intervals; five panels fill a row.

    Args:
        sweeps: setting → frame with one row a value, not always a number, and the columns ``mean, low, high``.
        ylabel: label of ``mean``.

    >>> table = pd.DataFrame({"mean": [0.7, 0.8], "low": [0.6, 0.7], "high": [0.8, 0.9]}, index=["drawn", "learned"])
    >>> [label.get_text() for label in sweeps_plot({"layouts": table}, "IoU").axes[0].get_xticklabels()]
    ['drawn', 'learned']
    """
    n_columns = min(len(sweeps), 5)
    n_rows = -(-len(sweeps) // n_columns)
    size = (2.1 * n_columns, 2.6 * n_rows)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis in axes.flat[len(sweeps) :]:
        axis.remove()
    for axis, (setting, table) in zip(axes.flat, sweeps.items(), strict=False):
        reach = [table["mean"] - table["low"], table["high"] - table["mean"]]
        places = range(len(table))  # values are often doubled: as far apart as any others
        axis.errorbar(places, table["mean"], reach, color=COLOURS[1], marker="o", markersize=4, linewidth=1.2)
        has_words = any(isinstance(value, str) for value in table.index)
        axis.set_xticks(places, [str(value) for value in table.index], rotation=30 if has_words else 0)
        axis.set(xlabel=_words(setting), xlim=(-0.5, len(table) - 0.5))
    for first in axes[:, 0]:
        first.set_ylabel(ylabel)
    return figure


def predictions_grid(
    images: UInt8[Tensor, "n 3 h w"],
    masks: Integer[Tensor, "n h w"],
    predictions: dict[str, Integer[Tensor, "n h w"]],
    classes: Sequence[str],
    titles: Sequence[str] | None,
) -> Figure:
    """Show one column an example: its image, its mask, then each prediction, darkened where it is wrong.

    Args:
        masks: class indices, or 255 where nobody annotated; nothing is wrong there.
        predictions: the row's name → class indices.
        classes: names of the classes.
        titles: a line above each example.

    >>> masks = torch.tensor([[[0, 1]]])
    >>> figure = predictions_grid(masks[:, None].byte().repeat(1, 3, 1, 1), masks, {"real": masks}, ["no", "yes"], None)
    >>> [axis.get_ylabel() for axis in figure.axes]
    ['image', 'mask', 'real']
    """
    rows = [images, colour_layout(masks.byte())]
    for predicted in predictions.values():
        wrong = (predicted != masks) & (masks != UNKNOWN)
        picture = colour_layout(predicted.byte())
        rows.append(torch.where(wrong[:, None], picture.float() * SHADE, picture).byte())
    labels = ["image", "mask", *map(_words, predictions)]
    figure = image_grid(torch.cat(rows), len(images), row_labels=labels, column_labels=titles or (), size=1.4)
    handles = class_handles([_words(name) for name in classes])
    if (masks == UNKNOWN).any():
        handles.append(Patch(color=np.divide(UNKNOWN_COLOUR, 255), label="not annotated"))
    handles.append(Patch(color=SHADE * CLASS_COLOURS[0] / 255, label="darkened: wrong"))
    below = (0.5, -0.04 / len(rows))
    figure.legend(handles=handles, ncols=len(handles), loc="upper center", bbox_to_anchor=below, **KEY)
    return figure


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _interval_text(mean: float, low: float, high: float) -> str:
    """Write a mean and its interval; a dash if there is no mean."""
    interval = "" if np.isnan([low, high]).any() else f" [{low:z.3f}, {high:z.3f}]"
    return "–" if np.isnan(mean) else f"{mean:+z.3f}{interval}".replace("-", "−")


def _p_text(p: float) -> str:
    return "" if np.isnan(p) else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _palette(kinds: Sequence[str]) -> dict[str, str]:
    """Choose the colour of each kind, in the order of their appearance."""
    order = list(dict.fromkeys([*KINDS, *kinds]))
    return {kind: COLOURS[order.index(kind) % len(COLOURS)] for kind in dict.fromkeys(kinds)}
