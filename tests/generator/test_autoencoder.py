"""Images survive the autoencoder, its latents are standardised, and diffusers agrees with both ways."""

import json
import math
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import sedm.generator.autoencoder
from sedm.config import AutoencoderConfig
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.generator.autoencoder import (
    AutoencoderLoss,
    build_autoencoder,
    decode_latents,
    encode_images,
    latent_shape,
    load_autoencoder,
    standardise_latents,
    train_autoencoder,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
TWO_LEVELS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def colour_blocks(n, seed, size=16):
    """Reddish images with a bluish square or the other way round, no two alike, without annotations."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    for image in images:
        colours = torch.tensor([(200, 60, 60), (60, 60, 200)])[torch.randperm(2, generator=generator)]
        ground, square = colours[..., None, None] + torch.randint(-9, 10, (2, 3, 1, 1), generator=generator)
        row, column = torch.randint(size // 2, (2,), generator=generator).tolist()
        image[:] = ground
        image[:, row : row + size // 2, column : column + size // 2] = square
    masks = torch.full((n, size, size), UNKNOWN, dtype=torch.uint8)
    return Patches(images, masks, [f"group-{row}" for row in range(n)], classes=("ground", "square"))


def floats(images):
    return images.float() / 127.5 - 1


def train(config, patches, folder):
    return train_autoencoder(config, patches, folder, progress=False)


def changed(config, **settings):
    return replace(config, autoencoder=replace(config.autoencoder, **settings))


def same_weights(first, second):
    weights, others = first.state_dict(), second.state_dict()
    return weights.keys() == others.keys() and all(weights[name].equal(others[name]) for name in weights)


def count_steps(monkeypatch, fail_at=None):
    """A list that grows by one a training step; the step ``fail_at`` raises."""
    calls, forward = [], AutoencoderLoss.forward

    def counted(self, images, noise):
        calls.append((images, noise))
        if len(calls) - 1 == fail_at:
            raise KeyboardInterrupt
        return forward(self, images, noise)

    monkeypatch.setattr(AutoencoderLoss, "forward", counted)
    return calls


@pytest.fixture
def config(config):
    settings = AutoencoderConfig(channels=(8, 16), n_steps=6, batch_size=4, warmup_steps=2, checkpoint_every=2)
    return replace(config, autoencoder=settings)


@pytest.fixture(scope="module")
def images():
    return colour_blocks(7, seed=0).images


@pytest.fixture
def folder(tmp_path):
    """A folder that diffusers wrote, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = AutoencoderKL(**SMALL, **TWO_LEVELS, shift_factor=0.3, scaling_factor=0.7)
    autoencoder.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ------------------------------------------------------------------------------------------ encode, decode


@torch.no_grad()
def test_latents_are_those_of_diffusers_standardised_by_its_convention(folder, images):
    ours = load_autoencoder(folder)
    theirs = AutoencoderKL.from_pretrained(folder)
    latents = (theirs.encode(floats(images)).latent_dist.mean - 0.3) * 0.7
    decoded = theirs.decode(latents / 0.7 + 0.3).sample
    assert latent_shape(ours, 16) == (4, 8)
    assert encode_images(ours, images).shape == (7, 4, 8, 8)
    assert_close(encode_images(ours, images), latents)
    assert_close(decode_latents(ours, latents), decoded.clamp(-1, 1))


def test_decoded_images_stay_within_their_range(folder):
    autoencoder = load_autoencoder(folder)
    decoder = autoencoder.decoder.conv_out
    decoder.weight.data.mul_(100)
    decoded = decode_latents(autoencoder, torch.randn(2, *latent_shape(autoencoder, 16)[:1], 8, 8))
    assert (decoded.min().item(), decoded.max().item()) == (-1, 1)


def test_chunks_are_encoded_and_decoded_as_the_whole(folder, images):
    autoencoder = load_autoencoder(folder)
    whole = encode_images(autoencoder, images)
    assert_close(encode_images(autoencoder, images, batch_size=3), whole)
    assert_close(decode_latents(autoencoder, whole, batch_size=3), decode_latents(autoencoder, whole))


def test_encoding_draws_nothing_and_keeps_no_graph(folder, images):
    autoencoder = load_autoencoder(folder)
    assert not autoencoder.training
    autoencoder.requires_grad_(True)
    state = torch.random.get_rng_state()
    first, second = encode_images(autoencoder, images), encode_images(autoencoder, images)
    assert first.equal(second)
    assert not first.requires_grad
    assert first.dtype == torch.float32
    assert not decode_latents(autoencoder, first).requires_grad
    assert torch.random.get_rng_state().equal(state)


def test_images_need_not_be_square(folder, images):
    autoencoder = load_autoencoder(folder)
    latents = encode_images(autoencoder, images[..., :12])
    assert latents.shape[2:] == (8, 6)
    assert decode_latents(autoencoder, latents).shape == (7, 3, 16, 12)


@pytest.mark.slow
def test_half_precision_weights_give_single_precision_latents(folder, images):
    autoencoder = load_autoencoder(folder)
    exact = encode_images(autoencoder, images)
    latents = encode_images(autoencoder.to(torch.bfloat16), images)
    assert latents.dtype == torch.float32
    assert_close(latents, exact, rtol=0.1, atol=0.1)


@pytest.mark.usefixtures("unchecked")
def test_inputs_that_cannot_be_encoded_or_decoded_are_refused(folder, images):
    autoencoder = load_autoencoder(folder)
    channels = latent_shape(autoencoder, 16)[0]
    with pytest.raises(ValueError, match=r"images of 15 px; this autoencoder needs a multiple of 2"):
        encode_images(autoencoder, images[..., :15])
    with pytest.raises(ValueError, match=r"shape \(7, 3, 16, 16\) and type torch.float32; expected uint8 \(n, 3, h, w"):
        encode_images(autoencoder, floats(images))
    with pytest.raises(ValueError, match=r"shape \(7, 1, 16, 16\)"):
        encode_images(autoencoder, images[:, :1])
    with pytest.raises(ValueError, match=rf"shape \(2, 9, 8, 8\); this autoencoder decodes \(n, {channels}, h, w\)"):
        decode_latents(autoencoder, torch.zeros(2, 9, 8, 8))


# ------------------------------------------------------------------------------------------------- building


def test_initial_weights_depend_on_the_seed_alone(config):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build_autoencoder(config.autoencoder, seed=5)
    assert torch.random.get_rng_state().equal(state)
    torch.manual_seed(2)
    assert same_weights(first, build_autoencoder(config.autoencoder, seed=5))
    assert not same_weights(first, build_autoencoder(config.autoencoder, seed=6))


@pytest.mark.parametrize(("channels", "size"), [((8,), 32), ((8, 8), 16), ((4, 8, 12), 8)])
def test_latents_are_as_small_as_the_widths_are_many(channels, size):
    autoencoder = build_autoencoder(AutoencoderConfig(channels=channels, latent_channels=2), seed=0)
    latents = encode_images(autoencoder, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert latents.shape == (1, 2, size, size)
    assert latent_shape(autoencoder, 32) == (2, size)


def test_a_width_that_norm_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"autoencoder\.channels=\(8, 10\); each must be a multiple of 4"):
        build_autoencoder(AutoencoderConfig(channels=(8, 10)), seed=0)


# ------------------------------------------------------------------------------------------------- training


def test_the_loss_is_the_mean_absolute_error_and_the_divergence_from_a_unit_gaussian(config, images):
    autoencoder = build_autoencoder(config.autoencoder, seed=0).requires_grad_(False)
    x, noise = floats(images), torch.randn(7, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    posterior = autoencoder.encode(x).latent_dist
    mean, deviation = posterior.mean, posterior.std
    error = (autoencoder.decode(mean + deviation * noise).sample - x).abs().mean()
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, deviation), normal(torch.zeros(()), torch.ones(())))
    for weight in (0.0, 0.5):
        expected = error + weight * divergence.sum() / x.numel()
        assert_close(AutoencoderLoss(autoencoder, weight)(x, noise), expected)


