"""The learned prior: what it is shown, what it promises whatever it has learned, and that it learns."""

import math
from dataclasses import replace

import pytest
import torch

import sedm.layouts.learned as learned
from sedm.config import LearnedPriorConfig
from sedm.layouts import class_fractions, load_prior
from sedm.layouts.learned import LearnedPrior
from sedm.layouts.morphology import contacts, perimeter_per_area
from sedm.runtime.seeds import seeded_generator

CLASSES = ("stroma", "tumour", "fat", "lumen")

CONFIG = LearnedPriorConfig(channels=(16, 32), n_steps=2)  # narrow: several times faster, and the promises are the same


def discs(n=12, height=16, width=16, radius=4.0, core=None, value=1):
    """One disc in each mask, wholly inside, or only the core of it."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    masks = torch.zeros(n, height, width, dtype=torch.uint8)
    for mask in masks:
        at = radius + torch.rand(2, generator=generator) * (torch.tensor([height, width]) - 2 * radius)
        mask[(y - at[0]) ** 2 + (x - at[1]) ** 2 < (core or radius) ** 2] = value
    return masks


def rings():
    """Discs of tumour, of one size, with a core of lumen that nowhere reaches the stroma around."""
    masks = discs(24, radius=6.0)
    masks[discs(24, radius=6.0, core=3.0) == 1] = 3
    return masks


def three_classes(n=6, size=16):
    """Stroma above, tumour below, and a square of lumen in the tumour; no mask holds fat."""
    masks = torch.zeros(n, size, size, dtype=torch.uint8)
    for row, mask in enumerate(masks):
        mask[size // 4 + row % 3 :] = 1
        mask[-size // 2 : -size // 4, 3 + row : 7 + row] = 3
    return masks


def fit(masks, n_steps=2, seed=0, **settings):
    config = replace(CONFIG, n_steps=n_steps, **settings)
    return LearnedPrior.fit_masks(masks, CLASSES, config, seed=seed, progress=False)


@pytest.fixture(scope="module")
def prior():
    return fit(three_classes())


# ------------------------------------------------------------------------------------------------ promises


@pytest.mark.slow
@pytest.mark.parametrize(
    "wish", [{"tumour": 0.37}, {"lumen": 0.9, "stroma": 0.05}, {"stroma": 0.0}, {"lumen": 1.0}, {"fat": 0.0}]
)
def test_a_wish_is_met_to_the_pixel(prior, wish):
    found = class_fractions(prior.sample(9, wish, seed=1), len(CLASSES)) * 16 * 16
    for name, fraction in wish.items():
        assert (found[:, CLASSES.index(name)] - fraction * 16 * 16).abs().max() < 1
    assert (found[:, CLASSES.index("fat")] == 0).all()


@pytest.mark.slow
def test_without_a_wish_compositions_are_those_of_the_masks(prior):
    found = class_fractions(prior.sample(64, seed=0), len(CLASSES))
    real = prior.fractions
    assert (found.mean(0) - real.mean(0)).abs().max() < 0.03
    spread = (real.var(0) + (CONFIG.fraction_jitter * real * (1 - real)).square().mean(0)).sqrt()
    assert (found.std(0) - spread).abs().max() < 0.03
    assert len(found.unique(dim=0)) > 32  # not the masks' own few compositions


@pytest.mark.slow
def test_a_layout_depends_on_seed_and_index_only(prior):
    many = prior.sample(19, seed=3)
    for first in (0, 7, 8, 18):
        assert many[first].equal(prior.sample(1, seed=3, first=first)[0])
    torch.manual_seed(99)
    assert many[5:18].equal(prior.sample(13, seed=3, first=5))
    assert prior.sample(0, seed=3, first=5).shape == (0, 16, 16)
    assert len(torch.cat([many, prior.sample(19, seed=4)]).flatten(1).unique(dim=0)) == 38


def test_a_layout_drawn_by_its_generator_is_the_sampled_one(prior):
    assert prior._draw(seeded_generator("layout", 3, 8), None).equal(prior.sample(1, seed=3, first=8)[0])


@pytest.mark.slow
def test_what_is_saved_is_what_is_loaded(prior, tmp_path):
    prior.save(tmp_path)
    loaded = load_prior(tmp_path)
    assert type(loaded) is LearnedPrior
    assert loaded.classes == CLASSES
    for wish in (None, {"lumen": 0.3}):
        assert loaded.sample(10, wish, seed=5).equal(prior.sample(10, wish, seed=5))


@pytest.mark.slow
def test_a_fit_is_a_function_of_masks_and_seed():
    before = torch.get_rng_state()
    one, again, other = fit(three_classes()), fit(three_classes()), fit(three_classes(), seed=1)
    assert torch.get_rng_state().equal(before)
    assert all(a.equal(b) for a, b in zip(one.network.parameters(), again.network.parameters(), strict=True))
    assert not next(one.network.parameters()).equal(next(other.network.parameters()))
    assert one.sample(8, seed=0).equal(again.sample(8, seed=0))


def test_initial_weights_and_batches_are_both_drawn_by_the_seed(monkeypatch):
    batch, seen = learned._batch, []
    monkeypatch.setattr(learned, "_batch", lambda *args: seen.append(args[3].initial_seed()) or batch(*args))
    one, other = (fit(discs(), n_steps=1, seed=seed, learning_rate=1e-12) for seed in (0, 1))
    assert not one.network.unet.conv_in.weight.equal(other.network.unet.conv_in.weight)
    assert seen[0] != seen[1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16), (13, 22), (9, 40), (128, 72)])
def test_any_size_and_only_classes_that_were_seen(size):
    layouts = fit(discs(4, *size, radius=3.0, value=3), n_steps=1).sample(3, seed=0)
    assert layouts.shape == (3, *size)
    assert layouts.dtype == torch.uint8
    assert set(layouts.unique().tolist()) == {0, 3}  # a blend of 0 and 3 would be 1 or 2


@pytest.mark.parametrize(
    ("masks", "settings", "message"),
    [
        (torch.zeros(0, 16, 16, dtype=torch.uint8), {}, "at least one"),
        (torch.full((2, 16, 16), 255, dtype=torch.uint8), {}, "mask 0 has unannotated pixels"),
        (torch.full((2, 16, 16), 4, dtype=torch.uint8), {}, r"mask 0 holds 4, .* 0\.\.3"),
        (torch.zeros(2, 7, 16, dtype=torch.uint8), {}, r"7×16 px; .* 8 px"),
        (discs(), {"seed": -1}, "seed=-1"),
    ],
)
def test_bad_input_ends_in_one_sentence(unchecked, masks, settings, message):
    with pytest.raises(ValueError, match=message):
        LearnedPrior.fit_masks(masks, CLASSES, progress=False, **settings)


# --------------------------------------------------------------------------------------- what it is shown


def test_half_of_the_views_are_the_eight_symmetries_and_the_network_is_told_of_the_others():
    plain, others = [], []
    for i in range(400):
        matrix, shift, told = learned._view((32, 32), CONFIG, seeded_generator("view", 0, i))
        (others if told.any() else plain).append((matrix, shift, told))
    assert 150 < len(plain) < 250
    assert len({tuple(matrix.flatten().round().tolist()) for matrix, _, _ in plain}) == 8
    for matrix, shift, _ in plain:
        assert matrix.abs().sort().values.equal(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        assert not shift.any()
    for matrix, _, told in others:
        zoom = 1 / math.sqrt(abs(matrix.det()))  # above 1 the mask is enlarged
        angle = math.atan2(matrix[1, 0], matrix[0, 0])
        assert told.tolist() == pytest.approx([math.log(zoom) / math.log(1.25), math.sin(2 * angle) ** 2], abs=1e-4)


def test_the_network_learns_from_the_masks_themselves_and_their_own_fractions(monkeypatch):
    """Turned by nothing, x_0 is the squashed distance to the mask's border and the condition counts its pixels."""
    config = replace(CONFIG, fraction_jitter=0.0)
    monkeypatch.setattr(
        learned, "_view", lambda size, config, generator: (torch.eye(2), torch.zeros(2), torch.zeros(2))
    )
    masks = discs(3)
    distances, generator = learned._distances(masks, 2, config), torch.Generator().manual_seed(0)
    x_t, _, condition, x_0 = learned._batch(distances, learned.noise_schedule(), config, generator)
    assert x_t.shape == x_0.shape == (config.batch_size, 2, 16, 16)
    for picture, told in zip(x_0, condition, strict=True):
        row = int((masks == (picture[1] > 0)).float().mean((1, 2)).argmax())
        assert ((picture[1] > 0) == (masks[row] == 1)).float().mean() > 0.98
        assert told[1] == pytest.approx((masks[row] == 1).float().mean().item(), abs=0.01)
        assert (told[2:] == 0).all()
    deepest = x_0[:, 1].amax((1, 2)).atanh() * config.reach * 16  # px; a ridge, so averaging takes some off the 4
    assert 2.5 < deepest.min() < deepest.max() < 4


