"""Batches of HR patches, the same whatever the number of ranks and threads, found in milliseconds at any step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from harness import random
from harness.data.ahead import read_ahead
from harness.data.buffers import BufferRing
from harness.data.config import DataConfig, SourceConfig
from harness.data.reading import CropReader
from harness.data.samples import Samples
from harness.errors import DataError, InputError, UnreachableError

log = logging.getLogger(__name__)

_SUBSTITUTES = 64
"""Substitutes that are tried for a bad sample before the loader gives up."""


@dataclass(frozen=True)
class Batch:
    """Patches of one step and rank: uint8 B x H x W x 3, and each patch's global position (int64).

    The loader's lie on the CPU, in pinned memory where there is a GPU.
    """

    hr_BHWC: torch.Tensor
    position_B: torch.Tensor


class PatchLoader:
    """Random crops of a mixture of datasets, in an order that is a pure function of (data, seed, position)."""

    def __init__(
        self,
        data: DataConfig,
        sources: tuple[SourceConfig, ...],
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Opens the sources.

        Args:
            batch_size: the global batch; rank r of W reads slots [r * B / W, (r + 1) * B / W) of it.

        Raises:
            InputError: the ranks do not divide the batch, or a source lacks what is asked of it.
            DataError: a source is no sound dataset, or holds samples smaller than a patch.
        """
        if batch_size % world_size:
            raise InputError(
                f"batch_size {batch_size} cannot be divided among {world_size} ranks; give a multiple of {world_size}."
            )
        self.data = data
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.replaced = 0
        """Patches that this rank took from a substitute because their own sample was bad."""
        self.samples = Samples(data, sources, seed)
        self.num_samples, self.fingerprint = self.samples.num_samples, self.samples.fingerprint
        self._crop_stream = random.key(seed, "crop")
        self._substitute_stream = random.key(seed, "substitute")
        self._ring = BufferRing((batch_size // world_size, data.patch_px, data.patch_px * 3))
        self._remote = any(dataset.store.remote for dataset in self.samples.datasets)
        self._announced: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._reported: set[tuple[int, int]] = set()
        self._stop = threading.Event()

    def batches(self, first_position: int) -> Iterator[Batch]:
        """This rank's batches from the global position on, without an end.

        Raises:
            DataError: a sample is bad and `on_bad_sample` is `stop`; it names the shard and the key.
            UnreachableError: a shard cannot be fetched, opened or read.
        """
        if self.data.read_threads == 0:
            reader = self._new_reader()
            number = 0
            while True:
                yield self._read_batch(reader, first_position, number)
                number += 1
        yield from read_ahead(
            self._new_reader,
            lambda readers, number: self._read_batch(readers, first_position, number),
            self.data.read_threads,
            self._stop,
        )

    def close(self) -> None:
        """Stops reading ahead and closes the shards."""
        self._stop.set()
        for dataset in self.samples.datasets:
            dataset.close()

    def _positions(self, first_position: int, number: int) -> np.ndarray:
        share = self.batch_size // self.world_size
        first = first_position + number * self.batch_size + self.rank * share
        return np.arange(first, first + share)

    def _new_reader(self) -> list[CropReader]:
        return [CropReader(dataset, self.data.crops_per_tile) for dataset in self.samples.datasets]

    def _read_batch(self, readers: list[CropReader], first_position: int, number: int) -> Batch:
        position_B = self._positions(first_position, number)
        if self._remote:
            self._announce(int(position_B[0]))
        source_B, sample_B = self.samples.at(position_B)
        hr_BHX, hr_BHWC = self._ring.take()
        top_B, left_B = self._crop_places(position_B, source_B, sample_B)
        rows = zip(source_B.tolist(), sample_B.tolist(), top_B.tolist(), left_B.tolist())
        for slot, (source, sample, top, left) in enumerate(rows):
            try:
                readers[source].read(sample, top, left, hr_BHX[slot])
            except DataError as error:
                self._substitute(readers, int(position_B[slot]), source, sample, hr_BHX[slot], error)
        position = torch.from_numpy(position_B)
        return Batch(hr_BHWC, position.pin_memory() if self._ring.pinned else position)

    def _announce(self, position: int) -> None:
        """Tells remote datasets the shards of the next two windows, every quarter of a window."""
        step = max(1, self.data.window // 4)
        with self._lock:
            if self._announced is not None and self._announced[0] <= position < self._announced[1]:
                return
            self._announced = (position, position + step)
        source_N, sample_N = self.samples.at(np.arange(position, position + 2 * self.data.window))
        for dataset in {id(dataset): dataset for dataset in self.samples.datasets}.values():
            mine = [number for number, other in enumerate(self.samples.datasets) if other is dataset]
            of_it = np.isin(source_N, mine)
            code_N = np.where(of_it, dataset.shard_code[np.where(of_it, sample_N, 0)], -1)
            now_N, both_N = _in_turn(code_N[: self.data.window]), _in_turn(code_N)
            dataset.announce(now_N, both_N[~np.isin(both_N, now_N)])

    def _crop_places(
        self, position_B: np.ndarray, source_B: np.ndarray, sample_B: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        height_B, width_B = self.samples.sizes(source_B, sample_B)
        patch_px = self.data.patch_px
        top_B = random.integers(self._crop_stream, position_B, height_B - patch_px + 1, draw=0)
        left_B = random.integers(self._crop_stream, position_B, width_B - patch_px + 1, draw=1)
        return top_B, left_B

    def _substitute(
        self, readers: list[CropReader], position: int, source: int, sample: int, out_HX: np.ndarray, error: DataError
    ) -> None:
        """Fills the slot from another sample of the source, drawn from the position alone, or passes the error on."""
        if self.data.on_bad_sample == "stop" or isinstance(error, UnreachableError):
            raise error  # what is read must not depend on the network or the disk
        with self._lock:
            self.replaced += 1
            first_time = (source, sample) not in self._reported
            self._reported.add((source, sample))
        if first_time:
            log.warning("%s It is replaced by another sample.", error)
        here = np.array([position])
        for attempt in range(_SUBSTITUTES):
            draw = random.integers(self._substitute_stream, here, len(self.samples.selected[source]), draw=attempt)
            other = self.samples.selected[source][draw]
            top_B, left_B = self._crop_places(here, np.array([source]), other)
            try:
                readers[source].read(int(other[0]), int(top_B[0]), int(left_B[0]), out_HX)
                return
            except UnreachableError:
                raise
            except DataError:
                continue
        raise DataError(f"{_SUBSTITUTES} substitutes for one bad sample were bad too; the first was: {error}")


def _in_turn(code_N: np.ndarray) -> np.ndarray:
    """The shards in the order of their first use; -1 is none."""
    values, first = np.unique(code_N, return_index=True)
    return values[np.argsort(first)][values[np.argsort(first)] >= 0]
