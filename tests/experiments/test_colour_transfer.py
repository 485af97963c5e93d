"""Colour transfer against colours that were planted."""

import numpy as np
import pytest
import torch
from kornia.color import rgb_to_lab

from sedm.experiments.colour_transfer import LOW_FREQUENCIES, fourier, macenko, reinhard
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
    own = stained(amounts[:6])
    moved = macenko(own, stained(amounts[6:], **other), own)
    assert difference(moved, stained(amounts[:6], **other)) < 4 < 15 < difference(moved, own)
    angles = np.degrees(np.arccos((stain_vectors(moved) * stain_vectors(stained(amounts[6:], **other))).sum(1)))
    assert angles.max() < 2


def test_an_image_that_shows_one_stain_alone_moves_as_its_patient_does(amounts):
    """Fitted on itself, an image of nothing but eosin would be taken for one of other stains."""
    other = {"haematoxylin": np.array([0.5, 0.75, 0.45]), "eosin": np.array([0.2, 0.95, 0.05]), "strength": (1.4, 0.8)}
    stroma = amounts[:1].copy()
    stroma[..., 0] = 0.01
    own = torch.cat([stained(stroma), stained(amounts[1:6])])
    wanted, references = stained(stroma, **other), stained(amounts[6:], **other)
    assert difference(macenko(own[:1], references, own), wanted) < 4
    assert difference(macenko(own[:1], references, own[:1]), wanted) > 10
    assert macenko(own, references, own)[:1].equal(macenko(own[:1], references, own))


def test_reinhard_moves_the_statistics_of_a_patient(amounts):
    own, references = stained(amounts[:6]), stained(amounts[6:], strength=(0.7, 0.6))
    found, wanted = (
        rgb_to_lab(one.float() / 255).transpose(0, 1).flatten(1) for one in (reinhard(own, references, own), references)
    )
    torch.testing.assert_close(found.mean(1), wanted.mean(1), atol=1.5, rtol=0)
    torch.testing.assert_close(found.std(1), wanted.std(1), atol=2.5, rtol=0)
    assert reinhard(own[:2], references, own).equal(reinhard(own, references, own)[:2])  # whatever is beside it


def test_fourier_changes_low_frequencies_by_the_ratio_of_both_sides_and_no_others():
    generator = torch.Generator().manual_seed(0)
    own = torch.randint(80, 140, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    references = (own.float() * 1.25).round().to(torch.uint8)  # brighter, and of more contrast
    before, after = (torch.fft.fft2(one.float()) for one in (own, fourier(own, references, own)))
    frequencies = torch.fft.fftfreq(32).abs()
    is_low = (frequencies[:, None] <= LOW_FREQUENCIES) & (frequencies <= LOW_FREQUENCIES)
    ratio = after.abs() / before.abs()
    assert (ratio[..., is_low].median() - 1.25).abs() < 0.04  # grey levels are rounded
    assert (ratio[..., ~is_low].median() - 1).abs() < 0.01
    assert (fourier(own, own, own).int() - own.int()).abs().max() <= 1


@pytest.mark.parametrize("transfer", [reinhard, macenko, fourier])
def test_what_is_where_stays_and_a_patient_moved_to_itself_does_not_change(amounts, transfer):
    images = stained(amounts[:6])
    moved = transfer(images, stained(amounts[6:], strength=(1.3, 0.7)), images)
    assert moved.dtype == torch.uint8
    assert moved.shape == images.shape
    for before, after in zip(images.float(), moved.float(), strict=True):
        assert torch.corrcoef(torch.stack([before[0].flatten(), after[0].flatten()]))[0, 1] > 0.9
    assert (transfer(images, images, images).int() - images.int()).abs().max() <= 1


def test_blank_images_are_left_alone(amounts):
    blank = torch.full((2, 3, 16, 16), 250, dtype=torch.uint8)
    assert macenko(blank, stained(amounts), blank).equal(blank)
    assert macenko(stained(amounts), blank, stained(amounts)).equal(stained(amounts))
    assert reinhard(blank, stained(amounts), blank).float().flatten(2).std(2).max() < 1e-6  # flat stays flat
