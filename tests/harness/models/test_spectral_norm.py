"""Spectral norm against torch's own and against the singular values."""

import copy

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from harness.models.spectral_norm import SpectralNorm, with_spectral_norm


def pair():
    """Our layer and torch's, of the same weight and at the same estimate."""
    torch.manual_seed(0)
    ours = nn.Conv2d(3, 5, 3)
    theirs = spectral_norm(copy.deepcopy(ours))
    with_spectral_norm(ours)
    estimate, other = ours.parametrizations.weight[0], theirs.parametrizations.weight[0]
    estimate.left.copy_(other._u)
    estimate.right.copy_(other._v)
    return ours, theirs


def test_weights_and_gradients_equal_torchs():
    ours, theirs = pair()
    image = torch.rand(2, 3, 8, 8)
    for layer in (ours, theirs):
        (layer(image).square().sum() + layer(image).sum()).backward()  # two uses in one step
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(
        ours.parametrizations.weight.original.grad, theirs.parametrizations.weight.original.grad, rtol=1e-4, atol=1e-4
    )


def test_estimate_reaches_the_largest_singular_value():
    torch.manual_seed(0)
    layer = with_spectral_norm(nn.Linear(20, 10))
    for _ in range(100):
        layer(torch.rand(1, 20))
    largest = torch.linalg.svdvals(layer.parametrizations.weight.original)[0]
    torch.testing.assert_close(layer.eval().weight, layer.parametrizations.weight.original / largest)


def test_autocast_does_not_change_the_weight():
    layer = pair()[0].eval()
    with torch.autocast("cpu", torch.bfloat16):
        under = layer.weight
    assert torch.equal(under, layer.weight)


def test_evaluation_leaves_the_estimate_alone_and_training_refines_it():
    layer = pair()[0]
    before = layer.parametrizations.weight[0].left.clone()
    layer.eval()(torch.rand(1, 3, 8, 8))
    assert torch.equal(layer.parametrizations.weight[0].left, before)
    with torch.no_grad():
        layer.parametrizations.weight.original.normal_()
    layer.train()(torch.rand(1, 3, 8, 8))
    assert not torch.equal(layer.parametrizations.weight[0].left, before)


def test_estimate_is_part_of_the_state():
    layer = pair()[0]
    other = with_spectral_norm(nn.Conv2d(3, 5, 3))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval().weight, layer.eval().weight)


def test_building_needs_no_numbers(monkeypatch):
    """Parameters are counted on the device `meta`, which has no autocast."""
    monkeypatch.setattr(SpectralNorm, "forward", lambda *_: 1 / 0)
    layer = with_spectral_norm(nn.Linear(20, 10))
    assert layer.parametrizations.weight[0].left.norm() > 0


def test_the_first_use_divides_by_nearly_the_largest_singular_value():
    """Two random vectors would give an estimate near zero, and weights that are far too large."""
    torch.manual_seed(0)
    weight = torch.randn(16, 8, 3, 3)
    normalized = SpectralNorm(weight).eval()(weight)
    assert 1 <= torch.linalg.matrix_norm(normalized.flatten(1), 2) < 1.05
