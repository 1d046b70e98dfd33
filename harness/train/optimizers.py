"""A phase's optimisers: Adam as one fused operation, its learning rate a number, or a tensor where a GPU reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from harness.train.config import OptimizerConfig
from harness.train.fast.dense import DenseAdam, DenseAdamW


def build_adam(module: nn.Module, config: OptimizerConfig, rate_device: torch.device | None) -> torch.optim.Optimizer:
    """Adam, or AdamW with weight decay, for the parameters that are trained.

    Args:
        rate_device: where the learning rate and the count of updates are tensors, so that no step waits for them and a
            CUDA graph can hold the update; None keeps them on the host.
    """
    build: Callable[..., torch.optim.Optimizer] = DenseAdamW if config.weight_decay else DenseAdam
    optimizer = build(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
        capturable=rate_device is not None,
    )
    if rate_device is not None:
        optimizer.param_groups[0]["lr"] = torch.tensor(config.learning_rate, device=rate_device)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float, last: float | None) -> None:
    """Gives it a learning rate; a tensor is filled only where the rate is not the `last` one."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], torch.Tensor):
            group["lr"] = rate
        elif rate != last:
            group["lr"].fill_(rate)


def restore(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Takes over moments and counts from a `state_dict`.

    The settings stay the configuration's and the device's, which need not be those that wrote the state.
    """
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": settings})


def tensors_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors of its state, which an update changes."""
    return [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
