"""Sampling against exact solutions and a loop written by hand; synthetic tables that survive anything."""

import errno
import inspect
import json
import logging
import shutil
from dataclasses import asdict, replace
from fnmatch import fnmatch
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import sedm.generation.generate
import sedm.generation.shards
from sedm.__main__ import main
from sedm.config import AutoencoderConfig, ModelConfig, SamplingConfig
from sedm.config.study import STUDIES
from sedm.data.patch_table import UNKNOWN, PatchTableError, check_patches, load_patches, save_patches
from sedm.data.patches import Patches
from sedm.generation.dataset_card import COLUMNS, push_to_hub
from sedm.generation.generate import embed_bank, generate_patches
from sedm.generation.pairing import GivenLayouts, Pairing, StyleChoice
from sedm.generation.shards import generate_shard, mix_style, weights_hash
from sedm.generator.autoencoder import build_autoencoder, decode_latents, latent_shape
from sedm.generator.denoiser import build_model
from sedm.generator.pipeline import SEDMPipeline, noise_generators, sample_images
from sedm.generator.process import Diffusion
from sedm.layouts import EmpiricalPrior
from sedm.styles.bank import StyleBank

CLASSES = ("background", "foreground")
LEVEL = 1.001  # of 255: rounding may move a value across a border


@pytest.fixture
def layouts():
    return torch.randint(2, (4, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def styles():
    return torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(1))


def sample(pipeline, layouts, styles, indices=None, n_steps=4, guidance_scale=1.0):
    generators = noise_generators(0, range(len(layouts)) if indices is None else indices)
    return pipeline(layouts, styles, generators, n_steps, guidance_scale, output_type="pt").images


def noise_of(indices):
    return torch.stack([torch.randn(3, 16, 16, generator=generator) for generator in noise_generators(0, indices)])


def to_bytes(x_0):
    return (x_0.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)


def far(images, others):
    """The largest difference, of 255."""
    return (images.float() - others.float()).abs().max().item()


def sample_by_hand(denoiser, layouts, styles, n_steps, guidance_scale):
    """DPM-Solver++(2M) of diffusers, each prediction on its own."""
    solver = DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        timestep_spacing="trailing",
    )
    size, noise = layouts.shape[-1], (1 / solver.alphas_cumprod - 1).sqrt()
    wanted = [0.3 * size * (0.03 / (0.3 * size)) ** (i / (n_steps - 2)) for i in range(n_steps - 1)]
    solver.set_timesteps(timesteps=[999, *(int((noise / ratio).log().abs().argmin()) for ratio in wanted)])
    x_t = noise_of(range(len(layouts)))
    for t in solver.timesteps:
        times = torch.full((len(layouts),), int(t))
        null = denoiser(x_t, times, layouts, denoiser.null_style.expand(len(layouts), 1, -1))
        styled = denoiser(x_t, times, layouts, styles)
        x_t = solver.step(null + guidance_scale * (styled - null), t, x_t).prev_sample
    return to_bytes(x_t)


# ------------------------------------------------------------------------------------------- sampling


@pytest.mark.slow
def test_the_exact_answer_for_a_gaussian_carries_noise_to_that_gaussian(pipeline, layouts, monkeypatch):
    mean, spread = torch.tensor([0.3, -0.2, 0.0])[:, None, None], torch.tensor([0.1, 0.2, 0.05])[:, None, None]
    alphas_bar = Diffusion("x_0").alphas ** 2

    def exact(x_t, t, layout, style):
        """E[x_0 | x_t] where x_0 ~ N(mean, spread²)."""
        alpha, sigma = alphas_bar[t].sqrt()[:, None, None, None], (1 - alphas_bar[t]).sqrt()[:, None, None, None]
        surprise = (x_t - alpha * mean) / (alpha**2 * spread**2 + sigma**2)
        return mean + alpha * spread**2 * surprise

    monkeypatch.setattr(pipeline.denoiser, "forward", exact)
    expected = to_bytes(mean + spread * noise_of(range(4)))  # the solution of the probability flow
    assert far(sample(pipeline, layouts, None, n_steps=200), expected) <= LEVEL


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0, 0.0])
def test_sampling_is_the_loop_written_by_hand(pipeline, layouts, styles, guidance_scale):
    images = sample(pipeline, layouts, styles, guidance_scale=guidance_scale)
    assert far(images, sample_by_hand(pipeline.denoiser, layouts, styles, 4, guidance_scale)) <= LEVEL
    if guidance_scale != 1:
        assert far(images, sample(pipeline, layouts, styles)) > 5


def test_no_guidance_evaluates_the_network_once_a_step_and_guidance_twice(pipeline, layouts, styles, monkeypatch):
    sizes, forward = [], pipeline.denoiser.forward
    monkeypatch.setattr(pipeline.denoiser, "forward", lambda x_t, *rest: sizes.append(len(x_t)) or forward(x_t, *rest))
    sample(pipeline, layouts, styles, n_steps=3)
    sample(pipeline, layouts, None, n_steps=2, guidance_scale=2.0)
    sample(pipeline, layouts, styles, n_steps=2, guidance_scale=2.0)
    assert sizes == [4] * 3 + [4] * 2 + [8] * 2


def test_guidance_is_null_plus_scale_times_the_difference(pipeline, layouts, monkeypatch):
    def constant(x_t, t, layout, style):  # the style's first number everywhere
        return style[..., :1, None].expand_as(x_t)

    monkeypatch.setattr(pipeline.denoiser, "forward", constant)
    pipeline.denoiser.null_style.data.fill_(0.2)
    styles = torch.full((4, 1, 8), 0.5)
    for guidance_scale, x_0 in ((1.0, 0.5), (2.0, 0.8), (0.5, 0.35), (0.0, 0.2)):
        images = sample(pipeline, layouts, styles, guidance_scale=guidance_scale)
        assert far(images, torch.full((4, 3, 16, 16), 127.5 * (1 + x_0))) <= LEVEL