@pytest.mark.slow
def test_batches_are_training_images_and_unit_noise_new_at_every_step(config, tmp_path, monkeypatch):
    patches, calls = colour_blocks(12, seed=1), count_steps(monkeypatch)
    train(changed(config, batch_size=8), patches, tmp_path)
    assert len(calls) == 6
    for x, _ in calls:
        pixels = ((x + 1) * 127.5).round().to(torch.uint8)
        assert all((patches.images == image).flatten(1).all(1).any() for image in pixels)
        assert_close(floats(pixels), x)
    noise = torch.stack([noise for _, noise in calls])
    assert abs(noise.mean().item()) < 4 / math.sqrt(noise.numel())
    assert abs(noise.std().item() - 1) < 4 / math.sqrt(2 * noise.numel())
    assert not calls[0][0].equal(calls[1][0])
    assert not noise[0].equal(noise[1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(autoencoder, its training images, new images, its folder), after 150 steps."""
    from sedm.config import DataConfig, build_config

    base = build_config("tissue", "smoke")
    config = replace(
        base,
        data=DataConfig(image_size=16),
        autoencoder=AutoencoderConfig(
            channels=(16, 16), n_steps=150, batch_size=8, learning_rate=3e-3, warmup_steps=2, ema_decay=0.9
        ),
    )
    folder, patches = tmp_path_factory.mktemp("autoencoder"), colour_blocks(128, seed=1)
    return train(config, patches, folder), patches.images, colour_blocks(64, seed=2).images, folder


@pytest.mark.slow
def test_new_images_come_back_far_better_than_as_their_mean_colour(trained):
    autoencoder, _, new, _ = trained
    x = floats(new)
    decoded = decode_latents(autoencoder, encode_images(autoencoder, new))
    of_mean_colour = (x - x.mean(dim=(2, 3), keepdim=True)).square().mean()
    assert (x - decoded).square().mean() < 0.2 * of_mean_colour


@pytest.mark.slow
def test_latents_of_training_images_have_mean_0_and_deviation_1(trained):
    autoencoder, images, new, _ = trained
    latents = encode_images(autoencoder, images)
    assert_close(latents.mean().item(), 0.0, rtol=0, atol=1e-4)
    assert_close(latents.std().item(), 1.0, rtol=0, atol=1e-4)
    raw = autoencoder.encode(floats(images)).latent_dist.mean
    assert_close(autoencoder.config.shift_factor, raw.mean().item(), rtol=1e-3, atol=1e-4)
    assert_close(autoencoder.config.scaling_factor, 1 / raw.std().item(), rtol=1e-3, atol=1e-4)
    assert abs(encode_images(autoencoder, new).std().item() - 1) < 0.1


@pytest.mark.slow
def test_a_saved_autoencoder_loads_as_it_was_and_diffusers_reads_it(trained):
    autoencoder, _, new, folder = trained
    loaded = load_autoencoder(folder)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert same_weights(loaded, autoencoder)
    assert encode_images(loaded, new).equal(encode_images(autoencoder, new))
    assert same_weights(AutoencoderKL.from_pretrained(folder), autoencoder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS, "training"]


@pytest.mark.slow
def test_many_images_are_measured_on_a_part_of_them(trained, monkeypatch):
    autoencoder, images, _, _ = trained
    autoencoder, measured = build_autoencoder(AutoencoderConfig(channels=(16, 16)), seed=0), []

    def observed(model, chosen):
        measured.append(chosen)
        return encode_images(model, chosen)

    monkeypatch.setattr(sedm.generator.autoencoder, "encode_images", observed)
    for seed in (0, 0, 1):
        standardise_latents(autoencoder, images, seed, n_measured=32)
    first, again, other = measured
    assert len(first) == 32
    assert len(first.flatten(1).unique(dim=0)) == 32
    assert first.equal(again)
    assert not first.equal(other)
    assert abs(encode_images(autoencoder, images).std().item() - 1) < 0.2  # nor does an earlier measure enter


# ------------------------------------------------------------------------------------ seeds and interruptions


@pytest.mark.slow
def test_the_same_seed_gives_the_same_autoencoder_and_another_seed_another(config, tmp_path):
    patches = colour_blocks(12, seed=1)
    torch.manual_seed(1)
    first = train(config, patches, tmp_path / "a")
    torch.manual_seed(2)
    assert same_weights(first, train(config, patches, tmp_path / "b"))
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    assert not same_weights(first, train(replace(config, seed=1), patches, tmp_path / "c"))


@pytest.mark.slow
def test_a_finished_autoencoder_is_not_trained_again(config, tmp_path, monkeypatch):
    patches = colour_blocks(12, seed=1)
    first = train(config, patches, tmp_path)
    calls = count_steps(monkeypatch)
    other_generator = replace(config, training=replace(config.training, n_steps=99, style_dropout=0.5, batch_size=3))
    for same in (config, other_generator):
        again = train(same, patches, tmp_path)
        assert calls == []
        assert same_weights(first, again)
        assert again.config.scaling_factor == first.config.scaling_factor
        assert (again.training, again.encoder.conv_in.weight.requires_grad) == (False, False)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["seed", "settings", "image", "clipping"])
def test_another_seed_configuration_or_data_trains_anew(config, tmp_path, monkeypatch, change):
    patches = colour_blocks(12, seed=1)
    train(config, patches, tmp_path)
    images = patches.images.clone()
    images[3, 0, 0, 0] += 1
    config, patches = {
        "seed": (replace(config, seed=1), patches),
        "settings": (changed(config, kl_weight=0.1), patches),
        "image": (config, replace(patches, images=images)),
        "clipping": (changed(config, max_grad_norm=0.1), patches),
    }[change]
    calls = count_steps(monkeypatch)
    assert same_weights(train(config, patches, tmp_path), load_autoencoder(tmp_path))
    assert len(calls) == 6


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_undisturbed_one(config, tmp_path, monkeypatch):
    patches = colour_blocks(12, seed=1)
    undisturbed = train(config, patches, tmp_path / "whole")
    with monkeypatch.context() as patched:
        count_steps(patched, fail_at=5)
        with pytest.raises(KeyboardInterrupt):
            train(config, patches, tmp_path / "cut")
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_autoencoder(tmp_path / "cut")
    calls = count_steps(monkeypatch)
    assert same_weights(undisturbed, train(config, patches, tmp_path / "cut"))
    assert len(calls) == 2  # a checkpoint every second step


@pytest.mark.slow
def test_a_folder_is_without_config_until_its_weights_are_whole(config, tmp_path, monkeypatch):
    patches = colour_blocks(12, seed=1)
    train(config, patches, tmp_path)
    other = replace(config, seed=1)
    replaced = type(tmp_path).replace

    def interrupted(self, target):
        if target.parent == tmp_path:
            raise KeyboardInterrupt
        return replaced(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(other, patches, tmp_path)
    assert not (tmp_path / "config.json").exists()
    assert same_weights(train(other, patches, tmp_path), load_autoencoder(tmp_path))


@pytest.mark.usefixtures("unchecked")
def test_data_that_cannot_be_trained_on_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"images of shape \(3, 3, 32, 32\); expected \(1 or more, 3, 16, 16\)"):
        train(config, colour_blocks(3, seed=1, size=32), tmp_path)
    with pytest.raises(ValueError, match=r"images of shape \(0, 3, 16, 16\); expected \(1 or more, "):
        train(config, colour_blocks(3, seed=1).select([]), tmp_path)
    with pytest.raises(ValueError, match="images of 16 px; this autoencoder needs a multiple of 32"):
        train(changed(config, channels=(4,) * 6), colour_blocks(3, seed=1), tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ bad folders


def test_a_folder_without_an_autoencoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"stabilityai/sd-vae-ft-mse: no such folder; expected one written by .* Auto"):
        load_autoencoder("stabilityai/sd-vae-ft-mse")
    with pytest.raises(ValueError, match=r"no config\.json; expected a folder written by save_pretrained"):
        load_autoencoder(tmp_path)
    for text in ("{}", "[1]", "{half"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json: not written by diffusers"):
            load_autoencoder(tmp_path)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    UNet2DModel(block_out_channels=(8,), norm_num_groups=4, **blocks).save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="holds a UNet2DModel; expected AutoencoderKL"):
        load_autoencoder(tmp_path / "unet")


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "pickled"])
def test_missing_or_damaged_weights_are_refused(folder, damage):
    weights = folder / WEIGHTS
    content = load_file(weights)
    {
        "missing": lambda: weights.unlink(),
        "truncated": lambda: weights.write_bytes(weights.read_bytes()[:-100]),
        "empty": lambda: weights.write_bytes(b""),
        "pickled": lambda: (weights.unlink(), torch.save(content, folder / "diffusion_pytorch_model.bin")),
    }[damage]()
    with pytest.raises(ValueError, match=r"model: no AutoencoderKL can be read there"):
        load_autoencoder(folder)


@pytest.mark.parametrize("fault", ["one missing", "one too many", "wider"])
def test_weights_that_are_not_those_of_the_configuration_are_refused(folder, fault):
    content, settings = load_file(folder / WEIGHTS), json.loads((folder / "config.json").read_text())
    if fault == "one missing":
        content.pop("encoder.conv_in.bias")
    elif fault == "one too many":
        content["encoder.conv_in.extra"] = torch.zeros(3)
    else:
        (folder / "config.json").write_text(json.dumps(settings | {"block_out_channels": [8, 32]}))
    save_file(content, folder / WEIGHTS, metadata={"format": "pt"})
    reasons = r"can be read there|are missing, such as encoder\.conv_in\.bias|no place for .* encoder\.conv_in\.extra"
    with pytest.raises(ValueError, match=f"model: .*({reasons})"):
        load_autoencoder(folder)


def test_an_autoencoder_of_other_than_rgb_images_is_refused(tmp_path):
    AutoencoderKL(in_channels=4, **SMALL, **TWO_LEVELS).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its images have 4 channels; expected 3, for RGB"):
        load_autoencoder(tmp_path)
