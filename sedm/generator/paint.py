"""Paint: each pixel of a layout in the colours that its class has in a style, and in this noisy image.

    c_k    mean colour of class k in the style images
    μ_k    mean colour of class k in the image x_0 that is drawn,  μ = c + d,  d ~ N(0, P)
    x̄_k    mean of x_t over the n_k pixels of class k,             x̄ = α·μ + (σ / √n)·noise

    E[d | x_t] = P·(P + R)⁻¹·(x̄ / α − c),   R = diag(σ² / (α²·n_k))

Images of one style differ in the colours of their classes, and P says how. The mean of x_t over a class tells its
colour in this image long before any pixel shows it. A network that has to find it out by convolutions answers it too
weakly, and the images it draws have classes that are too alike. Given P, which is counted in training, the posterior
mean of the colours is known in closed form (Kalman 1960, doi:10.1115/1.3662552), and the network predicts the rest.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sedm.config import N_COLOURS

MEMORY = 0.99  # of a training step, for the deviations seen in earlier ones
LEAST_PIXELS = 16  # of a class in an image whose deviation counts


def class_colours(style: Float[Tensor, "batch n_tokens dim"]) -> Float[Tensor, "batch k 6"]:
    """Read mean and deviation of red, green and blue of each class off a style; last, those of the whole images."""
    return torch.cat([style[:, 1:, :N_COLOURS], style[:, :1, :N_COLOURS]], dim=1).float()


def paint(shares: Float[Tensor, "batch k h w"], colours: Float[Tensor, "batch k c"]) -> Float[Tensor, "batch c h w"]:
    """Paint each pixel in the values of its class, by the share that a class has in it.

    Pixels that nobody knows, the last channel of ``shares``, take those of the whole style images.
    """
    with torch.autocast(shares.device.type, enabled=False):  # colours stay what they are
        return (colours.float().mT @ shares.float().flatten(2)).unflatten(2, shares.shape[2:])


class ColourDeviations(nn.Module):
    """How far colours of classes lie from those of their style: P above, and what it makes of a noisy image.

    P is of all classes and of red, green and blue together, since a darker image is darker in all of them. Before any
    image was seen it is zero, and expected deviations are.

    Args:
        n_classes: classes of a layout, the one for pixels that nobody knows counted in.

    >>> deviations = ColourDeviations(2)
    >>> shares = torch.zeros(1, 2, 8, 8)
    >>> shares[:, 0, :4], shares[:, 1, 4:] = 1, 1
    >>> x_0, of_style = shares[:, :1].expand(-1, 3, -1, -1), torch.zeros(1, 2, 3)  # the first class is brighter by 1
    >>> deviations.observe(x_0, shares, of_style, torch.tensor([True]))
    >>> deviations(x_0, torch.ones(1), torch.full((1,), 1e-3), shares, of_style).round().tolist()
    [[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]
    """

    def __init__(self, n_classes: int):
        super().__init__()
        self.register_buffer("products", torch.zeros(3 * n_classes, 3 * n_classes))
        self.register_buffer("counts", torch.zeros(3 * n_classes))

    @torch.no_grad()
    def observe(
        self,
        x_0: Float[Tensor, "batch 3 h w"],
        shares: Float[Tensor, "batch k h w"],
        colours: Float[Tensor, "batch k 3"],
        is_counted: Bool[Tensor, " batch"],
        memory: float = MEMORY,
    ) -> None:
        """Count the deviations of clean images from the colours of their styles; earlier ones fade by ``memory``."""
        n_pixels = shares.flatten(2).sum(2)
        is_shown = ((n_pixels >= LEAST_PIXELS) & is_counted[:, None])[..., None].expand(-1, -1, 3)
        deviations = torch.where(is_shown, _means(x_0, shares, n_pixels) - colours.float(), 0).flatten(1)
        self.products.mul_(memory).add_(deviations.mT @ deviations)
        self.counts.mul_(memory).add_(is_shown.flatten(1).sum(0))

    def forget(self) -> None:
        """Forget all images that were seen."""
        self.products.zero_()
        self.counts.zero_()

    def covariance(self) -> Float[Tensor, "n n"]:
        """Compute P. Where few images show both of two classes, it tells too weakly that they go together."""
        # counts of pairs of classes would tell better, but could make a variance negative
        scale = self.counts.float().clamp(min=1e-6).rsqrt()
        return self.products.float() * scale[:, None] * scale

    @torch.no_grad()
    def forward(
        self,
        x_t: Float[Tensor, "batch 3 h w"],
        alpha: Float[Tensor, " batch"],
        sigma: Float[Tensor, " batch"],
        shares: Float[Tensor, "batch k h w"],
        colours: Float[Tensor, "batch k 3"],
    ) -> Float[Tensor, "batch k 3"]:
        """Return the deviation that is to be expected of each class's colour in the image behind ``x_t``."""
        with torch.autocast(x_t.device.type, enabled=False):
            n_pixels = shares.flatten(2).sum(2)
            roots = (n_pixels.sqrt() / sigma.float()[:, None])[..., None].expand(-1, -1, 3)  # 0 for a class not there
            seen = roots * (_means(x_t, shares, n_pixels) - alpha.float()[:, None, None] * colours.float())
            seen, roots = seen.flatten(1), (roots * alpha.float()[:, None, None]).flatten(1)
            # R⁻¹ is the square of the roots; so written, nothing is divided by α or n, which may be 0
            p = self.covariance()
            inner = torch.eye(len(p), device=p.device) + roots[:, :, None] * p * roots[:, None]
            weights = roots * torch.linalg.solve(inner, seen)
            return (weights @ p).unflatten(1, (-1, 3))


def _means(images, shares, n_pixels):
    sums = shares.float().flatten(2) @ images.float().flatten(2).mT
    return sums / n_pixels.clamp(min=1e-6)[..., None]
