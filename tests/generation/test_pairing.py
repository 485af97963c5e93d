"""Who lends a style to which layout: counted against the odds that the formula gives."""

import math
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
import torch

from sedm.config import SamplingConfig
from sedm.data.label_maps import class_fractions
from sedm.data.patch_table import UNKNOWN
from sedm.generation.pairing import GivenLayouts, Pairing, mean_shares
from sedm.styles.bank import StyleBank

N = 2000  # draws; a share of a half is then known to ±0.022 (two standard deviations)
CONFIG = SamplingConfig(n_style_images=2)
HALF = torch.tensor([[0, 1]], dtype=torch.uint8).expand(4, 2)  # a layout of two classes, half and half


@pytest.fixture
def bank():
    """Four groups a…d of three images."""
    groups = [name for name in "abcd" for _ in range(3)]
    return StyleBank(torch.eye(12), groups, [f"{name}{row}" for row, name in enumerate(groups)])


def first_groups(pairing, layout=HALF, layout_id="", n=N):
    """The share of draws in which each group lent (the first of several)."""
    rows = (pairing.choose(0, index, layout, layout_id).rows[0] for index in range(n))
    return {name: count / n for name, count in Counter(pairing.bank.groups[row] for row in rows).items()}


def layout_of(share):
    """100 pixels, this share of class 1."""
    layout = torch.zeros(100, dtype=torch.uint8)
    layout[: round(100 * share)] = 1
    return layout.view(10, 10)


# ------------------------------------------------------------------------------------------------- choices


@pytest.mark.parametrize("n_mixed_groups", [1, 3])
def test_a_choice_is_a_function_of_seed_index_and_layout(bank, n_mixed_groups):
    pairing, again = (Pairing(bank, replace(CONFIG, n_mixed_groups=n_mixed_groups)) for _ in range(2))
    torch.manual_seed(0)
    choices = [pairing.choose(3, index, HALF) for index in range(50)]
    torch.manual_seed(1)
    assert [again.choose(3, index, HALF) for index in reversed(range(50))] == choices[::-1]
    assert [again.choose(4, index, HALF) for index in range(50)] != choices
    assert len({tuple(choice.rows) for choice in choices}) > 10


@pytest.mark.slow
def test_at_random_every_group_and_every_image_is_as_likely(bank):
    pairing = Pairing(bank, CONFIG)
    assert first_groups(pairing) == pytest.approx(dict.fromkeys("abcd", 0.25), abs=0.03)
    images = Counter(row for index in range(N) for row in pairing.choose(0, index, HALF).rows)
    assert {row: count / (2 * N) for row, count in images.items()} == pytest.approx(
        dict.fromkeys(range(12), 1 / 12), abs=0.02
    )


def test_a_style_is_of_one_group_and_its_weights_are_alike(bank):
    for index in range(50):
        rows, weights = Pairing(bank, CONFIG).choose(0, index, HALF)
        assert len({bank.groups[row] for row in rows}) == 1
        assert len(set(rows)) == 2
        assert weights == [0.5, 0.5]


@pytest.mark.slow
def test_mixed_groups_differ_and_their_weights_are_uniform_on_the_simplex(bank):
    pairing = Pairing(bank, replace(CONFIG, n_mixed_groups=3))
    weights = []
    for index in range(N):
        choice = pairing.choose(0, index, HALF)
        assert len(choice.rows) == len(choice.weights) == 6
        of_groups = choice.group_weights(bank)
        assert len(of_groups) == 3
        assert choice.weights == [pytest.approx(weight / 2) for weight in of_groups.values() for _ in range(2)]
        assert sum(choice.weights) == pytest.approx(1)
        weights.append(list(of_groups.values()))
    weights = torch.tensor(weights)
    assert weights.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    # each weight of Dirichlet(1, 1, 1) is Beta(1, 2): below x with probability 1 − (1 − x)²
    for x in (0.1, 0.3, 0.6):
        assert (weights < x).double().mean(0).tolist() == pytest.approx([1 - (1 - x) ** 2] * 3, abs=0.03)


def test_an_extrapolated_style_is_led_away_from_one_more_group(bank):
    pairing = Pairing(bank, replace(CONFIG, n_mixed_groups=2, extrapolation=0.8))
    away = []
    for index in range(200):
        weights = list(pairing.choose(0, index, HALF).group_weights(bank).values())
        assert len(weights) == 3
        assert sum(weights) == pytest.approx(1)
        assert weights[0] > 0 < weights[1]
        away.append(-weights[2])
    assert 0 < min(away) < 0.05 < 0.75 < max(away) < 0.8
    assert sum(away) / len(away) == pytest.approx(0.4, abs=0.05)
    with pytest.raises(ValueError, match="n_mixed_groups=4 and one more to lead away from, but only 4 groups"):
        Pairing(bank, replace(CONFIG, n_mixed_groups=4, extrapolation=0.8))


