"""Muon against a singular value decomposition, against torch's own, and against AdamW where it is AdamW."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from sedm.runtime.muon import COEFFICIENTS, N_ITERATIONS, Muon, orthogonal_factor


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 16), (16, 100), (100, 16), (64, 65)])
def test_the_factor_keeps_singular_vectors_and_evens_out_singular_values(shape):
    """Each value goes through the same scalar polynomial, in float64."""
    matrix = draw(*shape)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / (values.square().sum().sqrt() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(N_ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    assert_close(orthogonal_factor(matrix), (left * values @ right).float(), rtol=0, atol=1e-3)
    assert torch.linalg.svdvals(orthogonal_factor(draw(16, 100))).min() > 0.6
    assert torch.linalg.svdvals(orthogonal_factor(draw(16, 100))).max() < 1.3


def test_the_factor_does_not_know_how_large_a_gradient_is():
    matrix = draw(20, 40)
    assert_close(orthogonal_factor(1e-4 * matrix), orthogonal_factor(1e4 * matrix), rtol=0, atol=1e-3)
    assert orthogonal_factor(torch.zeros(20, 40)).isfinite().all()


def train(network, optimizer, n_steps=5):
    for step in range(n_steps):
        optimizer.zero_grad()
        (
            network(draw(4, *([16] if isinstance(network[0], nn.Linear) else [16, 6, 6]), seed=step)) ** 2
        ).mean().backward()
        optimizer.step()
    return network


def test_matrices_take_the_steps_of_the_muon_of_torch():
    """That one computes the factor in bfloat16, hence the tolerance: a tenth of what the weights move."""
    ours = nn.Sequential(nn.Linear(16, 64, bias=False))
    theirs, start = copy.deepcopy(ours), ours[0].weight.detach().clone()
    train(ours, Muon(ours, lr=0.01, weight_decay=0.1))
    options = {"momentum": 0.95, "nesterov": True, "adjust_lr_fn": "match_rms_adamw"}
    train(theirs, torch.optim.Muon(theirs.parameters(), lr=0.01, weight_decay=0.1, **options))
    moved = (theirs[0].weight - start).norm()
    assert (ours[0].weight - theirs[0].weight).norm() < 0.1 * moved


def test_a_kernel_takes_the_step_of_the_matrix_it_flattens_to():
    kernel = nn.Sequential(nn.Conv2d(16, 32, 3, bias=False))
    matrix = nn.Sequential(nn.Unfold(3), nn.Flatten(), nn.Linear(16 * 9, 32, bias=False))
    matrix[2].weight.data = kernel[0].weight.detach().flatten(1).clone()
    images = draw(4, 16, 3, 3)
    for network in (kernel, matrix):
        optimizer = Muon(network, lr=0.01)
        network(images).flatten(1).square().mean().backward()
        optimizer.step()
    assert_close(kernel[0].weight.flatten(1), matrix[2].weight, rtol=0, atol=1e-5)


def test_everything_that_is_no_matrix_is_trained_by_adamw():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = nn.Sequential(nn.Conv2d(16, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1))  # short sides
    theirs = copy.deepcopy(ours)
    train(ours, Muon(ours, lr=0.01))
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.01))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.equal(other)


def test_frozen_layers_stay_and_a_saved_state_goes_on_as_if_nothing_had_happened(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
    network[2].requires_grad_(False)
    frozen, other = network[2].weight.clone(), copy.deepcopy(network)
    train(network, Muon(network, lr=0.01), n_steps=3)
    optimizer = Muon(network, lr=0.01)
    train(other, first := Muon(other, lr=0.01), n_steps=3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(other, first, n_steps=2)
    train(network, optimizer, n_steps=2)
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert one.equal(same)
    assert network[2].weight.equal(frozen)