def test_style_layout_and_noise_each_change_the_image(pipeline, layouts, styles):
    images = sample(pipeline, layouts, styles)
    assert images.float().std() > 10
    assert far(images, sample(pipeline, layouts, -styles)) > 2
    assert far(images, sample(pipeline, 1 - layouts, styles)) > 2
    assert far(images, sample(pipeline, layouts, styles, indices=range(4, 8))) > 50


@pytest.mark.slow
def test_an_image_is_the_same_bytes_with_any_neighbours(pipeline, layouts, styles):
    images = sample(pipeline, layouts, styles, indices=[0, 1, 2, 3])
    order = torch.tensor([3, 1, 0, 2])
    others = torch.cat([layouts[1:2], 1 - layouts[1:]]), torch.cat([styles[1:2], -styles[1:]])
    assert sample(pipeline, *others, indices=[1, 7, 8, 9])[0].equal(images[1])
    assert sample(pipeline, layouts[order], styles[order], indices=order.tolist()).equal(images[order])
    for i in range(4):
        assert far(sample(pipeline, layouts[[i]], styles[[i]], indices=[i])[0], images[i]) <= LEVEL


def test_micro_batches_make_the_images_of_one_batch(pipeline, config, layouts, styles):
    images = sample(pipeline, layouts, styles, n_steps=2)
    for micro_batch in (1, 3, 4):
        sampling = replace(config.sampling, micro_batch=micro_batch)
        assert far(sample_images(pipeline, layouts, styles, sampling, 0, progress=False), images) <= LEVEL


def test_pictures_and_tensors_hold_the_same_pixels(pipeline, layouts, styles):
    tensors = sample(pipeline, layouts, styles)
    pictures = pipeline(layouts, styles, noise_generators(0, range(4)), 4).images
    for picture, tensor in zip(pictures, tensors, strict=True):
        assert picture.mode == "RGB"
        assert picture.tobytes() == tensor.permute(1, 2, 0).contiguous().numpy().tobytes()


def test_styles_are_the_encoder_s(pipeline):
    images = torch.randint(256, (2, 3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    styles = pipeline.encode_styles(images)
    with torch.no_grad():
        assert_close(styles, pipeline.style_encoder(images.float() / 127.5 - 1))
    assert_close(pipeline.embed(images[0], batch_size=2), pipeline.embed(images[0]))
    assert_close(pipeline.aggregate(pipeline.embed(images[0])[None]), styles[:1])


# ---------------------------------------------------------------------------------------- mixing styles


def test_the_corners_of_a_mixture_are_the_styles_themselves(styles):
    for i in range(4):
        assert SEDMPipeline.mix_styles(styles, [7.3 * (i == j) for j in range(4)]).equal(styles[[i]])


def test_a_mixture_is_the_average_by_relative_weight(styles):
    mixture = SEDMPipeline.mix_styles(styles, [1, 0, 2, 5])
    assert_close(mixture, (styles[:1] + 2 * styles[2:3] + 5 * styles[3:]) / 8)
    assert mixture.equal(SEDMPipeline.mix_styles(styles, [0.5, 0, 1, 2.5]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1, 1], "3 weights for 4 styles"),
        ([1, 1, 1, -3], "sum must be above 0"),
        ([0, 0, 0, 0], "sum must be above 0"),
        ([float("nan"), 1, 1, 1], "nan"),
    ],
)
def test_weights_that_make_no_average_are_refused(styles, weights, message):
    with pytest.raises(ValueError, match=message):
        SEDMPipeline.mix_styles(styles, weights)


# -------------------------------------------------------------------------------------- saved and loaded


def test_a_saved_pipeline_makes_identical_images_from_safetensors_alone(pipeline, layouts, styles, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    files = {path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").rglob("*.*")}
    weights = {name for name in files if not name.endswith(".json")}
    assert weights == {f"{part}/diffusion_pytorch_model.safetensors" for part in ("denoiser", "style_encoder")}
    loaded = SEDMPipeline.from_pretrained(tmp_path / "model")
    assert weights_hash(loaded) == weights_hash(pipeline)
    assert not loaded.denoiser.training
    assert sample(loaded, layouts, styles, guidance_scale=2.0).equal(
        sample(pipeline, layouts, styles, guidance_scale=2.0)
    )
    images = torch.full((1, 2, 3, 16, 16), 99, dtype=torch.uint8)
    assert loaded.encode_styles(images).equal(pipeline.encode_styles(images))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "no model_index.json; expected a folder written by save_pretrained of SEDMPipeline"),
        ('{"_class_name": "DDPMPipeline"}', "holds a DDPMPipeline; expected SEDMPipeline"),
        ("{}", "not written by diffusers"),
        ("not json", "model"),
        ("[]", "model"),
    ],
)
def test_a_folder_that_is_no_model_of_ours_is_named(tmp_path, index, message):
    folder = tmp_path / "model"
    folder.mkdir()
    if index is not None:
        (folder / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=f"^{folder}.*{message}") as caught:
        SEDMPipeline.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_model_whose_weights_are_damaged_is_named(pipeline, tmp_path, unchecked, damage):
    pipeline.save_pretrained(tmp_path)
    weights = tmp_path / "denoiser" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if damage == "truncated":
        weights.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=str(tmp_path)):
        SEDMPipeline.from_pretrained(tmp_path)


