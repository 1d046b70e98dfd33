"""The files beside the report: each matrix and table as CSV, Markdown, LaTeX and PNG."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pandas as pd

from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS
from evaluation.report.figures import write_png
from evaluation.report.formats import latex, markdown, write_csv
from evaluation.report.grid import Grid
from evaluation.report.matrix import Condition, Matrix, RowKind, build_matrix, conditions_of, row_kind_label
from evaluation.report.matrix_grid import matrix_grid
from evaluation.scores.table import ScoreTable
from harness.data.config import Split
from harness.files import whole

_SUFFIXES = (".csv", ".md", ".tex", ".png")
_OWN_NAMES = re.compile(
    rf"(matrix|degradations|compare)_({'|'.join(METRICS)})(_.+)?|table(_({'|'.join(get_args(Split))})_.+)?|published"
)


@dataclass(frozen=True)
class NamedMatrix:
    """A matrix and the stem of its files' names."""

    stem: str
    matrix: Matrix


@contextmanager
def only_what_is_written(out: Path) -> Iterator[None]:
    """Removes, at the end, what an earlier report left in the folder and this one has not written anew.

    A measure or a degradation that is no longer evaluated would otherwise leave its old numbers beside the new ones.
    """
    before = _own_files(out)
    yield
    for path, inode in _own_files(out).items():
        if before.get(path) == inode:
            path.unlink(missing_ok=True)


def _own_files(out: Path) -> dict[Path, int]:
    """The matrices and tables in the folder, with the number by which the system knows each: another when it is new."""
    found = [path for path in out.iterdir() if path.suffix in _SUFFIXES and _OWN_NAMES.fullmatch(path.stem)]
    return {path: path.stat().st_ino for path in found}


def report_matrices(table: ScoreTable, config: EvaluateConfig) -> list[NamedMatrix]:
    """The matrices that a report shows, for each measure: where several degradations were measured, one of degradations
    for each split; then one of classes for each split and degradation.
    """
    conditions = conditions_of(table)
    names = [name for name in table.metrics if name in (config.report.matrix_metrics or table.metrics)]
    return [matrix for name in names for matrix in _of_metric(table, name, conditions)]


def _of_metric(table: ScoreTable, metric: str, conditions: Sequence[Condition]) -> list[NamedMatrix]:
    pairs = list(dict.fromkeys((c.split, c.kernel) for c in conditions))
    several = len(pairs) > 1
    matrices = []
    for number, (split, kernel) in enumerate(pairs):
        chosen = [c for c in conditions if (c.split, c.kernel) == (split, kernel)]
        stem = f"matrix_{metric}" + (f"_{split}_{kernel}" if number else "")
        detail = f"{split}, {kernel}" if several else ""
        title = _title(metric, "class") + (f" ({detail})" if detail else "")
        matrices.append(NamedMatrix(stem, build_matrix(table, METRICS[metric], chosen, "class", title, detail)))
    return _of_degradations(table, metric, [c for c in conditions if not c.pooled]) + matrices


def _of_degradations(table: ScoreTable, metric: str, conditions: Sequence[Condition]) -> list[NamedMatrix]:
    matrices: list[NamedMatrix] = []
    for split in dict.fromkeys(condition.split for condition in conditions):
        chosen = [condition for condition in conditions if condition.split == split]
        if len({condition.kernel for condition in chosen}) > 1:
            stem = f"degradations_{metric}" + (f"_{split}" if matrices else "")
            matrix = build_matrix(table, METRICS[metric], chosen, "kernel", _title(metric, "kernel"))
            matrices.append(NamedMatrix(stem, matrix))
    return matrices


def _title(metric: str, rows: RowKind) -> str:
    return f"{METRICS[metric].label} by {row_kind_label(rows)} and model"


def write_matrix_files(named: NamedMatrix, out: Path) -> Grid:
    """Writes `STEM.csv`, `.md`, `.tex` and `.png` (and `STEM_deviation.csv` where there are several seeds)."""
    grid = matrix_grid(named.matrix)
    corner = row_kind_label(named.matrix.row_kind)
    write_csv(named.matrix.values(), out / f"{named.stem}.csv", corner)
    deviations = named.matrix.deviations()
    if deviations.notna().any(axis=None):
        write_csv(deviations, out / f"{named.stem}_deviation.csv", corner)
    write_grid_files(grid, out, named.stem)
    return grid


def write_grid_files(grid: Grid, out: Path, stem: str) -> None:
    """Writes a grid as Markdown, LaTeX and PNG."""
    with whole(out / f"{stem}.md") as part:
        part.write_text(markdown(grid), encoding="utf-8")
    with whole(out / f"{stem}.tex") as part:
        part.write_text(latex(grid), encoding="utf-8")
    with whole(out / f"{stem}.png") as part:
        write_png(grid, part)


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """A plain table as CSV, without an index."""
    with whole(path) as part:
        frame.to_csv(part, index=False, lineterminator="\n")
