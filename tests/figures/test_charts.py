"""Colour statistics and retrieval against closed forms and planted truth; results go where they may."""

import json
import math
from importlib.metadata import version

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from sedm.config import build_config, flatten
from sedm.fidelity import (
    STATISTICS,
    colour_statistics,
    intraclass_correlation,
    retrieve_groups,
    retrieve_one_left_out,
    split_halves,
    style_agreement,
    style_correlation,
)
from sedm.figures import (
    CLASS_COLOURS,
    UNKNOWN_COLOUR,
    ablation_plot,
    colour_layout,
    crossing_grid,
    image_grid,
    sample_history,
)
from sedm.runtime.results import Results


def flat(*rgb):
    return torch.tensor(rgb, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8).contiguous()


# --------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_pure_colours_have_their_textbook_values(rgb, lab):
    np.testing.assert_allclose(colour_statistics(flat(*rgb))[0], [*lab, 0, 0, 0], atol=0.03)


def test_the_spread_is_that_of_pixels():
    image = flat(0, 0, 0)
    image[..., :4] = 255
    statistics = dict(zip(STATISTICS, colour_statistics(image)[0], strict=True))
    assert statistics["mean_l"] == pytest.approx(50, abs=0.01)
    assert statistics["sd_l"] == pytest.approx(50 * math.sqrt(64 / 63), abs=0.01)


