"""Running a function over many items in this process or in several, as results come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from harness.errors import InputError, TrainingError
from harness.process import num_usable_cores

Run = Callable[..., Iterator[Any]]


def num_workers(wanted: int | None) -> int:
    """The number of processes: as many as cores that this one may use, unless given.

    Raises:
        InputError: less than one.
    """
    if wanted is not None and wanted < 1:
        raise InputError(f"--workers {wanted} is too few; give at least 1, or leave it out to take every core.")
    return wanted or num_usable_cores()


@contextmanager
def pool(workers: int, num_jobs: int | None = None) -> Iterator[Run]:
    """Yields `run(function, items, chunk=1) -> results in the order in which they are done`.

    A worker is given `chunk` items at a time: handing over a single one takes a third of a millisecond of this process.
    Workers are started afresh, not forked: a fork would copy the caller's threads' locks. Ctrl-C is the caller's alone:
    a worker ends what it has begun, and is given nothing more.

    Raises:
        TrainingError: a worker was killed.
    """
    workers = min(workers, num_jobs) if num_jobs is not None else workers
    if workers <= 1:
        yield lambda function, items, chunk=1: map(function, items)
        return
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _leave_with_parent)

    def run(function: Callable[[Any], Any], items: Sequence[Any], chunk: int = 1) -> Iterator[Any]:
        parts = [items[first : first + chunk] for first in range(0, len(items), chunk)]
        with deaf_to_interrupts():  # workers are started here, and inherit it
            futures = [executor.submit(_each, function, part) for part in parts]
        for future in as_completed(futures):
            yield from future.result()

    try:
        yield run
    except BrokenProcessPool:
        raise TrainingError(
            "a worker was killed (out of memory?); run it again with fewer --workers: it continues."
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _leave_with_parent() -> None:
    """Has this worker end when its parent does, however that ends; else it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="leave with parent", daemon=True).start()


def _each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started here leave Ctrl-C to this one, which answers one that comes meanwhile afterwards."""
    resource_tracker.ensure_running()  # it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
