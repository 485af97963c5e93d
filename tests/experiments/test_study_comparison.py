"""The report: one call from a study to a page that needs no other file and says what was found."""

import html
import json
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sedm.__main__ import main
from sedm.config import build_config
from sedm.data.patch_table import load_patches
from sedm.data.pictures import UNKNOWN
from sedm.data.study_data import load_study
from sedm.experiments.comparison import COLUMNS, compare_arms, group_scores
from sedm.experiments.report_page import OURS, WORDS, answer, warnings_of, write_page
from sedm.experiments.study_comparison import check_comparable


@pytest.fixture(scope="module")
def tissue():
    """The smallest tissue study."""
    config = build_config("tissue", "smoke")
    return config, load_study(config)


def row(difference, low, high, p):
    numbers = {"mean_difference": [difference], "ci_low": [low], "ci_high": [high], "p": [p], "p_adjusted": [p]}
    numbers |= {"n_groups": [8], "n_cells": [3]}
    return pd.DataFrame(numbers, index=["sedm_augmented"])


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0.03, 0.01, 0.05, 0.01), "Yes: synthetic images raise the IoU by 0.030 (0.010 to 0.050)"),
        ((-0.03, -0.05, -0.01, 0.01), "No: synthetic images lower the IoU by 0.030 (0.010 to 0.050)"),
        ((0.03, 0.01, 0.05, 0.2), "It cannot be told: with synthetic images the IoU differs by +0.030 (+0.010 to"),
        ((0.03, np.nan, np.nan, np.nan), "It cannot be told from one network an arm: with synthetic images the IoU"),
    ],
)
def test_the_answer_follows_interval_and_test(numbers, words):
    assert answer(row(*numbers), "real").startswith(words)


def test_where_the_method_diverged_nothing_is_claimed():
    assert answer(row(0.1, 0.1, 0.1, 0.0).rename({OURS: "real"}), "real").startswith("It cannot be told: ")


NAN = float("nan")
RUN = {"config": {"preset": "quick", "seed": 0}, "commit": "abc", "device": "CPU", "precision": "float32"}


