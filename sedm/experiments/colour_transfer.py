"""Colour transfer: images of annotated groups in the colours of others, the classical rival of generated images."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sedm.fidelity.stains import optical_density, stain_vectors

STRONGEST = 99.0  # percentile of a stain's amounts that is matched; the maximum would be a single pixel


def reinhard(images: UInt8[Tensor, "n 3 h w"], references: UInt8[Tensor, "m 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Give images the mean and the standard deviation of L*, a* and b* that the references have, taken as one.

    Each image is shifted and stretched as a whole, channel by channel; what leaves the range of RGB is clipped.

    Source: Reinhard et al. 2001, doi:10.1109/38.946629, there in lαβ, here in CIE 1976 L*a*b*.

    >>> images = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    >>> (reinhard(images[:1], images[:1]).int() - images[:1].int()).abs().max().item() <= 1
    True
    """
    from kornia.color import lab_to_rgb, rgb_to_lab

    lab, reference_lab = (rgb_to_lab(side.float() / 255).flatten(2) for side in (images, references))
    reference_lab = reference_lab.transpose(0, 1).flatten(1)
    deviation = lab.std(2, keepdim=True).clamp(min=1e-3)  # a flat channel stays flat
    lab = (lab - lab.mean(2, keepdim=True)) / deviation * reference_lab.std(1)[:, None]
    lab = lab + reference_lab.mean(1)[:, None]
    return _to_bytes(255 * lab_to_rgb(lab.view(images.shape)))


def macenko(images: UInt8[Tensor, "n 3 h w"], references: UInt8[Tensor, "m 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Give images the haematoxylin and eosin of the references, in colour and in strength.

    Both sides are taken as one slide each: the amounts of the two stains at every pixel are kept, scaled so that their
    99th percentiles agree, and drawn with the stain vectors of the references. Images come back unchanged where one
    of the sides is hardly stained.

    Source: Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250; `sedm.fidelity.stains.stain_vectors`.

    >>> colours = torch.tensor([[83, 59, 148], [231, 89, 172]], dtype=torch.uint8)
    >>> images = colours.repeat(50, 1).view(100, 3, 1, 1).expand(-1, -1, 2, 2)
    >>> (macenko(images, images).int() - images.int()).abs().max().item() <= 1
    True
    """
    vectors, reference_vectors = stain_vectors(images), stain_vectors(references)
    if np.isnan([vectors, reference_vectors]).any():
        return images
    amounts, reference_amounts = _amounts(images, vectors), _amounts(references, reference_vectors)
    strength, reference_strength = (np.percentile(side, STRONGEST, axis=0) for side in (amounts, reference_amounts))
    densities = amounts * (reference_strength / np.maximum(strength, 1e-6)) @ reference_vectors
    pixels = torch.from_numpy(255 * 10**-densities).view(len(images), *images.shape[2:], 3)
    return _to_bytes(pixels.permute(0, 3, 1, 2))


def _amounts(images: Tensor, vectors: np.ndarray) -> np.ndarray:
    """Solve for the amount of each stain at each pixel, (pixels, 2), by least squares, never negative."""
    return np.maximum(optical_density(images) @ np.linalg.pinv(vectors), 0)


def _to_bytes(images: Tensor) -> UInt8[Tensor, "n 3 h w"]:
    return images.round().clamp(0, 255).to(torch.uint8).contiguous()
