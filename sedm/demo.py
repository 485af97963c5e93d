"""Style mixing to play with: one pure function, and sliders over it."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from sedm.figures import colour_layout
from sedm.pipeline import SEDMPipeline, noise_generators


def render_mix(
    pipeline: SEDMPipeline,
    layout: UInt8[Tensor, "h w"],
    styles: Float[Tensor, "n dim"],
    weights: Sequence[float],
    guidance_scale: float = 1.0,
    steps: int = 12,
    seed: int = 0,
) -> UInt8[Tensor, "3 h w"]:
    """The image of ``layout`` in the weighted mixture of ``styles``; the same arguments give the same image.

    Raises:
        ValueError: what ``SEDMPipeline.mix_styles`` and ``SEDMPipeline.__call__`` refuse.
    """
    pipeline.set_progress_bar_config(disable=True)
    style = pipeline.mix_styles(styles, weights)
    generators = noise_generators(seed, [0])
    return pipeline(layout[None], style[None], generators, steps, guidance_scale, output_type="pt").images[0]


def style_mixing_widget(
    pipeline: SEDMPipeline,
    layouts: UInt8[Tensor, "m h w"],
    styles: Float[Tensor, "n dim"],
    style_names: Sequence[str],
    steps: int = 12,
    zoom: int = 5,
):
    """An ipywidgets box: a slider for each style's weight, the guidance, the layout and the seed.

    An error (all weights zero) is shown in the box. Layouts and styles are fixed, so nothing is encoded again.
    """
    import ipywidgets as widgets

    def slider(name: str, value: float, largest: float, smallest: float = 0.0):
        return widgets.FloatSlider(
            value, min=smallest, max=largest, step=0.05, description=name, continuous_update=False
        )

    weights = [slider(name, float(i == 0), 1.0) for i, name in enumerate(style_names)]
    guidance = slider("guidance", 1.0, 4.0, smallest=0.5)
    layout = widgets.IntSlider(0, min=0, max=len(layouts) - 1, description="layout", continuous_update=False)
    seed = widgets.IntText(0, description="seed")
    layout_view, view, message = widgets.Image(), widgets.Image(), widgets.HTML()

    def show(_change=None) -> None:
        layout_view.value = _png(colour_layout(layouts[layout.value][None])[0], zoom)
        try:
            mixture = [one.value for one in weights]
            picture = render_mix(pipeline, layouts[layout.value], styles, mixture, guidance.value, steps, seed.value)
            view.value, message.value = _png(picture, zoom), ""
        except ValueError as error:
            message.value = f"<span style='color:#b00'>{error}</span>"

    for control in (*weights, guidance, layout, seed):
        control.observe(show, names="value")
    show()
    controls = widgets.VBox([*weights, guidance, layout, seed, message])
    return widgets.HBox([controls, layout_view, view])


def _png(picture: UInt8[Tensor, "3 h w"], zoom: int) -> bytes:
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)._repr_png_()
