"""Distances between two sets of images by their Inception features: FID and KID. NumPy, float64.

FID (Heusel et al. 2017): |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)), covariances with n - 1.
KID (Binkowski et al. 2018): the unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import linalg

from harness.random import key, permutation

FEATURE_DIM = 2048
ROWS_KEPT = 2048
KID_SUBSET_SIZE = 1000
KID_SUBSETS = 100
_SUBSETS_AT_ONCE = 10
"""Subsets whose features are read together (80 MB a side): fewer readings of all the files."""


class FeatureStatistics:
    """Mean and covariance of features that come in pieces; memory does not grow with their number.

    Up to `ROWS_KEPT` rows are kept as they are, because a small set's covariance has so low a rank that the exact
    distance is cheap; beyond, they go into the mean and the scatter matrix (Chan et al. 1979), that many at a time.
    """

    def __init__(self) -> None:
        self.count = 0
        self._rows: list[np.ndarray] = []
        self._num_absorbed = 0
        self._mean_D: np.ndarray | None = None
        self._scatter_DD: np.ndarray | None = None
        self._factor_DD: np.ndarray | None = None

    def add(self, features_ND: np.ndarray) -> None:
        """Takes in N more rows."""
        if not len(features_ND):
            return
        self._rows.append(np.asarray(features_ND, np.float64))
        self.count += len(features_ND)
        if self.count - self._num_absorbed > ROWS_KEPT:
            self._absorb()

    def mean(self) -> np.ndarray:
        """The mean of all rows, (D,)."""
        if self._mean_D is None:
            return np.concatenate(self._rows).mean(axis=0)
        self._absorb()
        return self._mean_D

    def factor(self) -> np.ndarray:
        """A matrix A with A^T A = covariance: the centred rows themselves, or one row a dimension.

        Raises:
            ValueError: fewer than 2 images.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}.")
        if self._scatter_DD is None:
            rows_ND = np.concatenate(self._rows)
            return (rows_ND - rows_ND.mean(axis=0)) / np.sqrt(self.count - 1)
        self._absorb()
        if self._factor_DD is None:
            values_D, vectors_DD = linalg.eigh(self._scatter_DD / (self.count - 1))
            self._factor_DD = (vectors_DD * np.sqrt(values_D.clip(min=0))).T
        return self._factor_DD

    def _absorb(self) -> None:
        """Adds the kept rows to the mean and the scatter matrix, and forgets them."""
        if not self._rows:
            return
        rows_ND = np.concatenate(self._rows)
        mean_D = rows_ND.mean(axis=0)
        centred_ND = rows_ND - mean_D
        if self._mean_D is None or self._scatter_DD is None:
            self._mean_D, self._scatter_DD = mean_D, centred_ND.T @ centred_ND
        else:
            total = self._num_absorbed + len(rows_ND)
            shift_D = mean_D - self._mean_D
            self._scatter_DD += centred_ND.T @ centred_ND
            self._scatter_DD += np.outer(shift_D, shift_D) * (self._num_absorbed * len(rows_ND) / total)
            self._mean_D = self._mean_D + shift_D * (len(rows_ND) / total)
        self._num_absorbed += len(rows_ND)
        self._rows, self._factor_DD = [], None


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """FID of two sets of features.

    With C1 = A^T A and C2 = B^T B, the trace of (C1 C2)^(1/2) is the sum of the singular values of A B^T: no square
    root of a singular matrix is taken.

    Raises:
        ValueError: a set has fewer than 2 images.
    """
    factor_a, factor_b = a.factor(), b.factor()
    shift_D = a.mean() - b.mean()
    traces = np.square(factor_a).sum() + np.square(factor_b).sum()
    return float(shift_D @ shift_D + traces - 2 * linalg.svdvals(factor_a @ factor_b.T).sum())


