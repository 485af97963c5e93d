"""The left column: a layout is drawn from the prior, painted, or uploaded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import ipywidgets as widgets
import torch
from jaxtyping import UInt8
from torch import Tensor

from sedm.demo.controls import LayoutCanvas, fit_choice
from sedm.demo.mix import pack_layout
from sedm.demo.uploads import LAYOUT_FITS, read_layout
from sedm.figures import CLASS_COLOURS, UNKNOWN_COLOUR
from sedm.layouts import class_fractions
from sedm.sharing.pretrained import Pretrained

N_UNDO = 20  # layouts that can be gone back to
WIDTH = "288px"


class LayoutPanel:
    """Which layout is to be drawn: ``layout``, and ``code``, the Python expression that gives it again.

    Args:
        changed: called after every change of the layout.
        guarded: wraps what answers a control, so that its errors reach the user.
    """

    def __init__(self, pretrained: Pretrained, changed: Callable[[], None], guarded: Callable):
        self.pretrained, self._changed = pretrained, changed
        self._past: deque[tuple[Tensor, str]] = deque(maxlen=N_UNDO)
        self.layout, self.code = self._sample(0, None)
        self._make_controls()
        self._show()
        for control in (self.number, self.wish):
            control.observe(guarded(self._draw_anew), names="value")
        for amount in self.amounts:
            amount.observe(guarded(self._take_amount), names="value")
        self.new.on_click(guarded(self._next_number))
        self.undo.on_click(guarded(self._go_back))
        self.canvas.observe(guarded(self._take_painted), names="layout_bytes")
        self.upload.observe(guarded(self._take_upload), names="value")

    def _make_controls(self) -> None:
        classes, size = self.pretrained.classes, self.pretrained.image_size
        colours = CLASS_COLOURS[: len(classes)].tolist()
        self.canvas = LayoutCanvas(size=size, colours=colours, unknown_colour=list(UNKNOWN_COLOUR))
        self.canvas.layout.width = WIDTH
        self.brush = widgets.ToggleButtons(
            options=[(name, k) for k, name in enumerate(classes)], style={"button_width": f"{288 // len(classes)}px"}
        )
        self.radius = widgets.IntSlider(3, 0, 10, description="Brush, px", layout={"width": WIDTH})
        # linked in the browser: a stroke right after a click must not wait for the kernel
        widgets.jsdlink((self.brush, "index"), (self.canvas, "brush_class"))
        widgets.jsdlink((self.radius, "value"), (self.canvas, "brush_radius"))
        self.number = widgets.BoundedIntText(0, 0, 9999, description="Number", layout={"width": "140px"})
        self.number.style.description_width = self.radius.style.description_width = "62px"
        self.new, self.undo = (
            widgets.Button(description=word, tooltip=tip, layout={"width": "66px"})
            for word, tip in (("Next", "the next layout of the prior"), ("Undo", "back to the layout before"))
        )
        self.wish = widgets.Checkbox(False, description="Ask for these shares", indent=False, layout={"width": "156px"})
        self.amounts = [widgets.FloatSlider(0, min=0, max=1, step=0.01, readout=False) for _ in classes]
        self.shares = [widgets.HTML(layout={"width": "44px"}) for _ in classes]
        for amount in self.amounts:
            amount.layout.width = "136px"
        self.upload = widgets.FileUpload(description="Mask file", tooltip="Mask file", layout={"width": "104px"})
        rows = [
            widgets.HBox([_chip(name, colour), amount, share]).add_class("sedm-row").add_class("sedm-between")
            for name, colour, amount, share in zip(classes, colours, self.amounts, self.shares, strict=True)
        ]
        self.fit = fit_choice(LAYOUT_FITS)
        self.fit.layout.height = "22px"  # the page just fits its window
        head = widgets.HBox([widgets.HTML("<h2>Layout</h2>"), self.fit]).add_class("sedm-row").add_class("sedm-between")
        shares_head = widgets.HBox([self.wish, self.upload]).add_class("sedm-row").add_class("sedm-between")
        self.box = widgets.VBox(
            [
                head,
                self.canvas,
                self.brush,
                self.radius,
                widgets.HBox([self.number, self.new, self.undo]).add_class("sedm-row"),
                shares_head,
                *rows,
            ]
        ).add_class("sedm-card")

    def set_layout(self, layout: UInt8[Tensor, "h w"], code: str) -> None:
        """Shows another layout; the one before can be gone back to."""
        if not layout.equal(self.layout):
            self._past.append((self.layout, self.code))
            self.layout, self.code = layout, code
            self._show()
            self._changed()

    def _sample(self, number: int, wish: dict[str, float] | None) -> tuple[Tensor, str]:
        layout = self.pretrained.layouts.sample(1, wish, seed=0, first=number)[0]
        return layout, f"pretrained.layouts.sample(1, {wish}, seed=0, first={number})[0]"

    def _draw_anew(self, _change=None) -> None:
        for amount in self.amounts:
            amount.disabled = not self.wish.value
        self.set_layout(*self._sample(self.number.value, self._wished() if self.wish.value else None))

    def _take_amount(self, _change) -> None:
        if self.wish.value:  # or the slider only follows the layout shown
            self._draw_anew()

    def _wished(self) -> dict[str, float]:
        amounts = [amount.value for amount in self.amounts]
        if sum(amounts) == 0:
            raise ValueError("all shares are 0; ask for some of at least one class")
        shares = [round(amount / sum(amounts), 3) for amount in amounts]
        largest = shares.index(max(shares))
        shares[largest] = round(1 - sum(shares[:largest] + shares[largest + 1 :]), 3)  # rounded, they must sum to 1
        return dict(zip(self.pretrained.classes, shares, strict=True))

    def _next_number(self, _button) -> None:
        self.number.value = (self.number.value + 1) % 10_000

    def _go_back(self, _button) -> None:
        if not self._past:
            raise ValueError("there is no earlier layout to go back to")
        self.layout, self.code = self._past.pop()
        self._show()
        self._changed()

    def _take_painted(self, change) -> None:
        size = self.pretrained.image_size
        layout = torch.frombuffer(bytearray(change["new"]), dtype=torch.uint8).view(size, size)
        self.set_layout(layout, f'unpack_layout("{pack_layout(layout)}")')

    def _take_upload(self, change) -> None:
        if change["new"]:
            file = change["new"][0]
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
                amount.disabled = True
                amount.value = round(fraction, 2)


def _chip(name: str, colour: list[int]) -> widgets.HTML:
    red, green, blue = colour
    chip = f"<span class='sedm-chip' style='background: rgb({red},{green},{blue})'></span>"
    return widgets.HTML(f"{chip}{name}", layout={"width": "100px"})
