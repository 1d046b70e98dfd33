"""Any network that upscales: this project's runs, checkpoints and exports, other projects' files, what spandrel knows.

Files of others are read as plain tensors; nothing in them is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.models.build import build_generator
from harness.models.config import GeneratorConfig
from harness.models.foreign import from_foreign, read_tensors
from harness.models.skip import GlobalSkip, enlarge_matrix
from harness.schema import Section, parse

_OVERLAP_PX = 16


@dataclass
class Network:
    """A network, in evaluation mode, and what tiling needs to know about it."""

    module: nn.Module
    """(1, 3, H, W) in [0, 1] to (1, 3, H * scale, W * scale)."""
    scale: int
    align_px: int = 1
    """Where a tile starts must be a multiple of this."""
    overlap_px: int = _OVERLAP_PX
    tileable: bool = True
    """Whether a part of the image can be computed by itself."""

    def place(self, top: int, left: int, height: int, width: int) -> None:
        """Tells which part of an image of (height, width) the next tile is, for networks to which it matters."""
        skip = getattr(self.module, "skip", None)
        if isinstance(skip, PlacedSkip):
            skip.top, skip.left, skip.height, skip.width = top, left, height, width


class PlacedSkip(nn.Module):
    """A global skip whose pixel grid depends on the size of the whole image, computed for one tile of it."""

    def __init__(self, skip: GlobalSkip) -> None:
        super().__init__()
        self.kind, self.scale = skip.kind, skip.scale
        self.top = self.left = self.height = self.width = 0

    def forward(self, tile_BCHW: Tensor) -> Tensor:
        rows = self._matrix(self.top, tile_BCHW.shape[-2], self.height, tile_BCHW)
        columns = self._matrix(self.left, tile_BCHW.shape[-1], self.width, tile_BCHW)
        with torch.autocast(tile_BCHW.device.type, enabled=False):
            return rows @ (tile_BCHW.float() @ columns.T)

    def _matrix(self, start: int, num: int, whole: int, like: Tensor) -> Tensor:
        if whole < num:  # not told: the tile is the image
            start, whole = 0, num
        matrix = enlarge_matrix(self.kind, whole, self.scale)
        part = matrix[start * self.scale : (start + num) * self.scale, start : start + num]
        return torch.from_numpy(np.ascontiguousarray(part)).float().to(like.device)


class _Holder(Section):
    generator: GeneratorConfig


def open_network(path: Path, device: torch.device | str = "cpu") -> Network:
    """The network in a run or checkpoint folder, an exported file, or a file of another project.

    Raises:
        CheckpointError: there is none, it is damaged, or of no known architecture; the sentence names the first keys.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; give a run, a checkpoint or a weights file.")
    if path.is_dir() or _is_own_export(path):
        from harness.train.start import load_generator

        generator, config = load_generator(path)
        network = _own(generator, config.scale)
    else:
        network = _foreign(read_tensors(path), path)
    network.module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.module.eval().requires_grad_(False)
    return network


def _own(generator: nn.Module, scale: int) -> Network:
    skip = getattr(generator, "skip", None)
    if isinstance(skip, GlobalSkip) and skip.kind == "bicubic_align_corners":
        generator.skip = PlacedSkip(skip)
    multiple_px = getattr(generator.layers, "multiple_px", scale)  # of the output, that a U-Net's levels ask for
    align_px = max(1, int(multiple_px) // scale)
    return Network(generator, scale, align_px, max(_OVERLAP_PX, 4 * align_px))


def _foreign(state: Mapping[str, Any], path: Path) -> Network:
    """One of the architectures that this project has, or else one that spandrel has."""
    try:
        foreign = from_foreign(state)
    except CheckpointError as error:
        found = _by_spandrel(state)
        if found is None:
            raise CheckpointError(f"{path}: {error}") from None
        return found
    if foreign.scale is None:
        raise CheckpointError(f"{path}: holds a discriminator ({foreign.format}); give a generator's file.")
    generator = build_generator(parse(_Holder, {"generator": foreign.config}, str(path)).generator, foreign.scale)
    try:
        generator.load_state_dict(foreign.weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise CheckpointError(
            f"{path}: looks like {foreign.format}, but differs ({first}); give another file."
        ) from None
    return _own(generator, foreign.scale)


def _by_spandrel(state: Mapping[str, Any]) -> Network | None:
    import spandrel

    try:
        found = spandrel.ModelLoader(device="cpu").load_from_state_dict(spandrel.canonicalize_state_dict(dict(state)))
    except Exception:  # its detectors index into what they take for a known network
        return None
    channels = (found.input_channels, found.output_channels)
    if not isinstance(found, spandrel.ImageModelDescriptor) or channels not in ((3, 3), (1, 1)):
        raise CheckpointError(
            f"the file's {found.architecture.name} network does not map colour to colour; give another."
        )
    align_px = max(1, found.size_requirements.multiple_of)
    overlap_px = -(-max(_OVERLAP_PX, 32 if found.tiling == spandrel.ModelTiling.DISCOURAGED else 0) // align_px)
    return Network(
        Described(found),
        found.scale,
        align_px,
        overlap_px * align_px,
        tileable=found.tiling != spandrel.ModelTiling.INTERNAL,
    )


class Described(nn.Module):
    """A network that spandrel recognised, called through its descriptor, which pads the input where it must.

    A network for one channel is applied to each of the three.
    """

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.network: nn.Module = descriptor.model
        self._descriptor = [descriptor]

    def forward(self, image_BCHW: Tensor) -> Tensor:
        descriptor = self._descriptor[0]
        if descriptor.input_channels == 3:
            return descriptor(image_BCHW)
        return torch.cat([descriptor(channel) for channel in image_BCHW.split(1, dim=1)], dim=1)


def _is_own_export(path: Path) -> bool:
    if path.suffix != ".safetensors":
        return False
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return "harness" in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False
