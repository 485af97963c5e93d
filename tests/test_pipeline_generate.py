"""Sampling against exact solutions and a loop written by hand; synthetic tables that survive anything."""

import json
from dataclasses import asdict, replace

import datasets
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch.testing import assert_close

import sedm.generate
from sedm.autoencoder import build_autoencoder, decode_latents, latent_shape
from sedm.config import AutoencoderConfig, ModelConfig
from sedm.data.patches import UNKNOWN, check_patches, load_patches
from sedm.data.tensors import to_tensors
from sedm.diffusion import Diffusion
from sedm.generate import generate_patches, generate_shard, save_patches, weights_hash
from sedm.layouts import EmpiricalPrior
from sedm.model import build_model
from sedm.pipeline import SEDMPipeline, noise_generators, sample_images
from sedm.styles import StyleBank

LEVEL = 1.001  # of 255: rounding may move a value across a border


@pytest.fixture
def layouts():
    return torch.randint(2, (4, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def styles():
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(1))


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
    solver.set_timesteps(n_steps)
    x_t = noise_of(range(len(layouts)))
    for t in solver.timesteps:
        times = torch.full((len(layouts),), int(t))
        null = denoiser(x_t, times, layouts, denoiser.null_style.expand(len(layouts), -1))
        styled = denoiser(x_t, times, layouts, styles)
        x_t = solver.step(null + guidance_scale * (styled - null), t, x_t).prev_sample
    return to_bytes(x_t)


# ------------------------------------------------------------------------------------------- sampling


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
        return style[:, :1, None, None].expand_as(x_t)

    monkeypatch.setattr(pipeline.denoiser, "forward", constant)
    pipeline.denoiser.null_style.data.fill_(0.2)
    styles = torch.full((4, 8), 0.5)
    for guidance_scale, x_0 in ((1.0, 0.5), (2.0, 0.8), (0.5, 0.35), (0.0, 0.2)):
        images = sample(pipeline, layouts, styles, guidance_scale=guidance_scale)
        assert far(images, torch.full((4, 3, 16, 16), 127.5 * (1 + x_0))) <= LEVEL


def test_style_layout_and_noise_each_change_the_image(pipeline, layouts, styles):
    images = sample(pipeline, layouts, styles)
    assert images.float().std() > 10
    assert far(images, sample(pipeline, layouts, -styles)) > 2
    assert far(images, sample(pipeline, 1 - layouts, styles)) > 2
    assert far(images, sample(pipeline, layouts, styles, indices=range(4, 8))) > 50


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
        assert SEDMPipeline.mix_styles(styles, [7.3 * (i == j) for j in range(4)]).equal(styles[i])


def test_a_mixture_is_the_average_by_relative_weight(styles):
    mixture = SEDMPipeline.mix_styles(styles, [1, 0, 2, 5])
    assert_close(mixture, (styles[0] + 2 * styles[2] + 5 * styles[3]) / 8)
    assert mixture.equal(SEDMPipeline.mix_styles(styles, [0.5, 0, 1, 2.5]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1, 1], "3 weights for 4 styles"),
        ([1, 1, 1, -0.5], "at least one above 0"),
        ([0, 0, 0, 0], "at least one above 0"),
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
        (None, "no model_index.json; expected a folder written by SEDMPipeline.save_pretrained"),
        ('{"_class_name": "DDPMPipeline"}', "holds a DDPMPipeline, not a SEDMPipeline"),
        ("{}", "not the index of a diffusers pipeline"),
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


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layouts": torch.zeros(4, 8, 8).byte()}, r"layouts of shape \(4, 8, 8\).*takes uint8 \(n, 16, 16\)"),
        ({"layouts": torch.zeros(16, 16, dtype=torch.uint8)}, r"layouts of shape \(16, 16\)"),
        ({"layouts": torch.zeros(4, 16, 16)}, "type torch.float32; this model takes uint8"),
        ({"layouts": torch.full((4, 16, 16), 2, dtype=torch.uint8)}, r"a layout holds 2, outside the classes 0\.\.1"),
        ({"styles": torch.zeros(3, 8)}, r"styles of shape \(3, 8\) for 4 layouts; expected \(4, 8\)"),
        ({"styles": torch.zeros(4, 9)}, r"styles of shape \(4, 9\)"),
        ({"generators": noise_generators(0, range(3))}, "3 generators for 4 layouts"),
        ({"output_type": "np"}, "output_type='np'; choose 'pil' or 'pt'"),
    ],
)
def test_input_that_does_not_fit_the_model_is_named(pipeline, layouts, styles, unchecked, change, message):
    arguments = {"layouts": layouts, "styles": styles, "generators": noise_generators(0, range(4)), "n_steps": 1}
    with pytest.raises(ValueError, match=message):
        pipeline(**(arguments | change))


