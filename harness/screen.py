"""What every command shows things with: the console, a progress bar, a plain line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TimeRemainingColumn


_LOG_COLUMNS = 120


def prepare_streams() -> None:
    """Lets every text be written: a letter that a stream's encoding lacks is a `?`, a closed stream takes anything."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # as by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream.errors in ("strict", "surrogateescape"):  # the second in the locale C
            stream.reconfigure(errors="replace")


def make_console() -> Console:
    """The terminal's console; a log file has no width, so it gets that of COLUMNS, or one for whole tables."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console()
    columns = os.environ.get("COLUMNS", "")
    return Console(width=int(columns) if columns.isdecimal() and int(columns) else _LOG_COLUMNS)


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function of (done, total) that moves a bar; where the output is no terminal there is no bar."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

    # The spinner moves even where one step takes long, so a slow program does not look like a dead one.
    columns = (SpinnerColumn("line"), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _time_left())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _time_left() -> TimeRemainingColumn:
    from rich.progress import Task, TimeRemainingColumn
    from rich.text import Text

    class TimeLeft(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            known = task.time_remaining is not None
            return Text.assemble(super().render(task), (" left", "progress.remaining")) if known else Text("")

    return TimeLeft(compact=True)


@contextmanager
def still_working(console: Console, title: str) -> Iterator[None]:
    """Shows that something without countable steps goes on; where the output is no terminal nothing is shown."""
    if not console.is_terminal:
        yield
        return
    with console.status(title, spinner="line"):
        yield


def say(console: Console, text: str) -> None:
    """One line, as it is."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """`1 image`, `2,000 images`: a number with what it counts, for a noun that takes an s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shown_names(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more


def complain(text: str) -> None:
    """One line on the standard error stream."""
    print(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    """The text without what could command a terminal, which names out of files may hold."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
