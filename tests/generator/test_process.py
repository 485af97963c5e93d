"""Schedules, targets and weights agree with the papers' formulas and with diffusers' own schedulers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from sedm.config import OBJECTIVES
from sedm.generator.process import Diffusion


def cosine_alphas(n_steps=1000):
    """ᾱ_t of Nichol & Dhariwal 2021, equation 17, with β at most 0.999."""
    f = [math.cos((t / n_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(n_steps + 1)]
    betas = [min(1 - after / before, 0.999) for before, after in pairwise(f)]
    return torch.tensor(np.cumprod(1 - np.array(betas)))


def draw(n, shape=(1, 1, 1), seed=0):
    return torch.randn(2, n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_cosine_schedule_is_that_of_the_paper():
    diffusion = Diffusion("x_0")
    assert_close(diffusion.alphas.double() ** 2, cosine_alphas(), rtol=1e-3, atol=1e-7)
    assert_close(diffusion.alphas**2 + diffusion.sigmas**2, torch.ones(1000))


def test_the_last_step_of_v_is_pure_noise_and_the_reference_s_is_not():
    assert Diffusion("v").alphas[-1] == 0
    assert Diffusion("epsilon").alphas[-1] > 0.005
    betas = torch.linspace(0.0015**0.5, 0.0205**0.5, 1000, dtype=torch.float64) ** 2
    assert_close(Diffusion("epsilon").alphas.double() ** 2, torch.cumprod(1 - betas, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", ["x_0", "epsilon", "v"])
def test_noise_and_target_are_those_of_diffusers(objective):
    diffusion, t = Diffusion(objective), torch.arange(0, 999, 37)
    x_0, noise = draw(len(t), (3, 2, 2)).float()
    theirs = DDPMScheduler.from_config(diffusion.solver().config)
    assert_close(diffusion.add_noise(x_0, noise, t), theirs.add_noise(x_0, noise, t), rtol=1e-3, atol=1e-4)
    if objective == "v":
        assert_close(diffusion.target(x_0, noise, t), theirs.get_velocity(x_0, noise, t), rtol=1e-3, atol=1e-4)


def test_the_flow_is_a_straight_line_and_its_target_the_direction():
    diffusion, t = Diffusion("flow"), torch.tensor([100, 600])
    x_0, noise = draw(2)
    step = diffusion.add_noise(x_0, noise, t + 100) - diffusion.add_noise(x_0, noise, t)
    assert_close(step / 0.1, diffusion.target(x_0, noise, t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_answer_and_the_clean_image_are_two_ways_to_say_the_same(objective):
    diffusion, t = Diffusion(objective), torch.arange(0, 990, 33)
    x_0, noise = draw(len(t))
    x_t = diffusion.add_noise(x_0, noise, t)
    assert_close(diffusion.to_x_0(diffusion.target(x_0, noise, t), x_t, t), x_0, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", ["x_0", "v", "flow"])
def test_the_weighted_error_is_the_same_error_of_the_clean_image_for_three_objectives(objective):
    diffusion, t = Diffusion(objective), torch.arange(20, 1000, 37)
    x_0, noise = draw(len(t))
    error = 0.01 * draw(len(t), seed=1)[0]
    x_t, target = diffusion.add_noise(x_0, noise, t), diffusion.target(x_0, noise, t)
    guessed = diffusion.to_x_0(target + error, x_t, t)
    sigma = diffusion.sigmas[t].double()
    of_x_0 = (1 / sigma**2).clamp(max=5) * ((guessed - x_0) ** 2).flatten()
    assert_close(diffusion.loss_weights(t, 5.0).double() * (error**2).flatten(), of_x_0, rtol=2e-2, atol=1e-7)


def test_the_weighted_error_of_x_0_is_that_of_the_velocity_where_noise_matters():
    t = torch.arange(0, 1000, 37)
    alphas_bar = cosine_alphas()[t]
    alpha, sigma = alphas_bar.sqrt(), (1 - alphas_bar).sqrt()
    x_0, noise, guess = torch.randn(3, len(t), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_t = alpha * x_0 + sigma * noise
    v, guessed_v = alpha * noise - sigma * x_0, (alpha * x_t - guess) / sigma
    weights = Diffusion("x_0").loss_weights(t, 5.0).double()
    unlimited = sigma**2 > 1 / 5
    assert_close((weights * (guess - x_0) ** 2)[unlimited], ((guessed_v - v) ** 2)[unlimited], rtol=1e-3, atol=0)
    assert weights[~unlimited].eq(5).all()
    assert 0 < unlimited.sum() < len(t)


def test_min_snr_weights_of_epsilon_are_those_of_the_paper():
    diffusion, t = Diffusion("epsilon"), torch.arange(0, 1000, 37)
    snr = (diffusion.alphas / diffusion.sigmas)[t] ** 2
    assert_close(
        diffusion.loss_weights(t, 5.0), torch.minimum(snr, torch.tensor(5.0)) / snr
    )  # Hang et al. 2023, section 3.4


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_solver_leads_from_noise_to_what_a_perfect_network_knows(objective):
    diffusion = Diffusion(objective)
    solver = diffusion.solver()
    diffusion.start(solver, 10, size=4)
    x_0, x_t = (one.float() for one in draw(2, (3, 4, 4)))
    for t in solver.timesteps:
        times = t.expand(2)
        alpha, sigma = diffusion.alphas[t], diffusion.sigmas[t]
        answer = diffusion.target(x_0, (x_t - alpha * x_0) / sigma, times)
        x_t = solver.step(answer, t, x_t).prev_sample
    assert_close(x_t, x_0, rtol=0, atol=2e-2)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_many_steps_sample_a_gaussian_with_its_own_mean_and_spread(objective):
    """The data are N(0.5, 0.2²), for which the best answer is known in closed form."""
    diffusion, (mean, sd) = Diffusion(objective), (0.5, 0.2)
    solver = diffusion.solver()
    diffusion.start(solver, 40, size=64)
    x_t = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    for t in solver.timesteps:
        alpha, sigma = diffusion.alphas[t], diffusion.sigmas[t]
        x_0 = mean + alpha * sd**2 / (alpha**2 * sd**2 + sigma**2) * (x_t - alpha * mean)
        answer = diffusion.target(x_0, (x_t - alpha * x_0) / sigma, t.expand(4))
        x_t = solver.step(answer, t, x_t).prev_sample
    assert abs(x_t.mean() - mean) < 0.02
    assert abs(x_t.std() - sd) < 0.02


@pytest.mark.parametrize("n_steps", [1, 2, 8, 50, 300])
@pytest.mark.parametrize("objective", ["x_0", "v"])
def test_the_times_of_the_steps_fall_from_pure_noise_without_a_repeat(objective, n_steps):
    diffusion = Diffusion(objective)
    solver = diffusion.solver()
    diffusion.start(solver, n_steps, size=64)
    times = solver.timesteps.tolist()
    assert times[0] == 999
    assert sorted(set(times), reverse=True) == times
    assert len(times) == n_steps
    assert times[-1] >= 0


@pytest.mark.parametrize("size", [32, 128, 512])
@pytest.mark.parametrize("objective", ["x_0", "v"])
def test_eight_steps_keep_the_spread_of_fine_grain_and_of_large_regions_alike(objective, size):
    """Each orthonormal component of an image is a Gaussian, whose best answer is known in closed form.

    A pixel's grain has a spread of a few hundredths; the mean colour of a region n px wide has n times its own.
    """
    diffusion = Diffusion(objective)
    solver = diffusion.solver()
    diffusion.start(solver, 8, size)
    spread = torch.logspace(math.log10(0.1), math.log10(0.16 * size), 20, dtype=torch.float64)
    x_t = torch.ones(1, 1, 1, 20, dtype=torch.float64)  # one deviation of the noise; all that follows is linear
    for t in solver.timesteps:
        alpha, sigma = diffusion.alphas[t].double(), diffusion.sigmas[t].double()
        x_0 = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * x_t
        answer = diffusion.target(x_0, (x_t - alpha * x_0) / sigma, t[None])
        x_t = solver.step(answer, t, x_t).prev_sample
    kept = x_t.flatten() / spread
    assert kept.min() > 0.85
    assert kept.max() < 1.15


@pytest.mark.parametrize("n_steps", [0, 1001])
def test_more_steps_than_times_are_refused(n_steps):
    with pytest.raises(ValueError, match=f"n_steps={n_steps}; a solver takes 1 to 1000 steps"):
        Diffusion("x_0").start(Diffusion("x_0").solver(), n_steps, size=64)


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="objective='noise'; choose one of x_0, epsilon, v, flow"):
        Diffusion("noise")
