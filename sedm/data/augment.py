"""Augmentation: random symmetries and affine maps of pictures and masks, and random changes of colour.

The generator sees images of other optical density (`scale_density`), as other stains would give; segmentation networks
see channels of other mean and contrast (`jitter_channels`) or other amounts of stain (`jitter_stains`), as is usual for
them. Both may see each class in another density (`scale_class_density`), as other laboratories and patients have it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from sedm.data.patch_table import UNKNOWN

# optical density of haematoxylin, eosin and diaminobenzidine in red, green and blue; Ruifrok & Johnston 2001
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
DARKEST = 1 / 255  # brightness that black is taken for, whose density would be infinite


@dataclass(frozen=True)
class AffineRange:
    """How far a random affine map may go; each value is drawn uniformly (the scale uniformly in its logarithm)."""

    rotation: float = 180.0  # degrees either way
    scale: float = 1.25  # largest factor; the smallest is its inverse
    shear: float = 20.0  # degrees either way
    translation: float = 0.1  # of the picture's size, either way
    flips: bool = True  # left-right and up-down, each half of the time

    def draw(self, size: tuple[int, int], generator: torch.Generator) -> tuple[Float[Tensor, "2 2"], Float[Tensor, 2]]:
        """Draw the (matrix, shift) that ``warp`` takes, for a picture of ``size`` (h, w).

        >>> matrix, shift = AffineRange(shear=0, scale=1).draw((8, 8), torch.Generator().manual_seed(0))
        >>> torch.allclose(matrix @ matrix.T, torch.eye(2), atol=1e-6)
        True
        """
        flip = (torch.randint(2, (2,), generator=generator) * 2.0 - 1) if self.flips else torch.ones(2)
        uniform = torch.rand(5, generator=generator) * 2 - 1
        angle = math.radians(self.rotation * uniform[0])
        shear = math.tan(math.radians(self.shear * uniform[1]))
        rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = rotation @ torch.tensor([[1.0, shear], [0.0, 1.0]]) @ flip.diag()
        matrix = matrix / self.scale ** uniform[2]
        # turned with the picture, so that the translation is one of what is seen
        return matrix, matrix @ (self.translation * torch.tensor(size[::-1]) * uniform[3:])


def warp(
    picture: Shaped[Tensor, "channels h w"],
    matrix: Float[Tensor, "2 2"],
    shift: Float[Tensor, 2],
    mode: str = "bilinear",
    displacement: Float[Tensor, "2 h w"] | None = None,
) -> Shaped[Tensor, "channels h w"]:
    """Look at the picture through a map: the pixel at p shows what lies at ``matrix @ p + shift + displacement[p]``.

    Beyond its borders the picture is reflected.

    Args:
        picture: any type; whole numbers of 0…255 come back exactly with ``mode="nearest"``.
        matrix: acts on (x, y) in pixels from the centre.
        shift: (x, y) in pixels.
        displacement: (x, y) in pixels, of every pixel; None for an affine map alone.
        mode: ``bilinear`` for images, ``nearest`` for masks, which hold class indices.

    >>> mask = torch.arange(9, dtype=torch.uint8).view(1, 3, 3)
    >>> warp(mask, torch.tensor([[-1.0, 0.0], [0.0, 1.0]]), torch.zeros(2), mode="nearest")[0, 0]
    tensor([2, 1, 0], dtype=torch.uint8)
    """
    # grid_sample counts both axes from -1 to 1; a rotation is one only in pixels, so sizes go in and out.
    half = torch.tensor([picture.shape[2] / 2, picture.shape[1] / 2])
    normalised = torch.cat([matrix * half / half[:, None], (shift / half)[:, None]], dim=1)
    grid = F.affine_grid(normalised[None], [1, 1, *picture.shape[1:]], align_corners=False)
    if displacement is not None:
        grid = grid + (displacement / half[:, None, None]).permute(1, 2, 0)
    warped = F.grid_sample(picture[None].float(), grid, mode, "reflection", align_corners=False)[0]
    return (warped if picture.is_floating_point() else warped.round()).to(picture.dtype)


def draw_symmetries(n: int, kind: str, generator: torch.Generator) -> Bool[Tensor, "3 n"]:
    """Draw whether each of n pictures is mirrored left-right, up-down, and along its diagonal, each half of the time.

    Args:
        kind: "square" for all three, so each of the eight symmetries of a square is as likely; "mirror" for the first
            alone; "none".

    >>> draw_symmetries(4, "mirror", torch.Generator().manual_seed(0)).int().tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    """
    n_kept = {"none": 0, "mirror": 1, "square": 3}[kind]
    coins = torch.randint(2, (3, n), generator=generator).bool()
    coins[n_kept:] = False
    return coins


def apply_symmetries(pictures: Shaped[Tensor, "n ... h w"], coins: Bool[Tensor, "3 n"]) -> Shaped[Tensor, "n ... h w"]:
    """Mirror each picture as its coins say; along the diagonal only where h = w.

    >>> apply_symmetries(torch.tensor([[[1, 2], [3, 4]]]), torch.tensor([[True], [False], [False]])).tolist()
    [[[2, 1], [4, 3]]]
    """
    is_square = pictures.shape[-1] == pictures.shape[-2]
    mirrored = []
    for picture, (left_right, up_down, diagonal) in zip(pictures, coins.T.tolist(), strict=True):
        picture = picture.flip([axis for axis, is_flipped in ((-1, left_right), (-2, up_down)) if is_flipped])
        mirrored.append(picture.mT if diagonal and is_square else picture)
    return torch.stack(mirrored) if mirrored else pictures.clone()


def jitter_stains(
    images: Float[Tensor, "batch 3 h w"], strength: float, generator: torch.Generator
) -> Float[Tensor, "batch 3 h w"]:
    """Multiply the amounts of three stains by up to 1 ± strength, and add up to ± strength to them, image by image.

    Densities are taken apart by all three vectors, and no amount is cut off at 0, so that nothing but the change is
    lost.

    Args:
        images: in [0, 1], and so is what comes back.
        strength: 0 leaves colours alone.
        generator: on the CPU.

    Source: "HED-light" of Tellez et al. 2018, doi:10.1109/TMI.2018.2820199.

    >>> images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> torch.equal(jitter_stains(images, 0.0, torch.Generator().manual_seed(0)), images)
    True
    """
    if not strength:
        return images
    factors, shifts = strength * (2 * torch.rand(2, len(images), 3, 1, generator=generator).to(images.device) - 1)
    stains = F.normalize(torch.tensor(STAINS, device=images.device), dim=1).T
    densities = -images.clamp(min=DARKEST).log10().flatten(2)
    amounts = torch.linalg.solve(stains, densities)
    densities = stains @ (amounts * (1 + factors) + shifts)
    return (10**-densities).view(images.shape).clamp(0, 1)


def draw_density_factors(shape: tuple[int, ...], jitter: float, generator: torch.Generator) -> Float[Tensor, "*n 3"]:
    """Draw factors of the optical density, from exp(−jitter) to exp(jitter), uniform in their logarithm.

    Args:
        shape: of what has factors of its own for each channel: (n,) for n images, (n, n_classes) for their classes.

    >>> draw_density_factors((2,), 0.0, torch.Generator()).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    return torch.exp(jitter * (2 * torch.rand(*shape, 3, generator=generator) - 1))


