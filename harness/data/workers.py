"""Running a function over many items in this process or in several, as results come."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from harness.errors import InputError

Run = Callable[..., Iterator[Any]]


def num_workers(wanted: int | None) -> int:
    """The number of processes: as many as cores that this one may use, unless given.

    Raises:
        InputError: less than one.
    """
    if wanted is not None and wanted < 1:
        raise InputError(f"--workers {wanted} is too few; give at least 1, or leave it out to take every core.")
    return wanted or len(os.sched_getaffinity(0))


@contextmanager
def pool(workers: int, num_jobs: int | None = None) -> Iterator[Run]:
    """Yields `run(function, items) -> results in the order in which they are done`.

    Workers are started afresh, not forked: a fork would copy the caller's threads' locks. Ctrl-C is the caller's alone:
    a worker ends what it has begun, and is given nothing more.
    """
    workers = min(workers, num_jobs) if num_jobs is not None else workers
    if workers <= 1:
        yield lambda function, items: map(function, items)
        return
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))

    def run(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        with deaf_to_interrupts():  # workers are started here, and inherit it
            futures = [executor.submit(function, item) for item in items]
        for future in as_completed(futures):
            yield future.result()

    try:
        yield run
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started here leave Ctrl-C to this one, which answers one that comes meanwhile afterwards."""
    resource_tracker.ensure_running()  # it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
