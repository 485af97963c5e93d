"""Distances against closed forms and brute force; every measure of a model reacts to a planted fault, and only it."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torch.nn import functional as F

import sedm.fidelity.unseen
import sedm.segmentation.segmenter
from sedm.config import OBJECTIVES, SegmentationConfig
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.fidelity import frechet_distance, kernel_distance, precision_recall, segmenter_extractor, stage_features
from sedm.fidelity.denoising import NOISE_LEVELS, denoising_errors
from sedm.fidelity.unseen import N_LAYOUTS, draw_unseen, measure_generator
from sedm.generator.denoiser import build_model
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.process import Diffusion
from sedm.segmentation.networks import UNet
from sedm.segmentation.segmenter import kept_segmenter

SIZE = 16  # px a side
CLASSES = ("background", "square")
COLOURS = ((170, 40, 40), (40, 150, 40), (40, 40, 170), (160, 150, 30))  # of the groups
SEGMENTER = SegmentationConfig(channels=(8, 16), n_steps=120, batch_size=16)


def squares(n, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, SIZE, SIZE, dtype=torch.uint8)
    for mask, (row, column) in zip(masks, torch.randint(SIZE - 7, (n, 2), generator=generator).tolist(), strict=True):
        mask[row : row + 7, column : column + 7] = 1
    return masks


def paint(masks, groups, seed):
    """Images that show the masks in the colours of the groups, with grain: what a perfect model would draw."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([COLOURS[int(group[-1])] for group in groups])[:, :, None, None]
    grain = torch.randint(24, (len(masks), 3, SIZE, SIZE), generator=generator)
    return (colours + 60 * masks[:, None] + grain).clamp(max=255).to(torch.uint8)


def planted(n_images=8, seed=0):
    groups = [f"group-{row // n_images}" for row in range(4 * n_images)]
    masks = squares(len(groups), seed)
    return Patches(paint(masks, groups, seed), masks, groups, CLASSES)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    folder, patches = tmp_path_factory.mktemp("networks"), planted(24, seed=1)
    judge, other = (kept_segmenter(folder, "network", patches, SEGMENTER, seed=network_seed) for network_seed in (0, 1))
    return draw_unseen(planted(seed=2), judge, segmenter_extractor(other, "96 squares"))


def draw_unmeasured(test):
    """Unseen groups that nothing is measured on."""
    judge = UNet(2, (8, 16))
    return draw_unseen(test, judge, segmenter_extractor(judge, "nothing"))


def normal(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.linspace(1, 3, d) + 5


# ------------------------------------------------------------------------------------------------ features


def test_stage_features_are_the_moments_of_every_stage():
    network, images = UNet(3, (8, 16)).eval(), torch.randint(256, (5, 3, 12, 20), dtype=torch.uint8)
    with torch.no_grad():
        first = network.stem(2 * (images.float() / 255) - 1)
        stages = [first, network.down[0](F.max_pool2d(first, 2))]
    expected = [f(stage.numpy(), axis=(2, 3)) for stage in stages for f in (np.mean, np.std)]
    modules = [network.stem, *network.down]
    found = stage_features(network, modules, images)
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-5)
    np.testing.assert_allclose(stage_features(network, modules, images, batch_size=2), found, atol=1e-5)


