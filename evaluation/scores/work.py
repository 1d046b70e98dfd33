"""The work of an evaluation: which cells are missing, and measuring them, one chunk of images at a time.

A unit is a chunk of images and a group of models. Its HR images are read, degraded and described once for all models
of the group; each model runs once per LR image, and its output serves every measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS, NOISE_METRICS
from evaluation.scores.cells import NOT_FINITE, REALS, Rows, ScoreCache, is_complete
from evaluation.scores.device import float32_proper
from evaluation.scores.diversity import diversity
from evaluation.scores.images import Chunk, Condition, ImageInfo, ImageSource, batches_of, chunks_of
from evaluation.scores.measures import Measures, Reference, unit_range
from evaluation.scores.networks import INCEPTION_METRICS, Located, Networks
from evaluation.scores.roster import Entry
from evaluation.scores.upsamplers import FolderUpsampler, Upsampler, open_network_of, open_upsampler
from harness.data.config import Kernel
from harness.data.degrade import crop_to_multiple, degrade_image
from harness.errors import InputError

GROUP_SIZE = 16
"""Models that are held in memory together."""

Opener = Callable[[Entry, int, "int | None", str], Upsampler]


@dataclass(frozen=True)
class Unit:
    """A chunk of images for a group of models: `todo` are (degradation, index of the model) still to measure."""

    group: int
    chunk: Chunk
    todo: tuple[tuple[Kernel, int], ...]
    reals: bool
    """Whether the HR images' own features are to be computed here."""

    @property
    def num_images(self) -> int:
        return len(self.chunk.images) * len(self.todo)

    @property
    def num_pixels(self) -> int:
        """HR pixels that models are still to make."""
        return sum(image.height * image.width for image in self.chunk.images) * len(self.todo)


@dataclass
class Job:
    """All that decides the numbers: the same in every process that takes part."""

    roster: list[Entry]
    config: EvaluateConfig
    scale: int
    fingerprint: str
    conditions: list[Condition]
    metrics: tuple[str, ...]
    """Those that can be measured here."""
    located: Located
    code: str
    chunks: dict[tuple[str, str], list[Chunk]] = field(default_factory=dict)
    """(split, class) -> its images."""

    @property
    def border_px(self) -> int:
        return self.scale if self.config.border_px is None else self.config.border_px

    @property
    def inception(self) -> str | None:
        """The identity of Inception's features, where they are needed."""
        metric = next((metric for metric in INCEPTION_METRICS if metric in self.metrics), None)
        return None if metric is None else f"inception1{self.located.identity(metric)}"

    def identity(self, metric: str) -> str:
        """What must be equal for two numbers of a metric to be comparable."""
        parts = [metric, str(METRICS[metric].version)]
        if metric in ("psnr", "ssim"):
            parts.append(self.config.color)
        if metric in ("mse", "psnr", "ssim"):
            parts.append(f"border{self.border_px}")
        if metric in NOISE_METRICS:
            parts += [str(self.config.diversity.num_samples), str(self.config.diversity.noise_std)]
        return ":".join([*parts, self.located.identity(metric)]).removesuffix(":")

    def row_metrics(self, entry: Entry) -> tuple[str, ...]:
        """Metrics that have a number per image in the cache; finished images have no spread to provoke."""
        without = (*INCEPTION_METRICS, *NOISE_METRICS) if entry.model.kind == "folder" else INCEPTION_METRICS
        return tuple(metric for metric in self.metrics if metric not in without)

    def add_chunks(self, source: ImageSource) -> None:
        """Lists the images of every condition."""
        for condition in self.conditions:
            for image_class in condition.classes:
                place = (condition.split, image_class)
                if place not in self.chunks:
                    self.chunks[place] = chunks_of(condition.split, image_class, source, self.config.max_images)

    def cell(self, chunk: Chunk, kernel: str) -> str:
        return chunk.cell_name(self.fingerprint, self.scale, kernel)


def all_units(job: Job) -> list[Unit]:
    """Every unit of the evaluation, groups of models outermost, in an order that depends on the job alone."""
    able = [index for index, entry in enumerate(job.roster) if entry.failure is None]
    units = []
    for group, start in enumerate(range(0, len(able), GROUP_SIZE)):
        for chunks in job.chunks.values():
            for chunk in chunks:
                kernels = job.config.kernels
                todo = tuple((kernel, index) for kernel in kernels for index in able[start : start + GROUP_SIZE])
                units.append(Unit(group, chunk, todo, reals=group == 0 and job.inception is not None))
    return units


def still_missing(unit: Unit, job: Job, cache: ScoreCache) -> Unit | None:
    """What of a unit is not in the cache; None where all is."""
    todo = tuple(pair for pair in unit.todo if not _is_done(unit.chunk, *pair, job, cache))
    inception = job.inception
    reals = unit.reals and inception is not None
    reals = reals and not cache.has_features(REALS, job.cell(unit.chunk, "hr"), inception or "")
    return Unit(unit.group, unit.chunk, todo, reals) if todo or reals else None


def _is_done(chunk: Chunk, kernel: Kernel, index: int, job: Job, cache: ScoreCache) -> bool:
    entry, cell = job.roster[index], job.cell(chunk, kernel)
    sha = entry.sha256
    if job.inception is not None and not cache.has_features(sha, cell, job.inception):
        return False
    return is_complete(cache.rows(sha, cell), chunk.keys, [job.identity(metric) for metric in job.row_metrics(entry)])


