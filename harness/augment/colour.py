"""The colour part: brightness, contrast, luma flip, hue and saturation as one 3x4 matrix per image.

Colours are meant in [-1, 1], where mid grey is 0; `affine` is converted so that it applies to images in [0, 1]. Luma
flip, hue and saturation act along or around the grey axis and commute with each other and with contrast, so only
brightness, which comes first, has an order (Karras et al. 2020, appendix B).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

GreyAxis = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def colour_matrix(
    brightness_B: torch.Tensor,
    contrast_B: torch.Tensor,
    luma_flip_B: torch.Tensor,
    hue_B: torch.Tensor,
    saturation_B: torch.Tensor,
    axis: GreyAxis | None = None,
) -> torch.Tensor:
    """The matrices, shape (B, 3, 4), that map a colour in [-1, 1] and a one to a colour.

    Args:
        brightness_B: added to all channels.
        contrast_B: factor on all channels, after the brightness.
        luma_flip_B: bool; mirrors the component along the grey axis.
        hue_B: rotation around the grey axis in radians.
        saturation_B: factor on what is orthogonal to the grey axis.
        axis: `grey_axis` of their device and type, where the caller has it.
    """
    grey, chroma, cross = axis or grey_axis(brightness_B.device, brightness_B.dtype)
    along = 1.0 - 2.0 * luma_flip_B.to(brightness_B.dtype)
    linear = (
        along[:, None, None] * grey
        + (saturation_B * torch.cos(hue_B))[:, None, None] * chroma
        + (saturation_B * torch.sin(hue_B))[:, None, None] * cross
    ) * contrast_B[:, None, None]
    shift = linear.sum(2) * brightness_B[:, None]
    return torch.cat([linear, shift[:, :, None]], dim=2)


def for_unit_range(matrix_B34: torch.Tensor) -> torch.Tensor:
    """The same maps for colours in [0, 1] instead of [-1, 1]."""
    linear, shift = matrix_B34[:, :, :3], matrix_B34[:, :, 3]
    return torch.cat([linear, ((shift - linear.sum(2) + 1.0) / 2.0)[:, :, None]], dim=2)


@lru_cache(maxsize=16)
def grey_axis(device: torch.device, dtype: torch.dtype) -> GreyAxis:
    """Projection onto the grey axis, onto its complement, and a quarter turn within the complement; each (3, 3)."""
    third, root = 1.0 / 3.0, 1.0 / math.sqrt(3.0)
    grey = [[third] * 3] * 3
    chroma = [[2 * third, -third, -third], [-third, 2 * third, -third], [-third, -third, 2 * third]]
    cross = [[0.0, -root, root], [root, 0.0, -root], [-root, root, 0.0]]
    with torch.inference_mode(False):  # kept, and perhaps differentiated through later
        matrices = [torch.tensor(matrix, dtype=dtype, device=device) for matrix in (grey, chroma, cross)]
    return matrices[0], matrices[1], matrices[2]
