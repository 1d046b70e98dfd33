"""Structural similarity as a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.losses.config import SSIMLossConfig
from harness.quality.ssim import ssim


class SSIMLoss(nn.Module):
    """1 - mean SSIM over the batch, for images in [0, 1]; in float32 even under autocast.

    The perceptual project adds the negative score; the constant 1 only makes 0 the best.
    """

    def __init__(self, config: SSIMLossConfig) -> None:
        super().__init__()

    def forward(self, sr_image_BCHW: Tensor, hr_image_BCHW: Tensor) -> Tensor:
        with torch.autocast(sr_image_BCHW.device.type, enabled=False):
            return 1 - ssim(sr_image_BCHW.float(), hr_image_BCHW.float()).mean()
