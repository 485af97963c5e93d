"""Expected colours of classes against regression, brute force, and what a planted covariance asks for."""

import numpy as np
import pytest
import torch
from torch import nn

from sedm.config import ModelConfig
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.generator.denoiser import Denoiser, build_model, one_hot_layout
from sedm.generator.paint import MEMORY, ColourDeviations, paint
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.process import Diffusion
from sedm.generator.training import count_deviations
from sedm.styles.sampling import StyleSampler

BY_CLASS = ModelConfig((8, 16), style_dim=16, style_channels=(8,), aggregation="by_class", style_injection="class_film")


def planted(n, size=16, seed=0):
    """Images of two classes whose six colours deviate from 0 with a planted covariance, and their layouts."""
    rng = np.random.default_rng(seed)
    root = rng.normal(0, 0.1, (6, 6))
    covariance = root @ root.T
    deviations = rng.multivariate_normal(np.zeros(6), covariance, n)
    layout = torch.zeros(n, size, size, dtype=torch.uint8)
    for i, rows in enumerate(rng.integers(3, size - 3, n)):
        layout[i, :rows] = 1
    shares = one_hot_layout(layout, 2)
    colours = torch.tensor(deviations, dtype=torch.float32).unflatten(1, (2, 3))
    colours = torch.cat([colours, torch.zeros(n, 1, 3)], dim=1)
    return paint(shares, colours), shares, torch.tensor(covariance, dtype=torch.float32), deviations


def counted(x_0, shares, batch=50):
    deviations = ColourDeviations(3)
    for rows in torch.arange(len(x_0)).split(batch):
        deviations.observe(
            x_0[rows], shares[rows], torch.zeros(len(rows), 3, 3), torch.ones(len(rows), dtype=torch.bool)
        )
    return deviations


def test_the_covariance_that_is_counted_is_the_planted_one():
    x_0, shares, covariance, _ = planted(4000)
    found = counted(x_0, shares).covariance()
    assert torch.allclose(found[:6, :6], covariance, atol=0.1 * float(covariance.diagonal().max()))
    assert (found[6:] == 0).all()  # no pixel that nobody knows was there
    assert torch.linalg.eigvalsh(found).min() > -1e-6


@pytest.mark.parametrize("t", [5, 400, 800, 950, 999])
def test_expected_deviations_are_those_of_a_regression_on_many_images(t):
    """The best linear prediction of the true colours from the means of x_t, fitted by least squares, is as good."""
    x_0, shares, _, truth = planted(3000, seed=1)
    diffusion = Diffusion("x_0")
    times = torch.full((len(x_0),), t)
    x_t = diffusion.add_noise(x_0, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)), times)
    alpha, sigma = diffusion.alphas[times], diffusion.sigmas[times]
    found = counted(x_0, shares)(x_t, alpha, sigma, shares, torch.zeros(len(x_0), 3, 3))[:, :2].flatten(1).numpy()
    n_pixels = shares.flatten(2).sum(2)[:, :2]
    means = ((shares[:, :2].flatten(2) @ x_t.flatten(2).mT) / n_pixels[..., None]).flatten(1).numpy()
    half = len(means) // 2  # classes' sizes differ between images: regression knows an average of them
    fitted = means @ np.linalg.lstsq(means[:half], truth[:half], rcond=None)[0]
    error, of_regression = (float(((one - truth)[half:] ** 2).mean()) for one in (found, fitted))
    assert error <= 1.02 * of_regression
    assert error < 1.02 * float((truth[half:] ** 2).mean())
    if t == 5:
        assert error < 0.02 * float((truth[half:] ** 2).mean())  # little noise: the mean tells the colour


def test_expected_deviations_are_the_posterior_mean_written_out():
    x_0, shares, _, _ = planted(6, seed=2)
    deviations = counted(*planted(500, seed=2)[:2])
    style = torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(3)) * 0.1
    alpha, sigma = torch.full((6,), 0.6), torch.full((6,), 0.8)
    x_t = alpha.view(-1, 1, 1, 1) * x_0 + 0.8 * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(4))
    found = deviations(x_t, alpha, sigma, shares, style)
    p = deviations.covariance()[:6, :6].double()
    for i in range(6):
        seen, noise = [], []
        for k in range(2):
            pixels = x_t[i][:, shares[i, k] > 0]
            seen.append(pixels.mean(1) / 0.6 - style[i, k])
            noise += [(0.8 / 0.6) ** 2 / pixels.shape[1]] * 3
        expected = p @ torch.linalg.inv(p + torch.diag(torch.tensor(noise).double())) @ torch.cat(seen).double()
        assert torch.allclose(found[i, :2].flatten().double(), expected, atol=1e-5)
        assert (found[i, 2] == 0).all()


def test_a_class_that_is_not_there_takes_what_the_others_tell_and_tells_nothing():
    x_0, shares, _, _ = planted(500, seed=5)
    deviations = counted(x_0, shares)
    only = one_hot_layout(torch.zeros(1, 16, 16, dtype=torch.uint8), 2)
    image = torch.full((1, 3, 16, 16), 0.1)
    found = deviations(image, torch.ones(1), torch.full((1,), 1e-2), only, torch.zeros(1, 3, 3))[0]
    assert found.isfinite().all()
    assert torch.allclose(found[0], torch.full((3,), 0.1), atol=5e-3)
    p = deviations.covariance()
    assert torch.allclose(found[1], p[3:6, :3] @ torch.linalg.solve(p[:3, :3], torch.full((3,), 0.1)), atol=2e-2)


