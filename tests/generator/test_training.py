"""The denoiser sees what it is given, every weight is trained, and an interruption changes nothing."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import sedm.data.study_data
import sedm.generator.training
import sedm.runtime.loop
from sedm.__main__ import main as cli
from sedm.config import AGGREGATIONS, LAYOUT_INJECTIONS, OBJECTIVES, STYLE_INJECTIONS, ModelConfig
from sedm.data.patch_table import UNKNOWN
from sedm.generator.denoiser import Denoiser, build_model, one_hot_layout
from sedm.generator.paint import class_colours, paint
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.process import Diffusion
from sedm.generator.training import check_initial, class_loss, train_generator, train_model
from sedm.generator.training_batch import batch_pools, draw_times, training_batch
from sedm.generator.unet import ClassFilm, ResidualBlock
from sedm.runtime.muon import Muon
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.predicted_masks import with_predicted_masks
from sedm.styles.sampling import StyleSampler

WEIGHT_DECAY = 0.01  # AdamW's own


def train(config, patches, folder, **options):
    return train_model(config, patches, folder, held_out=(), progress=False, **options)


def changed(config, **settings):
    return replace(config, training=replace(config.training, **settings))


def one_step(config, **settings):
    """A single optimiser step at the full learning rate, half of the styles dropped."""
    return changed(config, n_steps=1, warmup_steps=0, style_dropout=0.5, **settings)


def same_weights(first, second):
    weights, others = first.state_dict(), second.state_dict()
    return weights.keys() == others.keys() and all(weights[name].equal(others[name]) for name in weights)


def count_batches(monkeypatch, fail_at=None, error=KeyboardInterrupt, target=None):
    """A list that grows by one a batch; the batch ``fail_at`` raises, or asks for ``target``."""
    calls = []

    def counted(*arguments):
        calls.append(len(calls))
        if calls[-1] == fail_at and target is None:
            raise error
        inputs, clean, style_masks = training_batch(*arguments)
        return inputs, torch.full_like(clean, target) if calls[-1] == fail_at else clean, style_masks

    monkeypatch.setattr(sedm.generator.training, "training_batch", counted)
    return calls


@pytest.fixture
def denoiser():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Denoiser(ModelConfig((8, 16), style_dim=8), n_classes=2, image_size=16).eval().requires_grad_(False)


@pytest.fixture
def inputs():
    """x_t, t, layout and style of two images."""
    generator = torch.Generator().manual_seed(1)
    x_t, style = torch.randn(2, 3, 16, 16, generator=generator), torch.randn(2, 1, 8, generator=generator)
    return x_t, torch.tensor([100, 700]), torch.randint(2, (2, 16, 16), generator=generator).to(torch.uint8), style


# ---------------------------------------------------------------------------------------- what enters


def test_a_style_scales_and_shifts_in_every_residual_block(denoiser, inputs):
    *others, style = inputs
    blocks = [module for module in denoiser.modules() if isinstance(module, ResidualBlock)]
    given = {id(block): [] for block in blocks}
    for block in blocks:
        block.register_forward_pre_hook(lambda module, arguments: given[id(module)].append(arguments))
    denoiser(*others, style)
    denoiser(*others, -style)
    assert len(blocks) == 2 * 1 + 2 * 2 + 2  # one a level down, two a level up, two in the middle
    for block in blocks:
        assert not block.adds
        (features, embedding), (_, other_embedding) = given[id(block)]
        same_features = block.forward(features, embedding), block.forward(features, other_embedding)
        assert (same_features[0] - same_features[1]).abs().amax((1, 2, 3)).min() > 1e-3


def denoiser_with(sample_channels=3, sample_size=None, **settings):
    aggregations = {"cross_attention": "tokens", "class_film": "by_class"}
    settings = {"aggregation": aggregations.get(settings.get("style_injection"), "mean")} | settings
    model = ModelConfig(**({"channels": (8, 16), "style_dim": 8} | settings))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Denoiser(model, 2, 16, sample_channels, sample_size).eval().requires_grad_(False)


def differs(first, second):
    return (first - second).abs().amax((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("style_injection", STYLE_INJECTIONS)
@pytest.mark.parametrize("layout_injection", LAYOUT_INJECTIONS)
def test_style_and_layout_change_the_answer_however_they_enter(inputs, style_injection, layout_injection):
    denoiser = denoiser_with(style_injection=style_injection, layout_injection=layout_injection)
    x_t, t, layout, style = inputs
    style = style.expand_as(denoiser.null_styles(2)).clone()
    answer = denoiser(x_t, t, layout, style)
    assert answer.shape == x_t.shape
    assert differs(answer, denoiser(x_t, t, layout, -style))
    assert differs(answer, denoiser(x_t, t, 1 - layout, style))


def test_the_look_of_a_class_is_scaled_and_shifted_where_the_layout_shows_it_alone():
    """By a loop over pixels: each mixes the films of its classes by their shares; unknown ones stay as they are."""
    film = ClassFilm(width=3, token_dim=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in film.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator))
    features, tokens = torch.randn(1, 3, 2, 2, generator=generator), torch.randn(1, 2, 4, generator=generator)
    shares = torch.tensor([[[1.0, 0.0], [0.25, 0.0]], [[0.0, 1.0], [0.75, 0.0]]])[None]
    found = film(features, tokens, shares).detach()
    of_class = film.film(tokens[0]).detach().view(2, 2, 3)  # class, (scale, shift), channel
    for y in range(2):
        for x in range(2):
            scale, shift = sum(shares[0, k, y, x] * of_class[k] for k in range(2))
            assert_close(found[0, :, y, x], features[0, :, y, x] * (1 + scale) + shift)
    assert found[0, :, 1, 1].equal(features[0, :, 1, 1])


def test_a_layout_is_painted_in_the_colours_of_its_classes():
    """By a loop over pixels; unknown ones take those of the whole style images."""
    style = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    layout = torch.tensor([[[0, 1], [255, 1]]], dtype=torch.uint8)
    painted = paint(one_hot_layout(layout, 2), class_colours(style))
    for y, x, token in ((0, 0, 1), (0, 1, 2), (1, 0, 0), (1, 1, 2)):
        assert_close(painted[0, :, y, x], style[0, token, :6])
    half = paint(torch.tensor([0.25, 0.75, 0.0]).view(1, 3, 1, 1), class_colours(style))
    assert_close(half.flatten(), 0.25 * style[0, 1, :6] + 0.75 * style[0, 2, :6])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_denoiser_that_predicts_images_starts_from_the_painted_layout(inputs, objective):
    denoiser = denoiser_with(style_injection="class_film", objective=objective)
    for weights in denoiser.unet.out.parameters():
        weights.zero_()  # so that the U-Net answers nothing
    x_t, t, layout, _ = inputs
    style = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    painted = paint(one_hot_layout(layout, 2), class_colours(style))[:, :3]
    assert_close(denoiser(x_t, t, layout, style), painted if objective == "x_0" else torch.zeros_like(painted))


def test_a_model_of_images_starts_from_paint_and_one_of_latents_does_not(config, tmp_path):
    model = replace(config.model, style_injection="class_film", aggregation="by_class")
    pipeline = SEDMPipeline.from_model(build_model(model, 2, 16, seed=0))
    pipeline.save_pretrained(tmp_path)
    for denoiser in (pipeline.denoiser, SEDMPipeline.from_pretrained(tmp_path).denoiser):
        assert denoiser.starts_from_paint
    assert not build_model(model, 2, 16, seed=0, latents=(3, 8)).denoiser.starts_from_paint


def test_at_the_bottleneck_a_style_reaches_the_lowest_resolution_alone(inputs):
    denoiser = denoiser_with(style_injection="bottleneck")
    x_t, t, layout, style = inputs
    seen = {}
    for name in ("down", "middle"):
        last = getattr(denoiser.unet, name)[0]
        last.register_forward_hook(lambda *call, name=name: seen.setdefault(name, []).append(call[2]))
        if name == "down":
            last[0].register_forward_hook(lambda *call: seen.setdefault("down", []).append(call[2]))
    for one in (style, -style):
        denoiser(x_t, t, layout, one)
    assert seen["down"][0].equal(seen["down"][1])  # nothing before the middle knows the style
    assert seen["middle"][0].equal(seen["middle"][1])
    added = denoiser.unet.style_block
    assert added.adds  # it does not scale


def test_tokens_are_a_set_and_each_of_them_counts(inputs):
    denoiser = denoiser_with(style_injection="cross_attention")
    x_t, t, layout, _ = inputs
    tokens = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    answer = denoiser(x_t, t, layout, tokens)
    assert_close(answer, denoiser(x_t, t, layout, tokens[:, [2, 0, 1]]), rtol=1e-4, atol=1e-5)
    assert differs(answer, denoiser(x_t, t, layout, tokens[:, :2]))


def test_a_layout_enters_every_scale_as_shares_of_classes(inputs):
    denoiser = denoiser_with(layout_injection="every_scale", unshuffle=1)
    x_t, t, layout, style = inputs
    given = {}
    for name in ("layout_down", "layout_up"):
        for level, convolution in enumerate(getattr(denoiser.unet, name)):
            convolution.register_forward_pre_hook(lambda _, one, key=(name, level): given.setdefault(key, one[0]))
    denoiser(x_t, t, layout, style)
    shares = one_hot_layout(layout, 2)
    halved = shares.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))
    assert_close(given["layout_down", 0], shares)
    assert_close(given["layout_down", 1], halved)
    assert_close(given["layout_up", 0], halved)
    assert_close(given["layout_up", 1], shares)


def test_latents_take_the_layout_s_shares(inputs):
    denoiser = denoiser_with(sample_channels=4, sample_size=8, unshuffle=1)
    _, t, layout, style = inputs
    x_t = torch.randn(2, 4, 8, 8)
    answer = denoiser(x_t, t, layout, style)
    assert answer.shape == x_t.shape
    assert differs(answer, denoiser(x_t, t, 1 - layout, style))


def test_a_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="samples of 16 px; unshuffle=4 and 4 resolutions need a multiple of 32"):
        Denoiser(ModelConfig((8, 8, 8, 8), unshuffle=4), n_classes=2, image_size=16)


def test_the_layout_enters_pixel_by_pixel_and_unknown_is_a_third_thing(denoiser, inputs):
    x_t, t, layout, style = inputs
    answers = [denoiser(x_t, t, one, style) for one in (layout, 1 - layout, torch.full_like(layout, UNKNOWN))]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (answers[first] - answers[second]).abs().amax((1, 2, 3)).min() > 1e-3
    one_pixel = layout.clone()
    one_pixel[:, 3, 12] = 1 - one_pixel[:, 3, 12]
    assert not denoiser(x_t, t, one_pixel, style).equal(answers[0])


def test_time_and_noise_enter(denoiser, inputs):
    x_t, t, layout, style = inputs
    answer = denoiser(x_t, t, layout, style)
    assert not denoiser(x_t, t + 50, layout, style).allclose(answer)
    assert not denoiser(x_t + 0.1, t, layout, style).allclose(answer)


def test_one_hot_layouts_mark_each_pixel_once():
    layout = torch.tensor([[0, 1, 2], [UNKNOWN, 2, 0]], dtype=torch.uint8)[None]
    channels = one_hot_layout(layout, n_classes=3)
    expected = np.stack([layout[0].numpy() == value for value in (0, 1, 2, UNKNOWN)])[None]
    assert np.array_equal(channels, expected)


def test_initial_weights_depend_on_the_seed_alone(config):
    torch.manual_seed(1)
    first = build_model(config.model, 2, 16, seed=5)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert same_weights(first, build_model(config.model, 2, 16, seed=5))
    assert not same_weights(first, build_model(config.model, 2, 16, seed=6))
    torch.manual_seed(1)
    assert torch.random.get_rng_state().equal(state)  # the global numbers are left as they were


def test_dropped_rows_see_the_null_style_and_the_others_their_own(config, inputs):
    model = build_model(config.model, 2, 16, seed=0).eval().requires_grad_(False)
    model.denoiser.null_style.normal_()
    x_t, t, layout, _ = inputs
    images = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    answer, _ = model(x_t, t, layout, images, torch.tensor([True, False]))
    null = model.denoiser(x_t, t, layout, model.denoiser.null_style.expand(2, 1, -1))
    styled = model.denoiser(x_t, t, layout, model.style_encoder(images))
    assert_close(answer, torch.stack([null[0], styled[1]]))
    assert not null[1].allclose(styled[1])


# ------------------------------------------------------------------------------- everything is trained


@pytest.mark.slow
def test_every_parameter_of_encoder_aggregation_and_denoiser_moves_in_one_step(config, patches, tmp_path):
    config = replace(one_step(config), model=replace(config.model, aggregation="attention"))
    before = build_model(config.model, 2, 16, config.seed).state_dict()
    after = train(config, patches, tmp_path)
    rate = config.training.learning_rate
    moves = {
        name: (weight - before[name] * (1 - rate * WEIGHT_DECAY)).abs().max().item()  # what decay does not explain
        for name, weight in after.named_parameters()
    }
    for part in (
        "style_encoder.features",
        "style_encoder.aggregate",
        "denoiser.null_style",
        "denoiser.unet.style_film",
    ):
        assert any(name.startswith(part) for name in moves)
    # Adam's first step is the learning rate, whatever the gradient; Muon's has a root mean square of 0.2 of it. Softmax
    # ignores what all keys share, so the gradient of their bias is rounding.
    still = [name for name, move in moves.items() if move < 0.1 * rate and not name.endswith("to_k.bias")]
    assert still == []


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_style_encoder_is_trained_with_every_aggregation(config, patches, tmp_path, aggregation):
    injection = {"tokens": "cross_attention", "by_class": "class_film"}.get(aggregation, "film")
    sampling = replace(config.sampling, n_style_images=config.model.n_style_images)
    model = replace(config.model, aggregation=aggregation, style_injection=injection)
    config = replace(one_step(config), model=model, sampling=sampling)
    before = build_model(config.model, 2, 16, config.seed).style_encoder.state_dict()
    after = train(config, patches, tmp_path).style_encoder
    for name, weight in after.named_parameters():
        assert (weight - before[name]).abs().max() > 0.5 * config.training.learning_rate, name


@pytest.mark.slow
def test_the_null_style_learns_only_from_dropped_styles(config, patches, tmp_path):
    kept = train(changed(one_step(config), style_dropout=0.0), patches, tmp_path / "kept")
    assert kept.denoiser.null_style.count_nonzero() == 0  # it starts at zero
    dropped = train(one_step(config), patches, tmp_path / "dropped")
    assert dropped.denoiser.null_style.count_nonzero() == config.model.style_dim


@pytest.mark.slow
def test_without_styles_the_encoder_stays_as_it_was(config, patches, tmp_path):
    config = one_step(config, style_sampling="none")
    before = build_model(config.model, 2, 16, config.seed).style_encoder.state_dict()
    for name, weight in train(config, patches, tmp_path).style_encoder.named_parameters():
        assert_close(weight, before[name] * (1 - config.training.learning_rate * WEIGHT_DECAY), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_loss_falls(config, patches, tmp_path):
    config = replace(
        changed(config, n_steps=60, warmup_steps=5, batch_size=16, learning_rate=5e-3, checkpoint_every=60),
        model=ModelConfig((16, 32), unshuffle=1, style_dim=8, style_channels=(8, 8)),
    )
    flat = patches.images[:, :, :1, :1].expand_as(patches.images).contiguous()
    train(config, replace(patches, images=flat), tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 60
    assert np.mean(losses[-6:]) < 0.5 * np.mean(losses[:6])


# ----------------------------------------------------------------------------------------- the batch

AS_THEY_ARE = {"symmetries": "none", "colour_jitter": 0.0, "class_jitter": 0.0}


def test_the_target_is_the_clean_image_under_standard_noise(config, patches):
    settings = changed(config, batch_size=32, style_dropout=0.5, layout_dropout=0.0, **AS_THEY_ARE).training
    sampler, diffusion = StyleSampler(patches, "multi", 2), Diffusion("x_0")
    pools, generator = batch_pools(patches.is_annotated, settings), torch.Generator().manual_seed(0)
    given, x_0, _ = training_batch(patches, None, pools, sampler, diffusion, settings, generator)
    x_t, t, layout, style_images, dropped = given
    alpha, sigma = (values[t][:, None, None, None] for values in (diffusion.alphas, diffusion.sigmas))
    noise = (x_t - alpha * x_0) / sigma
    pixels = (x_0 + 1) * 127.5
    assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)
    rows = [(patches.images - image.round()).abs().flatten(1).sum(1).argmin().item() for image in pixels]
    assert patches.images[rows].equal(pixels.round().to(torch.uint8))
    assert patches.masks[rows].equal(layout)
    assert abs(noise.mean().item()) < 4 / math.sqrt(noise.numel())
    assert abs(noise.std().item() - 1) < 4 / math.sqrt(2 * noise.numel())
    assert len(t.unique()) > 20
    assert style_images.shape == (32, 2, 3, 16, 16)
    assert 0 < dropped.sum() < 32


def test_style_images_are_of_the_target_s_group(config, patches):
    settings = changed(config, layout_dropout=0.0, **AS_THEY_ARE).training
    sampler, pools = StyleSampler(patches, "multi", 2), batch_pools(patches.is_annotated, settings)
    arguments = (patches, None, pools, sampler, Diffusion("x_0"), settings, torch.Generator().manual_seed(0))
    (_, _, layout, style_images, _), _, _ = training_batch(*arguments)
    whole = ((style_images + 1) * 127.5).round().to(torch.uint8)
    for row, images in zip(layout, whole, strict=True):
        origins = [(patches.images == image).flatten(1).all(1).nonzero().item() for image in images]
        groups = {patches.groups[origin] for origin in origins}
        assert len(groups) == 1
        assert (row == UNKNOWN).all() == (groups <= {"group-2", "group-3"})


def draw_batch(config, patches, **settings):
    """The clean images, layouts, style images and dropped styles of a large batch."""
    settings = changed(config, batch_size=256, layout_dropout=0.0, **settings).training
    sampler, pools = StyleSampler(patches, "multi", 2), batch_pools(patches.is_annotated, settings)
    arguments = (patches, None, pools, sampler, Diffusion("x_0"), settings, torch.Generator().manual_seed(0))
    (_, _, layout, style_images, dropped), x_0, _ = training_batch(*arguments)
    return x_0, layout, style_images, dropped


@pytest.mark.parametrize(("kind", "n_views"), [("none", 1), ("mirror", 2), ("square", 8)])
def test_image_and_layout_are_seen_under_the_same_symmetry(config, patches, kind, n_views):
    drawn = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5  # without any symmetry of its own
    masks = drawn.to(torch.uint8).expand(16, -1, -1).contiguous()
    images = (255 * masks)[:, None].expand(-1, 3, -1, -1).contiguous()
    patches = replace(patches, images=images, masks=masks, mask_source=[])
    x_0, layout, style_images, _ = draw_batch(config, patches, **(AS_THEY_ARE | {"symmetries": kind}))
    assert_close(x_0[:, 0], layout * 2.0 - 1)
    assert len(layout.unique(dim=0)) == n_views
    seen = style_images.flatten(0, 1)[:, 0]
    assert len(seen.unique(dim=0)) == n_views
    if kind != "none":  # style images turn by themselves
        assert not (style_images[:, 0, 0] == x_0[:, 0]).flatten(1).all()


def test_an_image_and_what_lends_its_style_are_recoloured_alike(config, patches):
    flat = torch.full_like(patches.images, 100)
    patches = replace(patches, images=flat)
    x_0, _, style_images, dropped = draw_batch(config, patches, colour_jitter=0.3, class_jitter=0.0, style_dropout=0.5)
    assert_close(style_images, x_0[:, None].expand_as(style_images))
    exponents = torch.log((x_0[:, :, 0, 0] + 1) / 2) / math.log(100 / 255)
    assert 90 < dropped.sum() < 166
    assert_close(exponents[dropped], torch.ones_like(exponents[dropped]))  # the null style is of colours that occur
    exponents = exponents[~dropped]
    assert math.exp(-0.3) - 1e-5 <= exponents.min() < 0.78
    assert 1.29 < exponents.max() <= math.exp(0.3) + 1e-5
    assert len(exponents.unique(dim=0)) == len(exponents)
    assert exponents.std(dim=1).min() > 0  # every channel by itself


def test_each_class_of_an_annotated_item_and_of_its_style_images_is_recoloured_alike(config, patches):
    generator = torch.Generator().manual_seed(0)
    halves = torch.zeros(16, 16, dtype=torch.uint8)
    halves[:, 8:] = 1
    sources = ["predicted" if source == "none" else source for source in patches.mask_source]
    masks = halves.expand(16, -1, -1).clone()
    patches = replace(patches, images=torch.full_like(patches.images, 100), masks=masks, mask_source=sources)
    settings = changed(config, batch_size=64, annotated_fraction=0.5, symmetries="none", colour_jitter=0.0)
    settings = replace(settings.training, class_jitter=0.4, style_dropout=0.3, layout_dropout=0.0)
    sampler, pools = StyleSampler(patches, "multi", 2), batch_pools(patches.is_annotated, settings)
    given, x_0, _ = training_batch(patches, None, pools, sampler, Diffusion("x_0"), settings, generator)
    *_, style_images, dropped = given
    assert_close(style_images, x_0[:, None].expand_as(style_images))
    exponents = torch.log((x_0 + 1) / 2) / math.log(100 / 255)
    sides = exponents[:, :, 0, [0, -1]]  # far from where the classes meet
    is_changed = (sides - 1).abs().amax((1, 2)) > 1e-4
    assert is_changed.equal((torch.arange(64) < 32) & ~dropped)  # the first half is annotated
    assert sides.log().abs().max() <= 0.4 + 1e-4
    assert (sides[is_changed][..., 0] - sides[is_changed][..., 1]).abs().mean() > 0.1


def test_style_images_are_turned_with_their_masks(config, patches):
    masks = (torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    images = (255 * masks)[:, None].expand(-1, 3, -1, -1).contiguous()
    patches = replace(patches, images=images, masks=masks, mask_source=[])
    settings = changed(config, batch_size=64, layout_dropout=0.0, colour_jitter=0.0, class_jitter=0.0).training
    for strategy in ("multi", "augmented"):
        sampler, pools = StyleSampler(patches, strategy, 2), batch_pools(patches.is_annotated, settings)
        arguments = (patches, None, pools, sampler, Diffusion("x_0"), settings, torch.Generator().manual_seed(0))
        (*_, style_images, _), _, style_masks = training_batch(*arguments)
        agree = ((style_images[:, :, 0] > 0) == (style_masks > 0)).float().mean()
        # a warped image is mixed where its warped mask is picked
        assert agree == 1 if strategy == "multi" else agree > 0.8


def test_a_style_without_masks_is_never_recoloured_apart_from_its_target(config, patches):
    """Of a group that is annotated in part, the lenders may have no mask to be recoloured by."""
    masks = torch.full_like(patches.masks, UNKNOWN)
    masks[0] = 0
    patches = replace(patches, images=torch.full_like(patches.images, 100), masks=masks, mask_source=[])
    settings = changed(config, batch_size=16, colour_jitter=0.0, class_jitter=0.4).training
    sampler, pools = StyleSampler(patches, "multi", 2), batch_pools(patches.is_annotated, settings)
    arguments = (patches, None, pools, sampler, Diffusion("x_0"), settings, torch.Generator().manual_seed(0))
    (*_, style_images, _), x_0, _ = training_batch(*arguments)
    assert_close(style_images, x_0[:, None].expand_as(style_images))


def by_class(config):
    return replace(config, model=replace(config.model, style_injection="class_film", aggregation="by_class"))


def test_the_class_loss_is_the_cross_entropy_of_the_share_of_each_class():
    """By a loop over pixels; of one image a part is unknown."""
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    masks = torch.randint(3, (1, 2, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    masks[0, 0, :2, :1] = UNKNOWN
    masks[0, 1, 2:, 2:] = UNKNOWN
    total = 0.0
    for i, y, x in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        for k in masks[0, i, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten().tolist():
            total -= 0.0 if k == UNKNOWN else logits[i, :, y, x].log_softmax(0)[k].item() / 4
    assert class_loss(logits, masks).item() == pytest.approx(total / 8)


@pytest.mark.slow
def test_a_step_minimises_the_error_of_denoising_and_that_of_classes(config, patches, tmp_path):
    """The first loss that is written, against both losses of the first batch with the first weights."""
    config = by_class(one_step(config, class_weight=0.7))
    train(config, patches, tmp_path)
    model, settings = build_model(config.model, 2, 16, config.seed).train(), config.training
    sampler = StyleSampler(patches, settings.style_sampling, config.model.n_style_images)
    arguments = (patches, None, batch_pools(patches.is_annotated, settings), sampler, Diffusion("x_0"), settings)
    batch, x_0, masks = training_batch(*arguments, seeded_generator("training batch", config.seed, 0, 0))
    answer, logits = model(*batch)
    errors = (answer - x_0).square().mean(dim=(1, 2, 3)) * Diffusion("x_0").loss_weights(batch[1], 5.0)
    expected = errors.mean() + 0.7 * class_loss(logits, masks)
    written = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert written == pytest.approx(expected.item(), rel=1e-4)
    assert class_loss(logits, masks) > 0.1


@pytest.mark.slow
def test_a_frozen_encoder_still_learns_to_tell_classes_apart(config, patches, tmp_path):
    config = by_class(one_step(config, train_style_encoder=False))
    before = build_model(config.model, 2, 16, config.seed).style_encoder.state_dict()
    after = train(config, patches, tmp_path).style_encoder
    moved = {name for name, weight in after.named_parameters() if not weight.equal(before[name])}
    assert moved == {name for name in before if name.startswith(("features.class_maps", "features.classes"))}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_the_optimiser_is_the_one_that_was_asked_for(config, patches, tmp_path, monkeypatch, optimiser):
    asked = []
    monkeypatch.setattr(sedm.runtime.loop, "Muon", lambda *args, **options: asked.append(1) or Muon(*args, **options))
    train(one_step(config, optimiser=optimiser), patches, tmp_path)
    assert len(asked) == (optimiser == "muon")


def test_times_are_uniform_together_and_spread_over_every_batch():
    generator = torch.Generator().manual_seed(0)
    times = torch.stack([draw_times(8, generator) for _ in range(2000)])
    assert torch.histc(times.float(), 8, 0, 1000).eq(2000).all()  # one of each eighth in every batch
    assert abs(times[:, 0].float().mean() - 499.5) < 4 * 1000 / math.sqrt(12 * 2000)  # whichever place, uniform
    assert set(draw_times(1, generator).tolist()) < set(range(1000))


def test_dropped_layouts_are_wholly_unknown_and_as_many_as_asked(config, patches):
    settings = changed(config, batch_size=200, annotated_fraction=1.0, layout_dropout=0.3).training
    pools = batch_pools(patches.is_annotated, settings)
    sampler, generator = StyleSampler(patches, "multi", 2), torch.Generator().manual_seed(0)
    (_, _, layout, _, _), _, _ = training_batch(patches, None, pools, sampler, Diffusion("x_0"), settings, generator)
    unknown = (layout == UNKNOWN).flatten(1)
    assert unknown.any(1).equal(unknown.all(1))
    assert abs(unknown.all(1).float().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 200)


def test_annotated_images_keep_their_share_of_a_batch(config, patches):
    pools = batch_pools(patches.is_annotated, changed(config, batch_size=8, annotated_fraction=0.75).training)
    assert [(rows.tolist(), count) for rows, count in pools] == [(list(range(8)), 6), (list(range(8, 16)), 2)]
    everything = batch_pools(torch.ones(8, dtype=torch.bool), config.training)
    assert [(rows.tolist(), count) for rows, count in everything] == [(list(range(8)), 8)]


@pytest.mark.slow
def test_left_out_images_change_nothing(config, patches, tmp_path):
    config = changed(config, unannotated="left_out")
    other = patches.images.clone()
    other[8:] = 255 - other[8:]
    first = train(config, patches, tmp_path / "a")
    assert same_weights(first, train(config, replace(patches, images=other), tmp_path / "b"))
    assert not same_weights(first, train(changed(config, unannotated="null_layout"), patches, tmp_path / "c"))


def with_empty_predictions(patches):
    """The same patches with a mask of the background alone where nobody annotated."""
    sources = ["annotated" if annotated else "predicted" for annotated in patches.is_annotated]
    return replace(patches, masks=patches.masks.where(patches.masks != UNKNOWN, 0), mask_source=sources)


@pytest.mark.slow
def test_a_generator_is_trained_with_the_masks_that_its_segmenter_predicts(config, patches, tmp_path):
    """The same as predicting and training by hand; the segmenter is kept, and the classes are those of the patches."""
    config = changed(config, unannotated="predicted_masks")
    options = {"held_out": (), "progress": False}
    pipeline = train_generator(config, patches, tmp_path / "a", segmenter_folder=tmp_path / "shared", **options)
    labelled = with_predicted_masks(patches, config, tmp_path / "shared")
    assert labelled.mask_source == ["annotated"] * 8 + ["predicted"] * 8
    assert len(list((tmp_path / "shared").iterdir())) == 1
    by_hand = train(config, labelled, tmp_path / "b")
    assert same_weights(pipeline.denoiser, by_hand.denoiser)
    assert same_weights(pipeline.style_encoder, by_hand.style_encoder)
    assert not (tmp_path / "a" / "autoencoder").exists()
    with pytest.raises(ValueError, match="group 'group-3' is held out for testing"):
        train_generator(config, patches, tmp_path / "c", held_out={"group-3"}, progress=False)


@pytest.mark.slow
def test_predicted_masks_train_in_their_own_share_of_a_batch(config, patches, tmp_path, monkeypatch):
    config, seen = changed(config, unannotated="predicted_masks", layout_dropout=0.0), []

    def recorded(*arguments):
        seen.append(training_batch(*arguments))
        return seen[-1]

    monkeypatch.setattr(sedm.generator.training, "training_batch", recorded)
    train(config, with_empty_predictions(patches), tmp_path)
    for (_, _, layout, _, _), _, _ in seen:
        assert not (layout == UNKNOWN).any()
        assert (layout[4:] == 0).all()  # the second half: rows that nobody annotated
        assert (layout[:4] == 1).any()
    with pytest.raises(ValueError, match="row 8 has no mask; train_generator predicts it"):
        train(config, patches, tmp_path / "incomplete")


@pytest.mark.slow
def test_a_frozen_encoder_stays_as_it_was_and_the_denoiser_learns(config, patches, tmp_path):
    config = one_step(config, train_style_encoder=False)
    before = build_model(config.model, 2, 16, config.seed).state_dict()
    after = train(config, patches, tmp_path).state_dict()
    still = {name for name, weight in after.items() if weight.equal(before[name])}
    assert {name for name in after if name.startswith("style_encoder")} <= still
    assert not any(name.startswith("denoiser.unet.down") for name in still)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns(config, patches, tmp_path, objective):
    config = replace(
        changed(config, n_steps=40, warmup_steps=5, batch_size=16, learning_rate=3e-3, checkpoint_every=40),
        model=ModelConfig((16, 32), unshuffle=1, style_dim=8, style_channels=(8, 8), objective=objective),
    )
    train(config, patches, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])


@pytest.mark.slow
def test_sample_sheets_show_layouts_images_and_styles(config, patches, tmp_path):
    train(config, patches, tmp_path)
    sheets = sorted((tmp_path / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == [f"step-{n:08d}.png" for n in (2, 4, 6)]
    first, last = (np.asarray(Image.open(sheets[i])) for i in (0, -1))
    assert first.shape == (3 * 16, 8 * 16, 3)
    assert np.array_equal(first[:16], last[:16])  # the same layouts
    assert np.array_equal(first[32:], last[32:])  # the same styles
    assert not np.array_equal(first[16:32], last[16:32])


# -------------------------------------------------------------------------------- seeds and interruptions


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(config, patches, tmp_path):
    torch.manual_seed(1)
    first = train(config, patches, tmp_path / "a")
    torch.manual_seed(2)
    assert same_weights(first, train(config, patches, tmp_path / "b"))
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()
    assert not same_weights(first, train(replace(config, seed=1), patches, tmp_path / "c"))


@pytest.mark.slow
@pytest.mark.parametrize("last_step", [1, 3, 5])
def test_an_interrupted_run_ends_as_an_undisturbed_one(config, patches, tmp_path, monkeypatch, last_step):
    undisturbed = train(config, patches, tmp_path / "whole")
    count_batches(monkeypatch, fail_at=last_step)
    with pytest.raises(KeyboardInterrupt):
        train(config, patches, tmp_path / "cut")
    calls = count_batches(monkeypatch)
    resumed = train(config, patches, tmp_path / "cut")
    assert len(calls) == 6 - last_step // 2 * 2  # from the last checkpoint on
    assert same_weights(undisturbed, resumed)
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_an_interrupted_save_leaves_the_checkpoint_before(config, patches, tmp_path, monkeypatch):
    undisturbed = train(config, patches, tmp_path / "whole")
    written, save = [], torch.save

    def half(state, path):
        save(state, path)
        written.append(path)
        if len(written) == 2:
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        train(config, patches, tmp_path / "cut")
    assert [path.name[-11:] for path in (tmp_path / "cut").glob("*.pt")] == ["00000002.pt"]
    monkeypatch.setattr(torch, "save", save)
    calls = count_batches(monkeypatch)
    assert same_weights(undisturbed, train(config, patches, tmp_path / "cut"))
    assert len(calls) == 4


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(config, patches, tmp_path, monkeypatch):
    first = train(config, patches, tmp_path)
    count_batches(monkeypatch, fail_at=0, error=AssertionError)
    assert same_weights(first, train(config, patches, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["seed", "training", "model", "image", "mask", "groups"])
def test_another_seed_configuration_or_data_starts_anew(config, patches, tmp_path, monkeypatch, change):
    train(config, patches, tmp_path)
    images, masks = patches.images.clone(), patches.masks.clone()
    images[0, 0, 0, 0] += 1
    masks[0, 0, 0] = 1 - masks[0, 0, 0]
    config, patches = {
        "seed": (replace(config, seed=1), patches),
        "training": (changed(config, style_dropout=0.2), patches),
        "model": (replace(config, model=replace(config.model, style_dim=9)), patches),
        "image": (config, replace(patches, images=images)),
        "mask": (config, replace(patches, masks=masks)),
        "groups": (config, replace(patches, groups=["group-1", *patches.groups[1:]])),
    }[change]
    calls = count_batches(monkeypatch)
    train(config, patches, tmp_path)
    assert len(calls) == 6


@pytest.mark.slow
def test_other_rows_that_count_as_annotated_start_anew(config, patches, tmp_path, monkeypatch):
    predicted = with_empty_predictions(patches)
    train(config, predicted, tmp_path)
    calls = count_batches(monkeypatch)
    train(config, replace(predicted, mask_source=predicted.mask_source[::-1]), tmp_path)
    assert len(calls) == 6


@pytest.mark.slow
def test_another_number_of_classes_starts_anew(config, patches, tmp_path, monkeypatch):
    train(config, patches, tmp_path)
    calls = count_batches(monkeypatch)
    train(config, replace(patches, classes=("stroma", "tumour", "lumen")), tmp_path)
    assert len(calls) == 6


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_the_checkpoint_survives(config, patches, tmp_path, monkeypatch):
    undisturbed = train(config, patches, tmp_path / "whole")
    count_batches(monkeypatch, fail_at=3, target=math.nan)  # the step whose end is a checkpoint
    with pytest.raises(FloatingPointError, match=r"step 3: the loss is nan, .*-00000002\.pt holds the last good"):
        train(config, patches, tmp_path / "broken")
    calls = count_batches(monkeypatch)
    assert same_weights(undisturbed, train(config, patches, tmp_path / "broken"))
    assert len(calls) == 4


@pytest.mark.slow
def test_weights_that_are_no_numbers_never_become_a_checkpoint(config, patches, tmp_path, monkeypatch):
    undisturbed = train(config, patches, tmp_path / "whole")
    calls = count_batches(monkeypatch)

    def with_a_broken_gradient(*arguments):  # a finite loss, at the step whose end is a checkpoint
        model = build_model(*arguments)
        model.denoiser.unet.style_film.bias.register_hook(
            lambda gradient: gradient * (math.nan if calls[-1] == 3 else 1)
        )
        return model

    monkeypatch.setattr(sedm.generator.training, "build_model", with_a_broken_gradient)
    with pytest.raises(FloatingPointError):
        train(config, patches, tmp_path / "broken")
    monkeypatch.setattr(sedm.generator.training, "build_model", build_model)
    assert same_weights(undisturbed, train(config, patches, tmp_path / "broken"))


# ---------------------------------------------------------------------------------------------- faults


def test_images_of_another_size_are_refused(config, patches, tmp_path):
    larger = replace(config, data=replace(config.data, image_size=32))
    with pytest.raises(ValueError, match=r"images of \(16, 16\) px, but data\.image_size=32"):
        train(larger, patches, tmp_path)


def test_a_held_out_group_never_trains(config, patches, tmp_path):
    with pytest.raises(ValueError, match="group 'group-3' is held out for testing"):
        train_model(config, patches, tmp_path, held_out={"group-3", "group-9"}, progress=False)
    assert not list(tmp_path.iterdir())


def test_what_cannot_train_a_generator_is_refused_before_anything_is_trained(config, patches, tmp_path):
    """Not after the autoencoder and the segmenter: nothing is written."""
    config = changed(config, unannotated="predicted_masks")
    larger = replace(config, data=replace(config.data, image_size=32))
    for words, settings, data, held_out in (
        ("group 'group-3' is held out for testing", config, patches, {"group-3"}),
        ("held_out='group-3'; give a set of groups", config, patches, "group-3"),
        ("but data.image_size=32", larger, patches, ()),
        ("no annotated image", config, patches.unannotated(), ()),
    ):
        with pytest.raises(ValueError, match=words):
            train_generator(settings, data, tmp_path, held_out, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("unannotated", ["predicted_masks", "left_out"])
def test_data_without_any_annotation_are_refused(config, patches, tmp_path, unannotated):
    config = replace(config, training=replace(config.training, unannotated=unannotated))
    with pytest.raises(ValueError, match="no annotated image"):
        train(config, patches.select(range(8, 16)), tmp_path)


@pytest.mark.slow
def test_a_model_can_be_pretrained_without_any_mask_and_gone_on_from(config, patches, tmp_path):
    """At a learning rate of nothing the weights stay those it went on from; other first weights are another run."""
    pretrained = train(config, patches.select(range(8, 16)), tmp_path / "pretraining")
    (sheet,) = (tmp_path / "pretraining" / "samples").glob("step-00000006.png")
    assert sheet.stat().st_size > 100
    still = replace(config, training=replace(config.training, learning_rate=1e-30))
    options = {"held_out": set(), "progress": False}
    tuned = train_model(still, patches, tmp_path / "tuned", initial=pretrained, **options)
    fresh = train_model(still, patches, tmp_path / "tuned", **options)
    weights = pretrained.state_dict()
    assert all(torch.allclose(weight, weights[name], atol=1e-6) for name, weight in tuned.state_dict().items())
    assert not all(torch.allclose(weight, weights[name], atol=1e-6) for name, weight in fresh.state_dict().items())


@pytest.mark.slow
def test_the_command_goes_on_from_a_saved_model(tmp_path):
    command = ["train", "tissue", "--preset", "smoke", "--n-steps", "3"]
    assert cli([*command, "--out", str(tmp_path / "first")]) == 0
    saved = str(tmp_path / "first" / "model")
    first = SEDMPipeline.from_pretrained(saved)
    assert cli([*command, "--out", str(tmp_path / "second"), "--initial", saved]) == 0
    second = SEDMPipeline.from_pretrained(tmp_path / "second" / "model")
    assert cli([*command, "--out", str(tmp_path / "other"), "--seed", "1"]) == 0
    other = SEDMPipeline.from_pretrained(tmp_path / "other" / "model")

    def apart(one, another):
        pairs = zip(one.as_model().parameters(), another.as_model().parameters(), strict=True)
        return sum(float((a - b).detach().square().sum()) for a, b in pairs) ** 0.5

    assert 0 < apart(first, second) < 0.2 * apart(first, other)


@pytest.mark.parametrize(
    ("setting", "value"), [("channels", (16, 32)), ("objective", "v"), ("n_style_images", 7), ("aggregation", "max")]
)
def test_an_initial_model_of_other_settings_is_refused_by_the_setting(config, patches, tmp_path, setting, value):
    other = build_model(replace(config.model, **{setting: value}), 2, 16, seed=0)
    with pytest.raises(ValueError, match=f"the initial model has {setting}="):
        train_generator(config, patches, tmp_path, set(), initial=other, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_initial_model_of_another_size_or_without_finite_weights_is_refused(config):
    model = build_model(config.model, 2, 16, seed=0)
    check_initial(model, config, n_classes=2)
    with pytest.raises(ValueError, match="the initial model has n_classes=2, but 3"):
        check_initial(model, config, n_classes=3)
    with pytest.raises(ValueError, match="the initial model has image_size=16, but 32"):
        check_initial(model, replace(config, data=replace(config.data, image_size=32)), n_classes=2)
    model.denoiser.unet.out.bias.data[0] = math.nan
    with pytest.raises(ValueError, match=r"not finite, such as denoiser\.unet\.out\.bias"):
        check_initial(model, config, n_classes=2)


def test_a_sitting_must_not_change_the_model_that_it_goes_on_from(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sedm.data.study_data, "load_study", lambda *_: pytest.fail("data were drawn"))
    SEDMPipeline.from_model(build_model(config.model, 2, 16, seed=0)).save_pretrained(tmp_path / "model")
    command = ["train", "tissue", "--preset", "smoke", "--initial", str(tmp_path / "model")]
    assert cli([*command, "--out", str(tmp_path)]) == 2
    assert "lies in --out" in capsys.readouterr().err
    assert cli([*command, "--out", str(tmp_path / "other")]) == 2  # 16 px, two classes
    assert "the initial model has n_classes=2, but 3 is to be trained" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_training_that_goes_on_sees_other_batches(config, patches, tmp_path, monkeypatch):
    """At a learning rate of nothing the losses tell the batches."""
    still = replace(config, training=replace(config.training, learning_rate=1e-30))
    first = train(still, patches.annotated(), tmp_path / "first")
    train(still, patches.annotated(), tmp_path / "second", initial=first)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / part / "metrics.jsonl").read_text().splitlines()]
        for part in ("first", "second")
    ]
    assert len(losses[0]) == len(losses[1]) == config.training.n_steps
    assert all(a != b for a, b in zip(*losses, strict=True))
