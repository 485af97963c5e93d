"""Intervals and tests against hand-written ones and known truth."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sedm.group_statistics import compare_crossed, estimate_crossed, holm, jackknife_groups, summarise_groups


def named(values):
    return {f"case-{i:03}": value for i, value in enumerate(values)}


def percentile_bootstrap(values, seed, n_resamples=20_000):
    """Written out, with its own random numbers."""
    rng = np.random.RandomState(seed)
    means = [values[rng.randint(len(values), size=len(values))].mean() for _ in range(n_resamples)]
    return np.percentile(means, [2.5, 97.5])


def test_the_summary_is_the_textbook_one():
    values = np.random.default_rng(0).beta(8, 2, 30)
    summary = summarise_groups(named(values), seed=0)
    assert summary["n_groups"] == 30
    assert summary["mean"] == pytest.approx(values.mean())
    assert summary["sd"] == pytest.approx(math.sqrt(((values - values.mean()) ** 2).sum() / 29))
    assert summary["worst"] == values.min()
    assert summary["tenth_percentile"] == pytest.approx(np.percentile(values, 10))
    assert summary["worst_group"] == f"case-{values.argmin():03}"
    expected = percentile_bootstrap(values, seed=1)
    tolerance = 0.04 * (expected[1] - expected[0])
    np.testing.assert_allclose([summary["ci_low"], summary["ci_high"]], expected, atol=tolerance)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    summaries = [summarise_groups(named(rng.normal(0.8, 0.1, 25)), seed=i) for i in range(200)]
    coverage = np.mean([summary["ci_low"] <= 0.8 <= summary["ci_high"] for summary in summaries])
    assert 0.89 <= coverage <= 0.98  # 0.93 expected at 25 groups; two standard errors are 0.036


def test_the_same_seed_gives_the_same_interval_and_the_global_state_is_left_alone():
    scores = pd.Series(named(np.random.default_rng(0).random(10)))
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert summarise_groups(scores, seed=5) == summarise_groups(scores, seed=5)
    assert summarise_groups(scores, seed=5)["ci_low"] != summarise_groups(scores, seed=6)["ci_low"]
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_few_or_equal_groups_are_handled():
    one = summarise_groups({"a": 0.5}, seed=0)
    assert one["mean"] == one["worst"] == 0.5
    assert all(math.isnan(one[key]) for key in ("sd", "ci_low", "ci_high"))
    two = summarise_groups({"a": 0.5, "b": 0.7}, seed=0)
    assert (two["ci_low"], two["ci_high"]) == pytest.approx((0.5, 0.7))
    equal = summarise_groups(named([0.5] * 6), seed=0)
    assert (equal["sd"], equal["ci_low"], equal["ci_high"]) == (0, 0.5, 0.5)


def test_groups_without_a_score_are_left_out():
    summary = summarise_groups({"a": 0.5, "b": math.nan, "c": 0.7}, seed=0)
    assert summary["n_groups"] == 2
    assert summary["mean"] == pytest.approx(0.6)
    with pytest.raises(ValueError, match="no group has a score"):
        summarise_groups({"a": math.nan}, seed=0)
    with pytest.raises(ValueError, match="'a' appears twice"):
        summarise_groups(pd.Series([0.1, 0.2], index=["a", "a"]), seed=0)


# ---------------------------------------------------------------------- groups and repetitions, both left to chance


def draw_scores(rng, n_cells, n_groups, of_cells, of_groups, rest, mean=0.0):
    """Scores with components of variance of known size."""
    cells, groups = rng.normal(0, of_cells, (n_cells, 1)), rng.normal(0, of_groups, (1, n_groups))
    return mean + cells + groups + rng.normal(0, rest, (n_cells, n_groups))


def test_the_interval_of_a_mean_is_the_one_written_out():
    """Mean squares by sums over all scores, as a textbook's table of the analysis of variance has them."""
    scores = draw_scores(np.random.default_rng(0), 4, 9, 0.02, 0.03, 0.02, mean=0.05)
    frame = pd.DataFrame([(i, j, scores[i, j]) for i in range(4) for j in range(9)], columns=["cell", "group", "y"])
    total = frame["y"].sum() ** 2 / 36
    ss_cells = (frame.groupby("cell")["y"].sum() ** 2).sum() / 9 - total
    ss_groups = (frame.groupby("group")["y"].sum() ** 2).sum() / 4 - total
    ss_rest = (frame["y"] ** 2).sum() - total - ss_cells - ss_groups
    m_cells, m_groups, m_rest = ss_cells / 3, ss_groups / 8, ss_rest / 24
    t_cells, t_groups = stats.t.ppf(0.975, 3) ** 2, stats.t.ppf(0.975, 8) ** 2
    margin = math.sqrt(max(t_cells * max(m_cells - m_rest, 0) + t_groups * m_groups, t_cells * m_cells) / 36)
    found = estimate_crossed(scores[None])
    assert found.value == pytest.approx(scores.mean())
    assert (found.low, found.high) == pytest.approx((scores.mean() - margin, scores.mean() + margin))


