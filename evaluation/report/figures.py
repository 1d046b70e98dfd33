"""A grid as a picture: the heat map of a matrix, and a table, as PNG on white.

Drawn with Pillow: a matrix of 100 x 100 cells takes about a second, which a plotting library does not manage.
"""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from evaluation.report.fonts import HOW_TO_DRAW, font_of, is_drawable
from evaluation.report.formats import legend
from evaluation.report.grid import BEST, SECOND, Entry, Grid

_INK, _FAINT, _PAPER = "#1c2530", "#5d6a78", "#ffffff"
_WORST, _NEAR_BEST = (251, 252, 253), (178, 209, 237)
_BEST, _APART, _EMPTY = "#8fd3a0", "#f1f1ee", "#fafafa"
_MIN_WIDTH_PX, _MAX_WIDTH_PX, _PX_PER_EM = 1230, 11_700, 22.0
"""Fonts come in whole pixels, so the width met is off by a per cent or two; the promise is 1,200 to 12,000."""
_MAX_SLANTED_COLUMNS = 12
_MAX_NAME_CHARACTERS = 48

# Lengths in em: the height of the text in the cells.
_MARGIN, _ROW, _PADDING, _GAP, _RULE = 1.8, 2.9, 0.9, 0.9, 0.16
_TITLE_SIZE, _CAPTION_SIZE, _SMALL_SIZE, _FOOT_LINE = 1.35, 0.95, 0.8, 1.35


def write_png(grid: Grid, path: Path) -> None:
    """Writes a grid as a PNG, at least 1,200 px wide: shades per row, best green, own class framed."""
    facts = PngInfo()
    facts.add_text("Title", grid.title.encode("latin-1", "replace").decode("latin-1"))
    draw_grid(grid).save(path, "PNG", pnginfo=facts, compress_level=6)


def draw_grid(grid: Grid) -> Image.Image:
    """The grid as an RGB image, sized to its texts; of names longer than a line the middle is left out."""
    grid = _with_short_names(grid)
    layout = _Layout(grid, _PX_PER_EM)
    wanted_px = min(max(layout.width, _MIN_WIDTH_PX), _MAX_WIDTH_PX)
    em_px = _PX_PER_EM * wanted_px / layout.width
    canvas = _Canvas(_Layout(grid, em_px))
    canvas.titles(grid)
    canvas.heads(grid)
    for row in range(len(grid.lines)):
        canvas.line(grid, row)
    canvas.footnotes()
    return canvas.image


def _with_short_names(grid: Grid) -> Grid:
    heads = tuple(replace(head, title=_short(head.title)) for head in grid.heads)
    lines = tuple(replace(line, heads=tuple(map(_short, line.heads))) for line in grid.lines)
    return replace(grid, heads=heads, lines=lines)


def _short(name: str) -> str:
    half = _MAX_NAME_CHARACTERS // 2
    return name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[:half]}…{name[-half:]}"


