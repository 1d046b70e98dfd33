"""The exponential moving average of the generator, which is what validation sees and a run exports."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn


class Ema:
    """Keeps an averaged copy of a module: averaged parameters, and buffers as they are.

    Each update is average <- decay * average + (1 - decay) * value, as one fused operation over all parameters. With a
    decay of 0 that is the value, so the copy has the module's own memory and nothing is to be done.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._averages: list[torch.Tensor] = list(self.module.parameters())
        self._values: list[torch.Tensor] = list(module.parameters())
        # Of one type each: lists of mixed types are copied one by one.
        self._buffers: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for average, value in zip(self.module.buffers(), module.buffers(), strict=True):
            averages, values = self._buffers.setdefault(value.dtype, ([], []))
            averages.append(average)
            values.append(value)
        if decay == 0.0:
            for average, value in zip(_tensors(self.module), _tensors(module), strict=True):
                average.data = value.data

    @torch.no_grad()
    def update(self) -> None:
        if self.decay == 0.0:
            return
        torch._foreach_lerp_(self._averages, self._values, 1.0 - self.decay)
        for averages, values in self._buffers.values():
            torch._foreach_copy_(averages, values)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
