"""What the benchmarks compare with is what it claims to be: the reference's recipe around our own U-Net."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import nn

import sedm.generator.training
from benchmarks import (
    contrast,
    folders,
    laboratories,
    laboratory,
    measure,
    paper_scale,
    quality,
    reference,
    search,
    steps,
    texture,
)
from sedm.config import SamplingConfig, build_config
from sedm.data.patches import Patches
from sedm.data.study_data import load_study
from sedm.experiments.variant_runs import Material
from sedm.fidelity import SHORT_TITLES
from sedm.generator.denoiser import Denoiser
from sedm.generator.pipeline import noise_generators, sample_images
from sedm.generator.process import Diffusion
from sedm.generator.training import train_model
from sedm.segmentation.networks import UNet

SIZE, N = 16, 2


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layouts():
    return torch.zeros(N, SIZE, SIZE, dtype=torch.uint8)


@pytest.fixture
def recipe(config):
    """The recipe's U-Net at the smallest width, with a null style that differs from zero."""
    torch.manual_seed(0)
    denoiser = reference.recipe_denoiser(config.model, n_classes=2, image_size=SIZE).eval()
    nn.init.normal_(denoiser.null_style)
    return denoiser


class Omniscient:
    """Knows the image that every x_t hides, in the terms of any objective."""

    def __init__(self, objective, x_0):
        self.config, self.null_style = SimpleNamespace(model=SimpleNamespace(objective=objective)), torch.zeros(4)
        self.diffusion, self.x_0 = Diffusion(objective), x_0

    def __call__(self, x_t, t, layout, style):
        alpha, sigma = (one[t].view(-1, 1, 1, 1) for one in (self.diffusion.alphas, self.diffusion.sigmas))
        return self.diffusion.target(self.x_0, (x_t - alpha * self.x_0) / sigma, t)


# ------------------------------------------------------------------------------------------------ sampling


def test_unguided_recipe_takes_the_steps_of_diffusers(recipe, layouts):
    styles, noise, times = recipe.null_style.detach().expand(N, 1, -1), normal(N, 3, SIZE, SIZE), range(995, 0, -142)
    scheduler = DDIMScheduler(1000, 0.0015, 0.0205, "scaled_linear", clip_sample=False)
    scheduler.set_timesteps(7)  # so that it also goes back by 1000 // 7 = 142, and then to the image itself
    expected = noise
    with torch.no_grad():
        for t in times:
            answer = recipe(expected, torch.full((N,), t), layouts, styles)
            expected = scheduler.step(answer, t, expected, eta=0.0).prev_sample
    images = reference.sample_recipe(recipe, layouts, styles, noise, list(times))
    torch.testing.assert_close(images, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("objective", ["x_0", "epsilon", "v", "flow"])
def test_recipe_ends_at_the_image_when_the_network_knows_it(objective, layouts):
    x_0 = normal(N, 3, SIZE, SIZE, seed=1)
    styles, noise = torch.zeros(N, 1, 4), normal(N, 3, SIZE, SIZE)
    images = reference.sample_recipe(Omniscient(objective, x_0), layouts, styles, noise)
    torch.testing.assert_close(images, x_0, rtol=1e-3, atol=1e-3)


def test_guidance_is_that_of_diffusers_but_for_what_it_is_mixed_with():
    of_null, of_style = normal(2, N, 3, SIZE, SIZE)
    guided = of_null + 1.5 * (of_style - of_null)
    of_diffusers = rescale_noise_cfg(guided, of_style, guidance_rescale=0.7)  # mixes with the guided one
    torch.testing.assert_close(reference.guide(of_null, of_style), of_diffusers + 0.3 * (of_style - guided))


@pytest.mark.slow
def test_recipe_asks_the_network_286_times_and_ours_once_a_step(recipe, pipeline, layouts):
    calls = []
    for denoiser in (recipe, pipeline.denoiser):
        denoiser.register_forward_hook(lambda network, inputs, output: calls.append(len(inputs[0])))
    reference.sample_recipe(recipe, layouts, normal(N, 1, reference.STYLE_DIM), normal(N, 3, SIZE, SIZE))
    assert calls == [N] * 286 == [N] * reference.N_EVALUATIONS
    calls.clear()
    styles, generators = pipeline.encode_styles(torch.zeros(N, 1, 3, SIZE, SIZE, dtype=torch.uint8)), range(N)
    sampling = SamplingConfig()
    pipeline(layouts, styles, noise_generators(0, generators), sampling.n_steps, sampling.guidance_scale)
    assert calls == [N] * sampling.n_steps


@pytest.mark.parametrize("n_steps", [1, 3])
def test_steps_even_in_time_differ_from_ours_where_there_are_several(pipeline, layouts, n_steps):
    styles = pipeline.encode_styles(torch.zeros(N, 1, 3, SIZE, SIZE, dtype=torch.uint8))
    ours = sample_images(pipeline, layouts, styles, SamplingConfig(n_steps=n_steps), seed=0, progress=False)
    evenly = partial(steps.sample_evenly, n_steps=n_steps)
    difference = ours.int() - steps.sample_by(evenly, pipeline, layouts, styles, micro_batch=2, seed=0).int()
    assert (difference.abs().max() <= 1) == (n_steps == 1)  # by rounding, in batches of other sizes


# ---------------------------------------------------------------------------------- network and training


def test_both_unets_differ_only_where_the_style_enters(config, recipe):
    ours = Denoiser(config.model, n_classes=2, image_size=SIZE)
    shapes = [{name: tuple(one.shape) for name, one in unet.state_dict().items()} for unet in (recipe.unet, ours.unet)]
    differing = {name.split(".")[0] for name, _ in shapes[0].items() ^ shapes[1].items()}
    assert differing == {"style_film", "style_block"}


def test_loss_of_a_network_that_answers_nothing_is_the_mean_size_of_noise(layouts):
    def answers_nothing(x_t, t, layout, style):
        return torch.zeros_like(x_t)

    answers_nothing.null_style = torch.zeros(4)
    torch.manual_seed(0)
    images, layouts = normal(64, 3, SIZE, SIZE), torch.zeros(64, SIZE, SIZE, dtype=torch.uint8)
    loss = reference.recipe_loss(answers_nothing, images, layouts, torch.zeros(64, 1, 4))
    assert loss.item() == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)


