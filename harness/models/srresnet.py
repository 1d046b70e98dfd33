"""The SRResNet family: SRGAN's generator and BasicSR's modification of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.models.config import MSRResNetConfig, SRResNetConfig
from harness.models.layers import ShuffleUpsample, activation, conv, num_doublings, small_kaiming_, zero_
from harness.models.skip import GlobalSkip


class ResidualBlock(nn.Module):
    """Input plus two 3 x 3 convolutions of it, with batch norm or without."""

    def __init__(self, num_channels: int, between: nn.Module, batch_norm: bool) -> None:
        super().__init__()
        norm = [nn.BatchNorm2d(num_channels), nn.BatchNorm2d(num_channels)] if batch_norm else [nn.Identity()] * 2
        self.branch = nn.Sequential(
            conv(num_channels, num_channels), norm[0], between, conv(num_channels, num_channels), norm[1]
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.branch(x_BCHW)


class SRResNet(nn.Module):
    """SRGAN's generator (Ledig et al. 2017, figure 4): [0, 1] images to images `scale` times as large.

    `SupeRAuGAN` adds the bicubic skip and drops the blocks' batch norm; `Specialized SR-GAN` ends in tanh on [-1, 1].
    """

    def __init__(self, config: SRResNetConfig, scale: int) -> None:
        super().__init__()
        width = config.num_channels
        self.first = nn.Sequential(conv(3, width, 9), activation(config.activation))
        in_blocks = config.batch_norm == "everywhere"
        self.blocks = nn.Sequential(
            *(ResidualBlock(width, activation(config.activation), in_blocks) for _ in range(config.num_blocks))
        )
        self.trunk = nn.Sequential(
            conv(width, width), nn.BatchNorm2d(width) if config.batch_norm != "none" else nn.Identity()
        )
        self.up = nn.Sequential(
            *(ShuffleUpsample(width, activation(config.activation)) for _ in range(num_doublings(scale)))
        )
        self.last = conv(width, 3, 9)
        self.skip = GlobalSkip(config.skip, scale) if config.skip != "none" else None
        self.tanh = config.output == "tanh"
        if config.start_as_skip:
            zero_(self.last)

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        x = self.first(2 * lr_image_BCHW - 1 if self.tanh else lr_image_BCHW)
        x = self.last(self.up(x + self.trunk(self.blocks(x))))
        if not self.tanh:
            return x if self.skip is None else self.skip(lr_image_BCHW) + x
        half = torch.tanh(x.float()) / 2
        return half + 0.5 if self.skip is None else self.skip(lr_image_BCHW) + half


class MSRResNet(nn.Module):
    """BasicSR's MSRResNet: [0, 1] images to images `scale` times as large, the bilinear skip added."""

    def __init__(self, config: MSRResNetConfig, scale: int) -> None:
        super().__init__()
        width = config.num_channels
        self.first = nn.Sequential(conv(3, width), nn.LeakyReLU(0.1, inplace=True))
        self.blocks = nn.Sequential(
            *(ResidualBlock(width, nn.ReLU(inplace=True), batch_norm=False) for _ in range(config.num_blocks))
        )
        self.up = nn.Sequential(
            *(ShuffleUpsample(width, nn.LeakyReLU(0.1, inplace=True)) for _ in range(num_doublings(scale)))
        )
        self.high = nn.Sequential(conv(width, width), nn.LeakyReLU(0.1, inplace=True))
        self.last = conv(width, 3)
        self.skip = GlobalSkip(config.skip, scale) if config.skip != "none" else None
        small_kaiming_(self.modules())
        if config.start_as_skip:
            zero_(self.last)

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        x = self.last(self.high(self.up(self.blocks(self.first(lr_image_BCHW)))))
        return x if self.skip is None else self.skip(lr_image_BCHW) + x
