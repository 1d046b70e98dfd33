"""Distances between pixels, for images in [0, 1]; each a module of one forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.losses.config import CharbonnierLossConfig, PixelLossConfig


class PixelLoss(nn.Module):
    """`l1`: mean |sr - hr|; `l2`: mean (sr - hr)^2."""

    def __init__(self, config: PixelLossConfig) -> None:
        super().__init__()
        self.distance = {"l1": F.l1_loss, "l2": F.mse_loss}[config.name]

    def forward(self, sr_image_BCHW: Tensor, hr_image_BCHW: Tensor) -> Tensor:
        return self.distance(sr_image_BCHW.float(), hr_image_BCHW)


class CharbonnierLoss(nn.Module):
    """Mean of sqrt((sr - hr)^2 + eps^2) (Charbonnier et al. 1994; Lai et al. 2017)."""

    def __init__(self, config: CharbonnierLossConfig) -> None:
        super().__init__()
        self.eps = config.eps

    def forward(self, sr_image_BCHW: Tensor, hr_image_BCHW: Tensor) -> Tensor:
        return torch.sqrt((sr_image_BCHW.float() - hr_image_BCHW).square() + self.eps**2).mean()
