"""Convolutions from the three channels of an image, which a compiled step on a GPU computes in kernels of its own.

A GPU's libraries bring 3 channels to 8 and then spend most of the time on zeros, and the activation behind is another
pass over the largest tensor of a discriminator. 64 images of 128 px to 64 channels by 3 x 3, bias and leaky ReLU take
53 us in one kernel, and 266 us in two; backward 164 and 284 us.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.models.conv import Conv2d
from harness.models.narrow import is_compiled_for_gpu


class ConvFromImage(Conv2d):
    """A convolution of stride 1 with bias that keeps the size, and a leaky ReLU behind it.

    Args:
        slope: of the leaky ReLU's negative side; 1 for no activation.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int, slope: float = 1.0) -> None:
        super().__init__(num_in, num_out, kernel, padding=kernel // 2)
        self.slope = slope

    def forward(self, input: Tensor) -> Tensor:
        if _has_kernels(input, self.out_channels):
            dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else input.dtype
            x_BCHW = input.to(dtype, memory_format=torch.channels_last)
            y_BOHW: Tensor = _OnGpu.apply(x_BCHW, self.weight, self.bias, self.slope)
            return y_BOHW
        x = super().forward(input)
        return x if self.slope == 1 else F.leaky_relu_(x, self.slope)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, slope={self.slope}"


def _has_kernels(image: Tensor, num_out: int) -> bool:
    return is_compiled_for_gpu(image) and num_out in (16, 32, 64, 128)


class _OnGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        from harness.models.gpu.from_image import forward_op

        y_BOHW = forward_op(x_BCHW, weight.to(x_BCHW.dtype, memory_format=torch.channels_last), bias, slope)
        ctx.save_for_backward(x_BCHW, weight, y_BOHW if slope != 1 else None)
        ctx.slope = slope
        return y_BOHW

    @staticmethod
    def backward(ctx: Any, gradient_BOHW: Tensor) -> tuple[Tensor | None, ...]:
        from harness.models.gpu.from_image import gradients_op

        x_BCHW, weight, y_BOHW = ctx.saved_tensors
        num_out, kernel = weight.shape[0], weight.shape[-1]
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        gradient_BOHW = gradient_BOHW.contiguous(memory_format=torch.channels_last)
        to_x = to_weight = to_bias = None
        by_kernel = wants_weight and ctx.slope != 1
        if by_kernel:
            to_weight, to_bias = gradients_op(x_BCHW, y_BOHW, gradient_BOHW, kernel, ctx.slope)
        if wants_x or not by_kernel:
            if ctx.slope != 1:
                gradient_BOHW = torch.where(y_BOHW > 0, gradient_BOHW, gradient_BOHW * ctx.slope)
            to_x, weights, biases = torch.ops.aten.convolution_backward(
                gradient_BOHW, x_BCHW, weight.to(x_BCHW.dtype), [num_out], [1, 1], [kernel // 2] * 2, [1, 1],
                False, [0, 0], 1, [wants_x, wants_weight and not by_kernel, wants_weight and not by_kernel],
            )  # fmt: skip
            if wants_weight and not by_kernel:
                to_weight, to_bias = weights.float(), biases.float()
        return to_x, to_weight, to_bias, None
