"""Spectral norm: a layer's weight divided by its largest singular value (Miyato et al. 2018).

torch's own version estimates the singular value in bfloat16 under autocast, which is off by up to half a percent and
different in every step; here the estimate is always float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

_FIRST_ITERATIONS = 16


class SpectralNorm(nn.Module):
    """The parametrisation: one power iteration at each use while training, none in evaluation."""

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.register_buffer("left", F.normalize(weight.new_empty(rows).normal_(), dim=0))
        self.register_buffer("right", F.normalize(weight.new_empty(columns).normal_(), dim=0))
        for _ in range(_FIRST_ITERATIONS):
            self._iterate(weight.detach().flatten(1))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                self._iterate(matrix.detach())
            # Clones, so that a second use within a step may go on iterating before the first one's backward pass.
            return weight / torch.dot(self.left.clone(), torch.mv(matrix, self.right.clone()))

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.left.copy_(F.normalize(torch.mv(matrix, self.right), dim=0))
        self.right.copy_(F.normalize(torch.mv(matrix.T, self.left), dim=0))


def with_spectral_norm(network: nn.Module) -> nn.Module:
    """Puts spectral norm on every convolution and dense layer of `network`."""
    for layer in [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]:
        # unsafe leaves out no more than a trial, which cannot run on the device `meta`
        register_parametrization(layer, "weight", SpectralNorm(layer.weight), unsafe=True)
    return network


def is_normalized(network: nn.Module) -> bool:
    """Whether any layer has spectral norm, so that each use of the network changes the next one."""
    return any(is_parametrized(module) for module in network.modules())
