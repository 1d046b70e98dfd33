"""Convolutions to the three channels of an image, which take less than half of the time here.

A convolution computes 16 output channels at a time or more, so with 3 of them most of the work is thrown away: the
last layer of SRGAN's generator (9 x 9, 64 channels to 3) takes a quarter of its pixel step. Here each block of output
pixels is computed as the channels of one pixel, by the kernel shifted to each place of the block: the same products,
and sums in the same order.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.shuffle import gather_pixels, is_exported, shuffle_pixels

_BLOCK_PX = {"cpu": 2, "cuda": 4}
"""12 channels fill the 16 lanes of a CPU; a GPU's matrix units take 64 channels as quickly as 3."""


class ConvToImage(nn.Conv2d):
    """A convolution of stride 1 that keeps the size; its kernel is odd, and 5 or more for this to pay."""

    def forward(self, input: Tensor) -> Tensor:
        block_px = _BLOCK_PX.get(input.device.type)
        height, width = input.shape[-2:]
        if block_px is None or height % block_px or width % block_px or is_exported(input):
            return super().forward(input)
        if input.device.type == "cpu":
            return self._strided(input, block_px)
        return self.of_blocks(gather_pixels(input, block_px), block_px)

    def _strided(self, image_BCHW: Tensor, block_px: int) -> Tensor:
        """By a convolution that takes a block's step."""
        weight = _shifted(self.weight, block_px)
        padding = (weight.shape[-1] - block_px) // 2
        blocks_BCHW = F.conv2d(image_BCHW, weight, self._bias(block_px), stride=block_px, padding=padding)
        return shuffle_pixels(blocks_BCHW, block_px)

    def of_blocks(self, blocks_BCHW: Tensor, block_px: int = _BLOCK_PX["cuda"]) -> Tensor:
        """By one of blocks, which `gather_pixels` makes: 3 x 3 for a kernel of 9 x 9, as GPU libraries like it."""
        weight = _shifted(self.weight, block_px)
        missing = -(weight.shape[-1] - block_px) // 2 % block_px
        weight = F.pad(weight, [missing] * 4).unflatten(3, (-1, block_px)).unflatten(2, (-1, block_px))
        weight = weight.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
        y_BCHW = F.conv2d(blocks_BCHW, weight, self._bias(block_px), padding=weight.shape[-1] // 2)
        return shuffle_pixels(y_BCHW, block_px)

    def _bias(self, block_px: int) -> Tensor | None:
        return None if self.bias is None else self.bias.repeat(block_px**2)


def _shifted(weight_OIHW: Tensor, block_px: int) -> Tensor:
    """The kernel at each place of a block, (block^2 O, I, H + block - 1, W + ...)."""
    rest = block_px - 1
    kernel = weight_OIHW.shape[-1] + rest
    # A window that begins further to the right in the padded kernel holds the kernel further to the left.
    windows = F.pad(weight_OIHW, (rest, rest, rest, rest)).unfold(2, kernel, 1).unfold(3, kernel, 1)
    return windows.flip(2, 3).permute(2, 3, 0, 1, 4, 5).flatten(0, 2)
