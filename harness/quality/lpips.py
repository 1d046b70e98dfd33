"""LPIPS (Zhang et al. 2018), version 0.1: a perceptual distance from the features of a classification network.

The backbone is torchvision's, from the file that torchvision publishes; the calibrated weights of the layers come
with the `lpips` package. Features of one side can be kept and compared with several others.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torchvision import models as torchvision_models

from harness.errors import CheckpointError
from harness.quality.psnr import check_same_shape

LPIPSNetwork = Literal["alex", "vgg", "squeeze"]
Features = list[torch.Tensor]

_BUILDERS = {
    "alex": torchvision_models.alexnet,
    "vgg": torchvision_models.vgg16,
    "squeeze": torchvision_models.squeezenet1_1,
}
# The layers whose outputs are compared, by their place in torchvision's `features`.
_TAPS = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
MIN_PX = {"alex": 31, "vgg": 16, "squeeze": 17}
"""The shortest edge that a network's last compared layer can still see."""

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """Distance of image pairs, 0 for equal ones; frozen, but differentiable in the images."""

    shift: torch.Tensor
    stretch: torch.Tensor

    def __init__(self, network: LPIPSNetwork, backbone_file: Path, linear_file: Path | None = None) -> None:
        """Loads the backbone from torchvision's file and the layer weights from the `lpips` package's (or the given).

        Raises:
            CheckpointError: a file cannot be read or holds another network.
        """
        super().__init__()
        self.network = network
        self.min_px = MIN_PX[network]
        self.taps = _TAPS[network]
        # On the meta device the classifier, most of the weights, costs neither memory nor time.
        with torch.device("meta"):
            self.features = _BUILDERS[network](weights=None).features[: self.taps[-1] + 1]
        _load_features(self.features, backbone_file)
        weights = _layer_weights(linear_file or packaged_linear_file(network), len(self.taps))
        for number, weight_C in enumerate(weights):
            self.register_buffer(f"layer_weight_{number}", weight_C)
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None])
        self.register_buffer("stretch", torch.tensor(_SCALE)[:, None, None])
        self.eval().requires_grad_(False)

    def forward(self, preds_BCHW: torch.Tensor, target_BCHW: torch.Tensor) -> torch.Tensor:
        """The distance of each pair, (B,); images (B, 3 or 1, H, W) in [0, 1], edges of at least `MIN_PX`.

        Raises:
            ValueError: the shapes differ, or an edge is too short for the network.
        """
        check_same_shape(preds_BCHW, target_BCHW)
        return self.distance(self.describe(preds_BCHW), self.describe(target_BCHW))

    def describe(self, image_BCHW: torch.Tensor) -> Features:
        """The compared layers' features, each scaled to unit length at every place."""
        if min(image_BCHW.shape[-2:]) < MIN_PX[self.network]:
            size = " x ".join(map(str, image_BCHW.shape[-2:]))
            raise ValueError(f"LPIPS ({self.network}) needs edges of at least {MIN_PX[self.network]} px, got {size}.")
        x = (2 * image_BCHW.expand(-1, 3, -1, -1) - 1 - self.shift) / self.stretch
        described: Features = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.taps:
                described.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10))
        return described

    def distance(self, preds: Features, target: Features) -> torch.Tensor:
        """The distance (B,) from the features that `describe` gave."""
        total = preds[0].new_zeros(preds[0].shape[0])
        for number, (a, b) in enumerate(zip(preds, target, strict=True)):
            weight_C = getattr(self, f"layer_weight_{number}")
            total = total + torch.einsum("bchw,c->bhw", (a - b).square(), weight_C).mean(dim=(1, 2))
        return total


def packaged_linear_file(network: LPIPSNetwork) -> Path:
    """The calibrated layer weights inside the installed `lpips` package."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError("the package `lpips` is not installed; run `pip install lpips`.")
    return Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / f"{network}.pth"


def _load_features(features: nn.Module, file: Path) -> None:
    state = _read_state(file)
    wanted = features.state_dict()
    found = {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
    wrong = [name for name, value in wanted.items() if name not in found or found[name].shape != value.shape]
    if wrong:
        raise CheckpointError(
            f"{file}: holds no fitting 'features.{wrong[0]}'; give the file that torchvision publishes for the network."
        )
    features.load_state_dict({name: found[name] for name in wanted}, assign=True)


def _layer_weights(file: Path, num_layers: int) -> list[torch.Tensor]:
    state = _read_state(file)
    try:
        return [state[f"lin{number}.model.1.weight"].flatten() for number in range(num_layers)]
    except KeyError as error:
        raise CheckpointError(f"{file}: holds no {error}; give the layer weights of LPIPS 0.1.") from None


def _read_state(file: Path) -> dict[str, torch.Tensor]:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch's unpickler raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file}: cannot be read as weights ({reason}); fetch it again.") from None
