"""The kernels for convolutions between few channels compute what torch's do; here Triton interprets them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.models import conv as conv_module
from harness.models import narrow
from harness.models.layers import conv


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The module of the kernels; on a GPU they are compiled."""
    pytest.importorskip("triton")
    from harness.models.gpu import narrow as narrow_gpu

    return narrow_gpu


@pytest.fixture(scope="module")
def of_weights(kernels: Any) -> Any:
    """The module of the kernel for weights' gradients."""
    from harness.models.gpu import narrow_sums as narrow_sums_gpu

    return narrow_sums_gpu


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_CPU = pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU multiplies float32 in 10 bits, and is never asked to")
# Images of which a program takes parts of several, a pixel more than programs take, one row and one column.
SIZES = [(2, (5, 7)), (1, (3, 11)), (3, (1, 11)), (2, (17, 1))]


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 2e-3}


@pytest.mark.parametrize(("num_in", "num_out", "processors"), [(16, 32, 9), (64, 16, 2)], ids=["many", "large"])
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=ON_CPU), torch.float16])
@pytest.mark.parametrize(("num_images", "size"), SIZES)
def test_values_and_gradients_equal_those_of_float64(
    kernels, of_weights, monkeypatch, num_images, size, num_in, num_out, processors, dtype
):
    monkeypatch.setattr(kernels, "PROCESSORS", processors)  # for few programs, and large ones
    monkeypatch.setattr(kernels, "_WIDE", (32, 4, 3))
    monkeypatch.setattr(kernels, "_NARROW", (16, 4, 4))
    monkeypatch.setattr(of_weights, "_PROGRAMS_AT_ONCE", 2 * processors)
    monkeypatch.setattr(of_weights, "_BLOCK_PIXELS", 16)
    torch.manual_seed(0)
    in_order = {"memory_format": torch.channels_last}
    x = torch.randn(num_images, num_in, *size, device=DEVICE).to(dtype, **in_order)
    weight = torch.randn(num_out, num_in, 3, 3, device=DEVICE).to(dtype, **in_order)
    bias = torch.randn(num_out, device=DEVICE)
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    wanted = F.conv2d(*exact, padding=1)
    y = kernels.forward(x, weight, bias)
    assert y.dtype == dtype
    gradient = torch.randn_like(y)
    wanted.backward(gradient.double())
    sums = of_weights.sums(*(images.permute(0, 2, 3, 1)[None] for images in (x, gradient)))[0].sum(0)
    assert sums.dtype == torch.float32
    to_weight = sums[: weight.numel()].view(num_out, 3, 3, num_in).permute(0, 3, 1, 2)
    pairs = [
        (y, wanted.detach()),
        (kernels.gradient(gradient, weight), exact[0].grad),
        (to_weight, exact[1].grad),
        (sums[weight.numel() :], exact[2].grad),
    ]
    for own, correct in pairs:
        scale = correct.abs().max()
        torch.testing.assert_close(own.double() / scale, correct / scale, **tolerance(dtype))


