"""CSV, Markdown, LaTeX, PNG and the terminal: the same numbers and marks everywhere."""

from __future__ import annotations

import io
import itertools
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageChops
from rich.console import Console

from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS
from evaluation.model import Model
from evaluation.report.compare import compare, pair_questions
from evaluation.report.exports import report_matrices, write_grid_files, write_matrix_files
from evaluation.report.facts_grids import compare_grid
from evaluation.report.figures import draw_grid
from evaluation.report.fonts import font_of, is_drawable
from evaluation.report.formats import latex, latex_escape, markdown
from evaluation.report.grid import BEST, SECOND, Entry, Grid, Head, Line
from evaluation.report.matrix import build_matrix, conditions_of
from evaluation.report.matrix_grid import matrix_grid
from evaluation.report.terminal import print_comparisons, print_grid, print_matrix
from evaluation.scores.table import SET_KEYS

GREEN = (143, 211, 160)


@pytest.fixture
def grid(table) -> Grid:
    table.missing["mountain", "beach", "psnr"] = "stale: the dataset was changed"
    return matrix_grid(build_matrix(table, METRICS["psnr"], conditions_of(table)))


def shown(grid: Grid, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_grid(console, grid)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_csv_has_the_class_first_then_a_column_a_model_in_full_precision(table, tmp_path):
    for named in report_matrices(table, EvaluateConfig()):
        write_matrix_files(named, tmp_path)
    text = (tmp_path / "matrix_psnr.csv").read_text()
    assert text.splitlines()[0] == "class,beach,mountain,general,bicubic"
    frame = pd.read_csv(tmp_path / "matrix_psnr.csv", index_col="class")
    assert frame.loc["mountain", "beach"] == pytest.approx(table.mean("beach", "mountain", "psnr"), rel=1e-14)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"matrix_{m}.{kind}" for m in ("mse", "psnr", "ssim") for kind in ("csv", "md", "tex", "png")}


def test_absent_numbers_are_empty_in_the_csv(table, tmp_path):
    table.missing["mountain", "beach", "psnr"] = "why"
    matrix = next(m for m in report_matrices(table, EvaluateConfig()) if m.stem == "matrix_psnr")
    write_matrix_files(matrix, tmp_path)
    assert re.match(r"beach,[0-9.]+,,[0-9.]+,[0-9.]+$", (tmp_path / "matrix_psnr.csv").read_text().splitlines()[1])


def test_several_degradations_give_a_matrix_each_and_one_over_degradations(table_maker):
    table = table_maker(kernels=("matlab-bicubic", "nearest"))
    stems = [named.stem for named in report_matrices(table, EvaluateConfig(report={"matrix_metrics": ["psnr"]}))]
    assert stems == ["degradations_psnr", "matrix_psnr", "matrix_psnr_test_nearest"]


def test_each_split_has_a_matrix_of_its_own_numbers(table):
    other = table.images.assign(split="val", condition="val/" + table.images["condition"])
    other["psnr"] += 1
    table.images = pd.concat([table.images.assign(condition="test/" + table.images["condition"]), other])
    table.conditions = [f"{split}/{name}" for split in ("test", "val") for name in table.conditions]
    named = report_matrices(table, EvaluateConfig(report={"matrix_metrics": ["psnr"]}))
    assert [each.stem for each in named] == ["matrix_psnr", "matrix_psnr_val_matlab-bicubic"]
    assert (named[1].matrix.values() - named[0].matrix.values()).to_numpy() == pytest.approx(np.ones((3, 4)))


def test_each_split_has_a_matrix_of_degradations_of_its_own_images(table_maker):
    table = table_maker(kernels=("matlab-bicubic", "nearest"))
    other = table.images.assign(split="val", psnr=table.images["psnr"] + 1)
    table.images = pd.concat(
        [each.assign(condition=each["split"] + "/" + each["condition"]) for each in (table.images, other)]
    )
    table.conditions = [f"{split}/{name}" for split in ("test", "val") for name in table.conditions]
    named = report_matrices(table, EvaluateConfig(report={"matrix_metrics": ["psnr"]}))
    first, second = named[:2]
    assert [first.stem, second.stem] == ["degradations_psnr", "degradations_psnr_val"]
    assert (second.matrix.values() - first.matrix.values()).to_numpy() == pytest.approx(np.ones((2, 4)))


