"""Every kind of model as one thing: LR images in, SR images out. Images are uint8."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from evaluation.model import METHODS, Model
from evaluation.scores.checkpoints import find_weights
from evaluation.scores.device import float32_proper
from evaluation.scores.images import name_of_image
from evaluation.scores.measures import unit_range
from evaluation.scores.score_folder import list_images
from harness.data.degrade import UpscaleMethod, upscale_image
from harness.data.images import decode
from harness.errors import CheckpointError, DataError, InputError, first_line
from harness.networks import Network, open_network
from harness.screen import shown_names
from harness.tiles import NotFiniteError, TiledNetwork

_WHOLE_PX = 256 * 256
"""LR pixels up to which an image goes through a network whole."""


class Upsampler(Protocol):
    """A model that is ready to be used."""

    def __call__(self, lr_image: np.ndarray, key: str | None = None) -> np.ndarray:
        """One image, H x W x 3 -> scale H x scale W x 3; `key` names it for models that are finished images."""

    def batch(self, lr_NHWC: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """SR images (N, H, W, 3) of equal-sized LR images, and which of them (N,) were finite before rounding."""


class MethodUpsampler:
    """An interpolation."""

    def __init__(self, method: UpscaleMethod, scale: int) -> None:
        self.method = method
        self.scale = scale

    def __call__(self, lr_image: np.ndarray, key: str | None = None) -> np.ndarray:
        return upscale_image(lr_image, self.scale, self.method)

    def batch(self, lr_NHWC: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([self(image) for image in lr_NHWC]), np.ones(len(lr_NHWC), bool)


class NetworkUpsampler:
    """A network, in float32 (reported numbers are not measured in half precision); large images go in tiles."""

    def __init__(self, network: Network, name: str, tile_px: int | None = None, device: str = "cpu") -> None:
        self.network = network
        self.device = device
        self.name = name
        self.whole_px = _WHOLE_PX if tile_px is None else tile_px * tile_px
        self.tiled = TiledNetwork(network, torch.device(device), tile_px)

    def __call__(self, lr_image: np.ndarray, key: str | None = None) -> np.ndarray:
        sr_NHWC, finite_N = self.batch(lr_image[None], [key or ""])
        if not finite_N[0]:
            raise InputError(f"model '{self.name}': its output for {key or 'the image'} is not finite; train it again.")
        return sr_NHWC[0]

    @torch.inference_mode()
    def batch(self, lr_NHWC: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        height, width = lr_NHWC.shape[1:3]
        try:
            with float32_proper():
                return self._forward(lr_NHWC)
        except RuntimeError as error:
            reason = first_line(error)
            raise InputError(f"model '{self.name}': fails on LR images of {height} x {width} px ({reason}).") from None

    def _forward(self, lr_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = lr_NHWC.shape[1:3]
        if height * width > self.whole_px:
            return self._in_tiles(lr_NHWC)
        self.network.place(0, 0, height, width)
        return _to_levels(self.network.module(unit_range(lr_NHWC, self.device)).float())

    def _in_tiles(self, lr_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One image after the other, so that one that is not finite leaves the others what they are.

        A network that cannot be tiled gets each of them whole.
        """
        num_images, height, width, channels = lr_NHWC.shape
        scale = self.network.scale
        sr_NHWC = np.zeros((num_images, height * scale, width * scale, channels), np.uint8)
        finite_N = np.ones(num_images, bool)
        for number, lr_image in enumerate(lr_NHWC):
            try:
                sr_NHWC[number] = self.tiled(lr_image)
            except NotFiniteError:
                finite_N[number] = False
        return sr_NHWC, finite_N


