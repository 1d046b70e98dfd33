"""The convolution with its gradient by matrix products learns what torch's learns, and only where that is quicker."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from harness.models import conv
from harness.models.conv import Conv2d


@pytest.fixture
def num_products(monkeypatch) -> Iterator[list[int]]:
    """Has a processor with AVX2 alone; holds a number for each gradient that was taken by products."""
    asked: list[int] = []

    def counted(*arguments):
        asked.append(len(asked))
        return weight_gradient(*arguments)

    weight_gradient = conv.weight_gradient
    monkeypatch.setattr(conv, "weight_gradient", counted)
    monkeypatch.setattr(conv, "_only_avx2", lambda: True)
    monkeypatch.setattr(conv, "_WIDE_ROW", 20 * 6)
    return asked


def pair(kernel: int = 3, stride: int = 1, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    """Our layer in float32 and torch's in float64, with the same weights."""
    torch.manual_seed(0)
    shape = {"kernel_size": kernel, "stride": stride, "padding": (kernel - 1) // 2, "bias": bias}
    ours, theirs = Conv2d(16, 20, **shape), nn.Conv2d(16, 20, **shape).double()
    theirs.load_state_dict(ours.state_dict())
    return ours.to(memory_format=torch.channels_last), theirs


def image(*shape: int) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("num_windows", [1, 40, 10_000], ids=["a row", "some rows", "some images"])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (3, 1), (3, 2), (4, 2), (5, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_equal_torchs_in_float64(num_products, monkeypatch, num_windows, kernel, stride, bias):
    monkeypatch.setattr(conv, "_WINDOWS_BYTES", num_windows * kernel * kernel * 16 * 4)
    ours, theirs = pair(kernel, stride, bias)
    x = image(3, 16, 11, 13).requires_grad_()
    exact = x.detach().double().requires_grad_()
    out, expected = ours(x), theirs(exact)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)
    upstream = torch.randn_like(expected)
    out.backward(upstream.float())
    expected.backward(upstream)
    assert num_products
    for own, other in ((x, exact), *zip(ours.parameters(), theirs.parameters(), strict=True)):
        torch.testing.assert_close(own.grad.double(), other.grad, rtol=1e-5, atol=1e-4)


def test_second_derivatives_are_torchs(num_products):
    ours, theirs = pair()
    for layer in (ours, theirs):
        dtype = layer.weight.dtype
        x = torch.linspace(-1, 1, 2 * 16 * 9 * 9, dtype=dtype).view(2, 16, 9, 9).to(memory_format=torch.channels_last)
        x.requires_grad_()
        (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
    assert ours.weight.grad.abs().max() > 1
    torch.testing.assert_close(ours.weight.grad.double(), theirs.weight.grad, rtol=1e-4, atol=1e-2)


def test_in_place_activations_may_follow(num_products):
    layers = [nn.Sequential(layer, nn.LeakyReLU(0.2, inplace=True)) for layer in pair()]
    x = image(1, 16, 9, 9)
    for part, given in zip(layers, (x, x.double())):
        part(given).square().sum().backward()
    assert num_products
    torch.testing.assert_close(layers[0][0].weight.grad.double(), layers[1][0].weight.grad, rtol=1e-5, atol=1e-3)


def test_other_calls_are_torchs_own(num_products, monkeypatch):
    layer = pair()[0]
    layer(image(1, 16, 9, 5)).sum().backward()  # a narrow row
    layer(torch.randn(1, 16, 9, 9)).sum().backward()  # the other layout
    with torch.autocast("cpu", torch.bfloat16):
        layer(image(1, 16, 9, 9)).sum().backward()
    Conv2d(16, 16, 1)(image(1, 16, 9, 9)).sum().backward()
    Conv2d(16, 3, 3)(image(1, 16, 9, 9)).sum().backward()
    layer.double()(image(1, 16, 9, 9).double()).sum().backward()
    layer.float().requires_grad_(False)(image(1, 16, 9, 9).requires_grad_()).sum().backward()
    monkeypatch.setattr(conv, "_only_avx2", lambda: False)
    layer.requires_grad_(True)(image(1, 16, 9, 9)).sum().backward()
    assert not num_products


def test_gradients_repeat_bitwise(num_products):
    layer = pair()[0]
    x = image(2, 16, 33, 40)
    gradients = []
    for _ in range(3):
        layer.zero_grad()
        layer(x).square().sum().backward()
        gradients.append(layer.weight.grad)
    assert num_products and all(torch.equal(gradient, gradients[0]) for gradient in gradients)