def test_unknown_pixels_are_welcome_in_a_layout(pipeline, layouts, styles):
    assert sample(pipeline, torch.full_like(layouts, UNKNOWN), styles).shape == (4, 3, 16, 16)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 2, 3, 16, 16), torch.zeros(2, 3, 16, 16).byte(), torch.zeros(1, 0, 3, 16, 16).byte()],
)
def test_style_images_of_another_form_are_named(pipeline, unchecked, images):
    with pytest.raises(ValueError, match=r"style images of shape .*; expected uint8 \(batch, n, 3, h, w\)"):
        pipeline.encode_styles(images)


# ------------------------------------------------------------------------------------- synthetic tables


@pytest.fixture
def prior(patches):
    return EmpiricalPrior.fit(patches.annotated().masks, ("background", "foreground"))


@pytest.fixture
def bank(pipeline, patches):
    return StyleBank(pipeline.embed(patches.images), patches.groups, [f"train/{row}" for row in range(16)])


@pytest.fixture
def make(pipeline, prior, bank, config):
    """``generate_patches`` of the tiny things, into a folder."""

    def make(folder, **changes):
        arguments = {"pipeline": pipeline, "prior": prior, "bank": bank, "config": config.sampling, "seed": 3}
        return generate_patches(**(arguments | {"folder": folder, "progress": False} | changes))

    return make


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_a_synthetic_table_is_a_patch_table_with_its_provenance(make, pipeline, bank, tmp_path):
    table = make(tmp_path)
    check_patches(table, n_classes=2)
    assert table["index"][:] == list(range(10))
    assert len(set(table["layout_id"])) == 10
    assert set(table["model"]) == {weights_hash(pipeline)}
    group_of = dict(zip(bank.image_ids, bank.groups, strict=True))
    for row in table.remove_columns(["image", "mask"]):
        assert {group_of[image_id] for image_id in row["style_images"]} == {row["group"]}
        assert len(row["style_images"]) == len(set(row["style_images"])) == 2
        assert row["weights"] == [0.5, 0.5]
        assert (row["seed"], row["guidance_scale"], row["n_steps"]) == (3, 1.0, 2)
    assert len(set(table["group"])) > 1
    assert sorted(shards(tmp_path)) == ["shard-00000.parquet", "shard-00001.parquet"]


def test_one_image_is_made_again_alone_byte_for_byte(make, pipeline, prior, bank, config, tmp_path):
    table = make(tmp_path)
    for i in (5, 9):
        alone = generate_shard(pipeline, prior, bank, config.sampling, 3, range(i, i + 1), "m")
        assert alone["image"][0].tobytes() == table["image"][i].tobytes()
        assert alone["mask"][0].tobytes() == table["mask"][i].tobytes()
        assert alone["style_images"][0] == table["style_images"][i]


def test_every_micro_batch_is_of_full_size(make, config, pipeline, prior, bank, tmp_path, monkeypatch):
    sizes, forward = [], pipeline.denoiser.forward
    monkeypatch.setattr(pipeline.denoiser, "forward", lambda x_t, *rest: sizes.append(len(x_t)) or forward(x_t, *rest))
    make(tmp_path, config=replace(config.sampling, n_images=7, micro_batch=3))
    assert set(sizes) == {3}  # rounding depends on it, and at larger sizes so do the bytes


def test_a_row_alone_says_how_its_image_was_made(make, pipeline, prior, bank, tmp_path):
    for row in make(tmp_path).select([0, 5]):
        layout = prior.sample(1, seed=row["seed"], first=row["index"])
        assert row["mask"].tobytes() == layout[0].numpy().tobytes()
        lenders = [bank.image_ids.index(image_id) for image_id in row["style_images"]]
        style = pipeline.mix_styles(bank.embeddings[lenders], row["weights"])
        generators = noise_generators(row["seed"], [row["index"]])
        image = pipeline(layout, style[None], generators, row["n_steps"], row["guidance_scale"], "pt").images[0]
        stored = to_tensors(datasets.Dataset.from_list([row])).images[0]
        assert far(image, stored) <= LEVEL


def test_the_same_seed_gives_the_same_table_and_another_seed_another(make, tmp_path):
    make(tmp_path / "a")
    torch.manual_seed(5)
    make(tmp_path / "b")
    make(tmp_path / "c", seed=4)
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert not set(shards(tmp_path / "a").values()) & set(shards(tmp_path / "c").values())


def test_asking_for_more_images_does_not_change_the_first(make, config, tmp_path):
    table = make(tmp_path / "a")
    more = make(tmp_path / "b", config=replace(config.sampling, n_images=11))
    assert [image.tobytes() for image in more["image"]][:10] == [image.tobytes() for image in table["image"]]


