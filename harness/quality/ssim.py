"""Structural similarity (Wang et al. 2004), differentiable, with the Gaussian window as banded matrix products.

A filter along one axis is a product with a banded matrix. The axis is cut into blocks, so that every block is
multiplied by the same small matrix: on a CPU this is several times faster than a convolution with one channel.
"""

from __future__ import annotations

import functools

import torch

from harness.quality.psnr import check_same_shape

WINDOW_PX = 11
WINDOW_STD = 1.5
_K1, _K2 = 0.01, 0.03
_BLOCK_PX = 32


def ssim(preds_BCHW: torch.Tensor, target_BCHW: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """Mean structural similarity of each pair, (B,), at most 1; channels are averaged.

    An 11 x 11 Gaussian window of deviation 1.5 over the valid region, population covariance, K1 = 0.01, K2 = 0.03:
    what the published tables of super-resolution use. Computed in the tensors' own dtype: give float64 for numbers
    that are reported.

    Raises:
        ValueError: the shapes differ, or an edge is shorter than the window.
    """
    check_same_shape(preds_BCHW, target_BCHW)
    if min(preds_BCHW.shape[-2:]) < WINDOW_PX:
        height, width = preds_BCHW.shape[-2:]
        raise ValueError(f"SSIM needs images of at least {WINDOW_PX} x {WINDOW_PX} px, got {height} x {width}.")
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    # The variances appear only as their sum, so four filtered maps suffice.
    maps = torch.stack([preds_BCHW, target_BCHW, preds_BCHW * target_BCHW, preds_BCHW.square() + target_BCHW.square()])
    mean_preds, mean_target, product, squares = _filter_columns(_filter_columns(maps))
    mean_product = mean_preds * mean_target
    mean_squares = mean_preds.square() + mean_target.square()
    similarity = (2 * mean_product + c1) * (2 * (product - mean_product) + c2)
    similarity = similarity / ((mean_squares + c1) * (squares - mean_squares + c2))
    return similarity.flatten(1).mean(dim=1)


def _filter_columns(maps: torch.Tensor) -> torch.Tensor:
    """Filters the last axis (valid region) and swaps the last two axes, so that two calls filter both."""
    num_valid = maps.shape[-1] - WINDOW_PX + 1
    block_px = min(_BLOCK_PX, num_valid)
    num_blocks = -(-num_valid // block_px)
    missing_px = num_blocks * block_px - num_valid
    if missing_px:
        maps = torch.nn.functional.pad(maps, (0, missing_px))
    blocks = maps.unfold(-1, block_px + WINDOW_PX - 1, block_px)
    filtered = blocks @ _band(block_px, maps.dtype, maps.device)
    return filtered.flatten(-2)[..., :num_valid].transpose(-1, -2)


@functools.lru_cache(maxsize=64)
def _band(block_px: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The matrix (block_px + 10, block_px) whose columns are the shifted window."""
    with torch.inference_mode(False):
        offset = torch.arange(WINDOW_PX, dtype=torch.float64) - WINDOW_PX // 2
        window = torch.exp(-0.5 * (offset / WINDOW_STD) ** 2)
        window = window / window.sum()
        band = torch.zeros(block_px + WINDOW_PX - 1, block_px, dtype=torch.float64)
        for column in range(block_px):
            band[column : column + WINDOW_PX, column] = window
        return band.to(device=device, dtype=dtype)
