"""All that decides one picture: it can be rendered, saved as a pair of image and mask, and written as code."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from sedm.generator.pipeline import SEDMPipeline, noise_generators
from sedm.runtime.files import replacing
from sedm.sharing.pretrained import SHIPPED, Pretrained
from sedm.styles.bank import separating_axes

SAVED = SHIPPED.parent / "runs" / "saved"
HELPERS = ("style_of_files", "unpack_layout")  # of sedm.demo, which the code of a layout or a style may call


def render_mix(
    pipeline: SEDMPipeline,
    layout: UInt8[Tensor, "h w"],
    styles: Float[Tensor, "n n_tokens dim"],
    weights: Sequence[float],
    guidance_scale: float = 1.0,
    steps: int = 8,
    seed: int = 0,
    before_step: Callable[[], None] | None = None,
) -> UInt8[Tensor, "3 h w"]:
    """Render ``layout`` in the weighted mixture of ``styles``; the same arguments give the same image.

    With all weight on one style it is exactly the image of that style.

    Args:
        layout: class indices, or ``UNKNOWN`` where anything may be.
        weights: one for each style; only their ratios count.
        guidance_scale: 1 means no guidance.
        steps: solver steps, each one network evaluation (two when guided).
        seed: of the noise that the image starts from, 0 or more.
        before_step: called before each solver step; what it raises ends the rendering there.

    Raises:
        ValueError: what ``SEDMPipeline.mix_styles`` and ``SEDMPipeline.__call__`` refuse.

    >>> from sedm.config import ModelConfig
    >>> from sedm.generator.denoiser import build_model
    >>> model = build_model(ModelConfig((8, 16), style_dim=4, style_channels=(8,)), 2, image_size=16, seed=0)
    >>> layout = torch.zeros(16, 16, dtype=torch.uint8)
    >>> render_mix(SEDMPipeline.from_model(model), layout, torch.eye(4)[:2, None], [0.3, 0.7], steps=2).shape
    torch.Size([3, 16, 16])
    """
    style = pipeline.mix_styles(styles, weights)
    return render_each(pipeline, layout, style, guidance_scale, steps, seed, before_step)[0]


def render_each(
    pipeline: SEDMPipeline,
    layout: UInt8[Tensor, "h w"],
    styles: Float[Tensor, "n n_tokens dim"],
    guidance_scale: float,
    steps: int,
    seed: int,
    before_step: Callable[[], None] | None = None,
) -> UInt8[Tensor, "n 3 h w"]:
    """Render ``layout`` in each of ``styles``, all from the same noise; arguments as of `render_mix`.

    They are sampled as one batch, which is faster than one by one, and the same to within rounding.
    """
    pipeline.set_progress_bar_config(disable=True)
    layouts = layout.expand(len(styles), -1, -1)
    generators = noise_generators(seed, [0] * len(styles))
    return pipeline(layouts, styles, generators, steps, guidance_scale, "pt", before_step).images


def project_styles(pretrained: Pretrained, styles: Float[Tensor, "n n_tokens dim"]) -> Float[Tensor, "n 2"]:
    """Place styles, or the mean of their tokens, on the two axes that tell the bank's groups apart best.

    The bank's own styles fill [−1, 1].
    """
    of_images = pretrained.pipeline.styles_alone(pretrained.styles.embeddings).mean(1)
    axes = separating_axes(of_images, pretrained.styles.groups)
    bank = pretrained.group_styles.mean(1) @ axes
    least, most = bank.amin(0), bank.amax(0)
    return (2 * (styles.mean(1) @ axes) - least - most) / (most - least).clamp(min=1e-6)


@dataclass(frozen=True)
class Mix:
    """A layout, some styles, and how they are mixed; ``layout_code`` and ``style_codes`` say where they come from."""

    layout: UInt8[Tensor, "h w"]
    layout_code: str  # a Python expression that gives the layout
    styles: Float[Tensor, "n n_tokens dim"]
    style_names: tuple[str, ...]
    style_codes: tuple[str, ...]  # Python expressions that give the styles
    weights: tuple[float, ...]
    guidance_scale: float
    steps: int
    seed: int

    def render(
        self, pipeline: SEDMPipeline, steps: int | None = None, before_step: Callable[[], None] | None = None
    ) -> UInt8[Tensor, "3 h w"]:
        """Render the picture; with fewer ``steps``, a preview of it."""
        steps = steps or self.steps
        return render_mix(
            pipeline, self.layout, self.styles, self.weights, self.guidance_scale, steps, self.seed, before_step
        )

    def render_walk(
        self, pipeline: SEDMPipeline, n: int, before_step: Callable[[], None] | None = None
    ) -> UInt8[Tensor, "n 3 h w"]:
        """Render ``n`` pictures from the first style to the second in even steps."""
        shares = torch.linspace(0, 1, n).tolist()
        styles = torch.cat([pipeline.mix_styles(self.styles[:2], [1 - share, share]) for share in shares])
        return render_each(pipeline, self.layout, styles, self.guidance_scale, self.steps, self.seed, before_step)

    @property
    def shares(self) -> list[float]:
        """The weights, scaled to sum 1; all 0 where there is none."""
        total = sum(self.weights) or 1.0
        return [weight / total for weight in self.weights]

    def code(self, model: str) -> str:
        """Write a code cell that gives the same picture.

        Args:
            model: the name that ``load_pretrained`` takes.
        """
        calls = "".join([self.layout_code, *self.style_codes])
        helpers = ", ".join(name for name in HELPERS if name in calls)
        styles = "".join(f"    {code},\n" for code in self.style_codes)
        return (
            "import torch\n\nfrom sedm import load_pretrained, render_mix\n"
            + (f"from sedm.demo import {helpers}\n" if helpers else "")
            + f"""
