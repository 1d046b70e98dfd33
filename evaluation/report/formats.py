"""A grid as Markdown and LaTeX, and numbers as CSV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from evaluation.report.grid import BEST, SECOND, Entry, Grid, Line
from harness.files import whole

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the head of a row these two would belong to the end of the row before
    "*": "{*}",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "−": r"$-$",
    "–": r"--",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "Δ": r"$\Delta$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
_LATEX_PACKAGES = "booktabs, colortbl, xcolor, graphicx"
_LINE_CHARACTERS = 66
"""About what fits into the text width of an article, two characters between columns included."""


def write_csv(frame: pd.DataFrame, path: Path, first: str) -> None:
    """Numbers in full precision; the first column is the index under the name `first`, absent numbers are empty."""
    with whole(path) as part:
        frame.to_csv(part, index_label=first, lineterminator="\n")


def legend(grid: Grid, best: str, second: str, own: str) -> str:
    """What the marks mean, in the words of a format; empty where nothing is marked."""
    marks = grid.marks
    parts = [f"{best}: best of the {grid.compared}"] if marks.best else []
    if marks.second:
        parts.append(f"{second}: second")
    if marks.own:
        parts.append(f"{own}: the model's own {grid.corner[0]}")
    return "; ".join(parts)


def markdown(grid: Grid) -> str:
    """A GitHub-flavoured Markdown table with its caption and footnotes."""
    heads = [*grid.corner, *(_group_title(head.group, head.title) for head in grid.heads)]
    rows = [heads, ["---"] * len(grid.corner) + ["---:"] * len(grid.heads)]
    rows += [[*map(_md, line.heads), *(_md_entry(entry) for entry in line.entries)] for line in grid.lines]
    rows[0] = [_md(text) for text in heads]
    marks = legend(grid, "**bold**", "<ins>underlined</ins>", "[brackets]")
    lines = [f"### {_md(grid.title)}", "", _md(grid.caption) + (f" ({marks})" if marks else "") + ".", ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if grid.footnotes:
        lines += [""] + [f"- <sup>{mark}</sup> {_md(text)}" for mark, text in grid.footnotes]
    return "\n".join(lines) + "\n"


def _group_title(group: str, title: str) -> str:
    return f"{title} ({group})" if group else title


def _md(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    for sign in "*_`[]":
        escaped = escaped.replace(sign, "\\" + sign)
    return escaped.replace("\n", " ")


def _md_entry(entry: Entry) -> str:
    text = _md(entry.text)
    if entry.rank == BEST:
        text = f"**{text}**"
    elif entry.rank == SECOND:
        text = f"<ins>{text}</ins>"
    text = f"\\[{text}\\]" if entry.own else text
    return text + (f" <sup>{entry.mark}</sup>" if entry.mark else "")


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands; characters outside Latin-1 become a question mark."""
    printable = "".join(_LATEX.get(sign, sign) for sign in text.replace("\n", " "))
    return printable.encode("latin-1", "replace").decode("latin-1")


def latex(grid: Grid) -> str:
    """A `table` environment; the comment in its first line names the packages that it needs."""
    columns = "l" * len(grid.corner) + "".join(_latex_columns(grid))
    body = [" & ".join(latex_escape(text) for text in [*grid.corner, *_latex_heads(grid)]) + r" \\", r"\midrule"]
    for number, line in enumerate(grid.lines):
        if line.apart and number and not grid.lines[number - 1].apart:
            body.append(r"\midrule")
        body.append(_latex_line(line))
    tabular = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
    if _is_wide(grid):
        tabular = [r"\resizebox{\textwidth}{!}{%", *tabular, "}"]
    return "\n".join(
        [
            f"% \\usepackage{{{_LATEX_PACKAGES.replace(' ', '')}}}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_caption(grid)}}}",
            *tabular,
            *_latex_footnotes(grid.footnotes),
            r"\end{table}",
            "",
        ]
    )


def _is_wide(grid: Grid) -> bool:
    columns = [[_group_title(head.group, head.title)] for head in grid.heads]
    for line in grid.lines:
        for column, entry in zip(columns, line.entries):
            column.append(entry.text + entry.mark)
    corners = [[title, *(line.heads[i] for line in grid.lines)] for i, title in enumerate(grid.corner)]
    return sum(max(map(len, texts)) + 2 for texts in [*corners, *columns]) > _LINE_CHARACTERS


def _latex_columns(grid: Grid) -> Iterable[str]:
    previous = False
    for head in grid.heads:
        yield r"@{\hspace{2em}}r" if head.apart and not previous else "r"
        previous = head.apart


def _latex_heads(grid: Grid) -> list[str]:
    return [_group_title(head.group, head.title) for head in grid.heads]


def _latex_caption(grid: Grid) -> str:
    marks = legend(grid, "green", "underlined", "framed")
    return latex_escape(f"{grid.title}: {grid.caption}" + (f" ({marks})" if marks else "") + ".")


def _latex_line(line: Line) -> str:
    return " & ".join([*map(latex_escape, line.heads), *(_latex_entry(entry) for entry in line.entries)]) + r" \\"


def _latex_entry(entry: Entry) -> str:
    text = latex_escape(entry.text)
    if entry.rank == BEST:
        text = rf"\textbf{{{text}}}"
    elif entry.rank == SECOND:
        text = rf"\underline{{{text}}}"
    if entry.own:
        text = rf"\fboxsep=1.5pt\fbox{{{text}}}"
    colour = r"\cellcolor{green!25}" if entry.rank == BEST else ""
    return colour + text + (rf"\textsuperscript{{{entry.mark}}}" if entry.mark else "")


def _latex_footnotes(footnotes: Iterable[tuple[str, str]]) -> list[str]:
    lines = [rf"\textsuperscript{{{mark}}}~{latex_escape(text.removesuffix('.'))}.\\" for mark, text in footnotes]
    return [r"\par\smallskip\footnotesize\raggedright", *lines] if lines else []
