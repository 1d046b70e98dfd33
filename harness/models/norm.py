"""Batch norm of several sets of images in one batch, each by its own statistics.

So a discriminator looks at real and generated images in one pass and computes what it would in two: the running
statistics take the sets in turn. It is written out for torch's compiler, which makes as few passes over the images of
it as over those of one set; norms of parts, joined again, would take twice as many, and copy each part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, with statistics of each of `num_sets` equal parts of the batch."""

    num_sets = 1

    def forward(self, input: Tensor) -> Tensor:
        if self.num_sets == 1 or not self.training:
            return super().forward(input)
        y, mean_SC, var_SC = _OfSets.apply(input, self.weight, self.bias, self.num_sets, self.eps)
        self._follow(mean_SC, var_SC, input.numel() // mean_SC.numel())
        return y  # type: ignore[no-any-return]

    @torch.no_grad()
    def _follow(self, mean_SC: Tensor, var_SC: Tensor, num_values: int) -> None:
        """Moves the running statistics by those of each set, of which a variance is of so many values."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        for mean_C, var_C in zip(mean_SC, var_SC * (num_values / (num_values - 1))):
            self.running_mean.mul_(1 - self.momentum).add_(mean_C * self.momentum)
            self.running_var.mul_(1 - self.momentum).add_(var_C * self.momentum)
        self.num_batches_tracked.add_(self.num_sets)


class _OfSets(torch.autograd.Function):
    """The normalised images in their type, and each set's mean and variance in float32 or more."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight: Tensor, bias: Tensor, num_sets: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x_BCHW.to(weight.dtype)
        var_SC, mean_SC = torch.var_mean(x.unflatten(0, (num_sets, -1)), (1, 3, 4), correction=0)
        scale_SC = torch.rsqrt(var_SC + eps)
        ctx.save_for_backward(x_BCHW, weight, mean_SC, scale_SC)
        ctx.mark_non_differentiable(mean_SC, var_SC)
        y = _normalised(x, mean_SC, scale_SC) * weight[:, None, None] + bias[:, None, None]
        if y.dtype != x_BCHW.dtype:  # torch 2.11 would compile a cast to the same type into gradients that are all 0
            y = y.to(x_BCHW.dtype)
        return y, mean_SC, var_SC

    @staticmethod
    def backward(ctx: Any, gradient_BCHW: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight, mean_SC, scale_SC = ctx.saved_tensors
        normalised = _normalised(x_BCHW.to(weight.dtype), mean_SC, scale_SC)
        gradient = gradient_BCHW.to(weight.dtype)
        num_values = gradient.numel() // mean_SC.numel()
        to_bias_SC, to_weight_SC = (
            values.unflatten(0, (len(mean_SC), -1)).sum((1, 3, 4)) for values in (gradient, gradient * normalised)
        )
        along_SC = to_bias_SC / num_values, to_weight_SC / num_values
        mean_part, scale_part = (_of_images(values, len(gradient)) for values in along_SC)
        to_x = (gradient - mean_part - normalised * scale_part) * _of_images(scale_SC * weight, len(gradient))
        to_bias, to_weight = torch.stack((to_bias_SC, to_weight_SC)).sum(1)
        return to_x.to(x_BCHW.dtype), to_weight, to_bias, None, None


def _normalised(x_BCHW: Tensor, mean_SC: Tensor, scale_SC: Tensor) -> Tensor:
    return (x_BCHW - _of_images(mean_SC, len(x_BCHW))) * _of_images(scale_SC, len(x_BCHW))


def _of_images(values_SC: Tensor, num_images: int) -> Tensor:
    """The values of each image's set: (B, C, 1, 1)."""
    num_sets, num_channels = values_SC.shape
    expanded = values_SC[:, None].expand(num_sets, num_images // num_sets, num_channels)
    return expanded.reshape(num_images, num_channels, 1, 1)


@contextmanager
def in_sets(network: nn.Module, num_sets: int) -> Iterator[None]:
    """Within, a batch consists of so many sets of images for every batch norm of the network."""
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    for norm in norms:
        norm.num_sets = num_sets
    try:
        yield
    finally:
        for norm in norms:
            norm.num_sets = 1
