"""FID against the `pytorch_fid` command, KID against a plain computation, and statistics that come in pieces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from pytorch_fid.inception import InceptionV3 as ReferenceInception

from evaluation import frechet
from evaluation.frechet import FeatureStatistics, frechet_distance, kernel_distance, unbiased_mmd
from evaluation.inception import FIDInception
from harness.errors import CheckpointError


def statistics(features_ND: np.ndarray, piece: int = 1000) -> FeatureStatistics:
    result = FeatureStatistics()
    for start in range(0, len(features_ND), piece):
        result.add(features_ND[start : start + piece])
    return result


def features(count: int, dim: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(seed, 1, (count, dim)) @ random.normal(0, 1, (dim, dim)) / np.sqrt(dim)


def command_fid(first: Path, second: Path, weights: Path) -> float:
    environment = {**os.environ, "TORCH_HOME": str(weights.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytorch_fid", "--device", "cpu", "--num-workers", "0", str(first), str(second)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(answer.stdout.split("FID:")[1])


def test_features_equal_those_of_pytorch_fid(inception_file: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(inception_file.parents[2]))
    batch = torch.rand(2, 3, 60, 45, generator=torch.Generator().manual_seed(0))
    expected = ReferenceInception().eval()(batch)[0].flatten(1).numpy()
    measured = FIDInception(inception_file).describe(batch)
    assert measured.shape == (2, 2048)
    assert np.ptp(expected, axis=0).max() > 0.01, "the two images' features must differ"
    assert np.allclose(measured, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_fid_equals_the_pytorch_fid_command(write_images, tmp_path: Path, inception_file: Path) -> None:
    network = FIDInception(inception_file)
    sets = []
    for name, noise in [("real", 5.0), ("fake", 30.0)]:
        images = np.stack(write_images(tmp_path / name, 12, noise))
        batch = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        sets.append(statistics(network.describe(batch), piece=5))
    expected = command_fid(tmp_path / "real", tmp_path / "fake", inception_file)
    assert expected > 0
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("count", "kept"), [(40, 2048), (300, 2048), (300, 100)])
def test_frechet_distance_equals_the_reference_formula(count: int, kept: int, monkeypatch) -> None:
    monkeypatch.setattr(frechet, "ROWS_KEPT", kept)
    real, fake = features(count, 64, 0), features(count + 7, 64, 1)
    expected = calculate_frechet_distance(
        real.mean(0), np.cov(real, rowvar=False), fake.mean(0), np.cov(fake, rowvar=False)
    )
    assert frechet_distance(statistics(real), statistics(fake)) == pytest.approx(expected, rel=1e-5)


def test_a_set_has_no_distance_to_itself() -> None:
    real = features(50, 32, 0)
    assert frechet_distance(statistics(real), statistics(real)) == pytest.approx(0, abs=1e-9)


def test_statistics_do_not_depend_on_the_pieces_and_keep_no_rows_beyond_the_limit(monkeypatch) -> None:
    monkeypatch.setattr(frechet, "ROWS_KEPT", 60)
    rows = features(400, 24, 3)
    for piece in (1, 7, 60, 400):
        gathered = statistics(rows, piece)
        assert sum(map(len, gathered._rows)) <= 60
        assert np.allclose(gathered.mean(), rows.mean(0), atol=1e-12)
        factor = gathered.factor()
        assert factor.shape == (24, 24)
        assert np.allclose(factor.T @ factor, np.cov(rows, rowvar=False), atol=1e-10)


def plain_kid(real: np.ndarray, fake: np.ndarray) -> float:
    """The unbiased estimate, pair by pair."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(float(a) * float(b) for a, b in zip(x, y)) / len(x) + 1) ** 3

    n, m = len(real), len(fake)
    within_real = sum(kernel(real[i], real[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_fake = sum(kernel(fake[i], fake[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    across = sum(kernel(x, y) for x in real for y in fake) / (n * m)
    return within_real + within_fake - 2 * across


def test_kid_equals_a_plain_computation_and_its_deviation_a_plain_jackknife() -> None:
    real, fake = features(9, 16, 0).astype(np.float32), features(9, 16, 1).astype(np.float32)
    value, deviation = kernel_distance(9, 9, real.__getitem__, fake.__getitem__)
    assert value == pytest.approx(plain_kid(real, fake), rel=1e-10)
    left_out = [plain_kid(np.delete(real, i, 0), np.delete(fake, i, 0)) for i in range(9)]
    assert deviation == pytest.approx(np.sqrt(8 / 9 * np.sum((left_out - np.mean(left_out)) ** 2)), rel=1e-8)


def test_kid_is_unbiased_where_fid_is_not() -> None:
    """Two samples of one distribution: KID is 0 on average, FID far above."""
    samples = [(np.random.default_rng(i).normal(size=(2, 20, 32))) for i in range(200)]
    estimates = [unbiased_mmd(real, fake) for real, fake in samples]
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean([frechet_distance(statistics(a), statistics(b)) for a, b in samples[:20]]) > 5


def test_kid_of_a_large_set_is_the_mean_over_subsets_read_some_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(frechet, "KID_SUBSET_SIZE", 30)
    real, fake = features(900, 8, 0), features(900, 8, 1)
    asked: list[np.ndarray] = []

    def rows(indices: np.ndarray) -> np.ndarray:
        asked.append(indices)
        return real[indices]

    value, deviation = kernel_distance(900, 900, rows, fake.__getitem__)
    assert len(asked) == frechet.KID_SUBSETS / 10
    assert all(30 < len(indices) <= 300 and (np.diff(indices) > 0).all() for indices in asked)
    pairs = [(frechet._subset("real", i, 900), frechet._subset("fake", i, 900)) for i in range(frechet.KID_SUBSETS)]
    assert all(len(set(indices.tolist())) == 30 for pair in pairs for indices in pair)
    alone = [unbiased_mmd(real[left], fake[right]) for left, right in pairs]
    assert (value, deviation) == pytest.approx((np.mean(alone), np.std(alone)), rel=1e-12)
    assert value == pytest.approx(unbiased_mmd(real, fake), rel=0.1)
    assert kernel_distance(900, 900, rows, fake.__getitem__) == (value, deviation)


def test_one_image_has_no_distance_and_the_sentence_says_so() -> None:
    one = features(1, 8, 0)
    with pytest.raises(ValueError, match="at least 2 images"):
        frechet_distance(statistics(one), statistics(one))
    with pytest.raises(ValueError, match="at least 2 images"):
        kernel_distance(1, 1, one.__getitem__, one.__getitem__)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not FID's Inception"):
        FIDInception(path)
