"""Which generator and discriminator: one section per family, told apart by `name`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.schema import Section

Activation = Literal["prelu", "relu", "leaky_relu", "silu"]
Skip = Literal["none", "bilinear", "bicubic", "bicubic_align_corners"]
Output = Literal["linear", "tanh"]


class _WithSkip(Section):
    """What every generator may do around its layers."""

    skip: Skip = "none"
    """Upsampled input added to the output; `bicubic_align_corners` ties the pixel grid to the image's size."""
    start_as_skip: bool = False
    """Zero the last layer, so that the initial output equals the skip."""

    @model_validator(mode="after")
    def _something_to_start_as(self) -> _WithSkip:
        if self.start_as_skip and self.skip == "none":
            raise ValueError("start_as_skip needs a skip; set skip: bicubic, or start_as_skip: false")
        return self


class SRResNetConfig(_WithSkip):
    """SRGAN's generator (Ledig et al. 2017), with the changes that the seed texts make to it."""

    name: Literal["srresnet"] = "srresnet"
    num_blocks: int = Field(16, gt=0)
    num_channels: int = Field(64, gt=0)
    batch_norm: Literal["none", "after_blocks", "everywhere"] = "none"
    activation: Activation = "prelu"
    output: Output = "linear"
    """With `tanh` the layers work on values in [-1, 1], inside and out."""
    skip: Skip = "bicubic"
    start_as_skip: bool = True


class MSRResNetConfig(_WithSkip):
    """SRResNet as BasicSR modifies it: no batch norm, no trunk convolution, LeakyReLU 0.1 around the blocks."""

    name: Literal["msrresnet"]
    num_blocks: int = Field(16, gt=0)
    num_channels: int = Field(64, gt=0)
    skip: Skip = "bilinear"


class VGGDiscriminatorConfig(Section):
    """VGG-style discriminator with a dense head for one patch size (BasicSR's VGGStyleDiscriminator)."""

    name: Literal["vgg"] = "vgg"
    num_channels: int = Field(64, gt=0)
    num_dense: int = Field(100, gt=0)
    """Width of the hidden dense layer; SRGAN's paper has 1024."""
    batch_norm: bool = True
    spectral_norm: bool = False


GeneratorConfig = Annotated[SRResNetConfig | MSRResNetConfig, Field(discriminator="name")]
DiscriminatorConfig = Annotated[VGGDiscriminatorConfig, Field()]
