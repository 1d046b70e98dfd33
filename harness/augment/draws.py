"""The random parameters of the pipeline, drawn per image from its position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from harness.augment.config import ALL_OPERATIONS, Operation, PipelineConfig
from harness.random import DeviceStream, draws_of, key, normal_tensor, on_device, uniform_tensor

COLOUR_OPERATIONS: frozenset[Operation] = frozenset({"brightness", "contrast", "luma_flip", "hue", "saturation"})
SCALE_OPERATIONS: frozenset[Operation] = frozenset({"scale", "aniso"})


@dataclass(frozen=True)
class Draws:
    """One value per image, shape (B,); an operation that an image does not get has its neutral value."""

    flip: torch.Tensor
    """bool"""
    quarter_turns: torch.Tensor
    """int64, 0 to 3"""
    rescaled: torch.Tensor
    """bool: the image gets an isotropic or anisotropic scaling"""
    factor_y: torch.Tensor
    factor_x: torch.Tensor
    recoloured: torch.Tensor
    """bool: the image gets a colour operation"""
    brightness: torch.Tensor
    contrast: torch.Tensor
    luma_flip: torch.Tensor
    """bool"""
    hue: torch.Tensor
    """radians"""
    saturation: torch.Tensor
    noisy: torch.Tensor
    """bool"""
    noise_std: torch.Tensor
    """for values in [-1, 1]"""


@dataclass(frozen=True)
class Streams:
    """What is drawn for one purpose, with its constants on a device."""

    gate: DeviceStream
    uniform: DeviceStream
    normal: DeviceStream
    noise: DeviceStream

    @classmethod
    def of(cls, seed: int, purpose: str, image_shape: tuple[int, ...], device: torch.device) -> Streams:
        """The streams of a purpose; noise is drawn for images of a shape."""
        keys = [key(seed, "augment", purpose, name) for name in ("gate", "uniform", "normal", "noise")]
        return cls(*on_device(keys, max(len(ALL_OPERATIONS), draws_of(image_shape)), device))


def draw(config: PipelineConfig, streams: Streams, position_B: torch.Tensor, p: torch.Tensor) -> Draws:
    """Draws each operation's parameter, and whether an image gets it (with probability `p`, a scalar tensor).

    x flip U{0, 1}; quarter turns U{0, 1, 2, 3}; scale and aniso 2^N(0, std^2); brightness N(0, std^2); contrast
    2^N(0, std^2); luma flip U{0, 1}; hue U(-max pi, max pi); saturation 2^N(0, std^2); noise |N(0, std^2)|. What an
    image gets of one operation depends neither on the other operations nor on the rest of the batch.
    """
    num = len(ALL_OPERATIONS)
    gate = uniform_tensor(streams.gate, position_B, num) < p
    flat = uniform_tensor(streams.uniform, position_B, num)
    normal = normal_tensor(streams.normal, position_B, (num,))

    def on(name: Operation) -> torch.Tensor:
        column = gate[:, ALL_OPERATIONS.index(name)]
        return column if name in config.operations else torch.zeros_like(column)

    def coin(name: Operation) -> torch.Tensor:
        return on(name) & (flat[:, ALL_OPERATIONS.index(name)] >= 0.5)

    def gaussian(name: Operation, std: float) -> torch.Tensor:
        return torch.where(on(name), normal[:, ALL_OPERATIONS.index(name)] * std, 0.0)

    turns = torch.floor(flat[:, ALL_OPERATIONS.index("rotate90")] * 4).to(torch.int64)
    angle = (flat[:, ALL_OPERATIONS.index("hue")] * 2.0 - 1.0) * (math.pi * config.hue_max)
    scale, aniso = gaussian("scale", config.scale_std), gaussian("aniso", config.aniso_std)
    return Draws(
        flip=coin("x_flip"),
        quarter_turns=torch.where(on("rotate90"), turns, 0),
        rescaled=on("scale") | on("aniso"),
        factor_y=torch.exp2(scale - aniso),
        factor_x=torch.exp2(scale + aniso),
        recoloured=on("brightness") | on("contrast") | on("luma_flip") | on("hue") | on("saturation"),
        brightness=gaussian("brightness", config.brightness_std),
        contrast=torch.exp2(gaussian("contrast", config.contrast_std)),
        luma_flip=coin("luma_flip"),
        hue=torch.where(on("hue"), angle, 0.0),
        saturation=torch.exp2(gaussian("saturation", config.saturation_std)),
        noisy=on("noise"),
        noise_std=gaussian("noise", config.noise_std).abs(),
    )
