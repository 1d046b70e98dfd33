"""Which generator and discriminator: one section per family, told apart by `name`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.schema import Section

Activation = Literal["prelu", "relu", "leaky_relu", "silu"]


class SRResNetConfig(Section):
    """SRGAN's generator (Ledig et al. 2017), with the changes that the seed texts make to it."""

    name: Literal["srresnet"] = "srresnet"
    num_blocks: int = Field(16, gt=0)
    num_channels: int = Field(64, gt=0)
    batch_norm: Literal["none", "after_blocks", "everywhere"] = "none"
    activation: Activation = "prelu"
    skip: Literal["none", "bilinear", "bicubic"] = "bicubic"
    """Upsampled input added to the output."""
    output: Literal["linear", "tanh"] = "linear"
    start_as_skip: bool = True
    """Zero the last layer, so that the initial output equals the skip."""


class VGGDiscriminatorConfig(Section):
    """VGG-style discriminator with a dense head for one patch size (BasicSR's VGGStyleDiscriminator)."""

    name: Literal["vgg"] = "vgg"
    num_channels: int = Field(64, gt=0)
    batch_norm: bool = True
    spectral_norm: bool = False


GeneratorConfig = Annotated[SRResNetConfig, Field()]
DiscriminatorConfig = Annotated[VGGDiscriminatorConfig, Field()]
