"""Batch norm of several sets of images in one batch, each by its own statistics.

So a discriminator looks at real and generated images in one pass and computes what it would in two: the running
statistics take the sets in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, over each of `num_sets` equal parts of the batch."""

    num_sets = 1

    def forward(self, input: Tensor) -> Tensor:
        if self.num_sets == 1:
            return super().forward(input)
        return torch.cat([nn.BatchNorm2d.forward(self, images) for images in input.chunk(self.num_sets)])


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
