"""Shows a sweep while it runs: a live table on a terminal, a line per change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from harness.errors import EXIT_DONE, EXIT_WRONG_INPUT, InputError
from harness.screen import complain
from sweeps.control import find_sweep_folder
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.ledger import Ledger, sweep_ledger
from sweeps.plan import Plan, read_plan
from sweeps.queues import Queues
from sweeps.status import SweepStatus, sweep_status
from sweeps.table import MAX_LIVE_LINES, ledger_line, plain_line, status_view, summary

_REFRESH_S = 1.0
_SUMMARY_EVERY_S = 30.0
_MAX_LIVE_REASONS = 3


class Follower:
    """Shows a status that `read` gives, at most once a second. A context manager; call `show` as often as you like.

    On a terminal the ledger that `count` makes of it stands below.
    """

    def __init__(
        self, console: Console, read: Callable[[], SweepStatus], count: Callable[[SweepStatus], Ledger] | None = None
    ) -> None:
        self._console = console
        self._read = read
        self._count = count
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown_at = float("-inf")
        self._summary_at = time.monotonic()
        self._lines: dict[str, str] = {}

    def __enter__(self) -> Follower:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def refresh(self) -> None:
        """`show`, for who does not want the status."""
        self.show()

    def show(self) -> SweepStatus | None:
        """Reads and shows the status; None where the last one was shown less than a second ago."""
        now = time.monotonic()
        if now - self._shown_at < _REFRESH_S:
            return None
        status = self._read()
        if self._live:
            self._live.update(self._view(status), refresh=True)
        else:
            self._print_changes(status)
        # Reading the files of a thousand runs takes a while: never spend more than a fifth of the time on it.
        self._shown_at = time.monotonic() + 4 * (time.monotonic() - now)
        return status

    def _view(self, status: SweepStatus) -> RenderableType:
        why = [Text(line, no_wrap=True, overflow="ellipsis") for line in _first(reasons(status))]
        warnings = sum(-(-len(f"warning: {text}") // self._console.width) for text in status.warnings)
        table = status_view(status, max(5, min(MAX_LIVE_LINES, self._console.height - 9 - len(why) - warnings)))
        return Group(table, *why, *([] if self._count is None else [Text(ledger_line(self._count(status)))]))

    def _print_changes(self, status: SweepStatus) -> None:
        for row in status.rows:
            state = f"{row.state} {row.phase}"
            if self._lines.get(row.run, "waiting") != state and row.state in ("running", "failed", "done", "saved"):
                self._console.print(plain_line(row), markup=False, highlight=False, soft_wrap=True)
            self._lines[row.run] = state
        if time.monotonic() - self._summary_at > _SUMMARY_EVERY_S:
            self._summary_at = time.monotonic()
            self._console.print(summary(status), markup=False, highlight=False, soft_wrap=True)


def follower_of(folder: SweepFolder, plan: Plan, console: Console, queues: Queues) -> Follower:
    """Shows a plan's runs and its ledger."""
    return Follower(
        console,
        lambda: sweep_status(folder.runs, plan, queues),
        lambda status: sweep_ledger(folder.runs, plan, status.states),
    )


def follow_sweep(folder: SweepFolder, plan: Plan, console: Console, poll_s: float = 0.5) -> SweepStatus:
    """Shows a sweep until nothing of it runs or is queued any more; returns how it then stands."""
    queues = Queues()
    at_rest_since: float | None = None
    with follower_of(folder, plan, console, queues) as follower:
        while True:
            status = follower.show()
            if status is not None:
                # A job that is requeued may be in no list for a moment.
                at_rest_since = (at_rest_since or time.monotonic()) if status.is_at_rest else None
                if status.is_done or (at_rest_since and time.monotonic() - at_rest_since > 15):
                    return status
            time.sleep(poll_s)


def show_status(console: Console, status: SweepStatus, folder: SweepFolder, plan: Plan) -> None:
    """The table of runs and, below it, where the compute went."""
    console.print(status_view(status))
    for line in reasons(status):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(ledger_line(sweep_ledger(folder.runs, plan, status.states)), markup=False, soft_wrap=True)


def reasons(status: SweepStatus) -> list[str]:
    """Why runs failed, or could go on and do not, in full; the table has no room for it. Each reason once."""
    runs: dict[tuple[str, str], list[str]] = {}
    for row in status.rows:
        if row.why:
            runs.setdefault((row.state, row.why), []).append(row.run)
    return [f"{_first_of(names)} {state}: {why}" for (state, why), names in runs.items()]


def _first(found: list[str]) -> list[str]:
    """As many of the reasons as a live table has room for, and how many there are besides."""
    more = len(found) - _MAX_LIVE_REASONS
    return found[:_MAX_LIVE_REASONS] + ([f"and {more} more reasons"] if more > 0 else [])


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def print_status(runs_dir: str | Path, name: str | None, *, watch: bool, console: Console, poll_s: float = 0.5) -> int:
    """Shows every sweep under a runs folder, or the one called `name`; with `watch`, until nothing of it runs any more.

    Raises:
        InputError: there is no such sweep.
    """
    folders = [find_sweep_folder(runs_dir, name)] if name or watch else list(RunsFolder(Path(runs_dir)).sweeps())
    if not folders:
        raise InputError(f"{runs_dir}: holds no sweep; start one with `harness sweep`.")
    code = EXIT_DONE
    for folder in folders:
        try:
            plan = read_plan(folder.plan)
        except InputError as error:
            if len(folders) == 1:
                raise
            complain(f"error: {error}")  # the others are shown all the same
            code = EXIT_WRONG_INPUT
            continue
        status = follow_sweep(folder, plan, console, poll_s) if watch else sweep_status(folder.runs, plan, Queues())
        show_status(console, status, folder, plan)
    return code
