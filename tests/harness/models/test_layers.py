"""Layers that have a second form for some device compute the same in it."""

import pytest
import torch
from torch.nn import functional as F

from harness.models.layers import twice_repeatable


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
