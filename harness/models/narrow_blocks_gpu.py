"""Residual blocks without batch norm in the kernels of `narrow_gpu`: a convolution and what is behind it in each.

What the blocks' convolutions were given, and the gradients of what they gave, lie side by side in memory, so that
their weights' gradients are computed at once (`narrow_sums_gpu`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.models.from_image_gpu import new_images
from harness.models.narrow_gpu import grid, launch


def forward(x_BCHW: Tensor, weights: Tensor, bias_LC: Tensor, slope_N: Tensor) -> tuple[Tensor, Tensor]:
    """The last block's images, and what is kept for the gradients.

    That is (3 N, B, H, W, C) for N blocks: what their first convolutions were given, what their second ones were, and
    what their PReLUs were.

    Args:
        x_BCHW: in channels_last, of C channels.
        weights: (2 N, C, 3, 3, C) of the blocks' first convolutions, then of their second ones: output, row, column,
            input; in the type of `x_BCHW`.
        bias_LC: (2 N, C) in float32, in the same order.
        slope_N: of the blocks' PReLUs, in float32.
    """
    num_blocks = len(slope_N)
    kept, y_BCHW = _kept(x_BCHW, num_blocks), _like(x_BCHW)
    given, between, before_prelu = (_as_images(kept[i * num_blocks : (i + 1) * num_blocks]) for i in range(3))
    given[0].copy_(x_BCHW)
    for i, second in enumerate(range(num_blocks, 2 * num_blocks)):
        launch(before_prelu[i], given[i], weights[i], bias_LC[i], slope=slope_N[i], behind=between[i])
        result = given[i + 1] if i + 1 < num_blocks else y_BCHW
        launch(result, between[i], weights[second], bias_LC[second], other=given[i])
    return y_BCHW, kept


def gradient(gradient_BCHW: Tensor, weights: Tensor, slope_N: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `forward`'s images; of what the convolutions gave, (2 N, B, H, W, C); parts of the slopes'."""
    num_blocks = len(slope_N)
    to_x, gradients, parts = _gradients(gradient_BCHW, weights, slope_N, kept)
    before_prelu = _as_images(kept[2 * num_blocks :])
    of_first, of_second = _as_images(gradients[:num_blocks]), _as_images(gradients[num_blocks:])
    of_second[-1].copy_(gradient_BCHW)
    for i in reversed(range(num_blocks)):
        launch(
            of_first[i], of_second[i], weights[num_blocks + i], other=before_prelu[i], slope=slope_N[i], behind=parts[i]
        )
        launch(of_second[i - 1] if i else to_x, of_first[i], weights[i], other=of_second[i])
    return to_x, gradients, parts


def _as_images(images: Tensor) -> Tensor:
    """From (N, B, H, W, C) to (N, B, C, H, W), in the same memory."""
    return images.permute(0, 1, 4, 2, 3)


def _like(x_BCHW: Tensor) -> Tensor:
    return new_images(x_BCHW, tuple(x_BCHW.shape))


def _kept(x_BCHW: Tensor, num_blocks: int) -> Tensor:
    num_images, num_channels, height, width = x_BCHW.shape
    return x_BCHW.new_empty((3 * num_blocks, num_images, height, width, num_channels))


def _gradients(gradient_BCHW: Tensor, weights: Tensor, slope_N: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the results of `gradient`."""
    parts = gradient_BCHW.new_empty((len(slope_N), grid(gradient_BCHW)[1]), dtype=torch.float32)
    return _like(gradient_BCHW), kept.new_empty((len(weights), *kept.shape[1:])), parts


forward_op = torch.library.custom_op("harness::narrow_blocks", forward, mutates_args=())
gradient_op = torch.library.custom_op("harness::narrow_blocks_gradient", gradient, mutates_args=())
gradient_op.register_fake(_gradients)


@forward_op.register_fake
def _(x_BCHW: Tensor, weights: Tensor, bias_LC: Tensor, slope_N: Tensor) -> tuple[Tensor, Tensor]:
    return _like(x_BCHW), _kept(x_BCHW, len(slope_N))
