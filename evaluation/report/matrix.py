"""The matrix: conditions (classes or degradations) in rows, models in columns, one measure in the cells.

Figure 9 of Specialized SR-GAN is the model: the best model of each row is marked. Added are the second best, a frame
around each model's own class, the means, and a reason wherever there is no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from evaluation.metrics import Metric
from evaluation.report.cell_scores import Cell, CellScores, mean_of_models
from evaluation.report.columns import Column, build_columns
from evaluation.scores.table import ScoreTable
from harness.data.config import Kernel, Split

RowKind = Literal["class", "kernel"]


@dataclass(frozen=True)
class Condition:
    """What a condition name stands for."""

    name: str
    split: str
    image_class: str
    kernel: str
    pooled: bool = False
    """Whether it holds the images of several classes, which have conditions of their own."""

    def row(self, kind: RowKind) -> str:
        return self.image_class if kind == "class" else self.kernel


@dataclass(frozen=True)
class Matrix:
    """Cells by (row, column); `cells[i][j]` belongs to `rows[i]` and `columns[j]`."""

    metric: Metric
    row_kind: RowKind
    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]
    detail: str = ""
    """What tells it from the other matrices of its measure: split and degradation, where there are several."""
    pooled: frozenset[str] = frozenset()
    """Rows whose images stand in other rows too."""
    how: str = ""
    """The colour and the border that the measure was taken with, in words."""

    @property
    def label(self) -> str:
        """The measure as sentences name it."""
        return f"{self.metric.label} ({self.detail})" if self.detail else self.metric.label

    @property
    def is_empty(self) -> bool:
        """Whether no cell has a number."""
        return not any(map(_has_number, self.cells))

    def is_own(self, row: int, column: int) -> bool:
        """Whether the column's model was made for the row."""
        made_for = self.columns[column]
        if self.row_kind == "class":
            return made_for.own_class == self.rows[row]
        return any(self.rows[row] in value.split(":")[0].split("+") for _, value in made_for.axes)

    def row_mean(self, row: int) -> Cell:
        """The mean over the models of one row, baselines left out."""
        kept = [cell for cell, column in zip(self.cells[row], self.columns) if not column.baseline]
        return _mean(kept, "models")

    def column_mean(self, column: int) -> Cell:
        """The mean over the rows of one column, each row with the same weight.

        A pooled row is not counted again, and one that no model has a number on is nobody's lack.
        """
        counted = [line for row, line in zip(self.rows, self.cells) if row not in self.pooled and _has_number(line)]
        own = [line[column] for line in counted]
        return _mean(own, "classes" if self.row_kind == "class" else "degradations")

    def values(self) -> pd.DataFrame:
        """The numbers alone: rows by column title, NaN where there is none."""
        return self._frame([[cell.value for cell in line] for line in self.cells])

    def deviations(self) -> pd.DataFrame:
        """The deviations over seeds (of KID: over images or subsets), NaN where there are none."""
        return self._frame([[cell.deviation for cell in line] for line in self.cells])

    def _frame(self, numbers: list[list[float | None]]) -> pd.DataFrame:
        titles = [column.title for column in self.columns]
        return pd.DataFrame(numbers, index=list(self.rows), columns=titles, dtype=float)


def row_kind_label(kind: RowKind) -> str:
    """What the rows are called in a table."""
    return "class" if kind == "class" else "degradation"


def _has_number(line: Sequence[Cell]) -> bool:
    return any(cell.value is not None for cell in line)


def _mean(cells: Sequence[Cell], what: str) -> Cell:
    values = [cell.value for cell in cells if cell.value is not None and cell.comparable]
    if not values:
        return Cell(note="no complete number to average", comparable=False)
    note = "" if len(values) == len(cells) else f"mean of {len(values)} of {len(cells)} {what}"
    return Cell(value=float(np.mean(values)), note=note, comparable=not note)


def build_matrix(
    table: ScoreTable,
    metric: Metric,
    conditions: Sequence[Condition],
    row_kind: RowKind = "class",
    title: str = "",
    detail: str = "",
) -> Matrix:
    """The matrix of one measure over the given conditions.

    Conditions that share a row (the classes of one degradation) count alike, however many images each has. A model
    that lacks one of them gets no comparable number there. Seeds of a run become one column: mean ± sample deviation.
    """
    rows = tuple(dict.fromkeys(condition.row(row_kind) for condition in conditions))
    names_of = {row: names_to_average(table, [c for c in conditions if c.row(row_kind) == row]) for row in rows}
    columns = tuple(build_columns(table.models))
    scores = CellScores(table, metric)
    cells = tuple(
        tuple(
            mean_of_models([scores.over(names_of[row], model) for model in column.models], "seeds")
            for column in columns
        )
        for row in rows
    )
    title = title or f"{metric.label} by {row_kind_label(row_kind)} and model"
    pooled = frozenset(c.row(row_kind) for c in conditions if c.pooled and row_kind == "class")
    how = table.how_measured(metric.name)
    return Matrix(metric, row_kind, title, rows, columns, cells, detail, pooled, how)


def names_to_average(table: ScoreTable, conditions: Sequence[Condition]) -> list[str]:
    """The conditions' names, without those on which nothing was scored (unless that is all): they are nobody's lack."""
    scored = set(table.images["condition"].unique())
    return [c.name for c in conditions if c.name in scored] or [c.name for c in conditions]


def conditions_of(table: ScoreTable) -> list[Condition]:
    """The table's conditions in order, with what each stands for.

    A name is its class, with the split and the degradation before it where there are several; the rows of a pooled
    condition bear the class of each image, so the class is read from the name. A class without images has no rows: what
    its name leaves out is then that of all the others.
    """
    classes = table.images.groupby("condition", observed=True)["image_class"].unique()
    pooled = {str(name) for name, found in classes.items() if not all(f"/{name}".endswith(f"/{c}") for c in found)}
    split, kernel = (_only(table.images[column]) for column in ("split", "kernel"))
    return [_condition(name, split, kernel, name in pooled) for name in table.conditions]


def _only(column: pd.Series) -> str:
    """The one value of a column; empty where there are several or none."""
    values = column.unique()
    return str(values[0]) if len(values) == 1 else ""


def _condition(name: str, only_split: str, only_kernel: str, pooled: bool) -> Condition:
    parts = name.split("/")
    split = parts.pop(0) if len(parts) > 1 and parts[0] in get_args(Split) else only_split
    kernel = parts.pop(0) if len(parts) > 1 and parts[0] in get_args(Kernel) else only_kernel
    return Condition(name, split, "/".join(parts), kernel, pooled)
