"""Evaluates models on a dataset: measures what no cache holds yet, and gathers the score table.

Several processes share the work without talking to each other: every share of the units is a pure function of the
models, the configuration and the dataset, and the cache takes each result as a file of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS
from evaluation.model import Model
from evaluation.scores.assemble import Assembler
from evaluation.scores.cells import ScoreCache
from evaluation.scores.code_version import code_version
from evaluation.scores.device import take_device
from evaluation.scores.images import DatasetImages, ImageSource, conditions_of
from evaluation.scores.networks import Finder, Networks, locate
from evaluation.scores.parallel import run_units, sensible_processes
from evaluation.scores.roster import Entry, dataset_of, model_of, roster_of, scale_of
from evaluation.scores.table import ScoreTable, make_writable
from evaluation.scores.work import Job, Opener, Unit, Worker, all_units, still_missing
from evaluation.shares import CACHE_FOLDER

Progress = Callable[[int, int], None]


def evaluate(
    models: Sequence[Model],
    config: EvaluateConfig,
    out_dir: Path,
    progress: Progress | None = None,
    *,
    max_processes: int = 1,
    cache_dir: Path | None = None,
    source: ImageSource | None = None,
    find: Finder | None = None,
    opener: Opener | None = None,
) -> ScoreTable:
    """Scores every model (and those that the configuration names) on every condition; saves the table in `out_dir`.

    Only cells that the cache (`out_dir`/cache, or `cache_dir`, which several evaluations may share) does not hold are
    measured, so a killed evaluation continues. `progress` is called with images x models done and to do. Where the
    configuration does not say how many processes share the work, as many as it is worth do, at most `max_processes`.
    `source`, `find` and `opener` replace the dataset, the look-up of networks and the loading of models; with the last,
    the work stays in this process.

    Raises:
        InputError: nothing to evaluate, no dataset or scale, an unknown class, a damaged dataset; `out_dir` cannot be
            written. OSError: the disk is full; what was measured is kept.
    """
    job, source = plan(models, config, source, find)
    make_writable(out_dir)
    cache = ScoreCache(cache_dir or out_dir / CACHE_FOLDER)
    failures: dict[str, str] = {}
    units = [unit for unit in (still_missing(u, job, cache) for u in all_units(job)) if unit is not None]
    if units:
        networks = Networks(job.located, take_device(config.device))
        if len(networks.missing) > len(job.located.missing):
            job = _without(job, networks.missing)
            units = [unit for unit in (still_missing(u, job, cache) for u in all_units(job)) if unit is not None]
        num_workers = min(config.workers or sensible_processes(units, max_processes), len(units))
        if num_workers > 1 and opener is None:
            failures = run_units(units, job, source.path, cache.folder, num_workers, progress)
        else:
            failures = run_here(Worker(job, source, cache, networks, opener), units, progress)
    table = Assembler(job, cache, failures, job.located.missing).table()
    table.save(out_dir)
    return table


def plan(
    models: Sequence[Model], config: EvaluateConfig, source: ImageSource | None = None, find: Finder | None = None
) -> tuple[Job, ImageSource]:
    """Everything that decides the numbers, checked, before an image is read.

    Raises:
        InputError: see `evaluate`.
    """
    roster = [_one_degradation(entry, config) for entry in roster_of(with_others(models, config), config.latest)]
    source = source or DatasetImages(dataset_of(roster, config))
    located = locate(config.metrics, find)
    job = Job(
        roster=roster,
        config=config,
        scale=scale_of(roster, config),
        fingerprint=source.fingerprint,
        conditions=conditions_of(config, source),
        metrics=tuple(name for name in METRICS if name in config.metrics and name not in located.missing),
        located=located,
        code=code_version(),
    )
    job.add_chunks(source)
    return job, source


def run_here(worker: Worker, units: Sequence[Unit], progress: Progress | None = None) -> dict[str, str]:
    """Measures units in this process; returns the models that failed, with the reason."""
    total, done = sum(unit.num_images for unit in units), 0

    def tick(num_images: int) -> None:
        nonlocal done
        done += num_images
        if progress:
            progress(done, total)

    worker.tick = tick
    for unit in units:
        worker.run(unit)
    return worker.failures


def measure_share(
    models: Sequence[Model], config: EvaluateConfig, cache_dir: Path, share: int, num_shares: int
) -> dict[str, str]:
    """Measures what is missing of every `num_shares`-th unit; returns the models that failed.

    Raises:
        InputError: see `evaluate`.
    """
    job, source = plan(models, config)
    cache = ScoreCache(cache_dir)
    networks = Networks(job.located, take_device(config.device, int(os.environ.get("LOCAL_RANK", "0"))))
    job = _without(job, networks.missing)
    mine = (still_missing(unit, job, cache) for unit in all_units(job)[share::num_shares])
    return run_here(Worker(job, source, cache, networks), [unit for unit in mine if unit is not None])


class Remaining:
    """How much of an evaluation that others measure is still to come; made once, asked often."""

    def __init__(self, models: Sequence[Model], config: EvaluateConfig, cache_dir: Path) -> None:
        self._job, _ = plan(models, config)
        self._cache = ScoreCache(cache_dir)
        self._units = all_units(self._job)
        self.total = self.count()
        """Images x models that were missing at the start."""

    def count(self) -> int:
        """Images x models that no cache holds yet; a unit that was seen complete is not looked at again."""
        self._units = [unit for unit in (still_missing(u, self._job, self._cache) for u in self._units) if unit]
        return sum(unit.num_images for unit in self._units)


def _without(job: Job, missing: dict[str, str]) -> Job:
    """The job without the metrics whose network cannot be loaded."""
    located = replace(job.located, missing={**job.located.missing, **missing})
    return replace(job, metrics=tuple(m for m in job.metrics if m not in missing), located=located)


def with_others(models: Sequence[Model], config: EvaluateConfig) -> list[Model]:
    """The models and those that the configuration names; the baselines stay at the end."""
    others = [model_of(text) for text in config.models]
    first = [model for model in models if model.kind != "method"]
    return [*first, *others, *(model for model in models if model.kind == "method")]


def _one_degradation(entry: Entry, config: EvaluateConfig) -> Entry:
    if entry.model.kind == "folder" and len(config.kernels) > 1 and entry.failure is None:
        reason = (
            f"{entry.model.path}: finished images stand for one degradation, but {len(config.kernels)} are evaluated"
        )
        return replace(entry, failure=reason)
    return entry