def test_each_image_has_a_row_of_its_own():
    images = torch.randint(256, (300, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    statistics = colour_statistics(images)
    assert statistics.shape == (300, 6)
    np.testing.assert_allclose(statistics[[0, 299]], colour_statistics(images[[0, 299]]), rtol=1e-5, atol=1e-4)


# ------------------------------------------------------------------------------------- variance components


def test_the_intraclass_correlation_of_equal_groups_is_that_of_the_analysis_of_variance():
    values = np.random.default_rng(0).normal(size=(7, 5)) + np.arange(7)[:, None]
    f = stats.f_oneway(*values).statistic
    groups = [f"g{row}" for row in range(7) for _ in range(5)]
    shuffled = np.random.default_rng(1).permutation(35)
    expected = (f - 1) / (f + 5 - 1)
    assert intraclass_correlation(values.ravel(), groups) == pytest.approx(expected)
    assert intraclass_correlation(values.ravel()[shuffled], [groups[i] for i in shuffled]) == pytest.approx(expected)


@pytest.mark.parametrize("between", [0.0, 1.0, 2.0])
def test_the_intraclass_correlation_is_the_simulated_share_of_variance(between):
    random, n_groups = np.random.default_rng(0), 400
    sizes = random.integers(2, 9, n_groups)  # groups of different size, 5 on average
    values = np.concatenate([random.normal(between * random.normal(), 1, size) for size in sizes])
    groups = np.repeat([f"g{i}" for i in range(n_groups)], sizes).tolist()
    expected = between**2 / (between**2 + 1)
    variance = 2 * (1 - expected) ** 2 * (1 + 4 * expected) ** 2 / (5 * 4 * (n_groups - 1))  # Donner 1986
    assert abs(intraclass_correlation(values, groups) - expected) < 4 * math.sqrt(variance)


# --------------------------------------------------------------------------------------------- retrieval


def planted(n_groups, n_images, spread, seed=0):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(n_groups, 6))
    values = np.repeat(centres, n_images, axis=0) + spread * random.normal(size=(n_groups * n_images, 6))
    return values, [f"g{i // n_images}" for i in range(n_groups * n_images)]


def test_planted_groups_are_all_retrieved():
    (queries, groups), (references, reference_groups) = planted(20, 5, 0.05), planted(20, 5, 0.05, seed=1)
    ranks = retrieve_groups(queries, groups, references, reference_groups)
    assert (ranks["rank"] == 1).all()
    assert ranks["group"].tolist() == groups
    assert set(ranks["n_groups"]) == {20}
    assert (retrieve_one_left_out(queries, groups)["rank"] == 1).all()


def test_shuffled_groups_are_retrieved_by_chance():
    queries, groups = planted(20, 20, 1.0)
    references, reference_groups = planted(20, 20, 1.0, seed=1)
    names = np.random.default_rng(2).permutation(groups).tolist()
    share = (retrieve_groups(queries, names, references, reference_groups)["rank"] == 1).mean()
    assert abs(share - 1 / 20) < 4 * math.sqrt(1 / 20 * 19 / 20 / 400)


@pytest.mark.slow
def test_a_row_does_not_help_to_retrieve_itself():
    values = np.random.default_rng(0).normal(size=(200, 6))
    ranks = retrieve_one_left_out(values, [f"g{i // 2}" for i in range(200)])
    assert (ranks["rank"] == 1).mean() < 1 / 100 + 4 * math.sqrt(1 / 100 * 99 / 100 / 200)


def test_ranks_are_those_counted_by_loops():
    random = np.random.default_rng(0)
    references, queries = random.normal(size=(30, 3)) * [1, 10, 100], random.normal(size=(8, 3)) * [1, 10, 100]
    reference_groups, groups = [f"g{i % 5}" for i in range(30)], [f"g{i % 5}" for i in range(8)]
    scale = references.std(axis=0)
    for query, group, rank in zip(
        queries, groups, retrieve_groups(queries, groups, references, reference_groups)["rank"], strict=True
    ):
        distances = {}
        for name in set(reference_groups):
            centre = np.mean([row for row, other in zip(references, reference_groups, strict=True) if other == name], 0)
            distances[name] = math.dist(query / scale, centre / scale)
        assert sorted(distances, key=distances.get).index(group) + 1 == rank


def test_a_query_without_references_is_named():
    with pytest.raises(ValueError, match="no reference images of group 'c'"):
        retrieve_groups(np.zeros((1, 1)), ["c"], np.zeros((2, 1)), ["a", "b"])


def test_halves_share_every_group_and_no_row():
    groups = [*"aaaaabbbbc"]
    halves = split_halves(groups, seed=0)
    assert sorted([*halves[0], *halves[1]]) == list(range(9))  # c is alone
    assert [sum(groups[row] == name for row in halves[0]) for name in "ab"] == [2, 2]
    assert halves == split_halves(groups, seed=0)
    assert len({tuple(split_halves(groups, seed)[0]) for seed in range(10)}) > 1


def test_agreement_is_the_correlation_of_group_means():
    random = np.random.default_rng(0)
    (generated, groups), (real, real_groups) = planted(9, 3, 0.3), planted(10, 4, 0.3, seed=1)
    order = random.permutation(27)
    agreement = style_agreement(generated[order], [groups[i] for i in order], real, real_groups)
    assert agreement["group"].tolist() == [f"g{i}" for i in range(9)]  # the tenth was never generated
    of_generated, of_real = generated.reshape(9, 3, 6).mean(1), real.reshape(10, 4, 6).mean(1)[:9]
    for i, name in enumerate(STATISTICS):
        np.testing.assert_allclose(agreement[f"generated_{name}"], of_generated[:, i])
        np.testing.assert_allclose(agreement[f"real_{name}"], of_real[:, i])
        expected = stats.spearmanr(of_generated[:, i], of_real[:, i]).statistic
        assert style_correlation(agreement)[name] == pytest.approx(expected)


# --------------------------------------------------------------------------------------------- results


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture
def results(tmp_path):
    """``Results`` of a study and a preset, in two sub-folders."""

    def make(study="tissue", preset="quick"):
        return Results(build_config(study, preset), tmp_path / "figures", tmp_path / "run")

    return make


@pytest.mark.parametrize(
    ("study", "preset", "shows_data", "folder"),
    [
        ("tissue", "quick", True, "figures/tissue"),
        ("tissue", "quick", False, "figures/tissue"),
        ("flowers", "quick", True, "figures/flowers"),
        ("ebhi", "quick", False, "figures/ebhi"),
        ("ebhi", "full", False, "figures/ebhi/full"),
        ("ebhi", "full", True, "run/figures"),
        ("ebhi", "quick", True, "run/figures"),
        ("pets", "quick", True, "run/figures"),
        ("tissue", "smoke", True, "run/figures"),
        ("ebhi", "smoke", False, "run/figures"),
    ],
)
def test_a_figure_goes_where_it_may_be_shown(results, tmp_path, study, preset, shows_data, folder):
    figure = plt.figure()
    path = results(study, preset).save_figure(figure, "toy", shows_data=shows_data)
    plt.close(figure)
    assert path == tmp_path / folder / "fig_toy.png"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [path]
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("preset", "folder"), [("quick", "figures/ebhi"), ("smoke", "run/figures")])
def test_values_of_the_published_preset_are_committed(results, tmp_path, preset, folder):
    assert results("ebhi", preset).save_values("toy", {}) == tmp_path / folder / "values_toy.json"


@pytest.mark.slow
def test_the_same_figure_gives_the_same_file(results):
    contents = []
    for _ in range(2):
        figure, axis = plt.subplots()
        axis.plot([1, 3, 2])
        contents.append(results().save_figure(figure, "toy", shows_data=False).read_bytes())
        plt.close(figure)
    assert contents[0] == contents[1]


def test_values_come_with_the_run_that_made_them(results):
    saved = strict_json(results("ebhi").save_values("toy", {"answer": 42}))
    assert saved["values"] == {"answer": 42}
    run = saved["run"]
    assert run["config"] == json.loads(json.dumps(flatten(build_config("ebhi", "quick"))))
    assert run["versions"]["torch"] == version("torch")
    assert run["versions"]["diffusers"] == version("diffusers")
    assert run["commit"] == "unknown" or len(run["commit"].removesuffix("+changes")) == 40
    assert run["device"]
    assert run["seconds"] >= 0
    assert "EBHI-SEG" in run["attribution"]


