"""Each measure of fidelity against a closed form, brute force or a planted truth."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.fidelity import (
    agreement_beyond_chance,
    colour_distances,
    content_agreement,
    other_layouts,
    segmenter_extractor,
    spread_between,
    spread_within,
    stage_features,
    stain_angles,
    stain_vectors,
)
from sedm.segmentation.networks import UNet


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------------------------------------- extractors


def test_the_encoder_of_a_segmenter_is_named_and_gives_its_stages():
    network, images = UNet(3, (8, 16)).eval(), torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    extractor = segmenter_extractor(network, "30 groups")
    np.testing.assert_array_equal(extractor(images), stage_features(network, [network.stem, *network.down], images))
    assert "(8, 16)" in extractor.name
    assert "30 groups" in extractor.name


# --------------------------------------------------------------------------------------------------- stains

HAEMATOXYLIN, EOSIN = (np.array(v) / np.linalg.norm(v) for v in ([0.65, 0.70, 0.29], [0.07, 0.99, 0.11]))


def stained(haematoxylin, eosin, n=4, strength=1.0, seed=0):
    """Images of light through known stains, by Beer and Lambert; some pixels of one stain alone, some empty."""
    random = np.random.default_rng(seed)
    amounts = strength * random.uniform(0.1, 0.6, size=(n, 16, 16, 2))
    amounts[:, 0, :, 1] = amounts[:, 1, :, 0] = 0  # one pixel in sixteen each
    amounts[:, 2] = 0
    light = 255 * 10 ** -(amounts @ np.stack([haematoxylin, eosin]))
    return torch.from_numpy(light.round().astype(np.uint8)).permute(0, 3, 1, 2)


def degrees(a, b):
    return np.degrees(np.arccos(np.clip(a @ b, -1, 1)))


def turned(vector, angle):
    """``vector`` turned by ``angle`` degrees towards blue."""
    blue = np.array([0, 0, 1.0])
    side = blue - (blue @ vector) * vector
    return math.cos(math.radians(angle)) * vector + math.sin(math.radians(angle)) * side / np.linalg.norm(side)


@pytest.mark.parametrize("strength", [0.6, 1.0, 1.5])
def test_known_stains_are_found_whatever_their_strength(strength):
    found = stain_vectors(stained(HAEMATOXYLIN, EOSIN, strength=strength))
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1])
    assert degrees(found[0], HAEMATOXYLIN) < 2
    assert degrees(found[1], EOSIN) < 2


def test_mixed_pixels_and_empty_glass_do_not_move_the_stains():
    images = stained(HAEMATOXYLIN, EOSIN)
    glass = torch.full((20, 3, 16, 16), 250, dtype=torch.uint8)
    np.testing.assert_allclose(stain_vectors(torch.cat([images, glass])), stain_vectors(images))


def test_images_without_tissue_have_no_stains():
    assert np.isnan(stain_vectors(torch.full((4, 3, 16, 16), 250, dtype=torch.uint8))).all()


@pytest.mark.parametrize("angle", [5, 12])
def test_a_turned_stain_is_that_many_degrees_away_and_the_other_is_not(angle):
    real = torch.cat([stained(HAEMATOXYLIN, EOSIN), stained(turned(HAEMATOXYLIN, 20), turned(EOSIN, 20))])
    drifted = torch.cat([stained(turned(HAEMATOXYLIN, angle), EOSIN, seed=1), stained(turned(HAEMATOXYLIN, 20), EOSIN)])
    groups = ["a"] * 4 + ["b"] * 4
    tables = stain_angles(drifted, groups, real, groups)
    assert tables["haematoxylin"].loc["a", "own"] == pytest.approx(angle, abs=1.5)
    assert tables["haematoxylin"].loc["a", "others"] == pytest.approx(20 - angle, abs=1.5)
    assert tables["haematoxylin"].loc["b", "own"] < 1.5
    assert tables["eosin"].loc["a", "own"] < 1.5
    assert tables["eosin"].loc["b", "own"] == pytest.approx(20, abs=1.5)


# --------------------------------------------------------------------------------------- colours and spread


def test_colour_distances_are_those_of_loops():
    random = np.random.default_rng(0)
    real, images = random.normal(size=(12, 6)), random.normal(size=(9, 6))
    real_groups, groups = list("abcd") * 3, list("bca") * 3
    centres = {
        name: np.mean([row[:3] for row, g in zip(real, real_groups, strict=True) if g == name], 0) for name in "abcd"
    }
    found = colour_distances(images, groups, real, real_groups)
    for name in "abc":
        mean = np.mean([row[:3] for row, g in zip(images, groups, strict=True) if g == name], 0)
        assert found.loc[name, "own"] == pytest.approx(math.dist(mean, centres[name]))
        others = [math.dist(mean, centres[other]) for other in "abcd" if other != name]
        assert found.loc[name, "others"] == pytest.approx(np.mean(others))


def test_spreads_are_those_of_loops():
    values, groups = np.random.default_rng(0).normal(size=(12, 3)), list("aaaabbbcccca")
    members = {name: values[[g == name for g in groups]] for name in "abc"}
    for name, rows in members.items():
        pairs = [math.dist(x, y) for i, x in enumerate(rows) for y in rows[:i]]
        assert spread_within(values, groups)[name] == pytest.approx(np.mean(pairs))
    centres = [rows.mean(0) for rows in members.values()]
    assert spread_between(values, groups) == pytest.approx(
        np.mean([math.dist(centres[i], centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    )
    assert math.isnan(spread_between(values, ["a"] * 12))


# -------------------------------------------------------------------------------------------------- content


def blobs(n, size=24, n_classes=3, seed=0):
    noise = torch.rand(n, n_classes, size // 4, size // 4, generator=generator(seed))
    return noise.repeat_interleave(4, 2).repeat_interleave(4, 3).argmax(1).to(torch.uint8)


def cohen(a, b, n_classes):
    """From the table of counts, as in the textbook."""
    counts = np.zeros((n_classes, n_classes))
    for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True):
        if y != UNKNOWN:
            counts[x, y] += 1
    counts /= counts.sum()
    chance = counts.sum(0) @ counts.sum(1)
    return (np.trace(counts) - chance) / (1 - chance)


def test_agreement_is_that_of_cohen_and_leaves_unknown_pixels_out():
    predictions, masks = blobs(3), blobs(4, seed=1)
    masks[1, :7] = UNKNOWN
    found = agreement_beyond_chance(predictions, masks, n_classes=3)
    for i, j in product(range(3), range(4)):
        assert found[i, j] == pytest.approx(cohen(predictions[i], masks[j], 3))


def test_agreement_of_unrelated_maps_is_zero_on_average_and_of_equal_ones_is_one():
    predictions, masks = blobs(60), blobs(60, seed=1)
    found = agreement_beyond_chance(predictions, masks, n_classes=3)
    assert abs(found.mean()) < 0.01
    assert agreement_beyond_chance(masks, masks, n_classes=3).diagonal() == pytest.approx(1)


def test_where_there_is_nothing_to_agree_on_there_is_no_agreement():
    masks = torch.stack([torch.ones(4, 4), torch.zeros(4, 4), torch.full((4, 4), UNKNOWN)]).to(torch.uint8)
    found = agreement_beyond_chance(masks[:1], masks, n_classes=2)
    assert np.isnan(found[0, [0, 2]]).all()
    assert found[0, 1] == 0


def test_content_is_compared_with_own_style_images_and_with_others_of_the_group():
    masks = blobs(12)
    lenders = Patches(torch.zeros(6, 3, 24, 24, dtype=torch.uint8), masks[:6], list("aabbab"), tuple("klm"))
    references = Patches(lenders.images, masks[6:], list("babaab"), lenders.classes)
    predictions, groups = blobs(3, seed=1), ["b", "a", "b"]
    style_rows = torch.tensor([[2, 3], [4, 4], [5, 2]])
    found = content_agreement(predictions, groups, style_rows, lenders, references)
    assert found["group"].tolist() == groups
    for i, group in enumerate(groups):
        own = np.mean([cohen(predictions[i], masks[row], 3) for row in style_rows[i].tolist()])
        others = [cohen(predictions[i], masks[6 + row], 3) for row in range(6) if references.groups[row] == group]
        assert found.loc[i, ["own", "others"]].tolist() == pytest.approx([own, np.mean(others)])


def test_a_prediction_without_a_mask_to_agree_with_has_no_number():
    masks = torch.stack([torch.zeros(4, 4), torch.eye(4)]).to(torch.uint8)
    lenders = Patches(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), masks, ["a", "a"], tuple("kl"))
    found = content_agreement(masks[:1], ["a"], torch.tensor([[0]]), lenders, lenders)
    assert math.isnan(found["own"][0])
    assert found["others"][0] == 0  # with the second mask, which has both classes


def test_other_layouts_are_always_others_also_where_layouts_repeat():
    layouts = blobs(5)[torch.tensor([0, 0, 0, 1, 1, 2, 3, 4] * 10)]
    others = other_layouts(layouts, seed=0)
    assert not (others == layouts).flatten(1).all(1).any()
    known = {layout.numpy().tobytes() for layout in layouts}
    seen = pd.Series([other.numpy().tobytes() for other in others])
    assert set(seen) == known
    assert torch.equal(others, other_layouts(layouts, seed=0))
    with pytest.raises(ValueError, match="all layouts are the same"):
        other_layouts(layouts[:3], seed=0)
