"""`harness sweep`: plan, preflight, launch, follow, evaluate, report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from harness.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SAVED, EXIT_WRONG_INPUT, InputError
from harness.screen import counted, say
from slurm.preflight import note_of_gpus
from slurm.profile import ClusterProfile
from slurm.profile_file import load_profile
from sweeps.apply import Changes, compare, last_plan, store
from sweeps.cluster import Submitted, submit_plan
from sweeps.config import SweepConfig, load_sweep
from sweeps.control import cancel_left
from sweeps.dataset import provide
from sweeps.evaluate import evaluate_here, evaluation_of, show_results
from sweeps.follow import follow_sweep, follower_of, show_status
from sweeps.grid import expand
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.local import train_here
from sweeps.plan import Identify, Plan, make_plan
from sweeps.preflight import evaluation_reasons, preflight, room_to_come_gb
from sweeps.queues import Queues
from sweeps.state import SILENT_AFTER_S, submitted_job
from sweeps.status import SweepStatus, sweep_status
from sweeps.table import print_changes, print_plan, savings, summary


@dataclass(frozen=True)
class Planned:
    """A sweep file, read and planned, and how it differs from what its folder holds."""

    sweep: SweepConfig
    plan: Plan
    folder: SweepFolder
    changes: Changes


def plan_sweep(path: str | Path, overrides: Sequence[str] = (), runs_dir: str | Path = "runs") -> Planned:
    """Reads and plans a sweep; writes nothing.

    Raises:
        InputError: a mistake in the file, in one sentence.
    """
    sweep = load_sweep(path, list(overrides))
    runs = expand(sweep, dataset_classes, str(path))
    plan = make_plan(sweep.name, runs, Identify())
    folder = RunsFolder(Path(runs_dir)).sweep(sweep.name)
    return Planned(sweep, plan, folder, compare(last_plan(folder), plan))


def dataset_classes(path: str) -> list[str]:
    """The classes of a packed dataset.

    Raises:
        DataError: there is none at `path`.
    """
    from harness.data.shards import Dataset

    return list(Dataset.open(path).classes)


def run_sweep(
    path: str | Path,
    *,
    cluster: str = "auto",
    overrides: Sequence[str] = (),
    data: Path | None = None,
    runs_dir: str | Path = "runs",
    detach: bool = False,
    dry_run: bool = False,
    retry_failed: bool = False,
    check: bool = True,
    cancel_gone: bool = False,
    console: Console | None = None,
) -> int:
    """Plans a sweep, trains what is missing, evaluates and reports; does nothing twice.

    Args:
        data: the user's own images in the place of the sweep's; see `provide`.
        detach: return once everything is submitted (SLURM only).
        check: refuse before anything starts what would fail later.
        cancel_gone: also cancel runs that left the sweep file, now or earlier.

    Returns:
        0 when the report is written (or, detached, when all is submitted), 1 when a run failed, 75 where the same call
        goes on: it was interrupted (Ctrl-C, or nobody reads the output any more), or runs were cancelled.

    Raises:
        InputError, ClusterError: the sentence says what to do.
    """
    console = console or Console()
    profile = load_profile(cluster)
    if detach and profile.executor != "slurm":
        raise InputError("--detach needs a SLURM cluster; here, run the command in the background (nohup ... &).")
    changes = [*overrides, *provide(str(path), overrides, data, console)]
    planned = plan_sweep(path, changes, runs_dir)
    profile = _with_limit(profile, planned.sweep)
    if dry_run:
        print_plan(console, planned.plan)
        if not planned.plan.missing:
            print_changes(console, planned.changes, cancel_gone)
        return EXIT_DONE
    console.print(f"{planned.sweep.name}: {savings(planned.plan)}", markup=False, soft_wrap=True)
    if check:
        _tell_gpus(profile, console)
        refuse(_reasons(planned, profile))
    elif planned.plan.missing:
        refuse(list(planned.plan.missing.values()))
    print_changes(console, planned.changes, cancel_gone)
    store(planned.sweep, planned.plan, planned.folder)
    if cancel_gone:
        cancel_left(planned.folder, planned.plan, console)
    try:
        if profile.executor == "slurm":
            return _on_slurm(planned, profile, detach, retry_failed, console)
        return _on_this_machine(planned, profile, retry_failed, console)
    except (KeyboardInterrupt, SystemExit):  # the second is rich's where the reader is gone, as behind `| head`
        return EXIT_SAVED


def _with_limit(profile: ClusterProfile, sweep: SweepConfig) -> ClusterProfile:
    return profile if sweep.max_parallel is None else profile.model_copy(update={"max_parallel": sweep.max_parallel})


def resume_sweep(
    folder: SweepFolder, *, cluster: str = "auto", detach: bool = False, check: bool = True, console: Console
) -> int:
    """Starts the failed and timed-out phases of a planned sweep again, with the configuration that is stored.

    Returns and raises as `run_sweep` does.
    """
    return run_sweep(
        folder.sweep,
        cluster=cluster,
        runs_dir=folder.runs.root,
        detach=detach,
        retry_failed=True,
        check=check,
        console=console,
    )


def preflight_sweep(
    path: str | Path, *, cluster: str, overrides: Sequence[str] = (), runs_dir: str | Path = "runs", console: Console
) -> int:
    """The checks alone: prints every reason and returns 2, or says that nothing speaks against it and returns 0."""
    profile = load_profile(cluster)
    provide(str(path), overrides, None, console)
    planned = plan_sweep(path, overrides, runs_dir)
    profile = _with_limit(profile, planned.sweep)
    _tell_gpus(profile, console)
    reasons = _reasons(planned, profile)
    for reason in reasons:
        console.print(f"- {reason}", markup=False, highlight=False, soft_wrap=True)
    if not reasons:
        said = f"{planned.sweep.name}: nothing speaks against running it with the cluster profile '{profile.name}'"
        console.print(said, markup=False, soft_wrap=True)
        room = f"{room_to_come_gb(planned.plan, planned.folder):.1f} GiB"
        say(console, f"checkpoints and weights of what is left to train take {room} of disk at the most")
    return EXIT_WRONG_INPUT if reasons else EXIT_DONE


def _tell_gpus(profile: ClusterProfile, console: Console) -> None:
    note = note_of_gpus(profile)
    if note:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _reasons(planned: Planned, profile: ClusterProfile) -> list[str]:
    trainings = preflight(planned.plan, planned.folder, profile)
    return [*trainings, *evaluation_reasons(planned.sweep.evaluate, planned.plan)]


def refuse(reasons: Sequence[str]) -> None:
    """Raises an error that gives every reason, if there is any."""
    if len(reasons) == 1:
        raise InputError(reasons[0])
    if reasons:
        raise InputError("\n".join([f"{len(reasons)} reasons not to start:", *(f"- {reason}" for reason in reasons)]))


def _on_this_machine(planned: Planned, profile: ClusterProfile, retry_failed: bool, console: Console) -> int:
    plan, folder = planned.plan, planned.folder
    queues = Queues()
    with follower_of(folder, plan, console, queues) as follower:
        outcome = train_here(plan, folder, profile, retry_failed=retry_failed, on_poll=follower.refresh)
    status = sweep_status(folder.runs, plan, queues)
    show_status(console, status, folder, plan)
    if outcome.interrupted:
        console.print("interrupted: everything is saved; the same command goes on from here", markup=False)
        return EXIT_SAVED
    return _report(folder, status, profile, console)


def _on_slurm(planned: Planned, profile: ClusterProfile, detach: bool, retry_failed: bool, console: Console) -> int:
    plan, folder = planned.plan, planned.folder
    queues = Queues()
    submitted = submit_plan(
        plan,
        folder,
        profile,
        queues,
        retry_failed=retry_failed,
        on_wait=lambda other: say(console, f"waiting for {other.shown}, which is submitting to {folder.runs.root}"),
    )
    for error in queues.errors.values():
        say(console, f"warning: {error} Until then what was submitted before counts as queued.")
    _tell_submitted(submitted, console)
    if detach:
        runs = shlex.quote(str(folder.runs.root))
        console.print(f"follow with: harness status --watch --runs {runs}", markup=False, soft_wrap=True)
        return EXIT_DONE
    try:
        status = follow_sweep(folder, plan, console)
        show_status(console, status, folder, plan)
        await_evaluation(folder, console)
    except KeyboardInterrupt:
        console.print("no longer following; the jobs go on, `harness status` shows them", markup=False)
        raise
    return _outcome(status, show_results(evaluation_of(folder), console), console)


def _tell_submitted(submitted: Submitted, console: Console) -> None:
    evaluation = f", evaluation as job {submitted.evaluation}" if submitted.evaluation else ""
    console.print(f"submitted {counted(len(submitted.phases), 'phase')}{evaluation}", markup=False)
    if submitted.elsewhere:
        count, owner = len(submitted.elsewhere), next(iter(submitted.elsewhere.values()))
        again = "run the same command again when it is through"
        say(console, f"{owner.shown} trains {counted(count, 'phase')} of these; {again}")
    if submitted.orphaned:
        more = f" and {len(submitted.orphaned) - 1} more" if len(submitted.orphaned) > 1 else ""
        why = "left the queue, but its trainer spoke a moment ago"
        again = f"run the same command again in {SILENT_AFTER_S / 60:.0f} min"
        say(console, f"{submitted.orphaned[0]}{more}: {why}; {again}")


def _report(folder: SweepFolder, status: SweepStatus, profile: ClusterProfile, console: Console) -> int:
    """Evaluates here what is trained, and says what is not."""
    some = any(row.state == "done" for row in status.rows)
    if some:
        evaluate_here(evaluation_of(folder), console, cluster=profile)
    return _outcome(status, some, console)


def await_evaluation(folder: SweepFolder, console: Console, poll_s: float = 1.0) -> None:
    """Waits until the evaluation's job has left the queue."""
    queues = Queues()
    job = submitted_job(folder.evaluation, queues)
    if job is None:
        return
    with console.status(f"evaluating ({job.shown})"):
        while submitted_job(folder.evaluation, queues) is not None:
            time.sleep(poll_s)


def _outcome(status: SweepStatus, reported: bool, console: Console) -> int:
    failed = [row for row in status.rows if row.state == "failed"]
    for row in failed:
        console.print(f"failed: {row.run} ({row.phase}): {row.error}", markup=False, soft_wrap=True)
    if not status.is_done:
        console.print(f"{status.sweep}: {summary(status)}", markup=False, soft_wrap=True)
        return EXIT_FAILURE if failed else EXIT_SAVED
    return EXIT_DONE if reported else EXIT_FAILURE
