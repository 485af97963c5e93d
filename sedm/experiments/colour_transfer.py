"""Colour transfer: images of annotated groups in the colours of others, the classical rival of generated images.

Both sides are fitted on all images of a group, never on one: an image that happens to show little but stroma would be
taken for a patient whose stains are like that.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sedm.fidelity.stains import optical_density, stain_vectors

STRONGEST = 99.0  # percentile of a stain's amounts that is matched; the maximum would be a single pixel
LOW_FREQUENCIES = 0.05  # of the image's side: as far from the middle of the spectrum amplitudes are exchanged


def reinhard(
    images: UInt8[Tensor, "n 3 h w"], references: UInt8[Tensor, "m 3 h w"], own: UInt8[Tensor, "k 3 h w"]
) -> UInt8[Tensor, "n 3 h w"]:
    """Move the mean and the standard deviation of L*, a* and b* from those of ``own`` to those of ``references``.

    All images are shifted and stretched alike, channel by channel; what leaves the range of RGB is clipped.

    Args:
        references: of the group whose colours are wanted.
        own: of the group that the images are of.

    Source: Reinhard et al. 2001, doi:10.1109/38.946629, there in lαβ, here in CIE 1976 L*a*b*.

    >>> images = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    >>> (reinhard(images[:1], images, images).int() - images[:1].int()).abs().max().item() <= 1
    True
    """
    from kornia.color import lab_to_rgb, rgb_to_lab

    lab, wanted, found = (
        rgb_to_lab(side.float() / 255).transpose(0, 1).flatten(1)[..., None] for side in (images, references, own)
    )
    deviation = found.std(1, keepdim=True).clamp(min=1e-3)  # a flat channel stays flat
    lab = (lab - found.mean(1, keepdim=True)) / deviation * wanted.std(1, keepdim=True) + wanted.mean(1, keepdim=True)
    return _to_bytes(255 * lab_to_rgb(lab.view(3, len(images), *images.shape[2:]).transpose(0, 1)))


def macenko(
    images: UInt8[Tensor, "n 3 h w"], references: UInt8[Tensor, "m 3 h w"], own: UInt8[Tensor, "k 3 h w"]
) -> UInt8[Tensor, "n 3 h w"]:
    """Move haematoxylin and eosin from those of ``own`` to those of ``references``, in colour and in strength.

    The amounts of the two stains at every pixel are kept, scaled so that the 99th percentiles of both groups agree, and
    drawn with the stain vectors of the references; what two stains do not explain stays as it is, so that a group moved
    to itself does not change. Images come back unchanged where one of the groups is hardly stained.

    Args:
        references, own: as in `reinhard`.

    Source: Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250; `sedm.fidelity.stains.stain_vectors`.

    >>> colours = torch.tensor([[83, 59, 148], [231, 89, 172]], dtype=torch.uint8)
    >>> images = colours.repeat(50, 1).view(100, 3, 1, 1).expand(-1, -1, 2, 2)
    >>> (macenko(images[:4], images, images).int() - images[:4].int()).abs().max().item() <= 1
    True
    """
    vectors, wanted_vectors = stain_vectors(own), stain_vectors(references)
    if np.isnan([vectors, wanted_vectors]).any():
        return images
    strength = np.percentile(_amounts(optical_density(own), vectors), STRONGEST, axis=0)
    wanted_strength = np.percentile(_amounts(optical_density(references), wanted_vectors), STRONGEST, axis=0)
    densities = optical_density(images)
    amounts = _amounts(densities, vectors)
    rest = densities - amounts @ vectors
    densities = amounts * (wanted_strength / np.maximum(strength, 1e-6)) @ wanted_vectors + rest
    pixels = torch.from_numpy(255 * 10**-densities).view(len(images), *images.shape[2:], 3)
    return _to_bytes(pixels.permute(0, 3, 1, 2))


def fourier(
    images: UInt8[Tensor, "n 3 h w"], references: UInt8[Tensor, "m 3 h w"], own: UInt8[Tensor, "k 3 h w"]
) -> UInt8[Tensor, "n 3 h w"]:
    """Scale the low frequencies of images as those of ``references`` differ from those of ``own``; keep all phases.

    Args:
        references, own: as in `reinhard`; of each side the mean amplitude over its images counts.

    Source: Yang & Soatto 2020 (arXiv 2004.05498), there between two images.

    >>> images = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    >>> (fourier(images[:1], images, images).int() - images[:1].int()).abs().max().item() <= 1
    True
    """
    spectrum, wanted, found = (torch.fft.fft2(side.float()) for side in (images, references, own))
    height, width = images.shape[2:]
    rows, columns = torch.fft.fftfreq(height).abs(), torch.fft.fftfreq(width).abs()
    is_low = (rows[:, None] <= LOW_FREQUENCIES) & (columns <= LOW_FREQUENCIES)
    ratio = wanted.abs().mean(0) / found.abs().mean(0).clamp(min=1e-6)
    return _to_bytes(torch.fft.ifft2(spectrum * torch.where(is_low, ratio, 1)).real)


def _amounts(densities: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Solve for the amount of each stain at each pixel, (pixels, 2), by least squares, never negative."""
    return np.maximum(densities @ np.linalg.pinv(vectors), 0)


def _to_bytes(images: Tensor) -> UInt8[Tensor, "n 3 h w"]:
    return images.round().clamp(0, 255).to(torch.uint8).contiguous()
