"""Doubling an image by a convolution and a pixel shuffle, which a compiled step on a GPU does in few passes.

What lies between the last two convolutions of SRGAN's generator is the largest tensor there is: a bias, a PReLU, and
copies in the order of pixels and blocks. The compiler makes six kernels of that, forward and backward, of 194 us for 32
images of 128 px on an H200. Here it is one each way, 36 and 64 us with the sums that bias' and slope's gradients need.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.models.conv import conv2d
from harness.models.layers import activation, num_doublings
from harness.models.narrow import is_compiled_for_gpu
from harness.models.prelu import has_one_slope
from harness.models.shuffle import ConvShuffle
from harness.models.to_image import ConvToImage

_CHANNELS = (16, 32, 64, 128)
_MOST_NUMBERS = 2**31
"""Of a tensor: the kernels count in 32 bits."""


class ShuffleUpsample(nn.Module):
    """Doubles height and width: a convolution to four times the channels, pixel shuffle, and an activation."""

    def __init__(self, num_channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv = ConvShuffle(num_channels, num_channels, block_px=2)
        self.activation = activation

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if has_kernels(x_BCHW, self):
            return self.by_kernels(x_BCHW, in_blocks=False)
        return self.activation(self.conv(x_BCHW))

    def by_kernels(self, x_BCHW: Tensor, in_blocks: bool) -> Tensor:
        """The result, or with `in_blocks` what `gather_pixels` makes of it for blocks of 4 pixels."""
        weight, bias = self.conv.by_pixels()
        y_BCHW = conv2d(x_BCHW, weight, None, padding=self.conv.kernel_size[0] // 2)
        y_BCHW = y_BCHW.contiguous(memory_format=torch.channels_last)
        result: Tensor = _OnGpu.apply(y_BCHW, bias, self.activation.weight, in_blocks)
        return result


def shuffle_stages(num_channels: int, scale: int, name: str, slope: float = 0.2) -> nn.Sequential:
    """The doublings up to `scale`, each with the activation called `name`.

    A shuffle's result is a view, of which an operation in place would make four copies in the backward pass.
    """
    between = (activation(name, slope, in_place=False) for _ in range(num_doublings(scale)))
    return nn.Sequential(*(ShuffleUpsample(num_channels, layer) for layer in between))


def has_kernels(x_BCHW: Tensor, stage: ShuffleUpsample) -> bool:
    """Whether a stage is one with a PReLU of one slope, in compiled code for a GPU."""
    num_channels = stage.conv.in_channels
    return (
        is_compiled_for_gpu(x_BCHW)
        and has_one_slope(stage.activation)
        and num_channels in _CHANNELS
        and 4 * num_channels * x_BCHW[:, 0].numel() < _MOST_NUMBERS
    )


def upsample_to_image(stages: nn.Sequential, last: nn.Module, x_BCHW: Tensor) -> Tensor:
    """What the last layer makes of the stages' result."""
    if not is_compiled_for_gpu(x_BCHW):
        image_BCHW: Tensor = last(stages(x_BCHW))
        return image_BCHW
    for stage in stages[:-1]:
        x_BCHW = stage(x_BCHW)
    stage, is_even = stages[-1], x_BCHW.shape[-2] % 2 == x_BCHW.shape[-1] % 2 == 0
    if isinstance(last, ConvToImage) and isinstance(stage, ShuffleUpsample) and is_even and has_kernels(x_BCHW, stage):
        return last.of_blocks(stage.by_kernels(x_BCHW, in_blocks=True))
    return last(stage(x_BCHW))  # type: ignore[no-any-return]


class _OnGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, bias: Tensor, slope: Tensor, in_blocks: bool) -> Tensor:
        from harness.models.gpu.shuffle import forward_op

        ctx.save_for_backward(x_BCHW, bias, slope)
        ctx.in_blocks = in_blocks
        return forward_op(x_BCHW, bias, slope, in_blocks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from harness.models.gpu.shuffle import gradients_op

        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_x, parts = gradients_op(gradient, *ctx.saved_tensors, ctx.in_blocks)
        sums = parts.sum(0)
        return to_x, sums[:-1], sums[-1:], None