# -------------------------------------------------------------------------------------------- composition


@pytest.mark.slow
def test_groups_composed_like_the_layout_come_as_often_as_the_formula_says(bank):
    shares = {"a": 0.5, "b": 0.6, "c": 0.8, "d": 0.1}  # of class 1
    of_groups = {name: [1 - share, share] for name, share in shares.items()}
    between = sorted(
        math.sqrt(2) * abs(p - q) for i, p in enumerate(shares.values()) for q in list(shares.values())[:i]
    )
    tau = between[2]  # the lower of the two in the middle of six, as torch.median has it
    for layout, share in ((HALF, 0.5), (layout_of(0.9), 0.9)):
        odds = {name: math.exp(-0.5 * 2 * (one - share) ** 2 / tau**2) for name, one in shares.items()}
        expected = {name: one / sum(odds.values()) for name, one in odds.items()}
        pairing = Pairing(bank, replace(CONFIG, pairing="composition"), of_groups=of_groups)
        assert first_groups(pairing, layout) == pytest.approx(expected, abs=0.03)
        framed = Pairing(bank, pairing.config, of_groups=pd.DataFrame(of_groups, index=["stroma", "lumen"]).T)
        assert [framed.choose(0, i, layout) for i in range(20)] == [pairing.choose(0, i, layout) for i in range(20)]


@pytest.mark.slow
def test_a_group_of_unknown_composition_counts_as_one_at_the_median_distance(bank):
    of_groups = {"a": [0.5, 0.5], "b": [0.9, 0.1], "c": [math.nan, math.nan], "elsewhere": [0.0, 1.0]}
    found = first_groups(Pairing(bank, replace(CONFIG, pairing="composition"), of_groups=of_groups))
    # b is the only other one that is known, so it stands at the median distance itself
    odds = {"a": 1.0, **dict.fromkeys("bcd", math.exp(-0.5))}
    assert found == pytest.approx({name: one / sum(odds.values()) for name, one in odds.items()}, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    "of_groups", [{"a": [0.5, 0.5]}, {name: [0.3, 0.7] for name in "abcd"}], ids=["one known", "all alike"]
)
def test_where_composition_says_nothing_every_group_is_as_likely(bank, of_groups):
    pairing = Pairing(bank, replace(CONFIG, pairing="composition"), of_groups=of_groups)
    assert first_groups(pairing) == pytest.approx(dict.fromkeys("abcd", 0.25), abs=0.03)


def test_no_group_is_too_far_to_be_mixed_in():
    """Five groups so alike that the odds of the two others are too small for a float."""
    bank = StyleBank(torch.eye(7), list("abcdefg"), list("0123456"))
    of_groups = {name: [1 - row / 1000, row / 1000] for row, name in enumerate("abcde")}
    of_groups |= {name: [0.0, 1.0] for name in "fg"}
    pairing = Pairing(bank, replace(CONFIG, pairing="composition", n_mixed_groups=6), of_groups=of_groups)
    mixed = [set(pairing.choose(0, index, layout_of(0.0)).group_weights(bank)) for index in range(40)]
    assert {"".join(sorted(names)) for names in mixed} == {"abcdef", "abcdeg"}
    alone = Pairing(bank, replace(pairing.config, n_mixed_groups=1), of_groups=of_groups)
    assert first_groups(alone, layout_of(0.0), n=200).keys() <= set("abcde")


def test_shares_are_counted_over_known_pixels_and_averaged_over_annotated_images(patches):
    layout = torch.tensor([[0, 1, 1], [2, UNKNOWN, UNKNOWN]], dtype=torch.uint8)
    assert class_fractions(layout[None], 3).tolist() == [[0.25, 0.5, 0.25]]
    shares = mean_shares(patches)
    assert list(shares) == ["group-0", "group-1"]  # the others have no masks
    for name, found in shares.items():
        rows = [row for row, group in enumerate(patches.groups) if group == name]
        wanted = [float((patches.masks[rows] == k).float().mean()) for k in range(2)]
        assert found == pytest.approx(wanted)


# --------------------------------------------------------------------------------------- class and sources


@pytest.mark.slow
def test_a_layout_gets_styles_of_its_own_image_class_only(bank):
    config = replace(CONFIG, pairing="class")
    facts = {"of_layouts": {"1": "low", "2": "high"}, "of_groups": {"a": "low", "b": {"low", "high"}, "c": ["high"]}}
    pairing = Pairing(bank, config, **facts)
    assert first_groups(pairing, layout_id="1") == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.03)
    assert first_groups(pairing, layout_id="2") == pytest.approx({"b": 0.5, "c": 0.5}, abs=0.03)
    with pytest.raises(ValueError, match="layout '3' has no image class in of_layouts"):
        pairing.choose(0, 0, HALF, "3")