class _Layout:
    """Where everything lies, in pixels from the top left corner."""

    def __init__(self, grid: Grid, em_px: float) -> None:
        self.em = em_px
        self.slanted = len(grid.heads) > _MAX_SLANTED_COLUMNS
        self.head_texts = [_head_text(head.group, head.title, not self.slanted) for head in grid.heads]
        self.corner_widths = [
            self._wide([title, *(line.heads[i] for line in grid.lines)]) for i, title in enumerate(grid.corner)
        ]
        self.column_widths = self._columns(grid)
        self.lefts = self._lefts(grid)
        self.top = self._top()
        self.width = max(self.lefts[-1], self._texts_end(grid)) + _MARGIN * em_px
        characters = int((self.width / em_px - 2 * _MARGIN) / (_SMALL_SIZE * 0.58))
        self.foot_lines = [part for text in _foot_texts(grid) for part in textwrap.wrap(text, max(characters, 20))]
        self.tops = self._tops(grid)
        self.height = self.tops[-1] + (0.6 + _FOOT_LINE * len(self.foot_lines) + _MARGIN) * em_px

    def font(self, text: str, size_em: float = 1.0, style: str = "") -> ImageFont.FreeTypeFont:
        return font_of(text, max(6, round(size_em * self.em)), style)

    def _wide(self, texts: list[str]) -> float:
        lengths = [self.font(line, style="-Bold").getlength(line) for text in texts for line in text.split("\n")]
        return max(lengths) + 2 * _PADDING * self.em

    def _columns(self, grid: Grid) -> list[float]:
        """Models share one width; what stands apart takes what it needs."""
        needed = []
        for column, text in enumerate(self.head_texts):
            entries = [line.entries[column] for line in grid.lines]
            heads = [] if self.slanted else [text]
            needed.append(self._wide([*(entry.text + entry.mark for entry in entries), *heads]))
        together = max([w for w, head in zip(needed, grid.heads) if not (head.apart or head.is_text)], default=0.0)
        return [w if head.apart or head.is_text else together for w, head in zip(needed, grid.heads)]

    def _lefts(self, grid: Grid) -> list[float]:
        lefts = [_MARGIN * self.em + sum(self.corner_widths)]
        for column, width in enumerate(self.column_widths):
            if column and grid.heads[column].apart and not grid.heads[column - 1].apart:
                lefts[-1] += _GAP * self.em
            lefts.append(lefts[-1] + width)
        return lefts

    def _top(self) -> float:
        lines = max([text.count("\n") + 1 for text in self.head_texts], default=1)
        longest = max([self.font(text).getlength(text) for text in self.head_texts if self.slanted], default=0.0)
        heads = longest + self.em if self.slanted else lines * 1.25 * self.em + 0.9 * self.em
        return (_MARGIN + 3.9) * self.em + heads

    def _texts_end(self, grid: Grid) -> float:
        title = self.font(grid.title, _TITLE_SIZE, "-Bold").getlength(grid.title)
        return _MARGIN * self.em + min(title, 60 * self.em)

    def _tops(self, grid: Grid) -> list[float]:
        tops = [self.top]
        for row, line in enumerate(grid.lines):
            if row and line.apart and not grid.lines[row - 1].apart:
                tops[-1] += _GAP * self.em
            tops.append(tops[-1] + _ROW * self.em)
        return tops

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a cell."""
        left, top = self.lefts[column], self.tops[row]
        return left, top, left + self.column_widths[column], top + _ROW * self.em


def _head_text(group: str, title: str, may_break: bool) -> str:
    if not may_break:
        return f"{title} ({group})" if group else title
    broken = "\n".join(textwrap.wrap(title, 14, break_long_words=False)) if len(title) > 14 else title
    return f"{broken}\n({group})" if group else broken


def _foot_texts(grid: Grid) -> list[str]:
    marks = legend(grid, "green", "underlined", "framed")
    notes = [*filter(None, [marks]), *(f"{mark}  {text}" for mark, text in grid.footnotes)]
    names = [*grid.corner, *(head.title for head in grid.heads), *(name for line in grid.lines for name in line.heads)]
    return notes if all(map(is_drawable, [grid.title, *names, *notes])) else [*notes, HOW_TO_DRAW]


class _Canvas:
    """The image while it is drawn."""

    def __init__(self, layout: _Layout) -> None:
        self.layout = layout
        self.image = Image.new("RGB", (round(layout.width), round(layout.height)), _PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def titles(self, grid: Grid) -> None:
        layout, em = self.layout, self.layout.em
        left = _MARGIN * em
        characters = int((layout.width - 2 * left) / (_CAPTION_SIZE * em * 0.58))
        caption = "\n".join(textwrap.wrap(grid.caption, max(20, characters))[:2])
        self._draw.text((left, _MARGIN * em), grid.title, _INK, layout.font(grid.title, _TITLE_SIZE, "-Bold"))
        self._draw.multiline_text((left, (_MARGIN + 2.0) * em), caption, _FAINT, layout.font(caption, _CAPTION_SIZE))

    def heads(self, grid: Grid) -> None:
        layout, em = self.layout, self.layout.em
        base = layout.top - 0.5 * em
        left = _MARGIN * em + 0.3 * em
        for title, width in zip(grid.corner, layout.corner_widths):
            self._draw.text((left, base), title, _FAINT, layout.font(title), anchor="ld")
            left += width
        for column, head in enumerate(grid.heads):
            middle = layout.lefts[column] + layout.column_widths[column] / 2
            text = layout.head_texts[column]
            font = layout.font(text, style="-Oblique" if head.apart else "")
            if layout.slanted:
                self._upright(text, font, middle, base)
            else:
                self._draw.multiline_text((middle, base), text, _INK, font, anchor="md", align="center")

    def _upright(self, text: str, font: ImageFont.FreeTypeFont, middle: float, base: float) -> None:
        """Text that runs upwards."""
        left, top, right, bottom = font.getbbox(text)
        word = Image.new("RGB", (round(right - left), round(bottom - top)), _PAPER)
        ImageDraw.Draw(word).text((-left, -top), text, _INK, font)
        turned = word.rotate(90, expand=True)
        self.image.paste(turned, (round(middle - turned.width / 2), round(base - turned.height)))

    def line(self, grid: Grid, row: int) -> None:
        layout, line = self.layout, grid.lines[row]
        left = (_MARGIN + 0.3) * layout.em
        middle = layout.tops[row] + _ROW * layout.em / 2
        style = "-Oblique" if line.apart else ""
        for text, width in zip(line.heads, layout.corner_widths):
            font = layout.font(text, style=style)
            self._draw.text((left, middle), text, _INK, font, anchor="lm")
            left += width
        for column, entry in enumerate(line.entries):
            if entry.text:
                self._cell(entry, grid.heads[column].apart, layout.box(row, column))

    def _cell(self, entry: Entry, apart: bool, box: tuple[float, float, float, float]) -> None:
        layout, em = self.layout, self.layout.em
        left, top, right, bottom = box
        rule = max(1.0, _RULE * em)
        inner = (left + rule / 2, top + rule / 2, right - rule / 2, bottom - rule / 2)
        frame = _INK if entry.own else None
        self._draw.rectangle(inner, _fill(entry, apart), frame, width=max(2, round(0.15 * em)) if entry.own else 0)
        x, y = (left + right) / 2, (top + bottom) / 2
        font = layout.font(entry.text, style="-Bold" if entry.rank == BEST else "")
        self._draw.text((x, y), entry.text, _FAINT if apart or entry.value is None else _INK, font, anchor="mm")
        if entry.rank == SECOND:
            half = font.getlength(entry.text) / 2
            self._draw.line((x - half, y + 0.72 * em, x + half, y + 0.72 * em), _INK, max(1, round(0.08 * em)))
        if entry.mark:
            place = (right - 0.4 * em, top + 0.3 * em)
            self._draw.text(place, entry.mark, _FAINT, layout.font(entry.mark, 0.7), anchor="rt")

    def footnotes(self) -> None:
        layout, em = self.layout, self.layout.em
        y = layout.tops[-1] + 0.8 * em
        for text in layout.foot_lines:
            self._draw.text(((_MARGIN + 0.3) * em, y), text, _FAINT, layout.font(text, _SMALL_SIZE))
            y += _FOOT_LINE * em


def _fill(entry: Entry, apart: bool) -> str | tuple[int, ...]:
    if entry.rank == BEST:
        return _BEST
    if apart:
        return _APART
    if entry.shade is None:
        return _EMPTY
    return tuple(round(low + (high - low) * entry.shade) for low, high in zip(_WORST, _NEAR_BEST))
