"""The page: layout, picture and styles side by side, drawn in the background whenever one of them changes."""

from __future__ import annotations

import html as escaping
import io
import time
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from sedm.demo.controls import card, html, row
from sedm.demo.layout_panel import LayoutPanel
from sedm.demo.mix import SAVED, Mix, render_each
from sedm.demo.style_panel import StylePanel
from sedm.demo.worker import LatestWorker
from sedm.sharing.pretrained import Pretrained, load_pretrained, shipped_models

PREVIEW_STEPS = 4  # a preview is short, and is let finish, so that the picture follows a slider
N_WALK = 9  # pictures from style A to style B
N_COLOURED = 16  # styles of the map whose colours are found at once
COLOUR_STEPS = 2  # enough for a mean colour
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

    def __init__(self, pretrained: Pretrained, steps: int = 8, folder: str | Path = SAVED):
        self.folder = Path(folder)
        self.worker = LatestWorker(self._show_error)
        self.drawn: tuple[Mix, Tensor, str] | None = None  # the final picture, when it is there, and its model
        self._opened: dict[str, tuple[Pretrained, LayoutPanel, StylePanel]] = {}  # a generator and its columns
        rows = self._make_controls(pretrained.name, steps)
        self._open(pretrained)
        super().__init__([html(f"<style>{CSS}</style>"), *rows])
        self.add_class("sedm")
        for control in (self.guidance, self.steps, self.seed):
            self._connect(control, self.redraw)
        self._connect(self.model, self._choose_model)
        self._connect(self.noise, self._new_seed)
        self._connect(self.save, self._save)
        self.redraw()

    def _make_controls(self, name: str, steps: int) -> list[widgets.Widget]:
        models = list(dict.fromkeys([name, *shipped_models()]))
        self.model = widgets.Dropdown(options=models, value=name, description="Model", layout={"width": "200px"})
        self.model.style.description_width = "46px"
        self.about = html("").add_class("sedm-about")
        self.error = html("")
        wide = {"layout": {"width": "100%"}, "style": {"description_width": "70px"}}
        self.view = widgets.Image(format="png", layout={"width": "100%"}).add_class("sedm-picture")
        self.walk = widgets.Image(format="png", layout={"width": "100%"}).add_class("sedm-strip")
        self.busy = html("").add_class("sedm-busy")
        self.status = html("").add_class("sedm-status")
        self.guidance = widgets.FloatSlider(1, min=0.5, max=4, step=0.1, description="Guidance", **wide)
        self.steps = widgets.IntSlider(steps, 2, 30, description="Steps", **wide)
        self.seed = widgets.BoundedIntText(0, 0, 2**31 - 1, description="Noise", layout={"width": "164px"})
        self.seed.style.description_width = "70px"
        self.hold = widgets.Checkbox(True, description="Keep", indent=False, layout={"width": "64px"})
        self.noise = widgets.Button(description="New noise", layout={"width": "96px"})
        self.save = widgets.Button(description="Save pair", layout={"width": "49%"})
        self.show_code = widgets.ToggleButton(description="Show as code", layout={"width": "49%"})
        self.code = widgets.Textarea(rows=18, layout={"width": "100%"}).add_class("sedm-code")
        widgets.dlink((self.show_code, "value"), (self.code.layout, "display"), lambda on: "flex" if on else "none")
        self._picture = card(
            html("<h2>Picture</h2>"),
            self.view,
            self.busy,
            self.status,
            self.guidance,
            self.steps,
            row(self.seed, self.hold, self.noise),
            row(self.save, self.show_code),
        )
        self.columns = widgets.HBox().add_class("sedm-columns")
        walk = widgets.HBox([html("<h2>From A to B</h2>"), self.walk]).add_class("sedm-card").add_class("sedm-walk")
        head = widgets.HBox([html("<h1>Style mixing</h1>"), self.about, self.model]).add_class("sedm-head")
        return [head, self.error, widgets.VBox([self.columns, walk]).add_class("sedm-rows"), self.code]

    def _open(self, pretrained: Pretrained) -> None:
        """Show the columns of a generator, as they were left where it was open before."""
        if pretrained.name not in self._opened:
            layouts = LayoutPanel(pretrained, self._changed, self._connect)
            styles = StylePanel(pretrained, self._changed, self._connect)
            layouts.canvas.on_msg(self._send_again)
            self._opened[pretrained.name] = (pretrained, layouts, styles)
        self.pretrained, self.layouts, self.styles = self._opened[pretrained.name]
        self.columns.children = [self.layouts.box, self._picture, self.styles.box]
        whose = f" Trained on {escaping.escape(pretrained.attribution)}." if pretrained.attribution else ""
        self.about.value = (
            f"<p>Mix styles at the right: colours and textures change, every structure stays in place.{whose}</p>"
        )

    def _choose_model(self) -> None:
        name = self.model.value
        self._open(self._opened[name][0] if name in self._opened else load_pretrained(name))
        self.redraw()

    @property
    def mix(self) -> Mix:
        """What the controls say."""
        return Mix(
            layout=self.layouts.layout,
            layout_code=self.layouts.code,
            styles=self.styles.styles,
            style_names=self.styles.names,
            style_codes=self.styles.codes,
            weights=self.styles.weights,
            guidance_scale=self.guidance.value,
            steps=self.steps.value,
            seed=self.seed.value,
        )

    def redraw(self) -> None:
        """Begin to draw what the controls say, and return at once."""
        self.error.value = ""
        self.drawn = None
        mix, pretrained, panel = self.mix, self.pretrained, self.styles
        self.code.value = mix.code(pretrained.name)
        if not sum(mix.weights):
            raise ValueError("all weights are 0; give at least one style some weight")
        self.worker.submit(lambda check: self._draw(mix, pretrained, panel, check))

    def _draw(self, mix: Mix, pretrained: Pretrained, panel: StylePanel, check: Callable[[], None]) -> None:
        pipeline = pretrained.pipeline
        started = time.monotonic()
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
        while names := panel.colourless(N_COLOURED):
            panel.set_colours(_mean_colours(pretrained, names, check))

    def _show(self, image: UInt8[Tensor, "3 h w"], words: str) -> None:
        self.view.value = _png(image)
        self.status.value = words

    def _changed(self) -> None:
        if self.hold.value:
            self.redraw()
        else:
            self._new_seed()

    def _new_seed(self) -> None:
        self.seed.value = (self.seed.value + 1) % 2**31

    def _save(self) -> None:
        if self.drawn is None:
            raise ValueError("the final picture is not drawn yet; wait for it, then save")
        mix, image, model = self.drawn
        path = mix.save(image, self.folder, model)
        self.status.value = f"Saved {path.stem}.png, _mask.png and .json in {escaping.escape(str(path.parent))}"

    def _connect(self, control: widgets.Widget, answer: Callable[[], None], trait: str = "value") -> None:
        """Call ``answer`` whenever a control changes; its errors go on the page, as nobody sees a callback's output."""

        def guarded(_event) -> None:
            try:
                answer()
            except Exception as error:
                self._show_error(error)

        if isinstance(control, widgets.Button):
            control.on_click(guarded)
        else:
            control.observe(guarded, names=trait)

    def _send_again(self, *_message) -> None:
        """Send what was drawn to a page that has just been shown.

        Voilà runs the notebook before anybody asks for the page. What changes after a browser read the state of the
        widgets, and before it listens to the kernel, is lost.
        """
        for widget in (self.view, self.walk, self.busy, self.status, self.error, self.styles.map):
            widget.send_state()

    def _show_error(self, error: Exception) -> None:
        words = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        self.error.value = f"<div class='sedm-error' role='alert'>{escaping.escape(words)}</div>"


def _mean_colours(pretrained: Pretrained, names: list[str], check: Callable[[], None]) -> dict[str, tuple]:
    """Find the mean colour, RGB 0…255, of a picture in each style, on the first layout."""
    layout = pretrained.layouts.sample(1, seed=0)[0]
    styles = torch.cat([pretrained.style_of(name) for name in names])
    images = render_each(pretrained.pipeline, layout, styles, 1.0, COLOUR_STEPS, seed=0, before_step=check)
    return dict(zip(names, map(tuple, images.float().mean((2, 3)).int().tolist()), strict=True))


def _side_by_side(images: UInt8[Tensor, "n 3 h w"], gap: int = 4) -> UInt8[Tensor, "3 h w2"]:
    """Join pictures to a strip with white between them."""
    spaced = torch.nn.functional.pad(images, (0, gap), value=255)
    return torch.cat(list(spaced), dim=2)[..., :-gap]


def _png(picture: UInt8[Tensor, "3 h w"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()
