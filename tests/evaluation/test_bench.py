"""The benchmark measures what it says: its plain measures are right, and a missed bar is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from evaluation.bench.scale import measure_linearity
from evaluation.bench.speed import _plain_psnr_and_ssim, print_figures
from evaluation.bench.subjects import Figure


def test_the_plain_measures_that_ours_race_against_equal_scikit_image() -> None:
    random = np.random.default_rng(0)
    hr_image = random.integers(0, 256, (40, 36, 3), dtype=np.uint8)
    sr_image = np.clip(hr_image + random.normal(0, 20, hr_image.shape), 0, 255).astype(np.uint8)
    pair = [rgb2ycbcr(image)[4:-4, 4:-4, 0] for image in (hr_image, sr_image)]
    ssim = structural_similarity(*pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    expected = (peak_signal_noise_ratio(*pair, data_range=255), ssim)
    assert _plain_psnr_and_ssim(sr_image, hr_image) == pytest.approx(expected, abs=1e-6)


def test_simulated_matrices_are_measured_whole(tmp_path: Path) -> None:
    figure = measure_linearity(tmp_path, (2, 3), images_per_class=1)
    assert figure.value > 0 and "3 x 3" in figure.detail
    assert len(list((tmp_path / "cells3" / "cache").rglob("class*.json"))) == 9


def test_a_missed_bar_is_shown() -> None:
    console = Console(record=True, width=120)
    print_figures(console, [Figure("slow", 2.0, "x", 1.3, False), Figure("fast", 9.0, "x", 7.0, True)])
    lines = [line for line in console.export_text().splitlines() if "slow" in line or "fast" in line]
    assert "NO" in lines[0] and "yes" in lines[1]
