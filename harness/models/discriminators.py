"""Discriminators: [0, 1] images to logits; above 0 means real."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from harness.errors import InputError
from harness.models.config import VGGDiscriminatorConfig
from harness.models.layers import conv, with_spectral_norm


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
        self.head = nn.Sequential(
            nn.Linear(widths[-1] * edge_px**2, config.num_dense),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(config.num_dense, 1),
        )
        if config.spectral_norm:
            with_spectral_norm(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.head(self.pairs(_of_size(image_BCHW, self.patch_px)).flatten(1))


def _halvings(num_channels: int, patch_px: int) -> tuple[list[int], int]:
    widths: list[int] = []
    edge_px = patch_px
    while edge_px > 6:
        widths.append(num_channels * min(2 ** len(widths), 8))
        edge_px //= 2
    if not widths:
        raise InputError(f"discriminator vgg: patches of {patch_px} px are too small; give data.patch_px 7 or more.")
    return widths, edge_px


def _first_pair(width: int, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(conv(3, width), nn.LeakyReLU(0.2, inplace=True), *_halving(width, width, batch_norm))


def _pair(num_in: int, width: int, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(
        *_norm_relu(conv(num_in, width, bias=not batch_norm), batch_norm), *_halving(width, width, batch_norm)
    )


def _halving(num_in: int, width: int, batch_norm: bool) -> list[nn.Module]:
    return _norm_relu(nn.Conv2d(num_in, width, 4, 2, 1, bias=not batch_norm), batch_norm)


def _norm_relu(layer: nn.Conv2d, batch_norm: bool) -> list[nn.Module]:
    """The layer, batch norm behind it if asked for, LeakyReLU 0.2."""
    norm = [nn.BatchNorm2d(layer.out_channels)] if batch_norm else []
    return [layer, *norm, nn.LeakyReLU(0.2, inplace=True)]


def _of_size(image_BCHW: Tensor, patch_px: int) -> Tensor:
    if image_BCHW.shape[-2:] != (patch_px, patch_px):
        height, width = image_BCHW.shape[-2:]
        raise InputError(f"discriminator: expects patches of {patch_px} px, got {height} x {width}; cut it to size.")
    return image_BCHW
