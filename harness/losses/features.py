"""The feature loss: a distance between what a fixed VGG network sees in the generated and in the true image."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.losses.config import FeatureLossConfig
from harness.models.vgg import ImageNetNormalize, vgg_layers
from harness.models.vgg_names import layer_names

_SEED_OF_RANDOM_WEIGHTS = 0


class FeatureLoss(nn.Module):
    """Sum over layers of weight * distance(rescale * features), for images in [0, 1] (Ledig et al. 2017, eq. 5).

    The true image's features are computed without a graph; the network's own parameters never receive a gradient.

    Raises:
        InputError: the pretrained weights are missing.
    """

    def __init__(self, config: FeatureLossConfig) -> None:
        super().__init__()
        last = max(config.layers, key=layer_names(config.network).index)
        generator = torch.Generator().manual_seed(_SEED_OF_RANDOM_WEIGHTS)
        self.layers = vgg_layers(config.network, last, weights=config.weights, generator=generator)
        _save_memory(self.layers, config.layers)
        self.normalize = ImageNetNormalize() if config.normalize else nn.Identity()
        self.distance = {"l1": F.l1_loss, "l2": F.mse_loss}[config.distance]
        factor = config.rescale if config.distance == "l1" else config.rescale**2
        self.layer_weights = {layer: weight * factor for layer, weight in config.layers.items()}
        self.requires_grad_(False)
        self._rounded: dict[tuple[torch.device, torch.dtype], nn.Sequential] = {}
        self._through = _through

    def forward(self, sr_image_BCHW: Tensor, hr_image_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            targets = self.features(hr_image_BCHW)
        preds = self.features(sr_image_BCHW)
        terms = [
            weight * self.distance(preds[layer].float(), targets[layer].float())
            for layer, weight in self.layer_weights.items()
        ]
        return torch.stack(terms).sum()

    def features(self, image_BCHW: Tensor) -> dict[str, Tensor]:
        """The outputs of the layers that the loss names, not rescaled."""
        return self._through(self._layers_for(image_BCHW.device), self.normalize(image_BCHW), self.layer_weights)

    def join_operations(self, compiled: Callable[[Any], Any]) -> None:
        """Has torch's compiler, `compiled`, join what lies between the convolutions."""
        self._through = compiled(_through)

    def _layers_for(self, device: torch.device) -> nn.Sequential:
        """The layers with weights as autocast would round them, twice in every step; these never change."""
        if device.type == "meta" or not torch.is_autocast_enabled(device.type):
            return self.layers
        kind = (device, torch.get_autocast_dtype(device.type))
        if kind not in self._rounded:
            self._rounded[kind] = copy.deepcopy(self.layers).to(*kind)
        return self._rounded[kind]


def _through(layers: nn.Sequential, x: Tensor, wanted: dict[str, float]) -> dict[str, Tensor]:
    """What comes out of the wanted layers."""
    outputs: dict[str, Tensor] = {}
    for name, layer in layers.named_children():
        x = layer(x)
        if name in wanted:
            outputs[name] = x
    return outputs


def _save_memory(layers: nn.Sequential, wanted: dict[str, float]) -> None:
    """Lets an activation overwrite a convolution's output that nobody else reads."""
    for name, layer in layers.named_children():
        if isinstance(layer, nn.ReLU):
            layer.inplace = name.replace("relu", "conv") not in wanted
