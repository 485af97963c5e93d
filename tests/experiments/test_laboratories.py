"""Arms over folds: every group is tested once, and who is compared with whom is decided on validation groups."""

import json

import numpy as np
import pandas as pd
import pytest

from sedm.experiments import laboratories
from sedm.experiments.laboratories import compare_laboratories, read_folds

ARMS = {"real": 0.5, "colour_augmentation": 0.6, "sedm": 0.62, "sedm_augmented": 0.7, "sedm_zero_shot": 0.9}
VALIDATION = {"real": 0.7, "colour_augmentation": 0.8, "sedm": 0.7, "sedm_augmented": 0.8, "sedm_zero_shot": 0.9}


def write_fold(folder, tested, arms=ARMS, draws=(0, 1, 2), n_annotated=8, validation=VALIDATION):
    folder.mkdir()
    rng = np.random.default_rng(len(tested))
    for arm, mean in arms.items():
        for draw in draws if arm != "all_annotations" else draws[:1]:
            around = {
                "test": (tested, mean),
                "validation": (["v-0", "v-1"], validation.get(arm, 0.8)),
                "source": (["s-0", "s-1"], 0.75),
            }
            scores = {
                split: {"iou": {name: centre + rng.normal(0, 0.005) for name in names}}
                for split, (names, centre) in around.items()
            }
            for one in scores.values():
                one["dice"] = one["iou"]
            facts = {"arm": arm, "n_annotated": n_annotated, "draw": draw, "seed": 0, "data": folder.name}
            path = folder / f"values_{arm}-n{n_annotated}-draw{draw}-seed0.json"
            path.write_text(json.dumps({"values": facts | {"scores": scores}, "run": {}}))
    return folder


@pytest.fixture
def folds(tmp_path):
    return [write_fold(tmp_path / "first", ["a", "b", "c"]), write_fold(tmp_path / "second", ["d", "e"])]


def test_every_group_of_all_folds_counts_once(folds):
    compared = compare_laboratories(folds, 8)
    assert set(compared.by_group.index) == set("abcde")
    scores = [json.loads(path.read_text())["values"] for fold in folds for path in fold.glob("*real-*draw1*.json")]
    of_draw = {group: iou for one in scores for group, iou in one["scores"]["test"]["iou"].items()}
    found = read_folds(folds, 8).query("arm == 'real' and draw == 1 and split == 'test'").set_index("group")["iou"]
    assert found.to_dict() == pytest.approx(of_draw)
    assert compared.arms.loc["real", "mean"] == pytest.approx(compared.by_group["real"].mean())
    assert compared.arms["n_groups"].eq(5).all()


def test_validation_groups_choose_control_and_method_but_never_the_zero_shot_arm(folds):
    compared = compare_laboratories(folds, 8)
    assert (compared.control, compared.method) == ("colour_augmentation", "sedm_augmented")
    assert compared.arms.loc["sedm_zero_shot", "validation"] == pytest.approx(0.9, abs=0.01)
    assert "`sedm_augmented` is better than the strongest control, `colour_augmentation`" in compared.finding
    assert np.isnan(compared.arms.loc["sedm_augmented", "p_adjusted"])  # the primary comparison stands as it is


def test_only_runs_that_all_folds_have_are_compared(tmp_path):
    folds = [write_fold(tmp_path / "first", ["a", "b"]), write_fold(tmp_path / "second", ["d", "e"], draws=(1, 2, 3))]
    assert set(read_folds(folds, 8)["draw"]) == {1, 2}
    with pytest.raises(ValueError, match="no run with 4 annotated groups is in each of"):
        read_folds(folds, 4)


def test_what_sees_all_masks_is_there_at_every_count(tmp_path):
    folds = [write_fold(tmp_path / name, [f"{name}-{i}" for i in range(3)]) for name in ("first", "second")]
    for fold in folds:
        for path in write_fold(fold / "more", ["x"], {"all_annotations": 0.9}).glob("*.json"):
            whole = json.loads(path.read_text())
            names = {"first": ["first-0", "first-1", "first-2"], "second": ["second-0", "second-1", "second-2"]}[
                fold.name
            ]
            whole["values"]["scores"]["test"] = {m: dict.fromkeys(names, 0.9) for m in ("iou", "dice")}
            whole["values"] |= {"data": fold.name, "n_annotated": 212}
            (fold / path.name).write_text(json.dumps(whole))
    assert compare_laboratories(folds, 8).arms.loc["all_annotations", "mean"] == pytest.approx(0.9)


def test_a_group_in_two_folds_is_refused(tmp_path):
    folds = [write_fold(tmp_path / "first", ["a", "b"]), write_fold(tmp_path / "second", ["b", "c"])]
    with pytest.raises(ValueError, match="'b' is tested in two folds"):
        compare_laboratories(folds, 8)


def test_an_arm_of_fewer_label_subsets_neither_is_chosen_nor_changes_the_choice(folds):
    whole = read_folds(folds, 8)
    better = whole["arm"].eq("real") & whole["split"].eq("validation") & whole["draw"].gt(0)
    whole.loc[better, "iou"] = 0.99  # on all subsets but the first, real images are the better control
    first = whole[whole["draw"] == 0]
    few = first[first["arm"] == "real"].assign(arm="mean_teacher")
    with pytest.MonkeyPatch.context() as patch:
        for parts, control in (([whole], "real"), ([whole, few], "real"), ([first], "colour_augmentation")):
            patch.setattr(laboratories, "read_folds", lambda *_, parts=parts: pd.concat(parts))
            assert compare_laboratories(folds, 8).control == control


def test_no_folder_is_refused():
    with pytest.raises(ValueError, match="no folder of runs"):
        compare_laboratories([], 8)


def test_without_a_control_there_is_nothing_to_compare(tmp_path):
    fold = write_fold(tmp_path / "first", ["a", "b"], {"sedm": 0.6})
    with pytest.raises(ValueError, match="no arm of the kind 'control'"):
        compare_laboratories([fold], 8)


def test_runs_of_a_sweep_are_no_arms(tmp_path):
    arms = {"real": 0.5, "sedm": 0.6, "colour_jitter_0.4": 0.9}
    folds = [write_fold(tmp_path / name, [name, name + "2", name + "3"], arms) for name in "ab"]
    compared = compare_laboratories(folds, 8)
    assert (compared.control, set(compared.arms.index)) == ("real", {"real", "sedm"})


def test_folds_without_validation_groups_leave_the_choice_open(folds):
    for path in (path for fold in folds for path in fold.glob("*.json")):
        whole = json.loads(path.read_text())
        del whole["values"]["scores"]["validation"]
        path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="has scores of validation groups"):
        compare_laboratories(folds, 8)
