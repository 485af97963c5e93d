"""What the page shows, as pure functions: one picture, a map of styles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float, UInt8
from torch import Tensor

from sedm.generator.pipeline import SEDMPipeline, noise_generators
from sedm.sharing.pretrained import Pretrained
from sedm.styles.bank import separating_axes


def render_mix(
    pipeline: SEDMPipeline,
    layout: UInt8[Tensor, "h w"],
    styles: Float[Tensor, "n n_tokens dim"],
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

    >>> import torch
    >>> from sedm.config import ModelConfig
    >>> from sedm.generator.denoiser import build_model
    >>> model = build_model(ModelConfig((8, 16), style_dim=4, style_channels=(8,)), 2, image_size=16, seed=0)
    >>> layout = torch.zeros(16, 16, dtype=torch.uint8)
    >>> render_mix(SEDMPipeline.from_model(model), layout, torch.eye(4)[:2, None], [0.3, 0.7], steps=2).shape
    torch.Size([3, 16, 16])
    """
    pipeline.set_progress_bar_config(disable=True)
    style = pipeline.mix_styles(styles, weights)
    generators = noise_generators(seed, [0])
    return pipeline(layout[None], style, generators, steps, guidance_scale, "pt", before_step).images[0]


def project_styles(pretrained: Pretrained, styles: Float[Tensor, "n n_tokens dim"]) -> Float[Tensor, "n 2"]:
    """Place styles, or the mean of their tokens, on the two axes that tell the bank's groups apart best.

    The bank's own styles fill [−1, 1].
    """
    axes = separating_axes(pretrained.styles.embeddings, pretrained.styles.groups)
    known = pretrained.group_styles.mean(1) @ axes
    least, most = known.amin(0), known.amax(0)
    return (2 * (styles.mean(1) @ axes) - least - most) / (most - least).clamp(min=1e-6)
