"""Diversity: the spread of outputs over noise on the input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from evaluation.config import DiversityConfig
from evaluation.scores.diversity import diversity, mean_distance, psnr_lost, with_noise
from evaluation.scores.upsamplers import MethodUpsampler

CONFIG = DiversityConfig(num_samples=5, noise_std=0.03)


@pytest.fixture
def lr_NHWC() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 216, (2, 12, 9, 3), dtype=np.uint8)


def test_the_diversity_is_the_mean_distance_of_all_pairs() -> None:
    outputs = np.random.default_rng(1).integers(0, 256, (4, 3, 8, 7, 3), dtype=np.uint8)
    expected = []
    for n in range(3):
        distances = []
        for i in range(4):
            for j in range(i):
                difference = outputs[i, n].astype(float) - outputs[j, n].astype(float)
                distances.append(math.sqrt((difference**2).sum() / difference.size))
        expected.append(sum(distances) / len(distances))
    assert mean_distance(outputs).tolist() == pytest.approx(expected)


def test_the_cost_is_the_psnr_that_scikit_image_finds_lost() -> None:
    source = np.random.default_rng(2)
    hr, sr = (source.integers(0, 256, (2, 8, 7, 3), dtype=np.uint8) for _ in range(2))
    outputs = source.integers(0, 256, (3, 2, 8, 7, 3), dtype=np.uint8)
    for n in range(2):
        clean = peak_signal_noise_ratio(hr[n], sr[n])
        noisy = [peak_signal_noise_ratio(hr[n], output[n]) for output in outputs]
        assert psnr_lost(outputs, sr, hr)[n] == pytest.approx(clean - np.mean(noisy))


def test_the_noise_has_the_deviation_that_is_asked_for_and_moves_no_mean() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    for std in (0.002, 0.03):
        moved = with_noise(image, "a", 0, std).astype(float) - image
        assert moved.mean() == pytest.approx(0, abs=4 * 255 * std / math.sqrt(moved.size))
        assert moved.std() == pytest.approx(math.hypot(255 * std, math.sqrt(1 / 12)), rel=0.03)


def test_a_perfect_output_costs_what_an_error_of_a_thousandth_would() -> None:
    perfect = np.full((1, 8, 8, 3), 100, np.uint8)
    assert psnr_lost((perfect + 2)[None], perfect, perfect)[0] == pytest.approx(10 * math.log10(4 / 0.001))


def measured(method: str, lr_NHWC: np.ndarray, keys: list[str], config: DiversityConfig) -> dict[str, np.ndarray]:
    upsampler = MethodUpsampler(method, 2)  # type: ignore[arg-type]
    sr_NHWC, _ = upsampler.batch(lr_NHWC, keys)
    return diversity(upsampler, lr_NHWC, sr_NHWC, sr_NHWC, keys, config)


def test_nearest_passes_the_noise_through_and_bicubic_smooths_it(lr_NHWC: np.ndarray) -> None:
    config = DiversityConfig(num_samples=40, noise_std=0.03)
    spreads = {method: measured(method, lr_NHWC, ["a", "b"], config)["diversity"] for method in ("nearest", "bilinear")}
    assert spreads["nearest"] == pytest.approx(math.sqrt(2) * 0.03 * 255, rel=0.05)
    assert (spreads["bilinear"] < 0.9 * spreads["nearest"]).all()


def test_every_model_and_every_run_sees_the_same_noise(lr_NHWC: np.ndarray) -> None:
    first = with_noise(lr_NHWC[0], "beach/1", 0, 0.03)
    assert np.array_equal(first, with_noise(lr_NHWC[0], "beach/1", 0, 0.03))
    assert not np.array_equal(first, with_noise(lr_NHWC[0], "beach/1", 1, 0.03))
    assert not np.array_equal(first, with_noise(lr_NHWC[0], "beach/2", 0, 0.03))
    together = measured("bicubic", lr_NHWC, ["a", "b"], CONFIG)["diversity"]
    alone = measured("bicubic", lr_NHWC[1:], ["b"], CONFIG)["diversity"]
    assert together[1] == alone[0]


def test_more_noise_makes_more_diverse_and_worse(lr_NHWC: np.ndarray) -> None:
    little, much = (
        measured("bicubic", lr_NHWC, ["a", "b"], DiversityConfig(num_samples=4, noise_std=std)) for std in (0.01, 0.1)
    )
    assert (much["diversity"] > 5 * little["diversity"]).all()
    assert (much["diversity-cost"] > little["diversity-cost"]).all()


@pytest.mark.parametrize("broken", range(CONFIG.num_samples))
def test_an_image_with_one_output_that_is_not_finite_has_no_spread(lr_NHWC: np.ndarray, broken: int) -> None:
    class Broken(MethodUpsampler):
        num_calls = 0

        def batch(self, lr_NHWC, keys):
            self.num_calls += 1
            is_sound = self.num_calls != broken + 1
            return super().batch(lr_NHWC, keys)[0], np.array([is_sound or key != "b" for key in keys])

    sr_NHWC = MethodUpsampler("nearest", 2).batch(lr_NHWC, ["a", "b"])[0]
    columns = diversity(Broken("nearest", 2), lr_NHWC, sr_NHWC, sr_NHWC, ["a", "b"], CONFIG)
    for values in columns.values():
        assert values[0] > 0 and math.isnan(values[1])
