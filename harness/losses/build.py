"""From a recipe's loss sections to the generator's terms: every loss, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.losses.config import LossConfig
from harness.losses.features import FeatureLoss
from harness.losses.pixel import CharbonnierLoss, PixelLoss
from harness.losses.structural import SSIMLoss

LOSSES: dict[str, Callable[[Any], nn.Module]] = {
    "l1": PixelLoss,
    "l2": PixelLoss,
    "charbonnier": CharbonnierLoss,
    "ssim": SSIMLoss,
    "features": FeatureLoss,
}


class LossTerms(nn.Module):
    """The generator's terms besides the adversarial one: a module each, and its weight."""

    def __init__(self, terms: dict[str, nn.Module], weights: dict[str, float]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = weights

    def forward(self, sr_image_BCHW: Tensor, hr_image_BCHW: Tensor) -> dict[str, Tensor]:
        """Each term's value, a scalar without its weight, for images in [0, 1]."""
        return {name: term(sr_image_BCHW, hr_image_BCHW) for name, term in self.terms.items()}


def build_losses(configs: Sequence[LossConfig], device: torch.device | str) -> LossTerms:
    """The terms that a phase asks for, on `device`.

    Raises:
        InputError: a term's pretrained weights are missing.
    """
    terms: dict[str, nn.Module] = {config.name: LOSSES[config.name](config) for config in configs}
    weights: dict[str, float] = {config.name: config.weight for config in configs}
    return LossTerms(terms, weights).to(device)
