"""Segmenters that must learn what can be learnt, must not learn what cannot, and do so twice the same."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES

from sedm.config import SegmentationConfig
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.segmentation.networks import UNet
from sedm.segmentation.scores import score_groups
from sedm.segmentation.segmenter import (
    _batch,
    _sources,
    augment,
    kept_segmenter,
    predict,
    segmentation_loss,
    train_segmenter,
)

CONFIG = SegmentationConfig(channels=(8, 16), n_steps=80, batch_size=8, learning_rate=1e-2)


def squares(n=24, seed=0, size=16, contrast=100):
    """Brighter squares (class 1) anywhere on a dark, noisy ground."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, size, size, dtype=torch.uint8)
    for mask in masks:
        row, column = torch.randint(size - 6, (2,), generator=generator).tolist()
        mask[row : row + 6, column : column + 6] = 1
    images = 60 + contrast * masks[:, None] + torch.randint(40, (n, 3, size, size), generator=generator)
    return Patches(images.to(torch.uint8), masks, [f"case-{i % 3}" for i in range(n)], CLASSES)


def shuffled(patches):
    """The same images, each with the mask of another."""
    return replace(patches, masks=patches.masks.roll(1, dims=0))


def unannotated(patches):
    return replace(patches, masks=torch.full_like(patches.masks, UNKNOWN), mask_source=[])


def train(real, config=CONFIG, seed=0, **more):
    return train_segmenter(real, config, seed=seed, progress=False, **more)


def score(network, contrast=100):
    test = squares(seed=1, contrast=contrast)
    table = score_groups(predict(network, test.images), test)
    return table["mean_iou"].mean()


