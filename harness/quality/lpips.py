"""LPIPS (Zhang et al. 2018), version 0.1: a perceptual distance from the features of a classification network.

The backbone is torchvision's, from the file that torchvision publishes; the calibrated weights of the layers come
with the `lpips` package. Features of one side can be kept and compared with several others. Large images are compared
in tiles that see all that decides their features, so memory is bounded and the distance is that of the whole.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torchvision import models as torchvision_models

from harness.errors import CheckpointError, first_line
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
_STRIDES = {
    "alex": (4, 8, 16, 16, 16),
    "vgg": (1, 2, 4, 8, 16),
    "squeeze": (2, 4, 8, 16, 16, 16, 16),
}
"""Pixels between two places of each compared layer."""
MIN_PX = {"alex": 31, "vgg": 16, "squeeze": 17}
"""The shortest edge that a network's last compared layer can still see."""

WHOLE_PX = 400_000
"""Pixels up to which an image is compared whole; VGG's features of so many take 200 MB."""
_TILE_PX, _HALO_PX = 448, 112
"""Edge of a tile's core, and what is added around it: multiples of the strides, the halo beyond what any layer sees."""

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

        Images of more than `WHOLE_PX` are compared in tiles.

        Raises:
            ValueError: the shapes differ, or an edge is too short for the network.
        """
        check_same_shape(preds_BCHW, target_BCHW)
        height, width = preds_BCHW.shape[-2:]
        if height * width > WHOLE_PX:
            return self._distance_in_tiles(preds_BCHW, target_BCHW)
        return self.distance(self.describe(preds_BCHW), self.describe(target_BCHW))

    def describe(self, image_BCHW: torch.Tensor, places: Sequence[tuple[slice, slice]] | None = None) -> Features:
        """The compared layers' features, each scaled to unit length at every place (or only at those of `places`)."""
        if min(image_BCHW.shape[-2:]) < MIN_PX[self.network]:
            size = " x ".join(map(str, image_BCHW.shape[-2:]))
            raise ValueError(f"LPIPS ({self.network}) needs edges of at least {MIN_PX[self.network]} px, got {size}.")
        x = (2 * image_BCHW.expand(-1, 3, -1, -1) - 1 - self.shift) / self.stretch
        described: Features = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                kept = x if places is None else x[(..., *places[len(described)])]
                described.append(kept / (torch.linalg.vector_norm(kept, dim=1, keepdim=True) + 1e-10))
        return described

    def distance(self, preds: Features, target: Features) -> torch.Tensor:
        """The distance (B,) from the features that `describe` gave."""
        return torch.stack([map_BHW.mean(dim=(1, 2)) for map_BHW in self._maps(preds, target)]).sum(dim=0)

    def _maps(self, preds: Features, target: Features) -> list[torch.Tensor]:
        """The distance at each place (B, H, W) of each compared layer."""
        weights = [getattr(self, f"layer_weight_{number}") for number in range(len(self.taps))]
        triples = zip(preds, target, weights, strict=True)
        return [torch.einsum("bchw,c->bhw", (a - b).square(), weight_C) for a, b, weight_C in triples]

    def _distance_in_tiles(self, preds_BCHW: torch.Tensor, target_BCHW: torch.Tensor) -> torch.Tensor:
        """The distance (B,), one tile after the other: sums over the layers' places, divided at the end."""
        sums: list[torch.Tensor] = [preds_BCHW.new_zeros(len(preds_BCHW), dtype=torch.float64) for _ in self.taps]
        counts = [0] * len(self.taps)
        height, width = preds_BCHW.shape[-2:]
        for rows in _cores(height):
            for columns in _cores(width):
                preds, target = (self._describe_core(image, rows, columns) for image in (preds_BCHW, target_BCHW))
                for layer, map_BHW in enumerate(self._maps(preds, target)):
                    sums[layer] = sums[layer] + map_BHW.sum(dim=(1, 2), dtype=torch.float64)
                    counts[layer] += map_BHW[0].numel()
        means = [total / count for total, count in zip(sums, counts, strict=True)]
        return torch.stack(means).sum(dim=0).to(preds_BCHW.dtype)

    def _describe_core(self, image_BCHW: torch.Tensor, rows: range, columns: range) -> Features:
        """The features of the places that belong to a tile's core, described with the halo around it."""
        top, left = (max(0, edge.start - _HALO_PX) for edge in (rows, columns))
        seen = image_BCHW[..., top : rows.stop + _HALO_PX, left : columns.stop + _HALO_PX]
        places = [(_places(rows, top, stride), _places(columns, left, stride)) for stride in _STRIDES[self.network]]
        return self.describe(seen, places)


def _cores(edge_px: int) -> list[range]:
    """An image's edge cut into the cores of tiles."""
    return [range(start, min(start + _TILE_PX, edge_px)) for start in range(0, edge_px, _TILE_PX)]


def _places(core: range, first_px: int, stride: int) -> slice:
    """Which places of a layer belong to the core, counted from pixel `first_px`; an edge has at most edge / stride."""
    return slice((core.start - first_px) // stride, (core.stop - first_px) // stride)


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
        reason = first_line(error)
        raise CheckpointError(f"{file}: cannot be read as weights ({reason}); fetch it again.") from None
