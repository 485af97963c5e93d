"""The fidelity table: every planted fault is seen by the measure that is there for it, and not by the others."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from torch.nn import functional as F

from sedm.config import SegmentationConfig
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.fidelity import (
    colour_statistics,
    kernel_distance,
    retrieve_groups,
    segmenter_extractor,
    stain_angles,
)
from sedm.fidelity.table import MEASURES, fidelity_table
from sedm.group_statistics import summarise_groups
from sedm.segmentation.scores import score_groups
from sedm.segmentation.segmenter import predict, train_segmenter
from sedm.styles.bank import first_rows

SIZE = 16  # px a side
CLASSES = ("stroma", "epithelium")
GROUPS = [f"patient-{i}" for i in range(8)]
N_IMAGES = 8  # of each group, on each side
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def layouts_of(n, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, SIZE, SIZE, dtype=torch.uint8)
    for mask, (row, column) in zip(masks, torch.randint(SIZE - 7, (n, 2), generator=generator).tolist(), strict=True):
        mask[row : row + 7, column : column + 7] = 1
    return masks


def paint(masks, groups, seed):
    """Stroma in eosin, epithelium in haematoxylin, each image with a grain of its own, in the stains of its group."""
    random = np.random.default_rng(seed)
    images = []
    for mask, group in zip(masks.numpy(), groups, strict=True):
        style = np.random.default_rng(int(group[8:]))  # the number of the patient
        stains = np.stack([HAEMATOXYLIN, EOSIN]) + style.uniform(-0.15, 0.15, size=(2, 3)).clip(-0.06)
        strength = style.uniform(0.6, 1.2, size=2) * random.normal(1, 0.06, size=2)
        grain = torch.from_numpy(random.uniform(0.6, 1.4, size=(1, 2, 6, 6)))
        grain = F.interpolate(grain, (SIZE, SIZE), mode="bilinear")[0].permute(1, 2, 0).numpy()
        amounts = np.where(mask[..., None] == 1, [0.45, 0.06], [0.04, 0.35]) * grain * strength
        images.append(255 * 10 ** -(amounts @ stains))
    return torch.from_numpy(np.stack(images).round().clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def patches_of(groups, n_images, seed):
    names = [name for name in groups for _ in range(n_images)]
    masks = layouts_of(len(names), seed)
    return Patches(paint(masks, names, seed), masks, names, CLASSES)


@pytest.fixture(scope="module")
def world():
    """Everything but generated images, as keywords of the table; the judge saw patients that nobody else saw."""
    lenders, references = (patches_of(GROUPS, N_IMAGES, seed) for seed in (1, 2))
    config = SegmentationConfig(channels=(8, 16), n_steps=150, batch_size=16)
    others = patches_of([f"patient-{100 + i}" for i in range(20)], 8, seed=3)
    judge = train_segmenter(others, config, seed=0, progress=False)
    train = patches_of([f"patient-{200 + i}" for i in range(12)], 8, seed=4)
    known = {"lenders": lenders, "references": references, "train": train, "judge": judge}
    rows = first_rows(lenders.groups, lenders.groups, n_images=2)
    return {**known, "extractor": segmenter_extractor(judge, "20 patients"), "style_rows": rows, "stained": True}


@pytest.fixture(scope="module")
def asked():
    """What is to be generated: layouts in the style of groups."""
    groups = [name for name in GROUPS for _ in range(N_IMAGES)]
    return layouts_of(len(groups), seed=5), groups


def measure(world, asked, images):
    """value of the table by (measure, of), for images made for what was asked."""
    return fidelity_table(Patches(images, *asked, CLASSES), **world)["value"]


@pytest.fixture(scope="module")
def perfect_table(world, asked):
    layouts, groups = asked
    return fidelity_table(Patches(paint(layouts, groups, seed=6), layouts, groups, CLASSES), **world)


@pytest.fixture(scope="module")
def perfect(perfect_table):
    return perfect_table["value"]


def follows_layout(values):
    return values["layout_iou", "generated"] > 0.8 * values["layout_iou", "real"]


def follows_style(values):
    return values["retrieval_top1", "generated"] > 0.75 * values["retrieval_top1", "real"]


# ------------------------------------------------------------------------------------------ planted faults


@pytest.mark.slow
def test_a_perfect_model_is_as_good_as_real_images(perfect):
    assert follows_layout(perfect)
    assert follows_style(perfect)
    for measure in ("kernel_distance", "precision", "recall", "copied_pixels", "copied_features"):
        assert perfect[measure, "generated"] == pytest.approx(perfect[measure, "real"], abs=0.2)
    for measure in ("frechet_distance", "spread_between", "spread_within", "nearest_features", "nearest_pixels"):
        assert perfect[measure, "generated"] == pytest.approx(perfect[measure, "real"], rel=0.3)
    for measure in ("colour_distance", "haematoxylin_angle", "eosin_angle"):
        assert max(perfect[measure, "generated"], perfect[measure, "real"]) < 0.5 * perfect[measure, "chance"]
    assert abs(perfect["content_leakage", "generated"]) < 0.1 < 0.7 < perfect["content_leakage", "copy"]
    assert perfect["layout_iou", "chance"] < 0.4 < 0.8 < perfect["layout_iou", "real"]
    assert perfect["spread_between", "chance"] < 0.6 * perfect["spread_between", "generated"]


@pytest.mark.slow
def test_shuffled_layouts_are_seen_by_layouts_alone(world, asked, perfect):
    layouts, groups = asked
    found = measure(world, asked, paint(layouts.roll(11, 0), groups, seed=6))
    assert found["layout_iou", "generated"] == pytest.approx(found["layout_iou", "chance"], abs=0.1)
    assert found["layout_iou_epithelium", "generated"] < 0.5 * perfect["layout_iou_epithelium", "generated"]
    assert follows_style(found)
    assert found["kernel_distance", "generated"] == pytest.approx(perfect["kernel_distance", "generated"], abs=0.1)
    assert abs(found["content_leakage", "generated"]) < 0.1


@pytest.mark.slow
def test_shuffled_styles_are_seen_by_styles_alone(world, asked, perfect):
    layouts, groups = asked
    found = measure(world, asked, paint(layouts, groups[N_IMAGES:] + groups[:N_IMAGES], seed=6))
    assert found["retrieval_top1", "generated"] < found["retrieval_top1", "chance"]
    for measure_name in ("colour_distance", "haematoxylin_angle", "eosin_angle"):
        assert found[measure_name, "generated"] > 3 * perfect[measure_name, "generated"]
    assert follows_layout(found)
    assert found["kernel_distance", "generated"] == pytest.approx(perfect["kernel_distance", "generated"], abs=0.1)
    assert found["spread_between", "generated"] == pytest.approx(perfect["spread_between", "generated"], rel=0.1)


@pytest.mark.slow
def test_a_model_with_one_style_is_seen_by_the_spread_between_groups(world, asked, perfect):
    layouts, groups = asked
    found = measure(world, asked, paint(layouts, GROUPS[:1] * len(groups), seed=6))
    assert found["spread_between", "generated"] < 1.5 * found["spread_between", "chance"]
    assert found["spread_between", "generated"] < 0.5 * perfect["spread_between", "generated"]
    assert found["retrieval_top1", "generated"] == pytest.approx(1 / len(GROUPS), abs=0.05)
    assert found["recall", "generated"] < 0.7 * perfect["recall", "generated"]
    assert follows_layout(found)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_copied_training_images_are_counted(world, asked, perfect, share):
    layouts, groups = asked
    images, n = paint(layouts, groups, seed=6), round(share * len(groups))
    images[:n] = world["train"].images[:n]
    found = measure(world, asked, images)
    for view in ("features", "pixels"):
        by_chance = perfect[f"copied_{view}", "generated"]  # of the same images, all of them new
        assert share <= found[f"copied_{view}", "generated"] <= share + by_chance
        expected = (1 - share) * perfect[f"nearest_{view}", "generated"]
        assert found[f"nearest_{view}", "generated"] == pytest.approx(expected, rel=0.15, abs=0.01)
        assert found[f"copied_{view}", "real"] == perfect[f"copied_{view}", "real"]


@pytest.mark.slow
def test_constant_images_show_no_diversity_and_no_layout(world, asked, perfect):
    layouts, groups = asked
    images = paint(layouts, groups, seed=6).unflatten(0, (len(GROUPS), N_IMAGES)).float()
    flat = images.mean((1, 3, 4), keepdim=True).expand_as(images).flatten(0, 1).to(torch.uint8)
    found = measure(world, asked, flat)
    assert found["spread_within", "generated"] == 0
    assert found["recall", "generated"] == 0
    assert found["layout_iou", "generated"] < 0.4
    assert found["frechet_distance", "generated"] > 3 * perfect["frechet_distance", "generated"]
    assert found["nearest_pixels", "generated"] == 1  # like nothing, so no copy


@pytest.mark.slow
def test_a_drift_of_colour_is_seen_by_colours_and_not_by_layouts(world, asked, perfect):
    layouts, groups = asked
    images = (paint(layouts, groups, seed=6).int() + torch.tensor([-14, 6, 10]).view(3, 1, 1)).clamp(0, 255)
    found = measure(world, asked, images.to(torch.uint8))
    assert found["colour_distance", "generated"] > 4 * perfect["colour_distance", "generated"]
    assert found["kernel_distance", "generated"] > perfect["kernel_distance", "generated"] + 0.1
    assert found["retrieval_top1", "generated"] < perfect["retrieval_top1", "generated"]
    assert max(found[f"{stain}_angle", "generated"] for stain in ("haematoxylin", "eosin")) > 2 * max(
        perfect[f"{stain}_angle", "generated"] for stain in ("haematoxylin", "eosin")
    )
    assert follows_layout(found)


@pytest.mark.slow
def test_content_of_style_images_is_seen_where_it_comes_through(world, asked):
    layouts, groups = asked
    leaked = world["lenders"].masks[world["style_rows"][:, 0]]
    leaked[::2] = layouts[::2]  # every second image draws what its style image shows
    found = measure(world, asked, paint(leaked, groups, seed=6))
    assert found["content_leakage", "generated"] > 0.15
    assert found["content_agreement", "generated"] > found["content_agreement", "chance"] + 0.15
    assert found["content_leakage", "generated"] < found["content_leakage", "copy"]
    assert follows_style(found)


# ------------------------------------------------------------------------------------------- the table itself


@pytest.mark.slow
def test_numbers_are_those_of_the_measures_alone(perfect_table, world, asked):
    layouts, groups = asked
    images, references = paint(layouts, groups, seed=6), world["references"]
    answer = predict(world["judge"], images)
    scores = score_groups(answer, Patches(images, layouts, groups, CLASSES)).set_index("group")["mean_iou"]
    summary = summarise_groups(scores, seed=0)
    row = perfect_table.loc[("layout_iou", "generated")]
    assert row[["value", "low", "high"]].tolist() == [summary["mean"], summary["ci_low"], summary["ci_high"]]
    extracted = [world["extractor"](one) for one in (images, references.images)]
    assert perfect_table.loc[("kernel_distance", "generated"), "value"] == pytest.approx(kernel_distance(*extracted))
    colours = [colour_statistics(one) for one in (images, references.images)]
    ranks = retrieve_groups(colours[0], groups, colours[1], references.groups)["rank"]
    assert perfect_table.loc[("retrieval_top5", "generated"), "value"] == pytest.approx((ranks <= 5).mean())
    scaled = colours[0] / colours[1].std(0)
    pairs = [pdist(scaled[[name == group for group in groups]]).mean() for name in GROUPS]
    assert perfect_table.loc[("spread_within", "generated"), "value"] == pytest.approx(np.mean(pairs))
    angles = stain_angles(images, groups, references.images, references.groups)["eosin"]
    assert perfect_table.loc[("eosin_angle", "chance"), "value"] == pytest.approx(angles["others"].mean())


def test_every_row_has_its_interval_its_numbers_and_a_title(perfect_table, world):
    assert {name.removesuffix("_stroma").removesuffix("_epithelium") for name, _ in perfect_table.index} == set(
        MEASURES
    )
    kinds = perfect_table.index.get_level_values("of")
    sure = perfect_table[kinds.isin(["generated", "real"])]
    assert (sure["low"] <= sure["value"]).all()
    assert (sure["value"] <= sure["high"]).all()
    assert (perfect_table["n_images"] > 0).all()
    assert set(perfect_table["n_groups"]) == {len(GROUPS)}
    quality = perfect_table.loc[["kernel_distance", "frechet_distance", "precision", "recall", "nearest_features"]]
    assert set(quality["measured_on"]) == {world["extractor"].name}
    assert perfect_table.loc[("retrieval_top5", "chance"), "value"] == 5 / 8
    assert perfect_table.loc[["precision", "recall"], ["low", "high"]].stack().between(0, 1).all()
    json.dumps(perfect_table.reset_index().to_dict("records"))


@pytest.mark.slow
def test_generated_and_real_are_measured_on_equal_numbers(world, asked):
    layouts, groups = asked
    images = paint(layouts, groups, seed=6)
    more = [*range(len(groups)), *range(3 * N_IMAGES)]  # three groups twice
    few = [row for row, group in enumerate(world["lenders"].groups) if group != GROUPS[1] or row % N_IMAGES < 5]
    generated = Patches(images, layouts, groups, CLASSES).select(more)
    unequal = {**world, "lenders": world["lenders"].select(few), "style_rows": torch.zeros(len(more), 1).long()}
    table = fidelity_table(generated, **unequal)
    alike = [name for name in MEASURES if not name.startswith(("content", "nearest", "copied"))]
    assert set(table.loc[alike, "n_images"]) == {len(GROUPS) * N_IMAGES - 3}
    assert table.loc[("copied_pixels", "generated"), "n_images"] == len(more)


@pytest.mark.slow
def test_the_order_of_images_does_not_matter(world, asked, perfect):
    layouts, groups = asked
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0)).tolist()
    generated = Patches(paint(layouts, groups, seed=6), layouts, groups, CLASSES).select(order)
    values = fidelity_table(generated, **{**world, "style_rows": world["style_rows"][order]})["value"]
    drawn = [key for key in values.index if key[1] == "chance"]  # at random, by the order
    wanted = perfect.drop(drawn)[values.drop(drawn).index].to_dict()
    assert values.drop(drawn).to_dict() == pytest.approx(wanted, rel=1e-5)  # float32 sums in another order


@pytest.mark.slow
def test_stains_are_looked_for_only_where_there_are_some_and_small_sets_have_no_neighbours(world, asked):
    layouts, groups = asked
    rows = [0, 1, 8]  # two images of one group, one of another
    few = Patches(paint(layouts, groups, seed=6), layouts, groups, CLASSES).select(rows)
    table = fidelity_table(few, **{**world, "style_rows": world["style_rows"][rows], "stained": False})
    assert "eosin_angle" not in table.index
    assert math.isnan(table.loc[("precision", "generated"), "value"])
    assert math.isnan(table.loc[("spread_between", "generated"), "low"])
    assert table.loc[("spread_within", "generated"), "n_groups"] == 1


@pytest.mark.slow
def test_the_table_is_the_same_every_time(world, asked, perfect_table):
    layouts, groups = asked
    again = fidelity_table(Patches(paint(layouts, groups, seed=6), layouts, groups, CLASSES), **world)
    assert again.equals(perfect_table)


@pytest.mark.slow
def test_a_number_does_not_depend_on_what_else_is_asked(world, asked, perfect_table):
    """A sweep asks for less than the whole table, and finds the same numbers, on the same network."""
    layouts, groups = asked
    less = {key: value for key, value in world.items() if key not in ("style_rows", "train", "stained")}
    table = fidelity_table(Patches(paint(layouts, groups, seed=6), layouts, groups, CLASSES), **less)
    assert {"kernel_distance", "layout_iou", "retrieval_top1", "colour_distance"} <= set(table.index.unique("measure"))
    assert not table.index.unique("measure").str.startswith(("content", "nearest", "copied", "eosin")).any()
    assert table.equals(perfect_table.loc[table.index])


# ------------------------------------------------------------------------------------------------ bad input


def spoilt(world, asked):
    layouts, groups = asked
    images = paint(layouts, groups, seed=6)
    generated, train, lenders = Patches(images, layouts, groups, CLASSES), world["train"], world["lenders"]
    alien = replace(generated, groups=["patient-999", *groups[1:]])
    wide = replace(train, images=F.pad(train.images, (0, 4)), masks=F.pad(train.masks, (0, 4)))
    known = Patches.concatenate([train.select(range(3)), lenders.select([5])])
    foreign = replace(generated, classes=("stroma", "tumour"))
    other = segmenter(3)
    one_group = generated.select(range(N_IMAGES))
    rows = world["style_rows"]
    yield "style of 'patient-999', of which there are no lenders", alien, {}
    yield "images of 1 groups were generated", one_group, {"style_rows": rows[:N_IMAGES]}
    yield r"images of sizes \(16, 16\), \(16, 20\)", generated, {"train": wide}
    yield r"style_rows must be rows \(n, k\) of the 64 lenders", generated, {"style_rows": rows + 60}
    yield "style_rows must be rows", generated, {"style_rows": rows[:, 0]}
    yield "style_rows must be rows", generated, {"style_rows": rows.double()}
    yield "for each of 64 generated images", generated, {"style_rows": rows[1:]}
    yield "lenders of the classes stroma, epithelium, generated images of stroma, tumour", foreign, {}
    other_references = replace(world["references"], classes=("stroma", "lumen"))
    yield "references of the classes stroma, lumen", generated, {"references": other_references}
    yield "the judge tells 3 classes apart, there are 2", generated, {"judge": other}
    yield "lender 5 is training image 3; held-out images must not be trained on", generated, {"train": known}
    hidden = generated.hide_masks(len(set(groups)) - 1, seed=0)
    yield f"generated image {hidden.mask_source.index('none')} has no mask; give the layout", hidden, {}
    yield "all layouts are the same", replace(generated, masks=0 * layouts), {}


def segmenter(n_classes):
    from sedm.segmentation.networks import UNet

    return UNet(n_classes, (8, 16))


def test_bad_input_ends_in_one_sentence_before_anything_is_measured(world, asked, unchecked):
    def refuse(images):
        raise AssertionError("measured before the input was checked")

    idle = replace(world["extractor"], read=refuse)
    for message, generated, changes in spoilt(world, asked):
        with pytest.raises(ValueError, match=message):
            fidelity_table(generated, **{**world, "extractor": idle, **changes})


@pytest.mark.slow
def test_images_without_masks_have_no_layout_to_be_compared_with(world, asked):
    layouts, groups = asked
    generated = Patches(paint(layouts, groups, seed=6), layouts, groups, CLASSES)
    blank = replace(world["lenders"], masks=torch.full_like(world["lenders"].masks, UNKNOWN), mask_source=[])
    assert not blank.has_mask.any()
    values = fidelity_table(generated, **{**world, "lenders": blank})["value"]
    assert math.isnan(values["layout_iou", "real"])
    assert math.isnan(values["content_leakage", "generated"])
    assert follows_style(values)