def test_a_quarter_of_the_styles_is_dropped():
    seen = []

    def notes_styles(x_t, t, layout, style):
        seen.append(style)
        return x_t

    notes_styles.null_style, n = torch.zeros(1), 4096
    torch.manual_seed(0)
    reference.recipe_loss(notes_styles, torch.zeros(n, 1, 1, 1), torch.zeros(n, 1, 1), torch.ones(n, 1, 1))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.slow
def test_swin_gives_512_numbers_that_depend_on_the_image_and_never_learns():
    torch.manual_seed(0)
    encoder = reference.SwinEncoder(image_size=64)
    styles = encoder(normal(2, 3, SIZE, SIZE))
    assert styles.shape == (2, 1, 512)
    assert (styles[0] - styles[1]).abs().max() > 1e-4
    assert not styles.requires_grad
    assert [one for one in encoder.parameters() if one.requires_grad] == []
    assert 27e6 < sum(one.numel() for one in encoder.parameters()) < 29e6  # Swin-V2-T has 28 million


# ----------------------------------------------------------------------------------------------- measuring


def test_tasks_run_in_turns():
    order = []
    seconds = measure.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3  # once to warm up
    assert {name: len(one) for name, one in seconds.items()} == {"a": 2, "b": 2}


def test_arithmetic_of_a_convolution_is_counted_there_and_back():
    convolution, images = nn.Conv2d(4, 8, 3, padding=1), torch.zeros(2, 4, 16, 16, requires_grad=True)
    forward = 2 * 4 * 8 * 9 * 16 * 16 * 2  # a product and a sum for each weight at each pixel of two images
    assert measure.count_operations(lambda: convolution(images)) == forward
    assert measure.count_operations(lambda: convolution(images).sum().backward()) == 3 * forward


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the process's own memory")
def test_peak_memory_is_what_was_needed_for_a_moment():
    """In a fresh process, as in the benchmark: one that has freed much before need not ask for more."""
    code = "import torch; from tests.benchmarks.measure import peak_memory; peak_memory(lambda: torch.ones(2**20)); "
    code += "print(peak_memory(lambda: torch.ones(2**24).sum()))"  # 64 MiB
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert 60 < float(answer.stdout) < 80


def test_results_name_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "FOLDER", tmp_path)
    saved = json.loads(measure.save_results("toy", {"ratio": 1 / 3}).read_text())
    assert saved["results"] == {"ratio": 0.3333}
    assert {"cpu", "cores", "threads", "memory_gib", "bfloat16", "versions", "commit"} <= saved["machine"].keys()


# ------------------------------------------------------------------------------------------------ quality


