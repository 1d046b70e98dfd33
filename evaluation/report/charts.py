"""A training curve as an inline SVG that follows the page's colours, light and dark."""

from __future__ import annotations

import io
import re

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from evaluation.report.curves import NUM_COLOURS, Curve, Series

_SIZE_INCH = (4.3, 2.5)
_LETTER_PT = 4.2
"""Width of a letter in the names of phases, which are 7 points high."""
_INK, _FAINT, _LINE = "#010203", "#040506", "#070809"
_CSS = {_INK: "var(--ink)", _FAINT: "var(--faint)", _LINE: "var(--line)"}
_CSS |= {f"#0a0b{number:02x}": f"var(--s{number})" for number in range(NUM_COLOURS)}
_MANY = "#0a0b00"
_ROUND = re.compile(r"(\d+\.\d{2})\d+")
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def chart_svg(curve: Curve, num_runs: int) -> str:
    """The curve as an `<svg>` element without script, font or reference to anything outside of it.

    Up to twelve runs have a colour each; more are drawn faintly in one.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": curve.key, "path.simplify_threshold": 0.3}):
        figure = Figure(figsize=_SIZE_INCH, frameon=False)
        axes = figure.add_axes((0.13, 0.16, 0.855, 0.74))
        for line in curve.series:
            _draw(axes, line, num_runs)
        _style(axes)
        _mark_phases(axes, curve)
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata=_NO_METADATA)
    return _inline(text.getvalue())


def _draw(axes: Axes, line: Series, num_runs: int) -> None:
    few = num_runs <= NUM_COLOURS
    colour = _FAINT if line.colour is None else f"#0a0b{line.colour:02x}" if few else _MANY
    marker = "o" if len(line.steps) <= 3 else ""
    width, strength = (1.6, 1.0) if few else (0.8, 0.4)
    axes.plot(line.steps, line.values, color=colour, linewidth=width, alpha=strength, marker=marker, markersize=3)


def _style(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_LINE)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_FAINT, labelsize=8, length=0)
    axes.set_xlabel("step", fontsize=8, color=_FAINT, labelpad=1)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    axes.yaxis.get_offset_text().set(color=_FAINT, fontsize=7)


def _mark_phases(axes: Axes, curve: Curve) -> None:
    """A line at each phase that begins within the chart, its name above it; names that would touch stand in steps."""
    low, high = axes.get_xlim()
    width_pt = 72 * _SIZE_INCH[0] * axes.get_position().width
    line, end_pt = 0, 0.0
    for name, step in curve.phases:
        if low < step < high and step > low + 0.06 * (high - low):
            start_pt = (step - low) / (high - low) * width_pt
            line = line + 1 if start_pt < end_pt else 0
            end_pt = start_pt + _LETTER_PT * len(name) + 4
            axes.axvline(step, color=_FAINT, linewidth=0.8, linestyle=(0, (3, 3)))
            axes.annotate(
                name,
                (step, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 1 + line * 8),
                textcoords="offset points",
                fontsize=7,
                color=_FAINT,
                va="bottom",
            )


def _inline(text: str) -> str:
    """The bare element: colours become the page's variables, the font the page's own, unused names go."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<g id=\"[^\"]*\">", "<g>", text)
    text = re.sub(r"<svg ", '<svg aria-hidden="true" focusable="false" ', text, count=1)
    text = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', lambda found: _ROUND.sub(r"\1", found[0]), text)
    for placeholder, css in _CSS.items():
        text = text.replace(placeholder, css)
    text = re.sub(r"font-family: [^;\"]*;", "", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<g id=\"[^\"]*\"/>", "", text)
    return re.sub(r"\n\s*", "\n", text)
