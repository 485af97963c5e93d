"""The page: layout, picture and styles side by side, drawn in the background whenever one of them changes."""

from __future__ import annotations

import html
import io
import time
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from sedm.demo.layout_panel import LayoutPanel
from sedm.demo.mix import Mix
from sedm.demo.render import render_walk
from sedm.demo.style_panel import StylePanel
from sedm.demo.worker import LatestWorker
from sedm.pipeline import noise_generators
from sedm.pretrained import SHIPPED, Pretrained

PREVIEW_STEPS = 4  # a preview is short, and is let finish, so that the picture follows a slider
N_WALK = 9  # pictures from style A to style B
N_COLOURED = 8  # styles of the map whose colours are found at once
SAVED = SHIPPED.parent / "runs" / "saved"
CSS = (Path(__file__).parent / "page.css").read_text()


class StyleMixing(widgets.VBox):
    """Sliders, a canvas and a map over ``render_mix``, for one generator.

    Every change draws a preview and then the final picture in the background; a newer change stops the drawing of
    the final picture between two solver steps. Errors are shown on the page.

    Args:
        pretrained: as ``load_pretrained`` returns it; several pages may share one.
        steps: solver steps of a final picture, to begin with.
        folder: where pairs are saved.
    """

    def __init__(self, pretrained: Pretrained, steps: int = 12, folder: str | Path = SAVED):
        self.pretrained, self.folder = pretrained, Path(folder)
        self.worker = LatestWorker(self._show_error)
        self.drawn: tuple[Mix, Tensor] | None = None  # the final picture, when it is there
        self._make_controls(steps)
        self.layouts = LayoutPanel(pretrained, self._changed, self._guarded)
        self.styles = StylePanel(pretrained, self._changed, self._guarded)
        for control in (self.guidance, self.steps, self.seed):
            control.observe(self._guarded(lambda _: self.redraw()), names="value")
        self.noise.on_click(self._guarded(lambda _: self._new_seed()))
        self.save.on_click(self._guarded(self._save))
        self.show_code.observe(self._guarded(self._write_code), names="value")
        super().__init__([widgets.HTML(f"<style>{CSS}</style>"), self._head(), self.error, self._body(), self.code])
        self.add_class("sedm")
        self.redraw()

    def _make_controls(self, steps: int) -> None:
        wide = {"width": "100%"}
        self.view, self.walk = (widgets.Image(format="png", layout=wide) for _ in range(2))
        self.busy, self.status = widgets.HTML().add_class("sedm-busy"), widgets.HTML()
        self.error = widgets.HTML()
        self.guidance = widgets.FloatSlider(1, min=0.5, max=4, step=0.1, description="Guidance", layout=wide)
        self.steps = widgets.IntSlider(steps, 2, 30, description="Steps", layout=wide)
        self.seed = widgets.BoundedIntText(0, 0, 2**31 - 1, description="Noise", layout={"width": "164px"})
        for control in (self.guidance, self.steps, self.seed):
            control.style.description_width = "70px"
        self.hold = widgets.Checkbox(True, description="Keep", indent=False, layout={"width": "64px"})
        self.noise = widgets.Button(description="New noise", layout={"width": "96px"})
        self.save = widgets.Button(description="Save pair", layout={"width": "120px"})
        self.show_code = widgets.ToggleButton(description="Show as code", layout={"width": "120px"})
        self.code = widgets.Textarea(rows=18, layout={"width": "100%", "display": "none"}).add_class("sedm-code")

    def _head(self) -> widgets.Widget:
        whose = f" Trained on {html.escape(self.pretrained.attribution)}." if self.pretrained.attribution else ""
        return widgets.HTML(
            "<h1>Style mixing</h1><p>Mix the styles at the right: colours and textures change, while every structure "
            f"stays where the layout puts it.{whose}</p>"
        ).add_class("sedm-head")

    def _body(self) -> widgets.Widget:
        seed = widgets.HBox([self.seed, self.hold, self.noise]).add_class("sedm-row")
        buttons = widgets.HBox([self.save, self.show_code]).add_class("sedm-row")
        picture = widgets.VBox(
            [
                widgets.HTML("<h2>Picture</h2>"),
                self.view.add_class("sedm-picture"),
                self.busy,
                self.status.add_class("sedm-status"),
                self.guidance,
                self.steps,
                seed,
                buttons,
            ],
            layout={"width": "382px"},
        ).add_class("sedm-card")
        columns = widgets.HBox([self.layouts.box, picture, self.styles.box]).add_class("sedm-columns")
        walk = widgets.HBox([widgets.HTML("<h2>From A to B</h2>"), self.walk.add_class("sedm-strip")])
        return widgets.VBox([columns, walk.add_class("sedm-card").add_class("sedm-walk")]).add_class("sedm-rows")

    @property
    def mix(self) -> Mix:
        """What the controls say."""
        chosen, layouts = self.styles, self.layouts
        styles = (chosen.styles, chosen.names, chosen.codes, chosen.weights)
        return Mix(layouts.layout, layouts.code, *styles, self.guidance.value, self.steps.value, self.seed.value)

    def redraw(self) -> None:
        """Begins to draw what the controls say; returns at once."""
        self.error.value, self.drawn = "", None
        mix = self.mix
        if self.show_code.value:
            self.code.value = mix.code(self.pretrained.name)
        if not sum(mix.weights):
            raise ValueError("all weights are 0; give at least one style some weight")
        self.worker.submit(lambda check: self._draw(mix, check))

    def _draw(self, mix: Mix, check: Callable[[], None]) -> None:
        pipeline, started = self.pretrained.pipeline, time.monotonic()
        self.busy.add_class("sedm-on")
        try:
            if mix.steps > PREVIEW_STEPS:
                self._show(mix.render(pipeline, PREVIEW_STEPS), f"preview, {PREVIEW_STEPS} steps …")
            image = mix.render(pipeline, before_step=check)
            self.drawn = mix, image
            self._show(image, f"{mix.steps} steps, {time.monotonic() - started:.1f} s")
            settings = (N_WALK, mix.guidance_scale, mix.steps, mix.seed)
            self.walk.value = _png(_side_by_side(render_walk(pipeline, mix.layout, mix.styles[:2], *settings, check)))
        finally:
            self.busy.remove_class("sedm-on")
        while names := self.styles.colourless[:N_COLOURED]:
            self.styles.set_colours(self._colours_of(names, check))

    def _colours_of(self, names: list[str], check: Callable[[], None]) -> dict[str, str]:
        """The mean colour of a picture in each style, on the first layout."""
        styles = torch.stack([self.pretrained.style_of(name) for name in names])
        layouts = self.pretrained.layouts.sample(1, seed=0).expand(len(names), -1, -1)
        generators = noise_generators(0, [0] * len(names))
        images = self.pretrained.pipeline(layouts, styles, generators, PREVIEW_STEPS, 1.0, "pt", check).images
        means = images.float().mean((2, 3)).int().tolist()
        return {name: f"rgb({r},{g},{b})" for name, (r, g, b) in zip(names, means, strict=True)}

    def _show(self, image: UInt8[Tensor, "3 h w"], words: str) -> None:
        self.view.value, self.status.value = _png(image), words

    def _changed(self) -> None:
        if self.hold.value:
            self.redraw()
        else:
            self._new_seed()

    def _new_seed(self) -> None:
        self.seed.value = (self.seed.value + 1) % 2**31

    def _save(self, _button) -> None:
        if self.drawn is None:
            raise ValueError("the final picture is not drawn yet; wait for it, then save")
        path = self.drawn[0].save(self.drawn[1], self.folder, self.pretrained.name)
        self.status.value = f"Saved {path.stem}.png, _mask.png and .json in {html.escape(str(path.parent))}"

    def _write_code(self, _change) -> None:
        self.code.layout.display = "flex" if self.show_code.value else "none"
        self.code.value = self.mix.code(self.pretrained.name)

    def _guarded(self, answer: Callable) -> Callable:
        """``answer``, but with errors shown on the page: nobody sees the output of a widget's callback."""

        def guarded(event) -> None:
            try:
                answer(event)
            except Exception as error:
                self._show_error(error)

        return guarded

    def _show_error(self, error: Exception) -> None:
        words = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        self.error.value = f"<div class='sedm-error' role='alert'>{html.escape(words)}</div>"


def _side_by_side(images: UInt8[Tensor, "n 3 h w"], gap: int = 4) -> UInt8[Tensor, "3 h w2"]:
    space = images.new_full((*images.shape[1:3], gap), 255)
    return torch.cat([part for image in images for part in (image, space)][:-1], dim=2)


def _png(picture: UInt8[Tensor, "3 h w"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()
