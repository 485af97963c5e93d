"""Pairs of known quality: planted bad ones are dropped, for a reason that is kept, and hard layouts come oftener."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sedm.config import SegmentationConfig
from sedm.data.patch_table import UNKNOWN, from_arrays, load_patches, save_patches
from sedm.data.patches import Patches
from sedm.generation.filtering import filter_patches, ignore_contradicted, keep_pairs, score_pairs
from sedm.segmentation.scores import score_groups
from sedm.segmentation.segmenter import train_segmenter

CLASSES = ("stroma", "epithelium", "lumen")
N, SIZE = 100, 12


class Reader(nn.Module):
    """Sees in an image what `show` has drawn into it, without a mistake."""

    def __init__(self):
        super().__init__()
        self.levels = nn.Parameter(torch.arange(len(CLASSES)) * 50 / 255)

    def forward(self, images):
        return -(images[:, :1] - self.levels.view(1, -1, 1, 1)).abs()


def show(layouts):
    """Images that show these layouts to a `Reader`."""
    return (50 * layouts)[:, None].expand(-1, 3, -1, -1).contiguous()


def random_layouts(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(len(CLASSES), (n, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def pairs(images, layouts, classes=CLASSES):
    return Patches(images, layouts, [f"g{row % 3}" for row in range(len(layouts))], classes)


def with_faults(layouts, rows, fault):
    """What a generator draws that fails in these rows."""
    shown = layouts.clone()
    shown[rows] = fault(shown[rows])
    return show(shown)


def scores_of(*ious, accuracy=0.9):
    """A table of scores: one list of IoUs a class."""
    return pd.DataFrame({**{f"iou_{k}": values for k, values in enumerate(ious)}, "accuracy": accuracy}, dtype=float)


# ------------------------------------------------------------------------------------------------- scores


def test_scores_are_those_counted_pixel_by_pixel():
    layouts, seen = random_layouts(6), random_layouts(6, seed=1)
    layouts[0, :4], layouts[1][layouts[1] == 2] = UNKNOWN, 0
    scores = score_pairs(Reader(), pairs(show(seen), layouts))
    for row in range(6):
        cells = [(a, b) for a, b in zip(layouts[row].flatten().tolist(), seen[row].flatten().tolist(), strict=True)]
        known = [(a, b) for a, b in cells if a != UNKNOWN]
        assert scores["accuracy"][row] == pytest.approx(sum(a == b for a, b in known) / len(known))
        for k in range(3):
            either, both = (sum(rule([a == k, b == k]) for a, b in known) for rule in (any, all))
            expected = both / either if any(a == k for a, _ in known) else np.nan
            assert scores[f"iou_{k}"][row] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(scores["iou_2"][1])


def test_many_scores_are_those_of_each_pair_as_a_group_of_its_own():
    layouts, seen = random_layouts(600), random_layouts(600, seed=1)
    shown = pairs(show(seen), layouts)
    scores = score_pairs(Reader(), shown)
    expected = score_groups(seen, replace(shown, groups=[f"{row:03d}" for row in range(600)]))
    columns = ["iou_0", "iou_1", "iou_2"]
    np.testing.assert_allclose(scores[columns], expected[columns])


def test_a_stray_pixel_of_an_absent_class_costs_the_class_it_covers():
    layouts = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    seen = layouts.clone()
    seen[0, 0, 0] = 2
    scores = score_pairs(Reader(), pairs(show(seen), layouts)).loc[0]
    assert scores["iou_0"] == scores["accuracy"] == pytest.approx(1 - 1 / SIZE**2)
    assert scores[["iou_1", "iou_2"]].isna().all()


@pytest.mark.parametrize(
    ("n_classes", "of_layout", "message"),
    [
        (3, None, "no pairs"),
        (3, [0, UNKNOWN, 0], "row 1 has no layout"),
        (3, [0, 1, 3], r"mask of row 2 holds 3, outside the classes 0\.\.2"),
        (2, [0, 1, 1], "segmenter of 3 classes for layouts of 2"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_sentence(n_classes, of_layout, message):
    layouts = torch.tensor(of_layout or [], dtype=torch.uint8).view(-1, 1, 1).expand(-1, SIZE, SIZE)
    with pytest.raises(ValueError, match=message):
        score_pairs(Reader(), pairs(show(layouts), layouts, CLASSES[:n_classes]))


# ------------------------------------------------------------------------------------------------- keeping


FAULTS = {
    "another layout": lambda layouts: layouts.roll(1, 0).flip(2),
    "two classes swapped": lambda layouts: torch.tensor([1, 0, 2], dtype=torch.uint8)[layouts.long()],
    "one class missing": lambda layouts: layouts.where(layouts != 2, 0),
    "nothing drawn": lambda layouts: torch.zeros_like(layouts),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_bad_pairs_are_the_ones_dropped(fault):
    layouts, bad = random_layouts(N), [3, 10, 42, 97]
    images = with_faults(layouts, bad, FAULTS[fault])
    decisions = keep_pairs(score_pairs(Reader(), pairs(images, layouts)), percentile=4, classes=CLASSES)
    assert decisions.index[~decisions["kept"]].tolist() == bad
    assert all(decisions["reason"][bad].str.contains("lumen: IoU|epithelium: IoU"))


def test_a_trained_segmenter_finds_images_of_other_layouts():
    generator = torch.Generator().manual_seed(0)
    layouts = torch.rand(16, 4, 4, generator=generator).gt(0.5).byte().repeat_interleave(4, 1).repeat_interleave(4, 2)
    images = 60 + 100 * layouts[:, None] + torch.randint(40, (16, 3, 16, 16), generator=generator, dtype=torch.uint8)
    config = SegmentationConfig(channels=(8,), n_steps=40, batch_size=8, learning_rate=2e-2)
    segmenter = train_segmenter(pairs(images[:8], layouts[:8], CLASSES[:2]), config, seed=0, progress=False)
    images[[9, 14]] = images[[14, 9]]
    decisions = keep_pairs(score_pairs(segmenter, pairs(images[8:], layouts[8:], CLASSES[:2])), 25, CLASSES[:2])
    assert decisions.index[~decisions["kept"]].tolist() == [1, 6]


def test_percentile_0_keeps_every_pair():
    scores = scores_of([0.0, 0.4, 0.8, 0.9], [0.1, np.nan, 0.5, 0.7])
    decisions = keep_pairs(scores, percentile=0, classes=CLASSES[:2])
    assert decisions["kept"].all()
    assert (decisions["reason"] == "").all()


@pytest.mark.parametrize("percentile", [1, 5, 12.5, 29, 50])
def test_so_many_pairs_of_a_class_are_dropped_and_those_of_lowest_score(percentile):
    iou = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, 100))
    decisions = keep_pairs(scores_of(iou), percentile, ["stroma"])
    assert (~decisions["kept"]).sum() == int(percentile)
    assert set(decisions.index[~decisions["kept"]]) == set(np.argsort(iou)[: int(percentile)])


def test_each_class_has_a_threshold_of_its_own():
    high, low = np.linspace(0.8, 0.9, 20), np.linspace(0.1, 0.2, 20)[::-1]  # a large and a small class
    decisions = keep_pairs(scores_of(high, low), 5, CLASSES[:2])
    assert decisions.index[~decisions["kept"]].tolist() == [0, 19]
    assert decisions["reason"][0] == "stroma: IoU 0.800, the threshold is 0.805 (percentile 5 of 20 pairs with it)"
    assert decisions["reason"][19].startswith("epithelium: IoU 0.100, the threshold is 0.105 ")


def test_a_pair_that_fails_in_two_classes_is_told_both():
    iou = np.linspace(0.5, 0.9, 20)
    reasons = keep_pairs(scores_of(iou, iou), 5, CLASSES[:2])["reason"]
    assert [part.split(":")[0] for part in reasons[0].split("; ")] == ["stroma", "epithelium"]


def test_a_class_in_few_pairs_drops_none_of_them_and_counts_by_its_own_pairs():
    common, rare = np.linspace(0.5, 0.9, 40), np.full(40, np.nan)
    rare[[30, 31, 32]] = 0.0, 0.1, 0.2
    decisions = keep_pairs(scores_of(common, rare), 10, CLASSES[:2])
    assert decisions.index[~decisions["kept"]].tolist() == [0, 1, 2, 3]  # one of three is more than a tenth
    rare[20:30] = np.linspace(0.3, 0.9, 10)
    decisions = keep_pairs(scores_of(common, rare), 10, CLASSES[:2])
    assert decisions.index[~decisions["kept"]].tolist() == [0, 1, 2, 3, 30]
    assert "(percentile 10 of 13 pairs with it)" in decisions["reason"][30]


def test_a_class_that_no_pair_has_changes_nothing():
    iou = np.linspace(0.5, 0.9, 40)
    with_class = keep_pairs(scores_of(iou, np.full(40, np.nan)), 10, CLASSES[:2])
    pd.testing.assert_frame_equal(with_class, keep_pairs(scores_of(iou), 10, CLASSES[:1]))


def test_where_more_fail_than_may_be_dropped_the_least_accurate_go():
    iou, accuracy = np.r_[np.zeros(10), np.linspace(0.5, 0.9, 30)], np.r_[np.linspace(0.5, 0.1, 10), np.full(30, 0.8)]
    decisions = keep_pairs(scores_of(iou, accuracy=accuracy), 10, CLASSES[:1])
    assert decisions.index[~decisions["kept"]].tolist() == [6, 7, 8, 9]


def test_pairs_that_are_alike_are_all_kept():
    decisions = keep_pairs(scores_of(np.full(40, 0.7)), 50, CLASSES[:1])
    assert decisions["kept"].all()


@pytest.mark.parametrize(
    ("percentile", "classes", "message"),
    [
        (-1, CLASSES[:2], "percentile=-1; it must lie in"),
        (100, CLASSES[:2], "percentile=100; it must lie in"),
        (5, CLASSES, "columns iou_0, iou_1, but 3 classes"),
        (50, CLASSES[:2], "percentile=50 drops all 2 pairs"),
    ],
)
def test_what_cannot_be_kept_is_said_in_one_sentence(percentile, classes, message):
    with pytest.raises(ValueError, match=message):
        keep_pairs(scores_of([0.1, 0.9], [0.9, 0.1]), percentile, classes)


# ------------------------------------------------------------------------------------------------- tables


@pytest.fixture
def synthetic():
    """A synthetic table whose rows 5 and 17 show other layouts."""
    layouts = random_layouts(40)
    images = with_faults(layouts, [5, 17], lambda shown: shown.flip(1)).permute(0, 2, 3, 1).numpy()
    columns = {"index": range(40), "layout_id": [f"l{row}" for row in range(40)], "style_images": [["a", "b"]] * 40}
    return from_arrays(images, layouts.numpy(), [f"g{row % 3}" for row in range(40)], **columns)


def test_the_kept_table_lacks_the_bad_pairs_and_a_file_tells_why(synthetic, tmp_path):
    kept = filter_patches(synthetic, Reader(), 5, CLASSES, tmp_path)
    rows = [row for row in range(40) if row not in (5, 17)]
    assert kept["index"][:] == rows
    assert kept.features == synthetic.features
    assert kept[5]["image"] == synthetic[6]["image"]
    assert [path.name for path in tmp_path.iterdir()] == ["filter.parquet"]
    report = pd.read_parquet(tmp_path / "filter.parquet")
    facts, scores = ["group", "index", "layout_id", "style_images"], ["iou_0", "iou_1", "iou_2", "accuracy"]
    assert report.columns.tolist() == [*facts, *scores, "kept", "reason"]
    assert report["index"].tolist() == list(range(40))
    assert report.index[report["kept"]].tolist() == rows
    assert report["layout_id"][17] == "l17"
    assert report["style_images"][17].tolist() == ["a", "b"]
    assert "IoU" in report["reason"][17]
    assert report["accuracy"][17] < 0.6 < 1 == report["accuracy"][16]


def test_filtering_again_replaces_the_report_and_percentile_0_keeps_the_table(synthetic, tmp_path):
    filter_patches(synthetic, Reader(), 5, CLASSES, tmp_path)
    kept = filter_patches(synthetic, Reader(), 0, CLASSES, tmp_path)
    assert kept["index"][:] == list(range(40))
    assert pd.read_parquet(tmp_path / "filter.parquet")["kept"].all()


def test_a_report_is_never_put_where_it_would_pass_for_a_split(synthetic, tmp_path):
    save_patches(synthetic, tmp_path / "synthetic" / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"holds train-00000-of-00001\.parquet, so filter\.parquet would pass"):
        filter_patches(synthetic, Reader(), 5, CLASSES, tmp_path / "synthetic")
    filter_patches(synthetic, Reader(), 5, CLASSES, tmp_path)
    assert len(load_patches(tmp_path / "synthetic")) == 40  # the one split there is


def test_a_wrong_percentile_is_refused_before_anything_is_scored(synthetic, tmp_path):
    class Untouched(nn.Module):
        def forward(self, images):
            raise AssertionError("scored")

    with pytest.raises(ValueError, match="percentile=101"):
        filter_patches(synthetic, Untouched(), 101, CLASSES, tmp_path)


# ----------------------------------------------------------------------------------------- contradicted pixels


class SureReader(Reader):
    """A `Reader` that is the surer the more of the right brightness a pixel has."""

    def forward(self, images):
        return 400 * super().forward(images)


def test_pixels_that_are_surely_of_another_class_are_unknown_and_no_others():
    layouts = random_layouts(6)
    shown = layouts.clone()
    shown[:, 3:6, 2:9] = (shown[:, 3:6, 2:9] + 1) % 3  # the generator fails here
    made = pairs(show(shown), layouts)
    found = ignore_contradicted(SureReader(), made, confidence=0.95)
    assert torch.equal(found.masks, layouts.where(shown == layouts, UNKNOWN))
    assert torch.equal(made.masks, layouts)  # as it was
    assert torch.equal(found.images, made.images)
    assert torch.equal(ignore_contradicted(SureReader(), made, confidence=1.0).masks, layouts)


def test_a_network_in_doubt_contradicts_nothing():
    layouts = random_layouts(4)
    between = show(layouts) + 25  # half-way to the next class
    made = pairs(between, layouts)
    assert torch.equal(ignore_contradicted(SureReader(), made, confidence=0.95).masks, layouts)


def test_what_nobody_knows_stays_unknown():
    layouts = random_layouts(2)
    layouts[:, :2] = UNKNOWN
    found = ignore_contradicted(SureReader(), pairs(show(random_layouts(2, seed=1)), layouts), confidence=0.95)
    assert (found.masks[:, :2] == UNKNOWN).all()
