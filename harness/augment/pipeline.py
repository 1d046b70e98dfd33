"""The discriminator's augmentation as a module: differentiable, without host synchronisation, at one cost for any p."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.augment.colour import GreyAxis, colour_matrix, for_unit_range, grey_axis
from harness.augment.config import PipelineConfig
from harness.augment.controller import Controller
from harness.augment.draws import COLOUR_OPERATIONS, SCALE_OPERATIONS, Draws, Streams, draw
from harness.augment.warp import Filters, dihedral, filters_of, mirror, per_image, rescale
from harness.errors import InputError
from harness.random import normal_tensor


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
        self._constants: dict[tuple[str, torch.device, torch.Size], Constants] = {}
        self._pipeline = apply

    def forward(self, images_BCHW: torch.Tensor, position_B: torch.Tensor, purpose: str) -> torch.Tensor:
        """See `Augment`.

        Raises:
            InputError: quarter turns of images that are not square.
        """
        height, width = images_BCHW.shape[-2:]
        if "rotate90" in self.config.operations and height != width:
            raise InputError(
                f"augment: rotate90 needs square patches, got {height}x{width}; remove it from operations."
            )
        with torch.autocast(images_BCHW.device.type, enabled=False):
            images = images_BCHW.float().contiguous()  # once, since most of what follows would need it so
            constants = self._constants_for(images, purpose)
            changed = self._pipeline(self.config, constants, images, position_B, self.controller.p)
            return changed.to(images_BCHW.dtype)

    def join_operations(self, compiled: Callable[[Any], Any]) -> None:
        """Has torch's compiler, `compiled`, make few kernels of the pipeline's some three hundred operations."""
        self._pipeline = compiled(apply)

    def _constants_for(self, images: torch.Tensor, purpose: str) -> Constants:
        shape, device = images.shape[1:], images.device
        if (purpose, device, shape) not in self._constants:
            with torch.inference_mode(False):  # kept, and perhaps differentiated through later
                streams = Streams.of(self.seed, purpose, tuple(shape), device)
            filters = (filters_of(images, shape[1]), filters_of(images, shape[2]))
            self._constants[purpose, device, shape] = Constants(streams, filters, grey_axis(device, images.dtype))
        return self._constants[purpose, device, shape]


@dataclass(frozen=True)
class Constants:
    """What the operations need beside the images, made beforehand on their device."""

    streams: Streams
    filters: tuple[Filters, Filters]
    """For lines of the images' height and of their width."""
    axis: GreyAxis


def apply(
    config: PipelineConfig, constants: Constants, images: torch.Tensor, position_B: torch.Tensor, p: torch.Tensor
) -> torch.Tensor:
    """The whole pipeline on float32 images."""
    draws = draw(config, constants.streams, position_B, p)
    images = apply_geometry(images, draws, config, constants.filters)
    noise = None
    if "noise" in config.operations:
        noise = normal_tensor(constants.streams.noise, position_B, tuple(images.shape[1:]))
    return apply_colour(images, draws, config, noise, constants.axis)


def apply_geometry(
    images_BCHW: torch.Tensor, draws: Draws, config: PipelineConfig, filters: tuple[Filters, Filters] | None = None
) -> torch.Tensor:
    """The flips, quarter turns and scalings of `draws`; an image without any comes out bitwise the same."""
    if "rotate90" in config.operations:
        images_BCHW = dihedral(images_BCHW, draws.flip, draws.quarter_turns)
    elif "x_flip" in config.operations:
        images_BCHW = mirror(images_BCHW, draws.flip)
    if SCALE_OPERATIONS & set(config.operations):
        scaled = rescale(images_BCHW, draws.factor_y, draws.factor_x, filters)
        images_BCHW = torch.where(per_image(draws.rescaled), scaled, images_BCHW)
    return images_BCHW


def apply_colour(
    images_BCHW: torch.Tensor,
    draws: Draws,
    config: PipelineConfig,
    noise_BCHW: torch.Tensor | None,
    axis: GreyAxis | None = None,
) -> torch.Tensor:
    """The colour operations and the noise of `draws`; an image without any comes out bitwise the same."""
    changed = draws.noisy if noise_BCHW is not None else torch.zeros_like(draws.recoloured)
    offset_BCHW = 0.0 if noise_BCHW is None else noise_BCHW * per_image(draws.noise_std / 2.0)
    if COLOUR_OPERATIONS & set(config.operations):
        matrix = for_unit_range(
            colour_matrix(draws.brightness, draws.contrast, draws.luma_flip, draws.hue, draws.saturation, axis)
        )
        # Not a matrix product, which libraries are slow at for 3 channels and compilers join with nothing.
        result = matrix[:, :, 3, None, None] + offset_BCHW
        for channel in range(3):
            result = torch.addcmul(result, matrix[:, :, channel, None, None], images_BCHW[:, None, channel])
        changed = changed | draws.recoloured
    elif noise_BCHW is None:
        return images_BCHW
    else:
        result = images_BCHW + offset_BCHW
    return torch.where(per_image(changed), result, images_BCHW)
