"""Shows plans and states: rich tables and a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import (
    Console,
    ConsoleOptions,
    Group,
    JustifyMethod,
    OverflowMethod,
    RenderableType,
    RenderResult,
)
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from harness.screen import counted, say
from sweeps.apply import Changes
from sweeps.ledger import Ledger
from sweeps.plan import Plan
from sweeps.status import Row, SweepStatus

_STYLE = {"done": "green", "running": "cyan", "queued": "blue", "saved": "yellow", "failed": "red", "waiting": "dim"}
MAX_LIVE_LINES = 40


def print_plan(console: Console, plan: Plan) -> None:
    """The table of runs, the graph of phases, what sharing saves, and what is not there to plan by."""
    axes = list(dict.fromkeys(axis for run in plan.runs for axis in run.axes))
    runs = Table(title=f"{plan.sweep}: {counted(len(plan.runs), 'run')}", title_justify="left")
    for head in ("run", *axes, "phases"):
        runs.add_column(Text(head))
    for run in plan.runs:
        runs.add_row(*map(Text, [run.name, *(run.axes.get(axis, "") for axis in axes), " > ".join(run.phases)]))
    phases = Table("phase", "after", "iterations", "runs", title="phases", title_justify="left")
    for phase in plan.phases.values():
        phases.add_row(phase.key, phase.parent or "", f"{phase.iterations:,}", str(len(phase.runs)))
    runs.title_style = phases.title_style = "bold"
    console.print(runs, phases, sep="\n")
    console.print(savings(plan))
    for reason in plan.missing.values():
        say(console, f"note: {reason} Until then the keys of the phases that read it are provisional.")


def savings(plan: Plan) -> str:
    """What training shared phases once saves, in one sentence."""
    parts = f"{counted(len(plan.runs), 'run')}, {counted(len(plan.phases), 'phase')}"
    spent = f"{plan.iterations:,} iterations"
    if plan.iterations == plan.iterations_alone:
        return f"{parts}: {spent}; no phase is shared."
    saved = plan.iterations_alone - plan.iterations
    return (
        f"{parts}: {spent} instead of {plan.iterations_alone:,}; "
        f"sharing phases saves {saved:,} ({plan.saved_fraction:.1%})."
    )


def print_changes(console: Console, changes: Changes, cancels_gone: bool = False) -> None:
    """What is new, changed and gone against the last plan of this sweep; a hint unless what was before is cancelled."""
    if not (changes.kept or changes.changed or changes.gone):
        return
    for word, names in (("new", changes.new), ("changed", changes.changed), ("gone", changes.gone)):
        if names:
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            console.print(f"{word}: {shown}", markup=False)
    if (changes.gone or changes.changed) and not cancels_gone:
        hint = "phases that left the file are left alone; the same command with --cancel-gone stops them"
        console.print(hint, markup=False, soft_wrap=True)


def status_view(status: SweepStatus, max_lines: int | None = None) -> RenderableType:
    """The table of runs with a progress bar below; where not all fit into `max_lines`, running and failed runs stay."""
    bar = Table.grid("", Column(overflow="fold"), padding=(0, 1))
    bar.add_row(ProgressBar(status.steps_total, status.steps_done, width=40), summary(status))
    warnings = (Text(f"warning: {warning}", style="yellow") for warning in status.warnings)
    return Group(_RunTable(status, max_lines), bar, *warnings)


class _RunTable:
    """A row a run. Where the terminal is too narrow, the least telling columns go; names are folded, no number cut.

    Where not even what is left fits into a table, it is a line a run, wrapped.
    """

    def __init__(self, status: SweepStatus, max_lines: int | None) -> None:
        self._title = status.sweep
        self._rows = status.rows
        self._max_lines = max_lines
        self._cells = [_cells(row) for row in status.rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(options.max_width)
        if sum(width + 3 for width in widths.values()) >= options.max_width:
            yield from self._lines(widths, options.max_width)
            return
        table = Table(title=self._title, title_justify="left", title_style="bold")
        for number, width in widths.items():
            head, justify = _COLUMNS[number]
            folds = head == "run"
            overflow: OverflowMethod = "fold" if folds else "ellipsis"
            table.add_column(head, justify=justify, no_wrap=not folds, overflow=overflow, width=width)
        places = self._places_that_fit([-(-cells[0].cell_len // widths[0]) for cells in self._cells])
        for place in places:
            style = "dim" if self._rows[place].state == "done" else ""
            table.add_row(*(self._cells[place][number] for number in widths), style=style)
        yield table
        yield from self._rest(places)

    def _lines(self, columns: Iterable[int], width: int) -> Iterator[Text]:
        lines = [Text("  ").join(cells[number] for number in columns if cells[number]) for cells in self._cells]
        places = self._places_that_fit([-(-line.cell_len // width) for line in lines])
        yield Text(self._title, style="bold")
        yield from (lines[place] for place in places)
        yield from self._rest(places)

    def _rest(self, places: list[int]) -> Iterator[Text]:
        if len(places) < len(self._rows):
            yield Text(f"and {len(self._rows) - len(places)} more runs")

    def _widths(self, available: int) -> dict[int, int]:
        """Number of each column that is shown -> its width in characters; a column costs three more."""
        full = {number: self._full_width(number) for number in range(len(_COLUMNS))}
        widths = {number: min(width, _LEAST.get(_COLUMNS[number][0], width)) for number, width in full.items()}
        for head in _FIRST_TO_GO:
            if sum(width + 3 for width in widths.values()) < available:
                break
            widths.pop(next(number for number in widths if _COLUMNS[number][0] == head))
        spare = available - 1 - sum(width + 3 for width in widths.values())
        widths[0] = min(widths[0], max(_NARROWEST_NAME, widths[0] + spare))
        for number in widths:  # of those that can have more, the name comes first
            more = min(full[number] - widths[number], max(spare, 0))
            widths[number] += more
            spare -= more
        return widths

    def _full_width(self, number: int) -> int:
        return max([len(_COLUMNS[number][0]), *(cells[number].cell_len for cells in self._cells)])

    def _places_that_fit(self, lines_of_each: list[int]) -> list[int]:
        """Places of the rows that are shown, in their order."""
        if self._max_lines is None:
            return list(range(len(self._rows)))
        return _most_telling(self._rows, max(1, self._max_lines // max(lines_of_each)))


_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("run", "left"),
    ("state", "left"),
    ("phase", "left"),
    ("step", "right"),
    ("steps/s", "right"),
    ("time left", "right"),
    ("saves", "right"),
    ("val PSNR", "right"),
    ("nodes", "left"),
)
_FIRST_TO_GO = ("saves", "nodes", "val PSNR", "steps/s", "phase", "time left")
# Of names, interruptions (one kind) and lists of nodes so many characters have to fit; the rest is shown where there is
# room.
_LEAST = {"run": 20, "state": len("running, preempted 12x"), "nodes": 12}
_NARROWEST_NAME = 8


def _cells(row: Row) -> list[Text]:
    return [
        Text(row.run),
        Text(", ".join([row.state, *_interruptions(row)]), style=_STYLE[row.state]),
        Text(row.phase),
        Text(f"{row.step:,} / {row.total_steps:,}"),
        Text(f"{row.steps_per_s:.2f}" if row.steps_per_s else ""),
        Text(duration(row.left_s) if row.left_s is not None else ""),
        Text(f"every {row.save_every:,}" if row.save_every else ""),
        Text(f"{row.val_psnr:.2f}" if row.val_psnr is not None else ""),
        Text(row.nodes),
    ]


def _interruptions(row: Row) -> list[str]:
    """What a run has been through: preempted by SLURM, and started again for any other reason."""
    other = row.starts_again - row.preempted
    words = [f"preempted {row.preempted}x"] if row.preempted else []
    return words + ([f"restarted {other}x"] if other > 0 else [])


def _most_telling(rows: list[Row], most: int) -> list[int]:
    """Places of the rows that tell most, in their order."""
    order = {"running": 0, "failed": 1, "saved": 2, "queued": 3, "waiting": 4, "done": 5}
    return sorted(sorted(range(len(rows)), key=lambda place: (order[rows[place].state], place))[:most])


def summary(status: SweepStatus) -> str:
    """The states counted and the share of the work that is done, in one line."""
    states = ", ".join(f"{count} {state}" for state, count in status.counts.items())
    return f"{status.steps_done / status.steps_total:.0%} of {status.steps_total:,} iterations; {states}"


def ledger_line(ledger: Ledger) -> str:
    """Where the compute went, in one line: hours (of little, minutes) times ranks."""
    parts = {"useful": "useful", "replayed": "replayed", "starting up": "starting", "lost": "lost", "queued": "queued"}
    hours = {word: getattr(ledger, f"{name}_h") for word, name in parts.items()}
    unit, factor = ("hours", 1) if sum(hours.values()) >= 1 else ("minutes", 60)
    shown = ", ".join(f"{value * factor:,.1f} {word}" for word, value in hours.items())
    return f"{'GPU' if ledger.on_gpu else 'CPU'}-{unit}: {shown}"


def plain_line(row: Row) -> str:
    """A row as one line, with the reason where it failed or waits, for outputs that are not a terminal."""
    run, state, *more = (cell.plain for cell in _cells(row))
    return "  ".join(word for word in (run, f"{state}: {row.why}" if row.why else state, *more) if word)


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 20 s`, `5 h 07 min` or `2 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