def scale_density(images: Float[Tensor, "n ... 3 h w"], factors: Float[Tensor, "n 3"]) -> Float[Tensor, "n ... 3 h w"]:
    """Multiply the optical density of each channel, as more or less stain would; white stays white.

    The optical density of a pixel of brightness I in (0, 1] is −log I, so a factor on it is a power of I.

    Args:
        images: in [−1, 1].
        factors: of each item and channel.

    >>> scale_density(torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1), torch.full((1, 3), 2.0)).flatten().tolist()
    [1.0, -0.5, -1.0]
    """
    exponents = factors.view(len(images), *[1] * (images.ndim - 4), 3, 1, 1)
    return 2 * ((images + 1) / 2).clamp(0, 1) ** exponents - 1


def scale_class_density(
    images: Float[Tensor, "n 3 h w"], masks: UInt8[Tensor, "n h w"], factors: Float[Tensor, "n n_classes 3"]
) -> Float[Tensor, "n 3 h w"]:
    """Multiply the optical density of each channel by a factor of each class, softly where classes meet.

    The logarithm of a pixel's factor is the mean over the 3 × 3 pixels around it; where nobody knows the class it is
    0. White stays white.

    Args:
        images: in [0, 1].

    >>> images, masks = torch.full((1, 3, 1, 6), 0.5), torch.tensor([[[0, 0, 0, 1, 1, 1]]], dtype=torch.uint8)
    >>> scale_class_density(images, masks, torch.tensor([1.0, 2.0]).view(1, 2, 1).expand(1, 2, 3))[0, 0, 0]
    tensor([0.5000, 0.5000, 0.4176, 0.3328, 0.2500, 0.2500])
    """
    known = masks != UNKNOWN
    of_pixels = factors.log().gather(1, masks.long().where(known, 0).flatten(1)[..., None].expand(-1, -1, 3))
    of_pixels = of_pixels.mT.unflatten(2, masks.shape[1:]) * known[:, None]
    return images.clamp(0, 1) ** _mean_of_neighbours(of_pixels).exp()


def _mean_of_neighbours(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Compute the mean of the 3 × 3 pixels around each, those inside the map; eight times faster than `avg_pool2d`."""
    for axis in (2, 3):
        n, total = maps.shape[axis], maps.clone()
        total.narrow(axis, 1, n - 1).add_(maps.narrow(axis, 0, n - 1))
        total.narrow(axis, 0, n - 1).add_(maps.narrow(axis, 1, n - 1))
        count = torch.full((n,), min(n, 3.0), device=maps.device)
        if n > 2:
            count[[0, -1]] = 2
        maps = total / (count[:, None] if axis == 2 else count)
    return maps


def jitter_channels(
    images: Float[Tensor, "batch 3 h w"], strength: float, generator: torch.Generator
) -> Float[Tensor, "batch 3 h w"]:
    """Stretch each channel of each image about its mean by up to 1 ± strength, and shift it by up to ± strength / 2.

    Args:
        images: in [0, 1], and so is what comes back.
        strength: 0 leaves colours alone.
        generator: on the CPU.

    >>> jitter_channels(torch.full((1, 3, 2, 2), 0.5), 0.1, torch.Generator().manual_seed(0)).std((2, 3)).max().item()
    0.0
    """
    stretch, shift = strength * (2 * torch.rand(2, len(images), 3, 1, 1, generator=generator).to(images.device) - 1)
    if not strength:
        return images
    mean = images.mean((2, 3), keepdim=True)
    return (mean + (images - mean) * (1 + stretch) + shift / 2).clamp(0, 1)