def test_reading_features_leaves_no_hook_behind_even_when_it_fails():
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    stage_features(network, network, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(RuntimeError):  # smaller than the kernel
        stage_features(network, network, torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    assert len(network[0]._forward_hooks) == 0


# ----------------------------------------------------------------------------------------------- distances


def test_the_kernel_distance_is_that_summed_pair_by_pair():
    generated, real = normal(7, 3), normal(5, 3, seed=1)
    x, y = ((one - real.mean(0)) / real.std(0) for one in (generated, real))

    def kernel(a, b):
        return (sum(i * j for i, j in zip(a, b, strict=True)) / 3 + 1) ** 3

    of_x = [kernel(x[i], x[j]) for i, j in product(range(7), repeat=2) if i != j]
    of_y = [kernel(y[i], y[j]) for i, j in product(range(5), repeat=2) if i != j]
    expected = np.mean(of_x) + np.mean(of_y) - 2 * np.mean([kernel(a, b) for a, b in product(x, y)])
    assert kernel_distance(generated, real) == pytest.approx(expected)


@pytest.mark.slow
def test_the_kernel_distance_of_equal_distributions_is_zero_on_average_at_any_n():
    for n in (10, 40):
        values = [kernel_distance(normal(n, 4, seed), normal(200, 4, 10_000 + seed)) for seed in range(200)]
        assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


def test_the_frechet_distance_is_that_of_the_matrix_root():
    generated, real = normal(60, 5) @ np.random.default_rng(2).normal(size=(5, 5)), normal(50, 5, seed=1)
    x, y = ((one - real.mean(0)) / real.std(0) for one in (generated, real))
    a, b = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(generated, real) == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_of_a_stretched_and_moved_set_has_a_closed_form():
    white = np.linalg.qr(normal(30, 3) - normal(30, 3).mean(0))[0] * math.sqrt(30)  # mean 0, covariance 30/29
    stretch, move = np.array([0.5, 1, 2]), np.array([1, 0, -2])
    expected = (move**2).sum() + 30 / 29 * ((stretch - 1) ** 2).sum()
    assert frechet_distance(white * stretch + move, white) == pytest.approx(expected)


def test_the_frechet_distance_stays_real_with_fewer_images_than_features():
    assert frechet_distance(normal(6, 40), normal(6, 40)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(normal(6, 40), normal(6, 40, seed=1)) > 0


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_a_unit_that_is_dead_on_real_images_does_not_decide(distance):
    generated, real = normal(40, 4), normal(40, 4, seed=1)
    real[:, 0], generated[:, 0] = 0, np.linspace(0, 1e-3, 40)
    other = generated.copy()
    other[:, 0] = 0
    assert distance(generated, real) == pytest.approx(distance(other, real), rel=0.01)


def test_the_frechet_distance_of_repeated_features_is_repeated_also_beyond_the_number_of_images():
    generated, real = normal(20, 4), normal(25, 4, seed=1)
    wide = [np.tile(one, 10) for one in (generated, real)]
    assert frechet_distance(*wide) == pytest.approx(10 * frechet_distance(generated, real))


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_features_that_cannot_be_compared_are_refused(distance, unchecked):
    with pytest.raises(ValueError, match=r"features \(1, 3\) and \(5, 3\); two or more rows"):
        distance(normal(1, 3), normal(5, 3))
    with pytest.raises(ValueError, match="as wide"):
        distance(normal(5, 4), normal(5, 3))
    with pytest.raises(ValueError, match="none of the 3 features varies"):
        distance(normal(5, 3), np.ones((5, 3)))


# ------------------------------------------------------------------------------------ precision and recall


def test_precision_and_recall_are_those_counted_ball_by_ball():
    generated, real = normal(30, 3) + 1, normal(25, 3, seed=1)
    x, y = ((one - real.mean(0)) / real.std(0) for one in (generated, real))

    def covered(points, others):
        radii = [sorted(math.dist(a, b) for b in others)[3] for a in others]  # the first is the point itself
        return np.mean([any(math.dist(p, a) <= r for a, r in zip(others, radii, strict=True)) for p in points])

    expected = covered(x, y), covered(y, x)
    assert 0 < min(expected) < max(expected) < 1  # else any share would pass
    assert precision_recall(generated, real) == pytest.approx(expected)


def test_what_is_left_out_costs_recall_and_what_is_invented_costs_precision():
    two = np.concatenate([normal(60, 4), normal(60, 4) + 40])
    again = np.concatenate([normal(60, 4, seed=1), normal(60, 4, seed=1) + 40])
    assert min(precision_recall(again, two)) > 0.7
    precision, recall = precision_recall(again[:60], two)
    assert (precision > 0.7, recall <= 0.5) == (True, True)
    precision, recall = precision_recall(two, again[:60])
    assert (precision <= 0.5, recall > 0.7) == (True, True)


def test_constant_images_recall_nothing():
    real = normal(40, 4)
    assert precision_recall(np.repeat(real.mean(0, keepdims=True), 40, axis=0), real) == (1, 0)


def test_too_few_images_have_no_neighbours():
    with pytest.raises(ValueError, match="3 generated and 9 real images"):
        precision_recall(normal(3, 2), normal(9, 2))


# -------------------------------------------------------------------------------------- what is measured on


def test_styles_and_comparison_never_share_an_image_and_layouts_come_from_other_groups():
    test = planted()
    test.images[:, 0, 0, 0] = torch.arange(32, dtype=torch.uint8)  # the number of each image in a pixel of its own
    test.masks[:, 0, 0] = UNKNOWN  # no real layout has that, so the layout can carry the number as well
    test.masks[:, 0, 1] = torch.arange(32, dtype=torch.uint8)
    test = replace(test, classes=tuple(map(str, range(32))))
    drawn = draw_unmeasured(test)
    lent, compared = (set(one.images[:, 0, 0, 0].tolist()) for one in (drawn.lenders, drawn.references))
    assert lent | compared == set(range(32))
    assert lent & compared == set()
    assert len(drawn.groups) == len(drawn.layouts) == 4 * N_LAYOUTS
    owners = [test.groups[row] for row in drawn.layouts[:, 0, 1].tolist()]
    assert all(owner != group for owner, group in zip(owners, drawn.groups, strict=True))
    images = drawn.lenders.images[drawn.style_rows(["group-2", "group-0"], 3)][:, :, 0, 0, 0]
    assert [[test.groups[row] for row in rows] for rows in images.tolist()] == [["group-2"] * 3, ["group-0"] * 3]
    assert set(images.flatten().tolist()) <= lent
    again = draw_unmeasured(test)
    assert torch.equal(drawn.layouts, again.layouts)


def test_only_large_annotated_groups_are_drawn():
    test = planted()
    test.masks[8:16] = UNKNOWN
    test = replace(test, mask_source=[])  # masks that nobody drew
    alone = test.select([0, *range(8, 32)])  # group 0 has one image, group 1 no masks
    assert set(draw_unmeasured(alone).groups) == {"group-2", "group-3"}
    with pytest.raises(ValueError, match="1 test groups have two or more annotated images"):
        draw_unmeasured(test.select(range(16)))


def test_a_judge_is_trained_once_and_again_for_other_data(tmp_path, monkeypatch):
    trained, train = [], sedm.segmentation.segmenter.train_segmenter
    monkeypatch.setattr(
        sedm.segmentation.segmenter, "train_segmenter", lambda *args, **kw: trained.append(1) or train(*args, **kw)
    )
    config = SegmentationConfig(channels=(8, 16), n_steps=2, batch_size=4)
    state = torch.random.get_rng_state()
    networks = [kept_segmenter(tmp_path, "judge", planted(seed=seed), config, seed=0) for seed in (0, 0, 1)]
    assert len(trained) == len(list(tmp_path.iterdir())) == 2
    weights = [torch.cat([weight.flatten() for weight in network.state_dict().values()]) for network in networks]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), state)


# ---------------------------------------------------------------------------------------- planted models


@pytest.mark.slow
def test_the_kernel_distance_grows_with_blur(unseen):
    images = paint(unseen.layouts, unseen.groups, 3)
    widths = {1: images}
    for width in (3, 5):
        padded = F.pad(images.float(), [width // 2] * 4, mode="reflect")
        widths[width] = F.avg_pool2d(padded, width, stride=1).round().to(torch.uint8)
    tables = [unseen.measure(blurred) for blurred in widths.values()]
    values = [table.loc[("kernel_distance", "generated"), "value"] for table in tables]
    floor = tables[0].loc[("kernel_distance", "real"), "value"]
    assert values == sorted(values)
    assert values[1] - floor > 10 * abs(values[0] - floor)  # in no unit: that of a network depends on its training


# ------------------------------------------------------------------------------------------------ denoising


def planted_denoiser(monkeypatch, config, objective, clean_of):
    """A pipeline whose network answers exactly for the clean images ``clean_of(layout)``; and the times asked for."""
    model = build_model(replace(config.model, objective=objective), n_classes=2, image_size=SIZE, seed=0).eval()
    diffusion, times = Diffusion(objective), []

    def forward(x_t, t, layout, style):
        assert style.shape == (len(x_t), 1, config.model.style_dim)
        times.append(int(t[0]))
        clean = clean_of(layout)
        alpha, sigma = (one[t].view(-1, 1, 1, 1) for one in (diffusion.alphas, diffusion.sigmas))
        return diffusion.target(clean, (x_t - alpha * clean) / sigma, t)

    monkeypatch.setattr(model.denoiser, "forward", forward)
    return SEDMPipeline.from_model(model), times


def grey_of(layout):
    return (layout.float() - 0.5)[:, None].expand(-1, 3, -1, -1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_error_of_x_0_is_that_of_the_clean_image_whatever_the_objective(monkeypatch, config, objective):
    masks = squares(70, seed=0)  # more than a batch
    images = ((grey_of(masks) + 1) * 127.5).round().to(torch.uint8)
    patches = Patches(images, masks, ["a"] * 70, CLASSES)
    right, times = planted_denoiser(monkeypatch, config, objective, grey_of)
    assert max(denoising_errors(right, patches, None).values()) < 1e-4
    diffusion, levels = Diffusion(objective), Diffusion("x_0")
    for t, level in zip(times[::2], NOISE_LEVELS, strict=True):  # as noisy as the cosine schedule at that time
        assert diffusion.sigmas[t] / diffusion.alphas[t] == pytest.approx(
            float(levels.sigmas[level] / levels.alphas[level]), rel=0.02
        )
    grey, _ = planted_denoiser(monkeypatch, config, objective, lambda layout: 0 * grey_of(layout))
    expected = (images.float() / 127.5 - 1).square().mean().item()
    assert denoising_errors(grey, patches, None) == {
        f"x_0_error_{level}": pytest.approx(expected, rel=0.01) for level in NOISE_LEVELS
    }


@pytest.mark.slow
def test_a_generator_is_sampled_in_the_styles_of_the_lenders_and_measured_as_any_images_are(
    monkeypatch, config, pipeline, unseen
):
    asked = {}
    images = paint(unseen.layouts, unseen.groups, 3)

    def perfect_generator(pipeline, layouts, styles, *args, **kwargs):
        asked["layouts"], asked["styles"] = layouts, styles
        return images

    monkeypatch.setattr(sedm.fidelity.unseen, "sample_images", perfect_generator)
    found = measure_generator(pipeline, config, unseen)
    rows = unseen.style_rows(unseen.groups, config.sampling.n_style_images)
    assert torch.equal(asked["styles"], pipeline.encode_styles(unseen.lenders.images[rows]))
    assert torch.equal(asked["layouts"], unseen.layouts)
    table = unseen.measure(images)
    for of, values in {"generated": found["measures"], **found["floors"]}.items():
        expected = table["value"].xs(of, level="of")
        assert {name: values[name] for name in expected.index} == expected.to_dict()
    assert {"nearest_pixels", "content_leakage"} & set(table.index.unique("measure")) == set()
    assert found["measured_on"].keys() == found["measures"].keys() - {f"x_0_error_{level}" for level in NOISE_LEVELS}
    assert found["measured_on"]["kernel_distance"] == unseen.extractor.name
    assert (found["measures"]["retrieval_top1"], found["measures"]["layout_iou"] > 0.9) == (1, True)
    assert 0 <= found["measures"]["embedding_retrieval_top1"] <= 1
    assert all(math.isfinite(value) for value in found["measures"].values())


@pytest.mark.slow
def test_a_generator_without_styles_is_sampled_with_the_null_style(monkeypatch, config, pipeline, unseen):
    asked = {}

    def sample(pipeline, layouts, styles, *args, **kwargs):
        asked["styles"] = styles
        return paint(layouts, unseen.groups, 3)

    monkeypatch.setattr(sedm.fidelity.unseen, "sample_images", sample)
    config = replace(config, training=replace(config.training, style_sampling="none"))
    measure_generator(pipeline, config, unseen)
    assert asked["styles"] is None
