"""Which generator and discriminator: one section per family, told apart by `name`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.schema import Section

Activation = Literal["prelu", "relu", "leaky_relu", "silu"]
Skip = Literal["none", "bilinear", "bicubic", "bicubic_align_corners"]
Output = Literal["linear", "tanh"]
_MOST = 100_000
"""More layers or channels than any machine has room for."""
Channels = Annotated[int, Field(gt=0, le=_MOST)]


class _Generator(Section):
    """The two ends that every generator has."""

    skip: Skip = "none"
    """Upsampled input added to the output; `bicubic_align_corners` ties the pixel grid to the image's size."""
    start_as_skip: bool = False
    """Zero the last layer, so that the initial output equals the skip."""
    output: Output = "linear"
    """With `tanh` the layers work on values in [-1, 1], inside and out."""

    @model_validator(mode="after")
    def _something_to_start_as(self) -> _Generator:
        if self.start_as_skip and self.skip == "none":
            raise ValueError("start_as_skip needs a skip; set skip: bicubic, or start_as_skip: false")
        return self


class SRResNetConfig(_Generator):
    """SRGAN's generator (Ledig et al. 2017), with the changes that the seed texts make to it."""

    name: Literal["srresnet"] = "srresnet"
    num_blocks: int = Field(16, gt=0, le=_MOST)
    num_channels: int = Field(64, gt=0, le=_MOST)
    batch_norm: Literal["none", "after_blocks", "everywhere"] = "none"
    activation: Activation = "prelu"
    skip: Skip = "bicubic"
    start_as_skip: bool = True


class MSRResNetConfig(_Generator):
    """SRResNet as BasicSR modifies it: no batch norm, no trunk convolution, LeakyReLU 0.1 around the blocks."""

    name: Literal["msrresnet"]
    num_blocks: int = Field(16, gt=0, le=_MOST)
    num_channels: int = Field(64, gt=0, le=_MOST)
    skip: Skip = "bilinear"


class RRDBConfig(_Generator):
    """ESRGAN's residual-in-residual dense blocks (Wang et al. 2018)."""

    name: Literal["rrdb"]
    num_blocks: int = Field(23, gt=0, le=_MOST)
    num_channels: int = Field(64, gt=0, le=_MOST)
    growth: int = Field(32, gt=0, le=_MOST)
    """Channels that each convolution of a dense block adds."""
    residual_scale: float = Field(0.2, gt=0)
    fusion_kernel: Literal[1, 3] = 3
    """Kernel of a dense block's last convolution (local feature fusion)."""


class ResidualCNNConfig(_Generator):
    """The residual CNN of the perceptual project (its table 1): bilinear upsampling, three residual blocks."""

    name: Literal["residual_cnn"]
    num_channels: int = Field(64, gt=0, le=_MOST)
    """Channels after the first upsampling; before it there are twice as many."""


class UNetConfig(_Generator):
    """pix2pix's U-Net (Isola et al. 2017) on the enlarged input, without dropout, upsampling by interpolation."""

    name: Literal["unet"]
    num_channels: int = Field(32, gt=0, le=_MOST)
    """Channels of the first level; they double up to eight times as many."""
    depth: int = Field(5, gt=0, le=10)
    """How often the image is halved."""

    def normalizes_one_pixel(self, patch_px: int) -> bool:
        """Whether its last batch norm sees a single pixel of an HR patch; the first level has none."""
        return self.depth > 1 and patch_px <= 2**self.depth


class SRCNNConfig(_Generator):
    """Three convolutions on the enlarged input (Dong et al. 2014)."""

    name: Literal["srcnn"]
    num_channels: tuple[Channels, Channels] = (64, 32)
    kernels: tuple[Literal[9], Literal[1, 3, 5], Literal[5]] = (9, 1, 5)


class ESPCNConfig(_Generator):
    """Three convolutions on the input, then one pixel shuffle (Shi et al. 2016)."""

    name: Literal["espcn"]
    num_channels: tuple[Channels, Channels] = (64, 32)
    activation: Literal["relu", "tanh"] = "relu"


class VGGDiscriminatorConfig(Section):
    """VGG-style discriminator with a dense head for one patch size (BasicSR's VGGStyleDiscriminator)."""

    name: Literal["vgg"] = "vgg"
    num_channels: int = Field(64, gt=0, le=_MOST)
    num_dense: int = Field(100, gt=0, le=_MOST)
    """Width of the hidden dense layer; SRGAN's paper has 1024."""
    batch_norm: bool = True
    spectral_norm: bool = False


class ConvDiscriminatorConfig(Section):
    """Fully convolutional, one logit by averaging over the image (the SRGAN blog); takes any size from 16 px."""

    name: Literal["conv"]
    num_channels: int = Field(64, gt=0, le=_MOST)
    batch_norm: bool = True
    spectral_norm: bool = False

    def normalizes_one_pixel(self, patch_px: int) -> bool:
        """Whether its last batch norm sees a single pixel of an HR patch, which is halved four times."""
        return self.batch_norm and patch_px <= 16


class SRGANDiscriminatorConfig(Section):
    """SRGAN's own: eight convolutions of 3 x 3, every second one halving, then two dense layers; patches from 16 px."""

    name: Literal["srgan"]
    num_channels: int = Field(64, gt=0, le=_MOST)
    num_dense: int = Field(1024, gt=0, le=_MOST)
    batch_norm: bool = True
    spectral_norm: bool = False

    def normalizes_one_pixel(self, patch_px: int) -> bool:
        """Whether its last batch norm sees a single pixel of an HR patch, which is halved four times."""
        return self.batch_norm and patch_px <= 16


class VGG16DiscriminatorConfig(Section):
    """VGG16 up to its fourth pooling, then strided convolutions and a dense layer (`Specialized SR-GAN`)."""

    name: Literal["vgg16"]
    weights: Literal["pretrained", "random"] = "pretrained"
    """What the VGG16 part starts from."""
    negative_slope: float = Field(0.2, ge=0)
    spectral_norm: bool = False


class UNetDiscriminatorConfig(Section):
    """A logit for every pixel (Wang et al. 2021, Real-ESRGAN)."""

    name: Literal["unet"]
    num_channels: int = Field(64, gt=0, le=_MOST)
    spectral_norm: bool = True


GeneratorConfig = Annotated[
    SRResNetConfig | MSRResNetConfig | RRDBConfig | ResidualCNNConfig | UNetConfig | SRCNNConfig | ESPCNConfig,
    Field(discriminator="name"),
]
DiscriminatorConfig = Annotated[
    VGGDiscriminatorConfig
    | SRGANDiscriminatorConfig
    | ConvDiscriminatorConfig
    | VGG16DiscriminatorConfig
    | UNetDiscriminatorConfig,
    Field(discriminator="name"),
]