def test_a_model_of_another_architecture_is_not_filled_up_with_weights_at_random(pipeline, tmp_path, monkeypatch):
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / "denoiser" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({f"old.{key}" if key == name else key: weight for key, weight in weights.items()}, path)
    said, handler = [], logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("diffusers"), "handlers", [handler])
    with pytest.raises(ValueError, match=f"^{tmp_path}/denoiser: 1 weights of .* missing, such as {name};") as caught:
        SEDMPipeline.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert said == []  # diffusers would list them all


@pytest.mark.parametrize("part", ["denoiser", "style_encoder"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda settings: settings.update(settings.pop("model")), "missing .*required .*'model'"),
        (lambda settings: settings["model"].update(style_rank=3), "unexpected keyword argument 'style_rank'"),
    ],
)
def test_a_model_of_other_settings_is_named(pipeline, tmp_path, part, change, reason):
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / part / "config.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"^{tmp_path}/{part}: its settings are not .*{reason}.*train") as caught:
        SEDMPipeline.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_saved_before_a_setting_was_there_has_its_default(pipeline, config, layouts, styles, tmp_path):
    pipeline.save_pretrained(tmp_path)
    for path in (tmp_path / "denoiser" / "config.json", tmp_path / "style_encoder" / "config.json"):
        settings = json.loads(path.read_text())
        del settings["model"]["objective"]
        path.write_text(json.dumps(settings))
    loaded = SEDMPipeline.from_pretrained(tmp_path)
    assert loaded.denoiser.config.model == loaded.style_encoder.config.model == config.model
    assert sample(loaded, layouts, styles).equal(sample(pipeline, layouts, styles))


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layouts": torch.zeros(4, 8, 8).byte()}, r"layouts of shape \(4, 8, 8\).*takes uint8 \(n, 16, 16\)"),
        ({"layouts": torch.zeros(16, 16, dtype=torch.uint8)}, r"layouts of shape \(16, 16\)"),
        ({"layouts": torch.zeros(4, 16, 16)}, "type torch.float32; this model takes uint8"),
        ({"layouts": torch.full((4, 16, 16), 2, dtype=torch.uint8)}, r"a layout holds 2, outside the classes 0\.\.1"),
        ({"styles": torch.zeros(3, 1, 8)}, r"styles of shape \(3, 1, 8\) for 4 layouts; expected \(4, 1, 8\)"),
        ({"styles": torch.zeros(4, 1, 9)}, r"styles of shape \(4, 1, 9\)"),
        ({"styles": torch.zeros(4, 8)}, r"styles of shape \(4, 8\) for 4 layouts; expected \(4, 1, 8\)"),
        ({"styles": torch.zeros(4, 2, 8)}, r"styles of shape \(4, 2, 8\) for 4 layouts; expected \(4, 1, 8\)"),
        ({"generator": noise_generators(0, range(3))}, "3 generators for 4 layouts"),
        ({"output_type": "np"}, "output_type='np'; choose 'pil' or 'pt'"),
    ],
)
def test_input_that_does_not_fit_the_model_is_named(pipeline, layouts, styles, unchecked, change, message):
    arguments = {
        "layouts": layouts,
        "styles": styles,
        "generator": noise_generators(0, range(4)),
        "num_inference_steps": 1,
    }
    with pytest.raises(ValueError, match=message):
        pipeline(**(arguments | change))


def test_one_generator_draws_the_noise_of_all_as_in_diffusers(pipeline, layouts, styles):
    one = torch.Generator().manual_seed(7)
    images = pipeline(layouts, styles, generator=one, num_inference_steps=2, output_type="pt").images
    again = torch.Generator().manual_seed(7)
    for _ in layouts:
        torch.randn(3, 16, 16, generator=again)
    assert torch.equal(one.get_state(), again.get_state())
    assert len({image.numpy().tobytes() for image in images}) == len(layouts)


def test_unknown_pixels_are_welcome_in_a_layout(pipeline, layouts, styles):
    assert sample(pipeline, torch.full_like(layouts, UNKNOWN), styles).shape == (4, 3, 16, 16)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 2, 3, 16, 16),
        *(torch.zeros(shape).byte() for shape in [(2, 3, 16, 16), (1, 0, 3, 16, 16), (0, 2, 3, 16, 16)]),
    ],
)
def test_style_images_of_another_form_are_named(pipeline, unchecked, images):
    with pytest.raises(ValueError, match=r"style images of shape .*; expected uint8 \(batch, n, 3, h, w\)"):
        pipeline.encode_styles(images)


# ------------------------------------------------------------------------------------- synthetic tables


@pytest.fixture
def prior(patches):
    return EmpiricalPrior.fit_masks(patches.annotated().masks, CLASSES)


@pytest.fixture
def bank(pipeline, patches):
    return StyleBank(pipeline.embed(patches.images), patches.groups, [f"train/{row}" for row in range(16)])


@pytest.fixture
def make(pipeline, prior, bank, config):
    """``generate_patches`` of the tiny things, into a folder."""

    def make(folder, **changes):
        arguments = {"pipeline": pipeline, "layouts": prior, "styles": bank, "config": config.sampling, "seed": 3}
        return generate_patches(**(arguments | {"folder": folder, "progress": False} | changes))

    return make


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def decode(table):
    return Patches.from_table(table, CLASSES)


def pictures(table):
    return [image.tobytes() for image in table["image"]]