def test_slices_lead_to_the_weights_of_an_undisturbed_training(config, patches, tmp_path, monkeypatch):
    config = replace(config, training=replace(config.training, n_steps=3, checkpoint_every=1))
    measured = {"measures": dict.fromkeys(SHORT_TITLES, 0.5), "floors": {}}
    monkeypatch.setattr(quality, "measure_generator", lambda *_: measured)
    material = Material(patches, set(), None, "", "validation")
    for _ in range(3):
        quality.train_slice(config, material, tmp_path / "slices")
    curve = json.loads((tmp_path / "slices" / "curve.json").read_text())
    assert [point["n_steps"] for point in curve] == [1, 2, 3]
    assert [point["core_seconds"] for point in curve] == sorted(point["core_seconds"] for point in curve)
    sliced, whole = (
        train_model(config, patches, tmp_path / name, (), progress=False).state_dict() for name in ("slices", "whole")
    )
    assert all(sliced[name].equal(weights) for name, weights in whole.items())


def test_a_curve_that_never_gets_there_is_infinitely_slow():
    final = {"kernel_distance": 0.1, "layout_iou": 0.9, "retrieval_top1": 0.5}
    curve = [{"core_seconds": 9, **final, "layout_iou": 0.89}]
    assert quality.first_reached(curve, final) == math.inf
    assert quality.first_reached([*curve, {"core_seconds": 12, **final}], final) == 12


# ------------------------------------------------------------------------------------------------ texture alone


def test_only_texture_is_left_to_tell_equalised_images_apart():
    train = load_study(build_config("tissue", "smoke")).train
    moments = texture.class_moments(train)
    equal = texture.equalise_colours(train, moments)
    assert (equal.images != train.images).any(1).float().mean() > 0.9
    n_seen = 0
    for image, mask in zip(equal.images.double(), equal.masks, strict=True):
        for k, (mean, covariance) in enumerate(moments):
            pixels = image[:, mask == k]
            if pixels.shape[1] >= texture.SMALLEST:
                torch.testing.assert_close(pixels.mean(dim=1), mean, rtol=0, atol=0.5)
                deviation = covariance.diagonal().sqrt()
                torch.testing.assert_close(pixels.std(dim=1), deviation, rtol=0, atol=1.0)
                n_seen += 1
    assert n_seen > 2 * len(train)


# ------------------------------------------------------------------------------------------------ the search


@pytest.fixture
def by_class(config, patches):
    """The smallest configuration with styles by class, as the search's baseline has."""
    smoke = build_config("tissue", "smoke")
    return replace(config, model=replace(smoke.model, channels=(8, 16)), training=replace(smoke.training, n_steps=6))


def test_the_search_begins_at_what_the_package_trains(by_class, patches, tmp_path):
    annotated = patches.annotated()
    model, seconds = search.train(by_class, annotated, search.CHANGES["baseline"])
    expected = train_model(by_class, annotated, tmp_path, {"nobody"}, progress=False)
    assert len(seconds) == 6
    for found, weights in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, weights, rtol=0, atol=0)


AVERAGES = {"shorter_average", "longer_average"}  # are the same until an average is as long as the shorter


@pytest.mark.parametrize("name", sorted(set(search.CHANGES) - {"baseline"} - AVERAGES))
def test_every_change_of_the_search_changes_what_is_trained(name, by_class, patches):
    change = search.CHANGES[name]
    settings = {section: dict(values) for section, values in change.settings.items()}
    if "channels" in settings.get("model", {}):
        settings["model"]["channels"] = (8, 16)  # small
    changed = search.changed_config(by_class, replace(change, settings=settings), seed=0)
    usual, _ = search.train(by_class, patches, search.CHANGES["baseline"])
    model, _ = search.train(changed, patches, change, UNet(patches.n_classes, (8, 16)))
    pairs = list(zip(model.parameters(), usual.parameters(), strict=False))
    assert all(weights.isfinite().all() for weights, _ in pairs)
    assert any(found.shape != weights.shape or not torch.equal(found, weights) for found, weights in pairs)


# ------------------------------------------------------------------------------------------------ another laboratory


def test_the_class_contrast_of_another_laboratory_is_summarised_over_images():
    masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    masks[:, :, 8:] = 1
    images = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    images[0, 0, :, 8:] = 120
    images[1, 0, :, 8:] = 140
    summary = laboratory.contrast_of(Patches(images, masks, ["a", "b"], classes=("stroma", "gland")))
    assert summary["mean"] == [30, 0, 0]
    assert summary["sd"] == pytest.approx([200**0.5, 0, 0])


