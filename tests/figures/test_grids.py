"""Grids of notebook 04: every picture where it belongs, the worst first, values under the right pairs."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from sedm.figures import colour_layout, image_grid, pairs_grid, scored_grid, style_layout_grid


@pytest.fixture(autouse=True)
def closed():
    """No figure stays open."""
    yield
    plt.close("all")


def flat(*values, width=4):
    """A picture of one grey level for each value."""
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, width).contiguous()


def shown(figure):
    """The pictures of a figure, axis by axis."""
    return [axis.get_images()[0].get_array().data for axis in figure.axes if axis.get_images()]


def levels(picture):
    """The values of a picture from left to right, each once, without the white between."""
    return [value for value in dict.fromkeys(picture[0, :, 0].tolist()) if value != 255]


def test_captions_are_under_their_pictures_and_touch_neither_the_next_row_nor_the_key():
    figure = image_grid(flat(1, 2, 3), 2, captions=["one", "two", "three"], classes=["background"], size=1.0)
    assert [axis.get_xlabel() for axis in figure.axes] == ["one", "two", "three", ""]
    figure.canvas.draw()
    boxes = [axis.get_tightbbox() for axis in figure.axes]  # with their captions
    assert boxes[0].y0 >= figure.axes[2].get_window_extent().y1
    assert boxes[2].y0 >= figure.legends[0].get_window_extent().y1


def test_a_title_is_above_the_labels_of_columns():
    figure = image_grid(flat(1, 2), 1, column_labels=["labelled"], title="titled")
    figure.canvas.draw()
    label = figure.axes[0].title.get_window_extent()
    assert next(text for text in figure.texts if text.get_text() == "titled").get_window_extent().y0 >= label.y1


def test_pictures_keep_their_shape_at_the_width_asked_for():
    figure = image_grid(flat(1, 2, 3, 4, width=8), 2, size=2.0)
    assert figure.get_size_inches().tolist() == [4.0, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize("styles", [flat(101, 102, 103), ["a", "b", "c"]])
def test_layouts_are_along_the_top_and_styles_at_the_side(styles):
    layouts = torch.tensor([0, 1], dtype=torch.uint8)[:, None, None].expand(2, 4, 4).contiguous()
    images = flat(10, 11, 20, 21, 30, 31).unflatten(0, (3, 2))
    figure = style_layout_grid(layouts, styles, images)
    tops = [tuple(colour[:, 0, 0].tolist()) for colour in colour_layout(layouts)]
    rows = np.array(shown(figure))[:, 0, 0].reshape(4, -1, 3)
    named = isinstance(styles, list)
    assert [tuple(pixel) for pixel in rows[0, -2:]] == tops
    assert rows[1:, -2:, 0].tolist() == [[10, 11], [20, 21], [30, 31]]
    if named:
        assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["layout", "a", "b", "c"]
    else:
        assert rows[1:, 0, 0].tolist() == [101, 102, 103]
        assert [text.get_text() for text in figure.axes[0].texts] == ["layout →", "style ↓"]


def test_pairs_are_side_by_side_over_their_value():
    figure = pairs_grid(flat(1, 2, 3), flat(11, 12, 13), [0.5, 0.25, 123.4], n_columns=2)
    assert [levels(picture) for picture in shown(figure)] == [[1, 11], [2, 12], [3, 13]]
    assert [axis.get_xlabel() for axis in figure.axes[:3]] == ["0.500", "0.250", "123"]
    assert len(pairs_grid(flat(1), flat(2), [0.0], n_columns=4).axes) == 1  # no empty columns


@pytest.mark.parametrize(("low_is_bad", "order"), [(True, [3, 1, 4]), (False, [0, 4, 1])])
def test_the_worst_images_come_first_with_their_layouts_and_scores(low_is_bad, order):
    scores = [0.9, 0.3, math.nan, 0.1, 0.5]
    layouts = torch.tensor([0, 1, 2, 3, 4], dtype=torch.uint8)[:, None, None].expand(5, 4, 4).contiguous()
    figure = scored_grid(flat(0, 1, 2, 3, 4), layouts, pd.Series(scores), n_shown=3, n_columns=3, low_is_bad=low_is_bad)
    pictures = shown(figure)
    assert [picture[0, 1, 0] for picture in pictures] == order
    partners = [tuple(picture[0, -2].tolist()) for picture in pictures]
    assert partners == [tuple(colour_layout(layouts[[row]])[0, :, 0, 0].tolist()) for row in order]
    assert [axis.get_xlabel() for axis in figure.axes] == [f"{scores[row]:.3f}" for row in order]


def test_fewer_images_than_asked_for_are_all_shown_and_those_without_a_score_are_not():
    figure = scored_grid(flat(1, 2, 3), flat(1, 2, 3)[:, 0], [math.nan, 0.2, 0.3])
    assert [picture[0, 1, 0] for picture in shown(figure)] == [2, 3]
    with pytest.raises(ValueError, match="none of the 1 images has a score"):
        scored_grid(flat(1), flat(1)[:, 0], [math.nan])


def test_images_of_the_same_score_come_in_their_own_order():
    images = flat(*range(60))
    figure = scored_grid(images, images[:, 0], [0.1, 0.2] * 30, n_shown=31)
    assert [picture[0, 1, 0] for picture in shown(figure)] == [*range(0, 60, 2), 1]
