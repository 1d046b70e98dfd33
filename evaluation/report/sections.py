"""The report's sections, each made from one kind of result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS
from evaluation.report.charts import chart_svg
from evaluation.report.compare import Comparison
from evaluation.report.curves import NUM_COLOURS, Curve, text_alternative
from evaluation.report.exports import NamedMatrix
from evaluation.report.facts_grids import compare_grid, ledger_grid, models_grid, runs_grid
from evaluation.report.grid import Grid
from evaluation.report.page import Section
from evaluation.report.picture_source import PictureSource, open_picture_source
from evaluation.report.sentences import sentence
from evaluation.report.sign_flips import undecidable
from evaluation.report.strips import report_strips
from evaluation.scores.table import ScoreTable
from evaluation.scores.versions import data_facts, versions
from harness.errors import InputError

HOW_COMPARED = (
    "Both models are scored on the same images. p is the share of ways to turn the signs of the images' differences "
    "that take their mean at least as far from zero (paired sign-flip test); the interval holds the differences that "
    "this test does not reject. Fewer than six images decide nothing and bound nothing. The p-values of one measure "
    "are corrected together by Holm's procedure; the intervals are not, so one may leave out zero where nothing is "
    "decided. The image is the unit, and tiles of one count as one; what another training seed would give is not "
    "covered. Of models trained with several, the pairs of seeds are counted in which the first is better."
)
HOW_SHOWN = (
    "Crops are enlarged pixel by pixel, without smoothing. A frame marks the model that was made for the class. The "
    "image is the median one, so the strips show what is usual; the numbers under them belong to the whole image."
)
UNUSUAL_PSNR = (
    "SupeRAuGAN's PSNR lies above 50 dB, where its SSIM of 0.7 to 0.8 cannot be: rounding to 8 bits alone limits PSNR "
    "to 58.9 dB. Its authors' formula doubles PSNR, differences included; the note below its table says what the "
    "figures are on the usual scale."
)


@dataclass(frozen=True)
class Answer:
    """The comparisons of one measure, as a table and in words."""

    grid: Grid
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """A chart as it stands on the page."""

    title: str
    alt: str
    svg: Markup


@dataclass(frozen=True)
class Curves:
    """The legend (name and CSS colour) and the charts."""

    series: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Reproduction:
    """What one needs to do it again."""

    commands: tuple[str, ...]
    facts: Mapping[str, str]
    versions: Mapping[str, str]
    files: Mapping[str, str]


def matrix_section(named: Sequence[NamedMatrix], grids: Sequence[Grid], published: Sequence[Grid] = ()) -> Section:
    """All matrices that have a number, then a published one; why the others have none is among the page's warnings."""
    shown = (*(grid for item, grid in zip(named, grids) if not item.matrix.is_empty), *published)
    intro = () if shown else ("No measure has a number, for the reasons above.",)
    return Section("matrices", "Matrices", intro=intro, grids=shown)


def table_section(grids: Sequence[Grid]) -> list[Section]:
    """Tables over the sweep's axes, and published ones."""
    intro = (UNUSUAL_PSNR,) if any("SupeRAuGAN" in grid.title + grid.caption for grid in grids) else ()
    return [Section("tables", "Tables", intro=intro, grids=tuple(grids))] if grids else []


def compare_section(comparisons: Sequence[Comparison], resamples: int, remarks: Sequence[str] = ()) -> list[Section]:
    """A table for each measure, and every comparison as a sentence; `remarks` say what could not be compared."""
    if not comparisons and not remarks:
        return []
    answers = []
    intro = [HOW_COMPARED, *_undecidable(comparisons, resamples)] if comparisons else []
    intro += remarks
    for name in dict.fromkeys(comparison.metric for comparison in comparisons):
        of_metric = [comparison for comparison in comparisons if comparison.metric == name]
        grid = compare_grid(of_metric, f"{METRICS[name].label}: specialised against general")
        answers.append(Answer(grid, tuple(map(sentence, of_metric))))
    return [Section("comparisons", "Comparisons", "compare.html.j2", tuple(intro), content=tuple(answers))]


def _undecidable(comparisons: Sequence[Comparison], resamples: int) -> list[str]:
    """What no scores could decide, because the images or the resamples are too few for so many comparisons."""
    names = dict.fromkeys(comparison.metric for comparison in comparisons)
    families = [[c.num_sources for c in comparisons if c.metric == name] for name in names]
    lost, total = max((undecidable(family, resamples), len(family)) for family in families)
    if not lost:
        return []
    return [
        f"{lost} of {total} comparisons of a measure cannot be decided, whatever the scores: p is at least "
        f"1 / 2^(n - 1) for n images, at least 1 / {resamples + 1:,} for any number, and the correction multiplies it "
        f"by up to {total}. Evaluate more images, or raise evaluate.report.resamples."
    ]


def curves_section(curves: Sequence[Curve], run_names: Sequence[str]) -> list[Section]:
    """Training curves as inline SVG, with one legend for all."""
    if not curves:
        return []
    charts = tuple(
        Chart(curve.title, text_alternative(curve), Markup(chart_svg(curve, len(run_names)))) for curve in curves
    )
    has_shared = any(line.colour is None for curve in curves for line in curve.series)
    series = [("phases that several runs share", "var(--faint)")] if has_shared else []
    if len(run_names) <= NUM_COLOURS:
        series += [(name, f"var(--s{number})") for number, name in enumerate(run_names)]
    else:
        series.append((f"{len(run_names)} runs, a faint line each", "var(--s0)"))
    return [Section("curves", "Training curves", "curves.html.j2", content=Curves(tuple(series), charts))]


def pictures_section(table: ScoreTable, config: EvaluateConfig, source: PictureSource | None) -> list[Section]:
    """Picture strips; where the images or a model cannot be opened, the reason."""
    if not config.report.num_strips:
        return []
    try:
        source = source or open_picture_source(table, config)
        strips = report_strips(source)
    except InputError as error:
        return [Section("pictures", "Pictures", "pictures.html.j2", (str(error),), content=())]
    return [Section("pictures", "Pictures", "pictures.html.j2", (HOW_SHOWN, *source.problems), content=strips)]


def runs_section(runs: Sequence[tuple[str, Mapping[str, str]]]) -> list[Section]:
    """What was run."""
    return [Section("runs", "What was run", grids=(runs_grid(runs),))] if runs else []


def ledger_section(ledger: Mapping[str, Any] | None) -> list[Section]:
    """Where the compute went."""
    return [Section("compute", "Compute", grids=(ledger_grid(ledger),))] if ledger else []


def reproduce_section(table: ScoreTable, commands: Sequence[str], files: Mapping[str, Path]) -> Section:
    """Commands, provenance, versions, and the configuration files themselves."""
    texts = {title: path.read_text(encoding="utf-8") for title, path in files.items() if path.is_file()}
    content = Reproduction(tuple(commands), data_facts(table), versions(), texts)
    how = "the commands below give the same numbers again" if commands else "the numbers are the same again"
    intro = f"With the same data, configuration and versions, {how}."
    return Section("reproduce", "How to reproduce", "reproduce.html.j2", (intro,), (models_grid(table),), content)
