"""A figure of the data plane: measured on one core as the best of a few rounds, and shown in a table.

The best, because other work on a machine can only make a round slower.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from rich.table import Table

ROUNDS = 3


@dataclass(frozen=True)
class Figure:
    """A row of the table. `at_least` (or `at_most`) is the bar that the project sets itself."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


def table_of(figures: list[Figure]) -> Table:
    """The figures as a rich table."""
    from rich.table import Table

    table = Table(title="Data plane: one process, one core")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("unit")
    table.add_column("bar", justify="right")
    table.add_column("note")
    for figure in figures:
        bar = f">= {figure.at_least:,.0f}" if figure.at_least is not None else ""
        bar = f"<= {figure.at_most:,g}" if figure.at_most is not None else bar
        style = "red" if figure.passed is False else None
        digits = 0 if figure.value >= 100 else 2
        table.add_row(figure.name, f"{figure.value:,.{digits}f}", figure.unit, bar, figure.note, style=style)
    return table


class Clock:
    """The clock of all measurements."""

    now: Callable[[], float] = staticmethod(time.perf_counter)


def rate(step: Callable[[], object], items: int, seconds: float) -> float:
    """Items a second of the best round."""
    step()
    best = 0.0
    for _ in range(ROUNDS):
        count, start = 0, Clock.now()
        while (spent := Clock.now() - start) < seconds:
            step()
            count += 1
        best = max(best, count * items / spent)
    return best


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps this process on one core, and torch on one thread."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
