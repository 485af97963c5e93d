"""Controls of the page that ipywidgets lacks: a layout to paint on and a map of styles to pick from.

Painting runs in the browser, so a stroke follows the pointer whatever the kernel does; it arrives here when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anywidget
import ipywidgets as widgets
import traitlets

_FOLDER = Path(__file__).parent


class LayoutCanvas(anywidget.AnyWidget):
    """A square layout under a brush; by keyboard, arrows move the brush and the space bar paints.

    ``layout_bytes`` holds size × size class indices, row by row.
    """

    _esm = _FOLDER / "layout_canvas.js"
    size = traitlets.Int(64).tag(sync=True)  # px a side
    layout_bytes = traitlets.Bytes().tag(sync=True, from_json=lambda view, _: bytes(view))
    colours = traitlets.List().tag(sync=True)  # (red, green, blue) of each class
    unknown_colour = traitlets.List().tag(sync=True)
    brush_class = traitlets.Int(0).tag(sync=True)
    brush_radius = traitlets.Int(3).tag(sync=True)  # px


class StyleMap(anywidget.AnyWidget):
    """Points to pick from, by pointer or, with arrows and Enter, by keyboard.

    ``points`` holds for each its name, x and y in 0…1, and a CSS colour; ``marks`` names those in use by a letter.
    A pick sets ``picked`` to ``[name, count]``, so that the same point can be picked twice.
    """

    _esm = _FOLDER / "style_map.js"
    points = traitlets.List().tag(sync=True)
    marks = traitlets.Dict().tag(sync=True)
    mixture = traitlets.List().tag(sync=True)  # x and y of the mixture; empty where there is none
    picked = traitlets.List().tag(sync=True)


def html(content: str, width: str | None = None) -> widgets.HTML:
    """Make a widget of some HTML; without a width, the page's style gives it one."""
    return widgets.HTML(content, layout={"width": width})


def row(*children: widgets.Widget) -> widgets.HBox:
    """Lay controls side by side over the whole width of a card."""
    return widgets.HBox(children).add_class("sedm-row")


def card(*children: widgets.Widget) -> widgets.VBox:
    """Lay controls below each other, in a frame."""
    return widgets.VBox(children).add_class("sedm-card")


def fit_choice(fits: Sequence[str], **layout: str) -> widgets.Dropdown:
    """Offer what may become of a picture that is no square; the first is chosen until another one is.

    >>> fit_choice(("crop", "pad")).value
    'crop'
    """
    options = [(f"not square: {fit}", fit) for fit in fits]
    return widgets.Dropdown(options=options, tooltip="Pictures that are no square", layout={"width": "140px"} | layout)
