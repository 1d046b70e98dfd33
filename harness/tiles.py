"""A network over an image of any size in bounded memory: tiles that see more than they write, blended at the seams.

A tile is read with `overlap_px` more on each inner side. Of that, the outer three quarters serve as context only; over
the inner quarter, on both sides of the border between two tiles, one tile fades into the other. All sizes without
`scale` are in pixels of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from harness.errors import InputError
from harness.footprint import peak_bytes_per_pixel
from harness.memory import free_bytes
from harness.networks import Network

MIN_TILE_PX = 16
_MAX_TILE_PX = 512
_MAX_WORKING_BYTES = 640 << 20
"""A larger tile is no faster, so more free memory than this is left alone."""
_BF16_EXTRA = 1.3
"""What bfloat16 convolutions take besides their tensors (sums in float32, converted weights)."""
_SHARE_OF_FREE = 0.25
"""Of the free memory, for the tensors of one tile; convolution libraries take about as much again."""


class NotFiniteError(InputError):
    """A network gave NaN or infinity for an image; others may be fine."""


@dataclass(frozen=True)
class Span:
    """A tile along one axis."""

    start: int
    end: int
    """What it answers for."""
    read_start: int
    read_end: int
    """What the network sees."""
    fade: int
    """Half the width over which it fades into a neighbour."""
    size: int
    """Of the whole image."""

    @property
    def write_start(self) -> int:
        return max(0, self.start - self.fade)

    @property
    def write_end(self) -> int:
        return min(self.size, self.end + self.fade)

    def weights(self, scale: int) -> torch.Tensor:
        """For each output pixel from write_start to write_end; those of neighbours add up to 1."""
        weight = torch.ones((self.write_end - self.write_start) * scale)
        width = 2 * self.fade * scale
        ramp = (torch.arange(width) + 0.5) / max(width, 1)
        if self.start > 0 and width:
            weight[:width] = ramp
        if self.end < self.size and width:
            weight[-width:] = 1 - ramp
        return weight


def spans(size: int, tile_px: int, overlap_px: int, align_px: int = 1) -> list[Span]:
    """Tiles of about `tile_px` that cover an axis; where the network sees more than the image it is cut.

    Every start is a multiple of `align_px`, so that a network that halves its input meets the same pixels as in the
    whole image.
    """
    even = math.ceil(size / math.ceil(size / tile_px))
    step = math.ceil(even / align_px) * align_px
    fade = min(overlap_px // 4, step // 2)
    starts = [start for start in range(0, size, step) if start == 0 or size - start >= 2 * fade]
    return [
        Span(
            start,
            end,
            max(0, start - overlap_px) // align_px * align_px,
            min(size, end + overlap_px),
            fade,
            size,
        )
        for start, end in zip(starts, [*starts[1:], size])
    ]


def choose_tile_px(network: Network, device: torch.device, bf16: bool = False) -> int:
    """The tile whose tensors fit into a share of the memory that is free now, and into what is worth taking.

    Called under the autocast that the tiles will have.
    """
    budget = min(_MAX_WORKING_BYTES, _SHARE_OF_FREE * free_bytes(device))
    per_pixel = peak_bytes_per_pixel(network.module, device, network.align_px) * (_BF16_EXTRA if bf16 else 1.0)
    seen_px = int((budget / per_pixel) ** 0.5)
    tile_px = (seen_px - 2 * network.overlap_px) // 8 * 8
    return min(_MAX_TILE_PX, max(MIN_TILE_PX, tile_px))


class TiledNetwork:
    """Upscales images with a network, whatever their size.

    Args:
        tile_px: edge of a tile without its overlap; None chooses it from the free memory.
        say: is told when a tile was too large and is halved.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device,
        tile_px: int | None = None,
        overlap_px: int | None = None,
        bf16: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        if tile_px is not None and tile_px < MIN_TILE_PX:
            raise InputError(f"tile {tile_px} px is too small; give at least {MIN_TILE_PX}.")
        self.network = network
        self.device = device
        self.overlap_px = network.overlap_px if overlap_px is None else overlap_px
        self.tile_px = tile_px
        self.bf16 = bf16
        self.say = say

    @torch.inference_mode()
    def __call__(self, pixels_HWC: np.ndarray, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """The image (uint8 or uint16, H x W x 3), larger by the network's scale, of the same type.

        Raises:
            InputError: even the smallest tile does not fit into memory.
            NotFiniteError: the output is not finite.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if not self.network.tileable:
                return self._run(pixels_HWC, max(pixels_HWC.shape[:2]), progress)
            return self._run_fitting(pixels_HWC, progress)

    def _run_fitting(self, pixels_HWC: np.ndarray, progress: Callable[[int, int], None] | None) -> np.ndarray:
        if self.tile_px is None:
            self.tile_px = choose_tile_px(self.network, self.device, self.bf16)
        while True:
            try:
                return self._run(pixels_HWC, self.tile_px, progress)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
            self._halve()

    def _halve(self) -> None:
        assert self.tile_px is not None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.tile_px // 2 < MIN_TILE_PX:
            raise InputError(
                f"a tile of {self.tile_px} px does not fit into memory; use a machine with more, or another device."
            )
        self.tile_px //= 2
        self.say(f"out of memory: going on with tiles of {self.tile_px} px")

    def _run(self, pixels_HWC: np.ndarray, tile_px: int, progress: Callable[[int, int], None] | None) -> np.ndarray:
        height, width = pixels_HWC.shape[:2]
        scale, align_px = self.network.scale, self.network.align_px
        rows = spans(height, tile_px, self.overlap_px, align_px)
        columns = spans(width, tile_px, self.overlap_px, align_px)
        result = np.empty((height * scale, width * scale, 3), pixels_HWC.dtype)
        done = 0
        carry: torch.Tensor | None = None
        for row in rows:
            band_CHW = torch.zeros(3, (row.write_end - row.write_start) * scale, width * scale)
            if carry is not None:
                band_CHW[:, : carry.shape[1]] += carry
            for column in columns:
                self._add_tile(band_CHW, pixels_HWC, row, column)
                done += 1
                if progress:
                    progress(done, len(rows) * len(columns))
            finished = height if row.end == height else row.end - row.fade
            cut = (finished - row.write_start) * scale
            _quantise(band_CHW[:, :cut], result[row.write_start * scale : finished * scale])
            carry = band_CHW[:, cut:].clone()
            del band_CHW  # before the next one is made
        return result

    def _add_tile(self, band_CHW: torch.Tensor, pixels_HWC: np.ndarray, row: Span, column: Span) -> None:
        scale = self.network.scale
        part = pixels_HWC[row.read_start : row.read_end, column.read_start : column.read_end]
        levels = torch.from_numpy(part.astype(np.int32 if part.dtype == np.uint16 else np.uint8))
        tile_BCHW = levels.to(self.device).permute(2, 0, 1)[None].float() / np.iinfo(part.dtype).max
        self.network.place(row.read_start, column.read_start, pixels_HWC.shape[0], pixels_HWC.shape[1])
        top = (row.write_start - row.read_start) * scale
        left = (column.write_start - column.read_start) * scale
        bottom, right = (row.write_end - row.read_start) * scale, (column.write_end - column.read_start) * scale
        output = self.network.module(tile_BCHW)[0, :, top:bottom, left:right].float().cpu()
        weight = row.weights(scale)[:, None] * column.weights(scale)
        band_CHW[:, :, column.write_start * scale : column.write_end * scale].addcmul_(output, weight)


def _quantise(values_CHW: torch.Tensor, result_HWC: np.ndarray) -> None:
    """Rounds values in [0, 1] to the levels of the result's type, in place, in strips."""
    levels = np.iinfo(result_HWC.dtype).max
    for start in _strips(values_CHW.shape[1]):
        strip = values_CHW[:, start : start + _STRIP_ROWS]
        if not strip.isfinite().all():
            raise NotFiniteError("the network's output is not finite; train it again or use another checkpoint.")
        rounded = strip.clamp(0, 1).mul_(levels).round_().permute(1, 2, 0).numpy()
        result_HWC[start : start + _STRIP_ROWS] = rounded.astype(result_HWC.dtype)


_STRIP_ROWS = 64


def _strips(num_rows: int) -> Iterator[int]:
    return iter(range(0, num_rows, _STRIP_ROWS))


def _out_of_memory(error: BaseException) -> bool:
    """Whether the error says that an allocation failed, on a GPU or on the host."""
    text = str(error)
    return (
        isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        or "can't allocate memory" in text
        or "out of memory" in text
    )
