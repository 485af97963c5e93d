"""The left column: a layout is drawn from the prior, painted, or uploaded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import ipywidgets as widgets
import torch
from jaxtyping import UInt8
from torch import Tensor

from sedm.demo.controls import LayoutCanvas, card, fit_choice, html, row
from sedm.demo.mix import pack_layout
from sedm.demo.uploads import LAYOUT_FITS, read_layout
from sedm.figures import CLASS_COLOURS, UNKNOWN_COLOUR
from sedm.layouts import class_fractions
from sedm.sharing.pretrained import Pretrained

N_UNDO = 20  # layouts that can be gone back to
WIDTH = 288  # px


class LayoutPanel:
    """The controls of the layout: ``layout``, and ``code``, the Python expression that gives it again.

    Args:
        pretrained: whose prior draws the layouts.
        changed: called after every change of the layout.
        connect: calls an answer whenever a control changes, and shows its errors to the user.
    """

    def __init__(self, pretrained: Pretrained, changed: Callable[[], None], connect: Callable):
        self.pretrained = pretrained
        self._changed = changed
        self._past: deque[tuple[Tensor, str]] = deque(maxlen=N_UNDO)
        self.layout, self.code = self._sample(0, None)
        self.box = self._make_controls()
        self._show()
        for control in (self.number, self.wish):
            connect(control, self._draw_anew)
        for amount in self.amounts:
            connect(amount, self._take_amount)
        connect(self.new, self._next_number)
        connect(self.undo, self._go_back)
        connect(self.canvas, self._take_painted, trait="layout_bytes")
        connect(self.upload, self._take_upload)

    def _make_controls(self) -> widgets.Widget:
        classes = self.pretrained.classes
        colours = CLASS_COLOURS[: len(classes)].tolist()
        self.canvas = LayoutCanvas(
            size=self.pretrained.image_size,
            colours=colours,
            unknown_colour=list(UNKNOWN_COLOUR),
            layout={"width": f"{WIDTH}px"},
        )
        self.brush = widgets.ToggleButtons(
            options=[(name, k) for k, name in enumerate(classes)],
            style={"button_width": f"{WIDTH // len(classes)}px"},
        )
        labelled = {"style": {"description_width": "62px"}}
        self.radius = widgets.IntSlider(3, 0, 10, description="Brush, px", layout={"width": f"{WIDTH}px"}, **labelled)
        # linked in the browser: a stroke right after a click must not wait for the kernel
        widgets.jsdlink((self.brush, "index"), (self.canvas, "brush_class"))
        widgets.jsdlink((self.radius, "value"), (self.canvas, "brush_radius"))
        self.number = widgets.BoundedIntText(0, 0, 9999, description="Number", layout={"width": "140px"}, **labelled)
        narrow = {"layout": {"width": "66px"}}
        self.new = widgets.Button(description="Next", tooltip="the next layout of the prior", **narrow)
        self.undo = widgets.Button(description="Undo", tooltip="back to the layout before", **narrow)
        self.wish = widgets.Checkbox(False, description="Ask for these shares", indent=False, layout={"width": "156px"})
        self.upload = widgets.FileUpload(description="Mask file", tooltip="Mask file", layout={"width": "104px"})
        self.fit = fit_choice(LAYOUT_FITS, height="22px")  # the page just fits its window
        self.amounts, self.shares, rows = [], [], []
        for name, (red, green, blue) in zip(classes, colours, strict=True):
            chip = f"<span class='sedm-chip' style='background: rgb({red},{green},{blue})'></span>"
            amount = widgets.FloatSlider(0, min=0, max=1, step=0.01, readout=False, layout={"width": "136px"})
            widgets.dlink((self.wish, "value"), (amount, "disabled"), lambda is_wished: not is_wished)
            self.amounts.append(amount)
            self.shares.append(html("", width="44px"))
            rows.append(row(html(f"{chip}{name}", width="100px"), amount, self.shares[-1]))
        return card(
            row(html("<h2>Layout</h2>"), self.fit),
            self.canvas,
            self.brush,
            self.radius,
            row(self.number, self.new, self.undo),
            row(self.wish, self.upload),
            *rows,
        )

    def set_layout(self, layout: UInt8[Tensor, "h w"], code: str) -> None:
        """Show another layout; the one before can be gone back to."""
        if not layout.equal(self.layout):
            self._past.append((self.layout, self.code))
            self._put(layout, code)

    def _put(self, layout: UInt8[Tensor, "h w"], code: str) -> None:
        self.layout = layout
        self.code = code
        self._show()
        self._changed()

    def _sample(self, number: int, composition: dict[str, float] | None) -> tuple[Tensor, str]:
        layout = self.pretrained.layouts.sample(1, composition, seed=0, first=number)[0]
        return layout, f"pretrained.layouts.sample(1, {composition}, seed=0, first={number})[0]"

    def _draw_anew(self) -> None:
        self.set_layout(*self._sample(self.number.value, self._composition() if self.wish.value else None))

    def _take_amount(self) -> None:
        if self.wish.value:  # or the slider only follows the layout shown
            self._draw_anew()

    def _composition(self) -> dict[str, float]:
        """Scale the amounts to shares of sum 1."""
        amounts = [amount.value for amount in self.amounts]
        if sum(amounts) == 0:
            raise ValueError("all shares are 0; ask for some of at least one class")
        shares = [round(amount / sum(amounts), 3) for amount in amounts]
        largest = shares.index(max(shares))
        shares[largest] = round(1 - sum(shares[:largest] + shares[largest + 1 :]), 3)  # rounded, they must sum to 1
        return dict(zip(self.pretrained.classes, shares, strict=True))

    def _next_number(self) -> None:
        self.number.value = (self.number.value + 1) % 10_000

    def _go_back(self) -> None:
        if not self._past:
            raise ValueError("there is no earlier layout to go back to")
        self._put(*self._past.pop())

    def _take_painted(self) -> None:
        size = self.pretrained.image_size
        layout = torch.frombuffer(bytearray(self.canvas.layout_bytes), dtype=torch.uint8).view(size, size)
        self.set_layout(layout, f'unpack_layout("{pack_layout(layout)}")')

    def _take_upload(self) -> None:
        if self.upload.value:
            (file,) = self.upload.value
            self.upload.value = ()  # so that the same file can be given again
            classes, size = self.pretrained.classes, self.pretrained.image_size
            layout = read_layout(bytes(file.content), file.name, classes, size, self.fit.value)
            self.set_layout(layout, f'unpack_layout("{pack_layout(layout)}")')

    def _show(self) -> None:
        self.canvas.layout_bytes = self.layout.numpy().tobytes()
        fractions = class_fractions(self.layout[None], len(self.shares))[0].tolist()
        for share, amount, fraction in zip(self.shares, self.amounts, fractions, strict=True):
            share.value = f"<div class='sedm-share'>{fraction:.1%}</div>"
            if not self.wish.value:  # the sliders show what is there, and can be asked for more from there
                amount.value = round(fraction, 2)
