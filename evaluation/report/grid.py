"""A table as it is shown: texts, ranks, frames and footnotes, before it becomes Markdown, LaTeX, HTML, PNG or rich.

Every format is written from the same grid, so no two of them can disagree about a number or a mark.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

BEST, SECOND = 1, 2


@dataclass(frozen=True)
class Entry:
    """One cell. `shade` is 0 for the row's worst and 1 for its best value, None where nothing is compared."""

    text: str
    value: float | None = None
    rank: int = 0
    own: bool = False
    shade: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Head:
    """A column's heading; columns set `apart` (baselines, means, published figures) take no part in the ranking."""

    title: str
    apart: bool = False
    group: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Line:
    """One row: its headings, its cells, and whether it is set apart (a row of means)."""

    heads: tuple[str, ...]
    entries: tuple[Entry, ...]
    apart: bool = False


@dataclass(frozen=True)
class Marks:
    """The marks that occur in a grid."""

    best: bool
    second: bool
    own: bool
    shade: bool


@dataclass(frozen=True)
class Grid:
    """A whole table. `corner` names the heading columns; `footnotes` are pairs of a mark and its text."""

    title: str
    caption: str
    corner: tuple[str, ...]
    heads: tuple[Head, ...]
    lines: tuple[Line, ...]
    footnotes: tuple[tuple[str, str], ...] = ()
    compared: str = "row"
    """Within what the ranks are given: the row of a matrix, the column of a table."""

    @property
    def marks(self) -> Marks:
        """Which marks the grid uses, for its legend."""
        entries = [entry for line in self.lines for entry in line.entries]
        return Marks(
            best=any(entry.rank == BEST for entry in entries),
            second=any(entry.rank == SECOND for entry in entries),
            own=any(entry.own for entry in entries),
            shade=any(entry.shade is not None for entry in entries),
        )


class Footnotes:
    """Gives each different remark one mark (a, b, ... z, aa, ...), in the order of first use."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, text: str) -> str:
        """The mark of a remark; empty for an empty remark."""
        if not text:
            return ""
        if text not in self._marks:
            self._marks[text] = _letters(len(self._marks))
        return self._marks[text]

    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((mark, text) for text, mark in self._marks.items())


def _letters(number: int) -> str:
    letters = string.ascii_lowercase
    return letters[number] if number < 26 else _letters(number // 26 - 1) + letters[number % 26]


def show_number(value: float | None, digits: int, deviation: float | None = None) -> str:
    """A value with its digits, with ± its deviation where there is one; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}"
    return text if deviation is None else f"{text} ± {deviation:.{digits}f}"


def rank_values(values: Sequence[float | None], higher_is_better: bool, digits: int) -> list[int]:
    """BEST for the best values, SECOND for the next, 0 for the rest; None takes no part.

    Values that look alike at the digits shown rank alike, as in figure 9 of Specialized SR-GAN. Where several are
    best there is no second.
    """
    shown = [None if value is None or math.isnan(value) else _rounded(value, digits) for value in values]
    distinct = sorted({value for value in shown if value is not None}, reverse=higher_is_better)
    if len(distinct) < 2 and sum(value is not None for value in shown) < 2:
        return [0] * len(shown)
    second = distinct[1] if len(distinct) > 1 and shown.count(distinct[0]) == 1 else None
    return [0 if v is None else BEST if v == distinct[0] else SECOND if v == second else 0 for v in shown]


def shades(values: Sequence[float | None], higher_is_better: bool) -> list[float | None]:
    """Each value's place between the worst (0) and the best (1) of its row; None where there is nothing to compare."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < 2 or max(finite) == min(finite):
        return [None] * len(values)
    low, high = min(finite), max(finite)
    places = [None if v is None or not math.isfinite(v) else (v - low) / (high - low) for v in values]
    return [place if place is None or higher_is_better else 1 - place for place in places]


def _rounded(value: float, digits: int) -> float:
    return round(value, digits) if math.isfinite(value) else value
