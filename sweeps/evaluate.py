"""Hands a sweep's models to the evaluation: here, or as a job that waits for the trainings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from evaluation.config import EvaluateConfig
from evaluation.model import Model, baseline
from harness.errors import EXIT_DONE, InputError
from harness.screen import progress_bar, still_working
from slurm.profile import ClusterProfile
from slurm.profile_file import load_profile
from sweeps.config import SweepConfig, load_sweep
from sweeps.control import find_sweep_folder, is_sweep_file
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.ledger import sweep_ledger
from sweeps.plan import Plan, read_plan
from sweeps.queues import Queues
from sweeps.shares import evaluation_error, measure_on_cluster
from sweeps.state import phase_states
from sweeps.status import mixed_versions, sweep_status

if TYPE_CHECKING:
    from evaluation.scores.table import ScoreTable


def models_of(plan: Plan, folder: SweepFolder, config: EvaluateConfig) -> list[Model]:
    """The columns of the matrix: the sweep's models in their order, then the baselines."""
    trained = [
        Model(run.name, "checkpoint", str(folder.models / run.name), dict(run.axes), run.own_class) for run in plan.runs
    ]
    return [*trained, *(baseline(method) for method in config.baselines)]


def evaluation_config(sweep: SweepConfig, plan: Plan) -> EvaluateConfig:
    """The sweep's evaluation, with what the plan says where it is silent: the data, and a row of all classes together
    where a model was trained on them so."""
    config = sweep.evaluate
    pooled = next((run.own_class for run in plan.runs if run.pooled), None)
    return config.model_copy(update={"dataset": config.dataset or plan.data, "pool": config.pool or pooled})


@dataclass(frozen=True)
class Evaluation:
    """What is compared in a sweep, and how."""

    title: str
    folder: SweepFolder
    plan: Plan
    config: EvaluateConfig

    @property
    def models(self) -> list[Model]:
        return models_of(self.plan, self.folder, self.config)

    def scores(self) -> ScoreTable:
        """What has been scored; the cells of what has changed since (data, weights, measure) are empty, and say so.

        Raises:
            InputError: nothing has been scored yet, or the dataset cannot be read.
        """
        from evaluation.scores.stale import mark_stale
        from evaluation.scores.table import ScoreTable

        if not (self.folder.report / "scores.parquet").exists():
            raise InputError(f"{self.folder.report}: holds no scores; run `harness evaluate` first.")
        return mark_stale(ScoreTable.load(self.folder.report), self.models, self.config)

    def write_report(self, table: ScoreTable) -> Path:
        """Writes the report of these scores; returns its path."""
        from evaluation.report.write import RunRecord, write_report

        records = [
            RunRecord(r.name, dict(r.axes), [self.folder.runs.phase(key) for key in r.phases], dict(r.differences))
            for r in self.plan.runs
        ]
        states = phase_states(self.folder.runs, self.plan, Queues())
        table = replace(table, notes=[*table.notes, *mixed_versions(states.values())])
        ledger = asdict(sweep_ledger(self.folder.runs, self.plan, states))
        return write_report(self.title, table, self.config, records, self.folder.report, ledger)


def evaluation_of(folder: SweepFolder, sweep: SweepConfig | None = None) -> Evaluation:
    """What the folder's sweep compares; an edited `sweep` may say anew how.

    Raises:
        InputError: the sweep was never planned.
    """
    plan = read_plan(folder.plan)
    sweep = sweep or load_sweep(folder.sweep)
    return Evaluation(sweep.title or sweep.name, folder, plan, evaluation_config(sweep, plan))


def find_evaluation(
    name_or_file: str | None, overrides: Sequence[str] = (), runs_dir: str | Path = "runs"
) -> Evaluation:
    """The evaluation of a planned sweep: by its name, or by its file, which may say anew what is evaluated.

    Where there is one sweep, the first override may stand in the place of its name.

    Raises:
        InputError: there is no such sweep, or an override changes what has been trained.
    """
    changes = list(overrides)
    if name_or_file is not None and "=" in name_or_file and not Path(name_or_file).exists():
        changes.insert(0, name_or_file)
        name_or_file = None
    if name_or_file is None or not is_sweep_file(name_or_file):
        _refuse_others(changes, ("evaluate", "title"))
        folder = find_sweep_folder(runs_dir, name_or_file)
        return evaluation_of(folder, load_sweep(folder.sweep, changes))
    _refuse_others(changes, ("evaluate", "title", "name", "variant"))
    sweep = load_sweep(name_or_file, changes)
    return evaluation_of(find_sweep_folder(runs_dir, sweep.name), sweep)


def _refuse_others(overrides: Sequence[str], keys: Sequence[str]) -> None:
    """Raises InputError where an override is not of one of these keys."""
    for override in overrides:
        if re.split(r"[.=]", override)[0] not in keys:
            raise InputError(
                f"override '{override}': here only {', '.join(keys)} can be changed, as in evaluate.max_images=10; "
                "what decides the training is given to `harness sweep`."
            )


