"""Reading ahead in threads, in an order that does not depend on them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Reader = TypeVar("Reader")
Item = TypeVar("Item")

_READY = 4
"""Items that each thread keeps ready."""


def read_ahead(
    new_reader: Callable[[], Reader],
    read: Callable[[Reader, int], Item],
    num_threads: int,
    stopped: threading.Event,
) -> Iterator[Item]:
    """Items 0, 1, 2, ... without an end: thread t of n reads t, t + n, t + 2 n, ...; the consumer takes them in turn.

    Args:
        new_reader: makes what a thread reads with; each has its own.
        read: gives the item of a number; what it raises, the consumer gets in that item's turn.
        stopped: set, it ends the threads.
    """
    queues: list[queue.Queue[Item | BaseException]] = [queue.Queue(_READY) for _ in range(num_threads)]
    left = threading.Event()

    def work(thread: int) -> None:
        reader = new_reader()
        number = thread
        while not (left.is_set() or stopped.is_set()):
            item: Item | BaseException
            try:
                item = read(reader, number)
            except BaseException as error:  # handed to the consumer, who raises it
                item = error
            while not (left.is_set() or stopped.is_set()):
                try:
                    queues[thread].put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            number += num_threads

    threads = [threading.Thread(target=work, args=(t,), name=f"read-{t}", daemon=True) for t in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        number = 0
        while True:
            item = queues[number % num_threads].get()
            if isinstance(item, BaseException):
                raise item
            yield item
            number += 1
    finally:
        left.set()
        for thread in threads:
            thread.join(timeout=5)
