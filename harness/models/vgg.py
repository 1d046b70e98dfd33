"""VGG16 and VGG19 (Simonyan and Zisserman 2015) up to a named layer, from torchvision's weights or random."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from harness.errors import InputError
from harness.models.conv import Conv2d
from harness.models.vgg_names import VGGName, layer_names
from harness.weights import find

_WIDTHS = (64, 128, 256, 512, 512)


class ImageNetNormalize(nn.Module):
    """[0, 1] images to the mean and deviation that ImageNet networks expect."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return (image_BCHW - self.mean) / self.std


def vgg_layers(
    network: VGGName,
    last: str,
    activation: Callable[[], nn.Module] = nn.ReLU,
    weights: str = "pretrained",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """The layers up to and with `last`, as a Sequential whose children bear their names.

    `random` weights are Kaiming-normal, drawn from `generator` (torch's global one if none is given).

    Raises:
        InputError: the pretrained weights are missing, or are not those of this network.
    """
    names = layer_names(network)
    layers = nn.Sequential()
    num_in = 3
    for name in names[: names.index(last) + 1]:
        if name.startswith("conv"):
            width = _WIDTHS[int(name[4]) - 1]
            layers.add_module(name, skip_init(Conv2d, num_in, width, 3, padding=1))
            num_in = width
        else:
            layers.add_module(name, activation() if name.startswith("relu") else nn.MaxPool2d(2))
    if weights == "pretrained":
        _load(layers, find(network))
    else:
        _draw(layers, generator)
    return layers


def _load(layers: nn.Sequential, path: Path) -> None:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        raise InputError(f"{path}: is damaged; delete it and fetch it anew with `harness weights fetch`.") from None
    for number, layer in enumerate(layers):
        for key in layer.state_dict():
            value = stored.get(f"features.{number}.{key}")
            if value is None or value.shape != getattr(layer, key).shape:
                raise InputError(f"{path}: lacks features.{number}.{key} in the expected shape; fetch the file anew.")
            with torch.no_grad():
                getattr(layer, key).copy_(value)


@torch.no_grad()
def _draw(layers: nn.Sequential, generator: torch.Generator | None) -> None:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            assert layer.bias is not None
            layer.bias.zero_()
