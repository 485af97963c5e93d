"""Intervals and tests against hand-written ones and known truth."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sedm.group_statistics import compare_groups, holm, jackknife_groups, summarise_groups


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


def signed_rank_p(differences):
    """The exact two-sided p value, from all 2ⁿ signs."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = abs(sum(ranks * np.sign(differences)))
    sums = [abs(sum(ranks * np.array(signs))) for signs in itertools.product([-1, 1], repeat=len(ranks))]
    return np.mean([total >= observed for total in sums])


def test_the_comparison_is_the_textbook_one():
    rng = np.random.default_rng(1)
    control = rng.normal(0.7, 0.1, 9)
    scores = 0.4 + 0.5 * control + rng.normal(0, 0.05, 9)
    shuffled = dict(sorted(named(control).items(), key=lambda item: item[1]))  # pairs are found by name
    comparison = compare_groups(named(scores), shuffled, seed=0)
    assert comparison["n_groups"] == 9
    assert comparison["mean_difference"] == pytest.approx((scores - control).mean())
    assert comparison["wilcoxon_p"] == pytest.approx(signed_rank_p(scores - control))
    assert comparison["sd_ratio"] == pytest.approx(np.std(scores) / np.std(control))
    expected = percentile_bootstrap(scores - control, seed=1)
    tolerance = 0.04 * (expected[1] - expected[0])
    np.testing.assert_allclose([comparison["ci_low"], comparison["ci_high"]], expected, atol=tolerance)


@pytest.mark.slow
def test_a_planted_difference_is_found_and_a_planted_null_is_not():
    rng = np.random.default_rng(0)
    found = {0.0: [], 0.05: []}
    for effect in found:
        for i in range(100):
            control = rng.normal(0.7, 0.2, 20)  # groups differ far more than the arms
            comparison = compare_groups(named(control + rng.normal(effect, 0.05, 20)), named(control), seed=i)
            found[effect].append((comparison["wilcoxon_p"] < 0.05, comparison["ci_low"] > 0))
    null, planted = np.mean(found[0.0], axis=0), np.mean(found[0.05], axis=0)
    assert null[0] <= 0.12
    assert null[1] <= 0.09
    assert (planted >= 0.9).all()


def test_comparisons_of_equal_few_or_unlike_groups():
    equal = compare_groups(named([0.5, 0.6, 0.7]), named([0.5, 0.6, 0.7]), seed=0)
    assert (equal["mean_difference"], equal["wilcoxon_p"], equal["sd_ratio"]) == (0, 1, 1)
    one = compare_groups({"a": 0.6}, {"a": 0.5}, seed=0)
    assert one["mean_difference"] == pytest.approx(0.1)
    assert math.isnan(one["ci_low"])
    assert math.isnan(one["sd_ratio"])
    assert math.isnan(one["sd_ratio_low"])
    missing = compare_groups({"a": 0.6, "b": math.nan, "c": 0.9}, {"a": 0.5, "b": 0.1, "c": 0.7}, seed=0)
    assert missing["n_groups"] == 2
    assert missing["mean_difference"] == pytest.approx(0.15)
    assert math.isnan(compare_groups({"a": 0.5, "b": 0.6}, {"a": 0.5, "b": 0.5}, seed=0)["sd_ratio"])
    with pytest.raises(ValueError, match="'b' is on one side only"):
        compare_groups({"a": 0.6, "b": 0.5}, {"a": 0.5}, seed=0)
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_groups({"a": 0.6}, {"a": math.nan}, seed=0)


@pytest.mark.slow
def test_the_interval_of_the_sd_ratio_is_the_one_of_a_loop_over_resamples():
    rng = np.random.default_rng(2)
    control = rng.normal(0.7, 0.1, 30)
    scores = 0.3 + 0.5 * control + rng.normal(0, 0.03, 30)
    comparison = compare_groups(named(scores), named(control), seed=0)
    ratios = []
    for _ in range(20_000):
        rows = rng.integers(30, size=30)
        ratios.append(np.std(scores[rows]) / np.std(control[rows]))
    expected = np.percentile(ratios, [2.5, 97.5])
    found = [comparison["sd_ratio_low"], comparison["sd_ratio_high"]]
    np.testing.assert_allclose(found, expected, atol=0.04 * (expected[1] - expected[0]))
    few = compare_groups(named([0.1, 0.5, 0.6]), named([0.2, 0.5, 0.7]), seed=0)  # resamples of one group only occur
    assert 0 <= few["sd_ratio_low"] <= few["sd_ratio"] <= few["sd_ratio_high"] < math.inf


@pytest.mark.slow
def test_the_interval_of_the_sd_ratio_covers_the_truth_as_often_as_the_other():
    rng, covered = np.random.default_rng(0), []
    for i in range(150):
        shared = rng.normal(0, 0.08, 25)
        control, scores = 0.7 + shared + rng.normal(0, 0.06, 25), 0.7 + shared / 2 + rng.normal(0, 0.03, 25)
        comparison = compare_groups(named(scores), named(control), seed=i)
        covered.append(comparison["sd_ratio_low"] <= 0.5 <= comparison["sd_ratio_high"])
    assert 0.87 <= np.mean(covered) <= 0.99


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
