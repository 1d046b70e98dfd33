"""Residual blocks in kernels of our own compute what torch's layers do; here Triton interprets the kernels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.models import narrow, narrow_blocks, srresnet
from harness.models.prelu import PReLU
from harness.models.srresnet import ResidualBlock, ResidualBlocks

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_CPU = pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU multiplies float32 in 10 bits, and is never asked to")


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The module of the operations; on a GPU their kernels are compiled."""
    pytest.importorskip("triton")
    from harness.models.gpu import narrow_blocks as narrow_blocks_gpu

    return narrow_blocks_gpu


@pytest.fixture
def layers(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the kernels, for few pixels each."""
    from harness.models.gpu import narrow as narrow_gpu

    monkeypatch.setattr(narrow_gpu, "_NARROW", (16, 4, 4))
    torch.manual_seed(0)
    return narrow_gpu


def images(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype, memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=ON_CPU), torch.float16])
def test_what_is_behind_a_convolution_is_computed_as_if_it_were_apart(layers, dtype):
    x, added = (images(2, 16, 5, 7, dtype=dtype) for _ in range(2))
    weight = images(16, 16, 3, 3, dtype=dtype)
    bias, slope = torch.randn(16, device=DEVICE), torch.full((1,), 0.3, device=DEVICE)
    y, to_x, result, behind = layers.forward(x, weight, bias), layers.gradient(x, weight), added.clone(), x.clone()
    layers.launch(result, x, weight, bias, other=added)
    assert torch.equal(result, y + added)
    layers.launch(result, x, weight, other=added)
    assert torch.equal(result, to_x + added)
    layers.launch(result, x, weight, bias, slope=slope, behind=behind)
    assert torch.equal(result, y) and torch.equal(behind, F.prelu(y, slope.to(dtype)))
    parts = torch.full((layers.grid(x)[1],), torch.nan, device=DEVICE)
    layers.launch(result, x, weight, other=added, slope=slope, behind=parts)
    exact, exact_slope = (t.to(dtype).double().requires_grad_() for t in (added, slope))
    F.prelu(exact, exact_slope).backward(to_x.double())
    assert torch.equal(result, exact.grad.to(dtype)) and len(parts) == 5
    torch.testing.assert_close(parts.sum().double(), exact_slope.grad[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_what_the_compiler_is_told_of_the_results_is_true(kernels, layers, num_blocks):
    x = images(2, 16, 3, 4, dtype=torch.float16)
    weights = [0.1 * images(16, 16, 3, 3, dtype=torch.float32) for _ in range(2 * num_blocks)]
    biases = [torch.randn(16, device=DEVICE) for _ in weights]
    slopes = [torch.rand(1, device=DEVICE) for _ in range(num_blocks)]
    y, in_type, kept = kernels.forward(x, weights, biases, slopes)
    true = y, in_type, kept, *kernels.gradient(y, in_type, slopes, kept)
    for own, weight in zip(in_type, weights, strict=True):
        assert torch.equal(own, weight.half().permute(0, 2, 3, 1))
    with torch._subclasses.FakeTensorMode() as fake:
        lists = ([fake.from_tensor(t) for t in each] for each in (weights, biases, slopes))
        told = kernels.forward_op(fake.from_tensor(x), *lists)
        told = *told, *kernels.gradient_op(told[0], told[1], [fake.from_tensor(t) for t in slopes], told[2])
    for one, other in zip(told, true, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


@pytest.mark.parametrize(("num_blocks", "frozen"), [(1, False), (1, True), (2, False)])
def test_compiled_blocks_are_the_blocks(monkeypatch, layers, frozen, num_blocks):
    for module in (narrow, narrow_blocks):
        monkeypatch.setattr(
            module, "has_kernels", lambda x, layer: torch.compiler.is_compiling() and narrow.is_narrow(x, layer)
        )
    used = []
    monkeypatch.setattr(
        srresnet,
        "narrow_blocks",
        lambda x, branches: used.append(len(branches)) or narrow_blocks.narrow_blocks(x, branches),
    )
    torch._dynamo.reset()
    blocks = ResidualBlocks(*(ResidualBlock(64, PReLU(), batch_norm=False) for _ in range(num_blocks)))
    for block in blocks:
        nn.init.constant_(block.branch[2].weight, 0.9)  # where float16 has another sign, little comes of it
    blocks.to(DEVICE, memory_format=torch.channels_last).requires_grad_(not frozen)
    plain = copy.deepcopy(blocks).double()
    compiled = torch.compile(blocks.forward, fullgraph=True, backend="aot_eager")
    image = images(2, 64, 3, 5, dtype=torch.float16)
    x, exact = image.clone().requires_grad_(), image.double().requires_grad_()
    with torch.autocast(DEVICE.type, torch.float16):
        y = compiled(x)
    wanted = plain(exact)
    upstream = torch.randn_like(wanted)
    y.backward(upstream.half())
    wanted.backward(upstream)
    assert used == [num_blocks] and y.dtype == torch.float16
    pairs = [(y, wanted), (x.grad, exact.grad)]
    if not frozen:
        pairs += [(own.grad, other.grad) for own, other in zip(blocks.parameters(), plain.parameters(), strict=True)]
        convs = [module for module in blocks.modules() if isinstance(module, nn.Conv2d)]
        assert all(conv.weight.grad.stride() == conv.weight.stride() for conv in convs)
    for own, correct in pairs:
        assert (own.double() - correct).norm() < 0.01 * correct.norm()


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
def test_residual_blocks_in_kernels_of_our_own_are_these(monkeypatch, arguments, is_one):
    monkeypatch.setattr(narrow_blocks, "has_kernels", narrow.is_narrow)
    branch = ResidualBlock(*arguments).branch
    x = torch.empty((2, arguments[0], 8, 8), dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert narrow_blocks.has_block_kernels(x, branch) == is_one
        assert not narrow_blocks.has_block_kernels(x.float(), branch), "the sum would have another type"
