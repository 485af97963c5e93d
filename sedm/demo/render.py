"""What the page shows, as pure functions: one picture, a walk from style to style, a map of styles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sedm.pipeline import SEDMPipeline, noise_generators
from sedm.pretrained import Pretrained
from sedm.styles import separating_axes


def render_mix(
    pipeline: SEDMPipeline,
    layout: UInt8[Tensor, "h w"],
    styles: Float[Tensor, "n ..."],
    weights: Sequence[float],
    guidance_scale: float = 1.0,
    steps: int = 12,
    seed: int = 0,
    before_step: Callable[[], None] | None = None,
) -> UInt8[Tensor, "3 h w"]:
    """The image of ``layout`` in the weighted mixture of ``styles``; the same arguments give the same image.

    With all weight on one style it is exactly the image of that style.

    Args:
        layout: class indices, or ``UNKNOWN`` where anything may be.
        weights: one a style, 0 or more; only their ratios count.
        guidance_scale: 1 means no guidance.
        steps: solver steps, each one network evaluation (two when guided).
        seed: of the noise that the image starts from, 0 or more.
        before_step: called before each solver step; what it raises ends the rendering there.

    Raises:
        ValueError: what ``SEDMPipeline.mix_styles`` and ``SEDMPipeline.__call__`` refuse.

    >>> from sedm.config import ModelConfig
    >>> from sedm.model import build_model
    >>> model = build_model(ModelConfig((8, 16), style_dim=4, style_channels=(8,)), 2, image_size=16, seed=0)
    >>> layout = torch.zeros(16, 16, dtype=torch.uint8)
    >>> render_mix(SEDMPipeline.from_model(model), layout, torch.eye(4)[:2], [0.3, 0.7], steps=2).shape
    torch.Size([3, 16, 16])
    """
    pipeline.set_progress_bar_config(disable=True)
    style = pipeline.mix_styles(styles, weights)
    generators = noise_generators(seed, [0])
    return pipeline(layout[None], style[None], generators, steps, guidance_scale, "pt", before_step).images[0]


def render_walk(
    pipeline: SEDMPipeline,
    layout: UInt8[Tensor, "h w"],
    ends: Float[Tensor, "2 ..."],
    n: int,
    guidance_scale: float = 1.0,
    steps: int = 12,
    seed: int = 0,
    before_step: Callable[[], None] | None = None,
) -> UInt8[Tensor, "n 3 h w"]:
    """``n`` images from the first style to the second in even steps, all from the noise of ``render_mix``.

    They are sampled as one batch, which is faster than one by one; the same to within rounding.

    Raises:
        ValueError: what ``SEDMPipeline.__call__`` refuses.
    """
    pipeline.set_progress_bar_config(disable=True)
    shares = torch.linspace(0, 1, n).tolist()
    styles = torch.stack([pipeline.mix_styles(ends, [1 - share, share]) for share in shares])
    generators = noise_generators(seed, [0] * n)
    layouts = layout.expand(n, -1, -1)
    return pipeline(layouts, styles, generators, steps, guidance_scale, "pt", before_step).images


def project_styles(pretrained: Pretrained, styles: Float[Tensor, "n ..."]) -> Float[Tensor, "n 2"]:
    """Where styles lie on the two axes that tell the bank's groups apart best; the bank's own fill [−1, 1]."""
    axes = separating_axes(pretrained.styles.embeddings, pretrained.styles.groups)
    known = _flat(pretrained.group_styles) @ axes
    least, most = known.amin(0), known.amax(0)
    return (2 * (_flat(styles) @ axes) - least - most) / (most - least).clamp(min=1e-6)


def _flat(styles: Float[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
    return styles.flatten(1, -2).mean(1) if styles.ndim > 2 else styles  # of tokens, their mean
