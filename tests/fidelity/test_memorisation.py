"""Planted copies are found whatever was done to them; images that are no copies are not."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sedm.fidelity import Extractor, NearestTraining, closer_than_held_out

SIZE = 32  # px a side


def textures(n, seed):
    """Smooth random images, each with a colour of its own."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=generator) + torch.rand(n, 3, 1, 1, generator=generator)
    fine = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic")
    return (fine * 100 + 20).clamp(0, 255).to(torch.uint8)


def channel_moments(images):
    pixels = images.double().flatten(2)
    return torch.cat([pixels.mean(2), pixels.std(2)], dim=1).numpy()


@pytest.fixture(scope="module")
def train():
    return textures(40, seed=0)


@pytest.fixture(scope="module")
def nearest(train):
    return NearestTraining(train, Extractor("moments of colours", channel_moments))


@pytest.fixture(scope="module")
def held_out(nearest):
    return nearest(textures(60, seed=1))


def test_the_nearest_is_that_of_loops(train, nearest):
    images = textures(2, seed=2)
    found = nearest(images)
    features, own = channel_moments(train), channel_moments(images)
    for i, image in enumerate(images):
        distances = [np.sqrt((((own[i] - row) / features.std(0)) ** 2).mean()) for row in features]
        assert found["features_row"][i] == np.argmin(distances)
        assert found["features_distance"][i] == pytest.approx(min(distances))
        views = [turned for k in range(4) for turned in (image.rot90(k, (1, 2)), image.rot90(k, (1, 2)).flip(2))]
        distances = [
            min(1 - np.mean([np.corrcoef(v[c].flatten(), other[c].flatten())[0, 1] for c in range(3)]) for v in views)
            for other in train
        ]
        assert found["pixels_row"][i] == np.argmin(distances)
        assert found["pixels_distance"][i] == pytest.approx(min(distances), abs=1e-5)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_copy_is_found_in_all_symmetries(train, nearest, turns, mirrored):
    copies = train[[7, 3]].rot90(turns, (2, 3))
    found = nearest(copies.flip(3) if mirrored else copies)
    assert found["pixels_row"].tolist() == found["features_row"].tolist() == [7, 3]
    assert found[["pixels_distance", "features_distance"]].to_numpy().max() < 1e-5


def test_a_copy_in_other_colours_is_found_by_pixels(train, nearest, held_out):
    factors, shifts = torch.tensor([0.5, 0.7, 0.4]).view(3, 1, 1), torch.tensor([90, 10, 60]).view(3, 1, 1)
    found = nearest((train * factors + shifts).round().to(torch.uint8))
    assert found["pixels_row"].tolist() == list(range(40))
    assert closer_than_held_out(found["pixels_distance"].to_numpy(), held_out["pixels_distance"].to_numpy())[0].all()
    assert (found["features_row"] != np.arange(40)).any()  # which features of colour cannot


def test_a_moved_copy_is_found_by_features(train, nearest, held_out):
    found = nearest(train.roll((9, 13), (2, 3)))
    assert found["features_row"].tolist() == list(range(40))
    assert closer_than_held_out(found["features_distance"].to_numpy(), held_out["features_distance"].to_numpy())[
        0
    ].all()


def test_new_images_of_the_same_kind_are_rarely_near(nearest, held_out):
    found = nearest(textures(200, seed=3))
    for view in ("features", "pixels"):
        closer, expected = closer_than_held_out(
            found[f"{view}_distance"].to_numpy(), held_out[f"{view}_distance"].to_numpy()
        )
        assert closer.mean() < 0.1
        assert expected == 1 / 61


def test_the_expected_share_is_that_of_new_images_in_the_long_run():
    random = np.random.default_rng(0)
    for n_held_out in (30, 250):
        shares = []
        for _ in range(2000):
            closer, expected = closer_than_held_out(random.normal(size=50), random.normal(size=n_held_out))
            shares.append(closer.mean())
        assert expected == math.ceil(n_held_out / 100) / (n_held_out + 1)
        assert abs(np.mean(shares) - expected) < 4 * np.std(shares) / math.sqrt(len(shares))


def test_flat_images_are_like_nothing(train):
    flat = torch.full((2, 3, SIZE, SIZE), 90, dtype=torch.uint8)
    flat[1, :, 0, 0] += 1  # of noise, a pattern must not be made
    nearest = NearestTraining(torch.cat([train, flat]), Extractor("moments of colours", channel_moments))
    assert nearest(flat)["pixels_distance"].tolist() == [1, 1]


def test_distances_do_not_depend_on_what_else_is_measured(nearest):
    images = textures(100, seed=4)  # more than a chunk
    whole, part = nearest(images), nearest(images[90:])
    np.testing.assert_allclose(whole.tail(10).to_numpy(), part.to_numpy(), atol=1e-6)
