"""Kernels for a pixel shuffle with a convolution's bias before it and a PReLU, on an NVIDIA GPU.

Imported only where torch's compiler is used on such a GPU: Triton compiles the kernels when they are first called.
A pixel of 4 C channels, in the order (row, column, channel), becomes 2 x 2 pixels of C: of an image, or where blocks
are asked for of one pixel with all channels of 4 x 4 pixels. The order of all sums is fixed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.models.gpu.from_image import new_images

_FORWARD_PIXELS, _BACKWARD_PIXELS = 16, 8
_BACKWARD_PROGRAMS = 528
"""Four for each processor of an H100."""


@triton.jit
def _places(pixel, number, height, width, NUM_OUT: tl.constexpr, IN_BLOCKS: tl.constexpr):
    """Where the numbers of some pixels lie behind the shuffle."""
    row = pixel // width % height
    column = pixel % width
    lower = number // (2 * NUM_OUT)
    if IN_BLOCKS:
        block = (pixel // (height * width) * (height // 2) + row // 2) * (width // 2) + column // 2
        pair = (block * 8 + row % 2 * 4 + column % 2)[:, None] + lower[None, :] * 2
    else:
        pair = ((pixel // width * 2) * width + column)[:, None] + lower[None, :] * width
    return pair * (2 * NUM_OUT) + (number % (2 * NUM_OUT))[None, :]


@triton.jit
def _forward(
    x, bias, slope, y, num_pixels, height, width,
    NUM_OUT: tl.constexpr, IN_BLOCKS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    number = tl.arange(0, 4 * NUM_OUT)
    there = (pixel < num_pixels)[:, None]
    values = tl.load(x + pixel[:, None] * (4 * NUM_OUT) + number[None, :], mask=there, other=0.0)
    given = values.to(tl.float32) + tl.load(bias + number)[None, :].to(tl.float32)
    given = given.to(x.dtype.element_ty).to(tl.float32)
    factor = tl.load(slope).to(x.dtype.element_ty).to(tl.float32)
    result = tl.where(given > 0, given, given * factor)
    places = _places(pixel, number, height, width, NUM_OUT, IN_BLOCKS)
    tl.store(y + places, result.to(y.dtype.element_ty), mask=there)


@triton.jit
def _backward(
    gradient, x, bias, slope, to_x, parts, num_pixels, height, width,
    NUM_OUT: tl.constexpr, IN_BLOCKS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """The gradient of what was shuffled; a program's part of that of the bias, and behind it of the slope's."""
    number = tl.arange(0, 4 * NUM_OUT)
    of_bias = tl.load(bias + number)[None, :].to(tl.float32)
    factor = tl.load(slope).to(x.dtype.element_ty).to(tl.float32)
    bias_sum = tl.zeros((BLOCK_PIXELS, 4 * NUM_OUT), tl.float32)
    slope_sum = tl.zeros((BLOCK_PIXELS, 4 * NUM_OUT), tl.float32)
    step = tl.num_programs(0) * BLOCK_PIXELS
    for begin in range(tl.program_id(0) * BLOCK_PIXELS, num_pixels, step):
        pixel = begin + tl.arange(0, BLOCK_PIXELS)
        there = (pixel < num_pixels)[:, None]
        numbers = pixel[:, None] * (4 * NUM_OUT) + number[None, :]
        given = tl.load(x + numbers, mask=there, other=0.0).to(tl.float32) + of_bias
        given = given.to(x.dtype.element_ty).to(tl.float32)
        places = _places(pixel, number, height, width, NUM_OUT, IN_BLOCKS)
        values = tl.load(gradient + places, mask=there, other=0.0).to(tl.float32)
        result = tl.where(given > 0, values, values * factor).to(x.dtype.element_ty)
        tl.store(to_x + numbers, result, mask=there)
        bias_sum += result.to(tl.float32)
        slope_sum += tl.where(given > 0, 0.0, values * given)
    own = parts + tl.program_id(0) * (4 * NUM_OUT + 1)
    tl.store(own + number, tl.sum(bias_sum, axis=0))
    tl.store(own + 4 * NUM_OUT, tl.sum(slope_sum))


def forward(x_BCHW: Tensor, bias_C: Tensor, slope: Tensor, in_blocks: bool) -> Tensor:
    """The PReLU of images plus bias, shuffled: (B, C / 4, 2 H, 2 W), or in blocks (B, 4 C, H / 2, W / 2).

    Args:
        x_BCHW: in channels_last, as the result is; C is a power of two, and for blocks H and W are even.
        bias_C: in float32.
        slope: of one number, in float32.
    """
    num_pixels, height, width, num_out = _sizes(x_BCHW)
    y = _shuffled(x_BCHW, bias_C, slope, in_blocks)
    _forward[(triton.cdiv(num_pixels, _FORWARD_PIXELS),)](
        x_BCHW, bias_C, slope, y, num_pixels, height, width, num_out, in_blocks, _FORWARD_PIXELS, num_warps=4
    )
    return y


def gradients(
    gradient: Tensor, x_BCHW: Tensor, bias_C: Tensor, slope: Tensor, in_blocks: bool
) -> tuple[Tensor, Tensor]:
    """The gradient of `forward`'s images, and in float32 the parts, (programs, C + 1), of the bias' and the slope's."""
    num_pixels, height, width, num_out = _sizes(x_BCHW)
    to_x, parts = _gradients(gradient, x_BCHW, bias_C, slope, in_blocks)
    _backward[(len(parts),)](
        gradient, x_BCHW, bias_C, slope, to_x, parts, num_pixels, height, width, num_out, in_blocks, _BACKWARD_PIXELS,
        num_warps=4,
    )  # fmt: skip
    return to_x, parts


def _sizes(x_BCHW: Tensor) -> tuple[int, int, int, int]:
    """Pixels of all images, height, width, channels of a pixel behind the shuffle."""
    num_images, num_channels, height, width = x_BCHW.shape
    return num_images * height * width, height, width, num_channels // 4


def _shuffled(x_BCHW: Tensor, bias_C: Tensor, slope: Tensor, in_blocks: bool) -> Tensor:
    """Room for the result of `forward`."""
    num_images, num_channels, height, width = x_BCHW.shape
    shape = (4 * num_channels, height // 2, width // 2) if in_blocks else (num_channels // 4, 2 * height, 2 * width)
    return new_images(x_BCHW, (num_images, *shape))


def _gradients(
    gradient: Tensor, x_BCHW: Tensor, bias_C: Tensor, slope: Tensor, in_blocks: bool
) -> tuple[Tensor, Tensor]:
    """Room for the results of `gradients`."""
    num_pixels, *_ = _sizes(x_BCHW)
    num_programs = min(_BACKWARD_PROGRAMS, triton.cdiv(num_pixels, _BACKWARD_PIXELS))
    parts = x_BCHW.new_empty((num_programs, x_BCHW.shape[1] + 1), dtype=torch.float32)
    return new_images(x_BCHW, tuple(x_BCHW.shape)), parts


forward_op = torch.library.custom_op("harness::shuffle", forward, mutates_args=())
gradients_op = torch.library.custom_op("harness::shuffle_gradients", gradients, mutates_args=())
forward_op.register_fake(_shuffled)
gradients_op.register_fake(_gradients)