@pytest.mark.parametrize(("sources", "lenders"), [("all", "abcd"), ("annotated", "bd"), ("unannotated", "ac")])
def test_only_the_groups_that_were_asked_for_lend(bank, sources, lenders):
    pairing = Pairing(bank, replace(CONFIG, style_sources=sources), annotated_groups={"b", "d", "elsewhere"})
    assert set(first_groups(pairing, n=200)) == set(lenders)


def test_what_decides_the_choices_is_told_in_an_order_that_stays(bank):
    config, of_layouts = replace(CONFIG, pairing="class"), {"1": "x"}
    facts = [Pairing(bank, config, of_layouts=of_layouts, of_groups={"a": one}).facts for one in ({"x", "y", "z"}, "x")]
    assert facts[0][1] == {"a": ["x", "y", "z"]}
    assert facts[0] != facts[1]


@pytest.mark.parametrize(
    ("changes", "facts", "message"),
    [
        ({"pairing": "nearest"}, {}, "pairing='nearest'; choose one of random, composition, class"),
        ({"style_sources": "some"}, {}, "style_sources='some'; choose one of"),
        ({"style_sources": "annotated"}, {}, "must know which groups are annotated; give annotated_groups"),
        (
            {"style_sources": "unannotated"},
            {"annotated_groups": set("abcd")},
            "style_sources='unannotated' leaves none of the 4 groups",
        ),
        (
            {"style_sources": "annotated"},
            {"annotated_groups": {"elsewhere"}},
            "style_sources='annotated' leaves none of the 4 groups",
        ),
        ({"n_mixed_groups": 5}, {}, "n_mixed_groups=5, but only 4 groups lend"),
        (
            {"style_sources": "annotated", "n_mixed_groups": 2},
            {"annotated_groups": {"a"}},
            "n_mixed_groups=2, but only 1 groups lend",
        ),
        ({"pairing": "composition"}, {}, "pairing='composition' needs of_groups"),
        ({"pairing": "composition"}, {"of_groups": {"elsewhere": [1.0]}}, "pairing='composition' needs of_groups"),
        (
            {"pairing": "composition"},
            {"of_groups": {"a": [1.0], "b": [0.5, 0.5]}},
            r"shares of \[1, 2\] classes; give every group one share a class",
        ),
        ({"pairing": "class"}, {"of_groups": {"a": "x"}}, "pairing='class' needs of_layouts and of_groups"),
        ({"pairing": "class"}, {"of_layouts": {"1": "x"}}, "pairing='class' needs of_layouts and of_groups"),
        (
            {"pairing": "class"},
            {"of_layouts": {"1": "y"}, "of_groups": {"a": "x"}},
            "image class 'y' of a layout: 0 groups have it, 1 must lend",
        ),
        (
            {"pairing": "class", "n_mixed_groups": 2},
            {"of_layouts": {"1": "x"}, "of_groups": {"a": "x"}},
            "image class 'x' of a layout: 1 groups have it, 2 must lend",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused_at_once(bank, changes, facts, message):
    with pytest.raises(ValueError, match=message):
        Pairing(bank, replace(CONFIG, **changes), **facts)


def test_an_empty_bank_lends_nothing():
    with pytest.raises(ValueError, match="the style bank is empty"):
        Pairing(StyleBank(torch.zeros(0, 4), [], []), CONFIG)


# ------------------------------------------------------------------------------------------ given layouts


@pytest.fixture
def masks():
    return torch.arange(3, dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 6).contiguous()


@pytest.mark.slow
def test_given_layouts_are_drawn_by_seed_and_number_each_as_often(masks):
    layouts = GivenLayouts(masks, ["a", "b", "c"])
    assert layouts.size == (4, 6)
    ids = layouts.sample_ids(N, seed=0)
    assert {name: ids.count(name) / N for name in "abc"} == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=0.03)
    assert layouts.sample(N, seed=0)[:, 0, 0].tolist() == ["abc".index(name) for name in ids]
    assert layouts.sample_ids(5, seed=0, first=7) == ids[7:12]
    assert layouts.sample_ids(N, seed=1) != ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": torch.zeros(0, 4, 6).byte(), "ids": []}, "layouts of shape .0, 4, 6.*n ≥ 1"),
        ({"masks": torch.zeros(3, 4, 6)}, "type torch.float32; give uint8"),
        ({"ids": ["a"]}, "1 ids for 3 layouts"),
    ],
)
def test_layouts_that_cannot_be_drawn_are_refused(masks, unchecked, change, message):
    with pytest.raises(ValueError, match=message):
        GivenLayouts(**({"masks": masks, "ids": ["a", "b", "c"]} | change))