def test_nothing_was_counted_nothing_moves_and_old_deviations_are_forgotten():
    x_0, shares, _, _ = planted(8)
    deviations = ColourDeviations(3)
    arguments = torch.full((8,), 0.7), torch.full((8,), 0.7), shares, torch.zeros(8, 3, 3)
    assert (deviations(x_0, *arguments) == 0).all()
    deviations.observe(x_0, shares, torch.zeros(8, 3, 3), torch.zeros(8, dtype=torch.bool))  # none counts
    assert (deviations.covariance() == 0).all()
    everyone = torch.ones(8, dtype=torch.bool)
    deviations.observe(x_0, shares, torch.zeros(8, 3, 3), everyone)
    before = deviations.products.clone()
    deviations.observe(torch.zeros_like(x_0), shares, torch.zeros(8, 3, 3), everyone)
    assert torch.allclose(deviations.products, MEMORY * before)


def test_deviations_are_counted_in_full_precision():
    """In bfloat16, as training computes on most GPUs, a small deviation of a bright image would be rounded away."""
    denoiser = Denoiser(BY_CLASS, n_classes=2, image_size=16)
    x_0, layout = torch.full((4, 3, 16, 16), 0.9), torch.zeros(4, 16, 16, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        denoiser.observe(x_0, layout, torch.full((4, 3, 16), 0.899), torch.ones(4, dtype=torch.bool))
    assert torch.allclose(denoiser.deviations.covariance()[:3, :3], torch.full((3, 3), 1e-6), rtol=1e-2)


def test_training_counts_deviations_and_sampling_does_not():
    model = build_model(BY_CLASS, n_classes=2, image_size=16, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(4, 3, 16, 16, generator=generator) * 2 - 1
    layout = torch.randint(2, (4, 16, 16), generator=generator, dtype=torch.uint8)
    layout[:, :4] = UNKNOWN
    styles, dropped = torch.rand(4, 2, 3, 16, 16, generator=generator), torch.tensor([False, False, False, True])
    arguments = x_0, torch.full((4,), 500), layout, styles, dropped
    model(*arguments)
    assert (model.denoiser.deviations.counts == 0).all()
    model(*arguments, x_0=x_0)
    assert (model.denoiser.deviations.counts == 3).all()  # the dropped style is none that the image should have


def test_the_answer_starts_from_the_colours_that_are_to_be_expected():
    """Of a U-Net that answers nothing: in pure noise the paint is the style's, in a clean image that of the image."""
    denoiser = Denoiser(BY_CLASS, n_classes=2, image_size=16).eval()
    nn.init.zeros_(denoiser.unet.out.weight)
    nn.init.zeros_(denoiser.unet.out.bias)
    x_0, shares, _, _ = planted(400, seed=6)
    layout, style = shares[:, :2].argmax(1).to(torch.uint8), torch.full((400, 3, 16), 0.05)
    for rows in torch.arange(400).split(40):
        denoiser.observe(x_0[rows], layout[rows], style[rows], torch.ones(40, dtype=torch.bool))
    with torch.no_grad():
        early, late = (denoiser(x_0[:4], torch.full((4,), t), layout[:4], style[:4]) for t in (999, 1))
    assert (early - 0.05).abs().max() < 1e-3
    assert (late - x_0[:4]).abs().max() < 1e-2


def test_a_saved_model_keeps_what_it_counted_and_an_earlier_one_counted_nothing(tmp_path):
    model = build_model(BY_CLASS, n_classes=2, image_size=16, seed=0)
    x_0, shares, _, _ = planted(8)
    layout = shares[:, :2].argmax(1).to(torch.uint8)
    model.denoiser.observe(x_0, layout, torch.zeros(8, 3, 16), torch.ones(8, dtype=torch.bool))
    SEDMPipeline.from_model(model).save_pretrained(tmp_path / "new")
    opened = SEDMPipeline.from_pretrained(tmp_path / "new").denoiser
    assert (opened.deviations.products == model.denoiser.deviations.products).all()
    del model.denoiser.deviations.products, model.denoiser.deviations.counts
    SEDMPipeline.from_model(model).save_pretrained(tmp_path / "earlier")
    earlier = SEDMPipeline.from_pretrained(tmp_path / "earlier").denoiser
    assert (earlier.deviations.products == 0).all()
    assert (earlier.deviations.counts == 0).all()


def test_with_the_error_of_its_lenders_a_drawn_image_differs_as_real_ones_do():
    """Flat images whose colours differ by a known deviation within groups, and an encoder that reads colours."""
    n_lenders, sd, generator = 4, 0.1, torch.Generator().manual_seed(0)
    groups = [f"{i // 30:02d}" for i in range(900)]
    of_groups = torch.randn(30, 1, 3, generator=generator).repeat(1, 30, 1).flatten(0, 1) / 5
    colours = of_groups + sd * torch.randn(900, 3, generator=generator)
    images = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)[..., None, None].expand(-1, -1, 8, 8)
    patches = Patches(images.contiguous(), torch.zeros(900, 8, 8, dtype=torch.uint8), groups, ("all",))

    class Reader(nn.Module):
        def forward(self, style_images):
            token = torch.zeros(len(style_images), 2, 16)
            token[..., :3] = style_images.mean(dim=(1, 3, 4))[:, None]
            return token

    model = build_model(BY_CLASS, n_classes=1, image_size=8, seed=0)
    model.style_encoder = Reader()
    for _ in range(2):  # what was counted before does not matter
        count_deviations(model, patches, StyleSampler(patches, "multi", n_lenders), seed=0)
    drawn = model.denoiser.deviations.covariance().diagonal()[:3]
    torch.testing.assert_close(drawn + sd**2 / n_lenders, torch.full((3,), sd**2), rtol=0.1, atol=0)
