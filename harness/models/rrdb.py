"""RRDB: ESRGAN's generator, dense blocks within residual blocks within a residual trunk (Wang et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.config import RRDBConfig
from harness.models.layers import activation, conv, num_doublings, small_kaiming_


class DenseBlock(nn.Module):
    """Five convolutions, each reading all before it; the last fuses them, and is added to the input scaled down."""

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        width, growth = config.num_channels, config.growth
        self.convs = nn.ModuleList(conv(width + i * growth, growth) for i in range(4))
        self.fusion = conv(width + 4 * growth, width, config.fusion_kernel)
        self.activation = activation("leaky_relu", 0.2)
        self.residual_scale = config.residual_scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features = [x_BCHW]
        for layer in self.convs:
            features.append(self.activation(layer(_joined(features))))
        return torch.add(x_BCHW, self.fusion(_joined(features)), alpha=self.residual_scale)


class ResidualDenseBlocks(nn.Module):
    """Three dense blocks in a row, added to their input scaled down."""

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(config) for _ in range(3)))
        self.residual_scale = config.residual_scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.add(x_BCHW, self.dense(x_BCHW), alpha=self.residual_scale)


class NearestUpsample(nn.Module):
    """Doubles height and width by repeating pixels, then convolves."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.conv = conv(num_channels, num_channels)
        self.activation = activation("leaky_relu", 0.2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.activation(self.conv(F.interpolate(x_BCHW, scale_factor=2, mode="nearest")))


class RRDBNet(nn.Module):
    """ESRGAN's 23 blocks of 64 channels, or `ESRDGAN`'s 12 of 128."""

    def __init__(self, config: RRDBConfig, scale: int) -> None:
        super().__init__()
        width = config.num_channels
        self.first = conv(3, width)
        self.blocks = nn.Sequential(*(ResidualDenseBlocks(config) for _ in range(config.num_blocks)))
        self.trunk = conv(width, width)
        self.up = nn.Sequential(*(NearestUpsample(width) for _ in range(num_doublings(scale))))
        self.high = nn.Sequential(conv(width, width), activation("leaky_relu", 0.2))
        self.last = conv(width, 3)
        small_kaiming_(self.blocks.modules())

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        x = self.first(lr_image_BCHW)
        return self.last(self.high(self.up(x + self.trunk(self.blocks(x)))))


def _joined(features: list[Tensor]) -> Tensor:
    return features[0] if len(features) == 1 else torch.cat(features, dim=1)
