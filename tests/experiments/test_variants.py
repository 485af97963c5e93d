"""Variants of the generator: every question has its own, and the table of their runs is the hand-made one."""

import json

import pandas as pd
import pytest
from conftest import ROOT

from sedm.experiments.variants import VARIANTS, ablation_table, read_measures
from sedm.fidelity import SHORT_TITLES


def test_every_question_of_the_plan_has_its_variants():
    assert {question: len(variants) for question, variants in VARIANTS.items()} == {
        "baseline": 1,
        "style encoder": 2,
        "style injection": 4,
        "resolution": 1,
        "aggregation": 3,
        "optimiser": 1,
        "objective": 3,
        "unannotated images": 2,
        "augmentation": 3,
        "layout": 2,
    }


@pytest.fixture
def results(tmp_path):
    """Writes the values of runs to a folder."""

    def write(runs, data="abc", **more):
        for (arm, seed), measures in runs.items():
            floors = {"real": {"iou": 0.9, "top1": 1.0}, "shuffled": {"iou": 0.1, "top1": 0.25}}
            values = {"arm": arm, "seed": seed, "data": data, "measures": measures, "floors": floors, **more}
            (tmp_path / f"values_{arm}-seed{seed}.json").write_text(json.dumps({"values": values, "run": {}}))
        return tmp_path

    return write


def test_the_table_holds_means_half_ranges_and_paired_differences(results):
    runs = {
        ("baseline", 0): {"top1": 0.5, "iou": 0.60},
        ("baseline", 1): {"top1": 0.7, "iou": 0.64},
        ("no_style", 0): {"top1": 0.1, "iou": None},
        ("no_style", 1): {"top1": 0.1, "iou": 0.7},
        ("no_style", 2): {"top1": 0.4, "iou": 0.7},  # no baseline of this seed
        ("max_aggregation", 1): {"top1": 0.8, "iou": 0.5},
    }
    table = ablation_table(results(runs))
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


def test_runs_of_different_data_are_not_compared(results, tmp_path):
    with pytest.raises(ValueError, match="no values_"):
        ablation_table(tmp_path)
    results({("baseline", 0): {"top1": 1.0, "iou": 1.0}})
    results({("baseline", 1): {"top1": 1.0, "iou": 1.0}}, data="xyz")
    with pytest.raises(ValueError, match="runs of different data"):
        ablation_table(tmp_path)


def test_files_that_do_not_say_what_they_measure_on_are_of_the_judge(results):
    measures = read_measures(results({("baseline", 0): {"kernel_distance": 0.6}}))
    assert measures.measured_on["kernel_distance"] == "encoder of the judge"
    later = {"kernel_distance": "encoder of another network"}
    with pytest.raises(ValueError, match="runs measured on different networks"):
        read_measures(results({("baseline", 1): {"kernel_distance": 0.4}}, measured_on=later))


@pytest.mark.parametrize("study", ["tissue", "ebhi"])
def test_the_committed_runs_are_read_with_the_network_that_they_were_measured_on(study):
    runs, floors, measured_on = read_measures(ROOT / "figures" / study / "ablations")
    assert set(SHORT_TITLES) <= set(runs.columns)
    assert set(SHORT_TITLES) <= set(floors.columns)
    assert set(SHORT_TITLES) <= measured_on.keys()
