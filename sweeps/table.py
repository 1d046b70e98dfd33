"""Shows plans and states: rich tables and a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.apply import Changes
from sweeps.ledger import Ledger
from sweeps.plan import Plan
from sweeps.status import Row, SweepStatus

_STYLE = {"done": "green", "running": "cyan", "queued": "blue", "saved": "yellow", "failed": "red", "waiting": "dim"}
MAX_LIVE_ROWS = 40


def print_plan(console: Console, plan: Plan) -> None:
    """The table of runs, the graph of phases, and what sharing saves."""
    axes = list(dict.fromkeys(axis for run in plan.runs for axis in run.axes))
    runs = Table(title=f"{plan.sweep}: {_count(len(plan.runs), 'run')}", title_justify="left")
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


def savings(plan: Plan) -> str:
    """What training shared phases once saves, in one sentence."""
    parts = f"{_count(len(plan.runs), 'run')}, {_count(len(plan.phases), 'phase')}"
    spent = f"{plan.iterations:,} iterations"
    if plan.iterations == plan.iterations_alone:
        return f"{parts}: {spent}; no phase is shared."
    saved = plan.iterations_alone - plan.iterations
    return (
        f"{parts}: {spent} instead of {plan.iterations_alone:,}; "
        f"sharing phases saves {saved:,} ({plan.saved_fraction:.1%})."
    )


def print_changes(console: Console, changes: Changes) -> None:
    """What is new, changed and gone against the last plan of this sweep."""
    if not (changes.kept or changes.changed or changes.gone):
        return
    for word, names in (("new", changes.new), ("changed", changes.changed), ("gone", changes.gone)):
        if names:
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            console.print(f"{word}: {shown}", markup=False)
    if changes.gone:
        console.print("what left the file is left alone; the same command with --cancel-gone stops it", markup=False)


def status_view(status: SweepStatus, max_rows: int | None = None) -> RenderableType:
    """The table of runs with a progress bar below; with `max_rows`, running and failed runs come first."""
    rows = status.rows if max_rows is None else _most_telling(status.rows, max_rows)
    parts: list[RenderableType] = [_RunTable(status.sweep, rows)]
    if len(rows) < len(status.rows):
        parts.append(Text(f"and {len(status.rows) - len(rows)} more runs"))
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(status.steps_total, status.steps_done, width=40), summary(status))
    return Group(*parts, bar, *(Text(f"warning: {warning}", style="yellow") for warning in status.warnings))


class _RunTable:
    """A row a run. Where the terminal is too narrow, the least telling columns go, and no number is cut."""

    def __init__(self, title: str, rows: list[Row]) -> None:
        self._title = title
        self._rows = rows
        self._cells = [_cells(row) for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._columns_that_fit(options.max_width)
        table = Table(title=self._title, title_justify="left", title_style="bold")
        for number in shown:
            head, justify = _COLUMNS[number]
            wide = None if head in _MAY_BE_CUT else self._width(number)
            table.add_column(head, justify=justify, no_wrap=True, overflow="ellipsis", min_width=wide)
        for row, cells in zip(self._rows, self._cells):
            table.add_row(*(cells[number] for number in shown), style="" if row.state != "done" else "dim")
        yield table

    def _columns_that_fit(self, width: int) -> list[int]:
        shown = list(range(len(_COLUMNS)))
        for head in _FIRST_TO_GO:
            if sum(self._width(number) + 3 for number in shown) + 1 <= width:
                break
            shown.remove(next(number for number in shown if _COLUMNS[number][0] == head))
        return shown

    def _width(self, number: int) -> int:
        head = _COLUMNS[number][0]
        widest = max([len(head), *(len(cells[number].plain) for cells in self._cells)])
        return min(widest, _MAY_BE_CUT.get(head, widest))


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
_FIRST_TO_GO = ("saves", "nodes", "val PSNR", "steps/s", "phase")
# Of names, failures and lists of nodes so many characters have to fit; the rest is shown where there is room.
_MAY_BE_CUT = {"run": 24, "state": 12, "nodes": 12}


def _cells(row: Row) -> list[Text]:
    state = ", ".join([row.state, *_interruptions(row)])
    if row.error or row.note:
        state += f": {row.error or row.note}"
    return [
        Text(row.run),
        Text(state, style=_STYLE[row.state]),
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
    words = [f"preempted {_count(row.preempted, 'time')}"] if row.preempted else []
    return words + ([f"started again {other}x"] if other > 0 else [])


def _most_telling(rows: list[Row], max_rows: int) -> list[Row]:
    order = {"running": 0, "failed": 1, "saved": 2, "queued": 3, "waiting": 4, "done": 5}
    kept = sorted(range(len(rows)), key=lambda place: (order[rows[place].state], place))[:max_rows]
    return [rows[place] for place in sorted(kept)]


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
    """A row as one line, for outputs that are not a terminal."""
    return "  ".join(cell.plain for cell in _cells(row) if cell.plain)


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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
