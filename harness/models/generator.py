"""The two ends that all generators share: value range going in, tanh and the global skip coming out."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from harness.models.layers import zero_
from harness.models.skip import GlobalSkip


class Ends(Protocol):
    """The part of a generator's configuration that is read here."""

    @property
    def skip(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def start_as_skip(self) -> bool: ...


class Generator(nn.Module):
    """Layers of some family between their ends: (B, 3, H, W) in [0, 1] to `scale` times the size, in about [0, 1].

    With `output: tanh` the layers see [-1, 1] and tanh bounds what they add in that range (`Specialized SR-GAN`).
    The layers' last convolution is `layers.last`.
    """

    def __init__(self, layers: nn.Module, config: Ends, scale: int) -> None:
        super().__init__()
        self.layers = layers
        self.skip = GlobalSkip(config.skip, scale) if config.skip != "none" else None
        self.tanh = config.output == "tanh"
        if config.start_as_skip:
            zero_(layers.get_submodule("last"))

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        if self.tanh:
            half = torch.tanh(self.layers(2 * lr_image_BCHW - 1).float()) / 2
            return half + (0.5 if self.skip is None else self.skip(lr_image_BCHW))
        x = self.layers(lr_image_BCHW)
        return x if self.skip is None else x + self.skip(lr_image_BCHW)
