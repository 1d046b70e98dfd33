"""`write_report`: matrices, tables, comparisons, pictures and curves of a sweep, as files and as one page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.config import EvaluateConfig
from evaluation.metrics import FEW_IMAGES_FOR_FID, METRICS, NOISE_METRICS, Metric, small_set_note
from evaluation.report.compare import Comparison, Question, compare_all, specialisation_questions, to_frame
from evaluation.report.curves import read_curves
from evaluation.report.exports import (
    NamedMatrix,
    only_what_is_written,
    report_matrices,
    write_frame,
    write_grid_files,
    write_matrix_files,
)
from evaluation.report.grid import Grid
from evaluation.report.matrix import Matrix, conditions_of
from evaluation.report.matrix_grid import baseline_summary, diagonal_summary, reader_notes
from evaluation.report.page import Page, Section, write_page
from evaluation.report.picture_source import PictureSource
from evaluation.report.published import Published, load_published, published_grid
from evaluation.report.sections import (
    compare_section,
    curves_section,
    ledger_section,
    matrix_section,
    pictures_section,
    reproduce_section,
    runs_section,
    table_section,
)
from evaluation.report.sentences import merge_by_measure, summary, why_unanswered, why_unasked
from evaluation.report.tables import AxisTable, build_table, table_grid
from evaluation.scores.code_version import code_version
from evaluation.scores.table import ScoreTable, make_writable
from harness.screen import counted, shown_names


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
    ledger: Mapping[str, Any] | None = None,
    commands: Sequence[str] = (),
    pictures: PictureSource | None = None,
) -> Path:
    """Writes every file of the report into `out`, without those of an earlier one; returns the path of `report.html`.

    Args:
        ledger: hours by kind (`useful_h`, `replayed_h`, `starting_h`, `lost_h`, `queued_h`).
        commands: what was typed to get here, shown under "How to reproduce".
        pictures: where the picture strips come from; None opens the evaluated dataset and the models.

    Raises:
        InputError: the folder cannot be written, or the published table or an axis does not exist.
    """
    make_writable(out)
    with only_what_is_written(out):
        results = _write_results(table, config, out)
    curves = read_curves([(run.name, run.folders) for run in runs])
    page = Page(
        name=name,
        subtitle=_subtitle(table),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        code_version=code_version(),
        sections=[
            *_result_sections(results, config.report.resamples),
            *pictures_section(table, config, pictures),
            *curves_section(curves, [run.name for run in runs]),
            *runs_section([(run.name, run.differences) for run in runs]),
            *ledger_section(ledger),
            reproduce_section(table, commands or _commands(out), _config_files(out, runs)),
        ],
        sentences=_sentences(results),
        warnings=_warnings(table, [named.matrix for named in results.matrices]),
    )
    write_page(page, out / "report.html")
    return out / "report.html"


@dataclass(frozen=True)
class _Results:
    """Everything that follows from the scores alone."""

    matrices: list[NamedMatrix]
    matrix_grids: list[Grid]
    tables: list[Grid]
    published_matrix: list[Grid]
    published_table: list[Grid]
    questions: list[Question]
    comparisons: list[Comparison]
    not_compared: list[str]
    """What could not be compared, and why, in sentences."""


def _write_results(table: ScoreTable, config: EvaluateConfig, out: Path) -> _Results:
    reference = load_published(config.report.reference) if config.report.reference else None
    matrices = report_matrices(table, config)
    published = _write_published(reference, out)
    is_matrix = reference is not None and reference.metric is not None
    questions = specialisation_questions(table, conditions_of(table), config.pool) if config.report.compare else []
    comparisons = _write_comparisons(table, questions, config, out)
    return _Results(
        matrices=matrices,
        matrix_grids=[write_matrix_files(named, out) for named in matrices],
        tables=_write_tables(table, config, reference, out),
        published_matrix=published if is_matrix else [],
        published_table=[] if is_matrix else published,
        questions=questions,
        comparisons=comparisons,
        not_compared=_not_compared(table, questions, comparisons, config) if config.report.compare else [],
    )


def _result_sections(results: _Results, resamples: int) -> list[Section]:
    """Matrices, then tables; the other way round where every matrix has one row only."""
    sections = [
        matrix_section(results.matrices, results.matrix_grids, results.published_matrix),
        *table_section([*results.tables, *results.published_table]),
    ]
    if all(len(named.matrix.rows) == 1 for named in results.matrices):
        sections.reverse()
    return [*sections, *compare_section(results.comparisons, resamples, results.not_compared)]


def _sentences(results: _Results) -> list[str]:
    shown = [named.matrix for named in results.matrices if named.matrix.metric.name not in NOISE_METRICS]
    own = [diagonal_summary(matrix) for matrix in shown]
    against = [text for matrix in shown for text in baseline_summary(matrix)]
    names = dict.fromkeys(comparison.metric for comparison in results.comparisons)
    answers = [[comparison for comparison in results.comparisons if comparison.metric == name] for name in names]
    return merge_by_measure([*own, *against, *(summary(of_metric, results.questions) for of_metric in answers)])


def _subtitle(table: ScoreTable) -> str:
    images = table.images["image"].nunique()
    measures = ", ".join(METRICS[name].label for name in table.metrics)
    counts = [(len(table.models), "model"), (len(table.conditions), "condition"), (images, "image")]
    return ", ".join(counted(n, noun) for n, noun in counts) + f"; measures: {measures}"


def _warnings(table: ScoreTable, matrices: Sequence[Matrix]) -> list[str]:
    """What a reader must know before the numbers, then what is missing; each reason is told once."""
    told = reader_notes(matrices, table.notes)
    few = table.sets["num_images"][(table.sets["metric"] == "fid") & (table.sets["num_images"] < FEW_IMAGES_FOR_FID)]
    told += [small_set_note("fid", int(few.max()))] if len(few) else []
    untold = {
        cell: why for cell, why in table.missing.items() if not any(why.removesuffix(".") in text for text in told)
    }
    failed = _without_any_number(table, untold)
    if failed:
        names, first = list(failed), next(iter(failed))
        told.append(f"{counted(len(failed), 'model')} without a number: {shown_names(names)}. {first}: {failed[first]}")
    most = Counter(why for (model, _, _), why in untold.items() if model not in failed).most_common()
    lines = [f"{counted(count, 'cell')} without a number: {reason}" for reason, count in most[:5]]
    if len(most) > 5:
        lines.append(f"{counted(len(most) - 5, 'more reason')} for missing cells below the matrices.")
    return [*told, *lines]


def _without_any_number(table: ScoreTable, missing: Mapping[tuple[str, str, str], str]) -> dict[str, str]:
    """Model -> the one reason why all of its cells are missing; their reasons would crowd out those of single cells."""
    reasons: dict[str, list[str]] = {}
    for (model, _, _), why in missing.items():
        reasons.setdefault(model, []).append(why)
    num_cells = len(table.conditions) * len(table.metrics)
    return {model: why[0] for model, why in reasons.items() if len(why) == num_cells and len(set(why)) == 1}


def _write_tables(table: ScoreTable, config: EvaluateConfig, reference: Published | None, out: Path) -> list[Grid]:
    metrics = [name for name in table.metrics if name in (config.report.table_metrics or table.metrics)]
    conditions = [condition for condition in conditions_of(table) if not condition.pooled]
    pairs = list(dict.fromkeys((c.split, c.kernel) for c in conditions))
    beside = None if reference is None or reference.metric else reference
    grids = []
    for number, (split, kernel) in enumerate(pairs):
        title = "Measures over the sweep's axes" + (f" ({split}, {kernel})" if len(pairs) > 1 else "")
        chosen = [condition for condition in conditions if (condition.split, condition.kernel) == (split, kernel)]
        axis_table = build_table(table, chosen, metrics, config.report.table_axes, beside, title)
        grids.append(_write_table(axis_table, out, "table" + (f"_{split}_{kernel}" if number else "")))
    return grids


def _write_published(reference: Published | None, out: Path) -> list[Grid]:
    if reference is None:
        return []
    grid = published_grid(reference)
    write_grid_files(grid, out, "published")
    return [grid]


def _write_table(axis_table: AxisTable, out: Path, stem: str) -> Grid:
    """Writes the table's files; returns it without empty columns, which the page has given the reason of."""
    grid = table_grid(axis_table)
    write_frame(axis_table.frame(), out / f"{stem}.csv")
    write_grid_files(grid, out, stem)
    return table_grid(axis_table.measured())


