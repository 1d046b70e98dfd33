"""Kernels for convolutions of 3 x 3 between few channels, and their gradients, on an NVIDIA GPU.

Imported only where torch's compiler is used on such a GPU: Triton compiles the kernels when they are first called.
Images are in channels_last and pixels numbered through all of a batch. The order of all sums is fixed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.models.gpu.from_image import new_images

IS_ON_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
"""The sizes below were chosen there; another GPU may have too little memory beside its processors for them."""
PROCESSORS = 132
"""Of an H100 or H200."""
_WIDE, _NARROW = (128, 8, 3), (64, 4, 4)
"""Pixels and warps of a program, and stages of its loads: wide ones where they still give each processor one."""


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


def forward(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor) -> Tensor:
    """The convolution of stride 1 that keeps the size: (B, O, H, W) in the type of `x_BCHW`.

    Args:
        x_BCHW: in channels_last, as all images here; C is a power of two, 16 at least, and so is O.
        weight_OChw: 3 x 3, in channels_last and of the same type.
        bias_O: float32, or of the type of `x_BCHW`.
    """
    y_BOHW = _result(x_BCHW, len(weight_OChw))
    launch(y_BOHW, x_BCHW, weight_OChw, bias_O)
    return y_BOHW


def gradient(gradient_BOHW: Tensor, weight_OChw: Tensor) -> Tensor:
    """The gradient of `forward`'s input, (B, C, H, W), given its result's."""
    to_x = _result(gradient_BOHW, weight_OChw.shape[1])
    launch(to_x, gradient_BOHW, weight_OChw)
    return to_x


def _result(x_BCHW: Tensor, num_channels: int) -> Tensor:
    return new_images(x_BCHW, (len(x_BCHW), num_channels, *x_BCHW.shape[2:]))


def launch(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    other: Tensor | None = None,
    slope: Tensor | None = None,
    behind: Tensor | None = None,
) -> None:
    """The convolution if there is a bias, else its gradient, into `y`; see `_product`.

    Args:
        y: (B, O, H, W) in channels_last, as `x` of C channels and what else are images; of a gradient C and O swapped.
        other: what is added, unless there is a slope.
    """
    num_images, num_in, height, width = x.shape
    (block, num_warps, num_stages), num_programs = grid(x)
    is_gradient, has_added, has_slope = bias is None, other is not None and slope is None, slope is not None
    bias, other, slope, behind = (y if each is None else each for each in (bias, other, slope, behind))  # not read
    _product[(num_programs,)](
        x, weight, bias, other, slope, y, behind, num_images * height * width, height, width,
        num_in, y.shape[1], block, is_gradient, has_added, has_slope, num_warps=num_warps, num_stages=num_stages,
    )  # fmt: skip


def grid(x_BCHW: Tensor) -> tuple[tuple[int, int, int], int]:
    """(pixels and warps of a program, stages of its loads), programs."""
    num_pixels = x_BCHW.shape[0] * x_BCHW.shape[2] * x_BCHW.shape[3]
    sizes = _WIDE if num_pixels >= PROCESSORS * _WIDE[0] else _NARROW
    return sizes, triton.cdiv(num_pixels, sizes[0])


forward_op = torch.library.custom_op("harness::narrow", forward, mutates_args=())
gradient_op = torch.library.custom_op("harness::narrow_gradient", gradient, mutates_args=())


@forward_op.register_fake
def _(x_BCHW: Tensor, weight_OChw: Tensor, bias_O: Tensor) -> Tensor:
    return _result(x_BCHW, len(weight_OChw))


@gradient_op.register_fake
def _(gradient_BOHW: Tensor, weight_OChw: Tensor) -> Tensor:
    return _result(gradient_BOHW, weight_OChw.shape[1])