pretrained = load_pretrained({model!r})
layout = {self.layout_code}
styles = torch.cat([
{styles}])
weights = {list(self.weights)}
image = render_mix(
    pretrained.pipeline, layout, styles, weights,
    guidance_scale={self.guidance_scale}, steps={self.steps}, seed={self.seed},
)  # uint8 (3, h, w)"""
        )

    def save(self, image: UInt8[Tensor, "3 h w"], folder: str | Path, model: str) -> Path:
        """Save the image, the mask (``…_mask.png``, class indices) and the settings (``….json``).

        Files are numbered on from those in the folder; none is overwritten.

        Returns:
            The path of the image.
        """
        folder = Path(folder)
        number = 1 + max((int(path.stem[4:]) for path in folder.glob("mix_[0-9]*.json")), default=0)
        name = f"mix_{number:04}"
        facts = {
            "model": model,
            "styles": dict(zip(self.style_names, self.shares, strict=True)),
            "guidance_scale": self.guidance_scale,
            "steps": self.steps,
            "seed": self.seed,
            "code": self.code(model),
        }
        with replacing(folder / f"{name}_mask.png") as temporary:
            Image.fromarray(self.layout.numpy()).save(temporary)
        with replacing(folder / f"{name}.png") as temporary:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary)
        with replacing(folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n")
        return folder / f"{name}.png"


def pack_layout(layout: UInt8[Tensor, "h w"]) -> str:
    """Write a layout as a short text, for code that has to draw it again."""
    return base64.b85encode(zlib.compress(layout.numpy().tobytes(), 9)).decode()


def unpack_layout(text: str) -> UInt8[Tensor, "h w"]:
    """Read the square layout in a text of ``pack_layout``.

    >>> layout = torch.zeros(8, 8, dtype=torch.uint8)
    >>> unpack_layout(pack_layout(layout)).equal(layout)
    True
    """
    pixels = torch.frombuffer(bytearray(zlib.decompress(base64.b85decode(text))), dtype=torch.uint8)
    size = round(len(pixels) ** 0.5)
    return pixels.view(size, size)
