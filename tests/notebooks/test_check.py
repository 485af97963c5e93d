"""Values made again are compared with the committed ones."""

import json
import sys

import pytest


@pytest.fixture
def check(run):
    """``notebooks/check.py`` as a module."""
    import check

    yield check
    sys.modules.pop("check")


VALUES = {"table": {"iou": {"value": 0.8, "low": 0.7}}, "n_images": 48, "settings": [{"n_steps": 4, "iou": 0.5}]}


def write(folder, values, name="values_fidelity.json"):
    (folder / "tissue").mkdir(parents=True, exist_ok=True)
    (folder / "tissue" / name).write_text(json.dumps({"values": values, "run": {"seconds": 3}}))


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        ({"table": {"iou": {"value": 0.82, "low": 0.1}}}, []),
        ({"table": {"iou": {"value": 0.6, "low": 0.7}}}, ["table.iou.value is 0.6, committed 0.8"]),
        ({"table": {"iou": {"value": None, "low": 0.7}}}, ["table.iou.value is None, committed 0.8"]),
        ({"n_images": 47}, ["n_images is 47, committed 48"]),
        ({"settings": [{"n_steps": 5, "iou": 0.5}]}, ["settings[0].n_steps is 5, committed 4"]),
        ({"settings": [{"n_steps": 4, "iou": 0.8}]}, ["settings[0].iou is 0.8, committed 0.5"]),
        ({"more": 1}, ["more is 1, committed None"]),
    ],
)
def test_what_differs_by_more_than_it_may_is_reported(check, tmp_path, change, lines):
    write(tmp_path / "committed", VALUES)
    write(tmp_path / "new", VALUES | change)
    reported = check.compare_folders(tmp_path / "committed", tmp_path / "new")
    assert reported == [f"tissue/values_fidelity.json: {line}" for line in lines]


def test_values_that_nobody_committed_are_reported(check, tmp_path):
    write(tmp_path / "new", VALUES)
    assert check.compare_folders(tmp_path / "committed", tmp_path / "new") == [
        "tissue/values_fidelity.json: not committed"
    ]


def test_the_committed_values_agree_with_themselves(check, root):
    assert check.compare_folders(root / "figures", root / "figures") == []
