"""Kernels for convolutions from an image's few channels, with bias and leaky ReLU, on an NVIDIA GPU.

Imported only where torch's compiler is used on such a GPU: Triton compiles the kernels when they are first called.
Images are in channels_last and pixels numbered through all of a batch; a window is a row of numbers in the order (row,
column, channel). The order of all sums is fixed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_WINDOW = 32
_FORWARD_PIXELS, _BACKWARD_PIXELS = 128, 64
_BACKWARD_PROGRAMS = 264
"""Two for each processor of an H100."""


@triton.jit
def _windows(x, pixel, place, there, height, width, NUM_IN: tl.constexpr, KERNEL: tl.constexpr):
    """Numbers `place` of the windows around some pixels, 0 where they lie outside of the image."""
    down = place // NUM_IN // KERNEL - KERNEL // 2
    right = place // NUM_IN % KERNEL - KERNEL // 2
    row = (pixel // width % height)[:, None] + down[None, :]
    column = (pixel % width)[:, None] + right[None, :]
    inside = there[:, None] & (place < KERNEL * KERNEL * NUM_IN)[None, :]
    inside = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    offset = (down * width + right) * NUM_IN + place % NUM_IN
    return tl.load(x + pixel[:, None] * NUM_IN + offset[None, :], mask=inside, other=0.0)


@triton.jit
def _forward(
    x, weight, bias, y, num_pixels, height, width, slope,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, KERNEL: tl.constexpr,
    BLOCK_WINDOW: tl.constexpr, BLOCK_PIXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    NUM_PLACES: tl.constexpr = KERNEL * KERNEL * NUM_IN
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    out = tl.arange(0, NUM_OUT)
    there = pixel < num_pixels
    total = tl.zeros((BLOCK_PIXELS, NUM_OUT), tl.float32)
    for begin in tl.static_range(0, NUM_PLACES, BLOCK_WINDOW):
        place = begin + tl.arange(0, BLOCK_WINDOW)
        windows = _windows(x, pixel, place, there, height, width, NUM_IN, KERNEL)
        weights = weight + out[None, :] * NUM_PLACES + place[:, None]
        values = tl.load(weights, mask=(place < NUM_PLACES)[:, None], other=0.0)
        total = tl.dot(windows, values, total, input_precision=PRECISION)
    total += tl.load(bias + out)[None, :]
    total = tl.where(total > 0, total, total * slope)
    tl.store(y + pixel[:, None] * NUM_OUT + out[None, :], total.to(y.dtype.element_ty), mask=there[:, None])


@triton.jit
def _backward(
    x, y, gradient, to_weight, to_bias, num_pixels, height, width, pixels_each, slope,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, KERNEL: tl.constexpr,
    BLOCK_WINDOW: tl.constexpr, BLOCK_PIXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program's share of the pixels: its sums for some places of the windows."""
    NUM_PLACES: tl.constexpr = KERNEL * KERNEL * NUM_IN
    place = tl.program_id(0) * BLOCK_WINDOW + tl.arange(0, BLOCK_WINDOW)
    out = tl.arange(0, NUM_OUT)
    share = tl.program_id(1)
    first = share * pixels_each
    behind = tl.minimum(first + pixels_each, num_pixels)
    weight_sum = tl.zeros((BLOCK_WINDOW, NUM_OUT), tl.float32)
    bias_sum = tl.zeros((NUM_OUT,), tl.float32)
    for begin in range(first, behind, BLOCK_PIXELS):
        pixel = begin + tl.arange(0, BLOCK_PIXELS)
        there = pixel < behind
        windows = _windows(x, pixel, place, there, height, width, NUM_IN, KERNEL)
        numbers = pixel[:, None] * NUM_OUT + out[None, :]
        values = tl.load(gradient + numbers, mask=there[:, None], other=0.0)
        is_positive = tl.load(y + numbers, mask=there[:, None], other=0.0) > 0
        values = tl.where(is_positive, values, (values.to(tl.float32) * slope).to(values.dtype))
        weight_sum = tl.dot(tl.trans(windows), values, weight_sum, input_precision=PRECISION)
        bias_sum += tl.sum(values.to(tl.float32), axis=0)
    numbers = (share * NUM_OUT + out[None, :]) * NUM_PLACES + place[:, None]
    tl.store(to_weight + numbers, weight_sum, mask=(place < NUM_PLACES)[:, None])
    if tl.program_id(0) == 0:
        tl.store(to_bias + share * NUM_OUT + out, bias_sum)


