"""The geometric part: exact flips and quarter turns, then one low-pass filtered scaling per image.

Karras et al. (2020, appendix B) upsample by two with an orthogonal wavelet filter, warp bilinearly, and downsample
with the same filter. Flips, quarter turns and scalings along the axes never mix rows with columns, so that whole chain
is one small matrix for the rows and one for the columns of each image: two batched matrix products, which also have
second derivatives. Images reflect around their edge pixels, however far outside a scaling looks.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

# Daubechies' least asymmetric wavelet with six vanishing moments (symlet 6), low-pass, orthonormal.
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
_TAPS = len(SYM6)
_MARGIN = _TAPS // 4 * 2
"""Samples at twice the resolution that the warp computes beyond each edge, for the downsampling filter to read."""


def dihedral(images_BCHW: torch.Tensor, flip_B: torch.Tensor, quarter_turns_B: torch.Tensor) -> torch.Tensor:
    """Mirrors left to right where `flip_B` (bool), then turns counter-clockwise by so many quarters (0 to 3).

    Copies pixels, so the result is exact. Images must be square.
    """
    odd = quarter_turns_B % 2 == 1
    # A quarter turn is a transposition and a flip; the mirror, which comes before, changes axis with the transposition.
    flip_x = (quarter_turns_B >= 2) ^ (flip_B & ~odd)
    flip_y = ((quarter_turns_B == 1) | (quarter_turns_B == 2)) ^ (flip_B & odd)
    images = torch.where(per_image(odd), images_BCHW.mT, images_BCHW)
    images = torch.where(per_image(flip_x), images.flip(-1), images)
    return torch.where(per_image(flip_y), images.flip(-2), images)


def mirror(images_BCHW: torch.Tensor, flip_B: torch.Tensor) -> torch.Tensor:
    """Mirrors left to right where `flip_B` (bool); for images that need not be square."""
    return torch.where(per_image(flip_B), images_BCHW.flip(-1), images_BCHW)


Filters = tuple[torch.Tensor, torch.Tensor]
"""The matrices that upsample and downsample a line of pixels."""


def rescale(
    images_BCHW: torch.Tensor,
    factor_y_B: torch.Tensor,
    factor_x_B: torch.Tensor,
    filters: tuple[Filters, Filters] | None = None,
) -> torch.Tensor:
    """Scales each image about its centre by its own factors (2 is twice as large), low-pass filtered; same size.

    float32 or float64; differentiable with respect to the images.

    Args:
        filters: `filters_of` the height and the width, where the caller has them.
    """
    batch, channels, height, width = images_BCHW.shape
    of_rows, of_columns = filters or (filters_of(images_BCHW, height), filters_of(images_BCHW, width))
    rows = axis_matrix(factor_y_B, of_rows)
    columns = axis_matrix(factor_x_B, of_columns)
    across = torch.bmm(images_BCHW.reshape(batch, channels * height, width), columns.mT)
    return torch.matmul(rows[:, None], across.reshape(batch, channels, height, width))


def axis_matrix(factor_B: torch.Tensor, filters: Filters) -> torch.Tensor:
    """The matrices, shape (B, size, size), that scale a line of pixels about its centre: downsample @ warp @ upsample.

    The bilinear warp reads the upsampled line at position u = (v - size - margin + 1) / factor + size - 1 for sample v
    of its output; the filter's group delay is why both centres lie half a sample off the middle.
    """
    upsample, downsample = filters
    size_px = downsample.shape[0]
    v = torch.arange(2 * size_px + 2 * _MARGIN, device=factor_B.device, dtype=factor_B.dtype)
    u = (v - (size_px + _MARGIN - 1)) / factor_B[:, None] + (size_px - 1)
    left = torch.floor(u)
    weight = (u - left)[..., None]
    period = upsample.shape[0]
    index = torch.remainder(left.to(torch.int64), period)
    warped = torch.lerp(upsample[index], upsample[(index + 1) % period], weight)
    return torch.matmul(downsample, warped)


def filters_of(images_BCHW: torch.Tensor, size_px: int) -> Filters:
    """The matrices for lines of `size_px`, on the images' device and in their type; made once."""
    return _filters(size_px, images_BCHW.device, images_BCHW.dtype)


@lru_cache(maxsize=16)
def _filters(size_px: int, device: torch.device, dtype: torch.dtype) -> Filters:
    upsample, downsample = upsampling_matrix(size_px), downsampling_matrix(size_px)
    with torch.inference_mode(False):  # kept, and perhaps differentiated through later
        return torch.tensor(upsample, dtype=dtype, device=device), torch.tensor(downsample, dtype=dtype, device=device)


def upsampling_matrix(size_px: int) -> np.ndarray:
    """One period, shape (4 (size - 1), size), of the reflected line, upsampled by two: row u is sample u."""
    period_px = max(1, 2 * (size_px - 1))
    matrix = np.zeros((2 * period_px, size_px))
    for u in range(2 * period_px):
        for tap, value in enumerate(SYM6):
            pixel, odd = divmod(u + 5 - tap, 2)
            if not odd:
                folded = pixel % period_px
                matrix[u, min(folded, period_px - folded)] += np.sqrt(2.0) * value
    return matrix


def downsampling_matrix(size_px: int) -> np.ndarray:
    """Shape (size, 2 size + 2 margin): low-pass filters the warped line and takes every other sample."""
    matrix = np.zeros((size_px, 2 * size_px + 2 * _MARGIN))
    for pixel in range(size_px):
        matrix[pixel, 2 * pixel + 1 : 2 * pixel + 1 + _TAPS] = np.array(SYM6) / np.sqrt(2.0)
    return matrix


def per_image(mask_B: torch.Tensor) -> torch.Tensor:
    """A mask of shape (B, 1, 1, 1)."""
    return mask_B[:, None, None, None]
