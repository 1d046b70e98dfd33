"""The discriminator's augmentation as a module: differentiable, without host synchronisation, at one cost for any p."""

from __future__ import annotations

import torch
from torch import nn

from harness.augment.colour import colour_matrix, for_unit_range
from harness.augment.config import PipelineConfig
from harness.augment.controller import Controller
from harness.augment.draws import COLOUR_OPERATIONS, SCALE_OPERATIONS, Draws, draw
from harness.augment.warp import dihedral, mirror, per_image, rescale
from harness.errors import InputError
from harness.random import key, normal_tensor


class Augment(nn.Module):
    """What the discriminator's images go through; this one leaves them as they are.

    `forward(images_BCHW in [0, 1], position_B, purpose)` gives images of the same shape and dtype, not clipped.
    `purpose` ("real", "fake", ...) separates draws that must be independent; the same position, purpose and seed give
    the same draw in every batch.
    """

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self.controller = controller

    def forward(self, images_BCHW: torch.Tensor, position_B: torch.Tensor, purpose: str) -> torch.Tensor:
        return images_BCHW


class AugmentPipeline(Augment):
    """Flips and turns, one scaling, one colour matrix and noise, each with the controller's probability p."""

    def __init__(self, config: PipelineConfig, seed: int, controller: Controller) -> None:
        super().__init__(controller)
        self.config = config
        self.seed = seed

    def forward(self, images_BCHW: torch.Tensor, position_B: torch.Tensor, purpose: str) -> torch.Tensor:
        with torch.autocast(images_BCHW.device.type, enabled=False):
            images = images_BCHW.float()
            draws = draw(self.config, self.seed, purpose, position_B, self.controller.p)
            images = apply_geometry(images, draws, self.config)
            noise = None
            if "noise" in self.config.operations:
                noise = normal_tensor(key(self.seed, "augment", purpose, "noise"), position_B, tuple(images.shape[1:]))
            return apply_colour(images, draws, self.config, noise).to(images_BCHW.dtype)


def apply_geometry(images_BCHW: torch.Tensor, draws: Draws, config: PipelineConfig) -> torch.Tensor:
    """The flips, quarter turns and scalings of `draws`; an image without any comes out bitwise the same.

    Raises:
        InputError: quarter turns of images that are not square.
    """
    if "rotate90" in config.operations:
        if images_BCHW.shape[-1] != images_BCHW.shape[-2]:
            size = "x".join(map(str, images_BCHW.shape[-2:]))
            raise InputError(f"augment: rotate90 needs square patches, got {size}; remove it from operations.")
        images_BCHW = dihedral(images_BCHW, draws.flip, draws.quarter_turns)
    elif "x_flip" in config.operations:
        images_BCHW = mirror(images_BCHW, draws.flip)
    if SCALE_OPERATIONS & set(config.operations):
        scaled = rescale(images_BCHW, draws.factor_y, draws.factor_x)
        images_BCHW = torch.where(per_image(draws.rescaled), scaled, images_BCHW)
    return images_BCHW


def apply_colour(
    images_BCHW: torch.Tensor, draws: Draws, config: PipelineConfig, noise_BCHW: torch.Tensor | None
) -> torch.Tensor:
    """The colour operations and the noise of `draws`; an image without any comes out bitwise the same."""
    batch, channels, height, width = images_BCHW.shape
    changed = draws.noisy if noise_BCHW is not None else torch.zeros_like(draws.recoloured)
    offset_BCHW = 0.0 if noise_BCHW is None else noise_BCHW * per_image(draws.noise_std / 2.0)
    if COLOUR_OPERATIONS & set(config.operations):
        matrix = for_unit_range(
            colour_matrix(draws.brightness, draws.contrast, draws.luma_flip, draws.hue, draws.saturation)
        )
        flat = images_BCHW.reshape(batch, channels, height * width)
        coloured = torch.bmm(matrix[:, :, :3], flat) + matrix[:, :, 3:]
        result = coloured.reshape(images_BCHW.shape) + offset_BCHW
        changed = changed | draws.recoloured
    elif noise_BCHW is None:
        return images_BCHW
    else:
        result = images_BCHW + offset_BCHW
    return torch.where(per_image(changed), result, images_BCHW)
