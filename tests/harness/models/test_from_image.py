"""The kernels for convolutions from an image compute what torch's do; here Triton interprets them, without a GPU."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.models import from_image
from harness.models.from_image import ConvFromImage
from harness.models.layers import conv


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The module of the kernels; on a GPU they are compiled."""
    pytest.importorskip("triton")
    from harness.models.gpu import from_image as from_image_gpu

    return from_image_gpu


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, kernels: Any):
    """Compiles a module as for a GPU, without making new kernels."""
    monkeypatch.setattr(from_image, "_has_kernels", lambda image, num_out: torch.compiler.is_compiling())
    torch._dynamo.reset()
    return lambda module: torch.compile(module.forward, fullgraph=True, backend="aot_eager")


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# A pixel more than a program takes, several shares of a backward pass, windows of several blocks.
SHAPES = [(1, 3, 16, (3, 43), 3), (2, 3, 32, (12, 9), 9), (3, 1, 16, (20, 30), 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("num_images", "num_in", "num_out", "size", "kernel"), SHAPES)
def test_values_and_gradients_equal_those_of_float64(kernels, num_images, num_in, num_out, size, kernel, dtype):
    torch.manual_seed(0)
    in_order = {"memory_format": torch.channels_last}
    x = torch.randn(num_images, num_in, *size, device=DEVICE).to(dtype, **in_order)
    weight = torch.randn(num_out, num_in, kernel, kernel, device=DEVICE).to(dtype, **in_order)
    bias = torch.randn(num_out, device=DEVICE)
    y = kernels.forward(x, weight, bias, 0.2)
    exact = [value.double().requires_grad_() for value in (weight, bias)]
    exact_y = F.leaky_relu(F.conv2d(x.double(), *exact, padding=kernel // 2), 0.2)
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 2e-3}
    scale = exact_y.abs().max()
    torch.testing.assert_close(y.double() / scale, exact_y.detach() / scale, **tolerance)

    gradient = torch.randn_like(y)
    to_weight, to_bias = kernels.gradients(x, y, gradient, kernel, 0.2)
    exact_y.backward(gradient.double())
    for own, wanted in ((to_weight, exact[0].grad), (to_bias, exact[1].grad)):
        assert own.dtype == torch.float32
        scale = wanted.abs().max()
        torch.testing.assert_close(own.double() / scale, wanted / scale, **tolerance)


@pytest.mark.parametrize("num_in", [1, 3])
def test_what_the_compiler_is_told_of_the_results_is_true(kernels, num_in):
    shapes = (2, num_in, 5, 7), (2, 16, 5, 7), (16, num_in, 3, 3)
    x, y, weight = (kernels.new_images(torch.zeros(1), shape).zero_() for shape in shapes)
    bias = torch.zeros(16)
    own = [kernels.forward(x, weight, bias, 0.2), *kernels.gradients(x, y, y, 3, 0.2)]
    with torch._subclasses.FakeTensorMode() as fake:
        x, y, weight, bias = (fake.from_tensor(t) for t in (x, y, weight, bias))
        told = [kernels.forward_op(x, weight, bias, 0.2), *kernels.gradients_op(x, y, y, 3, 0.2)]
    assert [(t.shape, t.stride(), t.dtype) for t in own] == [(t.shape, t.stride(), t.dtype) for t in told]


@pytest.mark.parametrize(("slope", "frozen"), itertools.product((0.2, 1.0), (False, True)))
def test_a_compiled_layer_is_the_layer_with_an_activation_in_place_behind_it(compiled, slope, frozen):
    torch.manual_seed(0)
    behind = nn.ReLU(inplace=True) if slope == 1 else nn.Identity()
    layer = nn.Sequential(ConvFromImage(3, 16, 3, slope), behind).to(DEVICE)
    layer.requires_grad_(not frozen)
    plain = copy.deepcopy(layer)
    image = torch.rand(2, 3, 7, 9, device=DEVICE)
    inputs = [image.clone().requires_grad_(frozen) for _ in range(2)]
    outputs = [compiled(layer)(inputs[0]), plain(inputs[1])]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    if frozen:
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y, x in zip(outputs, inputs)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4)
        return
    for output in outputs:
        output.square().sum().backward()
    for own, wanted in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, wanted.grad, rtol=1e-5, atol=1e-4)


def test_as_it_is_written_it_is_a_convolution_and_a_leaky_relu():
    layer = ConvFromImage(3, 4, 3, slope=0.2)
    image = torch.rand(1, 3, 5, 5)
    expected = F.leaky_relu(F.conv2d(image, layer.weight, layer.bias, padding=1), 0.2)
    assert torch.equal(layer(image), expected)
    small = image[..., :3, :3].double().requires_grad_()
    assert torch.autograd.gradgradcheck(copy.deepcopy(layer).double(), (small,))


@pytest.mark.parametrize(("arguments", "is_one"), [((3, 8, 9), True), ((8, 8, 3), False), ((3, 8, 4, 2), False)])
def test_convolutions_from_an_image_are_these(arguments, is_one):
    layer = conv(*arguments)
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer, ConvFromImage) == is_one
