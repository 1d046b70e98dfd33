"""Convolutions whose weights' gradient takes a half to a fifth of the time on a processor with AVX2 alone.

In channels_last oneDNN computes that gradient there 8 channels at a time along a row, whose pixels lie far apart: wide
rows do not fit the nearest cache. 64 channels to 64 by 3 x 3 on 256 x 256 pixels take 332 ms on one core, six times the
forward pass. Here windows are copied side by side and given to matrix products, a megabyte of them at a time: 70 ms.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.narrow import has_kernels, narrow_conv

_WIDE_ROW = 3072
"""Numbers in a row of the output from which matrix products are quicker: 48 pixels of 64 channels."""
_WINDOWS_BYTES = 2**20
"""What is copied for one matrix product: it stays in the second cache, or nearly."""
_KERNELS = range(2, 6)
"""Smaller kernels have nothing to copy, larger ones are copied too many times."""
_LEAST_CHANNELS = 16
"""Of input and output, for a matrix product that fills the vector units."""


class Conv2d(nn.Conv2d):
    """A convolution with the same stride and padding along both axes; see above and `narrow` for what is different."""

    def forward(self, input: Tensor) -> Tensor:
        if has_kernels(input, self):
            return narrow_conv(input, self)
        return conv2d(input, self.weight, self.bias, self.stride[0], self.padding[0])  # type: ignore[arg-type]


def conv2d(x_BCHW: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """`torch.nn.functional.conv2d`, its gradient by matrix products where those are quicker."""
    if torch.is_grad_enabled() and weight.requires_grad and _pays(x_BCHW, weight, stride):
        return _WithProducts.apply(x_BCHW, weight, bias, stride, padding)
    return F.conv2d(x_BCHW, weight, bias, stride, padding)


def _pays(x_BCHW: Tensor, weight: Tensor, stride: int) -> bool:
    num_out, num_in, _, kernel = weight.shape
    return (
        not torch.compiler.is_compiling()
        and x_BCHW.device.type == "cpu"
        and _only_avx2()
        and x_BCHW.dtype == weight.dtype == torch.float32
        and kernel in _KERNELS
        and min(num_in, num_out) >= _LEAST_CHANNELS
        and num_out * x_BCHW.shape[3] >= stride * _WIDE_ROW
        and x_BCHW.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def _only_avx2() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


class _WithProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.stride, ctx.padding = bias is not None, stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        by_products = wants_weight and not torch.is_grad_enabled()  # torch's own can be differentiated once more
        to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
            gradient, x, weight, [len(weight)] if ctx.has_bias else None, [ctx.stride] * 2, [ctx.padding] * 2, [1, 1],
            False, [0, 0], 1, [wants_x, wants_weight and not by_products, wants_bias and not by_products],
        )  # fmt: skip
        if by_products:
            to_weight = weight_gradient(x, gradient, weight.shape[-1], ctx.stride, ctx.padding)
            to_bias = gradient.sum((0, 2, 3)) if wants_bias else None
        return to_x, to_weight, to_bias, None, None


def weight_gradient(x_BCHW: Tensor, gradient_BOhw: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The gradient of a convolution's square kernel, (O, C, kernel, kernel), given that of its output."""
    num_images, num_in = x_BCHW.shape[:2]
    num_out, height, width = gradient_BOhw.shape[1:]
    padded_BHWC = F.pad(x_BCHW.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    of_image, of_row, of_pixel, _ = padded_BHWC.stride()
    in_window = (kernel, kernel * num_in)
    windows = padded_BHWC.as_strided(
        (num_images, height, width, *in_window), (of_image, stride * of_row, stride * of_pixel, of_row, 1)
    )
    gradient_BhwO = gradient_BOhw.permute(0, 2, 3, 1)
    row_bytes = width * kernel * kernel * num_in * windows.element_size()
    num_rows = max(1, _WINDOWS_BYTES // row_bytes)
    total = windows.new_zeros(kernel * kernel * num_in, num_out)
    for some_windows, some_gradient in zip(_parts(windows, num_rows), _parts(gradient_BhwO, num_rows)):
        torch.addmm(total, some_windows.reshape(-1, len(total)).T, some_gradient.reshape(-1, num_out), out=total)
    return total.view(kernel, kernel, num_in, num_out).permute(3, 2, 0, 1)


def _parts(images: Tensor, num_rows: int) -> list[Tensor]:
    """The images, or parts of them, of about so many rows."""
    height = images.shape[1]
    if num_rows >= height:
        return list(images.split(num_rows // height))
    return [rows for image in images for rows in image.split(num_rows)]
