"""From a batch of HR patches to the pair the models see, on the patches' device and without a host synchronisation.

In: uint8, B x H x W x 3. Out: float32 NCHW in [0, 1]. Flips, turns, jitter, the choice of kernel and the noise are
pure functions of (seed, purpose, position), so another number of ranks or a resumed run sees the same pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from harness import random
from harness.data.config import DataConfig
from harness.data.degrade import ROUNDS_BETWEEN, ROWS_FIRST, resize_matrix

_HALF = 0.5001
"""Rounds halves up whatever the last bits of a float32 sum are (the sums of MATLAB's weights are exact: dyadic)."""


class Prepare:
    """Makes (lr_image, hr_image) from a batch of the loader.

    The order is: mirror and turn, contrast around the patch mean, brightness, back to uint8 levels, degradation by two
    matrix products, LR to uint8 levels, LR noise (clipped to [0, 1]).
    """

    def __init__(self, data: DataConfig, scale: int, seed: int) -> None:
        self.data = data
        self.scale = scale
        self._streams = {name: random.key(seed, name) for name in ("flip", "jitter", "kernel", "noise")}
        weights = {kernel: weight for kernel, weight in data.degradation.kernels.items() if weight > 0}
        self.degrade = Degrade(weights, data.patch_px, scale, self._streams["kernel"])

    @torch.no_grad()
    def __call__(self, hr_BHWC: torch.Tensor, position_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (lr_image_BCHW, hr_image_BCHW), float32 in [0, 1], in the channels_last memory format.

        Args:
            hr_BHWC: uint8 patches, B x patch_px x patch_px x 3.
            position_B: global position of each patch (int64, the same device).
        """
        position_B = position_B.to(hr_BHWC.device, non_blocking=True)
        with _exact_products(hr_BHWC.device.type):
            hr_BHWC = self._oriented(hr_BHWC, position_B)
            levels_BHWC = self._jittered(hr_BHWC.to(torch.float32), position_B)
            lr_BCHW = self.degrade(levels_BHWC, position_B).mul_(1 / 255)
            lr_BCHW = self._noisy(lr_BCHW, position_B)
            hr_BCHW = levels_BHWC.mul(1 / 255).permute(0, 3, 1, 2)
            lr_BCHW = lr_BCHW.contiguous(memory_format=torch.channels_last)
        return lr_BCHW, hr_BCHW

    def _oriented(self, hr_BHWC: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
        if not (self.data.flip or self.data.rotate):
            return hr_BHWC
        bits_BD = random.bits_tensor(self._streams["flip"], position_B, 3) < 0
        if self.data.rotate:  # a turn by 0, 90, 180 or 270 degrees is a transposition and flips of both axes
            transpose_B, both_B = bits_BD[:, 1], bits_BD[:, 2]
            hr_BHWC = _where(transpose_B, hr_BHWC.transpose(1, 2).flip(1), hr_BHWC)
            hr_BHWC = _where(both_B, hr_BHWC.flip(1, 2), hr_BHWC)
        if self.data.flip:
            hr_BHWC = _where(bits_BD[:, 0], hr_BHWC.flip(2), hr_BHWC)
        return hr_BHWC

    def _jittered(self, levels_BHWC: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
        """Contrast around the patch mean, then brightness; values are 0..255 and stay whole."""
        low_high = self.data.contrast
        if low_high is None and self.data.brightness == 0:
            return levels_BHWC
        uniform_BD = random.uniform_tensor(self._streams["jitter"], position_B, 2)[:, :, None, None, None]
        if low_high is not None:
            factor = low_high[0] + (low_high[1] - low_high[0]) * uniform_BD[:, 0]
            mean = levels_BHWC.mean(dim=(1, 2, 3), keepdim=True)
            levels_BHWC = (levels_BHWC - mean) * factor + mean
        shift = (uniform_BD[:, 1] * 2 - 1) * (255 * self.data.brightness)
        return _to_levels(levels_BHWC + shift)

    def _noisy(self, lr_BCHW: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
        noise_std = self.data.degradation.noise_std
        if noise_std == 0:
            return lr_BCHW
        noise = random.normal_tensor(self._streams["noise"], position_B, tuple(lr_BCHW.shape[1:]))
        return (lr_BCHW + noise_std * noise).clamp_(0, 1)


class Degrade:
    """Shrinks batches by resampling matrices; with several kernels each sample draws one by its weight."""

    def __init__(self, weights: dict, patch_px: int, scale: int, stream: int) -> None:
        self._stream = stream
        names = list(weights)
        matrices = np.stack([resize_matrix(name, patch_px, scale) for name in names])
        self._matrix_KOI = torch.from_numpy(matrices.astype(np.float32))
        rounds, turned = [name in ROUNDS_BETWEEN for name in names], [name in ROWS_FIRST for name in names]
        self._rounds_K, self._turned_K = torch.tensor(rounds), torch.tensor(turned)
        self._bands = _bands((matrices != 0).any(axis=0).reshape(matrices.shape[1:]))
        share = np.cumsum([weights[name] for name in names]) / sum(weights.values())
        self._share_K = torch.from_numpy(share[:-1].astype(np.float32))
        self._always_rounds, self._never_rounds = all(rounds), not any(rounds)
        self._any_turned = any(turned)

    def __call__(self, levels_BHWC: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
        """LR levels 0..255 (float32, BCHW, whole numbers) of HR levels 0..255 (float32, BHWC)."""
        self._move(levels_BHWC.device)
        size_B, px, _, channels = levels_BHWC.shape
        matrix, rounds, turned = self._chosen(position_B)
        if self._any_turned:  # patches and matrices are square, so rows first is columns first on the turned patch
            levels_BHWC = torch.where(turned, levels_BHWC.transpose(1, 2), levels_BHWC)
        vertical = self._down(matrix, levels_BHWC.reshape(size_B, px, px * channels))
        vertical = self._round_between(vertical, rounds)
        out_px = matrix.shape[-2]
        split = vertical.reshape(vertical.shape[0], size_B, -1, px, channels)
        across = split.permute(1, 4, 0, 2, 3).reshape(size_B, -1, px)
        down = _to_levels(torch.matmul(across, matrix.transpose(-1, -2)))
        lr_image = down.reshape(size_B, channels, out_px, out_px)
        return torch.where(turned, lr_image.transpose(2, 3), lr_image) if self._any_turned else lr_image

    def _down(self, matrix: torch.Tensor, rows_BHX: torch.Tensor) -> torch.Tensor:
        """matrix @ rows, as bands x B x rows of a band x X.

        On a CPU each band of output rows takes only the input rows that have a weight, which is half the time; what is
        left out is multiplied by zero, so the result is the same.
        """
        if rows_BHX.device.type != "cpu" or len(self._bands) == 1:
            return torch.matmul(matrix, rows_BHX)[None]
        band_rows = matrix.shape[-2] // len(self._bands)
        result = rows_BHX.new_empty(len(self._bands), rows_BHX.shape[0], band_rows, rows_BHX.shape[2])
        for number, (out, used) in enumerate(self._bands):
            torch.matmul(matrix[..., out, used], rows_BHX[:, used], out=result[number])
        return result

    def _chosen(self, position_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each sample's matrix, whether it is rounded between the passes, and whether the rows come first."""
        if len(self._matrix_KOI) == 1:
            return self._matrix_KOI[0], self._rounds_K[0], self._turned_K[0]
        draw_B = random.uniform_tensor(self._stream, position_B, 1)
        choice_B = (draw_B >= self._share_K).sum(dim=1)
        turned = self._turned_K[choice_B][:, None, None, None]
        return self._matrix_KOI[choice_B], self._rounds_K[choice_B][:, None, None], turned

    def _round_between(self, values: torch.Tensor, rounds: torch.Tensor) -> torch.Tensor:
        if self._never_rounds:
            return values
        if self._always_rounds:
            return values.add_(_HALF).floor_().clamp_(0, 255)
        return torch.where(rounds, _to_levels(values), values)

    def _move(self, device: torch.device) -> None:
        if self._matrix_KOI.device != device:
            self._matrix_KOI = self._matrix_KOI.to(device)
            self._rounds_K = self._rounds_K.to(device)
            self._turned_K = self._turned_K.to(device)
            self._share_K = self._share_K.to(device)


def _bands(weighted_OI: np.ndarray, count: int = 4) -> list[tuple[slice, slice]]:
    """(output rows, input rows they need) of `count` equal bands of a resampling matrix's pattern of weights."""
    count = count if weighted_OI.shape[0] % count == 0 else 1
    bands = []
    for out in np.split(np.arange(weighted_OI.shape[0]), count):
        used = np.flatnonzero(weighted_OI[out].any(axis=0))
        bands.append((slice(int(out[0]), int(out[-1]) + 1), slice(int(used[0]), int(used[-1]) + 1)))
    return bands


def _where(chosen_B: torch.Tensor, then: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    return torch.where(chosen_B[:, None, None, None], then, otherwise)


def _to_levels(values: torch.Tensor) -> torch.Tensor:
    """Whole levels 0..255, rounded half up."""
    return (values + _HALF).floor_().clamp_(0, 255)


@contextmanager
def _exact_products(device_type: str) -> Iterator[None]:
    """Full float32 products whatever autocast and TensorFloat-32 settings training uses: the LR must be exact."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