def scores_of(n_groups):
    """Make scores by group: the method is better by 0.1 in each."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.6, n_groups)
    rows = []
    for arm, gain in zip(WORDS, (0, 0.01, 0.02, 0.1), strict=True):
        for split in ("validation", "test"):
            rows += [
                (arm, 2, 0, seed, split, f"g{i}", float(iou + gain), NAN)
                for i, iou in enumerate(base)
                for seed in range(3)
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def page_of(tmp_path, data, scores, fidelity=None, **study):
    """Write the page of some scores, and return its text."""
    data = replace(data, study=replace(data.study, **study))
    table = compare_arms(scores, "real", 2)
    values = tmp_path / "values.json"
    values.write_text(json.dumps({"run": {**RUN, "versions": {"torch": "2"}}}))
    warnings = warnings_of(data, table, group_scores(scores, 2), "quick")
    figures = {name: plt.figure() for name in ("arms", "groups", "samples")}
    path = write_page(tmp_path / "report.html", values, data, table, "real", fidelity, figures, warnings)
    plt.close("all")
    return html.unescape(re.sub(r'src="[^"]*"', "", path.read_text()))


def test_one_test_group_has_no_interval_and_the_page_says_so(tissue, tmp_path):
    page = page_of(tmp_path, tissue[1], scores_of(1), group="biopsy")
    assert "It cannot be told: there is one test biopsy, and what it shows may be chance." in page
    assert "1 test biopsy: whatever the numbers look like" in page
    assert "then the mean over 1 test biopsy." in page
    assert '<td class="number">+0.100</td>' in page  # the difference alone
    assert not re.search(r"nan\b|\( to \)|1 test groups|biopsys", page)


def test_the_page_speaks_of_groups_as_the_study_does(tissue, tmp_path):
    page = page_of(tmp_path, tissue[1], scores_of(8), group="species", redistributable=False)
    assert "Yes: synthetic images raise the IoU by 0.100 (0.100 to 0.100) over “annotated images”." in page
    assert "Over 8 test groups, “+ colours, synthetic images” is better than the strongest control, “annotated" in page
    assert "then the mean over 8 test species." in page
    assert "`" not in page
    assert "speciess" not in page
    assert "may not be handed on; nor may the page" in page
    assert "Copies of training images were not looked for" in page  # nothing was measured
    assert "may not be handed on" not in page_of(tmp_path, tissue[1], scores_of(8), redistributable=True)


def test_a_control_that_nothing_chose_is_not_called_the_strongest(tissue, tmp_path):
    data = replace(tissue[1], patches={name: tissue[1].patches[name] for name in ("train", "test")})
    page = page_of(tmp_path, data, scores_of(8))
    assert "is better than the control, “annotated images”" in page


def test_measures_that_there_are_not_are_no_empty_rows(tissue, tmp_path):
    names = [("recall", "generated", NAN), ("layout_iou", "generated", 0.625), ("layout_iou", "real", 0.75)]
    fidelity = pd.DataFrame(names, columns=["measure", "of", "value"]).set_index(["measure", "of"])
    page = page_of(tmp_path, tissue[1], scores_of(8), fidelity)
    assert '<td>layout: foreground IoU of the judge ↑</td><td class="number">0.625</td><td class="number">0.750' in page
    assert "recall" not in page


def test_a_group_without_a_score_is_named(tissue):
    by_group, table = group_scores(scores_of(8), 2), compare_arms(scores_of(8), "real", 2)
    assert warnings_of(tissue[1], table, by_group, "quick") == []
    assert "its numbers and pictures mean nothing" in warnings_of(tissue[1], table, by_group, "smoke")[0]
    by_group.loc["g3", "real"] = NAN
    (warning,) = warnings_of(tissue[1], table, by_group, "quick")
    assert "masks nor predictions show a foreground class there: g3." in warning


def test_few_networks_are_a_warning(tissue):
    scores = scores_of(8)
    for n_seeds, words in ((1, "A single network an arm"), (2, "2 networks an arm")):
        few = scores[scores["seed"] < n_seeds]
        (warning,) = warnings_of(tissue[1], compare_arms(few, "real", 2), group_scores(few, 2), "quick")
        assert warning.startswith(words)
        assert "[presets.quick] arms.n_seeds = 6" in warning


def test_a_study_without_a_style_to_borrow_is_refused_before_anything_is_trained(tissue):
    config, data = tissue
    check_comparable(config, data)
    all_masks = replace(config, data=replace(config.data, n_annotated_groups=0))
    with pytest.raises(ValueError, match=r"all 24 training images are annotated, so there is no style to borrow"):
        check_comparable(all_masks, data)


def test_masks_from_which_no_layout_can_be_drawn_are_refused_before_anything_is_trained(tissue):
    config, data = tissue
    masks = data.train.masks.clone()
    masks[:, 0] = UNKNOWN
    padded = replace(data, patches=data.patches | {"train": replace(data.train, masks=masks)})
    with pytest.raises(ValueError, match=r"masks to train on has pixels that nobody knows .* complete some"):
        check_comparable(config, padded)
    padded = replace(padded, study=replace(data.study, fit="pad"))
    with pytest.raises(ValueError, match=r"no layout to draw; fit = 'pad' adds such pixels, so choose another"):
        check_comparable(config, padded)


def test_a_study_of_styles_has_no_such_question():
    config = build_config("flowers", "smoke")
    with pytest.raises(ValueError, match="'flowers' asks for styles, not for segmentation"):
        check_comparable(config, load_study(config))


@pytest.mark.slow
def test_one_command_ends_in_a_page_and_a_second_one_trains_nothing(tmp_path, capsys):
    arguments = ["compare", "tissue", "--preset", "smoke", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(words.replace("'", "&#39;") in page for words in WORDS.values())
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)  # one file, to be sent as it is
    assert "so few can hardly carry a finding" in page
    assert not re.search(r"\bnan\b", re.sub(r'src="[^"]*"', "", page))
    assert (tmp_path / "out" / "values_report.json").is_file()
    units = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs" / "units").iterdir()}
    capsys.readouterr()
    assert main(arguments) == 0
    assert "4 runs, 4 of them finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in units} == units


@pytest.mark.slow
def test_a_folder_of_pictures_ends_in_a_page_with_nothing_but_a_file(tmp_path, capsys):
    """Ten groups of self-made PNG files, six of them annotated: check writes the study, compare the page beside it."""
    rng = np.random.default_rng(0)
    for number in range(10):
        for row in range(3):
            mask = np.zeros((40, 40), np.uint8)
            top, left = rng.integers(0, 20, 2)
            mask[top : top + 16, left : left + 16] = 255
            pixels = rng.integers(0, 60, (40, 40, 3)) + 15 * number + (mask[..., None] // 4)
            for kind, picture in (("images", pixels.astype(np.uint8)), ("masks", mask)):
                path = tmp_path / "mine" / kind / f"case {number}" / f"{row}.png"
                if kind == "images" or number < 6:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(path)
    assert main(["check", str(tmp_path / "mine"), "--write"]) == 0
    assert main(["compare", str(tmp_path / "mine"), "--preset", "smoke"]) == 0
    folder = tmp_path / "mine" / "sedm-results" / "smoke"
    assert f"the report: {folder / 'report.html'}" in capsys.readouterr().out
    values = json.loads((folder / "values_report.json").read_text())["values"]
    assert set(values["arms"]) == set(WORDS)
    assert values["n_annotated"] == 3  # of six annotated groups, two are tested on and one validates
    assert len(values["groups"]["real"]) == 2
    parts = ["--model", folder / "model", "--layouts", folder, "--styles", folder / "style_bank.safetensors"]
    words = ["generate", *parts, "--n-images", "3", "--seed", "0", "--preset", "smoke", "--out", tmp_path / "more"]
    assert main(list(map(str, words))) == 0
    lenders = set(load_patches(tmp_path / "more")["group"])
    assert lenders <= {f"case {number}" for number in range(6, 10)}  # nobody annotated them
    assert sum(1 for _ in (tmp_path / "mine").rglob("masks/*/*.png")) == 18  # nothing was written among the images
    assert main(["check", str(tmp_path / "mine")]) == 0
    assert "30 images of 10 groups: 18 images of 6 groups are annotated" in capsys.readouterr().out


@pytest.mark.slow
def test_test_masks_that_are_all_alike_end_in_a_page_without_measures(tmp_path):
    """They tell nothing of how far generated images can be trusted, which was found out after all training."""
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 1
    for group in "abcdef":
        for row in range(2):
            for kind, picture in (("images", rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)), ("masks", mask)):
                path = tmp_path / kind / group / f"{row}.png"
                if kind == "images" or group < "f":
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(path)
    (tmp_path / "study.toml").write_text('classes = ["glass", "gland"]\n')
    assert main(["compare", str(tmp_path), "--preset", "smoke"]) == 0
    values = json.loads((tmp_path / "sedm-results/smoke/values_report.json").read_text())["values"]
    assert "fidelity" not in values
    assert any("not measured: that takes two test groups with several" in warning for warning in values["warnings"])
