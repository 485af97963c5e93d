"""Arms trained: pairs are what the arm says, a run is trained once, and its scores are those of its predictions."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sedm.__main__ import main
from sedm.config import build_config
from sedm.data.study_data import load_study
from sedm.experiments import arm_runs
from sedm.experiments.arm_runs import load_predictions, synthetic_pairs, train_arms
from sedm.experiments.arms import ARMS, EVERY_ARM, SWEEPS, list_arm_runs
from sedm.experiments.comparison import read_scores
from sedm.experiments.subsets import LabelSubset
from sedm.generator.denoiser import build_model
from sedm.generator.pipeline import SEDMPipeline
from sedm.segmentation.scores import score_groups
from sedm.segmentation.segmenter import predict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tissue():
    """The data of the smallest tissue study."""
    return load_study(build_config("tissue", "smoke"))


@pytest.fixture
def smoke(tissue):
    """The smallest tissue study, with an untrained generator for its one label subset."""
    config = build_config("tissue", "smoke")
    config = replace(config, arms=replace(config.arms, n_steps=40))
    generator = SEDMPipeline.from_model(build_model(config.model, 3, config.data.image_size, seed=0).eval())
    return config, tissue, {"n2-draw0": generator}


def read(path):
    return json.loads(path.read_text())


# -------------------------------------------------------------------------------------------- the command line


def test_an_unknown_arm_is_named_with_the_one_probably_meant(tmp_path, capsys):
    assert main(["segment", "tissue", "--arms", "reinhart", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("(did you mean 'reinhard'?)\n")


def test_a_dry_run_lists_runs_and_sweeps_and_touches_nothing(tmp_path, capsys):
    arguments = ["tissue", "--preset", "smoke", "--arms", "real", "share", "--seeds", "3", "--dry-run"]
    assert main(["segment", *arguments, "--runs", str(tmp_path / "runs")]) == 0
    wanted = ["real", "share_0.125", "share_0.25", "share_0.5", "share_1.0"]
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        [f"{arm}-n2-draw0-seed3", "waiting"] for arm in wanted
    ]
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- rounds and adaptation


def scores_of(arm, smoke, folder):
    config, study, generators = smoke
    train_arms(config, list_arm_runs(config, [arm]), study, folder / "runs", folder / "units", generators)
    return read_scores(folder / "units").query("split == 'test'").set_index("group")["iou"]


def test_a_second_round_learns_from_what_the_first_one_predicts(smoke, tmp_path, monkeypatch):
    given, train = [], arm_runs.train_segmenter

    def record(*arguments, synthetic, **options):
        given.append((synthetic, train(*arguments, synthetic=synthetic, **options)))
        return given[-1][1]

    monkeypatch.setattr(arm_runs, "train_segmenter", record)
    scores_of("self_training", smoke, tmp_path)
    assert len(given) == ARMS["self_training"].rounds
    for (pairs, network), (later, _) in pairwise(given):
        assert torch.equal(later.images, pairs.images)
        assert torch.equal(later.masks, predict(network, pairs.images))


@pytest.mark.parametrize("arm", ["batch_statistics", "normalised_tests"])
def test_an_adapted_arm_is_the_same_network_tested_in_another_way(arm, smoke, tmp_path):
    plain, adapted = (scores_of(name, smoke, tmp_path / name) for name in ("colour_augmentation", arm))
    assert list(plain.index) == list(adapted.index)
    assert not plain.equals(adapted)


# --------------------------------------------------------------------------------------------------- pairs


def test_pairs_are_shared_out_and_filtered_as_the_arm_says(smoke, tmp_path):
    config, study, generators = smoke
    subset = LabelSubset(config, study, 0, tmp_path, generators["n2-draw0"])
    (sedm,), (filtered,), (half,) = (
        list_arm_runs(config, [arm]) for arm in ("sedm", "sedm_filtered", SWEEPS["share"][0.5])
    )
    pairs = {run.arm: synthetic_pairs(subset, EVERY_ARM[run.arm], run.config) for run in (sedm, filtered, half)}
    assert len(pairs["sedm"].groups) == config.arms.n_images
    assert torch.equal(pairs["share_0.5"].images, pairs["sedm"].images[:6])
    assert 0 < len(pairs["sedm_filtered"].groups) < config.arms.n_images
    assert synthetic_pairs(subset, ARMS["real"], config) is None
    labelled = synthetic_pairs(subset, ARMS["pseudo_labels"], config)
    assert torch.equal(labelled.images, subset.train.unannotated().images)
    assert torch.equal(labelled.masks, subset.with_predicted_masks.masks[~subset.train.is_annotated])
    both = synthetic_pairs(subset, ARMS["sedm_pseudo_labels"], sedm.config)
    assert torch.equal(both.images, torch.cat([pairs["sedm"].images, labelled.images]))
    assert torch.equal(both.masks, torch.cat([pairs["sedm"].masks, labelled.masks]))
    assert both.groups == pairs["sedm"].groups + labelled.groups


# --------------------------------------------------------------------------------------------------- runs


def test_a_run_is_scored_by_its_predictions_and_trained_once(smoke, tmp_path, capsys):
    config, study, generators = smoke
    runs = list_arm_runs(config, ["real", "mean_teacher", "sedm"])
    assert train_arms(config, runs, study, tmp_path, tmp_path / "scores", generators) == []
    scores = read_scores(tmp_path / "scores")
    assert set(scores["arm"]) == {"real", "mean_teacher", "sedm"}
    assert set(scores["split"]) == {"validation", "test", "shifted"}
    wanted = score_groups(load_predictions(tmp_path, "sedm", 2, draw=0), study.test).set_index("group")
    found = scores.query("arm == 'sedm' and split == 'test'").set_index("group")
    assert found["iou"].to_dict() == pytest.approx(wanted["mean_iou"].to_dict(), rel=1e-4)
    assert found["dice"].to_dict() == pytest.approx(wanted["mean_dice"].to_dict(), rel=1e-4)
    assert found["iou"].min() > 0.05  # a network that says nothing would agree with any other
    run = read(tmp_path / "scores" / "values_sedm-n2-draw0-seed0.json")["values"]
    assert (run["n_real"], run["n_synthetic"]) == (12, 12)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "scores").iterdir()}
    assert train_arms(config, runs, study, tmp_path, tmp_path / "scores", generators) == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "scores").iterdir()} == before
    assert "3 runs, 3 of them finished" in capsys.readouterr().out


def test_the_same_run_gives_the_same_scores_whoever_ran_before_it(smoke, tmp_path):
    config, study, generators = smoke
    alone, after = list_arm_runs(config, ["sedm"]), list_arm_runs(config, ["colour_augmentation", "sedm"])
    train_arms(config, alone, study, tmp_path / "a", tmp_path / "a", generators)
    train_arms(config, after, study, tmp_path / "b", tmp_path / "b", generators)
    one, other = (read(tmp_path / name / "values_sedm-n2-draw0-seed0.json")["values"] for name in "ab")
    assert one == other


def test_a_run_of_other_settings_is_not_taken_for_this_one(smoke, tmp_path):
    config, study, generators = smoke
    train_arms(config, list_arm_runs(config, ["real"]), study, tmp_path, tmp_path, generators)
    longer = replace(config, arms=replace(config.arms, n_steps=41))
    with pytest.raises(ValueError, match=r"made with .*n_steps = 40, not 41; choose another folder"):
        train_arms(longer, list_arm_runs(longer, ["real"]), study, tmp_path, tmp_path, generators)
    given = study, tmp_path, tmp_path, generators
    assert train_arms(longer, list_arm_runs(longer, ["real"]), *given, replace_stale=True) == []
    run = read(tmp_path / "values_real-n2-draw0-seed0.json")["run"]
    assert run["config"]["arms.n_steps"] == 41
    train_arms(config, list_arm_runs(config, ["real"]), *given, replace_stale=True)
    more = replace(config, arms=replace(config.arms, compared=("real", "sedm"), n_draws=3))  # which runs there are
    assert train_arms(more, list_arm_runs(more, ["real"], draws=[0]), study, tmp_path, tmp_path, generators) == []


def test_runs_of_other_data_or_another_generator_are_not_taken_for_these(smoke, tmp_path):
    config, study, generators = smoke
    runs, where = list_arm_runs(config, ["real", "sedm"]), (study, tmp_path, tmp_path)

    def trained():
        files = [tmp_path / f"values_{run.name}.json" for run in runs]
        return [path.stat().st_mtime_ns for path in files]

    train_arms(config, runs, *where, generators)
    first = trained()
    other = SEDMPipeline.from_model(build_model(config.model, 3, config.data.image_size, seed=1).eval())
    with pytest.raises(ValueError, match="made with generator = "):
        train_arms(config, runs, *where, {"n2-draw0": other})
    train_arms(config, runs, *where, {"n2-draw0": other}, replace_stale=True)
    second = trained()
    assert [one == two for one, two in zip(first, second, strict=True)] == [True, False]
    other_study = replace(study, patches=study.patches | {"shifted": study.validation})
    where = (other_study, tmp_path, tmp_path)
    with pytest.raises(ValueError, match="made with data = "):
        train_arms(config, runs, *where, {"n2-draw0": other})
    train_arms(config, runs, *where, {"n2-draw0": other}, replace_stale=True)
    assert all(one != two for one, two in zip(second, trained(), strict=True))


def test_a_generator_trained_here_is_measured_once(smoke, tmp_path):
    config, study, _ = smoke
    arms = replace(config.arms, n_pretraining_steps=2, n_fine_tuning_steps=2)
    config = replace(config, arms=arms)
    train_arms(config, list_arm_runs(config, ["sedm", "sedm_augmented"]), study, tmp_path, tmp_path / "scores")
    (path,) = (tmp_path / "scores" / "generators").iterdir()
    found = read(path)["values"]
    assert path.name == "values_n2-draw0-by_class.json"
    assert set(found["floors"]["real"]) <= set(found["measures"])
