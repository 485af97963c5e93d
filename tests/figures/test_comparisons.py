"""Figures of the segmentation ablation: marks lie at the numbers, names at their rows, only wrong pixels are dark."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import same_color

from sedm.figures import (
    arms_strip_plot,
    colour_layout,
    curves_plot,
    forest_plot,
    predictions_grid,
    set_plot_style,
    sweeps_plot,
)

NAN = float("nan")


@pytest.fixture(autouse=True)
def closed():
    """No figure stays open."""
    yield
    plt.close("all")


@pytest.fixture
def comparisons():
    """Four arms: better, not significant, not tested, not scored."""
    return pd.DataFrame(
        {
            "mean_difference": [0.012, -0.0301, 0.0504, NAN],
            "ci_low": [0.004, -0.1, NAN, NAN],
            "ci_high": [0.02, 0.0399, NAN, NAN],
            "p_adjusted": [0.0004, 0.05, NAN, NAN],
            "kind": ["SEDM", "one part missing", "SEDM", "new_kind"],
        },
        index=["mixed_styles", "colour_transfer", "all_annotated", "failed_arm"],
    )


def of_type(axis, kind):
    return [one for one in axis.collections if isinstance(one, kind)]


def segments(collections):
    """End points of the lines of collections, those that can be seen."""
    ends = [segment for one in collections for segment in one.get_segments()]
    return [segment.tolist() for segment in ends if len(segment) and not np.isnan(segment).any()]


def key(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def overlaps(figure):
    """Pairs of texts that touch; of the panel, its ticks and the key."""
    figure.canvas.draw()
    axis = figure.axes[0]
    texts = [*axis.texts, *axis.get_xticklabels(), *axis.get_yticklabels(), axis.xaxis.label, axis.yaxis.label]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    pairs = [(boxes[i], boxes[j]) for i in range(len(boxes)) for j in range(i)]
    return [(a, b) for (a, box), (b, other) in pairs if box.overlaps(other)]


# ------------------------------------------------------------------------------------------------- forest


def test_dots_and_intervals_of_a_forest_lie_at_the_numbers_the_first_arm_at_the_top(comparisons):
    figure = forest_plot(comparisons, control="real_only", xlabel="IoU")
    (axis,) = figure.axes
    dots = np.ma.concatenate([dot.get_offsets() for dot in of_type(axis, PathCollection)]).filled(NAN)
    np.testing.assert_allclose(dots[:, 0], comparisons["mean_difference"])
    assert dots[:3, 1].tolist() == [0, 1, 2]
    assert segments(of_type(axis, LineCollection)) == [[[0.004, 0], [0.02, 0]], [[-0.1, 1], [0.0399, 1]]]
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        name.replace("_", " ") for name in comparisons.index
    ]
    assert axis.get_yticks().tolist() == [0, 1, 2, 3]
    assert axis.yaxis_inverted()
    assert axis.get_xlabel() == "IoU: difference from “real only”"
    (zero,) = axis.lines
    assert list(zero.get_xdata()) == [0, 0]


def test_numbers_of_a_forest_are_beside_their_rows(comparisons):
    axis = forest_plot(comparisons, control="real_only", xlabel="IoU").axes[0]
    rows = {place: [] for place in range(-1, 4)}
    for text in axis.texts:
        rows[text.get_position()[1]].append(text.get_text())
    assert rows == {
        -1: ["difference [95 % interval]", "adjusted p"],
        0: ["+0.012 [0.004, 0.020]", "< 0.001"],
        1: ["−0.030 [−0.100, 0.040]", "0.050"],
        2: ["+0.050", ""],
        3: ["–", ""],
    }


def test_only_significant_dots_are_filled_each_in_the_colour_of_its_kind(comparisons):
    comparisons.loc["failed_arm"] = [0.1, 0.0, 0.2, 0.0499, "new_kind"]
    figure = forest_plot(comparisons, control="real_only", xlabel="IoU")
    dots = of_type(figure.axes[0], PathCollection)
    edges = [dot.get_edgecolor()[0] for dot in dots]
    filled = [same_color(dot.get_facecolor()[0], edge) for dot, edge in zip(dots, edges, strict=True)]
    strokes = [len(dot.get_paths()[0].vertices) == 2 for dot in dots]  # of an arm that was not tested
    assert strokes == [False, False, True, False]
    assert [fill for fill, stroke in zip(filled, strokes, strict=True) if not stroke] == [True, False, True]
    assert [same_color(dot.get_facecolor()[0], "white") for dot in dots] == [False, True, False, False]
    assert same_color(edges[0], edges[2])
    assert len({tuple(edge) for edge in edges}) == 3
    assert key(figure) == ["SEDM", "one part missing", "new kind", "adjusted p < 0.05", "otherwise"]
    shown = [line.get_color() for line in figure.legends[0].get_lines()]
    assert [same_color(one, edge) for one, edge in zip(shown, [edges[0], edges[1], edges[3]], strict=False)] == [
        True
    ] * 3


def test_a_kind_has_one_colour_in_all_figures(comparisons):
    def colour(table):
        return of_type(forest_plot(table, "real_only", "IoU").axes[0], PathCollection)[-1].get_edgecolor()[0]

    assert same_color(colour(comparisons.iloc[:2]), colour(comparisons.iloc[1:2]))


def test_a_forest_of_one_arm_without_kinds_and_tests_needs_no_key(comparisons):
    figure = forest_plot(comparisons.drop(columns="kind").iloc[2:3], control="real_only", xlabel="IoU")
    assert figure.legends == []
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == [
        "difference",
        "+0.050",
    ]


def test_without_an_interval_no_interval_is_announced(comparisons):
    alone = comparisons.assign(ci_low=np.nan, ci_high=np.nan, p_adjusted=np.nan)
    said = [text.get_text() for text in forest_plot(alone, "control", "IoU").axes[0].texts]
    assert said[0] == "difference"
    assert not [text for text in said if "[" in text]


def test_a_difference_that_rounds_to_nothing_has_no_minus(comparisons):
    comparisons.loc["mixed_styles", ["mean_difference", "ci_low"]] = -0.0001
    assert forest_plot(comparisons, "real_only", "IoU").axes[0].texts[2].get_text() == "+0.000 [0.000, 0.020]"


# -------------------------------------------------------------------------------------------------- strips


@pytest.fixture
def scores():
    """Five patients and three arms; one score is missing in each of two arms."""
    values = [[0.9, 0.8, 0.7], [0.3, 0.5, NAN], [NAN, 0.1, 0.2], [0.2, 0.4, 0.9], [0.6, 0.6, 0.6]]
    return pd.DataFrame(values, index=[f"patient-{row}" for row in range(5)], columns=["real_only", "both", "all_real"])


def curves_of(figure):
    """Name → (x, y, colour) of the lines of a panel."""
    lines = {str(line.get_label()).lstrip("_"): line for line in figure.axes[0].lines}
    return {
        name: (*(np.array(one, float) for one in line.get_data()), line.get_color()) for name, line in lines.items()
    }


@pytest.mark.parametrize("highlighted", [0, 1, 3])
def test_every_patient_is_a_line_through_its_scores_and_the_worst_are_named(scores, highlighted):
    figure = arms_strip_plot(scores, "IoU", highlighted)
    lines = curves_of(figure)
    for patient, values in scores.iterrows():
        x, y, _ = lines[patient]
        np.testing.assert_array_equal(x, [0, 1, 2])
        np.testing.assert_array_equal(y, values)  # NaN included: a gap
    worst = ["patient-3", "patient-1", "patient-4"][:highlighted]  # patient-2 has no score in the first arm
    assert key(figure) == [*worst, "mean ± SD\nbetween groups"]
    grey = {patient for patient in scores.index if same_color(lines[patient][2], "0.75")}
    assert grey == set(scores.index) - set(worst)
    assert len({lines[patient][2] for patient in worst}) == highlighted


def test_the_mean_and_spread_of_scored_patients_are_beside_their_column(scores):
    figure = arms_strip_plot(scores, "IoU")
    (axis,) = figure.axes
    (container,) = axis.containers
    x, means = (np.array(one, float) for one in container.lines[0].get_data())
    assert ((x > np.arange(3)) & (x < np.arange(3) + 0.5)).all()
    np.testing.assert_allclose(means, [np.nanmean(scores[arm]) for arm in scores])
    for column, ends in enumerate(segments(of_type(axis, LineCollection))):
        spread = np.nanstd(scores.iloc[:, column], ddof=1)
        np.testing.assert_allclose(ends, [[x[column], means[column] - spread], [x[column], means[column] + spread]])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["real only", "both", "all real"]


def test_one_patient_and_one_arm_make_a_strip_without_a_spread(scores):
    figure = arms_strip_plot(scores.iloc[:1, :1], "IoU")
    assert key(figure)[0] == "patient-0"
    (container,) = figure.axes[0].containers
    assert container.lines[0].get_ydata().tolist() == [0.9]
    assert segments(of_type(figure.axes[0], LineCollection)) == []
    figure.canvas.draw()


# -------------------------------------------------------------------------------------------------- curves


@pytest.fixture
def curves():
    """Two arms, of which the second lacks a point and has one without an interval."""
    first = pd.DataFrame(
        {"mean": [0.4, 0.6, 0.7], "low": [0.3, 0.5, 0.65], "high": [0.5, 0.7, 0.8]}, index=[1, 10, 100]
    )
    second = pd.DataFrame({"mean": [0.5, 0.8], "low": [0.4, NAN], "high": [0.7, NAN]}, index=[1, 100])
    return {"real_only": first, "both": second}


@pytest.mark.parametrize("log_x", [False, True])
def test_curves_pass_through_their_means_and_have_their_intervals_where_their_points_are(curves, log_x):
    figure = curves_plot(curves, "patients", "IoU", log_x=log_x)
    (axis,) = figure.axes
    assert axis.get_xscale() == ("log" if log_x else "linear")
    shown = {}
    for line, collection, (arm, curve) in zip(axis.lines, axis.collections, curves.items(), strict=True):
        shown[arm], means = line.get_data()
        np.testing.assert_array_equal(means, curve["mean"])
        scored = curve["low"].notna().to_numpy()
        expected = [[[x, low], [x, high]] for x, low, high in zip(shown[arm], curve["low"], curve["high"], strict=True)]
        assert segments([collection]) == [ends for ends, keep in zip(expected, scored, strict=True) if keep]
        assert same_color(collection.get_color()[0, :3], line.get_color())
    assert key(figure) == ["real only", "both"]
    forward = np.log if log_x else np.asarray
    shifts = forward(shown["both"]) - forward(shown["real_only"][[0, 2]])
    assert shifts[0] == pytest.approx(shifts[1])
    assert 0 < shifts[0] < 0.03 * (forward(100) - forward(1))
    middle = (forward(shown["both"]) + forward(shown["real_only"][[0, 2]])) / 2
    np.testing.assert_allclose(middle, forward([1, 100]), atol=1e-12)


def test_one_curve_stays_at_its_place_and_a_logarithmic_axis_names_its_points(curves):
    figure = curves_plot({"both": curves["both"]}, "patients", "IoU", log_x=True, ceiling=0.9)
    (axis,) = figure.axes
    np.testing.assert_allclose(axis.lines[0].get_xdata(), [1, 100])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "100"]
    assert list(axis.lines[1].get_ydata()) == [0.9, 0.9]
    assert axis.lines[1].get_linestyle() == ":"
    assert key(figure) == ["both", "all annotations"]


def test_a_single_point_is_drawn(curves):
    figure = curves_plot({"both": curves["both"].iloc[:1]}, "patients", "IoU")
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 0.5]]
    figure.canvas.draw()


def test_nothing_is_no_place_on_a_logarithmic_axis(curves):
    curves["both"].index = [0, 100]
    with pytest.raises(ValueError, match="x = 0 has no place"):
        curves_plot(curves, "patients", "IoU", log_x=True)
    curves_plot(curves, "patients", "IoU")


# ----------------------------------------------------------------------------------------------- predictions


@pytest.fixture
def examples():
    """Two images with masks of three classes, unknown in a corner, and predictions of which two pixels are wrong."""
    masks = torch.tensor([[[0, 1], [2, 255]], [[1, 1], [0, 0]]])
    wrong = masks.clone()
    wrong[0, 0, 0], wrong[0, 1, 1], wrong[1, 0, 1] = 1, 2, 0  # nobody annotated the second
    images = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    return images, masks, {"right_one": masks.where(masks != 255, 0), "wrong": wrong}


def pictures(figure):
    return np.array([axis.get_images()[0].get_array().data for axis in figure.axes])


def test_only_wrong_pixels_are_dark_and_keep_the_hue_of_what_was_predicted(examples):
    images, masks, predictions = examples
    shown = pictures(predictions_grid(images, masks, predictions, ["none", "gland", "stroma"], ["a", "b"]))
    layouts = [masks, *predictions.values()]
    expected = np.concatenate([colour_layout(one.byte()).permute(0, 2, 3, 1).numpy() for one in layouts])
    np.testing.assert_array_equal(shown[:2], images.permute(0, 2, 3, 1))
    marked = (shown[2:] != expected).any(axis=-1)
    assert np.argwhere(marked).tolist() == [[4, 0, 0], [5, 0, 1]]
    ratio = shown[2:][marked] / expected[marked]
    assert (ratio < 0.5).all()
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio.mean(axis=1, keepdims=True), ratio.shape), atol=0.02)


def test_rows_and_examples_are_named_and_the_key_tells_what_is_dark(examples):
    images, masks, predictions = examples
    figure = predictions_grid(
        images, masks, predictions, ["none", "gland_cells", "stroma"], ["p-1: +0.08", "p-2: −0.01"]
    )
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["image", "mask", "right one", "wrong"]
    assert [axis.get_title() for axis in figure.axes[:2]] == ["p-1: +0.08", "p-2: −0.01"]
    assert key(figure) == ["none", "gland cells", "stroma", "not annotated", "darkened: wrong"]


def test_one_annotated_example_without_a_title_or_predictions(examples):
    images, masks, _ = examples
    figure = predictions_grid(images[1:], masks[1:].byte(), {}, ["none", "gland"], None)
    assert [axis.get_title() for axis in figure.axes] == ["", ""]
    assert key(figure) == ["none", "gland", "darkened: wrong"]


# ------------------------------------------------------------------------------------------------ all of them


@pytest.mark.slow
@pytest.mark.parametrize("n_arms", [1, 12])
def test_no_texts_overlap(n_arms):
    names = [f"recipe_{number}_with_a_long_name" for number in range(n_arms)]
    kinds = [("control", "SEDM", "one part missing", "sees more")[number % 4] for number in range(n_arms)]
    numbers = pd.DataFrame(
        {"mean_difference": -0.01, "ci_low": -0.02, "ci_high": -0.001, "p_adjusted": 0.01}, index=names
    )
    with plt.rc_context():
        set_plot_style()
        assert overlaps(forest_plot(numbers.assign(kind=kinds), names[0], "IoU")) == []
        curve = pd.DataFrame({"mean": 0.5, "low": 0.4, "high": 0.6}, index=[1, 2, 5, 10, 20, 50, 100])
        assert overlaps(curves_plot(dict.fromkeys(names, curve), "patients", "IoU", log_x=True, ceiling=0.7)) == []


def test_more_arms_than_colours_are_told_apart_by_their_markers():
    curve = pd.DataFrame({"mean": [0.5], "low": [0.4], "high": [0.6]}, index=[1])
    figure = curves_plot({f"arm_{number}": curve for number in range(12)}, "patients", "IoU")
    assert len({(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}) == 12


# -------------------------------------------------------------------------------------------------- sweeps


def test_a_panel_a_setting_with_its_values_in_order():
    numbers = pd.DataFrame({"mean": [0.6, 0.7], "low": [0.5, 0.6], "high": [0.65, 0.9]}, index=[0.2, 0.8])
    words = numbers.set_axis(["random field", "learned"])
    figure = sweeps_plot({"synthetic_fraction": numbers, "layouts": words}, "IoU")
    left, right = figure.axes
    assert left.get_xlabel() == "synthetic fraction"
    assert [label.get_text() for label in left.get_xticklabels()] == ["0.2", "0.8"]
    assert [label.get_text() for label in right.get_xticklabels()] == ["random field", "learned"]
    line, _, (bars,) = left.containers[0]
    assert line.get_ydata().tolist() == [0.6, 0.7]
    assert [segment[:, 1].round(6).tolist() for segment in bars.get_segments()] == [[0.5, 0.65], [0.6, 0.9]]
    seven = sweeps_plot({f"setting_{i}": numbers for i in range(7)}, "IoU").axes
    assert [axis.get_xlabel() for axis in seven] == [f"setting {i}" for i in range(7)]
    assert [axis.get_ylabel() for axis in seven] == ["IoU", "", "", "", "", "IoU", ""]