def _write_comparisons(
    table: ScoreTable, questions: Sequence[Question], config: EvaluateConfig, out: Path
) -> list[Comparison]:
    """Tests and writes what can be compared."""
    answers = compare_all(table, _compared(table), questions, config.report.resamples, config.report.seed)
    for name in dict.fromkeys(answer.metric for answer in answers):
        write_frame(to_frame([answer for answer in answers if answer.metric == name]), out / f"compare_{name}.csv")
    return answers


def _not_compared(
    table: ScoreTable, questions: Sequence[Question], answers: Sequence[Comparison], config: EvaluateConfig
) -> list[str]:
    """What could not be compared, in sentences."""
    if not questions:
        return [why_unasked(table, config.pool)]
    return merge_by_measure(why_unanswered(_compared(table), questions, answers))


def _compared(table: ScoreTable) -> list[Metric]:
    """The measures of single images that have a number; all measures where none has."""
    metrics = [METRICS[name] for name in table.metrics]
    return [m for m in metrics if m.name in table.images and table.images[m.name].notna().any()] or metrics


def _commands(out: Path) -> list[str]:
    """How a sweep's folder is evaluated and reported again; nothing where `out` lies in no sweep's folder."""
    if not (out.parent / "sweep.yaml").is_file():
        return []
    return [f"make sweep SWEEP=sweep.yaml    # runs, evaluates and reports {out.parent.name}; sweep.yaml stands below"]


def _config_files(out: Path, runs: Sequence[RunRecord]) -> dict[str, Path]:
    files = {"sweep.yaml": out.parent / "sweep.yaml"}
    if runs and runs[0].folders:
        files[f"config.yaml of {runs[0].name}"] = runs[0].folders[-1] / "config.yaml"
    return files
