"""Diversity: the spread of outputs over noise on the input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.config import DiversityConfig
from evaluation.diversity import diversity, output_spread, with_noise
from evaluation.upsamplers import MethodUpsampler

CONFIG = DiversityConfig(num_samples=5, noise_std=0.03)


@pytest.fixture
def lr_NHWC() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 216, (2, 12, 9, 3), dtype=np.uint8)


def test_the_spread_is_the_root_mean_square_of_the_standard_deviations() -> None:
    outputs = np.random.default_rng(1).integers(0, 256, (5, 3, 8, 7, 3), dtype=np.uint8)
    expected = [np.sqrt(np.mean(outputs[:, n].astype(float).std(axis=0, ddof=1) ** 2)) for n in range(3)]
    assert output_spread(outputs).tolist() == pytest.approx(expected)


def test_nearest_passes_the_noise_through_and_bicubic_smooths_it(lr_NHWC: np.ndarray) -> None:
    config = DiversityConfig(num_samples=40, noise_std=0.03)
    spreads = {
        method: diversity(MethodUpsampler(method, 2), lr_NHWC, ["a", "b"], config)  # type: ignore[arg-type]
        for method in ("nearest", "bilinear")
    }
    assert spreads["nearest"] == pytest.approx(0.03 * 255, rel=0.05)
    assert (spreads["bilinear"] < 0.9 * spreads["nearest"]).all()


def test_every_model_and_every_run_sees_the_same_noise(lr_NHWC: np.ndarray) -> None:
    first = with_noise(lr_NHWC[0], "beach/1", 0, 0.03)
    assert np.array_equal(first, with_noise(lr_NHWC[0], "beach/1", 0, 0.03))
    assert not np.array_equal(first, with_noise(lr_NHWC[0], "beach/1", 1, 0.03))
    assert not np.array_equal(first, with_noise(lr_NHWC[0], "beach/2", 0, 0.03))
    together = diversity(MethodUpsampler("bicubic", 2), lr_NHWC, ["a", "b"], CONFIG)
    alone = diversity(MethodUpsampler("bicubic", 2), lr_NHWC[1:], ["b"], CONFIG)
    assert together[1] == alone[0]


def test_an_output_that_is_not_finite_has_no_spread(lr_NHWC: np.ndarray) -> None:
    class Broken(MethodUpsampler):
        def batch(self, lr_NHWC, keys):
            return super().batch(lr_NHWC, keys)[0], np.array([key != "b" for key in keys])

    spread = diversity(Broken("nearest", 2), lr_NHWC, ["a", "b"], CONFIG)
    assert spread[0] > 0 and math.isnan(spread[1])