def kernel_distance(
    num_real: int,
    num_fake: int,
    real_rows: Callable[[np.ndarray], np.ndarray],
    fake_rows: Callable[[np.ndarray], np.ndarray],
) -> tuple[float, float]:
    """KID and its deviation, from functions that give the features (n, d) of the asked rows.

    Sets of up to `KID_SUBSET_SIZE` images: the estimate over all pairs, with the jackknife's standard error (an image
    and its restoration left out together). Larger sets: mean and standard deviation over `KID_SUBSETS` random subsets,
    as published, which bounds memory.

    Raises:
        ValueError: a set has fewer than 2 images.
    """
    smallest = min(num_real, num_fake)
    if smallest < 2:
        raise ValueError(f"a kernel distance needs at least 2 images, got {smallest}.")
    if smallest <= KID_SUBSET_SIZE:
        real_ND, fake_ND = real_rows(np.arange(num_real)), fake_rows(np.arange(num_fake))
        return unbiased_mmd(real_ND, fake_ND), _jackknife_error(real_ND, fake_ND)
    real_subsets = _subsets("real", num_real, real_rows)
    fake_subsets = _subsets("fake", num_fake, fake_rows)
    estimates = [unbiased_mmd(real_ND, fake_ND) for real_ND, fake_ND in zip(real_subsets, fake_subsets)]
    return float(np.mean(estimates)), float(np.std(estimates))


def unbiased_mmd(real_ND: np.ndarray, fake_ND: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy; it may be below 0."""
    n, m = len(real_ND), len(fake_ND)
    within_real, within_fake = _kernel(real_ND, real_ND), _kernel(fake_ND, fake_ND)
    real = (within_real.sum() - np.trace(within_real)) / (n * (n - 1))
    fake = (within_fake.sum() - np.trace(within_fake)) / (m * (m - 1))
    return float(real + fake - 2 * _kernel(real_ND, fake_ND).mean())


def _jackknife_error(real_ND: np.ndarray, fake_ND: np.ndarray) -> float:
    """Standard error from leaving out one pair at a time; NaN where the sets are not pairs or too few."""
    n = len(real_ND)
    if n != len(fake_ND) or n < 3:
        return float("nan")
    left_out_real = _without_each(_off_diagonal(_kernel(real_ND, real_ND))) / ((n - 1) * (n - 2))
    left_out_fake = _without_each(_off_diagonal(_kernel(fake_ND, fake_ND))) / ((n - 1) * (n - 2))
    left_out_cross = _without_each(_kernel(real_ND, fake_ND)) / (n - 1) ** 2
    estimates_N = left_out_real + left_out_fake - 2 * left_out_cross
    return float(np.sqrt((n - 1) / n * np.square(estimates_N - estimates_N.mean()).sum()))


def _without_each(kernel_NN: np.ndarray) -> np.ndarray:
    """The sum of the matrix without row and column i, for each i."""
    return kernel_NN.sum() - kernel_NN.sum(axis=0) - kernel_NN.sum(axis=1) + np.diagonal(kernel_NN)


def _off_diagonal(kernel_NN: np.ndarray) -> np.ndarray:
    return kernel_NN - np.diag(np.diagonal(kernel_NN))


def _kernel(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    a_ND, b_MD = np.asarray(a_ND, np.float64), np.asarray(b_MD, np.float64)
    return (a_ND @ b_MD.T / a_ND.shape[1] + 1) ** 3


def _subsets(side: str, count: int, rows: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    """The features of each random subset; several subsets are read at once."""
    for first in range(0, KID_SUBSETS, _SUBSETS_AT_ONCE):
        last = min(first + _SUBSETS_AT_ONCE, KID_SUBSETS)
        chosen = [_subset(side, number, count) for number in range(first, last)]
        wanted = np.unique(np.concatenate(chosen))
        features_ND = rows(wanted)
        for subset in chosen:
            yield features_ND[np.searchsorted(wanted, subset)]


def _subset(side: str, number: int, count: int) -> np.ndarray:
    return np.sort(permutation(key(0, "kid", side, number), count)[:KID_SUBSET_SIZE])
