"""Symmetries and recolouring against brute force and closed forms."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from sedm.config import build_config
from sedm.data.augment import (
    STAINS,
    apply_symmetries,
    draw_density_factors,
    draw_symmetries,
    jitter_stains,
    scale_class_density,
    scale_density,
)
from sedm.data.patch_table import UNKNOWN


def generator():
    return torch.Generator().manual_seed(0)


def test_the_eight_symmetries_of_the_square_are_turns_and_a_mirror_image():
    picture = torch.rand(3, 5, 5, generator=generator())
    turns = [torch.rot90(one, k, (-2, -1)) for one in (picture, picture.flip(-1)) for k in range(4)]
    coins = torch.tensor([[bool(i & bit) for i in range(8)] for bit in (1, 2, 4)])
    found = apply_symmetries(picture.expand(8, -1, -1, -1), coins)
    matches = [[torch.equal(one, turn) for turn in turns] for one in found]
    assert torch.tensor(matches).int().sum(0).tolist() == [1] * 8
    assert torch.tensor(matches).int().sum(1).tolist() == [1] * 8


def test_each_symmetry_is_as_likely():
    coins = draw_symmetries(8000, "square", generator())
    counts = torch.bincount(coins.int().T @ torch.tensor([1, 2, 4], dtype=torch.int32), minlength=8)
    assert ((counts - 1000).abs() < 5 * math.sqrt(1000)).all()


@pytest.mark.parametrize(("kind", "n_drawn"), [("none", 0), ("mirror", 1), ("square", 3)])
def test_only_the_symmetries_of_the_kind_are_drawn(kind, n_drawn):
    coins = draw_symmetries(100, kind, generator())
    assert coins.any(dim=1).tolist() == [True] * n_drawn + [False] * (3 - n_drawn)


@pytest.mark.slow
def test_a_picture_that_is_not_square_keeps_its_shape():
    pictures = torch.rand(4, 3, 5, generator=generator())
    found = apply_symmetries(pictures, torch.ones(3, 4, dtype=torch.bool))
    assert_close(found, pictures.flip(-1, -2))


def test_classes_are_recoloured_by_their_own_factors_softly_where_they_meet():
    """By a loop over pixels and their neighbours; where nobody knows the class, density stays as it is."""
    generator = torch.Generator().manual_seed(0)
    images, factors = torch.rand(2, 3, 5, 6, generator=generator), torch.rand(2, 3, 3, generator=generator) + 0.5
    masks = torch.randint(3, (2, 5, 6), generator=generator).to(torch.uint8)
    masks[0, :2] = UNKNOWN
    found = scale_class_density(images, masks, factors)
    for i, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(6)).tolist():
        near = masks[i, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].flatten().tolist()
        logarithms = torch.stack([torch.zeros(3) if k == UNKNOWN else factors[i, k].log() for k in near])
        assert_close(found[i, :, y, x], images[i, :, y, x] ** logarithms.mean(dim=0).exp())


def test_recolouring_scales_the_optical_density():
    images = torch.rand(2, 4, 3, 6, 6, generator=generator()) * 1.9 - 0.95
    factors = torch.tensor([[0.5, 1.0, 2.0], [1.0, 1.5, 0.8]])
    before, after = (-torch.log((x + 1) / 2) for x in (images, scale_density(images, factors)))
    assert_close(after, before * factors[:, None, :, None, None])


def test_white_stays_white_and_black_black():
    extremes = torch.tensor([1.0, -1.0, 1.0000001]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    found = scale_density(extremes, draw_density_factors((3,), 0.5, generator()))
    assert_close(found, extremes.clamp(-1, 1))


def test_stains_are_scaled_and_shifted_image_by_image():
    """Amounts of the three stains, taken apart by numpy: the same factor and shift at every pixel of an image."""
    vectors = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    images = torch.rand(3, 3, 6, 6, generator=generator()) * 0.3 + 0.2
    found = jitter_stains(images, 0.1, generator())
    before, after = (
        -np.log10(x.double().numpy()).transpose(0, 2, 3, 1) @ np.linalg.inv(vectors) for x in (images, found)
    )
    for image in range(3):
        for stain in range(3):
            x, y = before[image, ..., stain].ravel(), after[image, ..., stain].ravel()
            factor, shift = np.polyfit(x, y, 1)
            assert np.abs(factor * x + shift - y).max() < 1e-4
            assert 0.9 <= factor <= 1.1
            assert -0.1 <= shift <= 0.1
    assert len(np.unique(np.round(after - before, 3))) > 9  # images and stains differ


def test_stains_of_strength_zero_and_of_black_and_white():
    extremes = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    assert torch.equal(jitter_stains(extremes, 0.0, generator()), extremes)
    found = jitter_stains(extremes, 0.3, generator())
    assert found.isfinite().all()
    assert ((found >= 0) & (found <= 1)).all()


def test_exponents_are_symmetric_about_one():
    logs = draw_density_factors((4000,), 0.4, generator()).log()
    assert logs.abs().max() <= 0.4
    assert abs(logs.mean()) < 4 * 0.4 / math.sqrt(3 * 12000)
    assert abs(logs.std() - 0.4 / math.sqrt(3)) < 0.01


def test_photographs_are_never_turned_upside_down():
    for study, kind in [("tissue", "square"), ("ebhi", "square"), ("flowers", "mirror"), ("pets", "mirror")]:
        for preset in ("smoke", "quick", "full"):
            assert build_config(study, preset).training.symmetries == kind
