"""Adam on parameters in channels_last without copies, and the large ones first.

torch's fused Adam walks over memory, so any dense layout would do; but on a CPU it first copies every gradient that is
not contiguous in the order of its dimensions, which doubles the time of a discriminator's update. So it is given
views of the same memory whose dimensions are in order. On a GPU a kernel takes three dozen parameters and as long as
its largest: in the order of their sizes most of the kernels are short.
"""

from __future__ import annotations

from typing import Any

import torch

from harness.train.fast.lean import LeanAdam, LeanAdamW


def _in_order(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if like.dim() != 4 or like.is_contiguous():
        view = tensor
    else:
        view = tensor.permute(0, 2, 3, 1)
    # Where the layouts differed, torch would update each number by another one's gradient, and say nothing.
    assert view.is_contiguous(), f"layouts differ: {tuple(tensor.stride())} and {tuple(like.stride())}"
    return view


class _InOrder:
    """Comes before an Adam in the order of classes."""

    def _init_group(self, group: dict[str, Any], parameters: list[torch.Tensor], *lists: list[torch.Tensor]) -> bool:
        has_complex: bool = super()._init_group(group, parameters, *lists)  # type: ignore[misc]
        if parameters and parameters[0].device.type == "cpu":
            gradients_and_averages = lists[:3]
            for values in gradients_and_averages:
                values[:] = [_in_order(value, parameter) for value, parameter in zip(values, parameters, strict=True)]
            parameters[:] = [_in_order(parameter, parameter) for parameter in parameters]
        by_size = sorted(range(len(parameters)), key=lambda i: parameters[i].numel(), reverse=True)
        for values in (parameters, *filter(None, lists)):
            values[:] = [values[i] for i in by_size]
        return has_complex


class DenseAdam(_InOrder, LeanAdam):  # type: ignore[valid-type, misc]
    """Adam."""


class DenseAdamW(_InOrder, LeanAdamW):  # type: ignore[valid-type, misc]
    """Adam with decoupled weight decay."""