@pytest.mark.slow
def test_a_synthetic_table_is_a_patch_table_with_its_provenance(make, pipeline, bank, tmp_path):
    table = make(tmp_path)
    check_patches(table, n_classes=2)
    assert decode(table).mask_source == ["generated"] * 10
    assert table.column_names == load_patches(tmp_path).column_names
    assert sorted(table.column_names) == sorted(COLUMNS)
    assert table["index"][:] == list(range(10))
    assert len(set(table["layout_id"])) == 10
    assert set(table["model"]) == {weights_hash(pipeline)}
    group_of = dict(zip(bank.image_ids, bank.groups, strict=True))
    for row in table.remove_columns(["image", "mask"]):
        assert {group_of[image_id] for image_id in row["style_images"]} == {row["group"]} == set(row["style_groups"])
        assert len(row["style_images"]) == len(set(row["style_images"])) == 2
        assert row["weights"] == [0.5, 0.5]
        assert (row["seed"], row["guidance_scale"], row["n_steps"], row["pairing"]) == (3, 1.0, 2, "random")
    assert len(set(table["group"])) > 1
    assert sorted(shards(tmp_path)) == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]


@pytest.mark.slow
def test_one_image_is_made_again_alone_byte_for_byte(make, pipeline, prior, bank, config, tmp_path):
    table = make(tmp_path)
    for i in (5, 9):
        alone = generate_shard(pipeline, prior, Pairing(bank, config.sampling), 3, range(i, i + 1), "m")
        assert alone["index"][:] == [i]
        assert alone["image"][0].tobytes() == table["image"][i].tobytes()
        assert alone["mask"][0].tobytes() == table["mask"][i].tobytes()
        assert alone["style_images"][0] == table["style_images"][i]


@pytest.mark.slow
def test_every_micro_batch_is_full_and_begins_at_a_multiple_of_its_size(
    make, config, pipeline, prior, bank, tmp_path, monkeypatch
):
    """On this machine rounding may not depend on the shape of a batch or on where it begins; elsewhere it does."""
    batches, generators_of = [], sedm.generation.shards.noise_generators
    monkeypatch.setattr(
        sedm.generation.shards, "noise_generators", lambda *which: batches.append(which) or generators_of(*which)
    )
    sampling = replace(config.sampling, n_images=7, micro_batch=3)
    make(tmp_path, config=sampling)
    assert batches == [(3, range(first, first + 3)) for first in (0, 3, 6)]
    batches.clear()
    generate_shard(pipeline, prior, Pairing(bank, sampling), 3, range(4, 7), "m")
    assert batches == [(3, range(first, first + 3)) for first in (3, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 3, 100])
def test_the_size_of_a_shard_changes_no_byte_of_an_image(make, tmp_path, monkeypatch, micro_batches):
    whole = make(tmp_path / "whole")
    monkeypatch.setattr(sedm.generation.generate, "MICRO_BATCHES_PER_SHARD", micro_batches)
    other = make(tmp_path / "other")
    assert shards(tmp_path / "other") != shards(tmp_path / "whole")
    assert pictures(other) == pictures(whole)
    assert other.remove_columns("image").to_list() == whole.remove_columns("image").to_list()


@pytest.mark.slow
def test_another_micro_batch_gives_the_same_table_up_to_rounding(make, config, tmp_path):
    whole = make(tmp_path / "whole")
    for micro_batch in (1, 5, 16):
        other = make(tmp_path / str(micro_batch), config=replace(config.sampling, micro_batch=micro_batch))
        assert far(decode(other).images, decode(whole).images) <= LEVEL
        assert other.remove_columns("image").to_list() == whole.remove_columns("image").to_list()


@pytest.mark.slow
@pytest.mark.parametrize("mixture", [{"n_mixed_groups": 1}, {"n_mixed_groups": 3}, {"extrapolation": 1.0}])
def test_a_row_alone_says_how_its_image_was_made(make, pipeline, prior, bank, config, tmp_path, mixture):
    sampling = replace(config.sampling, **mixture)
    for row in make(tmp_path, config=sampling).select([0, 5]):
        layout = prior.sample(1, seed=row["seed"], first=row["index"])
        assert row["mask"].tobytes() == layout[0].numpy().tobytes()
        lenders = [bank.image_ids.index(image_id) for image_id in row["style_images"]]
        assert list(dict.fromkeys(bank.groups[lender] for lender in lenders)) == row["style_groups"]
        assert row["group"] == bank.groups[lenders[int(torch.tensor(row["weights"]).argmax())]]
        assert len(row["style_groups"]) == sampling.n_mixed_groups + (sampling.extrapolation > 0)
        style = pipeline.mix_styles(bank.embeddings[lenders][:, None], row["weights"])  # what "mean" aggregates to
        generators = noise_generators(row["seed"], [row["index"]])
        image = pipeline(layout, style, generators, row["n_steps"], row["guidance_scale"], "pt").images[0]
        stored = decode(datasets.Dataset.from_list([row])).images[0]
        assert far(image, stored) <= LEVEL


@pytest.mark.parametrize("aggregation", ["attention", "tokens"])
def test_groups_are_aggregated_one_by_one_and_then_mixed(config, patches, aggregation):
    injection = "cross_attention" if aggregation == "tokens" else "film"
    model = replace(config.model, aggregation=aggregation, style_injection=injection)
    pipeline = SEDMPipeline.from_model(build_model(model, n_classes=2, image_size=16, seed=0).eval())
    bank = embed_bank(pipeline, patches)
    both = mix_style(pipeline, bank, StyleChoice([0, 3, 9, 10], [0.375, 0.375, 0.125, 0.125]))
    one, other = (pipeline.encode_styles(patches.images[rows][None]) for rows in ([0, 3], [9, 10]))
    assert_close(both, 0.75 * one + 0.25 * other, rtol=1e-4, atol=1e-5)
    assert (one - other).abs().max() > 1e-3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_table_and_another_seed_another(make, tmp_path):
    make(tmp_path / "a")
    torch.manual_seed(5)
    make(tmp_path / "b")
    make(tmp_path / "c", seed=4)
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert not set(shards(tmp_path / "a").values()) & set(shards(tmp_path / "c").values())


