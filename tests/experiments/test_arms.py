"""Arms: each is what its name says, a unit is trained once, and its scores are those of its predictions."""

import json
from dataclasses import replace

import pytest
import torch

import sedm.experiments.arm_runs
from sedm.__main__ import main
from sedm.config import PRESETS, build_config, flatten
from sedm.experiments.comparison import CONTROLS, read_scores
from sedm.experiments.arm_runs import (
    ARMS,
    EVERY_ARM,
    SWEEPS,
    list_units,
    load_predictions,
    run_arms,
    synthetic_pairs,
)
from sedm.experiments.subsets import STYLES, TRANSFERS, Draw, load_study_data
from sedm.generator.denoiser import build_model
from sedm.generator.pipeline import SEDMPipeline
from sedm.segmentation.scores import score_groups

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tissue():
    """The tables of the smallest tissue study."""
    return load_study_data(build_config("tissue", "smoke"), "")


@pytest.fixture
def smoke(monkeypatch, tissue):
    """The smallest tissue study, with an untrained generator for its one draw."""
    config = build_config("tissue", "smoke")
    config = replace(config, arms=replace(config.arms, n_steps=40))
    monkeypatch.setattr(sedm.experiments.arm_runs, "load_study_data", lambda *args: tissue)
    generator = SEDMPipeline.from_model(build_model(config.model, 3, config.data.image_size, seed=0).eval())
    return config, tissue, {"n2-draw0": generator}


def read(path):
    return json.loads(path.read_text())


# ---------------------------------------------------------------------------------------------------- arms


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_name_arms_and_sweeps_that_exist(preset):
    arms = build_config("tissue", preset).arms
    assert set(arms.compared) | set(arms.by_labels) | set(arms.also_compared) <= set(ARMS)
    assert set(arms.swept) <= set(SWEEPS)
    assert set(arms.longer) <= set(EVERY_ARM)
    assert max((*arms.label_counts, 0)) <= build_config("tissue", preset).data.n_train_groups
    assert "real" in arms.compared
    assert "sedm" in arms.compared


def test_every_arm_of_the_plan_is_there():
    assert set(CONTROLS) == {name for name, arm in ARMS.items() if arm.kind == "control"}
    assert build_config("ebhi", "full").arms.compared == tuple(ARMS)
    assert {arm.synthetic for arm in ARMS.values()} == {"", *STYLES, *TRANSFERS}


def test_all_arms_take_the_same_steps_on_the_same_groups():
    baseline = build_config("ebhi", "full")
    longer = [arm for setting, arms in SWEEPS.items() if setting.startswith("n_steps") for arm in arms.values()]
    units = list_units(baseline, [arm for arm in EVERY_ARM if arm not in longer], [4], [1], [2])
    same = ("segmentation.n_steps", "segmentation.batch_size", "segmentation.learning_rate", "data.n_annotated_groups")
    n_groups = {unit.arm: 8 if EVERY_ARM[unit.arm].all_masks else 4 for unit in units}
    for unit in units:
        assert tuple(flatten(unit.config)[key] for key in same) == (400, 12, 3e-3, n_groups[unit.arm])
        assert (unit.draw, unit.config.seed) == (0 if EVERY_ARM[unit.arm].all_masks else 1, 2)


