"""The generators of the perceptual project: its residual CNN, U-Net, SRCNN and ESPCN."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.config import ESPCNConfig, ResidualCNNConfig, SRCNNConfig, UNetConfig
from harness.models.layers import activation, conv, num_doublings, twice_bilinear
from harness.models.shuffle import ConvShuffle
from harness.models.skip import GlobalSkip


class ConvAndResidual(nn.Module):
    """A convolution, then a residual block of two with batch norm; ReLU after each (table 1's rows in threes)."""

    def __init__(self, num_in: int, num_channels: int) -> None:
        super().__init__()
        self.conv = conv(num_in, num_channels)
        self.branch = nn.Sequential(
            conv(num_channels, num_channels),
            nn.BatchNorm2d(num_channels),
            activation("relu"),
            conv(num_channels, num_channels),
            nn.BatchNorm2d(num_channels),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = F.relu_(self.conv(x_BCHW))
        return F.relu_(x + self.branch(x))


class ResidualCNN(nn.Module):
    """One group of convolutions per size, bilinear upsampling between; no activation behind the last layer.

    The text has ReLU after every convolution; behind the last it would cut the gradient of every value below 0.
    """

    def __init__(self, config: ResidualCNNConfig, scale: int) -> None:
        super().__init__()
        width = config.num_channels
        widths = [2 * width] + [width] * num_doublings(scale)
        self.groups = nn.ModuleList(ConvAndResidual(before, after) for before, after in zip([3, *widths], widths))
        self.last = conv(width, 3)

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        x = self.groups[0](lr_image_BCHW)
        for group in self.groups[1:]:
            x = group(twice_bilinear(x))
        return self.last(x)


class UNet(nn.Module):
    """The input is enlarged by bicubic interpolation; each level halves it, and is joined again on the way up.

    Sizes that `depth` halvings do not divide are padded by replication and cut back.
    """

    def __init__(self, config: UNetConfig, scale: int) -> None:
        super().__init__()
        self.enlarge = GlobalSkip("bicubic", scale)
        self.multiple_px = 2**config.depth
        widths = [config.num_channels * min(2**level, 8) for level in range(config.depth)]
        self.down = nn.ModuleList([_down(3, widths[0], norm=False), *map(_down, widths, widths[1:])])
        ups = zip([widths[-1], *(2 * width for width in widths[-2:0:-1])], widths[-2::-1])
        self.up = nn.ModuleList(_up(before, after) for before, after in ups)
        self.last = conv(2 * widths[0] if config.depth > 1 else widths[0], 3)

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        image = self.enlarge(lr_image_BCHW)
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % self.multiple_px, 0, -height % self.multiple_px), mode="replicate")
        levels = []
        for layer in self.down:
            x = layer(x)
            levels.append(x)
        for layer, level in zip(self.up, levels[-2::-1]):
            x = torch.cat([layer(twice_bilinear(x)), level], dim=1)
        return self.last(twice_bilinear(x))[..., :height, :width]


class SRCNN(nn.Module):
    """Patch extraction, mapping and reconstruction on the bicubically enlarged input."""

    def __init__(self, config: SRCNNConfig, scale: int) -> None:
        super().__init__()
        first, second = config.num_channels
        self.enlarge = GlobalSkip("bicubic", scale)
        self.first = nn.Sequential(conv(3, first, config.kernels[0]), activation("relu"))
        self.second = nn.Sequential(conv(first, second, config.kernels[1]), activation("relu"))
        self.last = conv(second, 3, config.kernels[2])

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        return self.last(self.second(self.first(self.enlarge(lr_image_BCHW))))


class ESPCN(nn.Module):
    """All layers at low resolution; the last gives every HR pixel a channel of its own."""

    def __init__(self, config: ESPCNConfig, scale: int) -> None:
        super().__init__()
        first, second = config.num_channels
        between = nn.ReLU(inplace=True) if config.activation == "relu" else nn.Tanh()
        self.first = nn.Sequential(conv(3, first, 5), between)
        self.second = nn.Sequential(conv(first, second), between)
        self.last = ConvShuffle(second, 3, block_px=scale)

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        return self.last(self.second(self.first(lr_image_BCHW)))


def _down(num_in: int, num_out: int, norm: bool = True) -> nn.Sequential:
    halve = conv(num_in, num_out, 4, 2)
    return nn.Sequential(halve, *([nn.BatchNorm2d(num_out)] if norm else []), activation("leaky_relu", 0.2))


def _up(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(conv(num_in, num_out), nn.BatchNorm2d(num_out), activation("relu"))
