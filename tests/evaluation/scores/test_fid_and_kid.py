"""FID against the `pytorch_fid` command, KID against a plain computation, and statistics that come in pieces."""

from __future__ import annotations

import itertools
import operator
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from pytorch_fid.inception import InceptionV3 as ReferenceInception

from evaluation.scores import frechet
from evaluation.scores.frechet import FeatureStatistics, frechet_distance, kernel_distance, squared_mmd
from evaluation.scores.inception import FIDInception
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


def test_features_that_span_few_dimensions_have_a_distance(monkeypatch) -> None:
    real, fake = (features(100, 3, seed) @ np.random.default_rng(9).normal(size=(3, 16)) for seed in (0, 1))
    exact = frechet_distance(statistics(real), statistics(fake))
    monkeypatch.setattr(frechet, "ROWS_KEPT", 20)
    assert frechet_distance(statistics(real, 30), statistics(fake, 30)) == pytest.approx(exact, rel=1e-6)


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


def plain_kid(real: np.ndarray, fake: np.ndarray, sources: Sequence[int], paired: bool) -> float:
    """The unbiased estimate, pair by pair."""

    def mean(one: np.ndarray, other: np.ndarray, counts: Callable[[int, int], bool]) -> float:
        pairs = [(x, y) for (i, x), (j, y) in itertools.product(enumerate(one), enumerate(other)) if counts(i, j)]
        return sum((sum(float(a) * float(b) for a, b in zip(x, y)) / len(x) + 1) ** 3 for x, y in pairs) / len(pairs)

    def strangers(i: int, j: int) -> bool:
        return sources[i] != sources[j]

    within = strangers if paired else operator.ne
    across = strangers if paired else lambda i, j: True
    return mean(real, real, within) + mean(fake, fake, within) - 2 * mean(real, fake, across)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("sources", [list(range(9)), [4, 4, 4, 1, 0, 0, 7, 7, 8]], ids=["images", "tiles"])
def test_kid_equals_a_plain_computation_and_its_deviation_a_plain_jackknife(sources: list[int], paired: bool) -> None:
    real, fake = features(9, 16, 0).astype(np.float32), features(9, 16, 1).astype(np.float32)
    value, deviation = kernel_distance(np.array(sources), real.__getitem__, fake.__getitem__, paired)
    assert value == pytest.approx(plain_kid(real, fake, sources, paired), rel=1e-10)
    kept = [np.array(sources) != source for source in sorted(set(sources))]
    left_out = [plain_kid(real[keep], fake[keep], np.array(sources)[keep].tolist(), paired) for keep in kept]
    share = (len(kept) - 1) / len(kept)
    assert deviation == pytest.approx(np.sqrt(share * np.sum((left_out - np.mean(left_out)) ** 2)), rel=1e-8)


