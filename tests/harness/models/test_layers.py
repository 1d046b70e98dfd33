"""Layers that have a second form for some device compute the same in it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.models.layers import ShuffleUpsample, _conv_and_shuffle, twice_repeatable


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 7)])
def test_repeatable_enlargement_equals_bilinear_interpolation(size):
    x = torch.rand(2, 3, *size, dtype=torch.float32, requires_grad=True)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    given = twice_repeatable(x)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)
    weights = torch.rand_like(expected)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), x)
    (gradient,) = torch.autograd.grad((given * weights).sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_the_shuffle_by_whole_pixels_equals_torchs(bias):
    torch.manual_seed(0)
    upsample = ShuffleUpsample(6, nn.Identity()).to(memory_format=torch.channels_last)
    if not bias:
        upsample.conv.bias = None
    x = torch.randn(2, 6, 5, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    expected, given = upsample(x), _conv_and_shuffle(upsample.conv, x)
    assert given.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)
    weights = torch.rand_like(expected)
    inputs = [x, *upsample.parameters()]
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((given * weights).sum(), inputs), wanted, rtol=1e-5, atol=1e-5)
