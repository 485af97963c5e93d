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
    """Steps on pictures of 6 × 6 px, whose pixels are the rows of a linear layer."""
    for step in range(n_steps):
        optimizer.zero_grad()
        pictures = draw(4, 16, 6, 6, seed=step)
        inputs = pictures.permute(0, 2, 3, 1) if isinstance(network[0], nn.Linear) else pictures
        network(inputs).square().mean().backward()
        optimizer.step()
    return network


def test_kernels_take_the_steps_that_the_muon_of_torch_takes_for_a_matrix():
    """That one computes the factor in bfloat16, hence the tolerance: a tenth of what the weights move."""
    ours, theirs = (nn.Sequential(layer) for layer in (nn.Conv2d(16, 64, 1, bias=False), nn.Linear(16, 64, bias=False)))
    theirs[0].weight.data = ours[0].weight.detach().flatten(1).clone()
    start = theirs[0].weight.detach().clone()
    train(ours, Muon(ours, lr=0.01, weight_decay=0.1))
    options = {"momentum": 0.95, "nesterov": True, "adjust_lr_fn": "match_rms_adamw"}
    train(theirs, torch.optim.Muon(theirs.parameters(), lr=0.01, weight_decay=0.1, **options))
    moved = (theirs[0].weight - start).norm()
    assert (ours[0].weight.flatten(1) - theirs[0].weight).norm() < 0.1 * moved


def test_everything_that_is_no_matrix_is_trained_by_adamw():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = nn.Sequential(
            nn.Conv2d(16, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1), nn.Flatten(2), nn.Linear(16, 20)
        )
    theirs = copy.deepcopy(ours)
    train(ours, Muon(ours, lr=0.01))
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.01))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.equal(other)


def test_frozen_layers_stay_and_a_saved_state_goes_on_as_if_nothing_had_happened(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Tanh(), nn.Conv2d(32, 16, 3))
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
