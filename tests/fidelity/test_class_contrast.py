"""Class contrasts against a loop over pixels, and a planted fault that whole-image colours do not show."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.fidelity.class_contrast import (
    class_colour_distances,
    class_colours,
    class_contrasts,
    contrast_distances,
    contrast_spread,
    share_lighter,
)
from sedm.fidelity.style import colour_distances, colour_statistics


def draw_patches(seed=0, n=12):
    """Three classes of random blobs and colours; some pixels unknown."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(3, (n, 4, 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    masks[:, :2] = UNKNOWN
    images = torch.randint(256, (n, 3, 16, 16), generator=generator)
    return Patches(images.byte(), masks.byte(), list("abc") * (n // 3), classes=("stroma", "gland", "lumen"))


def test_contrasts_are_those_of_a_loop_over_pixels():
    patches = draw_patches()
    contrasts = class_contrasts(patches)
    assert contrasts.shape == (12, 2, 3)
    for image, mask, values in zip(patches.images.numpy(), patches.masks.numpy(), contrasts, strict=True):
        for k in (1, 2):
            inside = [image[:, y, x] for y in range(16) for x in range(16) if mask[y, x] == k]
            outside = [image[:, y, x] for y in range(16) for x in range(16) if mask[y, x] not in (k, UNKNOWN)]
            if len(inside) < 0.05 * 256:
                assert np.isnan(values[k - 1]).all()
            else:
                assert values[k - 1] == pytest.approx(np.mean(inside, axis=0) - np.mean(outside, axis=0))


def test_a_class_that_fills_the_image_or_is_hardly_there_has_no_contrast():
    patches = draw_patches()
    full = replace(patches, masks=torch.ones_like(patches.masks), mask_source=[])
    assert np.isnan(class_contrasts(full)).all()


def test_looks_of_classes_that_changed_places_are_seen_though_no_colour_of_the_image_changed():
    """Glands as dark as their stroma is in truth, in halves of equal size: each image keeps its colours."""
    masks = torch.zeros(8, 8, 8, dtype=torch.uint8)
    masks[:, :, 4:] = 1
    shades = torch.tensor([100, 160], dtype=torch.uint8)
    images = shades[masks.long()][:, None].repeat(1, 3, 1, 1) + torch.arange(8, dtype=torch.uint8)[:, None, None, None]
    real = Patches(images, masks, list("aabbaabb"), classes=("stroma", "gland"))
    swapped = replace(real, images=images.flip(3))
    statistics = [colour_statistics(side.images) for side in (swapped, real)]
    assert colour_distances(statistics[0], real.groups, statistics[1], real.groups)["own"].max() < 1e-5
    assert np.diag(contrast_distances(real, real)).max() == 0
    assert np.diag(contrast_distances(swapped, real)) == pytest.approx([120, 120])


def test_colours_of_classes_are_those_of_a_loop_over_pixels():
    patches = draw_patches()
    colours = class_colours(patches)
    assert colours.shape == (12, 3, 3)
    for image, mask, values in zip(patches.images, patches.masks.numpy(), colours, strict=True):
        for k in range(3):
            pixels = [image[:, y, x] for y in range(16) for x in range(16) if mask[y, x] == k]
            if len(pixels) < 0.05 * 256:
                assert np.isnan(values[k]).all()
            else:  # as an image of its own
                expected = colour_statistics(torch.stack(pixels, dim=1)[None, :, None])[0, :3]
                assert values[k] == pytest.approx(expected, abs=0.01)


def test_a_class_of_another_colour_is_that_far_away_and_the_others_stay():
    masks = torch.zeros(4, 8, 8, dtype=torch.uint8)
    masks[:, :, 4:] = 1
    grey = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    real = Patches(grey, masks, list("aabb"), classes=("stroma", "gland"))
    white = replace(real, images=grey.where(masks[:, None] == 0, 255))
    distance = 100 - colour_statistics(grey[:1])[0, 0]
    assert np.diag(class_colour_distances(white, real)) == pytest.approx([distance / 2] * 2, abs=0.01)
    assert share_lighter(class_contrasts(white)) == 1
    assert share_lighter(class_contrasts(real)) == 0
    assert np.isnan(share_lighter(np.full((2, 1, 3), np.nan)))


def test_spread_is_the_deviation_over_images():
    contrasts = np.array([[[0.0, 0, 0]], [[6.0, 6, 6]], [[np.nan] * 3]])
    assert contrast_spread(contrasts) == pytest.approx(np.std([0, 6], ddof=1))
    assert np.isnan(contrast_spread(contrasts[:1]))


def test_a_single_class_has_nothing_to_differ_from():
    patches = Patches(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, 8, 8).byte(), list("aabb"), ("only",))
    assert class_contrasts(patches).shape == (4, 0, 3)
    assert np.isnan(contrast_distances(patches, patches)).all(axis=None)
    assert np.isnan([contrast_spread(class_contrasts(patches)), share_lighter(class_contrasts(patches))]).all()
    assert np.diag(class_colour_distances(patches, patches)).max() == 0