def test_distances_grow_with_the_zoom(monkeypatch):
    monkeypatch.setattr(
        learned, "_view", lambda size, config, generator: (torch.eye(2) / 1.5, torch.zeros(2), torch.zeros(2))
    )
    masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
    masks[:, :, 16:] = 1  # a straight border through the centre stays where it is, and so do distances in view
    distances, generator = learned._distances(masks, 2, CONFIG), torch.Generator().manual_seed(0)
    x_0 = learned._batch(distances, learned.noise_schedule(), CONFIG, generator)[3]
    expected = ((torch.arange(32) - 15.5) / (CONFIG.reach * 32)).tanh()
    assert (x_0[0, 1, 16] - expected)[10:22].abs().max() < 0.02


# ------------------------------------------------------------------------------------------- that it learns


@pytest.mark.slow
def test_a_few_steps_of_training_already_give_rings():
    """Discs of one size with lumen inside. Composition is granted to both, so only shapes can differ."""
    masks = rings()
    border = perimeter_per_area(masks != 0).mean()
    assert contacts(masks, 4)[0, 3] == 0
    gaps, touching = {}, {}
    for n_steps in (1, 80):
        layouts = fit(masks, n_steps).sample(24, seed=0)
        gaps[n_steps] = float((perimeter_per_area(layouts != 0) / border - 1).abs().mean())
        touching[n_steps] = float(contacts(layouts, 4)[0, 3])
    assert gaps[80] < 0.25 < 1 < gaps[1]
    assert touching[80] < touching[1] / 4