def test_an_arm_differs_from_its_neighbour_in_one_thing():
    settings = {
        unit.arm: unit.config for unit in list_units(build_config("ebhi", "full"), list(EVERY_ARM), [8], [0], [0])
    }

    def changed(arm, other):
        one, two = flatten(settings[arm]), flatten(settings[other])
        facts = [name for name in vars(ARMS[arm]) if getattr(ARMS[arm], name) != getattr(ARMS[other], name)]
        return {key for key in one if one[key] != two[key]}, {*facts} - {"kind", "changes"}

    jitter = "segmentation.colour_jitter"
    assert changed("real", "colour_augmentation") == ({jitter}, {"augmented"})
    taught = {"segmentation.consistency_weight"}, {"unannotated"}
    assert changed("colour_augmentation", "mean_teacher") == taught
    assert changed("sedm_augmented", "sedm_pseudo_labels") == (set(), {"pseudo_labels"})
    assert changed("pseudo_labels", "sedm_pseudo_labels") == ({"segmentation.synthetic_fraction"}, {"synthetic"})
    assert changed("sedm", "shuffled_styles") == (set(), {"synthetic"})
    assert changed("sedm", "sedm_augmented") == ({jitter}, {"augmented"})
    assert changed("sedm", "sedm_filtered") == ({"sampling.filter_percentile"}, set())
    assert changed("sedm_augmented", "sedm_mean_teacher") == taught
    assert changed("sedm_augmented", "sedm_pseudo_layouts") == ({"arms.layouts"}, set())
    assert changed("sedm_augmented", "transductive") == (set(), {"synthetic"})
    tuned = replace(build_config("ebhi", "full").arms, synthetic_fraction=0.3, consistency_weight=2.0)
    (unit,) = list_units(replace(build_config("ebhi", "full"), arms=tuned), ["sedm_mean_teacher"], [8], [0], [0])
    found = unit.config.segmentation
    assert (found.synthetic_fraction, found.consistency_weight) == (0.3, 2.0)
    shares = {"sedm": 0.3, "sedm_pseudo_labels": 0.3, "pseudo_labels": 0.7, "reinhard": 0.1}
    tuned = replace(tuned, pseudo_label_fraction=0.7, transfer_fraction=0.1)
    units = list_units(replace(build_config("ebhi", "full"), arms=tuned), list(shares), [8], [0], [0])
    assert {unit.arm: unit.config.segmentation.synthetic_fraction for unit in units} == shares
    (unit,) = list_units(replace(build_config("ebhi", "full"), arms=tuned), ["real"], [8], [0], [0])
    assert unit.config.segmentation == settings["real"].segmentation  # which depends on none of them
    keys = {"layouts": "arms.layouts", "aggregation": "model.aggregation", "transfer_fraction": "synthetic_fraction"}
    keys |= {"n_steps_of_transfer": "n_steps", "n_steps_of_pseudo_labels": "n_steps"}
    keys |= {"pseudo_label_fraction": "synthetic_fraction"}
    for setting, values in SWEEPS.items():
        for value, arm in values.items():
            key = keys.get(setting, setting)
            key = key if "." in key else f"segmentation.{key}"
            assert setting == "share" or flatten(settings[arm])[key] == value, arm


def test_units_come_seed_by_seed_and_the_ceiling_once_a_seed():
    names = [
        unit.name
        for unit in list_units(build_config("ebhi", "full"), ["real", "all_annotations"], [4, 8], [0, 1], [0, 1])
    ]
    assert [name for name in names if name.startswith("real")] == [
        f"real-n{n}-draw{draw}-seed{seed}" for seed in (0, 1) for n in (4, 8) for draw in (0, 1)
    ]
    others = [name for name in names if not name.startswith("real")]
    assert others == ["all_annotations-n8-draw0-seed0", "all_annotations-n8-draw0-seed1"]
    (alone,) = list_units(build_config("ebhi", "full"), ["all_annotations"], [4], [1], [0])
    assert alone.name == others[0]  # whoever asks


def test_an_unknown_arm_is_named_with_the_one_probably_meant(tmp_path, capsys):
    assert main(["segment", "tissue", "--arms", "reinhart", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("(did you mean 'reinhard'?)\n")


def test_a_dry_run_lists_units_and_sweeps_and_touches_nothing(tmp_path, capsys):
    arguments = ["tissue", "--preset", "smoke", "--arms", "real", "share", "--seeds", "3", "--dry-run"]
    assert main(["segment", *arguments, "--runs", str(tmp_path / "runs")]) == 0
    wanted = ["real", "share_0.125", "share_0.25", "share_0.5", "share_1.0"]
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        [f"{arm}-n2-draw0-seed3", "waiting"] for arm in wanted
    ]
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- pairs


def test_pairs_are_shared_out_and_filtered_as_the_arm_says(smoke, tmp_path):
    config, study, generators = smoke
    draw = Draw(config, study, 0, tmp_path)
    draw.generator = generators["n2-draw0"]
    (sedm,), (filtered,), (half,) = (
        list_units(config, [arm]) for arm in ("sedm", "sedm_filtered", SWEEPS["share"][0.5])
    )
    pairs = {unit.arm: synthetic_pairs(draw, EVERY_ARM[unit.arm], unit.config) for unit in (sedm, filtered, half)}
    assert len(pairs["sedm"].groups) == config.arms.n_images
    assert torch.equal(pairs["share_0.5"].images, pairs["sedm"].images[:6])
    assert 0 < len(pairs["sedm_filtered"].groups) < config.arms.n_images
    assert synthetic_pairs(draw, ARMS["real"], config) is None
    labelled = synthetic_pairs(draw, ARMS["pseudo_labels"], config)
    assert torch.equal(labelled.images, draw.unannotated.images)
    assert torch.equal(labelled.masks, draw.with_pseudo_layouts.masks[~draw.train.has_mask])
    both = synthetic_pairs(draw, ARMS["sedm_pseudo_labels"], sedm.config)
    assert torch.equal(both.images, torch.cat([pairs["sedm"].images, labelled.images]))
    assert torch.equal(both.masks, torch.cat([pairs["sedm"].masks, labelled.masks]))
    assert both.groups == pairs["sedm"].groups + labelled.groups


# --------------------------------------------------------------------------------------------------- units


def test_a_unit_is_scored_by_its_predictions_and_trained_once(smoke, tmp_path, capsys):
    config, study, generators = smoke
    units = list_units(config, ["real", "mean_teacher", "sedm"])
    assert run_arms(config, units, "", tmp_path, tmp_path / "units", generators) == []
    scores = read_scores(tmp_path / "units")
    assert set(scores["arm"]) == {"real", "mean_teacher", "sedm"}
    assert set(scores["split"]) == {"validation", "test", "shifted"}
    test = study.held_out["test"]
    wanted = score_groups(load_predictions(tmp_path, "sedm", 2, draw=0), test.masks, test.groups, 3).set_index("group")
    found = scores.query("arm == 'sedm' and split == 'test'").set_index("group")
    assert found["iou"].to_dict() == pytest.approx(wanted["mean_iou"].to_dict(), rel=1e-4)
    assert found["dice"].to_dict() == pytest.approx(wanted["mean_dice"].to_dict(), rel=1e-4)
    assert found["iou"].min() > 0.05  # a network that says nothing would agree with any other
    unit = read(tmp_path / "units" / "values_sedm-n2-draw0-seed0.json")["values"]
    assert (unit["n_real"], unit["n_synthetic"]) == (12, 12)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "units").iterdir()}
    assert run_arms(config, units, "", tmp_path, tmp_path / "units", generators) == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "units").iterdir()} == before
    assert "3 units, 3 of them finished" in capsys.readouterr().out


