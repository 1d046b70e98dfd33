"""Tables over a sweep's axes: a row for each point of the axes, a column for each measure, published figures beside.

The form is that of SupeRAuGAN's tables: dataset percentage and augmentation against FID, LPIPS, PSNR and SSIM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from evaluation.metrics import METRICS
from evaluation.report.cell_scores import Cell, CellScores, explain_deviation, mean_of_models
from evaluation.report.columns import Column, build_columns, is_seed
from evaluation.report.grid import Entry, Footnotes, Grid, Head, Line, rank_values, show_number
from evaluation.report.matrix import Condition, names_to_average
from evaluation.report.matrix_grid import baseline_note
from evaluation.report.published import Published, match_lines, published_entry
from evaluation.scores.table import ScoreTable
from harness.errors import InputError


@dataclass(frozen=True)
class TableLine:
    """One row: its labels on the axes, and a cell for each measure."""

    labels: tuple[str, ...]
    cells: Mapping[str, Cell]
    baseline: bool = False
    published: Mapping[str, str] | None = None
    """The figures, as printed, of the published line that it stands for."""


@dataclass(frozen=True)
class AxisTable:
    """Measures over axes; each number is the mean over the conditions, each with the same weight."""

    title: str
    caption: str
    axes: tuple[str, ...]
    metrics: tuple[str, ...]
    lines: tuple[TableLine, ...]
    published: Published | None = None
    how: Mapping[str, str] = field(default_factory=dict)
    """Measure -> the colour and the border that it was taken with, in words."""

    def measured(self) -> AxisTable:
        """The table without the measures that no row has a number of; the whole where that is all."""
        kept = [name for name in self.metrics if any(line.cells[name].value is not None for line in self.lines)]
        return replace(self, metrics=tuple(kept) or self.metrics)

    def frame(self) -> pd.DataFrame:
        """Axes, then each measure with its deviation over seeds and number of images, then the published figures."""
        return pd.DataFrame([self._row(line) for line in self.lines])

    def _row(self, line: TableLine) -> dict[str, object]:
        row: dict[str, object] = dict(zip(self.axes, line.labels))
        for metric in self.metrics:
            cell = line.cells[metric]
            row |= {metric: cell.value, f"{metric}_deviation": cell.deviation, f"{metric}_images": cell.num_images}
        if self.published is not None:
            found = line.published or {}
            row |= {f"{metric}_published": found.get(metric) for metric in self.published.metrics}
        return row


def build_table(
    table: ScoreTable,
    conditions: Sequence[Condition],
    metrics: Sequence[str],
    axes: Sequence[str] | None = None,
    published: Published | None = None,
    title: str = "Measures by model",
) -> AxisTable:
    """The table of a sweep over `axes` (None takes all but seeds; a sweep without axes gets a row for each model).

    A condition that nothing was scored on is left out of the means.

    Raises:
        InputError: an axis that no model has.
    """
    columns = build_columns(table.models)
    chosen = _axes(columns, axes)
    scores = {name: CellScores(table, METRICS[name]) for name in metrics}
    names = names_to_average(table, conditions)
    groups: dict[tuple[str, ...], list[Column]] = {}
    for column in columns:
        groups.setdefault(_labels(column, chosen), []).append(column)
    quoted = match_lines(published, list(groups)) if published is not None else [None] * len(groups)
    lines = [
        TableLine(labels, {name: _cell(scores[name], names, group) for name in metrics}, group[0].baseline, figures)
        for (labels, group), figures in zip(groups.items(), quoted)
    ]
    if not any(line.published for line in lines if not line.baseline):
        published = None
    caption = f"mean over {len(names)} conditions" if len(names) > 1 else names[0] if names else "nothing was measured"
    how = {name: table.how_measured(name) for name in metrics}
    return AxisTable(title, caption, tuple(chosen) or ("model",), tuple(metrics), tuple(lines), published, how)


def _axes(columns: Sequence[Column], wanted: Sequence[str] | None) -> list[str]:
    present = list(dict.fromkeys(axis for column in columns for axis, _ in column.axes))
    if wanted is None:
        return [axis for axis in present if not is_seed(axis)]
    for axis in wanted:
        if axis not in present:
            raise InputError(f"report.table_axes: no model has an axis '{axis}'; use some of {present}.")
    return list(wanted)


def _labels(column: Column, axes: Sequence[str]) -> tuple[str, ...]:
    if not axes:
        return (column.title,)
    values = dict(column.axes)
    if not values:
        return (column.title, *[""] * (len(axes) - 1))
    return tuple(values.get(axis, "") for axis in axes)


def _cell(scores: CellScores, conditions: Sequence[str], group: Sequence[Column]) -> Cell:
    cells = [scores.over(conditions, model) for column in group for model in column.models]
    several = f"mean ± deviation over {len(cells)} models that differ in other axes" if len(group) > 1 else ""
    return mean_of_models(cells, "models", several)


def table_grid(table: AxisTable) -> Grid:
    """The table with the best number of each column marked, baselines and published figures set apart."""
    notes = Footnotes()
    columns = [_column(table, metric, notes) for metric in table.metrics]
    heads = [
        Head(METRICS[metric].label + (" ↑" if METRICS[metric].higher_is_better else " ↓")) for metric in table.metrics
    ]
    if table.published is not None:
        heads += [Head(METRICS[metric].label, True, "published") for metric in table.published.metrics]
        columns += [
            [published_entry(line.published, metric) for line in table.lines] for metric in table.published.metrics
        ]
        for note in table.published.notes:
            notes.mark(note)
    lines = [
        Line(line.labels, tuple(column[number] for column in columns), line.baseline)
        for number, line in enumerate(table.lines)
    ]
    caption = f"{table.caption}; ↑ higher is better, ↓ lower is better" + _deviations(table)
    caption += "".join(f"; {text}" for text in _by_text(table.how))
    if table.published is not None:
        caption += f"; published figures quoted from {table.published.source}"
    return Grid(table.title, caption, table.axes, tuple(heads), tuple(lines), notes.pairs(), "column")


def _deviations(table: AxisTable) -> str:
    """What ± means in each column that has it."""
    cells = {name: [line.cells[name] for line in table.lines] for name in table.metrics}
    texts = {name: explain_deviation(cells[name], METRICS[name], "the models of a row") for name in table.metrics}
    return "".join(f"; {text}" for text in _by_text(texts))


def _by_text(texts: Mapping[str, str]) -> list[str]:
    """What is said of measures, those of which the same is said together: "PSNR, SSIM: of luma (Y)"."""
    labels: dict[str, list[str]] = {}
    for name, text in texts.items():
        labels.setdefault(text, []).append(METRICS[name].label)
    return [f"{', '.join(names)}: {text}" for text, names in labels.items() if text]


def _column(table: AxisTable, name: str, notes: Footnotes) -> list[Entry]:
    metric = METRICS[name]
    cells = [line.cells[name] for line in table.lines]
    ranked = [cell.value if cell.comparable and not line.baseline else None for cell, line in zip(cells, table.lines)]
    ranks = rank_values(ranked, metric.higher_is_better, metric.digits)
    rivals = [cell.value for cell, line in zip(cells, table.lines) if not line.baseline]
    entries = []
    for cell, line, rank in zip(cells, table.lines, ranks):
        better = baseline_note(line.labels[0], cell, rivals, metric) if line.baseline else ""
        mark = notes.mark("; ".join(filter(None, [cell.note, better])))
        entries.append(Entry(show_number(cell.value, metric.digits, cell.deviation), cell.value, rank, mark=mark))
    return entries
