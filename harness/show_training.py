"""Shows on the terminal how a training goes, read from the files that it writes for everybody."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.screen import say

if TYPE_CHECKING:
    from rich.console import Console

Status = dict[str, Any]
_POLL_S = 0.5
_LINE_EVERY_S = 30.0


@contextmanager
def shown_training(console: Console, out: Path) -> Iterator[None]:
    """A bar of the run in `out` while the body trains it; a line every half minute where there is no terminal.

    It reads `status.json` in a thread of its own, so the training loop waits for nothing.
    """
    over, file = threading.Event(), out / "status.json"
    earlier = _read(file)  # of a start before this one
    thread = threading.Thread(target=_follow, args=(console, file, earlier, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)


def _follow(console: Console, status_file: Path, last: Status, over: threading.Event) -> None:
    show = _bar if console.is_terminal else _lines
    with show(console) as shown:
        while not over.wait(_POLL_S):
            status = _read(status_file)
            if status and status != last:
                shown(last := status)


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[Status], None]]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn("line"), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"))
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("starting", total=None, now="")

        def shown(status: Status) -> None:
            step, total = status.get("step", 0), status.get("total_steps")
            bar.update(
                task, description=status.get("phase") or "starting", completed=step, total=total, now=_now(status)
            )

        yield shown


@contextmanager
def _lines(console: Console) -> Iterator[Callable[[Status], None]]:
    told_at = float("-inf")

    def shown(status: Status) -> None:
        nonlocal told_at
        if status.get("steps_per_s") and time.monotonic() - told_at > _LINE_EVERY_S:
            told_at = time.monotonic()
            say(console, f"{status.get('phase')}: {_now(status)}")

    yield shown


def _now(status: Status) -> str:
    """`1,200 / 3,000 · 15.0 steps/s · 2 min left`, as far as it is known; by the speed of the phase that runs."""
    step, total, speed = status.get("step", 0), status.get("total_steps"), status.get("steps_per_s")
    if not total or not speed:
        return f"{step:,} / {total:,}" if total else ""
    left_s = (total - step) / speed
    left = f"{left_s:.0f} s" if left_s < 90 else f"{left_s / 60:.0f} min" if left_s < 5400 else f"{left_s / 3600:.1f} h"
    return f"{step:,} / {total:,} · {speed:.1f} steps/s · {left} left"


def _read(status_file: Path) -> Status:
    try:
        status = json.loads(status_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
