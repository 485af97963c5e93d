"""Measures of label maps against brute force and shapes whose measures are known."""

import math

import numpy as np
import pytest
import torch

from sedm.layouts import EmpiricalPrior
from sedm.layouts.morphology import component_areas, contacts, perimeter_per_area, two_point_correlation
from sedm.layouts.prior_fidelity import STATISTICS, compare_layouts, describe_layouts, nearest_mask


def noise(n=4, size=24, n_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(n_classes, (n, size // 4, size // 4), generator=generator, dtype=torch.uint8)
        .repeat_interleave(4, 1)
        .repeat_interleave(4, 2)
    )


def disc(radius, size=128):
    offset = torch.arange(size) + 0.5 - size / 2
    return (offset**2 + offset[:, None] ** 2 < radius**2)[None]


def test_two_point_correlation_counts_pairs():
    regions = torch.rand(2, 9, 12, generator=torch.Generator().manual_seed(0)) < 0.4
    distances, chances = two_point_correlation(regions)
    points = [(i, j) for i in range(9) for j in range(12)]
    for row, region in enumerate(regions):
        hits, pairs, total = np.zeros(20), np.zeros(20), np.zeros(20)
        for p in points:
            for q in points:
                ring = round(math.dist(p, q))
                pairs[ring] += 1
                hits[ring] += bool(region[p] and region[q])
                total[ring] += math.dist(p, q)
        n = len(distances)
        assert chances[row] == pytest.approx(hits[:n] / pairs[:n], abs=1e-9)
    assert (np.diff(distances) > 0.5).all()
    assert distances[0] == 0


def test_the_border_of_a_disc_is_its_circumference():
    assert perimeter_per_area(disc(40)).item() * 128**2 == pytest.approx(2 * math.pi * 40, rel=0.01)


def test_contacts_are_the_pairs_counted_one_by_one():
    layouts = noise(2, 12)
    pairs = torch.zeros(3, 3)
    for layout in layouts.tolist():
        for i in range(12):
            for j in range(12):
                for a, b in ((i + 1, j), (i, j + 1)):
                    if a < 12 and b < 12 and layout[i][j] != layout[a][b]:
                        pairs[layout[i][j], layout[a][b]] += 1
                        pairs[layout[a][b], layout[i][j]] += 1
    assert torch.allclose(contacts(layouts, 3), pairs / pairs.sum())


def test_pieces_are_found_with_their_areas():
    region = torch.zeros(10, 10, dtype=torch.bool)
    region[1:3, 1:3] = region[5:9, 5:7] = region[3, 3] = True  # the last touches by a corner only
    assert component_areas(region).tolist() == [0.08, 0.04, 0.01]
    assert component_areas(torch.zeros(4, 4, dtype=torch.bool)).tolist() == []


def test_crumbs_are_not_counted():
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[0, 10:20, 10:20] = 1
    mask[0, 40, 40] = mask[0, 50, 50:52] = 1
    assert describe_layouts(mask, ("a", "b"))["b", "n_components"].tolist() == [1]


def test_a_set_is_at_no_distance_from_itself_and_measured_per_class():
    layouts = noise(8)
    table = compare_layouts({"same": layouts, "reversed": layouts.flip(0)}, layouts, ("a", "b", "c"))
    assert table.columns.tolist() == [*STATISTICS, "two_point"]
    assert table.to_numpy() == pytest.approx(0, abs=1e-12)
    swapped = (layouts + 1) % 3
    uneven = layouts.clone()
    uneven[uneven == 2] = 1
    assert compare_layouts({"x": (uneven + 1) % 3}, uneven, ("a", "b", "c")).loc["x", "fraction"] > 1
    assert compare_layouts({"x": swapped}, layouts, ("a", "b", "c")).loc["x", "n_components"] < 1


@pytest.mark.parametrize("planted", ["finer", "fewer"])
def test_a_planted_difference_is_found_where_it_is(planted):
    masks = EmpiricalPrior.fit_masks(noise(20, 32), ("a", "b", "c")).sample(60, seed=0)
    real, reference = masks[:30], masks[30:]
    if planted == "finer":  # every mask tiled 2 × 2 at half the size
        other = real[:, ::2, ::2].repeat(1, 2, 2)
    else:
        other = real.clone()
        other[other == 2] = 1
    table = compare_layouts({"floor": real, "other": other}, reference, ("a", "b", "c"))
    wrong = {"finer": "perimeter_per_area", "fewer": "fraction"}[planted]
    assert table.loc["other", wrong] > 3 * table.loc["floor", wrong]
    if planted == "finer":
        assert table.loc["other", "fraction"] == pytest.approx(table.loc["floor", "fraction"], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("copy", ["itself", "turned", "mirrored", "shifted"])
def test_a_copy_is_recognised_and_an_original_is_not(copy):
    masks = noise(6, 64, seed=1)
    layout = {
        "itself": masks[2],
        "turned": masks[2].rot90(),
        "mirrored": masks[2].flip(0).T,
        "shifted": masks[2].roll((6, -6), (0, 1)),  # 3 of the 32 px in which it is compared
    }[copy][None]
    assert nearest_mask(layout, masks, 3).item() > 0.97
    others = torch.cat([masks[:2], masks[3:]])
    assert nearest_mask(layout, others, 3).item() < 0.6


@pytest.mark.slow
def test_novelty_of_a_layout_does_not_depend_on_the_others():
    masks, layouts = noise(3, 32), noise(5, 32, seed=2)
    together = nearest_mask(layouts, masks, 3)
    alone = torch.cat([nearest_mask(layout[None], masks, 3) for layout in layouts])
    assert together.equal(alone)  # counted in whole numbers: no rounding that depends on the batch
    assert together.equal(torch.stack([nearest_mask(layouts, m[None], 3) for m in masks]).amax(0))


@pytest.mark.slow
def test_masks_with_pixels_that_nobody_knows_are_left_out_of_every_comparison():
    masks, others = noise(seed=0), noise(seed=1)
    partly = masks[:1].clone()
    partly[0, :6] = 255
    with pytest.warns(UserWarning, match="1 of 5 masks have unannotated pixels and are left out"):
        found = compare_layouts({"masks": torch.cat([partly, masks])}, torch.cat([partly, others]), tuple("abc"))
    assert found.equals(compare_layouts({"masks": masks}, others, tuple("abc")))
    with pytest.warns(UserWarning, match="1 of 5 masks"):
        nearest = nearest_mask(torch.cat([partly, masks]), torch.cat([partly, others]), 3)
    assert nearest.equal(nearest_mask(masks, others, 3))
