"""The small pieces that several networks share: activations, upsampling stages, initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.conv import Conv2d
from harness.models.from_image import ConvFromImage
from harness.models.prelu import PReLU
from harness.models.to_image import ConvToImage


def activation(name: str, slope: float = 0.2, in_place: bool = True) -> nn.Module:
    """The activation called `name`; `in_place` where neither it nor the convolution before needs the old values."""
    builders: dict[str, Callable[[], nn.Module]] = {
        "prelu": PReLU,
        "relu": lambda: nn.ReLU(in_place),
        "leaky_relu": lambda: nn.LeakyReLU(slope, in_place),
        "silu": nn.SiLU,
    }
    return builders[name]()


def conv(num_in: int, num_out: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size (odd kernel, stride 1) or divides it by the stride."""
    is_to_image = num_out <= 4 and kernel >= 5 and stride == 1
    if num_in <= 3 and kernel % 2 and stride == 1 and bias and not is_to_image:
        return ConvFromImage(num_in, num_out, kernel)
    build = ConvToImage if is_to_image else Conv2d
    return build(num_in, num_out, kernel, stride, padding=(kernel - 1) // 2, bias=bias)


def num_doublings(scale: int) -> int:
    """How often an image is doubled to reach `scale`, a power of two."""
    doublings = int(math.log2(scale))
    assert 2**doublings == scale, f"scale {scale} is not a power of two"
    return doublings


def twice_bilinear(x_BCHW: Tensor) -> Tensor:
    """Doubles height and width by bilinear interpolation between pixel centres.

    torch's backward pass on a GPU adds in any order; where results must repeat, another form is taken.
    """
    if x_BCHW.device.type == "cpu" or not torch.are_deterministic_algorithms_enabled():
        return F.interpolate(x_BCHW, scale_factor=2, mode="bilinear", align_corners=False)
    return twice_repeatable(x_BCHW)


def twice_repeatable(x_BCHW: Tensor) -> Tensor:
    """The same from copies and sums alone, whose backward pass has one order."""
    return _twice_along(_twice_along(x_BCHW.float(), 2), 3).to(x_BCHW.dtype)


def _twice_along(x: Tensor, dim: int) -> Tensor:
    size = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, size - 1)], dim)
    behind = torch.cat([x.narrow(dim, 1, size - 1), x.narrow(dim, size - 1, 1)], dim)
    pairs = torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * behind], dim + 1)
    return pairs.flatten(dim, dim + 1)


@torch.no_grad()
def small_kaiming_(modules: Iterable[nn.Module], factor: float = 0.1) -> None:
    """Kaiming-normal weights times `factor` and zero biases, for the convolutions among `modules`.

    Residual branches that start small keep deep networks without batch norm stable (Wang et al. 2018, ESRGAN).
    """
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            module.weight.mul_(factor)
            if module.bias is not None:
                module.bias.zero_()


@torch.no_grad()
def zero_(layer: nn.Module) -> None:
    """Makes a layer answer 0 to everything."""
    for parameter in layer.parameters():
        parameter.zero_()
