"""Convolutions between few channels, which a compiled step on a GPU computes in kernels of its own.

A GPU's libraries are made for larger ones than 64 channels to 64 by 3 x 3: with 32 images of 32 px they take 12 us
forward, 11 us for the input's gradient, and 24 us in seven kernels for those of the weights and the bias. Here it is 9,
9, and 19 us in two kernels (on an H200). For residual blocks see `narrow_blocks`.
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
    from harness.models.gpu.narrow import IS_ON_HOPPER

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


class _OnGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from harness.models.gpu.narrow import forward_op

        weight = weight.to(x_BCHW.dtype, memory_format=torch.channels_last)
        ctx.save_for_backward(x_BCHW, weight)
        return forward_op(x_BCHW, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient_BOHW: Tensor) -> tuple[Tensor | None, ...]:
        from harness.models.gpu.narrow import gradient_op

        x_BCHW, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        gradient_BOHW = gradient_BOHW.contiguous(memory_format=torch.channels_last)
        to_weight = to_bias = None
        if wants_weight:
            in_memory = (images.permute(0, 2, 3, 1)[None] for images in (x_BCHW, gradient_BOHW))
            ((to_weight, to_bias),) = to_weights(*in_memory)
        return gradient_op(gradient_BOHW, weight) if wants_x else None, to_weight, to_bias


def to_weights(x_LBHWC: Tensor, gradient_LBHWO: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The gradients of each layer's weights, in channels_last, and bias; see `gpu.narrow_sums.sums`."""
    from harness.models.gpu.narrow_sums import sums_op

    num_in, num_out = x_LBHWC.shape[-1], gradient_LBHWO.shape[-1]
    layers = sums_op(x_LBHWC, gradient_LBHWO).sum(1).split((num_out * 9 * num_in, num_out), 1)
    return [
        (weight.view(num_out, 9, num_in).mT.unflatten(2, (3, 3)), bias)
        for weight, bias in zip(*(each.unbind() for each in layers))
    ]
