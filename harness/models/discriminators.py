"""Discriminators: [0, 1] images to logits; above 0 means real."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import InputError
from harness.models.config import (
    ConvDiscriminatorConfig,
    SRGANDiscriminatorConfig,
    UNetDiscriminatorConfig,
    VGG16DiscriminatorConfig,
    VGGDiscriminatorConfig,
)
from harness.models.from_image import ConvFromImage
from harness.models.layers import conv, twice_bilinear
from harness.models.norm import BatchNorm2d
from harness.models.spectral_norm import with_spectral_norm
from harness.models.vgg import ImageNetNormalize, vgg_layers


class VGGDiscriminator(nn.Module):
    """Pairs of convolutions, each pair halving the patch, then two dense layers (BasicSR's VGGStyleDiscriminator).

    The patch is halved until its edge is 6 px or less: five pairs for 128 px, six for 256. Logits: (B, 1).
    """

    def __init__(self, config: VGGDiscriminatorConfig, patch_px: int) -> None:
        super().__init__()
        self.patch_px = patch_px
        widths, edge_px = _halvings(config.num_channels, patch_px)
        pairs: list[nn.Module] = [_first_pair(widths[0], config.batch_norm)]
        pairs += [_pair(before, width, config.batch_norm) for before, width in pairwise(widths)]
        self.pairs = nn.Sequential(*pairs)
        self.head = _dense(widths[-1] * edge_px**2, config.num_dense)
        if config.spectral_norm:
            with_spectral_norm(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.head(self.pairs(_of_size(image_BCHW, self.patch_px)).flatten(1))


class SRGANDiscriminator(nn.Module):
    """SRGAN's (Ledig et al. 2017, figure 4): eight 3 x 3 convolutions, every second one halving, two dense layers.

    Of a patch of 128 px the dense layer sees 8 px. The sigmoid of the figure is in the loss. Logits: (B, 1).
    """

    def __init__(self, config: SRGANDiscriminatorConfig, patch_px: int) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.layers = _eight_convolutions(config, patch_px)
        edge_px = -(-patch_px // 16)
        self.head = _dense(8 * config.num_channels * edge_px**2, config.num_dense)
        if config.spectral_norm:
            with_spectral_norm(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.head(self.layers(_of_size(image_BCHW, self.patch_px)).flatten(1))


class ConvDiscriminator(nn.Module):
    """Eight convolutions, every second one halving, a ninth to one channel, averaged over the image (the SRGAN blog).

    The sigmoid of the text is in the loss. Logits: (B, 1).
    """

    def __init__(self, config: ConvDiscriminatorConfig, patch_px: int) -> None:
        super().__init__()
        self.layers = _eight_convolutions(config, patch_px)
        self.last = conv(8 * config.num_channels, 1)
        if config.spectral_norm:
            with_spectral_norm(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.last(self.layers(image_BCHW)).mean(dim=(2, 3))


class VGG16Discriminator(nn.Module):
    """VGG16 up to pool4, then 512-channel convolutions that halve until 4 px or less are left, then a dense layer.

    With `Specialized SR-GAN`'s patches of 384 px these are its three strided convolutions. Logits: (B, 1).
    """

    def __init__(self, config: VGG16DiscriminatorConfig, patch_px: int) -> None:
        super().__init__()
        if patch_px < 16:
            raise InputError(f"discriminator vgg16: {patch_px} px is too small; give data.patch_px 16 or more.")
        self.patch_px = patch_px
        self.normalize = ImageNetNormalize()
        slope = config.negative_slope
        self.trunk = vgg_layers("vgg16", "pool4", lambda: nn.LeakyReLU(slope, inplace=True), config.weights)
        edge_px = patch_px // 16
        tail: list[nn.Module] = []
        while edge_px > 4:
            tail += [conv(512, 512, stride=2), BatchNorm2d(512), nn.LeakyReLU(slope, inplace=True)]
            edge_px = (edge_px + 1) // 2
        self.tail = nn.Sequential(*tail)
        self.head = nn.Linear(512 * edge_px**2, 1)
        if config.spectral_norm:
            with_spectral_norm(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        x = self.normalize(_of_size(image_BCHW, self.patch_px))
        return self.head(self.tail(self.trunk(x)).flatten(1))


class UNetDiscriminator(nn.Module):
    """Three halvings and back, each level added to its like; a logit per pixel (Wang et al. 2021).

    Spectral norm is on all layers but the first and the last. Logits: (B, 1, patch_px, patch_px).
    """

    def __init__(self, config: UNetDiscriminatorConfig, patch_px: int) -> None:
        super().__init__()
        if patch_px % 8:
            raise InputError(f"discriminator unet: {patch_px} px cannot be halved three times; give a multiple of 8.")
        widths = [config.num_channels * factor for factor in (1, 2, 4, 8)]
        self.first = ConvFromImage(3, widths[0], 3, slope=0.2)
        self.down = nn.ModuleList(conv(a, b, 4, 2, bias=False) for a, b in pairwise(widths))
        self.up = nn.ModuleList(conv(b, a, bias=False) for b, a in pairwise(widths[::-1]))
        self.after = nn.ModuleList(conv(widths[0], widths[0], bias=False) for _ in range(2))
        self.last = conv(widths[0], 1)
        if config.spectral_norm:
            for part in (self.down, self.up, self.after):
                with_spectral_norm(part)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        x = self.first(image_BCHW)
        levels = []
        for layer in self.down:
            levels.append(x)
            x = F.leaky_relu_(layer(x), 0.2)
        for layer, level in zip(self.up, levels[::-1]):
            x = twice_bilinear(x)
            x = F.leaky_relu_(layer(x), 0.2) + level
        for layer in self.after:
            x = F.leaky_relu_(layer(x), 0.2)
        return self.last(x)


def _halvings(num_channels: int, patch_px: int) -> tuple[list[int], int]:
    widths: list[int] = []
    edge_px = patch_px
    while edge_px > 6:
        widths.append(num_channels * min(2 ** len(widths), 8))
        edge_px //= 2
    if not widths:
        raise InputError(f"discriminator vgg: patches of {patch_px} px are too small; give data.patch_px 7 or more.")
    return widths, edge_px


def _eight_convolutions(config: ConvDiscriminatorConfig | SRGANDiscriminatorConfig, patch_px: int) -> nn.Sequential:
    """Widths 1, 1, 2, 2, 4, 4, 8, 8 times `num_channels`; the patch is halved four times."""
    if patch_px < 16:
        raise InputError(f"discriminator {config.name}: {patch_px} px is too small; give data.patch_px 16 or more.")
    layers: list[nn.Module] = []
    num_in, norm, is_first = 3, False, True
    for width in (config.num_channels * factor for factor in (1, 2, 4, 8)):
        layers += _first(width) if is_first else _norm_relu(conv(num_in, width), norm)
        norm, is_first = config.batch_norm, False
        layers += _norm_relu(conv(width, width, stride=2), norm)
        num_in = width
    return nn.Sequential(*layers)


def _dense(num_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_in, width), nn.LeakyReLU(0.2, inplace=True), nn.Linear(width, 1))


def _first_pair(width: int, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(*_first(width), *_halving(width, width, batch_norm))


def _first(width: int) -> list[nn.Module]:
    """The first convolution with its LeakyReLU 0.2, and a place holder that keeps the numbers of the layers behind."""
    return [ConvFromImage(3, width, 3, slope=0.2), nn.Identity()]


def _pair(num_in: int, width: int, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(
        *_norm_relu(conv(num_in, width, bias=not batch_norm), batch_norm), *_halving(width, width, batch_norm)
    )


def _halving(num_in: int, width: int, batch_norm: bool) -> list[nn.Module]:
    return _norm_relu(conv(num_in, width, 4, 2, bias=not batch_norm), batch_norm)


def _norm_relu(layer: nn.Conv2d, batch_norm: bool) -> list[nn.Module]:
    """The layer, batch norm behind it if asked for, LeakyReLU 0.2."""
    norm = [BatchNorm2d(layer.out_channels)] if batch_norm else []
    return [layer, *norm, nn.LeakyReLU(0.2, inplace=True)]


def _of_size(image_BCHW: Tensor, patch_px: int) -> Tensor:
    if image_BCHW.shape[-2:] != (patch_px, patch_px):
        height, width = image_BCHW.shape[-2:]
        raise InputError(f"discriminator: expects patches of {patch_px} px, got {height} x {width}; cut it to size.")
    return image_BCHW