def test_an_interrupted_table_is_continued_and_ends_as_an_undisturbed_one(make, tmp_path, monkeypatch):
    make(tmp_path / "whole")
    saved = []

    def stop(table, path):
        if saved:
            raise KeyboardInterrupt
        saved.append(save_patches(table, path))

    monkeypatch.setattr(sedm.generate, "save_patches", stop)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut")
    assert list(shards(tmp_path / "cut")) == ["shard-00000.parquet"]
    monkeypatch.setattr(sedm.generate, "save_patches", lambda table, path: saved.append(save_patches(table, path)))
    table = make(tmp_path / "cut")
    assert [path.name for path in saved] == ["shard-00000.parquet", "shard-00001.parquet"]  # none made twice
    assert shards(tmp_path / "cut") == shards(tmp_path / "whole")
    assert len(table) == 10


def test_a_finished_table_is_not_made_again(make, tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(sedm.generate, "generate_shard", None)
    assert len(make(tmp_path)) == 10


@pytest.mark.parametrize("setting", ["guidance_scale", "n_images", "seed", "model", "layouts", "styles", "groups"])
def test_images_of_another_configuration_are_named_and_kept_until_replaced(
    make, config, pipeline, bank, prior, patches, tmp_path, setting
):
    folder = tmp_path / "old"
    make(folder)
    before = shards(folder)
    other_model = SEDMPipeline.from_model(build_model(config.model, n_classes=2, image_size=16, seed=1).eval())
    change = {
        "guidance_scale": {"config": replace(config.sampling, guidance_scale=2.0)},
        "n_images": {"config": replace(config.sampling, n_images=9)},
        "seed": {"seed": 4},
        "model": {"pipeline": other_model},
        "layouts": {"prior": EmpiricalPrior.fit(1 - prior.masks, ("background", "foreground"))},
        "styles": {"bank": replace(bank, embeddings=bank.embeddings + 1)},
        "groups": {"bank": replace(bank, groups=["group-9", *bank.groups[1:]])},
    }[setting]
    name = setting.replace("groups", "")  # of which the message may say what it likes
    with pytest.raises(ValueError, match=f"^{folder}: holds images made with {name}"):
        make(folder, **change)
    assert shards(folder) == before
    make(folder, replace_stale=True, **change)
    make(tmp_path / "fresh", **change)
    assert shards(folder) == shards(tmp_path / "fresh")


def test_shards_of_unknown_origin_are_not_taken_for_ours(make, tmp_path):
    make(tmp_path, seed=4)
    (tmp_path / "generation.json").unlink()
    before = shards(tmp_path)
    with pytest.raises(ValueError, match=str(tmp_path)):
        make(tmp_path)
    assert shards(tmp_path) == before


def test_the_folder_says_what_its_images_were_made_with(make, config, tmp_path):
    make(tmp_path)
    facts = json.loads((tmp_path / "generation.json").read_text())
    assert facts.items() >= {**asdict(config.sampling), "seed": 3}.items()
    assert load_patches(tmp_path / "shard-00001.parquet")["index"][:] == [8, 9]


# ------------------------------------------------------------------------------------ latents and tokens


def test_a_pipeline_on_latents_decodes_them_and_survives_saving(tmp_path, layouts):
    autoencoder = build_autoencoder(AutoencoderConfig((8, 8), latent_channels=2), seed=0).eval()
    config = ModelConfig((8, 16), unshuffle=1, style_dim=8, style_channels=(8, 8))
    model = build_model(config, n_classes=2, image_size=16, seed=0, latents=latent_shape(autoencoder, 16)).eval()
    pipeline = SEDMPipeline.from_model(model, autoencoder)
    pipeline.set_progress_bar_config(disable=True)
    images = sample(pipeline, layouts, None, n_steps=1)
    noise = torch.stack([torch.randn(2, 8, 8, generator=one) for one in noise_generators(0, range(4))])
    null, last = model.denoiser.null_style.expand(4, -1), torch.full((4,), 999)
    with torch.no_grad():  # the only step ends at the network's own answer
        clean = decode_latents(autoencoder, model.denoiser(noise, last, layouts, null))
    assert far(images, to_bytes(clean)) <= LEVEL
    pipeline.save_pretrained(tmp_path)
    loaded = SEDMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert sample(loaded, layouts, None, n_steps=1).equal(images)


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
    assert styles.shape == ((4, 2, 8) if aggregation == "tokens" else (4, 8))
    first = pipeline.mix_styles(styles, [1, 0, 0, 0])
    assert first.equal(styles[0])
    images = sample(pipeline, layouts, styles, guidance_scale=2.0)
    assert sample(pipeline, layouts[:1], first[None], guidance_scale=2.0)[0].equal(images[0])
    assert far(images, sample(pipeline, layouts, styles.flip(0), guidance_scale=2.0)) > 1
