"""Residual blocks between few channels, which a compiled step on a GPU computes in kernels of its own.

Without batch norm a block's PReLU and its sum are in the kernels of its convolutions (see `narrow`), and the weights'
gradients of all blocks are computed at once: for 32 images of 32 px in 9 us a convolution instead of 19 (on an H200).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.models.narrow import has_kernels, to_weights
from harness.models.prelu import has_one_slope

_NUM_WEIGHTS = 5
"""Of a block: weights and bias of each convolution, and the slope between them."""


def has_block_kernels(x_BCHW: Tensor, branch: nn.Sequential) -> bool:
    """Whether a residual block's branch is two such convolutions with nothing but a PReLU of one slope between them."""
    first = branch[0]
    if not (isinstance(first, nn.Conv2d) and has_kernels(x_BCHW, first)):
        return False
    _, *between, last = _at_work(branch)
    return (
        len(between) == 1
        and has_one_slope(between[0])
        and isinstance(last, nn.Conv2d)
        and has_kernels(x_BCHW, last)
        and first.in_channels == first.out_channels == last.out_channels
        and x_BCHW.dtype == torch.get_autocast_dtype(x_BCHW.device.type)
    )


def narrow_blocks(x_BCHW: Tensor, branches: list[nn.Sequential]) -> Tensor:
    """The images, to which the branch of each block in turn was added."""
    weights: list[Any] = []
    for branch in branches:
        first, between, last = _at_work(branch)
        weights += [first.weight, first.bias, between.weight, last.weight, last.bias]
    y_BCHW: Tensor = _BlocksOnGpu.apply(x_BCHW.contiguous(memory_format=torch.channels_last), *weights)
    return y_BCHW


def _at_work(branch: nn.Sequential) -> list[nn.Module]:
    """The layers that do something."""
    return [layer for layer in branch if not isinstance(layer, nn.Identity)]


class _BlocksOnGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, *weights: Tensor) -> Tensor:
        from harness.models.gpu.narrow_blocks import forward_op

        first, bias_1, slopes, second, bias_2 = (weights[i::_NUM_WEIGHTS] for i in range(_NUM_WEIGHTS))
        y_BCHW, in_type, kept = forward_op(x_BCHW, [*first, *second], [*bias_1, *bias_2], list(slopes))
        ctx.save_for_backward(in_type, kept, *slopes)
        return y_BCHW

    @staticmethod
    def backward(ctx: Any, gradient_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        from harness.models.gpu.narrow_blocks import gradient_op

        in_type, kept, *slopes = ctx.saved_tensors
        num_blocks = len(slopes)
        gradient_BCHW = gradient_BCHW.contiguous(memory_format=torch.channels_last)
        to_x, gradients, slope_parts = gradient_op(gradient_BCHW, in_type, slopes, kept)
        if not any(ctx.needs_input_grad[1:]):
            return to_x, *([None] * _NUM_WEIGHTS * num_blocks)
        to_slopes = slope_parts.sum(1, keepdim=True).unbind()
        of_layers = to_weights(kept[: 2 * num_blocks], gradients)
        of_blocks = zip(of_layers[:num_blocks], to_slopes, of_layers[num_blocks:])
        return to_x, *(value for first, slope, second in of_blocks for value in (*first, slope, *second))