def test_deviations_over_seeds_have_a_file_of_their_own(table_maker, tmp_path):
    models = [Model(f"beach-seed{n}", "checkpoint", "x", {"class": "beach", "seed": str(n)}, "beach") for n in range(3)]
    table = table_maker([*models, Model("bicubic", "method")])
    named = report_matrices(table, EvaluateConfig(report={"matrix_metrics": ["psnr"]}))[0]
    write_matrix_files(named, tmp_path)
    frame = pd.read_csv(tmp_path / "matrix_psnr_deviation.csv", index_col="class")
    expected = np.std([table.mean(model.name, "mountain", "psnr") for model in models], ddof=1)
    assert frame.loc["mountain", "beach"] == pytest.approx(expected) and frame["bicubic"].isna().all()


def test_pooled_row_is_shown_but_not_counted_twice_over_degradations(table_maker):
    table = table_maker(kernels=("matlab-bicubic", "nearest"))
    pooled = table.images["condition"].str.endswith("/general")
    table.images.loc[pooled, "image_class"] = np.resize(["beach", "mountain"], pooled.sum())  # as its images' are
    config = EvaluateConfig(pool="general", report={"matrix_metrics": ["psnr"]})
    degradations, classes, _ = report_matrices(table, config)
    assert "general" in classes.matrix.rows
    expected = np.mean([table.mean("beach", f"nearest/{name}", "psnr") for name in ("beach", "mountain")])
    assert degradations.matrix.cells[1][0].value == pytest.approx(expected)


def drawn(**marks) -> Image.Image:
    """A cell so marked, above cells that have every mark, so that size and legend are the same for all."""
    every = Entry("26.00", 26.0, BEST, own=True, mark="a"), Entry("25.00", 25.0, SECOND, shade=0.5)
    first = Entry(marks.pop("text", "25.31"), 25.31, **marks), Entry("24.00", 24.0)
    lines = (Line(("sea",), first), Line(("sand",), every))
    return draw_grid(Grid("PSNR", "in dB", ("class",), (Head("a"), Head("b")), lines, (("a", "why"),)))


@pytest.mark.parametrize("marks", [{"rank": SECOND}, {"rank": BEST}, {"own": True}, {"mark": "a"}, {"text": "25.38"}])
def test_every_mark_and_every_digit_of_a_cell_is_seen_in_the_picture(marks):
    plain, marked = drawn(), drawn(**marks)
    assert plain.size == marked.size and ImageChops.difference(plain, marked).getbbox()


def test_the_nearer_to_the_best_a_cell_is_the_darker_is_its_shade():
    levels = [np.mean(drawn(shade=shade)) for shade in (0.0, 0.5, 1.0)]
    assert levels[0] > levels[1] > levels[2]


def test_markdown_marks_best_second_and_own_and_escapes_names(grid):
    text = markdown(grid)
    row = next(line for line in text.splitlines() if line.startswith("| mountain"))
    best = grid.lines[1].entries[1].text
    assert f"\\[**{best}**\\]" in row and "<ins>" in row
    assert "| – <sup>a</sup> |" in text and "<sup>a</sup> stale: the dataset was changed" in text
    nasty = Grid("t", "c", ("a|b",), (Head("x|<y>*"),), (Line(("p|q",), (Entry("1"),)),))
    assert all(line.count("|") - line.count("\\|") == 3 for line in markdown(nasty).splitlines() if line[:1] == "|")
    assert "<y>" not in markdown(nasty)


