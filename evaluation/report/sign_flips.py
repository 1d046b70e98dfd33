"""The paired sign-flip test, and the interval that belongs to it. Imports no torch.

If two models are equally good, an image's difference is as likely as its negative. So each way to turn the signs of the
differences is as likely as what was seen, and p is the share of them that lie at least as far from zero (Fisher 1935).
A test of another difference than zero turns the signs around that one: turning a subset around `x` goes at least as far
exactly where the mean over the subset, or over its complement, has passed `x`. The interval of all differences that are
not rejected therefore ends at quantiles of the means over subsets (Hartigan 1969, Using subsample values as typical
values). Both hold their level for any number of images, as far as differences are as likely as their negatives.

Units are what is turned as a whole: an image, or all tiles of an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from harness import random

LEVEL = 0.95
ALPHA = 0.05
"""A p-value below it decides; 1 - `LEVEL`."""
_ROUNDING = 1e-12
_CHUNK = 2_000_000
"""Elements of a piece of the subsets, so that memory does not grow with the number of units."""


def num_splits(units: int, resamples: int) -> int:
    """Into how many pairs (a subset, its complement) the units are parted: all 2^(units - 1), or `resamples` + 1."""
    return min(2 ** min(units - 1, 60), resamples + 1)


def subset_means(sums_UK: np.ndarray, counts_U: np.ndarray, resamples: int, stream: int) -> np.ndarray:
    """The means over subsets of the units and over their complements, (2 M, K) float64; an empty subset's is NaN.

    The first subset is the empty one. The M = `num_splits` pairs are all that there are, or else drawn at random, the
    same for the same stream and number of units.

    Args:
        sums_UK: each unit's sum of differences, for K comparisons.
        counts_U: how many images each unit holds.
    """
    total_K, total = sums_UK.sum(axis=0), counts_U.sum()
    inside, outside = [], []
    for subsets in _subsets(len(counts_U), resamples, stream):
        sums, counts = subsets @ sums_UK, (subsets @ counts_U)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            inside.append(sums / counts)
            outside.append((total_K - sums) / (total - counts))
    means = np.concatenate([*inside, *outside])
    means[~np.isfinite(means)] = np.nan
    return means


def _subsets(units: int, resamples: int, stream: int) -> Iterator[np.ndarray]:
    """Rows of 0 and 1 (float64), some at a time. Where they are all, none holds the last unit: its complement does."""
    splits = num_splits(units, resamples)
    is_complete = splits == 2 ** (units - 1)
    words = -(-units // 64)
    rows = max(1, _CHUNK // units)
    for first in range(0, splits, rows):
        numbers = np.arange(first, min(first + rows, splits))
        if is_complete:
            yield (numbers[:, None] >> np.arange(units) & 1).astype(np.float64)
            continue
        places = numbers[:, None] * words + np.arange(words)
        octets = random.bits(random.key(stream, "subsets"), places).astype("<u8").view(np.uint8)
        chosen = np.unpackbits(octets, axis=1, count=units).astype(np.float64)
        chosen[numbers == 0] = 0
        yield chosen


def p_values(means_MK: np.ndarray) -> np.ndarray:
    """The two-sided p-values (K,) of the hypothesis that nothing differs, never below 1 / `num_splits`."""
    beyond = _ROUNDING * np.nanmax(np.abs(means_MK), axis=0)
    is_empty = np.isnan(means_MK)
    below = ((means_MK <= beyond) | is_empty).mean(axis=0)
    above = ((means_MK >= -beyond) | is_empty).mean(axis=0)
    return np.minimum(1.0, 2 * np.minimum(below, above))


def intervals(means_MK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends (K,) of the interval of differences that the test does not reject; infinite where it rejects none."""
    rank = math.ceil(ALPHA * len(means_MK) / 2) - 1
    num_empty = int(np.isnan(means_MK[:, 0]).sum())  # they lie beyond every difference, on either side
    if rank < num_empty:
        unbounded_K = np.full(means_MK.shape[1], np.inf)
        return -unbounded_K, unbounded_K
    first, last = rank - num_empty, len(means_MK) - 1 - rank
    ordered = np.partition(means_MK, [first, last], axis=0)  # NaN stands last
    return ordered[first], ordered[last]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): (m - rank) * p, made monotone and at most 1."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def undecidable(units: Sequence[int], resamples: int) -> int:
    """How many comparisons of a family no scores could decide: their least p-values are too large for so many."""
    least = holm([1 / num_splits(count, resamples) for count in units])
    return sum(p >= ALPHA for p in least)