class Worker:
    """Measures units; holds the networks and the models of one group."""

    def __init__(
        self, job: Job, source: ImageSource, cache: ScoreCache, networks: Networks, opener: Opener | None = None
    ) -> None:
        self.job = job
        self.source = source
        self.cache = cache
        self.networks = networks
        self.measures = Measures(job.metrics, job.config.color, job.border_px, networks)
        self.identities = {metric: job.identity(metric) for metric in job.metrics}
        self._open = opener or open_entry
        self._group = -1
        self._upsamplers: dict[int, Upsampler] = {}
        self.failures: dict[str, str] = {}
        """Models that could not be loaded or failed on an image, with the reason."""
        self.tick: Callable[[int], None] = lambda num_images: None
        """Called with the images that another model is done with."""

    def run(self, unit: Unit) -> dict[str, str]:
        """Measures and stores a unit; returns the failures so far."""
        with float32_proper():
            return self._run(unit)

    def _run(self, unit: Unit) -> dict[str, str]:
        if unit.group != self._group:
            self._group, self._upsamplers = unit.group, {}
        results = {pair: _Result() for pair in unit.todo}
        real_features: list[np.ndarray] = []
        for images in batches_of(unit.chunk):
            hr_NHWC = np.stack([crop_to_multiple(self.source.read(image), self.job.scale) for image in images])
            reference = self.measures.reference(hr_NHWC, images[0].grey)
            if unit.reals and self.networks.inception is not None:
                real_features.append(self.networks.inception.describe(unit_range(hr_NHWC)))
            for kernel, lr_NHWC in self._degraded(hr_NHWC, unit):
                for index in [index for k, index in unit.todo if k == kernel]:
                    self._measure(images, lr_NHWC, reference, kernel, index, results[kernel, index])
                    self.tick(len(images))
        self._store(unit, results, real_features)
        return self.failures

    def _degraded(self, hr_NHWC: np.ndarray, unit: Unit) -> Iterator[tuple[Kernel, np.ndarray]]:
        for kernel in dict.fromkeys(kernel for kernel, _ in unit.todo):
            yield kernel, np.stack([degrade_image(image, self.job.scale, kernel) for image in hr_NHWC])

    def _measure(
        self,
        images: Sequence[ImageInfo],
        lr_NHWC: np.ndarray,
        reference: Reference,
        kernel: Kernel,
        index: int,
        result: _Result,
    ) -> None:
        """One model on one batch, every measure from the one output."""
        entry = self.job.roster[index]
        name = entry.model.name
        keys = [image.key for image in images]
        if name in self.failures:
            return
        try:
            upsampler = self._upsampler(index)
            sr_NHWC, finite_N = upsampler.batch(lr_NHWC, keys)
            columns = self.measures.scores(sr_NHWC, reference)
            wanted = [metric for metric in self.job.row_metrics(entry) if metric in NOISE_METRICS]
            if wanted:
                hr_NHWC = reference.hr_NHWC
                provoked = diversity(upsampler, lr_NHWC, sr_NHWC, hr_NHWC, keys, self.job.config.diversity)
                columns |= {metric: provoked[metric] for metric in wanted}
        except InputError as error:
            self.failures[name] = str(error)
            return
        for number, key in enumerate(keys):
            row = {self.identities[metric]: float(values[number]) for metric, values in columns.items()}
            result.rows[key] = row if finite_N[number] else {NOT_FINITE: 1.0}
        if self.job.inception is not None and self.networks.inception is not None:
            features_ND = self.networks.inception.describe(unit_range(sr_NHWC))
            result.features.append(np.where(finite_N[:, None], features_ND, np.nan))

    def _upsampler(self, index: int) -> Upsampler:
        if index not in self._upsamplers:
            config, entry = self.job.config, self.job.roster[index]
            upsampler = self._open(entry, self.job.scale, config.tile_px, self.networks.device)
            if isinstance(upsampler, FolderUpsampler):
                upsampler.check([key for chunks in self.job.chunks.values() for chunk in chunks for key in chunk.keys])
            self._upsamplers[index] = upsampler
        return self._upsamplers[index]

    def _store(self, unit: Unit, results: dict[tuple[Kernel, int], _Result], real_features: list[np.ndarray]) -> None:
        inception = self.job.inception or ""
        if real_features:
            self.cache.write_features(REALS, self.job.cell(unit.chunk, "hr"), inception, np.concatenate(real_features))
        for (kernel, index), result in results.items():
            if len(result.rows) < len(unit.chunk.images):
                continue  # the model failed on the way
            sha, cell = self.job.roster[index].sha256, self.job.cell(unit.chunk, kernel)
            if result.features:
                self.cache.write_features(sha, cell, inception, np.concatenate(result.features))
            self.cache.write_rows(sha, cell, result.rows, self.job.code)


def open_entry(entry: Entry, scale: int, tile_px: int | None, device: str) -> Upsampler:
    """Loads a model of the roster."""
    if entry.weights is not None:
        return open_network_of(entry.model, entry.weights.path, scale, tile_px, device)
    return open_upsampler(entry.model, scale, tile_px=tile_px, device=device)


class _Result:
    """What one model got on one chunk under one degradation."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.features: list[np.ndarray] = []
