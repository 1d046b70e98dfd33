"""Stopping on a signal: a handler only sets a flag, and all ranks agree on it at a step boundary."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from harness.errors import EXIT_SAVED

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
AGREE_EVERY_S = 1.0
"""Seconds between two agreements."""


@contextmanager
def leaving_unstarted() -> Iterator[None]:
    """Within, and until a `StopFlag` takes over, a stop signal ends the process with 75: there is nothing to save yet.

    Torch's import alone takes seconds, in which a signal would else be a death.
    """

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        name = signal.Signals(number).name
        print(f"{name} before training had begun; the same command begins it.", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_SAVED)

    before = {number: signal.signal(number, leave) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopFlag:
    """Set by SIGTERM, SIGINT or SIGUSR2; a second SIGINT leaves at once.

    SIGCONT, which SLURM sends along with SIGTERM, is left alone.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        """The first one that came, and when."""
        self.received_at: float | None = None
        self._was_interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Replaces the handlers of the stop signals (submitit's among them)."""
        self._before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}

    def restore(self) -> None:
        """Puts the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def is_set(self) -> bool:
        return self.signal_name is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._was_interrupted:
            os._exit(130)
        self._was_interrupted |= number == signal.SIGINT
        if self.signal_name is None:
            self.signal_name, self.received_at = signal.Signals(number).name, time.time()


class StopAgreement:
    """Tells all ranks at the same step that one of them was asked to stop.

    One rank looks at its flag after each step. Several ranks agree through a reduction about once a second:
    each agreement also carries the slowest rank's step time, from which every rank computes the same next one, so
    that no collective runs in the steps between.
    """

    def __init__(self, flag: StopFlag, world_size: int, largest: Callable[[list[float]], list[float]]) -> None:
        self._flag = flag
        self._world_size = world_size
        self._largest = largest
        self._next_step = 0
        self._last_step = math.inf
        self._last_time = 0.0

    def reached(self, step: int) -> bool:
        """Whether to save and leave now, the same answer on every rank; `step` is the number of steps done."""
        if self._world_size == 1:
            return self._flag.is_set
        is_first = step < self._last_step  # of all, or after a roll back
        if not is_first and step < self._next_step:
            return False
        # Of a first one no step's time is known yet, so the next comes after one step.
        step_s = AGREE_EVERY_S if is_first else (time.monotonic() - self._last_time) / max(1, step - self._last_step)
        stop, slowest_s = self._largest([float(self._flag.is_set), step_s])
        self._last_step, self._last_time = step, time.monotonic()
        self._next_step = step + max(1, min(1000, int(AGREE_EVERY_S / max(slowest_s, 1e-6))))
        return bool(stop)
