"""Colour spaces in which images are compared; everything takes and gives NCHW tensors.

Values are 8-bit levels (0 to 255) as floats, because the published numbers are defined on 8-bit images.
"""

from __future__ import annotations

import numpy as np
import torch

# MATLAB's rgb2ycbcr (ITU-R BT.601, studio range): Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255.
_LUMA_WEIGHTS = (65.481, 128.553, 24.966)
_LUMA_OFFSET = 16.0

_SRGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_D65_WHITE = (0.95047, 1.0, 1.08883)


def luma(image_BCHW: torch.Tensor) -> torch.Tensor:
    """The Y channel of MATLAB's `rgb2ycbcr`, (B, 1, H, W), levels 16 to 235, not rounded.

    Args:
        image_BCHW: RGB (C = 3) or grey (C = 1) levels, 0 to 255, float. A grey image is its own Y: its levels are
            compared as they are, which is how the published figures treat the grey image of Set14.
    """
    if image_BCHW.shape[1] == 1:
        return image_BCHW
    weights = torch.tensor(_LUMA_WEIGHTS, dtype=image_BCHW.dtype, device=image_BCHW.device) / 255.0
    return torch.einsum("bchw,c->bhw", image_BCHW, weights)[:, None] + _LUMA_OFFSET


def luma_of_pixels(image_HWC: np.ndarray) -> torch.Tensor:
    """`luma` of a uint8 RGB image as it lies in memory, (H, W) float64: one product, without reordering the pixels."""
    return torch.from_numpy(image_HWC @ (np.array(_LUMA_WEIGHTS) / 255.0) + _LUMA_OFFSET)


def lab(image_BCHW: torch.Tensor) -> torch.Tensor:
    """CIELAB (D65, 2 degrees) of sRGB levels 0 to 255, shape (B, 3, H, W): L* 0 to 100, a* and b* about -100 to 100."""
    if image_BCHW.shape[1] == 1:
        image_BCHW = image_BCHW.expand(-1, 3, -1, -1)
    srgb = image_BCHW / 255.0
    linear = torch.where(srgb > 0.04045, ((srgb + 0.055) / 1.055).clamp_min(0) ** 2.4, srgb / 12.92)
    matrix = torch.tensor(_SRGB_TO_XYZ, dtype=srgb.dtype, device=srgb.device)
    white = torch.tensor(_D65_WHITE, dtype=srgb.dtype, device=srgb.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix / white[:, None], linear)
    f_x, f_y, f_z = torch.where(xyz > 0.008856, xyz.clamp_min(1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([116 * f_y - 16, 500 * (f_x - f_y), 200 * (f_y - f_z)], dim=1)


def mean_tint(image_BCHW: torch.Tensor) -> torch.Tensor:
    """The mean (a*, b*) of each image, (B, 2), in CIELAB units, from levels 0 to 255.

    The distance between two of them is the measure of the colour shift that ESRDGAN's author saw in early results.
    Lightness is left out: an error of lightness is in the MSE already. A distance of about 2 is just noticeable.
    """
    return lab(image_BCHW)[:, 1:].mean(dim=(2, 3))