def same_weights(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(a.equal(b) for a, b in pairs)


@pytest.mark.slow
def test_a_clear_class_is_learnt_and_shuffled_masks_teach_nothing():
    assert score(train(squares())) > 0.9
    assert score(train(shuffled(squares()))) < 0.5


def test_the_same_seed_trains_the_same_network_whatever_the_global_state():
    config = replace(CONFIG, n_steps=4, colour_jitter=0.3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train(squares(), config)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    assert same_weights(first, train(squares(), config))
    assert not same_weights(first, train(squares(), config, seed=1))


def test_every_weight_moves():
    config = replace(CONFIG, n_steps=1)
    start = dict(train(squares(), replace(config, learning_rate=1e-12)).named_parameters())
    for name, weight in train(squares(), config).named_parameters():
        assert not torch.allclose(weight, start[name], atol=1e-8), name


def test_unannotated_patches_are_never_drawn():
    config = replace(CONFIG, n_steps=3)
    with_more = Patches.concatenate([squares(), unannotated(squares(seed=5))])
    assert same_weights(train(squares(), config), train(with_more, config))


def test_predicted_masks_are_never_drawn_as_real():
    """Whoever made them, and however wrong they are; as synthetic patches they are drawn."""
    config = replace(CONFIG, n_steps=3)
    alone = train(squares(), config)
    for source in ("predicted", "generated"):
        others = replace(shuffled(squares(seed=5)), mask_source=[source] * 24)
        assert same_weights(alone, train(Patches.concatenate([squares(), others]), config))
        with pytest.raises(ValueError, match="no real patch was annotated"):
            train(others, config)
        told = train(squares(), config, synthetic=others)
        assert not same_weights(alone, told)
        assert same_weights(
            told, train(squares(), config, synthetic=Patches.concatenate([others, unannotated(others)]))
        )


def test_a_kept_network_is_found_again_by_what_it_was_trained_on(tmp_path):
    """Its own predictions change nothing, since nobody is trained on them; masks that people drew do."""
    config, files = replace(CONFIG, n_steps=2), []
    some = Patches.concatenate([squares(n=8), unannotated(squares(n=4, seed=5))])
    predicted = replace(
        some, masks=some.masks.where(some.masks != UNKNOWN, 1), mask_source=["annotated"] * 8 + ["predicted"] * 4
    )
    drawn = replace(predicted, mask_source=["annotated"] * 12)
    networks = []
    for patches in (some, predicted, drawn):
        networks.append(kept_segmenter(tmp_path, "judge", patches, config, seed=0))
        files.append(len(list(tmp_path.iterdir())))
    assert files == [1, 1, 2]
    assert same_weights(networks[0], networks[1])
    assert same_weights(networks[1], train(some, config))
    assert same_weights(networks[2], train(drawn, config))
    assert not same_weights(networks[0], networks[2])


@pytest.mark.slow
def test_unannotated_pixels_teach_nothing():
    """What lies under UNKNOWN is unknown: wrong masks there would be learnt, hidden ones are not."""
    real = squares()
    wrong = real.masks.clone()
    wrong[:, :, 8:] = 1 - wrong[:, :, 8:]
    hidden = real.masks.clone()
    hidden[:, :, 8:] = UNKNOWN
    assert score(train(replace(real, masks=hidden))) > 0.9
    assert score(train(replace(real, masks=wrong))) < 0.5


@pytest.mark.slow
def test_synthetic_patches_are_drawn_by_their_fraction():
    config = replace(CONFIG, n_steps=3)
    synthetic = squares(seed=7)
    none = train(squares(), replace(config, synthetic_fraction=0.0), synthetic=synthetic)
    assert same_weights(none, train(squares(), config))
    assert not same_weights(train(squares(), config, synthetic=synthetic), train(squares(), config))
    only = replace(CONFIG, synthetic_fraction=1.0)
    assert score(train(unannotated(squares()), only, synthetic=synthetic)) > 0.9


@pytest.mark.parametrize(("fraction", "n_synthetic"), [(0.8, 19), (0.65, 16), (0.01, 0), (1.0, 24)])
def test_a_batch_holds_the_rounded_number_of_synthetic_patches(fraction, n_synthetic):
    config = SegmentationConfig(batch_size=24, synthetic_fraction=fraction)
    pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    real = Patches(pixels, pixels[:, 0], ["a"] * 3, CLASSES)
    white = replace(real, images=real.images + 255, masks=real.masks + 1)
    sources = [(patches.images, patches.masks, n) for patches, n in _sources(real, white, config)]
    images, masks = _batch(sources, 2, SegmentationConfig(), torch.Generator().manual_seed(0))
    assert images.shape == (24, 3, 8, 8)
    assert (images.mean((1, 2, 3)) == 1).sum() == n_synthetic == masks.flatten(1).any(1).sum()


@pytest.mark.parametrize(("height", "width", "n_symmetries"), [(6, 6, 8), (6, 4, 4)])
def test_augmentation_turns_image_and_mask_alike_and_reaches_every_symmetry(height, width, n_symmetries):
    mask = torch.randperm(height * width, generator=torch.Generator().manual_seed(0)).view(height, width)
    masks = mask.to(torch.uint8).expand(200, -1, -1)
    images = (masks[:, None] / 255).expand(-1, 3, -1, -1)
    turned_images, turned_masks = augment(images, masks, 2, SegmentationConfig(), torch.Generator().manual_seed(0))
    assert turned_images.equal((turned_masks[:, None] / 255).expand(-1, 3, -1, -1))
    found, counts = turned_masks.flatten(1).unique(dim=0, return_counts=True)
    expected = [torch.rot90(start, k) for start in (mask, mask.flip(0)) for k in range(4)]
    expected = [turned.flatten().tolist() for turned in expected if turned.shape == mask.shape]
    assert sorted(found.tolist()) == sorted(expected)
    assert len(found) == n_symmetries
    assert counts.min() > 100 / n_symmetries


def test_colour_jitter_changes_colours_by_its_strength_and_no_mask():
    images, masks = torch.full((100, 3, 4, 4), 0.5), torch.zeros(100, 4, 4, dtype=torch.uint8)
    for strength in (0.2, 0.4):
        config = SegmentationConfig(colour_jitter=strength)
        jittered, unchanged = augment(images, masks, 1, config, torch.Generator().manual_seed(0))
        shift = (jittered - images).abs()
        assert 0.95 * strength / 2 < shift.max() <= strength / 2 + 1e-6
        assert jittered.std((2, 3)).max() < 1e-6  # one colour for all pixels of an image
        assert unchanged.equal(masks)
    config = SegmentationConfig(colour_jitter=2.0)
    vivid = augment(torch.rand(8, 3, 4, 4), masks[:8], 1, config, torch.Generator().manual_seed(0))[0]
    assert vivid.min() >= 0
    assert vivid.max() <= 1


def test_class_jitter_changes_each_class_by_itself_and_no_mask():
    images = torch.full((50, 3, 8, 8), 0.5)
    masks = torch.zeros(50, 8, 8, dtype=torch.uint8)
    masks[:, :4] = 1
    config = SegmentationConfig(class_jitter=0.5)
    jittered, seen = augment(images, masks, 2, config, torch.Generator().manual_seed(0))
    assert seen.flatten(1).sum(1).eq(32).all()
    exponents = jittered.log() / math.log(0.5)
    assert exponents.log().abs().max() <= 0.5 + 1e-4
    means = torch.stack([(exponents * (seen == k)[:, None]).sum((2, 3)) / 32 for k in (0, 1)])
    assert (means[0] - means[1]).abs().std() > 0.1


@pytest.mark.parametrize("jitter", ["colour_jitter", "class_jitter"])
def test_a_network_is_trained_with_the_jitters_of_its_settings(jitter):
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    patches = Patches(images, (images[:, 0] > 127).to(torch.uint8), list("aabb"), CLASSES)
    config = SegmentationConfig(channels=(8, 16), n_steps=1, batch_size=4)
    plain, jittered = (
        train_segmenter(patches, one, seed=0, progress=False).state_dict()
        for one in (config, replace(config, **{jitter: 0.5}))
    )
    assert not all(plain[name].equal(jittered[name]) for name in plain)


def loss_by_loops(logits, masks):
    probability = logits.softmax(1)
    dice = []
    for k in range(logits.shape[1]):
        overlap = size = n = 0.0
        for i, row, column in torch.cartesian_prod(*map(torch.arange, masks.shape)).tolist():
            if masks[i, row, column] != UNKNOWN:
                p, t = probability[i, k, row, column].item(), float(masks[i, row, column] == k)
                overlap, size, n = overlap + p * t, size + p + t, n + t
        if n:
            dice.append(2 * overlap / size)
    cross_entropy = F.cross_entropy(logits, masks.long(), ignore_index=UNKNOWN)
    return 0.1 * cross_entropy + 0.9 * (1 - sum(dice) / len(dice))


def test_the_loss_is_the_one_written_as_loops():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    masks = torch.randint(3, (2, 5, 6), generator=generator)  # class 3 is absent
    masks[0, :2] = UNKNOWN
    torch.testing.assert_close(segmentation_loss(logits, masks), loss_by_loops(logits, masks))
    everything_hidden = segmentation_loss(logits, torch.full_like(masks, UNKNOWN))
    assert everything_hidden.item() == 0


def test_predictions_do_not_depend_on_the_batch_size_or_on_training_mode():
    network, images = train(squares(), replace(CONFIG, n_steps=10)), squares(n=10, seed=3).images
    predictions = predict(network, images)
    assert predictions.unique().tolist() == [0, 1]
    assert (predict(network.train(), images, batch_size=3) == predictions).float().mean() > 0.999
    assert predict(network, images[:0]).shape == (0, 16, 16)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 22)])
def test_any_image_size_runs(height, width):
    assert UNet(3, (8, 16, 32)).eval()(torch.zeros(2, 3, height, width)).shape == (2, 3, height, width)


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        (unannotated(squares()), None, "no real patch was annotated"),
        (squares(), unannotated(squares()), "no synthetic patch has a mask"),
        (squares(), squares(size=24), "synthetic patches of 24×24 px, real ones of 16×16 px"),
        (
            squares(),
            replace(squares(), classes=("stroma", "lumen")),
            "synthetic patches of the classes stroma, lumen, real ones of stroma, tumour; take one study",
        ),
    ],
)
def test_bad_input_ends_in_one_sentence(real, synthetic, message):
    with pytest.raises(ValueError, match=message):
        train(real, synthetic=synthetic)
