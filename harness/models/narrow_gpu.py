"""Kernels for convolutions of 3 x 3 between few channels, with their gradients, on an NVIDIA GPU.

Imported only where torch's compiler is used on such a GPU: Triton compiles the kernels when they are first called.
Images are in channels_last and pixels numbered through all of a batch. The order of all sums is fixed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.models.from_image_gpu import new_images

IS_ON_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
"""The sizes below were chosen there; another GPU may have too little memory beside its processors for them."""
_PROCESSORS = 132
"""Of an H100 or H200."""
_WIDE, _NARROW = (128, 3), (64, 4)
"""Pixels of a program and stages of its loads: wide ones where they still give each processor one."""
_SUM_PIXELS, _SUM_STAGES = 64, 3


@triton.jit
def _product(
    x, weight, bias, y, num_pixels, height, width,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, IS_GRADIENT: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Some pixels of the convolution, or of its gradient: that is one by the turned window, from outputs to inputs."""
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    channel = tl.arange(0, NUM_IN)
    out = tl.arange(0, NUM_OUT)
    there = pixel < num_pixels
    row = pixel // width % height
    column = pixel % width
    total = tl.zeros((BLOCK_PIXELS, NUM_OUT), tl.float32)
    for place in range(9):
        down = place // 3 - 1
        right = place % 3 - 1
        inside = there & (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        near = (pixel + down * width + right)[:, None] * NUM_IN + channel[None, :]
        values = tl.load(x + near, mask=inside[:, None], other=0.0)
        if IS_GRADIENT:
            numbers = (channel * 9 + 8 - place)[:, None] * NUM_OUT + out[None, :]
        else:
            numbers = (out * 9 + place)[None, :] * NUM_IN + channel[:, None]
        total = tl.dot(values, tl.load(weight + numbers), total)
    if not IS_GRADIENT:
        total += tl.load(bias + out)[None, :]
    tl.store(y + pixel[:, None] * NUM_OUT + out[None, :], total.to(y.dtype.element_ty), mask=there[:, None])


@triton.jit
def _sums(
    x, gradient, sums, num_pixels, height, width, pixels_each,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """A program's share of the pixels: its sums for the three places of one row of the window, and for the bias."""
    window_row = tl.program_id(0)
    share = tl.program_id(1)
    down = window_row - 1
    channel = tl.arange(0, NUM_IN)
    out = tl.arange(0, NUM_OUT)
    first = share * pixels_each
    behind = tl.minimum(first + pixels_each, num_pixels)
    left_sum = tl.zeros((NUM_OUT, NUM_IN), tl.float32)
    middle_sum = tl.zeros((NUM_OUT, NUM_IN), tl.float32)
    right_sum = tl.zeros((NUM_OUT, NUM_IN), tl.float32)
    bias_sum = tl.zeros((NUM_OUT,), tl.float32)
    for begin in range(first, behind, BLOCK_PIXELS):
        pixel = begin + tl.arange(0, BLOCK_PIXELS)
        there = pixel < behind
        row = pixel // width % height + down
        column = pixel % width
        inside = there & (row >= 0) & (row < height)
        near = x + (pixel + down * width)[:, None] * NUM_IN + channel[None, :]
        values = tl.load(gradient + pixel[:, None] * NUM_OUT + out[None, :], mask=there[:, None], other=0.0)
        left = tl.load(near - NUM_IN, mask=(inside & (column > 0))[:, None], other=0.0)
        middle = tl.load(near, mask=inside[:, None], other=0.0)
        right = tl.load(near + NUM_IN, mask=(inside & (column < width - 1))[:, None], other=0.0)
        left_sum = tl.dot(tl.trans(values), left, left_sum)
        middle_sum = tl.dot(tl.trans(values), middle, middle_sum)
        right_sum = tl.dot(tl.trans(values), right, right_sum)
        if window_row == 0:
            bias_sum += tl.sum(values.to(tl.float32), axis=0)
    NUM_WEIGHTS: tl.constexpr = NUM_OUT * 9 * NUM_IN
    own = sums + share * (NUM_WEIGHTS + NUM_OUT)
    numbers = own + (out * 9 + window_row * 3)[:, None] * NUM_IN + channel[None, :]
    tl.store(numbers, left_sum)
    tl.store(numbers + NUM_IN, middle_sum)
    tl.store(numbers + 2 * NUM_IN, right_sum)
    if window_row == 0:
        tl.store(own + NUM_WEIGHTS + out, bias_sum)


def forward(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor) -> Tensor:
    """The convolution of stride 1 that keeps the size: (B, O, H, W) in the type of `x_BCHW`.

    Args:
        x_BCHW: in channels_last, as the result is; C is a power of two, 16 at least, and so is O.
        weight_OChw: 3 x 3, in channels_last and of the same type.
        bias_O: float32, or of the type of `x_BCHW`.
    """
    return _launched(x_BCHW, weight_OChw, bias_O, is_gradient=False)


def gradient(gradient_BOHW: Tensor, weight_OChw: Tensor) -> Tensor:
    """The gradient of `forward`'s input, (B, C, H, W), given its result's."""
    return _launched(gradient_BOHW, weight_OChw, weight_OChw, is_gradient=True)


def _launched(x: Tensor, weight_OChw: Tensor, bias: Tensor, is_gradient: bool) -> Tensor:
    num_images, num_in, height, width = x.shape
    num_out = weight_OChw.shape[1 if is_gradient else 0]
    num_pixels = num_images * height * width
    block, stages = _WIDE if num_pixels >= _PROCESSORS * _WIDE[0] else _NARROW
    y = new_images(x, (num_images, num_out, height, width))
    _product[(triton.cdiv(num_pixels, block),)](
        x, weight_OChw, bias, y, num_pixels, height, width, num_in, num_out, is_gradient, block,
        num_warps=4, num_stages=stages,
    )  # fmt: skip
    return y


def sums(x_BCHW: Tensor, gradient_BOHW: Tensor) -> Tensor:
    """What the gradients of `forward`'s weights and bias are the sum of over the first dimension, in float32.

    Each row holds numbers in the order of the weights in channels_last, and behind them those of the bias.
    """
    num_images, num_in, height, width = x_BCHW.shape
    num_out, num_pixels = gradient_BOHW.shape[1], num_images * height * width
    pixels_each, num_shares = _shares(num_pixels)
    result = x_BCHW.new_empty((num_shares, num_out * (9 * num_in + 1)), dtype=torch.float32)
    _sums[(3, num_shares)](
        x_BCHW, gradient_BOHW, result, num_pixels, height, width, pixels_each, num_in, num_out, _SUM_PIXELS,
        num_warps=4, num_stages=_SUM_STAGES,
    )  # fmt: skip
    return result


def _shares(num_pixels: int) -> tuple[int, int]:
    """(pixels of a share, shares), so that each processor has two programs."""
    pixels_each = triton.cdiv(triton.cdiv(num_pixels, 2 * _PROCESSORS // 3), _SUM_PIXELS) * _SUM_PIXELS
    return pixels_each, triton.cdiv(num_pixels, pixels_each)


forward_op = torch.library.custom_op("harness::narrow", forward, mutates_args=())
gradient_op = torch.library.custom_op("harness::narrow_gradient", gradient, mutates_args=())
sums_op = torch.library.custom_op("harness::narrow_sums", sums, mutates_args=())


@forward_op.register_fake
def _(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor) -> Tensor:
    return new_images(x_BCHW, (len(x_BCHW), len(weight_OChw), *x_BCHW.shape[2:]))


@gradient_op.register_fake
def _(gradient_BOHW: Tensor, weight_OChw: Tensor) -> Tensor:
    return new_images(gradient_BOHW, (len(gradient_BOHW), weight_OChw.shape[1], *gradient_BOHW.shape[2:]))


@sums_op.register_fake
def _(x_BCHW: Tensor, gradient_BOHW: Tensor) -> Tensor:
    num_in, num_out = x_BCHW.shape[1], gradient_BOHW.shape[1]
    _, num_shares = _shares(x_BCHW.shape[0] * x_BCHW.shape[2] * x_BCHW.shape[3])
    return x_BCHW.new_empty((num_shares, num_out * (9 * num_in + 1)), dtype=torch.float32)
