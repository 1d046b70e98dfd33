"""The kernel for the gradients of weights and biases of convolutions of 3 x 3 between few channels.

Those of one layer keep a GPU busy for so short a time that most of it goes into beginning and ending, and into adding
up what many programs found. So the layers of a whole trunk are computed at once. See `narrow`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.models.gpu.narrow import PROCESSORS

_BLOCK_PIXELS, _STAGES = 128, 2
_PROGRAMS_AT_ONCE = 2 * PROCESSORS
_WELL_FILLED = 0.9


@triton.jit
def _sums(
    x, gradient, sums, num_pixels, height, width, pixels_each, num_shares,
    NUM_IN: tl.constexpr, NUM_OUT: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """A program's share of a layer's pixels: its sums for one column of the window, and for the bias."""
    window_column = tl.program_id(0)
    share = tl.program_id(1)
    layer = tl.program_id(2).to(tl.int64)
    right = window_column - 1
    channel = tl.arange(0, NUM_IN)
    out = tl.arange(0, NUM_OUT)
    x += layer * num_pixels * NUM_IN
    gradient += layer * num_pixels * NUM_OUT
    first = share * pixels_each
    behind = tl.minimum(first + pixels_each, num_pixels)
    up_sum = tl.zeros((NUM_OUT, NUM_IN), tl.float32)
    middle_sum = tl.zeros((NUM_OUT, NUM_IN), tl.float32)
    down_sum = tl.zeros((NUM_OUT, NUM_IN), tl.float32)
    bias_sum = tl.zeros((NUM_OUT,), tl.float32)
    for begin in range(first, behind, BLOCK_PIXELS):
        pixel = begin + tl.arange(0, BLOCK_PIXELS)
        there = pixel < behind
        row = pixel // width % height
        column = pixel % width - right
        # What lies to the right in the window is met by a gradient to the left of it.
        beside = gradient + (pixel - right)[:, None] * NUM_OUT + out[None, :]
        values = tl.load(beside, mask=(there & (column >= 0) & (column < width))[:, None], other=0.0)
        near = x + pixel[:, None] * NUM_IN + channel[None, :]
        up = tl.load(near - width * NUM_IN, mask=(there & (row > 0))[:, None], other=0.0)
        middle = tl.load(near, mask=there[:, None], other=0.0)
        down = tl.load(near + width * NUM_IN, mask=(there & (row < height - 1))[:, None], other=0.0)
        up_sum = tl.dot(tl.trans(values), up, up_sum)
        middle_sum = tl.dot(tl.trans(values), middle, middle_sum)
        down_sum = tl.dot(tl.trans(values), down, down_sum)
        if window_column == 1:
            bias_sum += tl.sum(values.to(tl.float32), axis=0)
    NUM_WEIGHTS: tl.constexpr = NUM_OUT * 9 * NUM_IN
    own = sums + (layer * num_shares + share) * (NUM_WEIGHTS + NUM_OUT)
    numbers = own + (out * 9 + window_column)[:, None] * NUM_IN + channel[None, :]
    tl.store(numbers, up_sum)
    tl.store(numbers + 3 * NUM_IN, middle_sum)
    tl.store(numbers + 6 * NUM_IN, down_sum)
    if window_column == 1:
        tl.store(own + NUM_WEIGHTS + out, bias_sum)


def sums(x_LBHWC: Tensor, gradient_LBHWO: Tensor) -> Tensor:
    """What the gradients of each layer's weights and bias are the sum of over the second dimension, in float32.

    (L, shares, numbers): numbers in the order of the weights in channels_last, and behind them those of the bias.

    Args:
        x_LBHWC: what the L convolutions were given, side by side in memory; of one, or of several of one size.
        gradient_LBHWO: the gradients of their results.
    """
    num_layers, num_images, height, width, num_in = x_LBHWC.shape
    num_pixels = num_images * height * width
    pixels_each, num_shares = shares(num_layers, num_pixels)
    result = _result(x_LBHWC, gradient_LBHWO)
    _sums[(3, num_shares, num_layers)](
        x_LBHWC, gradient_LBHWO, result, num_pixels, height, width, pixels_each, num_shares,
        num_in, gradient_LBHWO.shape[-1], _BLOCK_PIXELS, num_warps=4, num_stages=_STAGES,
    )  # fmt: skip
    return result


def shares(num_layers: int, num_pixels: int) -> tuple[int, int]:
    """(pixels of a share, shares of a layer): programs all at once, or in as few turns as leave few processors idle."""
    wanted, turns, programs = 0, 0, 3 * num_layers
    while wanted * programs < _WELL_FILLED * turns * _PROGRAMS_AT_ONCE or not wanted:
        turns += 1
        wanted = turns * _PROGRAMS_AT_ONCE // programs
    pixels_each = triton.cdiv(triton.cdiv(num_pixels, wanted), _BLOCK_PIXELS) * _BLOCK_PIXELS
    return pixels_each, triton.cdiv(num_pixels, pixels_each)


def _result(x_LBHWC: Tensor, gradient_LBHWO: Tensor) -> Tensor:
    num_layers, num_images, height, width, num_in = x_LBHWC.shape
    _, num_shares = shares(num_layers, num_images * height * width)
    num_out = gradient_LBHWO.shape[-1]
    return x_LBHWC.new_empty((num_layers, num_shares, num_out * (9 * num_in + 1)), dtype=torch.float32)


sums_op = torch.library.custom_op("harness::narrow_sums", sums, mutates_args=())
sums_op.register_fake(_result)