def restorations(count: int, seed: int, tiles: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of images and of their restorations, which are much like them, and the images' sources."""
    random = np.random.default_rng(seed)
    sources = np.repeat(np.arange(count // tiles), tiles)
    of_sources = random.normal(0.4, 0.3, (count // tiles, 256))[sources]
    real = of_sources + (random.normal(0, 0.1, of_sources.shape) if tiles > 1 else 0)
    return real, real + 0.05 + random.normal(0, 0.05, real.shape), sources


def expected_kernel(mean: Sequence[float], variance: Sequence[float]) -> float:
    """What the kernel of two independent draws of 256 normal features each is on average, to 1e-5."""
    product, spread = mean[0] * mean[1], (mean[0] ** 2 + variance[0]) * (mean[1] ** 2 + variance[1])
    return (product + 1) ** 3 + 3 * (product + 1) * (spread - product**2) / 256


@pytest.mark.parametrize("tiles", [1, 4])
def test_kid_of_few_images_and_their_restorations_is_unbiased_as_pairs_alone(tiles: int) -> None:
    """An image is more like its own restoration than like another's: such pairs pull KID far below what it is."""
    real, fake = (0.4, 0.09 + 0.01 * (tiles > 1)), (0.45, 0.0925 + 0.01 * (tiles > 1))
    within = [expected_kernel(*zip(one, one)) for one in (real, fake)]
    truth = sum(within) - 2 * expected_kernel(*zip(real, fake))
    assert truth > 0.01
    estimates = [squared_mmd(*restorations(12, seed, tiles), paired=True)[0] for seed in range(600)]
    assert np.mean(estimates) == pytest.approx(truth, abs=4 * np.std(estimates) / np.sqrt(len(estimates)))
    assert np.mean([squared_mmd(*restorations(12, seed))[0] for seed in range(100)]) < 0


@pytest.mark.parametrize("paired", [False, True])
def test_kid_is_unbiased_where_fid_is_not(paired: bool) -> None:
    """Two samples of one distribution: KID is 0 on average, FID far above."""
    samples = [(np.random.default_rng(i).normal(size=(2, 20, 32))) for i in range(200)]
    estimates = [squared_mmd(real, fake, np.arange(20), paired)[0] for real, fake in samples]
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean([frechet_distance(statistics(a), statistics(b)) for a, b in samples[:20]]) > 5


@pytest.mark.parametrize("paired", [False, True])
def test_kid_of_a_large_set_is_the_mean_over_subsets_read_some_at_a_time(monkeypatch, paired: bool) -> None:
    monkeypatch.setattr(frechet, "KID_SUBSET_SIZE", 30)
    real, fake, sources = features(900, 8, 0), features(900, 8, 1), np.arange(900) // 2
    asked: list[np.ndarray] = []

    def rows(indices: np.ndarray) -> np.ndarray:
        asked.append(indices)
        return real[indices]

    value, deviation = kernel_distance(sources, rows, fake.__getitem__, paired)
    assert len(asked) == frechet.KID_SUBSETS / 10
    assert all(30 < len(indices) <= 300 and (np.diff(indices) > 0).all() for indices in asked)
    sides = ("real", "real" if paired else "fake")
    subsets = [[frechet._subset(side, i, 900) for side in sides] for i in range(frechet.KID_SUBSETS)]
    assert all(len(set(indices.tolist())) == 30 for pair in subsets for indices in pair)
    alone = [squared_mmd(real[left], fake[right], sources[left], paired)[0] for left, right in subsets]
    assert (value, deviation) == pytest.approx((np.mean(alone), np.std(alone)), rel=1e-12)
    assert value == pytest.approx(squared_mmd(real, fake, sources, paired)[0], rel=0.1)
    assert kernel_distance(sources, rows, fake.__getitem__, paired) == (value, deviation)


def test_kid_of_as_many_images_as_a_subset_holds_is_over_all(monkeypatch) -> None:
    monkeypatch.setattr(frechet, "KID_SUBSET_SIZE", 30)
    real, fake, sources = features(30, 8, 0), features(30, 8, 1), np.arange(30)
    assert kernel_distance(sources, real.__getitem__, fake.__getitem__) == squared_mmd(real, fake, sources)


@pytest.mark.parametrize("paired", [False, True])
def test_kid_of_two_sources_has_no_deviation(paired: bool) -> None:
    value, deviation = squared_mmd(features(4, 8, 0), features(4, 8, 1), np.array([0, 0, 1, 1]), paired)
    assert np.isfinite(value) and np.isnan(deviation)


def test_one_image_has_no_distance_and_the_sentence_says_so() -> None:
    one = features(1, 8, 0)
    with pytest.raises(ValueError, match="at least 2 images"):
        frechet_distance(statistics(one), statistics(one))
    for sources, paired, what in (([3], False, "images"), ([3], True, "sources"), ([3, 3, 3], True, "sources")):
        with pytest.raises(ValueError, match=f"at least 2 {what}, got 1"):
            kernel_distance(np.array(sources), one.__getitem__, one.__getitem__, paired)


def test_who_asks_for_no_fid_waits_for_no_scipy_and_no_torchvision() -> None:
    modules = "evaluation.scores.collect, evaluation.report.write"
    code = f"import sys, {modules}; print({{'scipy', 'torchvision'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not FID's Inception"):
        FIDInception(path)