def forward(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor, slope: float) -> Tensor:
    """The convolution of stride 1 that keeps the size, bias and leaky ReLU: (B, O, H, W) in the type of `x_BCHW`.

    Args:
        x_BCHW: in channels_last, as the result is.
        weight_OChw: of an odd kernel, in channels_last and of the same type; O is a power of two, 16 at least.
        bias_O: float32.
        slope: of negative values; 1 for no activation.
    """
    num_out, num_in, kernel, _ = weight_OChw.shape
    num_images, _, height, width = x_BCHW.shape
    num_pixels = num_images * height * width
    y_BOHW = new_images(x_BCHW, (num_images, num_out, height, width))
    _forward[(triton.cdiv(num_pixels, _FORWARD_PIXELS),)](
        x_BCHW, weight_OChw, bias_O, y_BOHW, num_pixels, height, width, slope,
        num_in, num_out, kernel, _BLOCK_WINDOW, _FORWARD_PIXELS, _precision(), num_warps=4,
    )  # fmt: skip
    return y_BOHW


def gradients(
    x_BCHW: Tensor, y_BOHW: Tensor, gradient_BOHW: Tensor, kernel: int, slope: float
) -> tuple[Tensor, Tensor]:
    """Gradients in float32 of `forward`'s weights and bias, given its result and that one's gradient."""
    num_images, num_in, height, width = x_BCHW.shape
    num_out, num_pixels = y_BOHW.shape[1], num_images * height * width
    num_blocks = triton.cdiv(kernel * kernel * num_in, _BLOCK_WINDOW)
    pixels_each = triton.cdiv(num_pixels, max(1, _BACKWARD_PROGRAMS // num_blocks))
    pixels_each = triton.cdiv(pixels_each, _BACKWARD_PIXELS) * _BACKWARD_PIXELS
    num_shares = triton.cdiv(num_pixels, pixels_each)
    to_weight = x_BCHW.new_empty((num_shares, num_out, kernel, kernel, num_in), dtype=torch.float32)
    to_bias = x_BCHW.new_empty((num_shares, num_out), dtype=torch.float32)
    _backward[(num_blocks, num_shares)](
        x_BCHW, y_BOHW, gradient_BOHW, to_weight, to_bias, num_pixels, height, width, pixels_each, slope,
        num_in, num_out, kernel, _BLOCK_WINDOW, _BACKWARD_PIXELS, _precision(), num_warps=4, num_stages=3,
    )  # fmt: skip
    return to_weight.sum(0).permute(0, 3, 1, 2), to_bias.sum(0)


def new_images(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Room for images in channels_last. Kept in another order, the compiler would have them copied to and fro."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _precision() -> str:
    return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"


forward_op = torch.library.custom_op("harness::from_image", forward, mutates_args=())
gradients_op = torch.library.custom_op("harness::from_image_gradients", gradients, mutates_args=())


@forward_op.register_fake
def _(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor, slope: float) -> Tensor:
    return new_images(x_BCHW, (len(x_BCHW), len(weight_OChw), *x_BCHW.shape[2:]))


@gradients_op.register_fake
def _(x_BCHW: Tensor, y_BOHW: Tensor, gradient_BOHW: Tensor, kernel: int, slope: float) -> tuple[Tensor, Tensor]:
    num_in, num_out = x_BCHW.shape[1], y_BOHW.shape[1]
    to_weight = x_BCHW.new_empty((num_out, kernel, kernel, num_in), dtype=torch.float32).permute(0, 3, 1, 2)
    return to_weight, x_BCHW.new_empty((num_out,), dtype=torch.float32)
