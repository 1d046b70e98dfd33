"""Transfer learning: a generator's last layers start anew, or are the only ones trained (`Specialized SR-GAN`).

A layer is a convolution with what follows it up to the next one (batch norm, a learnt activation).
"""

from __future__ import annotations

import torch
from torch import nn

from harness.errors import InputError


@torch.no_grad()
def reinit_last(module: nn.Module, n: int, std: float, generator: torch.Generator) -> list[str]:
    """Draws the last `n` convolutions' weights from a normal distribution of deviation `std`; biases become 0.

    The numbers come from `generator` (on the CPU) whatever device the module is on. Returns the layers' names.

    Raises:
        InputError: the module has fewer convolutions.
    """
    chosen = last_convolutions(module, n, "reinit_last")
    for _, layer in chosen:
        layer.weight.copy_(std * torch.randn(layer.weight.shape, generator=generator))
        if layer.bias is not None:
            layer.bias.zero_()
    return [name for name, _ in chosen]


def trainable_last(module: nn.Module, n: int) -> list[str]:
    """Lets only the last `n` convolutions, and what follows the first of them, be trained.

    Returns the trainable parameters' names.

    Raises:
        InputError: the module has fewer convolutions.
    """
    first_name, _ = last_convolutions(module, n, "train_last")[0]
    reached, trainable = False, []
    for name, layer in module.named_modules():
        reached = reached or name == first_name
        for key, parameter in layer.named_parameters(prefix=name, recurse=False):
            parameter.requires_grad_(reached)
            if reached:
                trainable.append(key)
    return trainable


def freeze_statistics(module: nn.Module) -> None:
    """Keeps the running statistics of frozen batch norm: a layer that is not trained shall not change."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in layer.parameters()):
            layer.eval()


def last_convolutions(module: nn.Module, n: int, key: str) -> list[tuple[str, nn.Conv2d]]:
    """The last `n` convolutions in the order in which they are registered, which all generators keep to.

    Raises:
        InputError: the module has fewer; the sentence names the `key` that asked for them.
    """
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
    if not 1 <= n <= len(layers):
        raise InputError(f"{key}: {n} was given, but the generator has {len(layers)} convolutions; give 1 to that.")
    return layers[-n:]
