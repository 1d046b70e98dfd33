"""From a batch of HR patches to the pair the models see, on the patches' device and without a host synchronisation.

In: uint8, B x H x W x 3. Out: float32 NCHW in [0, 1]. Flips, turns, jitter, the choice of kernel and the noise are
pure functions of (seed, purpose, position), so another number of ranks or a resumed run sees the same pairs.

On a GPU all this is small operations around two matrix products, and starting them takes longer than doing them; what
lies before, between and behind the products can be joined by torch's compiler. Levels stay bitwise the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from harness import random
from harness.data.config import DataConfig
from harness.data.degrade import ROUNDS_BETWEEN, ROWS_FIRST, resize_matrix

_HALF = 0.5001
"""Rounds halves up whatever the last bits of a float32 sum are (the sums of MATLAB's weights are exact: dyadic)."""
_FLIP_DRAWS, _JITTER_DRAWS = 3, 2


class Prepare:
    """Makes (lr_image, hr_image) from a batch of the loader.

    The order is: mirror and turn, contrast around the patch mean, brightness, back to uint8 levels, degradation by two
    matrix products, LR to uint8 levels, LR noise (clipped to [0, 1]).
    """

    def __init__(self, data: DataConfig, scale: int, seed: int) -> None:
        self.data = data
        self.scale = scale
        self._keys = [random.key(seed, name) for name in Streams._fields]
        self._streams: dict[torch.device, Streams] = {}
        weights = {kernel: weight for kernel, weight in data.degradation.kernels.items() if weight > 0}
        self.degrade = Degrade(weights, data.patch_px, scale, random.key(seed, "kernel"))
        self._oriented, self._uniform, self._pair = _oriented, random.uniform_tensor, _pair

    @torch.no_grad()
    def __call__(self, hr_BHWC: torch.Tensor, position_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (lr_image_BCHW, hr_image_BCHW), float32 in [0, 1], in the channels_last memory format.

        Args:
            hr_BHWC: uint8 patches, B x patch_px x patch_px x 3.
            position_B: global position of each patch (int64, the same device).
        """
        device = hr_BHWC.device
        position_B = position_B.to(device, non_blocking=True)
        streams = self._streams_on(device)
        with torch.autocast(device.type, enabled=False):
            levels_BHWC = self._oriented(self.data.flip, self.data.rotate, streams.flip, hr_BHWC, position_B)
            if self.data.contrast is not None or self.data.brightness != 0:
                levels_BHWC = self._jittered(levels_BHWC, self._uniform(streams.jitter, position_B, _JITTER_DRAWS))
            shrunk, turned = self.degrade.products(levels_BHWC, position_B)
            noise_std = self.data.degradation.noise_std
            return self._pair(noise_std, streams.noise, position_B, levels_BHWC, shrunk, turned)

    def join_operations(self, compiled: Callable[[Any], Any]) -> None:
        """Has torch's compiler, `compiled`, make few kernels of what lies around the matrix products.

        The jitter's arithmetic is left out: a compiler for GPUs takes a product and the sum behind it as one operation
        that rounds once, and a level that lies at a half would become another.
        """
        # Torch knows a precision that was never set, and would compile anew once it has been put back.
        torch.set_float32_matmul_precision(torch.get_float32_matmul_precision())
        self._oriented, self._pair = compiled(_oriented), compiled(_pair)
        self._uniform = compiled(random.uniform_tensor)
        self.degrade.join_operations(compiled)

    def _jittered(self, levels_BHWC: torch.Tensor, uniform_BD: torch.Tensor) -> torch.Tensor:
        """Contrast around the patch mean, then brightness; values are 0..255 and stay whole."""
        uniform_BD = uniform_BD[:, :, None, None, None]
        if self.data.contrast is not None:
            low, high = self.data.contrast
            factor = low + (high - low) * uniform_BD[:, 0]
            # In float64 the sum is exact, whatever the order of its parts: that depends on the batch and the threads.
            mean = levels_BHWC.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64).float()
            levels_BHWC = (levels_BHWC - mean) * factor + mean
        shift = (uniform_BD[:, 1] * 2 - 1) * (255 * self.data.brightness)
        return _to_levels(levels_BHWC + shift)

    def _streams_on(self, device: torch.device) -> Streams:
        if device not in self._streams:
            edge_px = self.data.patch_px // self.scale
            most_draws = max(_FLIP_DRAWS, _JITTER_DRAWS, random.draws_of((3, edge_px, edge_px)))
            self._streams[device] = Streams(*random.on_device(self._keys, most_draws, device))
        return self._streams[device]


class Streams(NamedTuple):
    """What is drawn for a patch, with its constants on a device; fields are named as their purposes."""

    flip: random.DeviceStream
    jitter: random.DeviceStream
    noise: random.DeviceStream


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
        self._all_round = rounds[0] if len(set(rounds)) == 1 else None
        self._any_turned = any(turned)
        self._across = _across

    def __call__(self, levels_BHWC: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
        """LR levels 0..255 (float32, BCHW, whole numbers) of HR levels 0..255 (float32, BHWC)."""
        return _lr_levels(*self.products(levels_BHWC, position_B))

    def products(self, levels_BHWC: torch.Tensor, position_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The LR levels before they are rounded, as B x rows of all channels x columns, and which are still turned."""
        self._move(levels_BHWC.device)
        matrix, rounds, turned = self._chosen(position_B)
        # Patches and matrices are square, so rows first is columns first on the turned patch.
        rows_BHX = _turned(levels_BHWC, turned, 1, 2).flatten(2)
        with _exact_products():
            vertical = self._down(matrix, rows_BHX)
        across = self._across(vertical, rounds, levels_BHWC.shape[3])
        with _exact_products():
            return torch.matmul(across, matrix.transpose(-1, -2)), turned

    def join_operations(self, compiled: Callable[[Any], Any]) -> None:
        """Has torch's compiler, `compiled`, join what lies between the two products."""
        self._across = compiled(_across)

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

    def _chosen(self, position_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | bool, torch.Tensor | None]:
        """Each sample's matrix, whether it is rounded between the passes, and whether the rows come first (or None)."""
        if len(self._matrix_KOI) == 1:
            assert self._all_round is not None
            return self._matrix_KOI[0], self._all_round, self._turned_K[0] if self._any_turned else None
        draw_B = random.uniform_tensor(self._stream, position_B, 1)
        choice_B = (draw_B >= self._share_K).sum(dim=1)
        rounds = self._rounds_K[choice_B][:, None, None] if self._all_round is None else self._all_round
        turned = self._turned_K[choice_B][:, None, None, None] if self._any_turned else None
        return self._matrix_KOI[choice_B], rounds, turned

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


def _oriented(
    flip: bool, rotate: bool, stream: random.DeviceStream, hr_BHWC: torch.Tensor, position_B: torch.Tensor
) -> torch.Tensor:
    """The patches mirrored and turned, as float32 levels."""
    if flip or rotate:
        bits_BD = random.bits_tensor(stream, position_B, _FLIP_DRAWS) < 0
        if rotate:  # a turn by 0, 90, 180 or 270 degrees is a transposition and flips of both axes
            transpose_B, both_B = bits_BD[:, 1], bits_BD[:, 2]
            hr_BHWC = _where(transpose_B, hr_BHWC.transpose(1, 2).flip(1), hr_BHWC)
            hr_BHWC = _where(both_B, hr_BHWC.flip(1, 2), hr_BHWC)
        if flip:
            hr_BHWC = _where(bits_BD[:, 0], hr_BHWC.flip(2), hr_BHWC)
    return hr_BHWC.to(torch.float32)


def _across(vertical: torch.Tensor, rounds: torch.Tensor | bool, channels: int) -> torch.Tensor:
    """What the second product takes, B x rows of all channels x px, of the first one's result.

    Args:
        vertical: bands x B x rows of a band x px of all channels; may be overwritten.
        rounds: whether each sample is rounded to levels, or all are.
    """
    num_bands, size_B, num_rows, _ = vertical.shape
    if isinstance(rounds, torch.Tensor):
        vertical = torch.where(rounds, _to_levels(vertical), vertical)
    elif rounds:
        vertical = _to_levels(vertical, in_place=not torch.compiler.is_compiling())
    split = vertical.reshape(num_bands, size_B, num_rows, -1, channels)
    return split.permute(1, 4, 0, 2, 3).reshape(size_B, channels * num_bands * num_rows, -1)


def _lr_levels(shrunk: torch.Tensor, turned: torch.Tensor | None) -> torch.Tensor:
    """LR levels (BCHW, whole numbers) of what `Degrade.products` gives."""
    size_B, _, edge_px = shrunk.shape
    return _turned(_to_levels(shrunk).reshape(size_B, -1, edge_px, edge_px), turned, 2, 3)


def _pair(
    noise_std: float,
    stream: random.DeviceStream,
    position_B: torch.Tensor,
    levels_BHWC: torch.Tensor,
    shrunk: torch.Tensor,
    turned: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(lr_image_BCHW, hr_image_BCHW) in [0, 1] of HR levels and of what `Degrade.products` makes of them."""
    lr_BCHW = _lr_levels(shrunk, turned).mul_(1 / 255)
    if noise_std != 0:
        normal = random.normal_tensor(stream, position_B, tuple(lr_BCHW.shape[1:]))
        lr_BCHW = (lr_BCHW + noise_std * normal).clamp_(0, 1)
    hr_BCHW = levels_BHWC.mul(1 / 255).permute(0, 3, 1, 2)
    return lr_BCHW.contiguous(memory_format=torch.channels_last), hr_BCHW


def _where(chosen_B: torch.Tensor, then: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    return torch.where(chosen_B[:, None, None, None], then, otherwise)


def _turned(images: torch.Tensor, turned: torch.Tensor | None, rows: int, columns: int) -> torch.Tensor:
    """Those images that are `turned` with rows and columns swapped; None turns none."""
    return images if turned is None else torch.where(turned, images.transpose(rows, columns), images)


def _to_levels(values: torch.Tensor, in_place: bool = False) -> torch.Tensor:
    """Whole levels 0..255, rounded half up."""
    shifted = values.add_(_HALF) if in_place else values + _HALF
    return shifted.floor_().clamp_(0, 255)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Full float32 products whatever TensorFloat-32 settings training uses: the LR must be exact."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
