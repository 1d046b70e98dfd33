"""Convolutions between few channels, which a compiled step on a GPU computes in kernels of its own.

A GPU's libraries are made for larger ones than 64 channels to 64 by 3 x 3: with 32 images of 32 px they take 12 us
forward, 11 us for the input's gradient, and 24 us in seven kernels for those of the weights and the bias. Here it is 9,
9, and 19 us in two kernels (on an H200). A residual block without batch norm has its PReLU and its sum in them as well.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_NUM_IN, _NUM_OUT = (64,), (32, 64)
"""Between more channels the libraries' are as quick."""
_MOST_PIXELS = 2**16
"""Of all images; more were not measured."""


def is_compiled_for_gpu(x: Tensor) -> bool:
    """Whether kernels of our own may be taken: compiled code is never differentiated twice, and Triton is needed."""
    return torch.compiler.is_compiling() and x.device.type == "cuda" and _HAS_TRITON


def has_kernels(x_BCHW: Tensor, layer: nn.Conv2d) -> bool:
    """Whether a layer is such a convolution, in compiled code for such a GPU."""
    if not (is_compiled_for_gpu(x_BCHW) and torch.is_autocast_enabled("cuda") and is_narrow(x_BCHW, layer)):
        return False
    from harness.models.narrow_gpu import IS_ON_HOPPER

    return IS_ON_HOPPER


def is_narrow(x_BCHW: Tensor, layer: nn.Conv2d) -> bool:
    """Whether the kernels can compute a layer, and are the quicker ones."""
    is_usual = layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.padding == (1, 1)
    num_pixels = x_BCHW.shape[0] * x_BCHW.shape[2] * x_BCHW.shape[3]
    return (
        is_usual
        and layer.bias is not None
        and layer.in_channels in _NUM_IN
        and layer.out_channels in _NUM_OUT
        and num_pixels <= _MOST_PIXELS
    )


def narrow_conv(x_BCHW: Tensor, layer: nn.Conv2d) -> Tensor:
    """What the layer computes, in autocast's type."""
    dtype = torch.get_autocast_dtype(x_BCHW.device.type)
    y_BOHW: Tensor = _OnGpu.apply(x_BCHW.to(dtype, memory_format=torch.channels_last), layer.weight, layer.bias)
    return y_BOHW


def has_block_kernels(x_BCHW: Tensor, branch: nn.Sequential) -> bool:
    """Whether a residual block's branch is two such convolutions with nothing but a PReLU of one slope between them."""
    first = branch[0]
    if not (isinstance(first, nn.Conv2d) and has_kernels(x_BCHW, first)):
        return False
    _, *between, last = _at_work(branch)
    return (
        len(between) == 1
        and isinstance(between[0], nn.PReLU)
        and between[0].num_parameters == 1
        and isinstance(last, nn.Conv2d)
        and has_kernels(x_BCHW, last)
        and first.in_channels == first.out_channels == last.out_channels
        and x_BCHW.dtype == torch.get_autocast_dtype(x_BCHW.device.type)
    )


def narrow_block(x_BCHW: Tensor, branch: nn.Sequential) -> Tensor:
    """The images and the branch of them, added up: each convolution with what is behind it in one kernel."""
    first, between, last = _at_work(branch)
    weights = first.weight, first.bias, between.weight, last.weight, last.bias
    y_BCHW: Tensor = _BlockOnGpu.apply(x_BCHW.contiguous(memory_format=torch.channels_last), *weights)
    return y_BCHW


def _at_work(branch: nn.Sequential) -> list[nn.Module]:
    """The layers that do something."""
    return [layer for layer in branch if not isinstance(layer, nn.Identity)]


class _OnGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from harness.models.narrow_gpu import forward_op

        weight = _as(x_BCHW, weight)
        ctx.save_for_backward(x_BCHW, weight)
        return forward_op(x_BCHW, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient_BOHW: Tensor) -> tuple[Tensor | None, ...]:
        from harness.models.narrow_gpu import gradient_op

        x_BCHW, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        gradient_BOHW = gradient_BOHW.contiguous(memory_format=torch.channels_last)
        to_weight, to_bias = _to_weights(x_BCHW, gradient_BOHW) if wants_weight else (None, None)
        return gradient_op(gradient_BOHW, weight) if wants_x else None, to_weight, to_bias


class _BlockOnGpu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_1: Tensor, bias_1: Tensor, slope: Tensor, weight_2: Tensor, bias_2: Tensor
    ) -> Tensor:
        from harness.models.narrow_gpu import forward_op, forward_prelu_op

        weight_1, weight_2 = _as(x, weight_1), _as(x, weight_2)
        given, between = forward_prelu_op(x, weight_1, bias_1, slope)
        ctx.save_for_backward(x, weight_1, slope, weight_2, given, between)
        return forward_op(between, weight_2, bias_2, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from harness.models.narrow_gpu import gradient_op, gradient_prelu_op

        x, weight_1, slope, weight_2, given, between = ctx.saved_tensors
        wants_x, wants_weight_1, _, wants_slope, wants_weight_2, _ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_given, slope_parts = gradient_prelu_op(gradient, weight_2, given, slope)
        return (
            gradient_op(to_given, weight_1, gradient) if wants_x else None,
            *(_to_weights(x, to_given) if wants_weight_1 else (None, None)),
            slope_parts.sum().reshape(1) if wants_slope else None,
            *(_to_weights(between, gradient) if wants_weight_2 else (None, None)),
        )


def _as(x_BCHW: Tensor, weight: Tensor) -> Tensor:
    return weight.to(x_BCHW.dtype, memory_format=torch.channels_last)


def _to_weights(x_BCHW: Tensor, gradient_BOHW: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of weights, in channels_last, and bias."""
    from harness.models.narrow_gpu import sums_op

    num_in, num_out = x_BCHW.shape[1], gradient_BOHW.shape[1]
    to_weight, to_bias = sums_op(x_BCHW, gradient_BOHW).sum(0).split((num_out * 9 * num_in, num_out))
    return to_weight.view(num_out, 9, num_in).mT.unflatten(2, (3, 3)), to_bias
