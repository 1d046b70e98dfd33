"""Networks against their definitions in plain torch functions, with weights and statistics that are no defaults.

RRDB and MSRResNet are compared in `test_foreign`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.build import build_discriminator, build_generator
from harness.models.config import DiscriminatorConfig, GeneratorConfig
from harness.models.skip import GlobalSkip


class Layers:
    """A network's layers by name, each as one plain function in evaluation."""

    def __init__(self, network: nn.Module) -> None:
        self.state = network.state_dict()
        self.convs = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
        self.norms = [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, (weight.shape[-1] - 1) // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def prelu(self, name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * self.state[f"{name}.weight"])

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def srresnet(net: Layers, x: Tensor) -> Tensor:
    """Ledig et al. 2017, figure 4."""
    first = x = net.prelu("layers.first.1", net.conv("layers.first.0", x))
    for n in range(2):
        branch = f"layers.blocks.{n}.branch"
        y = net.prelu(f"{branch}.2", net.norm(f"{branch}.1", net.conv(f"{branch}.0", x)))
        x = x + net.norm(f"{branch}.4", net.conv(f"{branch}.3", y))
    x = first + net.norm("layers.trunk.1", net.conv("layers.trunk.0", x))
    for n in range(2):
        x = net.prelu(f"layers.up.{n}.activation", F.pixel_shuffle(net.conv(f"layers.up.{n}.conv", x), 2))
    return net.conv("layers.last", x)


def residual_cnn(net: Layers, x: Tensor) -> Tensor:
    """Table 1 of the perceptual project, without the ReLU behind the last layer."""
    for n in range(3):
        group = f"layers.groups.{n}"
        if n:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = F.relu(net.conv(f"{group}.conv", x))
        y = F.relu(net.norm(f"{group}.branch.1", net.conv(f"{group}.branch.0", x)))
        x = F.relu(x + net.norm(f"{group}.branch.4", net.conv(f"{group}.branch.3", y)))
    return net.conv("layers.last", x)


def unet(net: Layers, x: Tensor) -> Tensor:
    """Isola et al. 2017 with three levels; 44 x 36 px are padded to multiples of 8."""
    x = F.pad(GlobalSkip("bicubic", 4)(x), (0, 4, 0, 4), mode="replicate")
    levels = [leaky(net.conv("layers.down.0.0", x, 2))]
    for n in (1, 2):
        levels.append(leaky(net.norm(f"layers.down.{n}.1", net.conv(f"layers.down.{n}.0", levels[-1], 2))))
    x = levels.pop()
    for n in (0, 1):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = F.relu(net.norm(f"layers.up.{n}.1", net.conv(f"layers.up.{n}.0", x)))
        x = torch.cat([x, levels.pop()], 1)
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return net.conv("layers.last", x)[..., :44, :36]


def srcnn(net: Layers, x: Tensor) -> Tensor:
    x = F.relu(net.conv("layers.first.0", GlobalSkip("bicubic", 4)(x)))
    return net.conv("layers.last", F.relu(net.conv("layers.second.0", x)))


def espcn(net: Layers, x: Tensor) -> Tensor:
    x = F.relu(net.conv("layers.second.0", F.relu(net.conv("layers.first.0", x))))
    return F.pixel_shuffle(net.conv("layers.last", x), 4)


def alternating(net: Layers, x: Tensor, num_convs: int) -> Tensor:
    """Convolutions of stride 1 and 2 in turn, LeakyReLU behind each, batch norm behind all but the first."""
    for n, name in enumerate(net.convs[:num_convs]):
        x = net.conv(name, x, 1 + n % 2)
        x = leaky(net.norm(net.norms[n - 1], x) if n else x)
    return x


def vgg(net: Layers, x: Tensor) -> Tensor:
    """SRGAN's own, and BasicSR's VGGStyleDiscriminator for 64 px, whose kernels are larger."""
    x = alternating(net, x, 8).flatten(1)
    return net.linear("head.2", leaky(net.linear("head.0", x)))


def conv_discriminator(net: Layers, x: Tensor) -> Tensor:
    """The listing of the SRGAN blog."""
    return net.conv("last", alternating(net, x, 8)).mean((2, 3))


def vgg16(net: Layers, x: Tensor) -> Tensor:
    """VGG16 to pool4 with LeakyReLU, and for 80 px one strided convolution behind it."""
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    for n, name in enumerate(net.convs[:10], 1):
        x = leaky(net.conv(name, x))
        x = F.max_pool2d(x, 2) if n in (2, 4, 7, 10) else x
    x = leaky(net.norm(net.norms[0], net.conv(net.convs[10], x, 2)))
    return net.linear("head", x.flatten(1))


def unet_discriminator(net: Layers, x: Tensor) -> Tensor:
    """Wang et al. 2021, without spectral norm."""
    first, down, up, after = net.convs[0], net.convs[1:4], net.convs[4:7], net.convs[7:9]
    levels = [leaky(net.conv(first, x))]
    for name in down:
        levels.append(leaky(net.conv(name, levels[-1], 2)))
    x = levels.pop()
    for name in up:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = leaky(net.conv(name, x)) + levels.pop()
    for name in after:
        x = leaky(net.conv(name, x))
    return net.conv("last", x)


def with_any_numbers(network: nn.Module) -> nn.Module:
    """The network with biases, batch norms and slopes that are neither 0 nor 1, ready for evaluation."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
    return network.eval()


def assert_defined(network: nn.Module, image: Tensor, definition: Callable[[Layers, Tensor], Tensor]) -> None:
    with torch.no_grad():
        expected = definition(Layers(with_any_numbers(network)), image)
        given = network(image)
    assert expected.std() > 1e-4, "or the comparison would mean nothing"
    torch.testing.assert_close(given, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("values", "definition"),
    [
        ({"name": "srresnet", "num_blocks": 2, "num_channels": 8, "batch_norm": "everywhere"}, srresnet),
        ({"name": "residual_cnn", "num_channels": 8}, residual_cnn),
        ({"name": "unet", "num_channels": 4, "depth": 3}, unet),
        ({"name": "srcnn", "num_channels": [8, 4]}, srcnn),
        ({"name": "espcn", "num_channels": [8, 4]}, espcn),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_generator_computes_its_definition(values, definition):
    config = TypeAdapter(GeneratorConfig).validate_python({"start_as_skip": False, "skip": "none", **values})
    assert_defined(build_generator(config, 4), torch.rand(2, 3, 11, 9), definition)


@pytest.mark.parametrize(
    ("values", "patch_px", "definition"),
    [
        ({"name": "vgg", "num_channels": 4, "num_dense": 10}, 64, vgg),
        ({"name": "srgan", "num_channels": 4, "num_dense": 10}, 50, vgg),
        ({"name": "conv", "num_channels": 4}, 64, conv_discriminator),
        ({"name": "vgg16", "weights": "random"}, 80, vgg16),
        ({"name": "unet", "num_channels": 4, "spectral_norm": False}, 32, unet_discriminator),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_discriminator_computes_its_definition(values, patch_px, definition):
    config = TypeAdapter(DiscriminatorConfig).validate_python(values)
    assert_defined(build_discriminator(config, patch_px), torch.rand(2, 3, patch_px, patch_px), definition)
