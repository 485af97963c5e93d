"""Scores against loops over pixels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sedm.data.patches import Patches
from sedm.segmentation.scores import score_groups


def with_masks(masks, groups, n_classes=2) -> Patches:
    """Black images with these masks."""
    images = torch.zeros(len(masks), 3, *masks.shape[1:], dtype=torch.uint8)
    return Patches(images, masks.to(torch.uint8), groups, tuple("abcdef"[:n_classes]))


def iou_by_loops(predictions, masks, k):
    intersection = union = 0
    for predicted, true in zip(predictions.flatten().tolist(), masks.flatten().tolist(), strict=True):
        if true != 255:
            intersection += predicted == k and true == k
            union += predicted == k or true == k
    return intersection / union if union else math.nan


def dice_by_loops(predictions, masks, k):
    pixels = zip(predictions.flatten().tolist(), masks.flatten().tolist(), strict=True)
    pairs = [(predicted == k, true == k) for predicted, true in pixels if true != 255]
    both, sizes = sum(p and m for p, m in pairs), sum(p + m for p, m in pairs)
    return 2 * both / sizes if sizes else math.nan


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_iou_is_the_one_counted_pixel_by_pixel(dtype):
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(4, (6, 7, 5), generator=generator)
    predictions = torch.where(torch.rand(6, 7, 5, generator=generator) < 0.6, masks, (masks + 1) % 4)
    masks[torch.rand(6, 7, 5, generator=generator) < 0.2] = 255
    masks[masks == 3] = 0
    groups = ["b", "a", "b", "c", "a", "b"]
    table = score_groups(predictions.to(dtype), with_masks(masks, groups, n_classes=5))
    assert table["group"].tolist() == ["a", "b", "c"]
    assert table["n_images"].tolist() == [2, 3, 1]
    for row in table.to_dict("records"):
        members = [i for i, group in enumerate(groups) if group == row["group"]]
        expected = [iou_by_loops(predictions[members], masks[members], k) for k in range(5)]
        np.testing.assert_allclose([row[f"iou_{k}"] for k in range(5)], expected)
        dice = [dice_by_loops(predictions[members], masks[members], k) for k in range(5)]
        np.testing.assert_allclose([row[f"dice_{k}"] for k in range(5)], dice)
        np.testing.assert_allclose(row["mean_dice"], np.mean(dice[1:4]))
        assert expected[3] == 0
        assert math.isnan(expected[4])
        np.testing.assert_allclose(row["mean_iou"], np.mean(expected[1:4]))


def test_pixels_are_pooled_within_a_group():
    masks = torch.tensor([[[1, 1, 1, 1]], [[1, 0, 0, 0]]])
    predictions = torch.tensor([[[1, 1, 1, 1]], [[0, 0, 0, 0]]])
    assert score_groups(predictions, with_masks(masks, ["a", "a"]))["mean_iou"].tolist() == [0.8]  # not (1 + 0) / 2
    assert score_groups(predictions, with_masks(masks, ["a", "b"]))["mean_iou"].tolist() == [1.0, 0.0]


def test_foreground_nowhere_is_left_out_and_foreground_invented_scores_zero():
    masks = torch.zeros(2, 3, 3, dtype=torch.long)
    predictions = masks.clone()
    predictions[1, 0, 0] = 1
    left_out, invented = score_groups(predictions, with_masks(masks, ["a", "b"]))["mean_iou"]
    assert math.isnan(left_out)
    assert invented == 0


@pytest.mark.parametrize("guess", [0, 1])
def test_pixels_that_nobody_knows_count_neither_for_nor_against(guess):
    """Of eight known pixels the upper four are foreground, and the first of them is missed: IoU 3/4, Dice 6/7."""
    masks = torch.full((1, 4, 4), 255)
    masks[0, 0], masks[0, 1] = 1, 0
    predictions = torch.full_like(masks, guess)
    predictions[0, :2] = masks[0, :2]
    predictions[0, 0, 0] = 0
    row = score_groups(predictions, with_masks(masks, ["a"])).iloc[0]
    assert (row["iou_1"], row["iou_0"]) == (3 / 4, 4 / 5)
    assert row["dice_1"] == pytest.approx(6 / 7)


def test_predicted_masks_are_no_truth_to_score_on():
    masks = torch.zeros(2, 2, 2, dtype=torch.uint8)
    patches = replace(with_masks(masks, ["a", "b"]), mask_source=["annotated", "predicted"])
    with pytest.raises(ValueError, match=r"the mask of row 1 is predicted; score on masks that people annotated"):
        score_groups(masks, patches)
    assert score_groups(masks[:1], patches.annotated())["group"].tolist() == ["a"]


def test_a_group_that_nobody_annotated_has_no_score_and_no_images():
    masks = torch.full((1, 3, 3), 255)
    row = score_groups(torch.zeros_like(masks), with_masks(masks, ["a"])).iloc[0]
    assert row["n_images"] == 0
    assert row[["iou_0", "iou_1", "mean_iou"]].isna().all()


@pytest.mark.parametrize(
    ("predictions", "patches", "message"),
    [
        (torch.zeros(0, 2, 2), with_masks(torch.zeros(0, 2, 2), []), "at least one"),
        (torch.zeros(1, 2, 2), with_masks(torch.zeros(1, 2, 3), ["a"]), r"\(1, 2, 2\).*\(1, 2, 3\)"),
        (torch.zeros(1, 2, 2), with_masks(torch.zeros(2, 2, 2), ["a", "b"]), r"\(1, 2, 2\).*\(2, 2, 2\)"),
        (torch.full((1, 2, 2), 2), with_masks(torch.zeros(1, 2, 2), ["a"]), r"predictions hold 2, .* 0\.\.1"),
        (torch.full((1, 2, 2), 255), with_masks(torch.zeros(1, 2, 2), ["a"]), "predictions hold 255"),
        (torch.zeros(1, 2, 2), with_masks(torch.zeros(1, 2, 2), ["a"], 1), "only the class 'a'; a background and a"),
    ],
)
def test_bad_input_ends_in_one_sentence(unchecked, predictions, patches, message):
    with pytest.raises(ValueError, match=message):
        score_groups(predictions.long(), patches)