def _to_levels(sr_BCHW: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """uint8 NHWC, and which images were finite."""
    finite_N = sr_BCHW.isfinite().flatten(1).all(dim=1).cpu().numpy()
    levels_BCHW = sr_BCHW.nan_to_num_(nan=0.0).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return levels_BCHW.permute(0, 2, 3, 1).contiguous().cpu().numpy(), finite_N


class FolderUpsampler:
    """Finished SR images, told apart by name: the image's key, CLASS/FILE or FILE (suffixes may differ)."""

    def __init__(self, folder: Path, scale: int, name: str) -> None:
        self.folder = folder
        self.files = list_images(folder)
        self.scale = scale
        self.name = name

    def find(self, key: str) -> Path | None:
        """The file of an image, or None."""
        named = name_of_image(key)
        return next((self.files[n] for n in (key, named, named.rsplit("/", 1)[-1]) if n in self.files), None)

    def check(self, keys: Sequence[str]) -> None:
        """That each image has a file of its own.

        Raises:
            InputError: the folder and the images do not match; both lists are shown.
        """
        found = {key: self.find(key) for key in keys}
        absent = [name_of_image(key) for key, file in found.items() if file is None]
        used = Counter(file for file in found.values() if file is not None)
        if absent:
            spare = [name for name, file in self.files.items() if file not in used]
            raise InputError(
                f"{self.folder}: does not match the images: only in the dataset: {shown_names(absent)}; "
                f"only in the folder: {shown_names(spare)}; name each file as the image (CLASS/FILE or FILE)."
            )
        twice = next((file for file, count in used.items() if count > 1), None)
        if twice is not None:
            raise InputError(f"{twice}: stands for several images; put the files into class folders (CLASS/FILE).")

    def __call__(self, lr_image: np.ndarray, key: str | None = None) -> np.ndarray:
        file = self.find(key) if key is not None else None
        if file is None:
            raise InputError(f"{self.folder}: holds no image for '{key}'; add it.")
        sr_image = decode(file.read_bytes(), str(file))
        expected = (lr_image.shape[0] * self.scale, lr_image.shape[1] * self.scale, 3)
        if sr_image.shape != expected:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (sr_image.shape, expected)]
            raise DataError(f"{file}: is {sizes[0]} px, the HR image {sizes[1]}; crop HR to a multiple of the scale.")
        return sr_image

    def batch(self, lr_NHWC: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        images = [self(lr_image, key) for lr_image, key in zip(lr_NHWC, keys, strict=True)]
        return np.stack(images), np.ones(len(images), bool)


def open_upsampler(
    model: Model, scale: int, latest: bool = True, tile_px: int | None = None, device: str = "cpu"
) -> Upsampler:
    """Loads a model of any kind.

    Raises:
        InputError: its weights or images are absent or damaged, or it upscales by another factor.
    """
    if model.kind == "method":
        assert model.name in METHODS
        return MethodUpsampler(model.name, scale)  # type: ignore[arg-type]
    if model.kind == "folder":
        return FolderUpsampler(Path(model.path or ""), scale, model.name)
    path = Path(model.path or "") if model.kind == "spandrel" else find_weights(model, latest).path
    return open_network_of(model, path, scale, tile_px, device)


def open_network_of(model: Model, path: Path, scale: int, tile_px: int | None = None, device: str = "cpu") -> Upsampler:
    """The network in a run, a checkpoint or a weights file.

    Raises:
        CheckpointError: it cannot be read. InputError: another scale.
    """
    network = open_network(path, device)
    if network.scale != scale:
        raise InputError(f"model '{model.name}': upscales by {network.scale}, not {scale}; evaluate it by itself.")
    return NetworkUpsampler(network, model.name, tile_px, device)


def identity_of_file(model: Model) -> str:
    """A hash that changes when the model's own files do; for kinds that are no checkpoint of this project.

    Raises:
        InputError: the file or folder is absent.
    """
    digest = hashlib.sha256(f"{model.kind} {model.name if model.kind == 'method' else ''}".encode())
    path = Path(model.path or "")
    if model.kind == "folder":
        for name, file in list_images(path).items():
            digest.update(f"{name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    elif model.kind == "spandrel":
        if not path.is_file():
            raise CheckpointError(f"{path}: no such weights file; give the path of one.")
        digest.update(path.read_bytes())
    return digest.hexdigest()