def test_values_of_any_kind_become_plain_numbers(results):
    values = {
        "nan": float("nan"),
        "numpy": np.float32(0.5),
        "array": np.array([1.0, np.nan]),
        "tensor": torch.tensor([[1, 2]]),
        "series": dict(pd.Series({"a": 0.25, "b": np.nan})),
        "tuple": (1, "x", None, True),
        "count": np.int64(3),
        "digits": 0.123456789,
    }
    assert strict_json(results().save_values("toy", values))["values"] == {
        "nan": None,
        "numpy": 0.5,
        "array": [1.0, None],
        "tensor": [[1, 2]],
        "series": {"a": 0.25, "b": None},
        "tuple": [1, "x", None, True],
        "count": 3,
        "digits": 0.123457,
    }


@pytest.mark.parametrize("value", [math.inf, -math.inf, np.float32("inf")])
def test_a_values_file_is_always_strict_json(results, value):
    assert strict_json(results().save_values("toy", {"value": value}))


# -------------------------------------------------------------------------------------------- pictures


def test_every_class_has_a_colour_of_its_own_and_unknown_is_grey():
    layout = torch.tensor([[[0, 1, 2], [3, 5, 255]]], dtype=torch.uint8)
    picture = colour_layout(layout)[0].permute(1, 2, 0).reshape(-1, 3)
    assert picture.tolist() == [*CLASS_COLOURS[[0, 1, 2, 3, 5]].tolist(), list(UNKNOWN_COLOUR)]
    assert len(picture.unique(dim=0)) == 6


def test_a_grid_shows_its_pictures_row_by_row_under_their_labels():
    pictures = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 4, 4).contiguous()
    figure = image_grid(pictures, n_columns=3, row_labels=["up", "down"], column_labels=["a", "b", "c"])
    shown = [axis.get_images()[0].get_array()[0, 0, 0] if axis.get_images() else None for axis in figure.axes]
    assert shown == [0, 1, 2, 3, 4, None]
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["up", "down"]
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "", "", ""]
    plt.close(figure)


@pytest.mark.slow
def test_a_crossing_grid_has_columns_below_what_they_share_and_rows_beside():
    def pictures(*values):
        return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()

    figure = crossing_grid(pictures(1, 2), pictures(10, 20), pictures(11, 12, 21, 22).unflatten(0, (2, 2)))
    shown = [int(axis.get_images()[0].get_array()[0, 0, 0]) for axis in figure.axes]
    assert shown == [255, 1, 2, 10, 11, 12, 20, 21, 22]
    plt.close(figure)


def test_a_history_shows_layouts_chosen_steps_and_styles(tmp_path):
    for step in (10, 20, 30, 40, 50):
        sheet = np.zeros((12, 16, 3), np.uint8)  # layouts 1, images as many as the step, styles 9; 4 pictures of 4 px
        sheet[:4], sheet[4:8], sheet[8:] = 1, step, 9
        Image.fromarray(sheet).save(tmp_path / f"step-{step:08d}.png")
    figure = sample_history(tmp_path, n_shown=3)
    shown = [int(axis.get_images()[0].get_array()[0, 0, 0]) for axis in figure.axes]
    assert shown == [1] * 4 + [10] * 4 + [30] * 4 + [50] * 4 + [9] * 4
    labels = [axis.get_ylabel() for axis in figure.axes[::4]]
    assert labels == ["layout", "step 10", "step 30", "step 50", "style"]
    with pytest.raises(ValueError, match="no sample sheets"):
        sample_history(tmp_path / "none")


def test_an_arm_that_failed_is_named_at_the_edge_and_does_not_hide_the_others():
    index = pd.MultiIndex.from_product([["objective"], ["x_0", "v", "epsilon"], [0, 1]]).droplevel(2)
    points = pd.DataFrame({"distance": [1.0, 1.2, 1.1, 1.3, 3.0, 500.0]}, index=index)
    axis = ablation_plot(points, pd.Series({"distance": 0.0}), {"distance": "distance ↓"}).axes[0]
    assert np.allclose(axis.collections[0].get_offsets()[:, 0], [1.0, 1.2, 1.1, 1.3, 3.0])
    assert [text.get_text() for text in axis.texts] == ["500 →"]
    assert axis.get_xlim()[1] < 5


def test_an_ablation_plot_has_a_point_a_seed_and_lines_for_baseline_and_real_images():
    index = pd.MultiIndex.from_tuples([("baseline", "ours"), ("baseline", "ours"), ("style", "no_style")])
    points = pd.DataFrame({"iou": [0.5, 0.7, 0.1], "error": [1.0, 2.0, 3.0]}, index=index)
    figure = ablation_plot(points, pd.Series({"iou": 0.8, "error": 0.0}), {"iou": "IoU", "error": "error"})
    for axis, name, baseline, real in zip(figure.axes, ("iou", "error"), (0.6, 1.5), (0.8, 0.0), strict=True):
        drawn = axis.collections[0].get_offsets()
        assert np.allclose(drawn, np.stack([points[name], [0, 0, 1]], axis=1))
        assert [line.get_xdata()[0] for line in axis.lines] == pytest.approx([baseline, real])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ours", "no style"]
