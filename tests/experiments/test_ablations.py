"""Ablations: every arm changes one thing, a unit is done once by one process, and the table is the hand-made one."""

import json
import os
import signal
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import ROOT

import sedm.experiments.variant_runs
from sedm.__main__ import main
from sedm.config import build_config, flatten
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import data_checksum
from sedm.data.sources import load_study
from sedm.experiments.variant_runs import (
    claim,
    list_units,
    load_material,
    run_units,
)
from sedm.experiments.runs import finish_units
from sedm.experiments.variants import ABLATIONS, EARLIER, QUESTIONS, ablation_table, read_measures
from sedm.fidelity import SHORT_TITLES, segmenter_extractor
from sedm.fidelity.unseen import draw_unseen
from sedm.generator.denoiser import build_model
from sedm.segmentation.networks import UNet


@pytest.fixture
def material(patches):
    """Tiny data: two of four groups annotated, and two other groups that are unseen."""
    generator = torch.Generator().manual_seed(1)
    masks = (torch.rand(16, 16, 16, generator=generator) < 0.3).to(torch.uint8)
    test = patches._replace(masks=masks, groups=[f"unseen-{row // 4}" for row in range(16)])
    judge, other = (UNet(2, (8, 16)).eval() for _ in range(2))
    unseen = draw_unseen(test, judge, segmenter_extractor(other, "nothing"), ("stroma", "epithelium"))
    return sedm.experiments.variant_runs.Material(patches, set(test.groups), unseen, data_checksum(patches))


@pytest.fixture
def config(config):
    """Fewer pictures on the way than elsewhere: they take most of the time."""
    return replace(
        config,
        training=replace(config.training, checkpoint_every=6, unannotated="pseudo_layouts"),
        sampling=replace(config.sampling, micro_batch=32),
    )


@pytest.fixture
def untrained(monkeypatch):
    """Models are neither trained nor measured."""
    train = lambda config, *args, **options: build_model(config.model, 2, config.data.image_size, config.seed)  # noqa: E731
    monkeypatch.setattr(sedm.experiments.variant_runs, "train_model", train)
    measured = {
        "measures": dict.fromkeys(SHORT_TITLES, 0.5),
        "floors": {},
        "measured_on": dict.fromkeys(SHORT_TITLES, "a network"),
    }
    monkeypatch.setattr(sedm.experiments.variant_runs, "measure_generator", lambda *args: measured)


@pytest.fixture
def prepared(monkeypatch, material):
    """Runs need no data of a study."""
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", lambda *args: material)
    return material


def read(path):
    return json.loads(path.read_text())


# ---------------------------------------------------------------------------------------------------- arms


@pytest.mark.parametrize("study", ["tissue", "ebhi"])
def test_every_arm_changes_what_its_question_asks_and_nothing_about_the_budget(study):
    baseline = build_config(study, "quick")
    units = list_units(baseline, list(QUESTIONS), [3])
    before, settings = flatten(replace(baseline, seed=3)), [flatten(unit.config) for unit in units]
    changed = {
        unit.arm: {key for key in one if one[key] != before[key]} for unit, one in zip(units, settings, strict=True)
    }
    assert [arm for arm in changed if not changed[arm]] == ["baseline"]
    assert {len(keys) for arm, keys in changed.items() if arm not in ("baseline", "cross_attention")} == {1}
    assert len({json.dumps(one) for one in settings}) == len(units)
    assert not {key for keys in changed.values() for key in keys} & {"training.n_steps", "training.batch_size"}


def test_every_question_of_the_plan_has_its_arms():
    assert {question: len(arms) for question, arms in ABLATIONS.items()} == {
        "baseline": 1,
        "style encoder": 2,
        "style injection": 2,
        "aggregation": 3,
        "objective": 3,
        "unannotated images": 2,
        "augmentation": 2,
        "layout": 2,
    }


def test_an_unknown_arm_is_named_with_the_one_probably_meant(tmp_path, capsys):
    assert main(["ablate", "tissue", "--arms", "botleneck", "--out", str(tmp_path)]) == 2
    assert "arm='botleneck'; choose one of baseline, " in (error := capsys.readouterr().err)
    assert error.endswith("(did you mean 'bottleneck'?)\n")


