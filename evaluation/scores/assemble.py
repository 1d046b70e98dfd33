"""From the cache to the score table: rows per image, numbers of sets, and a reason for every number that is missing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from evaluation.metrics import METRICS, NOISE_METRICS, names_of, small_set_note
from evaluation.scores.cells import NOT_FINITE, REALS, Rows, ScoreCache
from evaluation.scores.frechet import FeatureStatistics, frechet_distance, kernel_distance
from evaluation.scores.images import Chunk, Condition
from evaluation.scores.networks import INCEPTION_METRICS
from evaluation.scores.roster import Entry
from evaluation.scores.table import IMAGE_KEYS, NOT_FINITE_REASON, SET_KEYS, ScoreTable
from evaluation.scores.work import Job


@dataclass
class _Cell:
    """What the cache holds for one model under one condition."""

    entry: Entry
    condition: Condition
    chunks: list[Chunk]
    rows: Rows
    codes: dict[str, str]
    """Image -> version of the code that measured it (of several metrics: versions)."""

    @property
    def num_images(self) -> int:
        return sum(len(chunk.images) for chunk in self.chunks)

    def sources(self) -> np.ndarray:
        """The image file that each image was cut from, in the order of the chunks' images."""
        return np.array([image.source_hash for chunk in self.chunks for image in chunk.images])


