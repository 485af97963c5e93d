"""The report: one call from a study to a page that needs no other file and says what was found."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from sedm.__main__ import main
from sedm.config import build_config
from sedm.data.study_data import load_study
from sedm.experiments.study_report import WORDS, answer, check_comparable


@pytest.fixture(scope="module")
def tissue():
    """The smallest tissue study."""
    config = build_config("tissue", "smoke")
    return config, load_study(config)


def row(difference, low, high, p):
    numbers = {"mean_difference": [difference], "ci_low": [low], "ci_high": [high], "p_adjusted": [p]}
    return pd.DataFrame(numbers, index=["sedm_augmented"])


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0.03, 0.01, 0.05, 0.01), "Yes: synthetic images raise the IoU by 0.030 (0.010 to 0.050)"),
        ((-0.03, -0.05, -0.01, 0.01), "No: synthetic images lower the IoU by 0.030 (0.010 to 0.050)"),
        ((0.03, 0.01, 0.05, 0.2), "It cannot be told: with synthetic images the IoU differs by +0.030 (+0.010 to"),
        ((0.03, -0.01, 0.05, 0.01), "It cannot be told"),
    ],
)
def test_the_answer_follows_interval_and_test(numbers, words):
    assert answer(row(*numbers), "real").startswith(words)


def test_a_study_without_a_style_to_borrow_is_refused_before_anything_is_trained(tissue):
    config, data = tissue
    check_comparable(config, data)
    all_masks = replace(config, data=replace(config.data, n_annotated_groups=0))
    with pytest.raises(ValueError, match=r"all 24 training images are annotated, so there is no style to borrow"):
        check_comparable(all_masks, data)


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
    assert "so few cannot carry a finding" in page
    assert not re.search(r"\bnan\b", re.sub(r'src="[^"]*"', "", page))
    assert (tmp_path / "out" / "values_report.json").is_file()
    units = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs" / "units").iterdir()}
    capsys.readouterr()
    assert main(arguments) == 0
    assert "4 runs, 4 of them finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in units} == units
