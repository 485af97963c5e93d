"""Random-field layouts against closed forms: the bivariate normal, Rice's formula, covariances known beforehand."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import foldnorm, multivariate_normal, norm

from sedm.layouts import RandomFieldPrior
from sedm.layouts.gaussian_fields import level_cut_covariance
from sedm.layouts.morphology import contacts, perimeter_per_area, two_point_correlation
from sedm.layouts.random_field import _chain


def nested_discs(radius, n=12, size=64, inner=0.5):
    """Discs of class 1 on a jittered square grid, each around a disc of class 2; ground of class 0."""
    generator = torch.Generator().manual_seed(0)
    pitch = 2.8 * radius
    masks = torch.zeros(n, size, size, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for mask in masks:
        start = pitch * torch.rand(2, generator=generator)
        for i in range(-1, math.ceil(size / pitch) + 1):
            for j in range(-1, math.ceil(size / pitch) + 1):
                at = start + pitch * torch.tensor([i, j]) + 0.15 * pitch * torch.randn(2, generator=generator)
                distance = ((y - at[0]) ** 2 + (x - at[1]) ** 2).sqrt()
                mask[distance < radius] = 1
                mask[distance < inner * radius] = 2
    return masks


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.4, 0.95])
def test_the_covariance_of_a_cut_is_that_of_the_bivariate_normal(fraction, rho):
    """scipy integrates the normal of this covariance over both points lying above the level."""
    level = norm.isf(fraction)
    chance = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([-level, -level])
    assert level_cut_covariance(np.array([chance]), fraction)[0] == pytest.approx(rho, abs=2e-3)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("fold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rho", [0.3, 0.7, 0.95])
def test_the_covariance_of_a_folded_cut_is_that_of_the_bivariate_normal(fraction, fold, rho):
    level = foldnorm.isf(fraction, fold)
    both = multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    low, high = -level - fold, level - fold
    inside = both.cdf([high, high]) - 2 * both.cdf([low, high]) + both.cdf([low, low])  # both between the two levels
    chance = 1 - 2 * (1 - fraction) + inside
    assert level_cut_covariance(np.array([chance]), fraction, fold)[0] == pytest.approx(rho, abs=4e-3)


def test_chances_out_of_reach_are_cut_off():
    assert level_cut_covariance(np.array([0.0, 0.3]), 0.3).round(2).tolist() == [-1, 1]
    assert level_cut_covariance(np.array([0.05]), 0.3, fold=0.5)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [10.0, 25.0])
@pytest.mark.parametrize("image_size", [64, 128])
def test_a_field_has_mean_zero_variance_one_and_the_covariance_asked_for(size, image_size):
    prior = RandomFieldPrior.describe({"a": 0.7, "b": 0.3}, {"b": size}, image_size=image_size, microns_per_pixel=1.0)
    generator = torch.Generator().manual_seed(0)
    fields = np.stack([prior._draw_field(0, 0, generator).reshape(image_size, image_size) for _ in range(300)])
    assert abs(fields.mean()) < 0.05
    assert fields.var() == pytest.approx(1, abs=0.05)
    wanted = prior.profiles[0, 0].numpy()
    for distance in (2, 5, 10, 18, 30):
        for shifted, rest in (
            (fields[:, :, distance:], fields[:, :, :-distance]),
            (fields[:, distance:], fields[:, :-distance]),
        ):
            assert (shifted * rest).mean() == pytest.approx(wanted[distance], abs=0.04)


@pytest.mark.slow
def test_sampled_layouts_have_the_two_point_correlation_of_the_masks():
    """Masks that are themselves level cuts: then the model is true, and only noise may differ."""
    truth = RandomFieldPrior.describe({"a": 0.7, "b": 0.3}, {"b": 12.0}, image_size=64, microns_per_pixel=1.0)
    masks = truth.sample(60, seed=5)
    fitted = RandomFieldPrior.fit_masks(masks, ("a", "b"))
    distances, real = two_point_correlation(masks == 1)
    _, sampled = two_point_correlation(fitted.sample(150, {"b": 0.3}, seed=0) == 1)
    near = distances < 24
    assert np.abs(real.mean(0) - sampled.mean(0))[near].max() < 0.012
    assert np.abs(0.09 - real.mean(0))[near].max() > 0.1  # there is order to be found


@pytest.mark.parametrize(("size", "fraction"), [(8.0, 0.2), (8.0, 0.5), (16.0, 0.3), (24.0, 0.4)])
@pytest.mark.parametrize("microns_per_pixel", [0.5, 2.0])
def test_described_pieces_have_the_size_asked_for(size, fraction, microns_per_pixel):
    """The diameter of a disc with the same mean chord is 4 × area / border length."""
    prior = RandomFieldPrior.describe(
        {"stroma": 1 - fraction, "tumour": fraction},
        {"tumour": size * microns_per_pixel},
        image_size=128,
        microns_per_pixel=microns_per_pixel,
    )
    nests = prior.sample(40, seed=0) == 1
    assert 4 * fraction / perimeter_per_area(nests).mean() == pytest.approx(size, rel=0.1)


@pytest.mark.slow
def test_larger_discs_give_larger_pieces():
    borders = {}
    for radius in (4, 10):
        masks = nested_discs(radius, inner=0)
        sampled = RandomFieldPrior.fit_masks(masks, ("a", "b")).sample(30, seed=0)
        borders[radius] = perimeter_per_area(sampled == 1).mean() / perimeter_per_area(masks == 1).mean()
    assert all(0.7 < ratio < 1.3 for ratio in borders.values())


@pytest.fixture(scope="module")
def nested():
    masks = nested_discs(9)
    return masks, RandomFieldPrior.fit_masks(masks, ("a", "b", "c"))


@pytest.mark.slow
def test_what_is_nested_in_the_masks_is_nested_in_the_layouts(nested):
    masks, fitted = nested
    prior = copy.copy(fitted)
    assert prior.order == (0, 1, 2)
    assert contacts(masks, 3)[0, 2] == 0
    touching = contacts(prior.sample(40, seed=0), 3)
    prior.couplings = (0.0,)  # fields that know nothing of each other
    unrelated = contacts(prior.sample(40, seed=0), 3)
    assert touching[0, 2] / touching[1, 2] < 0.5 * unrelated[0, 2] / unrelated[1, 2]


def test_the_chain_is_the_order_of_touching_and_begins_with_the_ground():
    contact = torch.zeros(4, 4)
    for a, b in [(2, 0), (0, 3), (3, 1)]:
        contact[a, b] = contact[b, a] = 0.1
    assert _chain(contact, [3, 9, 1, 5]) == (2, 0, 3, 1)
    assert _chain(contact, [3, 1, 9, 5]) == (1, 3, 0, 2)


def test_a_long_chain_follows_the_touching_too():
    n = 9
    contact = torch.zeros(n, n)
    for k in range(n - 1):
        contact[k, k + 1] = contact[k + 1, k] = 0.1
    assert _chain(contact, list(range(n))) == tuple(range(n))


@pytest.mark.slow
def test_no_layout_is_a_mask(nested):
    masks, prior = nested
    sampled = prior.sample(20, seed=0)
    agreement = (sampled[:, None] == masks[None]).float().mean((2, 3))
    assert agreement.max() < 0.85


@pytest.mark.parametrize(
    ("composition", "sizes", "message"),
    [
        ({"a": 0.7, "b": 0.4}, {"b": 20}, "fractions that sum to 1"),
        ({"a": 1.0}, {}, "two or more"),
        ({"a": 1.0, "b": 0.0}, {"b": 20}, "positive"),
        ({"a": 0.7, "b": 0.3}, {}, r"give a size of each of \('b',\)"),
        ({"a": 0.7, "b": 0.3}, {"b": 2.0}, "b=2.0 µm is 2 px; pieces must be 3 to 64 px large at 1.0 µm per pixel"),
        ({"a": 0.7, "b": 0.3}, {"b": 80.0}, "b=80.0 µm is 80 px"),
    ],
)
def test_impossible_descriptions_end_in_one_sentence(composition, sizes, message):
    with pytest.raises(ValueError, match=message):
        RandomFieldPrior.describe(composition, sizes, image_size=64, microns_per_pixel=1.0)


@pytest.mark.slow
def test_masks_without_any_border_give_no_border():
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[1] = 1
    prior = RandomFieldPrior.fit_masks(masks, ("a", "b"))
    with pytest.raises(ValueError, match=r"no mask shows a border between \['a'\] and \['b'\]"):
        prior.sample(1, {"a": 0.5}, seed=0)


def test_one_class_is_not_enough():
    with pytest.raises(ValueError, match="needs at least two"):
        RandomFieldPrior.fit_masks(torch.zeros(1, 16, 16, dtype=torch.uint8), ("a",))


@pytest.mark.parametrize("microns_per_pixel", [0.0, -2.0])
def test_pixels_without_a_size_are_refused(microns_per_pixel):
    with pytest.raises(ValueError, match=rf"^microns_per_pixel={microns_per_pixel}; it must be greater than 0$"):
        RandomFieldPrior.describe({"a": 0.7, "b": 0.3}, {"b": 12.0}, image_size=64, microns_per_pixel=microns_per_pixel)
