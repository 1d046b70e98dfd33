"""A grid in the terminal, with rich; marks do not rely on colour alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.metrics import METRICS, NOISE_METRICS
from evaluation.report.compare import Comparison
from evaluation.report.facts_grids import compare_grid
from evaluation.report.formats import legend
from evaluation.report.grid import BEST, SECOND, Entry, Grid, Line
from evaluation.report.matrix import Matrix
from evaluation.report.matrix_grid import baseline_summary, diagonal_summary, matrix_grid
from evaluation.report.sentences import sentence


def print_matrix(console: Console, matrix: Matrix) -> None:
    """Prints a matrix, cut into blocks of columns where the terminal is too narrow for it, and what it shows.

    Nobody wins by what noise does to the outputs.
    """
    print_grid(console, matrix_grid(matrix))
    judged = matrix.metric.name not in NOISE_METRICS
    for text in filter(None, [diagonal_summary(matrix), *baseline_summary(matrix)] if judged else []):
        console.print(Text(text))


def print_comparisons(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Prints the comparisons of each measure as a table, and each in words."""
    for name in dict.fromkeys(comparison.metric for comparison in comparisons):
        of_metric = [comparison for comparison in comparisons if comparison.metric == name]
        print_grid(console, compare_grid(of_metric, METRICS[name].label))
        for comparison in of_metric:
            console.print(Text(sentence(comparison)))


def print_grid(console: Console, grid: Grid) -> None:
    """Prints any grid with its legend and footnotes."""
    console.print(Text.assemble((grid.title, "bold"), f" ({grid.caption})" if grid.caption else ""))
    for first, last in _blocks(grid, console.width):
        console.print(_table(grid, first, last, console.width))
    marks = legend(grid, "green and *", "underlined", "[brackets]")
    if marks:
        console.print(Text(marks, style="dim"))
    for mark, text in grid.footnotes:
        console.print(Text(f"{mark}  {text}", style="dim"))


def _blocks(grid: Grid, width: int) -> Iterator[tuple[int, int]]:
    heads = _heads_width(grid, width)
    first, used = 0, heads
    for number in range(len(grid.heads)):
        wide = _column_width(grid, number, width) + 3
        if number > first and used + wide > width:
            yield first, number
            first, used = number, heads
        used += wide
    yield first, len(grid.heads)


def _heads_width(grid: Grid, width: int) -> int:
    """What the columns of heads and the table's edge take."""
    return 1 + sum(wide + 3 for wide in _head_widths(grid, width))


def _head_widths(grid: Grid, width: int) -> list[int]:
    """The columns of heads as wide as their longest text, but together at most half of the terminal."""
    columns = ([title, *(line.heads[i] for line in grid.lines)] for i, title in enumerate(grid.corner))
    most = max(8, width // 2 // len(grid.corner) - 3)
    return [min(most, max(map(cell_len, column))) for column in columns]


def _column_width(grid: Grid, column: int, width: int) -> int:
    """As wide as its longest number, or as a word of its title up to a third of the terminal."""
    words = grid.heads[column].title.split() or [""]
    title = min(width // 3, max(map(cell_len, words)))
    return max([title, *(_text(line.entries[column]).cell_len for line in grid.lines)])


def _table(grid: Grid, first: int, last: int, width: int) -> Table:
    wide = (max(cell_len(grid.heads[i].title), _column_width(grid, i, width)) + 3 for i in range(first, last))
    narrow = _heads_width(grid, width) + sum(wide) > width
    table = Table(show_edge=True)
    for title, head_width in zip(grid.corner, _head_widths(grid, width)):
        table.add_column(Text(title), width=head_width, overflow="fold")
    for number, head in enumerate(grid.heads[first:last], first):
        title = f"{head.title}\n{head.group}" if head.group else head.title
        # A title may wrap, a number never: left alone, rich would take from all columns alike.
        table.add_column(
            Text(title, style="italic" if head.apart else ""),
            justify="right",
            vertical="bottom",
            width=_column_width(grid, number, width) if narrow else None,
            overflow="fold",
        )
    for number, line in enumerate(grid.lines):
        table.add_row(*map(Text, line.heads), *_cells(grid, line, first, last), end_section=_ends(grid, number))
    return table


def _ends(grid: Grid, number: int) -> bool:
    return number + 1 < len(grid.lines) and grid.lines[number + 1].apart != grid.lines[number].apart


def _cells(grid: Grid, line: Line, first: int, last: int) -> Iterator[Text]:
    for entry, head in zip(line.entries[first:last], grid.heads[first:last]):
        text = _text(entry)
        if head.apart and not entry.rank:
            text.stylize("italic")
        yield text


def _text(entry: Entry) -> Text:
    style = {BEST: "bold green", SECOND: "underline"}.get(entry.rank, "")
    text = Text(entry.text, style=style, no_wrap=True)
    if entry.rank == BEST:
        text.append("*")
    if entry.own:
        text = Text("[", no_wrap=True) + text + Text("]")
    if entry.mark:
        text.append(" " + entry.mark, style="dim")
    return text