def test_a_dry_run_lists_the_units_and_touches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", None)
    arguments = ["tissue", "--arms", "baseline", "left_out", "--seeds", "0", "7", "--n-steps", "9", "--dry-run"]
    assert main(["ablate", *arguments, "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["baseline-seed0", "waiting"],
        ["left_out-seed0", "waiting", "training.unannotated=left_out"],
        ["baseline-seed7", "waiting", "seed=7"],
        ["left_out-seed7", "waiting", "seed=7", "training.unannotated=left_out"],
    ]
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- units


@pytest.mark.slow
def test_a_unit_is_trained_measured_and_written_once(prepared, config, tmp_path, monkeypatch, capsys):
    units = list_units(config, ["baseline"], [0, 1])
    assert run_units(units, "", tmp_path / "runs", tmp_path / "out") == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "values_baseline-seed0.json",
        "values_baseline-seed1.json",
    ]
    saved = read(tmp_path / "out" / "values_baseline-seed1.json")
    assert saved["run"]["config"] == json.loads(json.dumps(flatten(replace(config, seed=1))))
    assert {"commit", "versions", "device", "seconds"} <= saved["run"].keys()
    values = saved["values"]
    assert (values["arm"], values["seed"], values["n_training_images"]) == ("baseline", 1, 6 * 8)
    assert values["data"] == prepared.checksum
    assert values["floors"].keys() == {"real", "chance"}
    assert values["measured_on"]["kernel_distance"] == prepared.unseen.extractor.name
    assert {"retrieval_top1", "layout_iou", "kernel_distance", "x_0_error_500"} <= values["measures"].keys()
    assert list(tmp_path.rglob("checkpoint-*.pt")) == []
    lines = (tmp_path / "runs" / "baseline-seed1" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6

    printed = capsys.readouterr().out
    assert "2 units, 0 of them finished" in printed
    assert "[2/2] baseline-seed1: retrieval_top1 0." in printed
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", None)  # nothing is read, nothing is trained
    assert run_units(units, "", tmp_path / "runs", tmp_path / "out") == []
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert capsys.readouterr().out == "2 units, 2 of them finished\n"


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["left_out", "null_layout", "no_style", "cross_attention", "flow_objective"])
def test_arms_run_from_data_to_file(prepared, config, tmp_path, monkeypatch, arm):
    asked = {}
    train = sedm.experiments.variant_runs.train_model

    def spy(config, patches, n_classes, folder, held_out, *, annotated, **options):
        asked.update(masks=patches.masks, annotated=annotated, held_out=held_out)
        return train(config, patches, n_classes, folder, held_out, annotated=annotated, **options)

    monkeypatch.setattr(sedm.experiments.variant_runs, "train_model", spy)
    assert run_units(list_units(config, [arm], [0]), "", tmp_path / "runs", tmp_path / "out") == []
    assert len(list((tmp_path / "out").glob(f"values_{arm}-seed0.json"))) == 1
    assert asked["annotated"].tolist() == [True] * 8 + [False] * 8
    assert asked["held_out"] == set(prepared.unseen.groups)
    assert asked["masks"][:8].equal(prepared.train.masks[:8])
    assert bool((asked["masks"][8:] == UNKNOWN).any()) is (arm in ("left_out", "null_layout"))
    assert (prepared.train.masks[8:] == UNKNOWN).all()  # the next unit sees none of it


@pytest.mark.slow
def test_an_interrupted_unit_goes_on(prepared, config, tmp_path, monkeypatch):
    units = list_units(config, ["baseline"], [0])
    assert run_units(units, "", tmp_path / "whole", tmp_path / "expected") == []
    measure = sedm.experiments.variant_runs.measure_generator

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(sedm.experiments.variant_runs, "measure_generator", killed)
    with pytest.raises(KeyboardInterrupt):
        run_units(units, "", tmp_path / "runs", tmp_path / "out")
    assert list((tmp_path / "out").glob("*")) == []
    written = (tmp_path / "runs" / "baseline-seed0" / "metrics.jsonl").stat().st_mtime_ns
    monkeypatch.setattr(sedm.experiments.variant_runs, "measure_generator", measure)
    assert run_units(units, "", tmp_path / "runs", tmp_path / "out") == []
    assert (tmp_path / "runs" / "baseline-seed0" / "metrics.jsonl").stat().st_mtime_ns == written  # not trained again
    name = "values_baseline-seed0.json"
    assert read(tmp_path / "out" / name)["values"] == read(tmp_path / "expected" / name)["values"]


def test_results_of_other_settings_are_left_alone(prepared, untrained, config, tmp_path):
    run_units(list_units(config, ["baseline"], [0]), "", tmp_path / "runs", tmp_path / "out")
    longer = replace(config, training=replace(config.training, n_steps=7))
    others = replace(config, layouts=replace(config.layouts, prior="random field"))  # no unit draws from a prior
    assert run_units(list_units(others, ["baseline"], [0]), "", tmp_path / "runs", tmp_path / "out") == []
    with pytest.raises(ValueError, match=r"baseline-seed0.json: made with training.n_steps = 6, not 7"):
        run_units(list_units(longer, ["baseline"], [0]), "", tmp_path / "runs", tmp_path / "out")


