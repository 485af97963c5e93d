"""Arms: each is what its name says, and differs from its neighbour in one thing."""

from dataclasses import replace

import pytest

from sedm.config import CONTROLS, PRESETS, build_config, flatten
from sedm.experiments.arms import ARMS, EVERY_ARM, SWEEPS, list_arm_runs
from sedm.experiments.subsets import STYLES, TRANSFERS


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
    across_laboratories = {
        "macenko_augmented",
        "fourier",
        "fourier_augmented",
        "stain_augmentation",
        "class_augmentation",
        "sedm_class_augmentation",
        "batch_statistics",
        "normalised_tests",
        "self_training",
        "unimatch",
        "sedm_ignoring",
        "sedm_zero_shot",
        "sedm_extrapolated",
        "sedm_unimatch",
    }
    assert set(CONTROLS) == {name for name, arm in ARMS.items() if arm.kind == "control"} - across_laboratories
    assert build_config("ebhi", "full").arms.compared == tuple(name for name in ARMS if name not in across_laboratories)
    assert {arm.synthetic for arm in ARMS.values()} == {"", *STYLES, *TRANSFERS}


def test_all_arms_take_the_same_steps_on_the_same_groups():
    baseline = build_config("ebhi", "full")
    longer = [arm for setting, arms in SWEEPS.items() if setting.startswith("n_steps") for arm in arms.values()]
    runs = list_arm_runs(baseline, [arm for arm in EVERY_ARM if arm not in longer], [4], [1], [2])
    same = ("arms.n_steps", "arms.batch_size", "arms.learning_rate", "data.n_annotated_groups")
    n_groups = {run.arm: 8 if EVERY_ARM[run.arm].all_masks else 4 for run in runs}
    for run in runs:
        assert tuple(flatten(run.config)[key] for key in same) == (400, 12, 3e-3, n_groups[run.arm])
        assert (run.draw, run.config.seed) == (0 if EVERY_ARM[run.arm].all_masks else 1, 2)


def test_an_arm_differs_from_its_neighbour_in_one_thing():
    settings = {
        run.arm: run.config for run in list_arm_runs(build_config("ebhi", "full"), list(EVERY_ARM), [8], [0], [0])
    }

    def changed(arm, other):
        one, two = flatten(settings[arm]), flatten(settings[other])
        facts = [name for name in vars(ARMS[arm]) if getattr(ARMS[arm], name) != getattr(ARMS[other], name)]
        return {key for key in one if one[key] != two[key]}, {*facts} - {"kind", "changes"}

    jitter = "arms.colour_jitter"
    assert changed("real", "colour_augmentation") == ({jitter}, {"augmented"})
    for arm, by_class in (("colour_augmentation", "class_augmentation"), ("sedm_augmented", "sedm_class_augmentation")):
        assert changed(arm, by_class) == ({"arms.class_jitter"}, set())
    taught = {"arms.consistency_weight"}, {"unannotated"}
    assert changed("colour_augmentation", "mean_teacher") == taught
    assert changed("sedm_augmented", "sedm_pseudo_labels") == (set(), {"pseudo_labels"})
    assert changed("pseudo_labels", "sedm_pseudo_labels") == ({"arms.synthetic_fraction"}, {"synthetic"})
    assert changed("sedm", "shuffled_styles") == (set(), {"synthetic"})
    assert changed("sedm", "sedm_augmented") == ({jitter}, {"augmented"})
    assert changed("sedm", "sedm_filtered") == ({"sampling.filter_percentile"}, set())
    assert changed("sedm_augmented", "sedm_mean_teacher") == taught
    assert changed("sedm_augmented", "sedm_pseudo_layouts") == ({"arms.layouts"}, set())
    assert changed("sedm_augmented", "transductive") == (set(), {"synthetic"})
    tuned = replace(build_config("ebhi", "full").arms, synthetic_fraction=0.3, consistency_weight=2.0)
    (run,) = list_arm_runs(replace(build_config("ebhi", "full"), arms=tuned), ["sedm_mean_teacher"], [8], [0], [0])
    found = run.config.arms
    assert (found.synthetic_fraction, found.consistency_weight) == (0.3, 2.0)
    shares = {"sedm": 0.3, "sedm_pseudo_labels": 0.3, "pseudo_labels": 0.7, "reinhard": 0.1}
    tuned = replace(tuned, pseudo_label_fraction=0.7, transfer_fraction=0.1)
    runs = list_arm_runs(replace(build_config("ebhi", "full"), arms=tuned), list(shares), [8], [0], [0])
    assert {run.arm: run.config.arms.synthetic_fraction for run in runs} == shares
    (run,) = list_arm_runs(replace(build_config("ebhi", "full"), arms=tuned), ["real"], [8], [0], [0])
    one, two = flatten(run.config), flatten(settings["real"])  # which depends on none of them
    assert {key for key in one if one[key] != two[key]} == {"arms.pseudo_label_fraction", "arms.transfer_fraction"}
    keys = {"layouts": "arms.layouts", "transfer_fraction": "synthetic_fraction"}
    keys |= {"n_steps_of_transfer": "n_steps", "n_steps_of_pseudo_labels": "n_steps"}
    keys |= {"pseudo_label_fraction": "synthetic_fraction"}
    for setting, values in SWEEPS.items():
        for value, arm in values.items():
            key = keys.get(setting, setting)
            key = key if "." in key else f"arms.{key}"
            assert setting == "share" or flatten(settings[arm])[key] == value, arm


def test_runs_come_seed_by_seed_and_the_ceiling_once_a_seed():
    names = [
        run.name
        for run in list_arm_runs(build_config("ebhi", "full"), ["real", "all_annotations"], [4, 8], [0, 1], [0, 1])
    ]
    assert [name for name in names if name.startswith("real")] == [
        f"real-n{n}-draw{draw}-seed{seed}" for seed in (0, 1) for n in (4, 8) for draw in (0, 1)
    ]
    others = [name for name in names if not name.startswith("real")]
    assert others == ["all_annotations-n8-draw0-seed0", "all_annotations-n8-draw0-seed1"]
    (alone,) = list_arm_runs(build_config("ebhi", "full"), ["all_annotations"], [4], [1], [0])
    assert alone.name == others[0]  # whoever asks
