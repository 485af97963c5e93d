"""All that decides one picture: it can be rendered, saved as a pair of image and mask, and written as code."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from sedm.demo.render import render_mix
from sedm.generator.pipeline import SEDMPipeline, noise_generators
from sedm.runtime.files import replacing


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
        """Draw the picture; with fewer ``steps``, a preview of it."""
        settings = (self.guidance_scale, steps or self.steps, self.seed)
        return render_mix(pipeline, self.layout, self.styles, self.weights, *settings, before_step)

    def render_walk(
        self, pipeline: SEDMPipeline, n: int, before_step: Callable[[], None] | None = None
    ) -> UInt8[Tensor, "n 3 h w"]:
        """Draw ``n`` pictures from the first style to the second in even steps, all from the noise of ``render``.

        They are sampled as one batch, which is faster than one by one; the same to within rounding.
        """
        shares = torch.linspace(0, 1, n).tolist()
        styles = torch.cat([pipeline.mix_styles(self.styles[:2], [1 - share, share]) for share in shares])
        layouts, generators = self.layout.expand(n, -1, -1), noise_generators(self.seed, [0] * n)
        return pipeline(layouts, styles, generators, self.steps, self.guidance_scale, "pt", before_step).images

    @property
    def shares(self) -> list[float]:
        """The weights, brought to sum 1; all 0 where there is none."""
        total = sum(self.weights) or 1.0
        return [weight / total for weight in self.weights]

    def code(self, model: str) -> str:
        """A code cell that gives the same picture.

        Args:
            model: what ``load_pretrained`` is to be asked for.
        """
        lines = [f"    {code}," for code in self.style_codes]
        names = {name for name in _HELPERS if any(name in code for code in (self.layout_code, *self.style_codes))}
        helpers = [f"from sedm.demo import {', '.join(sorted(names))}"] if names else []
        return "\n".join(
            [
                "import torch",
                "",
                "from sedm import load_pretrained, render_mix",
                *helpers,
                "",
                f"pretrained = load_pretrained({model!r})",
                f"layout = {self.layout_code}",
                "styles = torch.cat([",
                *lines,
                "])",
                f"weights = {list(self.weights)}",
                "image = render_mix(",
                "    pretrained.pipeline, layout, styles, weights,",
                f"    guidance_scale={self.guidance_scale}, steps={self.steps}, seed={self.seed},",
                ")  # uint8 (3, h, w)",
            ]
        )

    def save(self, image: UInt8[Tensor, "3 h w"], folder: str | Path, model: str) -> Path:
        """The image's file; beside it lie the mask (``…_mask.png``, class indices) and the settings (``….json``).

        Files are numbered on from those in the folder; none is overwritten.
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


_HELPERS = ("style_of_files", "unpack_layout")


def pack_layout(layout: UInt8[Tensor, "h w"]) -> str:
    """A layout as a short text, for code that has to draw it again."""
    return base64.b85encode(zlib.compress(layout.numpy().tobytes(), 9)).decode()


def unpack_layout(text: str) -> UInt8[Tensor, "h w"]:
    """The square layout in a text of ``pack_layout``.

    >>> layout = torch.zeros(8, 8, dtype=torch.uint8)
    >>> unpack_layout(pack_layout(layout)).equal(layout)
    True
    """
    pixels = torch.frombuffer(bytearray(zlib.decompress(base64.b85decode(text))), dtype=torch.uint8)
    size = round(len(pixels) ** 0.5)
    return pixels.view(size, size)
