"""A grid as a picture: the heat map of a matrix, and a table, as PNG."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evaluation.formats import legend
from evaluation.grid import BEST, SECOND, Entry, Grid

_INK, _FAINT, _PAPER = "#1c2530", "#5d6a78", "#ffffff"
_WORST, _NEAR_BEST = (0.985, 0.988, 0.992), (0.70, 0.82, 0.93)
_BEST, _APART, _EMPTY = "#8fd3a0", "#f1f1ee", "#fafafa"
_ROW_INCH, _CHAR_INCH, _GAP_INCH = 0.42, 0.092, 0.14
_DPI, _MAX_WIDTH_PX, _MIN_WIDTH_PX = 150, 6000, 1200


def write_png(grid: Grid, path: Path) -> None:
    """Writes a grid as a PNG at least 1,200 px wide on white: shades per row, best green, own class framed."""
    figure = draw_grid(grid)
    width_inch = figure.get_size_inches()[0]
    figure.set_dpi(min(max(_DPI, _MIN_WIDTH_PX / width_inch), _MAX_WIDTH_PX / width_inch))
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Title": grid.title})


def draw_grid(grid: Grid) -> Figure:
    """The grid as a matplotlib figure, sized to its texts."""
    layout = _Layout(grid)
    figure = Figure(figsize=(layout.width, layout.height), facecolor=_PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, layout.width)
    axes.set_ylim(layout.height, 0)
    axes.axis("off")
    _draw_titles(axes, grid, layout)
    _draw_heads(axes, grid, layout)
    for row in range(len(grid.lines)):
        _draw_line(axes, grid, layout, row)
    _draw_frames(axes, grid, layout)
    _draw_footnotes(axes, grid, layout)
    return figure


class _Layout:
    """Where everything lies, in inches from the top left corner."""

    margin = 0.25

    def __init__(self, grid: Grid) -> None:
        self.slanted = len(grid.heads) > 12
        self.corner_widths = [
            _text_inch([title, *(line.heads[i] for line in grid.lines)]) for i, title in enumerate(grid.corner)
        ]
        self.column_widths = [self._column_width(grid, column) for column in range(len(grid.heads))]
        self.lefts = self._lefts(grid)
        longest = max([len(_head_text(head.group, head.title)) for head in grid.heads], default=0)
        self.head_inch = 0.2 + longest * 0.075 if self.slanted else 0.46
        self.title_inch = 0.72
        self.top = self.margin + self.title_inch + self.head_inch
        self.width = max(self.lefts[-1] + self.margin, 5.0)
        self.foot_lines = _wrap(_foot_lines(grid), int((self.width - 2 * self.margin) / 0.068))
        self.tops = self._tops(grid)
        self.height = self.tops[-1] + 0.12 + 0.19 * len(self.foot_lines) + self.margin

    def _column_width(self, grid: Grid, column: int) -> float:
        texts = [line.entries[column].text + line.entries[column].mark for line in grid.lines]
        if not self.slanted:
            texts += _head_text(grid.heads[column].group, grid.heads[column].title).split("\n")
        return _text_inch(texts)

    def _lefts(self, grid: Grid) -> list[float]:
        lefts = [self.margin + sum(self.corner_widths)]
        for column, width in enumerate(self.column_widths):
            if column and grid.heads[column].apart and not grid.heads[column - 1].apart:
                lefts[-1] += _GAP_INCH
            lefts.append(lefts[-1] + width)
        return lefts

    def _tops(self, grid: Grid) -> list[float]:
        tops = [self.top]
        for row, line in enumerate(grid.lines):
            if row and line.apart and not grid.lines[row - 1].apart:
                tops[-1] += _GAP_INCH
            tops.append(tops[-1] + _ROW_INCH)
        return tops

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        return self.lefts[column], self.tops[row], self.column_widths[column], _ROW_INCH


def _text_inch(texts: list[str]) -> float:
    return max(map(len, texts)) * _CHAR_INCH + 0.26


def _head_text(group: str, title: str) -> str:
    return f"{title}\n({group})" if group else "\n".join(title.split(" ", 1)) if len(title) > 12 else title


def _foot_lines(grid: Grid) -> list[str]:
    marks = legend(grid, "green", "underlined", "framed")
    return ([marks] if marks else []) + [f"{mark}  {text}" for mark, text in grid.footnotes]


def _wrap(lines: list[str], width: int) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, max(width, 20))]


def _draw_titles(axes: Axes, grid: Grid, layout: _Layout) -> None:
    axes.text(layout.margin, 0.34, grid.title, fontsize=13, fontweight="bold", color=_INK, va="center")
    axes.text(layout.margin, 0.62, grid.caption, fontsize=9.5, color=_FAINT, va="center")


def _draw_heads(axes: Axes, grid: Grid, layout: _Layout) -> None:
    base = layout.top - 0.1
    left = layout.margin
    for title, width in zip(grid.corner, layout.corner_widths):
        axes.text(left + 0.06, base, title, fontsize=10, color=_FAINT, va="bottom")
        left += width
    for column, head in enumerate(grid.heads):
        x = layout.lefts[column] + layout.column_widths[column] / 2
        style = "italic" if head.apart else "normal"
        text = _head_text(head.group, head.title)
        rotation = 90 if layout.slanted else 0
        axes.text(
            x,
            base,
            text,
            fontsize=10,
            color=_INK,
            ha="center",
            va="bottom",
            style=style,
            rotation=rotation,
            parse_math=False,
        )


def _draw_line(axes: Axes, grid: Grid, layout: _Layout, row: int) -> None:
    line = grid.lines[row]
    middle = layout.tops[row] + _ROW_INCH / 2
    left = layout.margin
    for text, width in zip(line.heads, layout.corner_widths):
        style = "italic" if line.apart else "normal"
        axes.text(left + 0.06, middle, text, fontsize=10, color=_INK, va="center", style=style, parse_math=False)
        left += width
    for column, entry in enumerate(line.entries):
        if entry.text:
            _draw_entry(axes, entry, grid.heads[column].apart, layout.box(row, column))


def _draw_entry(axes: Axes, entry: Entry, apart: bool, box: tuple[float, float, float, float]) -> None:
    left, top, width, height = box
    axes.add_patch(
        Rectangle((left, top), width, height, facecolor=_fill(entry, apart), edgecolor=_PAPER, linewidth=1.5)
    )
    x, y = left + width / 2, top + height / 2
    weight = "bold" if entry.rank == BEST else "normal"
    colour = _FAINT if apart or entry.value is None else _INK
    axes.text(x, y, entry.text, fontsize=10, color=colour, ha="center", va="center", fontweight=weight)
    if entry.rank == SECOND:
        half = len(entry.text) * 0.038
        axes.plot([x - half, x + half], [y + 0.105] * 2, color=_INK, linewidth=1)
    if entry.mark:
        axes.text(left + width - 0.05, top + 0.06, entry.mark, fontsize=7, color=_FAINT, ha="right", va="top")


def _fill(entry: Entry, apart: bool) -> object:
    if entry.rank == BEST:
        return _BEST
    if apart:
        return _APART
    if entry.shade is None:
        return _EMPTY
    return tuple(low + (high - low) * entry.shade for low, high in zip(_WORST, _NEAR_BEST))


def _draw_frames(axes: Axes, grid: Grid, layout: _Layout) -> None:
    for row, line in enumerate(grid.lines):
        for column, entry in enumerate(line.entries):
            if entry.own:
                left, top, width, height = layout.box(row, column)
                axes.add_patch(
                    Rectangle(
                        (left + 0.02, top + 0.02),
                        width - 0.04,
                        height - 0.04,
                        fill=False,
                        edgecolor=_INK,
                        linewidth=1.8,
                    )
                )


def _draw_footnotes(axes: Axes, grid: Grid, layout: _Layout) -> None:
    y = layout.tops[-1] + 0.22
    for text in layout.foot_lines:
        axes.text(layout.margin + 0.06, y, text, fontsize=8, color=_FAINT, va="center", parse_math=False)
        y += 0.19