def test_the_same_unit_gives_the_same_scores_whoever_ran_before_it(smoke, tmp_path):
    config, _, generators = smoke
    alone, after = list_units(config, ["sedm"]), list_units(config, ["colour_augmentation", "sedm"])
    run_arms(config, alone, "", tmp_path / "a", tmp_path / "a", generators)
    run_arms(config, after, "", tmp_path / "b", tmp_path / "b", generators)
    one, other = (read(tmp_path / name / "values_sedm-n2-draw0-seed0.json")["values"] for name in "ab")
    assert one == other


def test_a_unit_of_other_settings_is_not_taken_for_this_one(smoke, tmp_path):
    config, _, generators = smoke
    run_arms(config, list_units(config, ["real"]), "", tmp_path, tmp_path, generators)
    longer = replace(config, arms=replace(config.arms, n_steps=41))
    with pytest.raises(ValueError, match=r"made with .*n_steps = 40, not 41; choose another folder"):
        run_arms(longer, list_units(longer, ["real"]), "", tmp_path, tmp_path, generators)
    given = "", tmp_path, tmp_path, generators
    assert run_arms(longer, list_units(longer, ["real"]), *given, replace_stale=True) == []
    run = read(tmp_path / "values_real-n2-draw0-seed0.json")["run"]
    assert run["config"]["segmentation.n_steps"] == 41
    run_arms(config, list_units(config, ["real"]), *given, replace_stale=True)
    more = replace(config, arms=replace(config.arms, compared=("real", "sedm"), n_draws=3))  # which units there are
    assert run_arms(more, list_units(more, ["real"], draws=[0]), "", tmp_path, tmp_path, generators) == []


def test_units_of_other_data_or_another_generator_are_not_taken_for_these(smoke, tmp_path, monkeypatch):
    config, study, generators = smoke
    units, where = list_units(config, ["real", "sedm"]), ("", tmp_path, tmp_path)

    def trained():
        files = [tmp_path / f"values_{unit.name}.json" for unit in units]
        return [path.stat().st_mtime_ns for path in files]

    run_arms(config, units, *where, generators)
    first = trained()
    other = SEDMPipeline.from_model(build_model(config.model, 3, config.data.image_size, seed=1).eval())
    with pytest.raises(ValueError, match="made with generator = "):
        run_arms(config, units, *where, {"n2-draw0": other})
    run_arms(config, units, *where, {"n2-draw0": other}, replace_stale=True)
    second = trained()
    assert [one == two for one, two in zip(first, second, strict=True)] == [True, False]
    monkeypatch.setattr(
        sedm.experiments.arm_runs, "load_study_data", lambda *args: study._replace(checksum="of other tables")
    )
    with pytest.raises(ValueError, match="made with data = "):
        run_arms(config, units, *where, {"n2-draw0": other})
    run_arms(config, units, *where, {"n2-draw0": other}, replace_stale=True)
    assert all(one != two for one, two in zip(second, trained(), strict=True))


def test_a_generator_trained_here_is_measured_once(smoke, tmp_path):
    config, *_ = smoke
    arms = replace(config.arms, n_pretraining_steps=2, n_fine_tuning_steps=2)
    config = replace(config, arms=arms)
    run_arms(config, list_units(config, ["sedm", "sedm_augmented"]), "", tmp_path, tmp_path / "units")
    (path,) = (tmp_path / "units" / "generators").iterdir()
    found = read(path)["values"]
    assert path.name == "values_n2-draw0-mean.json"
    assert set(found["floors"]["real"]) <= set(found["measures"])
