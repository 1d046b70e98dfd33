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
            x_BHWC = input.to(dtype).permute(0, 2, 3, 1).contiguous()
            # A view that was made within the function could not be changed by an activation in place.
            y_BHWO: Tensor = _OnGpu.apply(x_BHWC, self.weight, self.bias, self.slope)
            return y_BHWO.permute(0, 3, 1, 2)
        x = super().forward(input)
        return x if self.slope == 1 else F.leaky_relu_(x, self.slope)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, slope={self.slope}"


def _has_kernels(image: Tensor, num_out: int) -> bool:
    return is_compiled_for_gpu(image) and num_out in (16, 32, 64, 128)


class _OnGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BHWC: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        from harness.models.from_image_gpu import forward_op

        y_BHWO = forward_op(x_BHWC, weight.to(x_BHWC.dtype).permute(0, 2, 3, 1).contiguous(), bias, slope)
        ctx.save_for_backward(x_BHWC, weight, y_BHWO if slope != 1 else None)
        ctx.slope = slope
        return y_BHWO

    @staticmethod
    def backward(ctx: Any, gradient_BHWO: Tensor) -> tuple[Tensor | None, ...]:
        from harness.models.from_image_gpu import gradients_op

        x_BHWC, weight, y_BHWO = ctx.saved_tensors
        num_out, kernel = weight.shape[0], weight.shape[-1]
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        gradient_BHWO = gradient_BHWO.contiguous()
        to_x = to_weight = to_bias = None
        by_kernel = wants_weight and ctx.slope != 1
        if by_kernel:
            to_weight, to_bias = gradients_op(x_BHWC, y_BHWO, gradient_BHWO, kernel, ctx.slope)
            to_weight = to_weight.permute(0, 3, 1, 2)
        if wants_x or not by_kernel:
            if ctx.slope != 1:
                gradient_BHWO = torch.where(y_BHWO > 0, gradient_BHWO, gradient_BHWO * ctx.slope)
            gradient, x = gradient_BHWO.permute(0, 3, 1, 2), x_BHWC.permute(0, 3, 1, 2)
            to_x, weights, biases = torch.ops.aten.convolution_backward(
                gradient, x, weight.to(x.dtype), [num_out], [1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], 1,
                [wants_x, wants_weight and not by_kernel, wants_weight and not by_kernel],
            )  # fmt: skip
            if wants_weight and not by_kernel:
                to_weight, to_bias = weights.float(), biases.float()
            to_x = to_x.permute(0, 2, 3, 1) if wants_x else None
        return to_x, to_weight, to_bias, None
