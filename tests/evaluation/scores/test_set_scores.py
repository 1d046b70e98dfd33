"""Numbers over whole sets of images: from the features in the cache to the table, without a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import linalg

from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS
from evaluation.model import baseline
from evaluation.scores.assemble import Assembler
from evaluation.scores.cells import REALS, ScoreCache
from evaluation.scores.images import ImageInfo, conditions_of
from evaluation.scores.networks import Located
from evaluation.scores.roster import Entry
from evaluation.scores.table import ScoreTable
from evaluation.scores.work import Job

MODELS = ("nearest", "bicubic")
METRICS_HERE = ("fid", "kid", "kid-paired")


class Listed:
    """A dataset of which only the list of images is asked; two neighbours are tiles of one image."""

    path, fingerprint = "listed", "f"

    def __init__(self, **counts: int) -> None:
        self.counts, self.classes = counts, list(counts)

    def images(self, split: str, image_class: str) -> list[ImageInfo]:
        names = [f"{image_class}/{number:02d}" for number in range(self.counts[image_class])]
        return [ImageInfo(name, 32, 32, False, i, f"{image_class}/{i // 2}") for i, name in enumerate(names)]


def job_of(images: Listed) -> Job:
    config = EvaluateConfig(scale=4, metrics=METRICS_HERE, pool="all")
    roster = [Entry(baseline(name), name * 8) for name in MODELS]
    job = Job(roster, config, 4, "f", conditions_of(config, images), METRICS_HERE, Located(), "code")
    job.add_chunks(images)
    return job


def fill(cache: ScoreCache, job: Job, seed: int) -> dict[tuple[str, str], np.ndarray]:
    """Writes random features of 3 numbers; returns them by (`reals` or model, image)."""
    random, found = np.random.default_rng(seed), {}
    for chunk in (chunk for chunks in job.chunks.values() for chunk in chunks):
        for name, sha, kernel in [(REALS, REALS, "hr"), *((m, m * 8, "matlab-bicubic") for m in MODELS)]:
            features_ND = random.normal(size=(len(chunk.images), 3)).astype(np.float32)
            cache.write_features(sha, job.cell(chunk, kernel), job.inception or "", features_ND)
            cache.write_rows(sha, job.cell(chunk, kernel), {key: {} for key in chunk.keys}, "code")
            found |= {(name, key): row.astype(float) for key, row in zip(chunk.keys, features_ND)}
    return found


def value(table: ScoreTable, model: str, condition: str, metric: str, column: str = "value") -> float:
    return float(table.sets.set_index(["model", "condition", "metric"]).loc[(model, condition, metric), column])


def test_fid_of_a_cell_is_that_of_the_features_of_its_model_and_its_images(tmp_path: Path) -> None:
    job, cache = job_of(Listed(sea=20, sand=8)), ScoreCache(tmp_path)
    features = fill(cache, job, 0)
    table = Assembler(job, cache, {}, {}).table()
    for model in MODELS:
        for condition in ("sea", "sand", "all"):
            keys = [key for name, key in features if name == model and (condition == "all" or condition in key)]
            real, fake = (np.stack([features[name, key] for key in keys]) for name in (REALS, model))
            shift, (a, b) = real.mean(axis=0) - fake.mean(axis=0), (np.cov(x, rowvar=False) for x in (real, fake))
            expected = shift @ shift + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
            assert value(table, model, condition, "fid") == pytest.approx(expected, rel=1e-6)


def test_tiles_of_one_image_count_as_one_in_both_kernel_distances(tmp_path: Path) -> None:
    """By hand: with two sources of two tiles each, pairs are over different sources, and no source can be left out."""
    job, cache = job_of(Listed(sea=4)), ScoreCache(tmp_path)
    features = fill(cache, job, 1)
    table = Assembler(job, cache, {}, {}).table()
    real, fake = ([features[name, f"sea/{i:02d}"] for i in range(4)] for name in (REALS, "bicubic"))
    apart = [(i, j) for i in range(4) for j in range(4) if i // 2 != j // 2]
    both = ((real, real), (fake, fake), (real, fake))
    of_real, of_fake, across = (np.mean([(a[i] @ b[j] / 3 + 1) ** 3 for i, j in apart]) for a, b in both)
    assert value(table, "bicubic", "sea", "kid-paired") == pytest.approx(of_real + of_fake - 2 * across)
    assert all(np.isnan(value(table, "bicubic", "sea", name, "deviation")) for name in ("kid", "kid-paired"))


def test_a_set_score_is_kept_until_its_measure_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, cache = job_of(Listed(sea=6)), ScoreCache(tmp_path)
    fill(cache, job, 2)
    first = Assembler(job, cache, {}, {}).table()
    fill(cache, job, 3)
    monkeypatch.setitem(METRICS, "kid", replace(METRICS["kid"], version=METRICS["kid"].version + 1))
    second = Assembler(job, cache, {}, {}).table()
    kept = [value(first, "nearest", "sea", name) == value(second, "nearest", "sea", name) for name in METRICS_HERE]
    assert kept == [True, False, True]


def test_a_class_of_one_image_has_the_reason_instead_of_a_distance(tmp_path: Path) -> None:
    job, cache = job_of(Listed(sea=4, ice=1)), ScoreCache(tmp_path)
    fill(cache, job, 4)
    table = Assembler(job, cache, {}, {}).table()
    reasons = {metric: table.missing["nearest", "ice", metric] for metric in METRICS_HERE}
    reason = "needs at least 2 images, the class has 1"
    assert reasons == {"fid": reason, "kid": reason, "kid-paired": reason.replace(",", " (not tiles of one),")}
    assert ("nearest", "all", "fid") not in table.missing
