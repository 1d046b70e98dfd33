"""The kernels for convolutions between few channels compute what torch's do; here Triton interprets them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.models import conv as conv_module
from harness.models import narrow, srresnet
from harness.models.layers import conv
from harness.models.prelu import PReLU
from harness.models.srresnet import ResidualBlock


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The module of the kernels; on a GPU they are compiled."""
    pytest.importorskip("triton")
    from harness.models import narrow_gpu

    return narrow_gpu


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
    kernels, monkeypatch, num_images, size, num_in, num_out, processors, dtype
):
    monkeypatch.setattr(kernels, "_PROCESSORS", processors)  # for few programs, and large ones
    monkeypatch.setattr(kernels, "_WIDE", (32, 3))
    monkeypatch.setattr(kernels, "_NARROW", (16, 4))
    monkeypatch.setattr(kernels, "_SUM_PIXELS", 16)
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
    sums = kernels.sums(x, gradient).sum(0)
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


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=ON_CPU), torch.float16])
def test_what_is_behind_a_convolution_is_computed_as_if_it_were_apart(kernels, monkeypatch, dtype):
    monkeypatch.setattr(kernels, "_NARROW", (16, 4))
    torch.manual_seed(0)
    x, added = (torch.randn(2, 16, 5, 7, device=DEVICE).to(dtype, memory_format=torch.channels_last) for _ in range(2))
    weight = torch.randn(16, 16, 3, 3, device=DEVICE).to(dtype, memory_format=torch.channels_last)
    bias, slope = torch.randn(16, device=DEVICE), torch.full((1,), 0.3, device=DEVICE)
    y, to_x = kernels.forward(x, weight, bias), kernels.gradient(x, weight)
    assert torch.equal(kernels.forward(x, weight, bias, added), y + added)
    assert torch.equal(kernels.gradient(x, weight, added), to_x + added)
    given, behind = kernels.forward_prelu(x, weight, bias, slope)
    assert torch.equal(given, y) and torch.equal(behind, F.prelu(y, slope.to(dtype)))
    to_given, parts = kernels.gradient_prelu(x, weight, added, slope)
    exact, exact_slope = (t.to(dtype).double().requires_grad_() for t in (added, slope))
    F.prelu(exact, exact_slope).backward(to_x.double())
    assert torch.equal(to_given, exact.grad.to(dtype)) and len(parts) == 5 and parts.dtype == torch.float32
    torch.testing.assert_close(parts.sum().double(), exact_slope.grad[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(2, 9, 11, 64, 32), (7, 48, 48, 64, 64)])
def test_what_the_compiler_is_told_of_the_results_is_true(kernels, shape):
    num_images, height, width, num_in, num_out = shape
    x, y, weight = (
        kernels.new_images(torch.zeros(1), size)
        for size in ((num_images, num_in, height, width), (num_images, num_out, height, width), (num_out, num_in, 3, 3))
    )
    bias = torch.zeros(num_out)
    pixels_each, num_shares = kernels._shares(num_images * height * width)
    assert (num_shares - 1) * pixels_each < num_images * height * width <= num_shares * pixels_each
    with torch._subclasses.FakeTensorMode() as fake:
        x, y, weight, bias = (fake.from_tensor(t) for t in (x, y, weight, bias))
        to_given, parts = kernels.gradient_prelu_op(y, weight, x, bias)
        assert parts.shape == (kernels._grid(y)[1],)
        results = *kernels.forward_prelu_op(x, weight, bias, bias), kernels.forward_op(x, weight, bias)
        for true, *told in ((y, *results), (x, to_given, kernels.gradient_op(y, weight))):
            assert all(t.shape == true.shape and t.stride() == true.stride() for t in told)
        assert kernels.sums_op(x, y).shape == (num_shares, weight.numel() + num_out)


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


@pytest.mark.parametrize("frozen", [False, True])
def test_a_compiled_residual_block_is_the_block(monkeypatch, kernels, frozen):
    monkeypatch.setattr(
        narrow, "has_kernels", lambda x, layer: torch.compiler.is_compiling() and narrow.is_narrow(x, layer)
    )
    used = []
    monkeypatch.setattr(srresnet, "narrow_block", lambda x, branch: used.append(x) or narrow.narrow_block(x, branch))
    torch._dynamo.reset()
    torch.manual_seed(0)
    block = ResidualBlock(64, PReLU(), batch_norm=False).to(DEVICE, memory_format=torch.channels_last)
    block.requires_grad_(not frozen)
    plain = copy.deepcopy(block).double()
    compiled = torch.compile(block.forward, fullgraph=True, backend="aot_eager")
    image = torch.randn(2, 64, 5, 7, device=DEVICE).contiguous(memory_format=torch.channels_last).half()
    x, exact = image.clone().requires_grad_(), image.double().requires_grad_()
    with torch.autocast(DEVICE.type, torch.float16):
        y = compiled(x)
    wanted = plain(exact)
    upstream = torch.randn_like(wanted)
    y.backward(upstream.half())
    wanted.backward(upstream)
    assert used and y.dtype == torch.float16
    pairs = [(y, wanted), (x.grad, exact.grad)]
    pairs += [] if frozen else zip((p.grad for p in block.parameters()), (p.grad for p in plain.parameters()))
    for own, correct in pairs:
        scale = correct.abs().max()
        torch.testing.assert_close(own.double() / scale, correct / scale, **tolerance(torch.float16))


@pytest.mark.parametrize(
    ("arguments", "is_one"),
    [
        ((64, PReLU(), False), True),
        ((64, PReLU(), True), False),
        ((64, nn.ReLU(), False), False),
        ((64, nn.PReLU(64), False), False),
        ((32, PReLU(), False), False),
    ],
)
def test_residual_blocks_in_two_kernels_are_these(monkeypatch, arguments, is_one):
    monkeypatch.setattr(narrow, "has_kernels", narrow.is_narrow)
    branch = ResidualBlock(*arguments).branch
    x = torch.empty((2, arguments[0], 8, 8), dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert narrow.has_block_kernels(x, branch) == is_one
        assert not narrow.has_block_kernels(x.float(), branch), "the sum would have another type"


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