def test_the_folders_of_the_benchmark_hold_what_it_says(tmp_path):
    folders.make_folder(tmp_path, n_files=40)
    table = folders.translate(tmp_path)
    patches = Patches.from_table(table, ("ground", "disc"))
    assert patches.images.shape == (40, 3, 64, 64)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for name, mask in zip(table["file_name"], patches.masks, strict=True):
        radius = int(Path(name).stem) % 30
        assert mask.equal(((x - 32) ** 2 + (y - 32) ** 2 < radius**2).byte())
    folders.check_files(tmp_path)
    (tmp_path / "masks" / "case-0" / "7.png").write_bytes(b"")
    with pytest.raises(AssertionError):
        folders.check_files(tmp_path)


# ------------------------------------------------------------------------------------------------ planted contrast


def test_classes_are_made_paler_by_the_factors_asked_for():
    images = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[:, 4:] = 1
    changed = contrast.change_classes(Patches(images, masks, ["a"], ("rest", "gland")), -0.5, 0.2).images
    for row, by in ((0, 0.2), (7, -0.5)):
        assert changed[0, 0, row, 0].item() == round(255 * (128 / 255) ** math.exp(by))


def test_what_is_drawn_is_compared_with_the_changed_images(config, monkeypatch):
    data = load_study(build_config("tissue", "smoke")).validation
    masks = data.masks.clamp(max=1)
    lenders = Patches(data.images, masks, data.groups, ("rest", "gland"))
    pipeline = SimpleNamespace(encode_styles=lambda images: torch.zeros(len(images), 3, 8))
    order = torch.randperm(len(lenders), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(contrast, "sample_images", lambda *_, **__: lenders.images[order])  # as a copy would be
    found = contrast.follow(pipeline, lenders, config)
    assert found["distance"]["drawn"] == pytest.approx(0, abs=1e-4)
    assert found["distance"]["painted"] == pytest.approx(math.dist(found["contrast"]["real"], (0, 0, 0)))


# ------------------------------------------------------------------------------------------------ laboratories


def test_runs_of_both_halves_become_values_and_figures(tmp_path, monkeypatch, capsys):
    for fold, tested in (("one", "ab"), ("two", "cd")):
        (tmp_path / fold).mkdir()
        for arm, iou in (("colour_augmentation", 0.6), ("sedm_augmented", 0.7)):
            for draw in (0, 1):
                splits = {"test": list(tested), "validation": ["v"], "source": ["s"]}
                scores = {
                    split: {what: {name: iou + 0.01 * draw for name in names} for what in ("iou", "dice")}
                    for split, names in splits.items()
                }
                facts = {"arm": arm, "n_annotated": 8, "draw": draw, "seed": 0, "data": fold, "scores": scores}
                facts |= {"n_real": 60, "n_synthetic": 0}
                path = tmp_path / fold / f"values_{arm}-n8-draw{draw}-seed0.json"
                path.write_text(json.dumps({"values": facts, "run": {"commit": "abc", "seconds": 1.0}}))
    monkeypatch.setattr(laboratories, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "A8", "--annotated", "8", str(tmp_path / "one"), str(tmp_path / "two")])
    laboratories.main()
    stored = json.loads((tmp_path / "values_A8.json").read_text())
    assert stored["values"]["method"] == "sedm_augmented"
    assert stored["values"]["control"] == "colour_augmentation"
    assert stored["values"]["arms"]["sedm_augmented"]["mean_difference"] == pytest.approx(0.1)
    assert {len(runs) for runs in stored["values"]["folds"].values()} == {4}
    assert set(stored["run"]["figures"]) == {"fig_A8.png", "fig_A8_groups.png"}
    assert "`sedm_augmented`" in capsys.readouterr().out


def test_operations_counted_on_shapes_are_those_of_a_real_step():
    config = build_config("tissue", "smoke")
    counted = paper_scale.operations_an_image(config)
    network, images = UNet(3, config.segmentation.channels), torch.rand(1, 3, 32, 32)
    assert counted["segmentation"] == measure.count_operations(lambda: network(images).sum().backward()) > 0
    assert counted["generator"] > counted["autoencoder"] > 0


def test_a_training_of_the_paper_s_size_is_stopped_and_taken_up_again(tmp_path):
    watch = paper_scale.Stopwatch()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("save_sample_sheet", "training_batch"):  # the stage replaces them, in a process of its own
            patch.setattr(f"sedm.generator.training.{name}", getattr(sedm.generator.training, name))
        found = paper_scale.train_on_latents(paper_scale.configuration("smoke", 3), tmp_path, watch)
    assert found["is_resumed"]
    assert len(watch.times) == 3  # no step was made twice
    assert (tmp_path / "model" / "model_index.json").is_file()