def test_the_jackknife_of_a_mean_is_its_analysis_of_variance():
    scores = draw_scores(np.random.default_rng(5), 3, 7, 0.02, 0.03, 0.02, mean=0.05)[None]
    plain, jackknifed = estimate_crossed(scores), estimate_crossed(scores, lambda one: one[0].mean())
    assert jackknifed == pytest.approx(plain)


def test_p_is_the_level_at_which_the_interval_ends_at_the_null():
    scores = draw_scores(np.random.default_rng(1), 5, 12, 0.01, 0.03, 0.02, mean=0.02)
    found = estimate_crossed(scores[None])
    end = found.low if abs(found.low) < abs(found.high) else found.high
    assert estimate_crossed(scores[None], null=end).p == pytest.approx(0.05, abs=1e-6)
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert estimate_crossed(scores[None], null=scores.mean()).p == 1


def test_where_groups_are_all_alike_cells_count_alone_and_the_other_way_round():
    rng = np.random.default_rng(2)
    cells = rng.normal(0.03, 0.02, (5, 1)) * np.ones((5, 8))
    for scores, values in ((cells, cells[:, 0]), (cells.T, cells.T[0])):
        found = estimate_crossed(scores[None])
        low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high))
        assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=1e-5)


@pytest.mark.parametrize("components", [(0.0106, 0.02, 0.03), (0.025, 0.02, 0.03), (0.003, 0.05, 0.03)])
@pytest.mark.parametrize("n_cells", [2, 6])
def test_arms_that_are_alike_are_told_apart_as_seldom_as_the_interval_says(components, n_cells):
    """Components as seen between networks, patients and the rest, on biopsies, and with either of them ruling."""
    rng, missed, missed_by_groups = np.random.default_rng(0), 0, 0
    for _ in range(400):
        scores = draw_scores(rng, n_cells, 24, *components)
        found = estimate_crossed(scores[None])
        missed += found.low > 0 or found.high < 0
        missed_by_groups += stats.ttest_1samp(scores.mean(axis=0), 0).pvalue < 0.05
    assert missed / 400 <= 0.08
    assert n_cells == 2 or missed / 400 >= 0.02  # two cells may be wider than they need
    if components[0] > 0.01:
        assert missed_by_groups / 400 > 0.1  # groups alone


def test_a_ratio_of_spreads_is_held_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        shared = rng.normal(0, 0.08, 25)
        control = 0.7 + shared + rng.normal(0, 0.06, 25) + rng.normal(0, 0.01, (4, 25))
        scores = 0.7 + (shared + rng.normal(0, 0.06, 25)) / 2 + rng.normal(0, 0.005, (4, 25))
        found = compare_crossed(scores, control)
        held += found["sd_ratio_low"] <= 0.5 <= found["sd_ratio_high"]
    assert 0.9 <= held / 200 <= 1


