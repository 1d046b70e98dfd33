"""Convolutions to the three channels of an image, which on a CPU take less than half of the time here.

A CPU's convolution computes 16 output channels at a time, so with 3 of them most of the work is thrown away: the last
layer of SRGAN's generator (9 x 9, 64 channels to 3) takes a quarter of its pixel step. Here each block of 2 x 2 output
pixels is computed as 12 channels of one pixel, by the kernel shifted to its four places: the same products, and sums
in the same order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BLOCK_PX = 2


class ConvToImage(nn.Conv2d):
    """A convolution of stride 1 that keeps the size; its kernel is odd, and 5 or more for this to pay."""

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[-2:]
        even = height % _BLOCK_PX == 0 and width % _BLOCK_PX == 0
        if input.device.type != "cpu" or torch.compiler.is_compiling() or not even:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.repeat_interleave(_BLOCK_PX**2)
        blocks = F.conv2d(input, _shifted(self.weight), bias, stride=_BLOCK_PX, padding=self.padding)
        return F.pixel_shuffle(blocks, _BLOCK_PX)


def _shifted(weight_OIHW: Tensor) -> Tensor:
    """The kernel at each place of a block, in the order of a pixel shuffle: (4 O, I, H + 1, W + 1)."""
    rest = _BLOCK_PX - 1
    places = [(right, rest - right, down, rest - down) for down in range(_BLOCK_PX) for right in range(_BLOCK_PX)]
    return torch.stack([F.pad(weight_OIHW, place) for place in places], dim=1).flatten(0, 1)
