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
from sedm.demo.style_panel import StylePanel
from sedm.demo.worker import LatestWorker
from sedm.generator.pipeline import noise_generators
from sedm.sharing.pretrained import SHIPPED, Pretrained, load_pretrained, shipped_models

PREVIEW_STEPS = 4  # a preview is short, and is let finish, so that the picture follows a slider
N_WALK = 9  # pictures from style A to style B
N_COLOURED = 16  # styles of the map whose colours are found at once
COLOUR_STEPS = 2  # enough for a mean colour
SAVED = SHIPPED.parent / "runs" / "saved"
CSS = (Path(__file__).parent / "page.css").read_text()


class StyleMixing(widgets.VBox):
    """Sliders, a canvas and a map over ``render_mix``, for one generator or another that comes with the code.

    Every change draws a preview and then the final picture in the background; a newer change stops the drawing of
    the final picture between two solver steps. Errors are shown on the page.

    Args:
        pretrained: the generator to begin with, as ``load_pretrained`` returns it; several pages may share one.
        steps: solver steps of a final picture, to begin with.
        folder: where pairs are saved.
    """

    def __init__(self, pretrained: Pretrained, steps: int = 12, folder: str | Path = SAVED):
        self.folder = Path(folder)
        self._opened: dict[str, tuple[Pretrained, LayoutPanel, StylePanel]] = {}  # a generator and its columns
        self.worker = LatestWorker(self._show_error)
        self.drawn: tuple[Mix, Tensor, str] | None = None  # the final picture, when it is there, and its model
        self._make_controls(steps, pretrained.name)
        self._open(pretrained)
        for control in (self.guidance, self.steps, self.seed):
            control.observe(self._guarded(lambda _: self.redraw()), names="value")
        self.model.observe(self._guarded(lambda change: self._choose_model(change["new"])), names="value")
        self.noise.on_click(self._guarded(lambda _: self._new_seed()))
        self.save.on_click(self._guarded(self._save))
        self.show_code.observe(self._guarded(self._write_code), names="value")
        super().__init__([widgets.HTML(f"<style>{CSS}</style>"), self._head(), self.error, self._body(), self.code])
        self.add_class("sedm")
        self.redraw()

    def _make_controls(self, steps: int, name: str) -> None:
        wide = {"width": "100%"}
        models = list(dict.fromkeys([name, *shipped_models()]))
        self.model = widgets.Dropdown(options=models, value=name, description="Model", layout={"width": "200px"})
        self.model.style.description_width = "46px"
        self.about = widgets.HTML().add_class("sedm-about")
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
        self.columns = widgets.HBox().add_class("sedm-columns")
        self._picture = self._picture_column()

    def _head(self) -> widgets.Widget:
        title = widgets.HTML("<h1>Style mixing</h1>")
        return widgets.HBox([title, self.about, self.model]).add_class("sedm-head")

    def _body(self) -> widgets.Widget:
        walk = widgets.HBox([widgets.HTML("<h2>From A to B</h2>"), self.walk.add_class("sedm-strip")])
        return widgets.VBox([self.columns, walk.add_class("sedm-card").add_class("sedm-walk")]).add_class("sedm-rows")

    def _picture_column(self) -> widgets.Widget:
        seed = widgets.HBox([self.seed, self.hold, self.noise]).add_class("sedm-row").add_class("sedm-between")
        buttons = widgets.HBox([self.save, self.show_code]).add_class("sedm-row")
        rows = [self.view.add_class("sedm-picture"), self.busy, self.status.add_class("sedm-status")]
        rows += [self.guidance, self.steps, seed, buttons]
        return widgets.VBox([widgets.HTML("<h2>Picture</h2>"), *rows]).add_class("sedm-card")

    def _open(self, pretrained: Pretrained) -> None:
        """Shows the columns of a generator, as they were left where it was open before."""
        if pretrained.name not in self._opened:
            answers = self._changed, self._guarded
            panels = LayoutPanel(pretrained, *answers), StylePanel(pretrained, *answers)
            self._opened[pretrained.name] = (pretrained, *panels)
        self.pretrained, self.layouts, self.styles = self._opened[pretrained.name]
        self.columns.children = [self.layouts.box, self._picture, self.styles.box]
        whose = f" Trained on {html.escape(pretrained.attribution)}." if pretrained.attribution else ""
        self.about.value = (
            f"<p>Mix styles at the right: colours and textures change, every structure stays in place.{whose}</p>"
        )

    def _choose_model(self, name: str) -> None:
        self._open(self._opened[name][0] if name in self._opened else load_pretrained(name))
        self.redraw()

    @property
    def mix(self) -> Mix:
        """What the controls say."""
        chosen, layouts = self.styles, self.layouts
        styles = (chosen.styles, chosen.names, chosen.codes, chosen.weights)
        return Mix(layouts.layout, layouts.code, *styles, self.guidance.value, self.steps.value, self.seed.value)

    def redraw(self) -> None:
        """Begins to draw what the controls say; returns at once."""
        self.error.value, self.drawn = "", None
        mix, pretrained, chosen = self.mix, self.pretrained, self.styles
        if self.show_code.value:
            self.code.value = mix.code(self.pretrained.name)
        if not sum(mix.weights):
            raise ValueError("all weights are 0; give at least one style some weight")
        self.worker.submit(lambda check: self._draw(mix, pretrained, chosen, check))

    def _draw(self, mix: Mix, pretrained: Pretrained, chosen: StylePanel, check: Callable[[], None]) -> None:
        pipeline, started = pretrained.pipeline, time.monotonic()
        self.busy.add_class("sedm-on")
        try:
            if mix.steps > PREVIEW_STEPS:
                self._show(mix.render(pipeline, PREVIEW_STEPS), f"preview, {PREVIEW_STEPS} steps …")
            image = mix.render(pipeline, before_step=check)
            self.drawn = mix, image, pretrained.name
            self._show(image, f"{mix.steps} steps, {time.monotonic() - started:.1f} s")
            self.walk.value = _png(_side_by_side(mix.render_walk(pipeline, N_WALK, check)))
        finally:
            self.busy.remove_class("sedm-on")
        while names := chosen.colourless(N_COLOURED):
            chosen.set_colours(_colours_of(pretrained, names, check))

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
        mix, image, model = self.drawn
        path = mix.save(image, self.folder, model)
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


def _colours_of(pretrained: Pretrained, names: list[str], check: Callable[[], None]) -> dict[str, tuple]:
    """The mean colour, RGB 0…255, of a picture in each style, on the first layout."""
    styles = torch.cat([pretrained.style_of(name) for name in names])
    layouts = pretrained.layouts.sample(1, seed=0).expand(len(names), -1, -1)
    generators = noise_generators(0, [0] * len(names))
    images = pretrained.pipeline(layouts, styles, generators, COLOUR_STEPS, 1.0, "pt", check).images
    means = images.float().mean((2, 3)).int().tolist()
    return {name: tuple(mean) for name, mean in zip(names, means, strict=True)}


def _side_by_side(images: UInt8[Tensor, "n 3 h w"], gap: int = 4) -> UInt8[Tensor, "3 h w2"]:
    space = images.new_full((*images.shape[1:3], gap), 255)
    return torch.cat([part for image in images for part in (image, space)][:-1], dim=2)


def _png(picture: UInt8[Tensor, "3 h w"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()