def test_latex_and_markdown_hold_every_mark():
    heads = (Head("a"), Head("b"), Head("mean", apart=True), Head("a", apart=True, group="published"))
    first = (Entry("1", 1.0, BEST, own=True), Entry("2", 2.0, SECOND, mark="a"), Entry("1.5"), Entry("–"))
    second = (Entry("3", 3.0), Entry("4", 4.0, SECOND, own=True), Entry("3.5", mark="b"), Entry("0.9"))
    notes = (("a", "of 7 images"), ("b", "50% of them"))
    lines = (Line(("sea",), first), Line(("mean",), second, apart=True))
    grid = Grid("MSE", "levels", ("class",), heads, lines, notes, "column")
    assert latex(grid).splitlines()[1:] == [
        r"\begin{table}",
        r"\centering",
        r"\caption{MSE: levels (green: best of the column; underlined: second; framed: the model's own class).}",
        r"\begin{tabular}{lrr@{\hspace{2em}}rr}",
        r"\toprule",
        r"class & a & b & mean & a (published) \\",
        r"\midrule",
        r"sea & \cellcolor{green!25}\fboxsep=1.5pt\fbox{\textbf{1}} & \underline{2}\textsuperscript{a} & 1.5 & -- \\",
        r"\midrule",
        r"mean & 3 & \fboxsep=1.5pt\fbox{\underline{4}} & 3.5\textsuperscript{b} & 0.9 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize\raggedright",
        r"\textsuperscript{a}~of 7 images.\\",
        r"\textsuperscript{b}~50\% of them.\\",
        r"\end{table}",
    ]
    assert markdown(grid).splitlines() == [
        "### MSE",
        "",
        "levels (**bold**: best of the column; <ins>underlined</ins>: second; [brackets]: the model's own class).",
        "",
        "| class | a | b | mean | a (published) |",
        "| --- | ---: | ---: | ---: | ---: |",
        r"| sea | \[**1**\] | <ins>2</ins> <sup>a</sup> | 1.5 | – |",
        r"| mean | 3 | \[<ins>4</ins>\] | 3.5 <sup>b</sup> | 0.9 |",
        "",
        "- <sup>a</sup> of 7 images",
        "- <sup>b</sup> 50% of them",
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (Debian package texlive-latex-base)")
def test_latex_compiles_whatever_the_names_are(grid, tmp_path):
    nasty = "50%_#1 & {a}\\b ~^$ <x> | ± ∞ – é 漢 ↑"
    lines = tuple(replace(line, heads=(first + nasty,)) for line, first in zip(grid.lines, itertools.cycle("[*a")))
    heads = tuple(replace(head, title=nasty) for head in grid.heads)
    wide = tuple(replace(line, entries=line.entries * 3) for line in lines)
    grids = [grid, replace(grid, lines=lines, heads=heads, title=nasty), replace(grid, lines=wide, heads=heads * 3)]
    for number, each in enumerate(grids):
        write_grid_files(each, tmp_path, f"table{number}")
    packages = re.search(r"\\usepackage\{(.*)\}", latex(grid)).group(1)  # type: ignore[union-attr]
    inputs = "\n".join(rf"\input{{table{number}}}" for number in range(len(grids)))
    document = rf"\documentclass{{article}}\usepackage{{{packages}}}"
    (tmp_path / "main.tex").write_text(f"{document}\n\\begin{{document}}\n{inputs}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 1000


def test_wide_characters_take_the_room_that_they_need_in_a_terminal(grid):
    narrow = replace(grid, lines=tuple(replace(line, heads=("漢字漢字漢字漢字",)) for line in grid.lines))
    numbers = [entry.text for line in grid.lines for entry in line.entries if entry.text]
    assert all(number in shown(narrow, 44) for number in numbers)


def test_latex_escapes_every_special_sign():
    assert latex_escape("a_b & 5% {x} ^2 ~ \\ # $ [*") == (
        r"a\_b \& 5\% \{x\} \textasciicircum{}2 \textasciitilde{} \textbackslash{} \# \$ {[}{*}"
    )


def test_terminal_marks_do_not_rely_on_colour(grid):
    text = shown(grid)
    best = grid.lines[1].entries[1].text
    assert f"[{best}*]" in text
    assert "a  stale: the dataset was changed" in text
    assert "green and *: best of the row" in text


def test_narrow_terminal_gets_blocks_of_columns_that_fit_and_every_number(grid):
    text = shown(grid, 50)
    assert max(map(len, text.splitlines())) <= 50
    assert all(entry.text in text for line in grid.lines for entry in line.entries if entry.value is not None)
    assert text.count("mountain") >= 2 and text.count("class") >= 2


def test_wide_titles_take_no_room_from_numbers_in_a_narrow_terminal(table):
    comparisons = compare(table, METRICS["psnr"], pair_questions(table, conditions_of(table), [("beach", "general")]))
    grid = compare_grid(comparisons, "PSNR")
    text = shown(grid, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert len(comparisons) == 3
    assert all(entry.text in text for line in grid.lines for entry in line.entries)


@pytest.mark.parametrize("width", [50, 80, 120])
def test_names_of_any_length_take_no_room_from_numbers(table_maker, width):
    long = "a-class-of-which-the-name-is-a-whole-sentence-and-more-than-a-line-of-any-terminal-" * 2
    models = [Model(long, "checkpoint", "x", {}, long), Model("b", "checkpoint", "x"), Model("bicubic", "method")]
    table = table_maker(models, classes=(long, "sea"))
    grid = matrix_grid(build_matrix(table, METRICS["psnr"], conditions_of(table)))
    text = shown(replace(grid, footnotes=()), width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert all(entry.text in text for line in grid.lines for entry in line.entries if entry.value is not None)


def test_matrix_prints_its_summary(table):
    console = Console(width=120, file=io.StringIO())
    print_matrix(console, build_matrix(table, METRICS["psnr"], conditions_of(table)))
    assert "on 3 of 3 classes the best model is one that was made for it" in console.file.getvalue()  # type: ignore[attr-defined]


def test_nobody_wins_by_what_noise_does_to_the_outputs(table):
    rows = [
        {"model": m.name, "condition": c, "metric": "diversity", "value": float(i), "num_images": 8}
        for i, m in enumerate(table.models)
        for c in table.conditions
    ]
    table.sets = pd.DataFrame(rows, columns=list(SET_KEYS))
    console = Console(width=120, file=io.StringIO())
    print_matrix(console, build_matrix(table, METRICS["diversity"], conditions_of(table)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Diversity by class" in text and "By Diversity" not in text


def test_markup_in_names_is_printed_as_it_stands(table_maker):
    table = table_maker([Model("[red]x[/red]", "checkpoint", "x", {}, "beach"), Model("b", "checkpoint", "x")])
    text = shown(matrix_grid(build_matrix(table, METRICS["psnr"], conditions_of(table))))
    assert "[red]x[/red]" in text


def test_picture_is_wide_enough_and_has_a_green_cell_for_each_best(grid):
    image = draw_grid(grid)
    assert image.width >= 1200
    pixels = np.asarray(image)
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    green = (pixels == GREEN).all(axis=2)
    rows = np.flatnonzero(np.diff(np.r_[0, green.any(axis=1).astype(int), 0]) == 1)
    assert len(rows) == len(grid.lines)


def test_picture_grows_with_the_matrix_but_stays_within_bounds(grid):
    many = replace(
        grid,
        heads=grid.heads[:1] * 150,
        lines=tuple(replace(line, entries=line.entries[:1] * 150) for line in grid.lines),
    )
    image = draw_grid(many)
    assert 6000 < image.width <= 12_000


def test_picture_leaves_out_the_middle_of_names_longer_than_a_line(grid):
    name = "n" * 200
    named = [replace(line, heads=(name,)) for line in grid.lines]
    image = draw_grid(replace(grid, heads=tuple(replace(head, title=name) for head in grid.heads), lines=tuple(named)))
    assert image.width < 5000 and image.height > 300


def test_names_of_any_script_are_drawn_by_an_installed_font_that_has_them(grid):
    """STIX comes with matplotlib, and has a sign that DejaVu Sans lacks, as fonts for Chinese have."""
    assert font_of("beach", 20, "-Bold").getname() == ("DejaVu Sans", "Bold")
    assert font_of("k\u1d84", 20, "-Bold").getname()[0] == "STIXGeneral"
    assert is_drawable("k\u1d84") and not is_drawable(NOWHERE)
    assert ImageChops.difference(*map(draw_grid, (named(grid, "k\u1d84"), named(grid, "k\u1d85")))).getbbox()


def test_a_picture_says_once_that_a_name_cannot_be_drawn(grid):
    without, once = (draw_grid(named(grid, name)).height for name in ("abc", NOWHERE))
    twice = draw_grid(replace(named(grid, NOWHERE), title=NOWHERE)).height
    assert without < once == twice


NOWHERE = "\U0010fffd"
"""A sign that no font has."""


def named(grid: Grid, name: str) -> Grid:
    return replace(grid, lines=tuple(replace(line, heads=(name,)) for line in grid.lines))


def test_png_files_are_readable(grid, tmp_path):
    write_grid_files(grid, tmp_path, "x")
    with Image.open(tmp_path / "x.png") as image:
        assert image.format == "PNG" and image.info["Title"] == grid.title


def test_comparisons_are_printed_as_a_table_and_in_words(table):
    conditions = conditions_of(table)
    questions = pair_questions(table, conditions, [("beach", "bicubic")])
    console = Console(width=140, file=io.StringIO())
    print_comparisons(console, compare(table, METRICS["psnr"], questions, resamples=500))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("beach against bicubic") == 3 and "On mountain, model beach beats bicubic: its PSNR is" in text
