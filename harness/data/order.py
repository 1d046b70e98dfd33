"""Which sample is read at which global position: pure functions of (fingerprint, seed, position), without any state.

An epoch visits each selected sample once (or `repeats` times). Its shards are permuted, the sequence is turned by a
random offset and cut into windows, and each window is permuted. A place is found by computing its window alone, so
resuming at any step costs a millisecond, and the order does not know of ranks, workers or batches.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from harness import random

REPEAT_BLOCK = 256
"""Samples that are visited in turn before they are visited again, where each is visited several times.

A power of two, so that with usual batch sizes a sample falls to the same rank again and is decoded there once.
"""
MIXTURE_BLOCK = 4096
"""Positions in which each source of a weighted mixture has exactly its share."""
_KEPT_WINDOWS = 8


class EpochOrder:
    """The order of the samples 0..n-1, which lie in shards as `shard_of_N` (non-decreasing codes) says."""

    def __init__(self, shard_of_N: np.ndarray, seed: int, name: str, window: int, repeats: int = 1) -> None:
        self.num_samples = len(shard_of_N)
        self.length = self.num_samples * repeats
        self.repeats = repeats
        self.window = max(1, window // repeats)
        self._purpose = (seed, "order", name)
        starts = (
            np.flatnonzero(np.diff(shard_of_N, prepend=shard_of_N[:1] - 1)) if len(shard_of_N) else np.zeros(0, int)
        )
        self._start_S = starts
        self._length_S = np.diff(starts, append=self.num_samples)
        self._windows: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, position_B: np.ndarray) -> np.ndarray:
        """The samples (int64) at these positions; positions run on over the epochs."""
        position_B = np.asarray(position_B, np.int64)
        epoch_B, place_B = np.divmod(position_B, self.length)
        window_B, within_B = np.divmod(place_B, self.window * self.repeats)
        result = np.empty(len(position_B), np.int64)
        code_B = epoch_B * (self.length // (self.window * self.repeats) + 1) + window_B
        for code in np.unique(code_B):
            chosen = np.flatnonzero(code_B == code)
            first = chosen[0]
            samples = self.window_at(int(epoch_B[first]), int(window_B[first]))
            result[chosen] = samples[within_B[chosen]]
        return result

    def window_at(self, epoch: int, number: int) -> np.ndarray:
        """The samples of a window in the order of their visits."""
        with self._lock:
            if (epoch, number) in self._windows:
                self._windows.move_to_end((epoch, number))
                return self._windows[epoch, number]
        samples = self._compute_window(epoch, number)
        with self._lock:
            self._windows[epoch, number] = samples
            while len(self._windows) > _KEPT_WINDOWS:
                self._windows.popitem(last=False)
        return samples

    def _compute_window(self, epoch: int, number: int) -> np.ndarray:
        shards = random.permutation(random.key(*self._purpose, "shards", epoch), len(self._start_S))
        turn = random.key(*self._purpose, "turn", epoch) % self.num_samples
        first = number * self.window
        place = np.arange(first, min(first + self.window, self.num_samples))
        place = (place + turn) % self.num_samples
        end_S = np.cumsum(self._length_S[shards])
        slot = np.searchsorted(end_S, place, side="right")
        shard = shards[slot]
        samples = self._start_S[shard] + place - (end_S[slot] - self._length_S[shard])
        samples = samples[random.permutation(random.key(*self._purpose, "window", epoch, number), len(samples))]
        if self.repeats == 1:
            return samples
        blocks = [samples[i : i + REPEAT_BLOCK] for i in range(0, len(samples), REPEAT_BLOCK)]
        return np.concatenate([np.tile(block, self.repeats) for block in blocks])


class Mixture:
    """Several orders read side by side, each with its share of every block of positions."""

    def __init__(self, orders: Sequence[EpochOrder], weights: Sequence[float], seed: int, name: str) -> None:
        self.orders = list(orders)
        self.share = block_shares(weights)
        self._purpose = (seed, "mixture", name)
        self._source_of_slot = np.repeat(np.arange(len(orders)), self.share)
        self._rank_of_slot = np.concatenate([np.arange(share) for share in self.share])
        self._kept: tuple[int, np.ndarray] | None = None

    def at(self, position_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, sample within the source) at these positions."""
        position_B = np.asarray(position_B, np.int64)
        if len(self.orders) == 1:
            return np.zeros(len(position_B), np.int64), self.orders[0].at(position_B)
        block_B, place_B = np.divmod(position_B, MIXTURE_BLOCK)
        slot_B = np.empty(len(position_B), np.int64)
        for block in np.unique(block_B):
            chosen = block_B == block
            slot_B[chosen] = self._slots(int(block))[place_B[chosen]]
        source_B = self._source_of_slot[slot_B]
        sample_B = np.empty(len(position_B), np.int64)
        for source in np.unique(source_B):
            chosen = source_B == source
            within = block_B[chosen] * self.share[source] + self._rank_of_slot[slot_B[chosen]]
            sample_B[chosen] = self.orders[source].at(within)
        return source_B, sample_B

    def _slots(self, block: int) -> np.ndarray:
        """The slot of each place of a block; the last block is kept."""
        kept = self._kept
        if kept is None or kept[0] != block:
            slots = random.permutation(random.key(*self._purpose, block), MIXTURE_BLOCK)
            kept = self._kept = block, _in_turn(self._source_of_slot[slots], self.share)
        return kept[1]


def _in_turn(source_of_place: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The slot of each place, such that a source's slots are used in rising order (its shards stay in sequence)."""
    first_slot = np.cumsum(share) - share
    slot = np.empty(len(source_of_place), np.int64)
    for source, first in enumerate(first_slot):
        places = np.flatnonzero(source_of_place == source)
        slot[places] = first + np.arange(len(places))
    return slot


def block_shares(weights: Sequence[float]) -> np.ndarray:
    """Positions of a mixture block that each source gets (int64): the largest remainders, and at least one each."""
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    quota = [weight * MIXTURE_BLOCK / total for weight in exact]
    share = [max(1, int(q)) for q in quota]
    by_need = sorted(range(len(quota)), key=lambda i: (share[i] - quota[i], i))
    for step in range(MIXTURE_BLOCK):
        missing = MIXTURE_BLOCK - sum(share)
        if missing == 0:
            break
        if missing > 0:
            share[by_need[step % len(share)]] += 1
        else:
            share[int(np.argmax(share))] -= 1
    return np.array(share, np.int64)
