"""Distances between two sets of images by their Inception features: FID and KID. NumPy, float64.

FID (Heusel et al. 2017): |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)), covariances with n - 1.
KID (Binkowski et al. 2018): the unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, of sets that
have nothing to do with each other or (Gretton et al. 2012, lemma 6) of images and their restorations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from harness.random import key, permutation

FEATURE_DIM = 2048
ROWS_KEPT = 2048
KID_SUBSET_SIZE = 1000
KID_SUBSETS = 100
_SUBSETS_AT_ONCE = 10
"""Subsets whose features are read together (80 MB a side): fewer readings of all the files."""

FeatureRows = Callable[[np.ndarray], np.ndarray]
"""The features (n, d) of the images with these n rising numbers."""


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
            from scipy import linalg  # half a second, which an evaluation without FID need not wait for

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
    from scipy import linalg

    factor_a, factor_b = a.factor(), b.factor()
    shift_D = a.mean() - b.mean()
    traces = np.square(factor_a).sum() + np.square(factor_b).sum()
    return float(shift_D @ shift_D + traces - 2 * linalg.svdvals(factor_a @ factor_b.T).sum())


def kernel_distance(
    source_N: np.ndarray, real_rows: FeatureRows, fake_rows: FeatureRows, paired: bool = False
) -> tuple[float, float]:
    """KID of N images and their restorations, and its deviation.

    Up to `KID_SUBSET_SIZE` images: the estimate over all, with the standard error of its jackknife. More: mean and
    standard deviation over `KID_SUBSETS` random subsets, as published, which bounds memory.

    Args:
        source_N: the image file that each image was cut from; tiles of one share it.
        real_rows, fake_rows: give the features (n, d) of the asked images.
        paired: see `squared_mmd`.

    Raises:
        ValueError: fewer than 2 images, or 2 sources where `paired`.
    """
    what, count = ("sources", len(np.unique(source_N))) if paired else ("images", len(source_N))
    if count < 2:
        raise ValueError(f"a kernel distance needs at least 2 {what}, got {count}.")
    if len(source_N) <= KID_SUBSET_SIZE:
        everyone = np.arange(len(source_N))
        return squared_mmd(real_rows(everyone), fake_rows(everyone), source_N, paired)
    real_subsets = _subsets("real", source_N, real_rows)
    fake_subsets = _subsets("real" if paired else "fake", source_N, fake_rows)
    estimates = [
        squared_mmd(real_ND, fake_ND, sources, paired)[0]
        for (real_ND, sources), (fake_ND, _) in zip(real_subsets, fake_subsets)
    ]
    return float(np.mean(estimates)), float(np.std(estimates))


def squared_mmd(
    real_ND: np.ndarray, fake_ND: np.ndarray, source_N: np.ndarray, paired: bool = False
) -> tuple[float, float]:
    """The unbiased estimate of the squared maximum mean discrepancy, and its standard error. It may be below 0.

    The mean of k(x_i, x_j) and that of k(y_i, y_j) over i other than j, minus twice that of k(x_i, y_j) over all i and
    j. With `paired` all three are over images of different sources: an image is much more like its own restoration
    than like another one's, which pulls the number down as if the sets were more alike than they are.

    The error is the jackknife's, all images of a source left out together; NaN for fewer than 3 sources.
    """
    _, group_N, count_G = np.unique(source_N, return_inverse=True, return_counts=True)
    others_NN = group_N[:, None] != group_N
    within_NN = others_NN if paired else ~np.eye(len(group_N), dtype=bool)
    across_NN = others_NN if paired else np.ones_like(others_NN)
    terms = ((1, real_ND, real_ND, within_NN), (1, fake_ND, fake_ND, within_NN), (-2, real_ND, fake_ND, across_NN))
    value, left_out_G = 0.0, np.zeros(len(count_G))
    for sign, a_ND, b_ND, counted_NN in terms:
        kernel_NN = np.where(counted_NN, _kernel(a_ND, b_ND), 0)
        value += sign * float(kernel_NN.sum() / counted_NN.sum())
        if len(count_G) > 2:
            left_out_G += sign * _without_each(kernel_NN, group_N) / _without_each(counted_NN, group_N)
    if len(count_G) < 3:
        return value, float("nan")
    share = (len(count_G) - 1) / len(count_G)
    return value, float(np.sqrt(share * np.square(left_out_G - left_out_G.mean()).sum()))


def _without_each(values_NN: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """The sum of the matrix without a group's rows and columns, for each group."""
    own_NN = np.where(group_N[:, None] == group_N, values_NN, 0)
    twice_N = values_NN.sum(axis=0) + values_NN.sum(axis=1) - own_NN.sum(axis=1)
    return values_NN.sum() - np.bincount(group_N, twice_N)


def _kernel(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    a_ND, b_MD = np.asarray(a_ND, np.float64), np.asarray(b_MD, np.float64)
    return (a_ND @ b_MD.T / a_ND.shape[1] + 1) ** 3


def _subsets(side: str, source_N: np.ndarray, rows: FeatureRows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The features of each random subset, and their sources; several subsets are read at once."""
    for first in range(0, KID_SUBSETS, _SUBSETS_AT_ONCE):
        last = min(first + _SUBSETS_AT_ONCE, KID_SUBSETS)
        chosen = [_subset(side, number, len(source_N)) for number in range(first, last)]
        wanted = np.unique(np.concatenate(chosen))
        features_ND = rows(wanted)
        for subset in chosen:
            yield features_ND[np.searchsorted(wanted, subset)], source_N[subset]


def _subset(side: str, number: int, count: int) -> np.ndarray:
    return np.sort(permutation(key(0, "kid", side, number), count)[:KID_SUBSET_SIZE])
