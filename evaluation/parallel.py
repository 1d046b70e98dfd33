"""Shares the units of an evaluation among local processes; each takes the next one when it is free."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from evaluation.work import Job, Unit

_WORKER = None
"""This process's worker, where the process is one of the pool."""


def run_units(
    units: Sequence[Unit],
    job: Job,
    dataset: str,
    cache_dir: Path,
    num_workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """Measures the units with `num_workers` processes; returns the models that failed, with the reason.

    Raises:
        RuntimeError: a process was killed (memory?); what was measured before is kept.
    """
    total, done = sum(unit.num_images for unit in units), 0
    failures: dict[str, str] = {}
    threads = max(1, (os.cpu_count() or 1) // num_workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, _start, (job, dataset, str(cache_dir), threads))
    try:
        waiting = {pool.submit(_run, unit): unit for unit in units}
        for future in as_completed(waiting):
            failures |= future.result()
            done += waiting[future].num_images
            if progress:
                progress(done, total)
    except BrokenProcessPool:
        raise RuntimeError(
            "a process of the evaluation was killed (out of memory?); run it again with fewer workers: it continues."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return failures


def _start(job: Job, dataset: str, cache_dir: str, threads: int) -> None:
    import torch

    from evaluation.cells import ScoreCache
    from evaluation.device import device_named
    from evaluation.images import DatasetImages
    from evaluation.networks import Networks
    from evaluation.work import Worker

    global _WORKER
    torch.set_num_threads(threads)
    networks = Networks(job.located, device_named(job.config.device))
    _WORKER = Worker(job, DatasetImages(dataset), ScoreCache(Path(cache_dir)), networks)


def _run(unit: Unit) -> dict[str, str]:
    assert _WORKER is not None, "the pool starts its processes with _start"
    return _WORKER.run(unit)