@pytest.mark.slow
def test_asking_for_more_images_does_not_change_the_first(make, config, tmp_path):
    table = make(tmp_path / "a")
    more = make(tmp_path / "b", config=replace(config.sampling, n_images=11))
    assert pictures(more)[:10] == pictures(table)


@pytest.mark.slow
def test_given_layouts_come_as_they_are(make, patches, config, tmp_path):
    masks = patches.masks[:3]
    layouts = GivenLayouts(masks, ["a", "b", "c"])
    table = make(tmp_path, layouts=layouts, config=replace(config.sampling, n_steps=1))
    for mask, name in zip(decode(table).masks, table["layout_id"], strict=True):
        assert mask.equal(masks["abc".index(name)])
    assert table["layout_id"][:] == layouts.sample_ids(10, seed=3)


# ------------------------------------------------------------------------------------ what cannot go well


def other_pipeline(config, n_classes=2, image_size=16, seed=1):
    return SEDMPipeline.from_model(build_model(config.model, n_classes, image_size, seed).eval())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"styles": StyleBank(torch.zeros(0, 8), [], [])}, "the style bank is empty"),
        (
            lambda t: {"styles": replace(t.bank, embeddings=torch.zeros(16, 9))},
            "style embeddings of length 9; this model's have 8",
        ),
        (
            lambda t: {"styles": replace(t.bank, model="abc")},
            "styles were embedded by the model abc, not by [0-9a-f]{12}; embed them again",
        ),
        (
            lambda t: {"layouts": EmpiricalPrior.fit_masks(t.prior.masks[:, :8, :8], CLASSES)},
            "layouts of 8×8 px; this model takes 16×16",
        ),
        (lambda t: {"layouts": GivenLayouts(t.prior.masks[:, :8], list("01234567"))}, "layouts of 8×16 px"),
        (
            lambda t: {"layouts": GivenLayouts(t.prior.masks * 2, list("01234567"))},
            r"layout '0' holds 2, outside the classes 0\.\.1",
        ),
        (
            lambda t: {"layouts": GivenLayouts(torch.full((1, 16, 16), UNKNOWN).byte(), ["x"])},
            "layout 'x' holds 255, .* give fully annotated masks",
        ),
        (
            lambda t: {"layouts": EmpiricalPrior.fit_masks(t.prior.masks, ("a", "b", "c"))},
            r"layouts of 3 classes \(a, b, c\), but a model of 2; take both from the same study",
        ),
        (lambda t: {"pipeline": other_pipeline(t.config, 3)}, "layouts of 2 classes .*, but a model of 3"),
        (lambda t: {"pipeline": other_pipeline(t.config, 2, 32)}, "layouts of 16×16 px; this model takes 32×32"),
        (
            lambda t: {"pairing": Pairing(t.bank, replace(t.config.sampling, n_mixed_groups=2))},
            "pairing was made for other styles or another configuration",
        ),
        (
            lambda t: {"pairing": Pairing(replace(t.bank), t.config.sampling)},
            "pairing was made for other styles or another configuration",
        ),
        (lambda t: {"config": replace(t.config.sampling, pairing="composition")}, "needs of_groups"),
        (lambda t: {"study": "tisue"}, "study='tisue'; choose one of"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    make, config, bank, prior, tmp_path, monkeypatch, unchecked, change, message
):
    monkeypatch.setattr(sedm.generation.generate, "generate_shard", None)
    with pytest.raises(ValueError, match=message) as caught:
        make(tmp_path / "new", **change(SimpleNamespace(config=config, bank=bank, prior=prior)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_styles_that_the_aggregation_refuses_are_refused_first(make, config, patches, prior, tmp_path):
    model = replace(config.model, aggregation="linear", n_style_images=3)
    pipeline = SEDMPipeline.from_model(build_model(model, n_classes=2, image_size=16, seed=0).eval())
    with pytest.raises(ValueError, match="2 style images; 'linear' aggregates exactly 3"):
        make(tmp_path / "new", pipeline=pipeline, styles=embed_bank(pipeline, patches))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_bank_knows_the_model_that_embedded_it(make, pipeline, patches, config, tmp_path):
    bank = embed_bank(pipeline, patches)
    assert (bank.model, bank.groups, bank.image_ids[:2]) == (weights_hash(pipeline), patches.groups, ["0", "1"])
    assert_close(bank.embeddings, pipeline.embed(patches.images))
    assert len(make(tmp_path, styles=bank)) == 10
    with pytest.raises(ValueError, match=f"embedded by the model {bank.model}, not by"):
        make(tmp_path / "other", styles=bank, pipeline=other_pipeline(config))


def test_every_weight_counts_in_the_name_of_a_model(config):
    autoencoders = [
        build_autoencoder(AutoencoderConfig(channels=(8, 8), latent_channels=2), seed=seed) for seed in (0, 1)
    ]
    model = build_model(replace(config.model, unshuffle=1), 2, 16, seed=0, latents=latent_shape(autoencoders[0], 16))
    names = {weights_hash(SEDMPipeline.from_model(model, one)) for one in (None, *autoencoders)}
    model.style_encoder.state_dict()[next(iter(model.style_encoder.state_dict()))][0] += 1
    names |= {weights_hash(SEDMPipeline.from_model(model))}
    model.denoiser.null_style.data[0] += 1
    assert len(names | {weights_hash(SEDMPipeline.from_model(model))}) == 5


@pytest.mark.slow
def test_a_layout_without_the_class_that_pairing_needs_is_refused_first(make, config, bank, patches, tmp_path):
    sampling = replace(config.sampling, pairing="class")
    facts = {"of_layouts": {"a": "x"}, "of_groups": {"group-0": "x"}}
    given = {"config": sampling, "pairing": Pairing(bank, sampling, **facts)}
    layouts = GivenLayouts(patches.masks[:2], ["a", "b"])
    with pytest.raises(ValueError, match="layout 'b' has no image class"):
        make(tmp_path, layouts=layouts, **given)
    assert set(make(tmp_path, layouts=GivenLayouts(patches.masks[:1], ["a"]), **given)["group"]) == {"group-0"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_whole_shards_only_and_says_so_in_one_sentence(make, tmp_path, monkeypatch, number):
    make(tmp_path / "whole")
    written = []

    def write_table(writer, batch):
        if written:
            raise OSError(number, "No space left on device")
        written.append(write(writer, batch))

    write = pyarrow.parquet.ParquetWriter.write_table
    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", write_table)
    with pytest.raises(OSError, match=r"-00001-of-00002.parquet: the disk is full; .* make room and start") as caught:
        make(tmp_path / "full")
    assert caught.value.errno == number
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == [
        "generation.json",
        "train-00000-of-00002.parquet",
    ]
    monkeypatch.undo()
    make(tmp_path / "full")
    assert shards(tmp_path / "full") == shards(tmp_path / "whole")


def test_any_other_failure_to_write_is_not_called_a_full_disk(make, tmp_path, monkeypatch):
    def refuse(table, path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sedm.generation.shards, "save_patches", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        make(tmp_path)


# ----------------------------------------------------------------------------------- the folder of a table


@pytest.mark.slow
def test_an_interrupted_table_is_continued_and_ends_as_an_undisturbed_one(make, tmp_path, monkeypatch):
    make(tmp_path / "whole")
    saved = []

    def interrupted(table, path):
        if saved:
            raise KeyboardInterrupt
        saved.append(save_patches(table, path))

    monkeypatch.setattr(sedm.generation.shards, "save_patches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut")
    assert list(shards(tmp_path / "cut")) == ["train-00000-of-00002.parquet"]
    with pytest.raises(PatchTableError, match="number 1 is missing"):  # half a table is not taken for a table
        load_patches(tmp_path / "cut", "train")
    monkeypatch.setattr(
        sedm.generation.shards, "save_patches", lambda table, path: saved.append(save_patches(table, path))
    )
    table = make(tmp_path / "cut")
    assert [path.name[:11] for path in saved] == ["train-00000", "train-00001"]  # none made twice
    assert shards(tmp_path / "cut") == shards(tmp_path / "whole")
    assert len(table) == 10


@pytest.mark.slow
def test_what_a_killed_run_left_half_written_is_removed(make, tmp_path):
    make(tmp_path / "whole")
    make(tmp_path / "cut")
    (tmp_path / "cut" / "train-00001-of-00002.parquet").rename(tmp_path / "cut" / ".train-00001-of-00002.7.tmp.parquet")
    make(tmp_path / "cut")
    assert shards(tmp_path / "cut") == shards(tmp_path / "whole")


@pytest.mark.slow
def test_the_bar_counts_from_what_is_there_to_the_whole_table(make, tmp_path, capsys):
    make(tmp_path)
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    make(tmp_path, progress=True)
    said = capsys.readouterr().err
    assert "8/10" in said
    assert "10/10" in said
    assert "image/s" in said
    make(tmp_path)
    assert "generating" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_table_is_not_made_again(make, tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(sedm.generation.generate, "generate_shard", None)
    assert len(make(tmp_path)) == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", ["guidance_scale", "n_images", "seed", "model", "layouts", "styles", "groups", "lenders"]
)
def test_images_of_another_configuration_are_named_and_kept_until_replaced(
    make, config, pipeline, bank, prior, patches, tmp_path, setting
):
    folder, sampling = tmp_path / "old", replace(config.sampling, pairing="composition")
    given = {}
    if setting == "lenders":
        given = {"config": sampling, "pairing": Pairing(bank, sampling, of_groups={"group-0": [0, 1]})}
    make(folder, **given)
    before = shards(folder)
    change = {
        "guidance_scale": {"config": replace(config.sampling, guidance_scale=2.0)},
        "n_images": {"config": replace(config.sampling, n_images=9)},
        "seed": {"seed": 4},
        "model": {"pipeline": other_pipeline(config)},
        "layouts": {"layouts": EmpiricalPrior.fit_masks(1 - prior.masks, ("background", "foreground"))},
        "styles": {"styles": replace(bank, embeddings=bank.embeddings + 1)},
        "groups": {"styles": replace(bank, groups=["group-9", *bank.groups[1:]])},
        "lenders": {"config": sampling, "pairing": Pairing(bank, sampling, of_groups={"group-0": [1, 0]})},
    }[setting]
    name = {"groups": "styles"}.get(setting, setting)
    with pytest.raises(ValueError, match=f"^{folder}: holds images made with {name}"):
        make(folder, **change)
    assert shards(folder) == before
    replaced, fresh = make(folder, replace_stale=True, **change), make(tmp_path / "fresh", **change)
    assert shards(folder) == shards(tmp_path / "fresh")
    assert pictures(replaced) == pictures(fresh)  # and not what was cached of the old files


@pytest.mark.slow
def test_filtering_comes_later_and_makes_no_image_stale(make, config, tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(sedm.generation.generate, "generate_shard", None)
    assert len(make(tmp_path, config=replace(config.sampling, filter_percentile=10.0))) == 10


@pytest.mark.slow
@pytest.mark.parametrize("replace_stale", [False, True])
def test_tables_of_unknown_origin_are_neither_taken_for_ours_nor_deleted(make, tmp_path, replace_stale):
    make(tmp_path, seed=4)
    (tmp_path / "generation.json").unlink()
    before = shards(tmp_path)
    with pytest.raises(ValueError, match=rf"^{tmp_path}: holds train-.*parquet, and no generation\.json"):
        make(tmp_path, replace_stale=replace_stale)
    assert shards(tmp_path) == before


@pytest.mark.slow
def test_the_folder_says_what_its_images_were_made_with(make, config, tmp_path):
    make(tmp_path)
    facts = json.loads((tmp_path / "generation.json").read_text())
    assert facts.items() >= ({**asdict(config.sampling), "seed": 3}.items() - {"filter_percentile": 0.0}.items())
    assert load_patches(tmp_path / "train-00001-of-00002.parquet")["index"][:] == [8, 9]


@pytest.mark.slow
def test_the_card_lets_a_stranger_load_the_table_and_names_whose_data_it_comes_from(make, pipeline, tmp_path):
    table = make(tmp_path, study="ebhi")
    make(tmp_path / "filtered")  # what else lies in the folder is no part of the table
    (tmp_path / "filtered" / next(iter(shards(tmp_path / "filtered")))).rename(tmp_path / "filter.parquet")
    loaded = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.remove_columns(["image", "mask"]).to_list() == table.remove_columns(["image", "mask"]).to_list()
    assert pictures(loaded) == pictures(table)
    card = (tmp_path / "README.md").read_text()
    for fact in ("10 synthetic patches", weights_hash(pipeline), STUDIES["ebhi"].attribution, "- `seed`: 3"):
        assert fact in card
    for column in table.column_names:
        assert f"- `{column}`: " in card
    assert card == (make(tmp_path, study="ebhi"), (tmp_path / "README.md").read_text())[1]


class FakeHub:
    """Notes what is asked of it."""

    def __init__(self, private=True):
        self.private, self.asked = private, []

    def create_repo(self, repo_id, **options):
        self.asked.append(("create", repo_id, options))
        return f"hub/{repo_id}"

    def repo_info(self, repo_id, **options):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, **options):
        self.asked.append(("upload", options))


@pytest.mark.slow
def test_pushing_sends_table_claim_and_card_to_a_private_data_set(make, tmp_path):
    make(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    hub = FakeHub()
    assert push_to_hub(tmp_path, "me/synthetic", api=hub) == "hub/me/synthetic"
    (_, repo, created), (_, sent) = hub.asked
    assert (repo, created["private"], created["repo_type"]) == ("me/synthetic", True, "dataset")
    assert (sent["repo_id"], sent["repo_type"]) == ("me/synthetic", "dataset")
    files = {path.name for path in tmp_path.iterdir()}
    chosen = {name for name in files if any(fnmatch(name, pattern) for pattern in sent["allow_patterns"])}
    assert chosen == files - {"notes.txt"}
    inspect.signature(HfApi.upload_folder).bind(None, **sent)  # the real one takes what the fake was given
    inspect.signature(HfApi.create_repo).bind(None, repo, **created)


@pytest.mark.slow
def test_nothing_is_pushed_that_is_unfinished_or_would_become_public(make, tmp_path):
    hub = FakeHub(private=False)
    make(tmp_path)
    with pytest.raises(ValueError, match="me/synthetic: exists already and is public"):
        push_to_hub(tmp_path, "me/synthetic", api=hub)
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(PatchTableError, match="number 1 is missing"):
        push_to_hub(tmp_path, "me/synthetic", api=hub)
    with pytest.raises(ValueError, match="no finished synthetic table"):
        push_to_hub(tmp_path / "empty", "me/synthetic", api=hub)
    assert [what for what, *_ in hub.asked if what == "upload"] == []


# ----------------------------------------------------------------------------------------- command line


@pytest.fixture
def words(pipeline, prior, bank, table, tmp_path):
    """The words of a command line on stored things."""
    pipeline.save_pretrained(tmp_path / "model")
    prior.save(tmp_path / "prior")
    bank.save(tmp_path / "bank.safetensors")
    classes = ["x" if row % 4 < 2 else "y" for row in range(len(table))]
    save_patches(table.add_column("architecture", classes), tmp_path / "patches.parquet")
    named = {"model": "model", "layouts": "prior", "styles": "bank.safetensors", "out": "out"}
    settings = {"n": 6, "seed": 3, "preset": "smoke", "n-steps": 2, "n-style-images": 2, "micro-batch": 2}

    def words(**changes):
        given = {name: tmp_path / path for name, path in (named | changes).items() if name in named}
        given |= settings | {name: value for name, value in changes.items() if name not in named}
        return ["generate", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]

    return words


@pytest.fixture
def command(words, tmp_path):
    """The command line on stored things; gives the folder that it wrote to."""

    def command(**changes):
        assert main(words(**changes)) == 0
        return tmp_path / "out"

    return command


@pytest.mark.slow
def test_the_command_line_makes_what_the_function_makes(command, make, config, tmp_path, capsys):
    table = make(tmp_path / "expected", config=replace(config.sampling, n_images=6))
    assert shards(command(study="tissue")) == shards(tmp_path / "expected")
    assert f"{tmp_path / 'out'}: 6 images" in capsys.readouterr().out
    assert "drawn by sedm itself" in (tmp_path / "out" / "README.md").read_text()
    assert len(table) == 6


@pytest.mark.slow
def test_the_command_line_takes_layouts_and_styles_from_patch_tables(command, patches, bank):
    options = {"pairing": "composition", "style-sources": "annotated", "n-mixed-groups": 2}
    table = load_patches(command(layouts="patches.parquet", styles="patches.parquet", **options))
    rows = [int(name.removeprefix("patches/")) for name in table["layout_id"]]
    assert decode(table).masks.equal(patches.masks[rows])
    assert {name for groups in table["style_groups"] for name in groups} == {"group-0", "group-1"}
    assert {int(name.removeprefix("patches/")) for names in table["style_images"] for name in names} <= set(range(8))


@pytest.mark.slow
def test_the_command_line_takes_layouts_and_styles_from_the_training_images_of_a_study(command, pipeline, tmp_path):
    folder = tmp_path / "mine"
    for number, group in enumerate("abcde"):
        for row in range(2):
            mask = np.zeros((16, 16), np.uint8)
            mask[number + row :, 4:] = 255
            for kind, pixels in (("images", np.full((16, 16, 3), 40 * number, np.uint8)), ("masks", mask)):
                path = folder / kind / group / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "images" or group != "e":
                    Image.fromarray(pixels).save(path)
    text = "[classes]\nglass = 0\ngland = 255\n[splits]\ntest = ['a']\nvalidation = ['b']\n"
    (folder / "study.toml").write_text(text)
    out = command(layouts="mine", styles="mine/study.toml", study=folder)
    first = load_patches(out)
    assert {name for groups in first["style_groups"] for name in groups} <= set("cde")
    assert first["layout_id"][0] != first["layout_id"][1]
    for group in "ab":  # what is tested on decides nothing
        for path in (folder / "masks" / group).iterdir():
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    shutil.rmtree(out)
    assert decode(load_patches(command(layouts="mine", styles="mine", study=folder))).images.equal(decode(first).images)


@pytest.mark.slow
def test_the_command_line_pairs_by_the_image_class_of_the_study(command):
    options = {"study": "tissue", "pairing": "class"}
    table = load_patches(command(layouts="patches.parquet", styles="patches.parquet", **options))
    assert set(table["pairing"]) == {"class"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "prior"}, "no model_index.json"),
        ({"layouts": "nowhere"}, "nowhere: no such file or folder"),
        ({"styles": "nowhere.safetensors"}, "nowhere.safetensors: no such file or folder"),
        ({"styles": "nowhere"}, "nowhere: no such file or folder"),
        ({"n": 0}, "n_images=0; it must be a whole number of 1 or more"),
        ({"seed": -1}, "--seed: '-1'; give a whole number of 0 or more"),
        ({"n-mixed-groups": 5}, "n_mixed_groups=5, but only 4 groups"),
        ({"pairing": "composition"}, "pairing='composition' needs of_groups"),
        ({"pairing": "class"}, "pairing='class' needs of_layouts and of_groups"),
        ({"style-sources": "unannotated"}, "give annotated_groups"),
    ],
)
def test_the_command_line_ends_a_mistake_with_status_2_and_one_sentence(words, capsys, tmp_path, changes, message):
    assert main(words(**changes)) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("sedm generate: ")
    assert message in said
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------ latents and tokens


@pytest.mark.slow
def test_a_pipeline_on_latents_decodes_them_and_survives_saving(tmp_path, layouts):
    autoencoder = build_autoencoder(AutoencoderConfig(channels=(8, 8), latent_channels=2), seed=0).eval()
    config = ModelConfig((8, 16), unshuffle=1, style_dim=8, style_channels=(8, 8))
    model = build_model(config, n_classes=2, image_size=16, seed=0, latents=latent_shape(autoencoder, 16)).eval()
    pipeline = SEDMPipeline.from_model(model, autoencoder)
    pipeline.set_progress_bar_config(disable=True)
    images = sample(pipeline, layouts, None, n_steps=1)
    noise = torch.stack([torch.randn(2, 8, 8, generator=one) for one in noise_generators(0, range(4))])
    null, last = model.denoiser.null_style.expand(4, 1, -1), torch.full((4,), 999)
    with torch.no_grad():  # the only step ends at the network's own answer
        clean = decode_latents(autoencoder, model.denoiser(noise, last, layouts, null))
    assert far(images, to_bytes(clean)) <= LEVEL
    pipeline.save_pretrained(tmp_path)
    loaded = SEDMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert sample(loaded, layouts, None, n_steps=1).equal(images)


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["attention", "linear", "tokens"])
def test_every_kind_of_style_goes_through_saving_guidance_and_mixing(tmp_path, layouts, aggregation):
    injection = "cross_attention" if aggregation == "tokens" else "film"
    config = ModelConfig(
        (8, 16), style_dim=8, style_channels=(8,), aggregation=aggregation, n_style_images=2, style_injection=injection
    )
    SEDMPipeline.from_model(build_model(config, n_classes=2, image_size=16, seed=0).eval()).save_pretrained(tmp_path)
    pipeline = SEDMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    lent = torch.randint(256, (4, 2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    styles = pipeline.encode_styles(lent)
    assert styles.shape == (4, 2 if aggregation == "tokens" else 1, 8)
    first = pipeline.mix_styles(styles, [1, 0, 0, 0])
    assert first.equal(styles[:1])
    images = sample(pipeline, layouts, styles, guidance_scale=2.0)
    assert sample(pipeline, layouts[:1], first, guidance_scale=2.0)[0].equal(images[0])
    assert far(images, sample(pipeline, layouts, styles.flip(0), guidance_scale=2.0)) > 1


@pytest.mark.parametrize("scale", [float("nan"), -1.0, float("inf")])
def test_a_guidance_that_means_nothing_is_refused(pipeline, layouts, scale):
    with pytest.raises(ValueError, match=r"guidance_scale=.*; it must be 0 or more"):
        sample(pipeline, layouts, None, guidance_scale=scale)
    with pytest.raises(ValueError, match=r"guidance_scale=.*; it must be 0 or more"):
        SamplingConfig(guidance_scale=scale)


def test_a_style_that_is_not_finite_is_refused(pipeline, layouts):
    styles = pipeline.denoiser.null_styles(len(layouts)).detach().clone()
    styles[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="a style holds values that are not finite"):
        sample(pipeline, layouts, styles)