def test_a_model_that_diverges_does_not_stop_the_others(prepared, untrained, config, tmp_path, monkeypatch, capsys):
    train = sedm.experiments.variant_runs.train_model

    def diverging(config, *args, **options):
        if config.seed == 0:
            raise FloatingPointError("step 3: the loss is nan")
        return train(config, *args, **options)

    monkeypatch.setattr(sedm.experiments.variant_runs, "train_model", diverging)
    units = list_units(config, ["baseline"], [0, 1])
    assert run_units(units, "", tmp_path / "runs", tmp_path / "out") == units[:1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["values_baseline-seed1.json"]
    assert "baseline-seed0: FAILED, step 3: the loss is nan" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- several processes


def test_a_unit_in_other_hands_is_left_to_them(prepared, untrained, config, tmp_path, capsys):
    units = list_units(config, ["baseline"], [0, 1])
    with claim(tmp_path / "runs" / "baseline-seed0.lock") as claimed:
        assert claimed
        run_units(units, "", tmp_path / "runs", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["values_baseline-seed1.json"]
    assert "baseline-seed0: in the hands of another process" in capsys.readouterr().out


def test_a_unit_in_other_hands_is_waited_for_and_finished_where_they_fail(tmp_path, config, capsys):
    """Another process holds the first unit until the second is finished here, and ends without a result."""
    units, finished = list_units(config, ["baseline"], [0, 1]), []
    other = claim(tmp_path / "baseline-seed0.lock")
    assert other.__enter__()

    def finish(unit):
        finished.append(unit.name)
        if unit.name == "baseline-seed1":
            other.__exit__(None, None, None)
        return "well"

    assert finish_units(units, lambda: finish, tmp_path, tmp_path / "out", wait=True) == []
    assert finished == ["baseline-seed1", "baseline-seed0"]
    assert "baseline-seed0: in the hands of another process" in capsys.readouterr().out


def test_a_unit_that_another_process_finished_meanwhile_is_skipped(prepared, untrained, config, tmp_path, monkeypatch):
    units = list_units(config, ["baseline"], [0])
    run_units(units, "", tmp_path / "runs", tmp_path / "done")

    def load_while_another_finishes(*args):
        (tmp_path / "done").rename(tmp_path / "out")
        return prepared

    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", load_while_another_finishes)
    monkeypatch.setattr(sedm.experiments.variant_runs, "run_unit", None)
    assert run_units(units, "", tmp_path / "runs", tmp_path / "out") == []


@pytest.mark.processes
def test_a_claim_ends_with_its_process_even_when_it_is_killed(tmp_path):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with claim(tmp_path / "lock") as claimed:
            os.write(writing, b"1" if claimed else b"0")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"1"
        with claim(tmp_path / "lock") as claimed:
            assert not claimed
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with claim(tmp_path / "lock", wait=True) as claimed:
        assert claimed


# ----------------------------------------------------------------------------------------------- the table


@pytest.fixture
def results(tmp_path):
    """Writes the values of units to a folder."""

    def write(units, data="abc", **more):
        for (arm, seed), measures in units.items():
            floors = {"real": {"iou": 0.9, "top1": 1.0}, "shuffled": {"iou": 0.1, "top1": 0.25}}
            values = {"arm": arm, "seed": seed, "data": data, "measures": measures, "floors": floors, **more}
            (tmp_path / f"values_{arm}-seed{seed}.json").write_text(json.dumps({"values": values, "run": {}}))
        return tmp_path

    return write


def test_the_table_holds_means_half_ranges_and_paired_differences(results):
    units = {
        ("baseline", 0): {"top1": 0.5, "iou": 0.60},
        ("baseline", 1): {"top1": 0.7, "iou": 0.64},
        ("no_style", 0): {"top1": 0.1, "iou": None},
        ("no_style", 1): {"top1": 0.1, "iou": 0.7},
        ("no_style", 2): {"top1": 0.4, "iou": 0.7},  # no baseline of this seed
        ("max_aggregation", 1): {"top1": 0.8, "iou": 0.5},
    }
    table = ablation_table(results(units))
    assert table.index.tolist() == [
        ("real images", "real"),
        ("real images", "shuffled"),
        ("baseline", "baseline"),
        ("style encoder", "no_style"),
        ("aggregation", "max_aggregation"),
    ]
    assert list(dict.fromkeys(table.columns.get_level_values(0))) == ["top1", "iou", "n_seeds"]
    top1, iou = table["top1"], table["iou"]
    assert top1["mean"].tolist() == pytest.approx([1, 0.25, 0.6, 0.2, 0.8])
    assert top1["half_range"].tolist()[2:] == pytest.approx([0.1, 0.15, 0])
    assert top1["difference"].tolist()[2:] == pytest.approx([0, (-0.4 - 0.6) / 2, 0.1])
    assert iou["mean"].tolist() == pytest.approx([0.9, 0.1, 0.62, 0.7, 0.5])
    assert iou["difference"].tolist()[2:] == pytest.approx([0, 0.06, -0.14])
    assert table["n_seeds", ""].iloc[2:].tolist() == [2, 3, 1]


def test_the_table_without_a_baseline_has_no_differences(results):
    table = ablation_table(results({("no_style", 0): {"top1": 0.1, "iou": 0.2}}))
    assert "difference" not in table["top1"]
    assert isinstance(table, pd.DataFrame)


def test_units_of_different_data_are_not_compared(results, tmp_path):
    with pytest.raises(ValueError, match="no values_"):
        ablation_table(tmp_path)
    results({("baseline", 0): {"top1": 1.0, "iou": 1.0}})
    results({("baseline", 1): {"top1": 1.0, "iou": 1.0}}, data="xyz")
    with pytest.raises(ValueError, match="units of different data"):
        ablation_table(tmp_path)


def test_files_that_do_not_say_what_they_measure_on_are_of_the_judge(results):
    measures = read_measures(results({("baseline", 0): {"kernel_distance": 0.6}}))
    assert measures.measured_on["kernel_distance"] == "encoder of the judge"
    later = {"kernel_distance": "encoder of another network"}
    with pytest.raises(ValueError, match="units measured on different networks"):
        read_measures(results({("baseline", 1): {"kernel_distance": 0.4}}, measured_on=later))


def test_units_are_not_added_to_those_of_an_earlier_way_of_measuring(results, config, tmp_path, monkeypatch):
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_material", None)  # it is refused before anything is read
    out = results({("baseline", 0): {"kernel_distance": 0.6}})
    assert read_measures(out).measured_on is EARLIER
    with pytest.raises(ValueError, match="holds units of an earlier way of measuring; choose another folder"):
        run_units(list_units(config, ["baseline"], [1]), "", tmp_path / "runs", out)


@pytest.mark.parametrize("study", ["tissue", "ebhi"])
def test_the_committed_units_are_read_with_the_network_that_they_were_measured_on(study):
    units, floors, measured_on = read_measures(ROOT / "figures" / study / "ablations")
    assert set(SHORT_TITLES) <= set(units.columns)
    assert set(SHORT_TITLES) <= set(floors.columns)
    assert set(SHORT_TITLES) <= measured_on.keys()


# ------------------------------------------------------------------------------------------ a study's data


@pytest.fixture(scope="module")
def tables():
    return load_study(build_config("tissue", "smoke"))


@pytest.fixture
def drawn(monkeypatch, tables):
    """The tables of the study are drawn once; every run asks for those of seed 0."""

    def load(config, folder):
        assert (config.study, config.preset, config.seed, folder) == ("tissue", "smoke", 0, "")
        return dict(tables)

    monkeypatch.setattr(sedm.experiments.variant_runs, "load_study", load)


@pytest.mark.slow
def test_the_data_of_a_study_are_split_and_hidden_as_it_says(tmp_path, drawn):
    config = build_config("tissue", "smoke", seed=5)
    found = load_material(config, "", tmp_path)
    groups = set(found.train.groups)
    assert len(groups) == config.data.n_train_groups
    annotated = {group for group, has in zip(found.train.groups, found.train.has_mask.tolist(), strict=True) if has}
    assert len(annotated) == config.data.n_annotated_groups
    assert groups & found.held_out == set()
    assert set(found.unseen.groups) <= found.held_out
    assert len(found.held_out) == 2 + 3 + 2  # validation, test and shifted groups
    networks = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    again = load_material(replace(config, seed=6), "", tmp_path)  # the seed decides the training alone
    assert again.checksum == found.checksum
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")} == networks
    assert sorted(name.partition("-")[0] for name in networks) == ["judge", "segmenter"]


def test_a_study_without_validation_groups_has_no_judge(tmp_path, monkeypatch):
    monkeypatch.setattr(sedm.experiments.variant_runs, "load_study", lambda *args: {"train": None, "test": None})
    with pytest.raises(ValueError, match="the study 'flowers' has no validation groups to train a judge"):
        load_material(build_config("flowers", "smoke"), "", tmp_path)


@pytest.mark.slow
def test_the_command_runs_a_study_from_end_to_end(tmp_path, drawn, capsys):
    arguments = ["tissue", "--preset", "smoke", "--arms", "baseline", "--seeds", "3", "--n-steps", "2"]
    assert main(["ablate", *arguments, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "[1/1] baseline-seed3: retrieval_top1" in capsys.readouterr().out
    table = ablation_table(tmp_path / "out")
    assert table.loc[("baseline", "baseline"), ("n_seeds", "")] == 1
    assert read(tmp_path / "out" / "values_baseline-seed3.json")["run"]["config"]["training.n_steps"] == 2