def test_a_comparison_does_not_care_for_order_unit_or_a_constant():
    rng = np.random.default_rng(3)
    scores, control = (draw_scores(rng, 4, 10, 0.01, 0.05, 0.02, mean=0.7) for _ in range(2))
    found = compare_crossed(scores, control)
    cells, groups = rng.permutation(4), rng.permutation(10)
    moved = compare_crossed(100 * scores[cells][:, groups] + 5, 100 * control[cells][:, groups] + 5)
    for key in ("mean_difference", "ci_low", "ci_high"):
        assert moved[key] == pytest.approx(100 * found[key])
    for key in ("p", "sd_ratio", "sd_ratio_low", "sd_ratio_high"):
        assert moved[key] == pytest.approx(found[key], abs=1e-6)
    swapped = compare_crossed(control, scores)
    assert swapped["ci_low"] == pytest.approx(-found["ci_high"])
    assert swapped["sd_ratio_low"] == pytest.approx(1 / found["sd_ratio_high"])


def test_one_network_or_one_group_has_no_interval_and_equal_arms_no_difference():
    scores = draw_scores(np.random.default_rng(4), 3, 5, 0.01, 0.05, 0.02, mean=0.7)
    for few in (scores[:1], scores[:, :1]):
        found = compare_crossed(few, few - 0.1)
        assert found["mean_difference"] == pytest.approx(0.1)
        assert all(math.isnan(found[key]) for key in ("ci_low", "ci_high", "p", "sd_ratio_low"))
    equal = compare_crossed(scores, scores)
    assert (equal["mean_difference"], equal["ci_low"], equal["ci_high"], equal["p"]) == (0, 0, 0, 1)
    assert equal["sd_ratio"] == 1
    assert math.isnan(compare_crossed(scores, np.full_like(scores, 0.5))["sd_ratio"])  # the control does not vary


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = named(rng.uniform(0, 0.2, 6))
        adjusted = holm(p_values)
        assert list(adjusted) == list(p_values)
        for alpha in (0.01, 0.05, 0.2):
            rejected, waiting = set(), sorted(p_values, key=p_values.get)
            while waiting and p_values[waiting[0]] <= alpha / len(waiting):
                rejected.add(waiting.pop(0))
            assert {name for name, p in adjusted.items() if p <= alpha} == rejected
    assert holm({}) == {}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_holm_keeps_the_chance_of_any_false_finding_below_alpha():
    rng = np.random.default_rng(0)
    uniform = rng.uniform(size=(2000, 5))
    found = [min(holm(named(p)).values()) <= 0.05 for p in uniform]
    assert np.mean(found) <= 0.065  # two standard errors above 0.05
    assert np.mean(uniform.min(axis=1) <= 0.05) > 0.2  # uncorrected


def test_the_jackknife_of_a_mean_is_the_interval_of_student():
    values = dict(zip("abcdefgh", np.random.default_rng(0).normal(3, 2, size=8), strict=True))
    value, low, high = jackknife_groups(lambda kept: np.mean([values[name] for name in kept]), list(values))
    sample = np.array(list(values.values()))
    expected = stats.t.interval(0.95, 7, loc=sample.mean(), scale=stats.sem(sample))
    assert (value, low, high) == (pytest.approx(sample.mean()), *map(pytest.approx, expected))


def test_the_jackknife_holds_a_ratio_as_often_as_it_says():
    random, held, names = np.random.default_rng(0), 0, [str(i) for i in range(15)]
    for _ in range(400):
        pairs = random.normal([2, 4], 0.4, size=(15, 2))  # the ratio of their means is 1/2

        def ratio(kept, pairs=pairs):
            return np.divide(*pairs[[int(name) for name in kept]].sum(0))

        _, low, high = jackknife_groups(ratio, names)
        held += low <= 0.5 <= high
    assert abs(held / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)


def test_too_few_groups_or_no_number_have_no_interval():
    assert [math.isnan(x) for x in jackknife_groups(lambda kept: 1.0, ["a", "b"])] == [False, True, True]
    assert all(math.isnan(x) for x in jackknife_groups(lambda kept: math.nan, list("abcd")))
    value, *interval = jackknife_groups(lambda kept: 1.0 if len(kept) > 3 else math.nan, list("abcd"))
    assert value == 1
    assert all(math.isnan(x) for x in interval)
