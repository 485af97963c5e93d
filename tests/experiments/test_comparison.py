"""Arms compared: by hand, against scipy, and on data where an effect was planted and where none was."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from sedm.config import SegmentationConfig
from sedm.data.patches import Patches
from sedm.experiments.colour_transfer import reinhard
from sedm.experiments.comparison import (
    BOUND,
    COLUMNS,
    compare_arms,
    curve,
    describe_finding,
    group_scores,
    is_found,
    read_scores,
    run_facts,
    strongest_control,
)
from sedm.experiments.subsets import transfer_colours
from sedm.group_statistics import compare_crossed, holm
from sedm.segmentation.scores import score_groups
from sedm.segmentation.segmenter import predict, train_segmenter


def make_scores(means, n_groups=12, draws=(0, 1), seeds=(0, 1, 2), noise=0.02, validation=None):
    """Scores of arms around their means: groups differ alike in all arms, draws, seeds and single scores at random."""
    rng = np.random.default_rng(0)
    groups = {f"case-{i}": value for i, value in enumerate(rng.normal(0, 0.08, n_groups))}
    rows = []
    for split, centres in (("test", means), ("validation", validation or means)):
        for arm, mean in centres.items():
            for draw in draws:
                for seed in seeds:
                    for group, offset in groups.items():
                        iou = mean + offset + 0.01 * draw + rng.normal(0, noise)
                        rows.append((arm, 8, draw, seed, split, f"{split}-{group}", iou, 2 * iou / (1 + iou)))
    return pd.DataFrame(rows, columns=COLUMNS)


# ---------------------------------------------------------------------------------------------- the numbers


def test_a_group_scores_the_mean_over_its_draws_and_seeds():
    scores = make_scores({"real": 0.7, "sedm": 0.8})
    found = group_scores(scores, 8)
    picked = scores.query("arm == 'sedm' and group == 'test-case-3'")
    assert len(picked) == 6
    assert found.loc["test-case-3", "sedm"] == pytest.approx(picked["iou"].mean())
    assert list(found.columns) == ["real", "sedm"]
    assert group_scores(scores, 8, measure="dice").loc["test-case-3", "sedm"] == pytest.approx(picked["dice"].mean())


def test_runs_of_another_count_of_annotated_groups_stay_out_but_not_those_that_see_all_masks():
    scores = make_scores({"real": 0.7, BOUND: 0.9})
    other = scores.assign(n_annotated=4, iou=0.0)
    assert group_scores(pd.concat([scores, other[other["arm"] == "real"]]), 8)["real"].mean() > 0.5
    assert BOUND in group_scores(pd.concat([other[other["arm"] == "real"], scores]), 4)


def test_a_group_that_no_run_could_score_has_no_score():
    scores = make_scores({"real": 0.7, "sedm": 0.8})
    scores.loc[(scores["group"] == "test-case-0") & (scores["arm"] == "sedm"), "iou"] = np.nan
    assert np.isnan(group_scores(scores, 8).loc["test-case-0", "sedm"])
    assert compare_arms(scores, "real", 8).loc["sedm", "n_groups"] == 11


def test_validation_groups_choose_the_control():
    validation = {"real": 0.7, "macenko": 0.9, "sedm": 0.95}
    scores = make_scores({"real": 0.9, "macenko": 0.6, "sedm": 0.8}, validation=validation)
    assert strongest_control(scores, 8) == "macenko"
    assert strongest_control(scores, 8, among=["real"]) == "real"
    with pytest.raises(ValueError, match="no run of reinhard with 8 annotated groups"):
        strongest_control(scores, 8, among=["reinhard"])


def test_a_comparison_counts_draws_and_groups():
    scores = make_scores({"real": 0.7, "sedm": 0.72, "no_style": 0.69, BOUND: 0.9})
    table, by_group = compare_arms(scores, "real", 8), group_scores(scores, 8)
    assert table.loc["sedm", "mean_difference"] == pytest.approx((by_group["sedm"] - by_group["real"]).mean())
    assert table.loc["sedm", "sd_ratio"] == pytest.approx(by_group["sedm"].std() / by_group["real"].std())
    test = scores[scores["split"] == "test"]
    cells = [  # of each draw, the means of its seeds
        test[test["arm"] == arm].pivot_table(index="draw", columns="group", values="iou", aggfunc="mean").to_numpy()
        for arm in ("sedm", "real")
    ]
    assert table.loc["sedm", "n_cells"] == 2
    expected = compare_crossed(*cells)
    for key in ("ci_low", "ci_high", "p", "sd_ratio_low"):
        assert table.loc["sedm", key] == pytest.approx(expected[key])
    assert list(table.index) == [BOUND, "sedm", "real", "no_style"]
    assert table.loc["real", ["mean_difference", "p_adjusted"]].isna().all()


def test_the_seeds_of_a_single_draw_are_repetitions_and_a_single_network_is_none():
    scores = make_scores({"real": 0.7, "sedm": 0.76}, draws=(0,))
    row = compare_arms(scores, "real", 8).loc["sedm"]
    assert row["n_cells"] == 3
    assert row["ci_low"] > 0
    alone = compare_arms(scores[scores["seed"] == 0], "real", 8)
    assert alone.loc["sedm", "n_cells"] == 1
    assert alone.loc["sedm", ["ci_low", "mean_low", "p", "p_adjusted"]].isna().all()
    assert not is_found(alone.loc["sedm"])
    assert "one network an arm or one group tells nothing of methods" in describe_finding(alone, "real", "sedm")


def test_a_difference_that_other_draws_turn_around_is_none():
    """All groups of a draw share its luck: many of them make it no surer."""
    scores = make_scores({"real": 0.7, "sedm": 0.7}, n_groups=60, noise=0.005)
    scores.loc[scores["arm"] == "sedm", "iou"] += 0.02 + 0.03 * (scores["draw"] - 0.5)
    row = compare_arms(scores, "real", 8).loc["sedm"]
    assert row["smallest_difference"] > 0
    assert row["ci_low"] < 0 < row["ci_high"]


def test_holm_counts_the_arms_but_not_the_ceiling():
    table = compare_arms(make_scores({"real": 0.7, "sedm": 0.72, "no_style": 0.7, BOUND: 0.9}), "real", 8)
    wanted = holm(table.loc[["sedm", "no_style"], "p"].to_dict())
    assert table["p_adjusted"].dropna().to_dict() == pytest.approx(wanted)


def test_spread_over_seeds_and_over_draws_are_told_apart():
    scores = make_scores({"real": 0.7}, noise=0.0)
    scores["iou"] = 0.5 + 0.1 * scores["draw"] + 0.01 * scores["seed"]
    row = compare_arms(scores, "real", 8).loc["real"]
    assert row["seed_sd"] == pytest.approx(0.01)
    assert row["draw_sd"] == pytest.approx(0.1 / 2**0.5)
    assert row["n_units"] == 6


def test_a_control_alone_has_the_same_columns():
    table = compare_arms(make_scores({"real": 0.7}), "real", 8)
    assert list(table.index) == ["real"]
    assert set(table) == set(compare_arms(make_scores({"real": 0.7, "sedm": 0.76}), "real", 8))
    assert np.isnan(table.loc["real", "mean_difference"])
    assert np.isnan(table.loc["real", "p_adjusted"])


def test_a_curve_has_a_point_where_there_are_runs():
    scores = make_scores({"real": 0.7})
    scores.loc[scores["split"] == "validation", "iou"] -= 0.2
    table, lower = (curve(scores, {4: ("real", 4), 8: ("real", 8)}, split) for split in ("test", "validation"))
    assert lower.loc[8, "mean"] == pytest.approx(table.loc[8, "mean"] - 0.2, abs=0.01)
    assert list(table.index) == [8]
    assert table.loc[8, "low"] < table.loc[8, "mean"] == pytest.approx(group_scores(scores, 8)["real"].mean())


@pytest.mark.slow
def test_an_arm_is_compared_on_the_draws_and_seeds_that_it_shares_with_the_control():
    """Draw 1 is easier by 0.1: an arm that lacks draw 0 must not look better for it."""
    scores = make_scores({"real": 0.7, "sedm": 0.7, BOUND: 0.9}, noise=0.0)
    scores.loc[scores["draw"] == 1, "iou"] += 0.09
    scores = scores[(scores["arm"] == "real") | (scores["draw"] == 1) | (scores["arm"] == BOUND)]
    scores = scores[(scores["arm"] != BOUND) | (scores["draw"] == 0)]
    table = compare_arms(scores, "real", 8)
    assert table.loc["sedm", "mean_difference"] == pytest.approx(0)
    assert table.loc["sedm", "mean"] == pytest.approx(table.loc["real", "mean"] + 0.05)
    assert table.loc[BOUND, "mean_difference"] == pytest.approx(0.15)  # needs no draw: with all of the control's
    assert table.loc["sedm", "n_units"] == 3
    with pytest.raises(ValueError, match="no run of 'sedm' has the draw and the seed"):
        compare_arms(scores[(scores["arm"] == "sedm") | (scores["draw"] == 0)], "real", 8)


@pytest.mark.parametrize("lost", ["no score", "no row"])
def test_a_group_that_one_run_could_not_score_counts_in_none(lost):
    """A group without foreground has no score in the one run that predicts none there."""
    scores = make_scores({"real": 0.7, "sedm": 0.76, "no_style": 0.7}, draws=(0, 1, 2))
    is_lost = (scores["arm"] == "sedm") & (scores["draw"] == 1) & (scores["group"] == "test-case-3")
    broken = scores[~is_lost] if lost == "no row" else scores.assign(iou=scores["iou"].mask(is_lost))
    wanted = compare_arms(scores[scores["group"] != "test-case-3"], "real", 8)
    pd.testing.assert_frame_equal(compare_arms(broken, "real", 8), wanted)
    assert np.isfinite(wanted.loc["sedm", ["mean_difference", "ci_low", "p_adjusted"]].astype(float)).all()
    with pytest.raises(ValueError, match="no group of the test split has a score in every run"):
        compare_arms(scores.assign(iou=np.nan), "real", 8)


def test_the_strongest_control_is_so_on_the_draws_that_all_controls_have():
    """Draw 1 is easier: a control that was not run on draw 0 must not be chosen for it."""
    scores = make_scores({"real": 0.72, "macenko": 0.7}, noise=0.0)
    scores.loc[scores["draw"] == 1, "iou"] += 0.2
    scores = scores[(scores["arm"] == "real") | (scores["draw"] == 1)]
    assert strongest_control(scores, 8) == "real"
    apart = scores[(scores["arm"] == "macenko") | (scores["draw"] == 0)]
    with pytest.raises(ValueError, match="real, macenko have no draw and seed in common"):
        strongest_control(apart, 8)


def test_without_scores_of_validation_groups_no_control_is_the_strongest():
    scores = make_scores({"real": 0.7, "macenko": 0.6})
    with pytest.raises(ValueError, match=r"no run of real, .* with 8 annotated groups has scores"):
        strongest_control(scores[scores["split"] == "test"], 8)
    scores.loc[scores["split"] == "validation", "iou"] = np.nan
    with pytest.raises(ValueError, match="real, macenko have no validation group with a score in common"):
        strongest_control(scores, 8)


@pytest.mark.slow
def test_the_largest_and_smallest_difference_are_those_of_one_network():
    scores = make_scores({"real": 0.7, "sedm": 0.7}, noise=0.0)
    scores.loc[(scores["arm"] == "sedm") & (scores["draw"] == 1) & (scores["seed"] == 2), "iou"] += 0.03
    scores.loc[(scores["arm"] == "sedm") & (scores["draw"] == 0) & (scores["seed"] == 0), "iou"] -= 0.01
    row = compare_arms(scores, "real", 8).loc["sedm"]
    assert row[["smallest_difference", "largest_difference"]].tolist() == pytest.approx([-0.01, 0.03])


def test_arms_that_see_more_are_not_tested():
    scores = make_scores({"real": 0.7, "sedm": 0.72, "transductive": 0.8})
    table = compare_arms(scores, "real", 8, untested=["transductive"])
    assert table["p_adjusted"].dropna().to_dict() == {"sedm": pytest.approx(table.loc["sedm", "p"])}


def test_an_interval_is_no_finding_where_the_adjusted_p_is_none():
    table = compare_arms(make_scores({"real": 0.7, "sedm": 0.76}, draws=range(4)), "real", 8)
    assert "`sedm` is better" in describe_finding(table, "real", "sedm")
    table.loc["sedm", "p_adjusted"] = 0.06
    assert table.loc["sedm", "ci_low"] > 0
    assert "`sedm` cannot be told from the" in describe_finding(table, "real", "sedm")


@pytest.mark.parametrize(
    ("ours", "verdict"), [(0.76, "is better than"), (0.7, "cannot be told from"), (0.64, "is worse than")]
)
def test_the_finding_is_worded_by_the_interval(ours, verdict):
    table = compare_arms(make_scores({"real": 0.7, "sedm": ours}, draws=range(4)), "real", 8)
    told = describe_finding(table, "real", "sedm")
    assert f"`sedm` {verdict} the strongest control, `real`" in told
    assert "Another draw" in told
    alone = compare_arms(make_scores({"real": 0.7, "sedm": ours}, draws=(0,)), "real", 8)
    assert "Another draw" not in describe_finding(alone, "real", "sedm")


# ------------------------------------------------------------------------------------------------ the files


def write_run(folder, seed, data="abc", iou=0.5):
    values = {"arm": "real", "n_annotated": 8, "draw": 0, "seed": seed, "data": data, "n_real": 3, "n_synthetic": 0}
    values["scores"] = {split: {key: {"case-a": iou, "case-b": None} for key in ("iou", "dice")} for split in ("test",)}
    stored = {"values": values, "run": {"commit": "0" * 40, "device": "CPU", "seconds": 1.0}}
    (folder / f"values_real-n8-draw0-seed{seed}.json").write_text(json.dumps(stored))


def test_runs_are_read_as_they_were_written(tmp_path):
    write_run(tmp_path, 0, iou=0.4)
    write_run(tmp_path, 1, iou=0.6)
    scores = read_scores(tmp_path)
    assert list(scores.columns) == COLUMNS
    assert scores.query("group == 'case-a'")["iou"].tolist() == [0.4, 0.6]
    assert scores.query("group == 'case-b'")["iou"].isna().all()
    assert [(run["seed"], run["iou"]["case-a"]) for run in run_facts(tmp_path)] == [(0, 0.4), (1, 0.6)]
    wanted = ["real-n8-draw0-seed1", "real-n8-draw0-seed2"]  # the second was never run
    assert set(read_scores(tmp_path, wanted)["seed"]) == {1}
    assert [run["seed"] for run in run_facts(tmp_path, wanted)] == [1]


def test_no_runs_and_runs_of_different_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no values_\*.json; sedm segment writes them"):
        read_scores(tmp_path)
    write_run(tmp_path, 0)
    write_run(tmp_path, 1, data="other")
    with pytest.raises(ValueError, match="runs of different data"):
        read_scores(tmp_path)


# ------------------------------------------------------------------------- a planted effect, a planted null

CLASS_COLOURS = torch.tensor([[225, 185, 205], [165, 105, 160], [105, 45, 110]])  # of a pale stain


def stained_patches(first, n_patients, brightness=1.0):
    """Six images a patient of a square with a smaller one in it, each as large as in all others; some grain."""
    generator = torch.Generator().manual_seed(first)
    masks = torch.zeros(6 * n_patients, 16, 16, dtype=torch.uint8)
    for mask in masks:
        row, column = torch.randint(8, (2,), generator=generator).tolist()
        mask[row : row + 9, column : column + 9] = 1
        mask[row + 2 : row + 6, column + 2 : column + 6] = 2
    grain = torch.randint(-8, 9, (len(masks), 3, 16, 16), generator=generator)
    images = (CLASS_COLOURS[masks.long()].permute(0, 3, 1, 2) + grain) * brightness
    groups = [f"patient-{first + row // 6}" for row in range(len(masks))]
    return Patches(images.round().to(torch.uint8), masks, groups, ("ground", "square", "core"))


def scores_of_an_arm(real, test, synthetic):
    """Of three networks, a row each. The classes lie so far apart that any network learns them to the pixel."""
    config = SegmentationConfig(
        channels=(8, 16), n_steps=150, batch_size=16, learning_rate=1e-2, synthetic_fraction=0.5
    )
    networks = [train_segmenter(real, config, seed=seed, synthetic=synthetic, progress=False) for seed in range(3)]
    scores = [score_groups(predict(network, test.images), test).set_index("group")["mean_iou"] for network in networks]
    return np.stack(scores)


@pytest.mark.slow
@pytest.mark.parametrize("planted", [True, False])
def test_a_planted_shift_of_style_is_found_and_none_is_found_where_there_is_none(planted):
    """Planted: unannotated and test patients are stained twice as dark as the annotated ones.

    Where nothing is planted, both arms leave nothing to improve but what annotators got wrong, a patient more often
    than another.
    """
    brightness = 0.5 if planted else 1.0
    real, others, test = (
        stained_patches(first, n_patients, brightness)
        for first, n_patients, brightness in ((0, 3, 1.0), (3, 4, brightness), (7, 12, brightness))
    )
    synthetic = transfer_colours(real, others, reinhard, n_images=48, seed=0)
    generator = torch.Generator().manual_seed(0)
    share_wrong = torch.linspace(0, 0.2, 12).repeat_interleave(6)[:, None, None]
    wrong = torch.rand(test.masks.shape, generator=generator) < share_wrong
    test = replace(test, masks=torch.where(wrong, (test.masks + 1) % 3, test.masks))
    control, arm = scores_of_an_arm(real, test, None), scores_of_an_arm(real, test, synthetic)
    assert np.ptp(arm.mean(axis=0)) > 0.3  # patients differ far more than arms that are alike
    found = compare_crossed(arm, control)
    assert (found["p"] < 0.05) == planted
    assert planted or -0.01 < found["mean_difference"] < 0.01