@pytest.mark.parametrize("num_layers", [2, 3])
def test_layers_side_by_side_have_the_sums_that_each_has_alone(of_weights, monkeypatch, num_layers):
    monkeypatch.setattr(of_weights, "_BLOCK_PIXELS", 16)
    monkeypatch.setattr(of_weights, "_PROGRAMS_AT_ONCE", 18)
    torch.manual_seed(0)
    x, gradient = (torch.randn(num_layers, 2, 5, 7, 16, device=DEVICE).half() for _ in range(2))
    together = of_weights.sums(x, gradient).sum(1)
    for layer in range(num_layers):
        exact = x[layer].permute(0, 3, 1, 2).double(), gradient[layer].permute(0, 3, 1, 2).double()
        wanted = torch.nn.grad.conv2d_weight(exact[0], (16, 16, 3, 3), exact[1], padding=1)
        own = together[layer, :-16].view(16, 3, 3, 16).permute(0, 3, 1, 2)
        torch.testing.assert_close(own.double(), wanted, rtol=0, atol=1e-4)
        torch.testing.assert_close(together[layer, -16:].double(), exact[1].sum((0, 2, 3)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_layers", [1, 2, 12, 32, 33, 64, 300])
def test_shares_cover_all_pixels_and_leave_few_processors_idle(of_weights, num_layers):
    num_pixels = 32 * 32 * 32
    pixels_each, num_shares = of_weights.shares(num_layers, num_pixels)
    assert (num_shares - 1) * pixels_each < num_pixels <= num_shares * pixels_each
    num_programs = 3 * num_layers * num_shares
    turns = -(-num_programs // (2 * 132))
    assert num_programs >= 0.85 * turns * 2 * 132


@pytest.mark.parametrize("shape", [(2, 9, 11, 64, 32), (7, 48, 48, 64, 64)])
def test_what_the_compiler_is_told_of_the_results_is_true(kernels, of_weights, shape):
    num_images, height, width, num_in, num_out = shape
    x, y, weight = (
        kernels.new_images(torch.zeros(1), size)
        for size in ((num_images, num_in, height, width), (num_images, num_out, height, width), (num_out, num_in, 3, 3))
    )
    _, num_shares = of_weights.shares(1, num_images * height * width)
    with torch._subclasses.FakeTensorMode() as fake:
        x, y, weight, bias = (fake.from_tensor(t) for t in (x, y, weight, torch.zeros(num_out)))
        for true, told in ((y, kernels.forward_op(x, weight, bias)), (x, kernels.gradient_op(y, weight))):
            assert told.shape == true.shape and told.stride() == true.stride()
        sums = of_weights.sums_op(*(images.permute(0, 2, 3, 1)[None] for images in (x, y)))
        assert sums.shape == (1, num_shares, weight.numel() + num_out)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("num_out", [32, 64])
def test_a_compiled_layer_is_the_layer_with_an_activation_in_place_behind_it(monkeypatch, kernels, num_out, frozen):
    used = []

    def has_kernels(x: torch.Tensor, layer: nn.Conv2d) -> bool:
        used.append(narrow.is_narrow(x, layer))
        return torch.compiler.is_compiling() and used[-1]

    monkeypatch.setattr(conv_module, "has_kernels", has_kernels)
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = nn.Sequential(conv(64, num_out), nn.ELU(inplace=True)).to(DEVICE, memory_format=torch.channels_last)
    layer.requires_grad_(not frozen)
    plain = copy.deepcopy(layer).double()
    compiled = torch.compile(layer.forward, fullgraph=True, backend="aot_eager")
    image = torch.randn(2, 64, 5, 7, device=DEVICE).contiguous(memory_format=torch.channels_last)
    x, exact = image.clone().requires_grad_(), image.double().requires_grad_()
    with torch.autocast(DEVICE.type, torch.float16):
        y = compiled(x)
    wanted = plain(exact)
    assert used[0] and y.dtype == torch.float16
    upstream = torch.randn_like(wanted)
    y.backward(upstream.half())
    wanted.backward(upstream)
    pairs = [(y, wanted), (x.grad, exact.grad)]
    if not frozen:
        pairs += [(own.grad, other.grad) for own, other in zip(layer.parameters(), plain.parameters(), strict=True)]
        assert layer[0].weight.grad.stride() == layer[0].weight.stride()
    for own, correct in pairs:
        scale = correct.abs().max()
        torch.testing.assert_close(own.double() / scale, correct / scale, **tolerance(torch.float16))


@pytest.mark.parametrize(
    ("layer", "shape", "is_one"),
    [
        (conv(64, 64), (32, 64, 32, 32), True),
        (conv(64, 32), (16, 64, 32, 32), True),
        (conv(64, 64), (16, 64, 128, 128), False),
        (conv(64, 256), (1, 64, 8, 8), False),
        (conv(96, 32), (1, 96, 8, 8), False),
        (conv(64, 64, 1), (1, 64, 8, 8), False),
        (conv(64, 64, 4, 2), (1, 64, 8, 8), False),
        (conv(64, 64, bias=False), (1, 64, 8, 8), False),
    ],
)
def test_narrow_convolutions_are_these_and_compiled_ones_on_a_gpu(layer, shape, is_one):
    x = torch.empty(shape, device="meta")
    assert narrow.is_narrow(x, layer) == is_one
    assert not narrow.has_kernels(x, layer)
