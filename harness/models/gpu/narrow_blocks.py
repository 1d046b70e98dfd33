"""Residual blocks without batch norm in the kernels of `narrow`: a convolution and what is behind it in each.

What the blocks' convolutions were given, and the gradients of what they gave, lie side by side in memory, so that
their weights' gradients are computed at once (`narrow_sums`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.models.gpu.from_image import new_images
from harness.models.gpu.narrow import grid, launch

_PIECES = 4
"""Of a layer's weights, when all are cast at once: whole ones would be work for a few processors only."""


def forward(
    x_BCHW: Tensor, weights: list[Tensor], biases: list[Tensor], slopes: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The last block's images, and what is kept for the gradients.

    That is (2 N, C, 3, 3, C), the weights of N blocks in the type of the images: output, row, column, input; and
    (3 N, B, H, W, C): what their first convolutions were given, what their second ones were, what their PReLUs were.

    Args:
        x_BCHW: in channels_last, of C channels.
        weights: of the blocks' first convolutions, then of their second ones: (C, C, 3, 3) in channels_last, float32.
        biases: (C,) in float32, in the same order.
        slopes: of the blocks' PReLUs, (1,) in float32.
    """
    num_blocks = len(slopes)
    y_BCHW, in_type, kept = _kept(x_BCHW, weights, biases, slopes)
    cast = in_type.permute(0, 1, 4, 2, 3)
    torch._foreach_copy_(
        [piece for each in cast for piece in each.chunk(_PIECES)],
        [piece for each in weights for piece in each.chunk(_PIECES)],
    )
    given, between, before_prelu = (_as_images(kept[i * num_blocks : (i + 1) * num_blocks]) for i in range(3))
    given[0].copy_(x_BCHW)
    for i, second in enumerate(range(num_blocks, 2 * num_blocks)):
        launch(before_prelu[i], given[i], cast[i], biases[i], slope=slopes[i], behind=between[i])
        result = given[i + 1] if i + 1 < num_blocks else y_BCHW
        launch(result, between[i], cast[second], biases[second], other=given[i])
    return y_BCHW, in_type, kept


def gradient(
    gradient_BCHW: Tensor, in_type: Tensor, slopes: list[Tensor], kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `forward`'s images; of what the convolutions gave, (2 N, B, H, W, C); parts of the slopes'."""
    num_blocks = len(slopes)
    to_x, gradients, parts = _gradients(gradient_BCHW, in_type, slopes, kept)
    cast = in_type.permute(0, 1, 4, 2, 3)
    before_prelu = _as_images(kept[2 * num_blocks :])
    of_first, of_second = _as_images(gradients[:num_blocks]), _as_images(gradients[num_blocks:])
    of_second[-1].copy_(gradient_BCHW)
    for i in reversed(range(num_blocks)):
        of_prelu = {"other": before_prelu[i], "slope": slopes[i], "behind": parts[i]}
        launch(of_first[i], of_second[i], cast[num_blocks + i], **of_prelu)
        launch(of_second[i - 1] if i else to_x, of_first[i], cast[i], other=of_second[i])
    return to_x, gradients, parts


def _as_images(images: Tensor) -> Tensor:
    """From (N, B, H, W, C) to (N, B, C, H, W), in the same memory."""
    return images.permute(0, 1, 4, 2, 3)


def _like(x_BCHW: Tensor) -> Tensor:
    return new_images(x_BCHW, tuple(x_BCHW.shape))


def _kept(
    x_BCHW: Tensor, weights: list[Tensor], biases: list[Tensor], slopes: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the results of `forward`."""
    num_images, num_channels, height, width = x_BCHW.shape
    in_type = x_BCHW.new_empty((len(weights), num_channels, 3, 3, num_channels))
    kept = x_BCHW.new_empty((3 * len(slopes), num_images, height, width, num_channels))
    return _like(x_BCHW), in_type, kept


def _gradients(
    gradient_BCHW: Tensor, in_type: Tensor, slopes: list[Tensor], kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the results of `gradient`."""
    parts = gradient_BCHW.new_empty((len(slopes), grid(gradient_BCHW)[1]), dtype=torch.float32)
    return _like(gradient_BCHW), kept.new_empty((len(in_type), *kept.shape[1:])), parts


forward_op = torch.library.custom_op("harness::narrow_blocks", forward, mutates_args=())
gradient_op = torch.library.custom_op("harness::narrow_blocks_gradient", gradient, mutates_args=())
forward_op.register_fake(_kept)
gradient_op.register_fake(_gradients)
