"""Colour transfer against colours that were planted."""

import numpy as np
import pytest
import torch
from kornia.color import rgb_to_lab

from sedm.experiments.colour_transfer import macenko, reinhard
from sedm.fidelity import stain_vectors

HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def stained(amounts, haematoxylin=HAEMATOXYLIN, eosin=EOSIN, strength=(1.0, 1.0)):
    """Images of given amounts (n, h, w, 2) of the two stains."""
    vectors = np.stack([one / np.linalg.norm(one) for one in (haematoxylin, eosin)])
    images = 255 * 10 ** -(amounts * strength @ vectors)
    return torch.from_numpy(images.round().astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def amounts():
    random = np.random.default_rng(0)
    nucleus = random.random((12, 16, 16, 1)) < 0.3
    return np.where(nucleus, [0.6, 0.02], [0.02, 0.5]) * random.uniform(0.3, 1, (12, 16, 16, 2))


def difference(first, second):
    """Mean over pixels and channels, grey levels."""
    return (first.int() - second.int()).abs().float().mean().item()


def test_macenko_draws_the_same_tissue_in_the_stains_of_the_references(amounts):
    other = {"haematoxylin": np.array([0.5, 0.75, 0.45]), "eosin": np.array([0.2, 0.95, 0.05]), "strength": (1.4, 0.8)}
    moved = macenko(stained(amounts[:6]), stained(amounts[6:], **other))
    assert difference(moved, stained(amounts[:6], **other)) < 4 < 15 < difference(moved, stained(amounts[:6]))
    angles = np.degrees(np.arccos((stain_vectors(moved) * stain_vectors(stained(amounts[6:], **other))).sum(1)))
    assert angles.max() < 2


def test_reinhard_gives_the_statistics_of_the_references(amounts):
    references = stained(amounts[6:], strength=(0.7, 0.6))
    moved = reinhard(stained(amounts[:6]), references)
    wanted = rgb_to_lab(references.float() / 255).transpose(0, 1).flatten(1)
    for image in moved:  # each of them, not only all together
        found = rgb_to_lab(image[None].float() / 255)[0].flatten(1)
        torch.testing.assert_close(found.mean(1), wanted.mean(1), atol=1.5, rtol=0)
        torch.testing.assert_close(found.std(1), wanted.std(1), atol=2.5, rtol=0)


@pytest.mark.parametrize("transfer", [reinhard, macenko])
def test_what_is_where_stays_and_nothing_leaves_the_range(amounts, transfer):
    images = stained(amounts[:6])
    moved = transfer(images, stained(amounts[6:], strength=(1.3, 0.7)))
    assert moved.dtype == torch.uint8
    assert moved.shape == images.shape
    for before, after in zip(images.float(), moved.float(), strict=True):
        assert torch.corrcoef(torch.stack([before[0].flatten(), after[0].flatten()]))[0, 1] > 0.9


def test_blank_images_are_left_alone(amounts):
    blank = torch.full((2, 3, 16, 16), 250, dtype=torch.uint8)
    assert macenko(blank, stained(amounts)).equal(blank)
    assert macenko(stained(amounts), blank).equal(stained(amounts))
    assert reinhard(blank, stained(amounts)).float().flatten(2).std(2).max() < 1e-6  # flat stays flat
