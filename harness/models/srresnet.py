"""The SRResNet family: SRGAN's generator and BasicSR's modification of it."""

from __future__ import annotations

from torch import Tensor, nn

from harness.models.config import MSRResNetConfig, SRResNetConfig
from harness.models.layers import activation, conv, small_kaiming_
from harness.models.narrow_blocks import has_block_kernels, narrow_blocks
from harness.models.upsample import shuffle_stages, upsample_to_image


class ResidualBlock(nn.Module):
    """Input plus two 3 x 3 convolutions of it, with batch norm or without."""

    branch: nn.Sequential

    def __init__(self, num_channels: int, between: nn.Module, batch_norm: bool) -> None:
        super().__init__()
        norm = [nn.BatchNorm2d(num_channels), nn.BatchNorm2d(num_channels)] if batch_norm else [nn.Identity()] * 2
        self.branch = nn.Sequential(
            conv(num_channels, num_channels), norm[0], between, conv(num_channels, num_channels), norm[1]
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if has_block_kernels(x_BCHW, self.branch):
            return narrow_blocks(x_BCHW, [self.branch])
        return x_BCHW + self.branch(x_BCHW)


class ResidualBlocks(nn.Sequential):
    """Residual blocks of one kind, one behind the other."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branches: list[nn.Sequential] = [block.branch for block in self]  # type: ignore[misc]
        if branches and has_block_kernels(x_BCHW, branches[0]):
            return narrow_blocks(x_BCHW, branches)
        return super().forward(x_BCHW)


class SRResNet(nn.Module):
    """SRGAN's generator (Ledig et al. 2017, figure 4); `SupeRAuGAN` drops the blocks' batch norm."""

    def __init__(self, config: SRResNetConfig, scale: int) -> None:
        super().__init__()
        width = config.num_channels
        self.first = nn.Sequential(conv(3, width, 9), activation(config.activation))
        in_blocks = config.batch_norm == "everywhere"
        self.blocks = ResidualBlocks(
            *(ResidualBlock(width, activation(config.activation), in_blocks) for _ in range(config.num_blocks))
        )
        norm = nn.BatchNorm2d(width) if config.batch_norm != "none" else nn.Identity()
        self.trunk = nn.Sequential(conv(width, width), norm)
        self.up = shuffle_stages(width, scale, config.activation)
        self.last = conv(width, 3, 9)

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        x = self.first(lr_image_BCHW)
        x = x + self.trunk(self.blocks(x))
        return upsample_to_image(self.up, self.last, x)


class MSRResNet(nn.Module):
    """BasicSR's MSRResNet without its skip, which `Generator` adds."""

    def __init__(self, config: MSRResNetConfig, scale: int) -> None:
        super().__init__()
        width = config.num_channels
        self.first = nn.Sequential(conv(3, width), activation("leaky_relu", 0.1))
        self.blocks = nn.Sequential(
            *(ResidualBlock(width, activation("relu"), batch_norm=False) for _ in range(config.num_blocks))
        )
        self.up = shuffle_stages(width, scale, "leaky_relu", 0.1)
        self.high = nn.Sequential(conv(width, width), activation("leaky_relu", 0.1))
        self.last = conv(width, 3)
        small_kaiming_(self.modules())  # as BasicSR does: the first output is nearly the skip

    def forward(self, lr_image_BCHW: Tensor) -> Tensor:
        return self.last(self.high(self.up(self.blocks(self.first(lr_image_BCHW)))))
