"""Shares the units of an evaluation among local processes; each takes the next one when it is free."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from evaluation.scores.work import Job, Unit
from harness.data.workers import deaf_to_interrupts
from harness.errors import EXIT_SAVED, TrainingError

PIXELS_A_PROCESS = 4_000_000
"""HR pixels x models that are worth a process: a small network takes about as long for them as a process for its
imports."""
_WORKER = None
"""This process's worker, where the process is one of the pool."""


def sensible_processes(units: Sequence[Unit], most: int) -> int:
    """How many processes, at least 1 and at most `most`, have so much to do that they are worth their start."""
    return max(1, min(most, sum(unit.num_pixels for unit in units) // PIXELS_A_PROCESS))


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
        TrainingError: a process was killed (memory?); what was measured before is kept.
    """
    total, done = sum(unit.num_images for unit in units), 0
    failures: dict[str, str] = {}
    threads = max(1, (os.cpu_count() or 1) // num_workers)
    context = multiprocessing.get_context("spawn")
    place = context.Value("i", 0)
    pool = ProcessPoolExecutor(num_workers, context, _start, (job, dataset, str(cache_dir), threads, place))
    try:
        with deaf_to_interrupts():
            waiting = {pool.submit(_run, unit): unit for unit in units}
        for future in as_completed(waiting):
            failures |= future.result()
            done += waiting[future].num_images
            if progress:
                progress(done, total)
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    except BrokenProcessPool:
        raise TrainingError(
            "a process of the evaluation was killed (out of memory?); run it again with fewer workers: it continues."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return failures


def _start(job: Job, dataset: str, cache_dir: str, threads: int, next_place: Synchronized[int]) -> None:
    import torch

    from evaluation.scores.cells import ScoreCache
    from evaluation.scores.device import take_device
    from evaluation.scores.images import DatasetImages
    from evaluation.scores.networks import Networks
    from evaluation.scores.work import Worker

    global _WORKER
    torch.set_num_threads(threads)
    with next_place:
        place, next_place.value = next_place.value, next_place.value + 1
    networks = Networks(job.located, take_device(job.config.device, place))
    _WORKER = Worker(job, DatasetImages(dataset), ScoreCache(Path(cache_dir)), networks)


def _stop(*_: object) -> None:
    """Leaves the unit that is being measured, cleaning up, and begins no other."""
    global _WORKER
    _WORKER = None
    sys.exit(EXIT_SAVED)


def _run(unit: Unit) -> dict[str, str]:
    # Not when the process starts, where there is nothing to clean up and the pool would print the exit's traceback.
    signal.signal(signal.SIGTERM, _stop)
    if _WORKER is None:
        sys.exit(EXIT_SAVED)
    return _WORKER.run(unit)
