"""A doubling in kernels of our own computes what convolution, shuffle and PReLU do; here Triton interprets them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.models import to_image, upsample
from harness.models.layers import activation, conv
from harness.models.prelu import PReLU
from harness.models.shuffle import gather_pixels, shuffle_pixels
from harness.models.upsample import ShuffleUpsample, upsample_to_image

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The module of the kernels; on a GPU they are compiled."""
    pytest.importorskip("triton")
    from harness.models.gpu import shuffle as shuffle_gpu

    return shuffle_gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (2, 22)])
def test_values_and_gradients_equal_those_of_operations_apart(kernels, monkeypatch, size, in_blocks, dtype):
    monkeypatch.setattr(kernels, "_BACKWARD_PROGRAMS", 2)  # so that each has several turns
    torch.manual_seed(0)
    x = torch.randn(3, 64, *size, device=DEVICE).to(dtype, memory_format=torch.channels_last)
    bias, slope = torch.randn(64, device=DEVICE), torch.full((1,), 0.3, device=DEVICE)
    inputs = x.clone().requires_grad_(), bias.clone().requires_grad_(), slope.clone().requires_grad_()
    given = (inputs[0].float() + inputs[1][:, None, None]).to(dtype)
    wanted = shuffle_pixels(F.prelu(given.float(), inputs[2].to(dtype).float()).to(dtype), 2)
    wanted = gather_pixels(wanted, 4) if in_blocks else wanted
    y = kernels.forward(x, bias, slope, in_blocks)
    assert torch.equal(y, wanted) and y.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(y)
    wanted.backward(gradient)
    to_x, parts = kernels.gradients(gradient, x, bias, slope, in_blocks)
    assert torch.equal(to_x, inputs[0].grad) and len(parts) == 2 and parts.dtype == torch.float32
    sums = parts.sum(0)
    torch.testing.assert_close(sums[:-1], inputs[0].grad.float().sum((0, 2, 3)), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sums[-1:], inputs[2].grad, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("in_blocks", [False, True])
def test_what_the_compiler_is_told_of_the_results_is_true(kernels, in_blocks):
    x = torch.randn(2, 64, 4, 6, device=DEVICE).contiguous(memory_format=torch.channels_last)
    bias, slope = torch.randn(64, device=DEVICE), torch.rand(1, device=DEVICE)
    y = kernels.forward(x, bias, slope, in_blocks)
    true = y, *kernels.gradients(y, x, bias, slope, in_blocks)
    with torch._subclasses.FakeTensorMode() as fake:
        x, bias, slope = (fake.from_tensor(t) for t in (x, bias, slope))
        told_y = kernels.forward_op(x, bias, slope, in_blocks)
        told = told_y, *kernels.gradients_op(told_y, x, bias, slope, in_blocks)
    for one, other in zip(told, true, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


class Tail(nn.Module):
    """The last layers of a generator."""

    def __init__(self, kernel: int, between: nn.Module) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(ShuffleUpsample(16, copy.deepcopy(between)) for _ in range(2)))
        self.last = conv(16, 3, kernel)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return upsample_to_image(self.stages, self.last, x_BCHW)


@pytest.mark.parametrize(
    ("kernel", "between", "size", "ways"),
    [
        (9, PReLU(), (5, 4), [False, True]),
        (3, PReLU(), (5, 4), [False, False]),
        (9, activation("relu"), (5, 4), []),
    ],
    ids=["blocks", "image", "relu"],
)
def test_compiled_layers_are_the_layers(monkeypatch, kernels, kernel, between, size, ways):
    monkeypatch.setattr(upsample, "is_compiled_for_gpu", lambda x: torch.compiler.is_compiling())
    monkeypatch.setattr(to_image, "is_exported", lambda x: False)
    used, by_kernels = [], ShuffleUpsample.by_kernels
    monkeypatch.setattr(
        ShuffleUpsample,
        "by_kernels",
        lambda stage, x, in_blocks: used.append(in_blocks) or by_kernels(stage, x, in_blocks),
    )
    torch._dynamo.reset()
    torch.manual_seed(0)
    tail = Tail(kernel, between).to(DEVICE, memory_format=torch.channels_last)
    plain = copy.deepcopy(tail).double()
    x = torch.randn(2, 16, *size, device=DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = x.detach().double().requires_grad_()
    y = torch.compile(tail.forward, fullgraph=True, backend="aot_eager")(x)
    wanted = plain(exact)
    assert used == ways
    upstream = torch.randn_like(wanted)
    y.backward(upstream.float())
    wanted.backward(upstream)
    pairs = [(y, wanted), (x.grad, exact.grad)]
    pairs += [(own.grad, other.grad) for own, other in zip(tail.parameters(), plain.parameters(), strict=True)]
    for own, correct in pairs:
        assert (own.double() - correct).norm() < 1e-3 * correct.norm()


@pytest.mark.parametrize("size", [(5, 4), (4, 5)])
def test_images_that_are_no_whole_blocks_are_not_made_blocks(monkeypatch, size):
    used: list[bool] = []
    monkeypatch.setattr(upsample, "is_compiled_for_gpu", lambda x: True)
    monkeypatch.setattr(
        ShuffleUpsample,
        "by_kernels",
        lambda stage, x, in_blocks: used.append(in_blocks) or stage.activation(stage.conv(x)),
    )
    tail = Tail(9, PReLU())
    upsample_to_image(tail.stages[:1], tail.last, torch.randn(1, 16, *size))
    assert used == [False]
