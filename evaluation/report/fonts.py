"""Which font draws a text of a picture: DejaVu Sans, or an installed one that has what it lacks (漢字, 한글)."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

HOW_TO_DRAW = "A box is a sign that no font installed here has; install one that does (Noto Sans CJK, say)."
_REGULAR = 400
_BOXES_ALONE = "Last Resort"
"""A font, shipped with matplotlib, that has a box of its own kind for every sign there is."""


def font_of(text: str, size_px: int, style: str = "") -> ImageFont.FreeTypeFont:
    """The font for a text, which is drawn by one font as a whole; `style` ("-Bold") is kept where DejaVu draws it."""
    return _font(_file_of(text, style), size_px)


def is_drawable(text: str) -> bool:
    """Whether a font is installed that has every sign of the text; others are drawn as boxes."""
    return _codes(text) <= _signs(_file_of(text, ""))


@lru_cache(maxsize=64)
def _font(file: str, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size_px)


@lru_cache(maxsize=8192)
def _file_of(text: str, style: str) -> str:
    """The first font file that has all signs of the text: DejaVu, one that is installed, or else DejaVu after all."""
    usual = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{style}.ttf")
    codes = _codes(text)
    if codes <= _signs(usual):
        return usual
    return next((file for file in _installed() if codes <= _signs(file)), usual)


def _codes(text: str) -> set[int]:
    return {ord(sign) for sign in text if not sign.isspace()}


@cache
def _signs(file: str) -> frozenset[int]:
    """The code points that a font file has; none where it cannot be drawn with."""
    try:
        ImageFont.truetype(file, 20)
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _installed() -> tuple[str, ...]:
    """The font files that matplotlib finds, upright ones of regular weight first."""
    from matplotlib.font_manager import FontEntry, fontManager  # its first import looks through all fonts

    def place(font: FontEntry) -> tuple[bool, int, str]:
        weight = font.weight if isinstance(font.weight, int) else _REGULAR
        return font.style != "normal", abs(weight - _REGULAR), font.name

    fonts = [font for font in fontManager.ttflist if not font.name.startswith(_BOXES_ALONE)]
    return tuple(font.fname for font in sorted(fonts, key=place))