class Assembler:
    """Builds the score table of a job from its cache."""

    def __init__(self, job: Job, cache: ScoreCache, failures: dict[str, str], missing_metrics: dict[str, str]) -> None:
        self.job = job
        self.cache = cache
        self.failures = {e.model.name: e.failure for e in job.roster if e.failure is not None} | failures
        self.missing_metrics = missing_metrics
        self.asked = tuple(name for name in METRICS if name in job.config.metrics)
        self.columns: dict[str, list[Any]] = {name: [] for name in (*IMAGE_KEYS, *names_of("image", self.asked))}
        self.sets: list[dict[str, Any]] = []
        self.missing: dict[tuple[str, str, str], str] = {}
        self._reals: FeatureStatistics | None = None
        """Of the condition's HR images, which all models are compared with."""

    def table(self) -> ScoreTable:
        """The whole table."""
        for condition in self.job.conditions:
            self._reals = None
            for entry in self.job.roster:
                self._add_cell(entry, condition)
        images = pd.DataFrame(self.columns)
        for name in names_of("image", self.asked):
            images[name] = images[name].astype(float)
        return ScoreTable(
            images=images,
            sets=pd.DataFrame(self.sets, columns=list(SET_KEYS)),
            missing=self.missing,
            models=[entry.model for entry in self.job.roster],
            conditions=[condition.name for condition in self.job.conditions],
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        notes = [note for entry in self.job.roster for note in entry.notes]
        measures: dict[str, list[str]] = {}
        for metric, reason in self.missing_metrics.items():
            measures.setdefault(reason, []).append(METRICS[metric].label)
        return notes + [f"{', '.join(labels)}: {reason}" for reason, labels in measures.items()]

    def _add_cell(self, entry: Entry, condition: Condition) -> None:
        cell = self._read(entry, condition)
        reason = self._why_nothing(cell)
        if reason is None:
            self._add_rows(cell)
        for metric in self.asked:
            why = reason or self.missing_metrics.get(metric) or self._why_missing(cell, metric)
            if why is None and METRICS[metric].scope == "set":
                why = self._add_set(cell, metric)
            if why is not None:
                self.missing[entry.model.name, condition.name, metric] = why

    def _read(self, entry: Entry, condition: Condition) -> _Cell:
        rows: Rows = {}
        codes: dict[str, str] = {}
        identities = [self.job.identity(metric) for metric in self.asked]
        chunks = [chunk for c in condition.classes for chunk in self.job.chunks[condition.split, c]]
        for chunk in chunks:
            found, measured_by = self.cache.rows_and_codes(entry.sha256, self.job.cell(chunk, condition.kernel))
            rows |= {key: found[key] for key in chunk.keys if key in found}
            versions = dict.fromkeys(measured_by[name] for name in identities if name in measured_by)
            codes |= dict.fromkeys(chunk.keys, ", ".join(versions))
        return _Cell(entry, condition, chunks, rows, codes)

    def _why_nothing(self, cell: _Cell) -> str | None:
        """Why the cell has no rows at all."""
        if cell.entry.model.name in self.failures:
            return self.failures[cell.entry.model.name]
        if not cell.num_images:
            return f"class '{cell.condition.image_class}' has no image in split '{cell.condition.split}'"
        if len(cell.rows) < cell.num_images:
            return "not measured yet; run the evaluation again"
        return None

    def _why_missing(self, cell: _Cell, metric: str) -> str | None:
        """Why one metric of a cell with rows has no number."""
        broken = [key for key, row in cell.rows.items() if NOT_FINITE in row]
        if broken:
            return f"the output for {_named(broken)} of {cell.num_images} {NOT_FINITE_REASON}"
        if metric == "kid-paired":
            few = len(set(cell.sources())) < 2
            return "needs at least 2 images (not tiles of one), the class has 1" if few else None
        if metric in INCEPTION_METRICS:
            return None if cell.num_images > 1 else "needs at least 2 images, the class has 1"
        if metric not in self.job.row_metrics(cell.entry):
            return "finished images have no spread: the model itself is needed"
        identity = self.job.identity(metric)
        if any(identity not in row for row in cell.rows.values()):
            return "not measured yet; run the evaluation again"
        absent = [key for key, row in cell.rows.items() if math.isnan(row[identity])]
        if absent and metric in NOISE_METRICS:
            return f"the output for noisy input is not finite (NaN): {_named(absent)} of {cell.num_images} images"
        return "every image is too small for it" if len(absent) == len(cell.rows) else None

    def _add_rows(self, cell: _Cell) -> None:
        metrics = names_of("image", self.asked)
        identities = {metric: self.job.identity(metric) for metric in metrics}
        shared = {
            "model": cell.entry.model.name,
            "model_kind": cell.entry.model.kind,
            "checkpoint_sha": cell.entry.sha256,
            "dataset_fingerprint": self.job.fingerprint,
            "condition": cell.condition.name,
            "split": cell.condition.split,
            "kernel": cell.condition.kernel,
            "metric_version": " ".join(self.job.identity(metric) for metric in self.asked),
        }
        scale = self.job.scale
        for chunk in cell.chunks:
            for image in chunk.images:
                row = cell.rows[image.key]
                own: dict[str, Any] = {"image_class": chunk.image_class, "image": image.key}
                own |= {"source_hash": image.source_hash, "code_version": cell.codes[image.key]}
                own |= {"height": image.height // scale * scale, "width": image.width // scale * scale}
                for name, value in {**shared, **own}.items():
                    self.columns[name].append(value)
                for metric, identity in identities.items():
                    self.columns[metric].append(row.get(identity, math.nan))

    def _add_set(self, cell: _Cell, metric: str) -> str | None:
        """Adds a number over the cell's images; returns the reason where there is none."""
        if metric in NOISE_METRICS:
            score = self._noise_score(cell, metric)
        else:
            found = self._inception_score(cell, metric)
            if found is None:
                return "its features are not measured yet; run the evaluation again"
            score = found
        row: dict[str, Any] = {"model": cell.entry.model.name, "condition": cell.condition.name, "metric": metric}
        row |= {"num_images": cell.num_images, "note": small_set_note(metric, cell.num_images), **score}
        self.sets.append(row)
        return None

    def _noise_score(self, cell: _Cell, metric: str) -> dict[str, float]:
        """The mean over the images, and the deviation over those that they were cut from: tiles of one are alike."""
        identity = self.job.identity(metric)
        values = [cell.rows[image.key][identity] for chunk in cell.chunks for image in chunk.images]
        of_sources = pd.Series(values).groupby(cell.sources()).mean()
        return {"value": float(np.mean(values)), "deviation": float(of_sources.std(ddof=1))}

    def _inception_score(self, cell: _Cell, metric: str) -> dict[str, float] | None:
        names = [self.job.cell(chunk, cell.condition.kernel) for chunk in cell.chunks]
        text = " ".join([cell.entry.sha256, metric, self.job.identity(metric), *names])
        name = f"{metric}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
        known = self.cache.set_score(name)
        if known is not None:
            return known
        real = Features(self.cache, self.job, REALS, cell.chunks, "hr")
        fake = Features(self.cache, self.job, cell.entry.sha256, cell.chunks, cell.condition.kernel)
        if not (real.complete and fake.complete):
            return None
        if metric == "fid":
            self._reals = self._reals or real.statistics()
            value, deviation = frechet_distance(self._reals, fake.statistics()), math.nan
        else:
            paired = metric == "kid-paired"
            value, deviation = kernel_distance(cell.sources(), real.rows, fake.rows, paired)
        score = {"value": value, "deviation": deviation}
        self.cache.write_set_score(name, score)
        return score


def _named(keys: Sequence[str]) -> str:
    """The first image, and how many there are beside it."""
    return keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


class Features:
    """The Inception features of a condition's images, read from the cache chunk by chunk."""

    def __init__(self, cache: ScoreCache, job: Job, sha: str, chunks: Sequence[Chunk], kernel: str) -> None:
        self._cache, self._sha, self._identity = cache, sha, job.inception or ""
        self._cells = [job.cell(chunk, kernel) for chunk in chunks]
        self._starts = np.cumsum([0, *(len(chunk.images) for chunk in chunks)])
        self.complete = all(cache.has_features(sha, cell, self._identity) for cell in self._cells)

    def statistics(self) -> FeatureStatistics:
        """Mean and covariance; one chunk is in memory at a time."""
        statistics = FeatureStatistics()
        for cell in self._cells:
            statistics.add(self._read(cell))
        return statistics

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The features of the asked images (rising indices)."""
        pieces = []
        for cell, start, stop in zip(self._cells, self._starts, self._starts[1:]):
            inside = indices[(indices >= start) & (indices < stop)]
            if len(inside):
                pieces.append(self._read(cell)[inside - start])
        return np.concatenate(pieces)

    def _read(self, cell: str) -> np.ndarray:
        features_ND = self._cache.features(self._sha, cell, self._identity)
        assert features_ND is not None, "completeness was checked before"
        return features_ND
