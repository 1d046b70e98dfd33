"""`write_report`: matrices, tables, comparisons, pictures and curves of a sweep, as files and as one page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from evaluation.compare import Comparison, compare, specialisation_questions, to_frame
from evaluation.config import EvaluateConfig
from evaluation.exports import NamedMatrix, report_matrices, write_frame, write_matrix_files
from evaluation.grid import Grid
from evaluation.matrix import conditions_of
from evaluation.matrix_grid import diagonal_summary
from evaluation.metrics import METRICS
from evaluation.page import Page, Section, write_page
from evaluation.scores import ScoreTable
from evaluation.sentences import sentence, summary
from harness.errors import InputError


@dataclass(frozen=True)
class RunRecord:
    """What the report says of one run.

    folders: its phase folders in order. differences: the configuration keys in which it differs from the other runs.
    """

    name: str
    axes: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    differences: dict[str, str] = field(default_factory=dict)


def write_report(
    name: str,
    table: ScoreTable,
    config: EvaluateConfig,
    runs: Sequence[RunRecord],
    out: Path,
    ledger: dict[str, Any] | None = None,
) -> Path:
    """Writes every file of the report into `out` and returns the path of `report.html`.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another folder.") from None
    matrices = report_matrices(table, config)
    grids = [write_matrix_files(matrix, out) for matrix in matrices]
    comparisons = _compare(table, config, out)
    page = Page(
        name=name,
        subtitle=_subtitle(table),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        code_version=metadata.version("sr-harness"),
        sections=[_matrix_section(grids), *_compare_section(comparisons)],
        sentences=_sentences(matrices, comparisons),
        warnings=table.notes,
    )
    path = out / "report.html"
    write_page(page, path)
    return path


def _subtitle(table: ScoreTable) -> str:
    images = table.images["image"].nunique()
    measures = ", ".join(METRICS[name].label for name in table.metrics)
    return f"{len(table.models)} models, {len(table.conditions)} conditions, {images} images; measures: {measures}"


def _matrix_section(grids: Sequence[Grid]) -> Section:
    return Section("matrices", "Matrices", grids=tuple(grids))


def _compare(table: ScoreTable, config: EvaluateConfig, out: Path) -> list[Comparison]:
    if not config.report.compare:
        return []
    questions = specialisation_questions(table, conditions_of(table))
    answers: list[Comparison] = []
    for name in table.metrics:
        found = compare(table, METRICS[name], questions, config.report.resamples, config.report.seed)
        if found:
            write_frame(to_frame(found), out / f"compare_{name}.csv")
        answers += found
    return answers


def _compare_section(comparisons: Sequence[Comparison]) -> list[Section]:
    intro = tuple(sentence(comparison) for comparison in comparisons)
    return [Section("comparisons", "Comparisons", intro=intro)] if comparisons else []


def _sentences(matrices: Sequence[NamedMatrix], comparisons: Sequence[Comparison]) -> list[str]:
    lines = [diagonal_summary(named.matrix) for named in matrices]
    for name in dict.fromkeys(comparison.metric for comparison in comparisons):
        lines.append(summary([comparison for comparison in comparisons if comparison.metric == name]))
    return [line for line in lines if line]
