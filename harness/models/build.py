"""From a configuration to a network: every family, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from harness.models.config import DiscriminatorConfig, GeneratorConfig
from harness.models.discriminators import (
    ConvDiscriminator,
    SRGANDiscriminator,
    UNetDiscriminator,
    VGG16Discriminator,
    VGGDiscriminator,
)
from harness.models.generator import Generator
from harness.models.perceptual_project import ESPCN, SRCNN, ResidualCNN, UNet
from harness.models.rrdb import RRDBNet
from harness.models.srresnet import MSRResNet, SRResNet

GENERATORS: dict[str, Callable[[Any, int], nn.Module]] = {
    "srresnet": SRResNet,
    "msrresnet": MSRResNet,
    "rrdb": RRDBNet,
    "residual_cnn": ResidualCNN,
    "unet": UNet,
    "srcnn": SRCNN,
    "espcn": ESPCN,
}

DISCRIMINATORS: dict[str, Callable[[Any, int], nn.Module]] = {
    "vgg": VGGDiscriminator,
    "srgan": SRGANDiscriminator,
    "conv": ConvDiscriminator,
    "vgg16": VGG16Discriminator,
    "unet": UNetDiscriminator,
}


def build_generator(config: GeneratorConfig, scale: int) -> nn.Module:
    """A generator: (B, 3, H, W) in [0, 1] to (B, 3, H * scale, W * scale) in about [0, 1].

    Weights are drawn from torch's global generator: seed it first.
    """
    return Generator(GENERATORS[config.name](config, scale), config, scale)


def build_discriminator(config: DiscriminatorConfig, patch_px: int) -> nn.Module:
    """A discriminator: (B, 3, patch_px, patch_px) in [0, 1] to logits, (B, 1) or (B, 1, h, w).

    Weights are drawn from torch's global generator: seed it first.

    Raises:
        InputError: the family cannot take patches of this size, or its pretrained weights are missing.
    """
    return DISCRIMINATORS[config.name](config, patch_px)


def num_parameters(network: nn.Module) -> int:
    """How many numbers the network learns."""
    return sum(parameter.numel() for parameter in network.parameters())