def score_sweep(
    evaluation: Evaluation, progress: Callable[[int, int], None] | None = None, max_processes: int = 1
) -> ScoreTable:
    """Scores what is missing of a sweep; returns all its scores.

    Raises:
        InputError: there is nothing to evaluate, or nothing to evaluate on.
    """
    from evaluation.scores.collect import evaluate

    report = evaluation.folder.report
    table = evaluate(evaluation.models, evaluation.config, report, progress, max_processes=max_processes)
    unfinished = why_unfinished(evaluation)
    if unfinished:
        table = with_reasons(table, unfinished)
        table.save(report)
    return table


def why_unfinished(evaluation: Evaluation) -> dict[str, str]:
    """Runs that are not done -> how they stand, in words for the cells that stay empty."""
    rows = sweep_status(evaluation.folder.runs, evaluation.plan, Queues()).rows
    why = {row.run: row.why or f"step {row.step:,} of {row.total_steps:,}" for row in rows}
    return {row.run: f"training {row.state}: {why[row.run]}" for row in rows if row.state != "done"}


def with_reasons(table: ScoreTable, reasons: dict[str, str]) -> ScoreTable:
    """The table with these reasons at the empty cells of models that have no number at all."""
    measured = set(table.images["model"])
    known = {model: reason for model, reason in reasons.items() if model not in measured}
    missing = {cell: known.get(cell[0], reason) for cell, reason in table.missing.items()}
    return replace(table, missing=missing)


def evaluate_here(evaluation: Evaluation, console: Console, *, cluster: str | ClusterProfile = "local") -> Path:
    """Evaluates with a progress bar, prints the matrices and where the report lies; returns the report's path.

    With a SLURM profile the measuring is shared among jobs, which are waited for. Otherwise at most as many processes
    measure here as the profile runs jobs at once, unless `evaluate.workers` says how many.

    Raises:
        InputError: there is nothing to evaluate. ClusterError: the profile is wrong, or a job was lost.
    """
    profile = load_profile(cluster) if isinstance(cluster, str) else cluster
    try:
        table = _score_here(evaluation, console, profile)
    except KeyboardInterrupt:
        console.print("stopped; what was measured is kept, and the same command goes on from there", soft_wrap=True)
        raise
    with still_working(console, "writing the report"):
        report = evaluation.write_report(table)
    print_matrices(console, table, evaluation.config)
    _tell_report(report, console)
    return report


def _score_here(evaluation: Evaluation, console: Console, profile: ClusterProfile) -> ScoreTable:
    """Measures what is missing, with a progress bar: by jobs of the cluster, or by processes here."""
    with progress_bar(console, "evaluating") as progress:
        if profile.executor != "slurm":
            return score_sweep(evaluation, progress, profile.max_parallel)
        measure_on_cluster(evaluation.folder, evaluation.models, evaluation.config, profile, progress)
        return score_sweep(evaluation, progress)


def report_here(evaluation: Evaluation, console: Console) -> Path:
    """Writes the report anew from the scores that there are; those of changed data or weights are left out.

    Raises:
        InputError: nothing has been scored yet.
    """
    table = evaluation.scores()
    with still_working(console, "writing the report"):
        report = evaluation.write_report(table)
    print_matrices(console, table, evaluation.config)
    _tell_report(report, console)
    return report


def show_results(evaluation: Evaluation, console: Console) -> bool:
    """Prints the last evaluation's matrices and where its report lies; False, with the reason, where there is none."""
    folder = evaluation.folder
    report = folder.report / "report.html"
    if not report.exists():
        reason = evaluation_error(folder) or "not every run is done; `harness evaluate` scores those that are"
        console.print(f"no report yet: {reason}", markup=False, soft_wrap=True)
        return False
    print_matrices(console, evaluation.scores(), evaluation.config)
    _tell_report(report, console)
    return True


def _tell_report(report: Path, console: Console) -> None:
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)


def print_matrices(console: Console, table: ScoreTable, config: EvaluateConfig) -> None:
    """Prints the matrices of the sweep's report that hold a number, then what a reader of the numbers must know.

    Of measures without any number (their pretrained weights are absent, say) the reason is told once instead.
    """
    from evaluation.report.exports import report_matrices
    from evaluation.report.matrix_grid import reader_notes
    from evaluation.report.terminal import print_matrix

    matrices = [named.matrix for named in report_matrices(table, config)]
    for matrix in (matrix for matrix in matrices if not matrix.is_empty):
        print_matrix(console, matrix)
        console.print()
    for note in reader_notes(matrices, table.notes):
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def main(sweep_folder: str) -> int:
    """The evaluation as a job: rank 0 does it, the other ranks have nothing to do."""
    if os.environ.get("RANK", "0") != "0":
        return EXIT_DONE
    path = Path(sweep_folder)
    try:
        evaluation = evaluation_of(SweepFolder(RunsFolder(path.parent), path))
        report = evaluation.write_report(score_sweep(evaluation))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    print(f"report: {report}", flush=True)
    return EXIT_DONE
