"""Hands a sweep's models to the evaluation: here, or as a job that waits for the trainings."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from evaluation.config import EvaluateConfig
from evaluation.model import Model, baseline
from harness.errors import EXIT_DONE, EXIT_WRONG_INPUT, InputError
from sweeps.config import SweepConfig, load_sweep
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.ledger import sweep_ledger
from sweeps.plan import Plan, read_plan
from sweeps.queues import Queues
from sweeps.state import last_error_line, phase_states

if TYPE_CHECKING:
    from evaluation.scores import ScoreTable


def models_of(plan: Plan, folder: SweepFolder, config: EvaluateConfig) -> list[Model]:
    """The columns of the matrix: the sweep's models in their order, then the baselines."""
    trained = [
        Model(run.name, "checkpoint", str(folder.models / run.name), dict(run.axes), run.own_class) for run in plan.runs
    ]
    return [*trained, *(baseline(method) for method in config.baselines)]


def evaluation_config(sweep: SweepConfig, plan: Plan) -> EvaluateConfig:
    """The sweep's evaluation, with a row of all classes together where a model was trained on them so."""
    config = sweep.evaluate
    pooled = next((run.own_class for run in plan.runs if run.pooled), None)
    if pooled is None or config.pool is not None:
        return config
    return config.model_copy(update={"pool": pooled})


def evaluate_sweep(folder: SweepFolder, progress: Callable[[int, int], None] | None = None) -> tuple[ScoreTable, Path]:
    """Scores what is missing of a sweep and writes its report; returns the scores and the report's path.

    Raises:
        InputError: the sweep was never planned, or there is nothing to evaluate on.
    """
    from evaluation.collect import evaluate
    from evaluation.report import RunRecord, write_report

    sweep, plan = stored(folder)
    config = evaluation_config(sweep, plan)
    table = evaluate(models_of(plan, folder, config), config, folder.report, progress)
    records = [
        RunRecord(run.name, dict(run.axes), [folder.runs.phase(key) for key in run.phases], dict(run.differences))
        for run in plan.runs
    ]
    ledger = asdict(sweep_ledger(folder.runs, plan, phase_states(folder.runs, plan, Queues())))
    return table, write_report(sweep.title or sweep.name, table, config, records, folder.report, ledger)


def evaluate_here(folder: SweepFolder, console: Console) -> Path:
    """Evaluates with a progress bar, prints the matrices and where the report lies; returns the report's path."""
    with progress_bar(console, "evaluating") as progress:
        table, report = evaluate_sweep(folder, progress)
    print_matrices(console, table, folder)
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return report


def show_results(folder: SweepFolder, console: Console) -> bool:
    """Prints the last evaluation's matrices and where its report lies; False, with the reason, where there is none."""
    from evaluation.scores import ScoreTable

    report = folder.report / "report.html"
    if not report.exists():
        reason = last_error_line(folder.evaluation) or "not every run is done; `harness evaluate` scores those that are"
        console.print(f"no report yet: {reason}", markup=False, soft_wrap=True)
        return False
    print_matrices(console, ScoreTable.load(folder.report), folder)
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return True


def print_matrices(console: Console, table: ScoreTable, folder: SweepFolder) -> None:
    """Prints every matrix that the sweep's report has."""
    from evaluation.exports import report_matrices
    from evaluation.terminal import print_matrix

    sweep, plan = stored(folder)
    for named in report_matrices(table, evaluation_config(sweep, plan)):
        print_matrix(console, named.matrix)
        console.print()


@contextlib.contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function of (done, total) that moves a bar; where the output is no terminal there is no bar."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def stored(folder: SweepFolder) -> tuple[SweepConfig, Plan]:
    """The sweep and the plan that its folder holds."""
    plan = read_plan(folder.plan)
    return load_sweep(folder.sweep), plan


def main(sweep_folder: str) -> int:
    """The evaluation as a job: rank 0 does it, the other ranks have nothing to do."""
    if os.environ.get("RANK", "0") != "0":
        return EXIT_DONE
    path = Path(sweep_folder)
    try:
        _, report = evaluate_sweep(SweepFolder(RunsFolder(path.parent), path))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_WRONG_INPUT
    print(f"report: {report}", flush=True)
    return EXIT_DONE
