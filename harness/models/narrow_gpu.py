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
    x, weight, bias, other, slope, y, behind, num_pixels, height, width,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    IS_GRADIENT: tl.constexpr, HAS_ADDED: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    """Some pixels of the convolution, or of its gradient: that is one by the turned window, from outputs to inputs.

    With HAS_ADDED, `other` is added. With HAS_SLOPE a PReLU is behind the convolution, and `behind` its result; or
    before what the gradient is of, and `other` is what the PReLU was given and `behind` this program's part of the
    gradient of its slope. All is rounded where it would be in operations of their own.
    """
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
    result = total.to(y.dtype.element_ty)
    numbers = pixel[:, None] * NUM_OUT + out[None, :]
    if HAS_ADDED:
        added = tl.load(other + numbers, mask=there[:, None], other=0.0)
        result = (result.to(tl.float32) + added.to(tl.float32)).to(result.dtype)
    if HAS_SLOPE:
        factor = tl.load(slope).to(result.dtype).to(tl.float32)
        if IS_GRADIENT:
            given = tl.load(other + numbers, mask=there[:, None], other=0.0)
            values = result.to(tl.float32)
            tl.store(behind + tl.program_id(0), tl.sum(tl.where(given > 0, 0.0, values * given.to(tl.float32))))
            result = tl.where(given > 0, values, values * factor).to(result.dtype)
        else:
            scaled = (result.to(tl.float32) * factor).to(result.dtype)
            tl.store(behind + numbers, tl.where(result > 0, result, scaled), mask=there[:, None])
    tl.store(y + numbers, result, mask=there[:, None])


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


def forward(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor, added_BOHW: Tensor | None = None) -> Tensor:
    """The convolution of stride 1 that keeps the size: (B, O, H, W) in the type of `x_BCHW`.

    Args:
        x_BCHW: in channels_last, as all images here; C is a power of two, 16 at least, and so is O.
        weight_OChw: 3 x 3, in channels_last and of the same type.
        bias_O: float32, or of the type of `x_BCHW`.
        added_BOHW: what is added to it, of the same type too.
    """
    y_BOHW = _result(x_BCHW, len(weight_OChw))
    _launch(y_BOHW, x_BCHW, weight_OChw, bias_O, other=added_BOHW)
    return y_BOHW


def forward_prelu(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The convolution as in `forward`, and the PReLU of that with a slope in float32, rounded as the images are."""
    y_BOHW, behind_BOHW = (_result(x_BCHW, len(weight_OChw)) for _ in range(2))
    _launch(y_BOHW, x_BCHW, weight_OChw, bias_O, slope=slope, behind=behind_BOHW)
    return y_BOHW, behind_BOHW


def gradient(gradient_BOHW: Tensor, weight_OChw: Tensor, added_BCHW: Tensor | None = None) -> Tensor:
    """The gradient of `forward`'s input, (B, C, H, W), given its result's; with something added to it."""
    to_x = _result(gradient_BOHW, weight_OChw.shape[1])
    _launch(to_x, gradient_BOHW, weight_OChw, other=added_BCHW)
    return to_x


def gradient_prelu(
    gradient_BOHW: Tensor, weight_OChw: Tensor, given_BCHW: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of what a PReLU before the convolution was given, and in float32 parts of that of its slope."""
    to_given = _result(gradient_BOHW, weight_OChw.shape[1])
    parts = gradient_BOHW.new_empty(_grid(gradient_BOHW)[1], dtype=torch.float32)
    _launch(to_given, gradient_BOHW, weight_OChw, other=given_BCHW, slope=slope, behind=parts)
    return to_given, parts


def _launch(
    y: Tensor,
    x: Tensor,
    weight_OChw: Tensor,
    bias: Tensor | None = None,
    other: Tensor | None = None,
    slope: Tensor | None = None,
    behind: Tensor | None = None,
) -> None:
    """The convolution if there is a bias, else its gradient; `other` is added unless there is a slope."""
    num_images, num_in, height, width = x.shape
    (block, stages), num_programs = _grid(x)
    is_gradient, has_added, has_slope = bias is None, other is not None and slope is None, slope is not None
    bias, other, slope, behind = (y if each is None else each for each in (bias, other, slope, behind))  # not read
    _product[(num_programs,)](
        x, weight_OChw, bias, other, slope, y, behind, num_images * height * width, height, width,
        num_in, y.shape[1], block, is_gradient, has_added, has_slope, num_warps=4, num_stages=stages,
    )  # fmt: skip


def _grid(x: Tensor) -> tuple[tuple[int, int], int]:
    """(pixels of a program and stages of its loads), programs."""
    num_pixels = x.shape[0] * x.shape[2] * x.shape[3]
    sizes = _WIDE if num_pixels >= _PROCESSORS * _WIDE[0] else _NARROW
    return sizes, triton.cdiv(num_pixels, sizes[0])


def _result(x: Tensor, num_channels: int) -> Tensor:
    return new_images(x, (len(x), num_channels, *x.shape[2:]))


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
forward_prelu_op = torch.library.custom_op("harness::narrow_prelu", forward_prelu, mutates_args=())
gradient_op = torch.library.custom_op("harness::narrow_gradient", gradient, mutates_args=())
gradient_prelu_op = torch.library.custom_op("harness::narrow_gradient_prelu", gradient_prelu, mutates_args=())
sums_op = torch.library.custom_op("harness::narrow_sums", sums, mutates_args=())


@forward_op.register_fake
def _(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor, added_BOHW: Tensor | None = None) -> Tensor:
    return _result(x_BCHW, len(weight_OChw))


@forward_prelu_op.register_fake
def _(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    return _result(x_BCHW, len(weight_OChw)), _result(x_BCHW, len(weight_OChw))


@gradient_op.register_fake
def _(gradient_BOHW: Tensor, weight_OChw: Tensor, added_BCHW: Tensor | None = None) -> Tensor:
    return _result(gradient_BOHW, weight_OChw.shape[1])


@gradient_prelu_op.register_fake
def _(gradient_BOHW: Tensor, weight_OChw: Tensor, given_BCHW: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    parts = gradient_BOHW.new_empty(_grid(gradient_BOHW)[1], dtype=torch.float32)
    return _result(gradient_BOHW, weight_OChw.shape[1]), parts


@sums_op.register_fake
def _(x_BCHW: Tensor, gradient_BOHW: Tensor) -> Tensor:
    num_in, num_out = x_BCHW.shape[1], gradient_BOHW.shape[1]
    _, num_shares = _shares(x_BCHW.shape[0] * x_BCHW.shape[2] * x_BCHW.shape[3])
    return x_BCHW.new_empty((num_shares, num_out * (9 * num_in + 1)), dtype=torch.float32)
