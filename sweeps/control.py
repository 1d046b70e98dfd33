"""Finding a sweep under a runs folder, and `harness cancel`."""

from __future__ import annotations

import difflib
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from harness.errors import EXIT_DONE, InputError
from harness.process import process_start
from harness.screen import counted
from sweeps.apply import left_runs
from sweeps.config import load_sweep
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.owner import Owner, this_machine
from sweeps.plan import Plan, read_plan
from sweeps.queues import Queues, cancel_jobs
from sweeps.shares import evaluation_jobs
from sweeps.state import phase_state


def find_sweep_folder(runs_dir: str | Path, name: str | None = None) -> SweepFolder:
    """The sweep called `name` (or given by its sweep file) under a runs folder; without a name, the only one.

    Raises:
        InputError: there is none, or it is not clear which.
    """
    runs = RunsFolder(Path(runs_dir))
    known = list(runs.sweeps())
    names = [folder.name for folder in known]
    if name is None:
        if len(known) != 1:
            many = f"holds the sweeps {', '.join(names)}; name one."
            raise InputError(f"{runs_dir}: {many if known else 'holds no sweep; start one with `harness sweep`.'}")
        return known[0]
    wanted = load_sweep(name).name if is_sweep_file(name) else name
    if wanted not in names:
        known_ones = _nearest(wanted, names) or f"it has: {', '.join(names) or 'none'}."
        raise InputError(f"{runs_dir}: has no sweep '{wanted}'; {known_ones}")
    return runs.sweep(wanted)


def no_such_run(folder: SweepFolder, wrong: str, names: Iterable[str]) -> InputError:
    """What to raise where a sweep has no run of that name."""
    return InputError(
        f"{folder.name}: has no run '{wrong}'; {_nearest(wrong, names) or '`harness status` lists them.'}"
    )


def _nearest(wrong: str, names: Iterable[str]) -> str:
    """The end of a sentence that names what was meant; empty where nothing comes near."""
    near = difflib.get_close_matches(wrong, list(names), n=1)
    return f"did you mean '{near[0]}'?" if near else ""


def is_sweep_file(name: str) -> bool:
    """Whether a sweep is named by its file, not by its name."""
    return name.endswith((".yaml", ".yml"))


def cancel_sweep(folder: SweepFolder, run_names: Sequence[str], console: Console) -> int:
    """Cancels a sweep, or only some of its runs: what runs is saved and leaves, what waits never starts.

    What has left the sweep's file belongs to it still, under the name that it had. A phase that another run of this
    sweep still needs goes on.

    Raises:
        InputError: there is no such run.
    """
    plan = read_plan(folder.plan)
    left = left_runs(folder, plan)
    runs = {run.name: [*run.phases, *left.pop(run.name, ())] for run in plan.runs} | left
    for name in run_names:
        if name not in runs:
            raise no_such_run(folder, name, runs)
    kept = {key for name, keys in runs.items() if run_names and name not in run_names for key in keys}
    if not run_names:
        _cancel_evaluation(folder, console)
    cancel_phases(folder, dict.fromkeys(key for keys in runs.values() for key in keys if key not in kept), console)
    return EXIT_DONE


def cancel_left(folder: SweepFolder, plan: Plan, console: Console) -> None:
    """Cancels what has left the sweep's file, in `plan` or in one before; raises as `cancel_phases` does."""
    left = left_runs(folder, plan)
    cancel_phases(folder, dict.fromkeys(key for keys in left.values() for key in keys), console)


def cancel_phases(folder: SweepFolder, keys: Iterable[str], console: Console) -> None:
    """Cancels phases that no other sweep at work under the same runs folder needs.

    Raises:
        InputError: a process here trains them together with others; it can only be stopped as a whole.
    """
    queues, runs = Queues(), folder.runs
    owners = {key: phase_state(runs.phase(key), queues).owner for key in keys}
    held = {key: owner for key, owner in owners.items() if owner is not None}
    for key, other in _needed_elsewhere(folder, held, queues, console).items():
        console.print(f"{key}: another sweep needs it ({other}); left to that one", markup=False, soft_wrap=True)
        del held[key]
    cancel_jobs([owner for owner in held.values() if owner.job_id])
    rest = [key for key in _phases_of(folder) if key not in owners]
    for owner in {owner for owner in held.values() if not owner.job_id}:
        others = [key for key in rest if phase_state(runs.phase(key), queues).owner == owner]
        if others:
            raise InputError(f"{owner.shown} trains these together with {others[0]}; cancel the whole sweep instead.")
        _stop_process(owner)
    again = "; `harness sweep` goes on with what had begun" if held else ""
    console.print(f"cancelled {counted(len(held), 'phase')}{again}", markup=False)


def _needed_elsewhere(
    folder: SweepFolder, held: Mapping[str, Owner], queues: Queues, console: Console
) -> dict[str, str]:
    """Those of the phases `held` that another sweep at work needs -> its name.

    One that was cancelled itself needs nothing: of two sweeps, the second to be cancelled stops what both share.
    """
    found: dict[str, str] = {}
    for other in folder.runs.sweeps():
        if other.path == folder.path:
            continue
        try:
            phases = _phases_of(other)
        except InputError as error:
            console.print(f"note: {error}", markup=False, soft_wrap=True)
            continue
        shared = [key for key in phases if key in held]
        if shared and _is_at_work(other, [key for key in phases if key not in shared], queues):
            found |= dict.fromkeys(shared, other.name)
    return found


def _is_at_work(folder: SweepFolder, own: Iterable[str], queues: Queues) -> bool:
    """Whether an evaluation of the sweep, or one of its `own` phases, is in a queue or being worked on."""
    if evaluation_jobs(folder, queues):
        return True
    return any(phase_state(folder.runs.phase(key), queues).owner is not None for key in own)


def _phases_of(folder: SweepFolder) -> list[str]:
    return list(read_plan(folder.plan).phases)


def _stop_process(owner: Owner) -> None:
    """Asks a supervisor to stop, which saves and stops all that it trains.

    Raises:
        InputError: it works on another machine.
    """
    if owner.machine != this_machine():
        host = owner.machine.split("/")[0]
        raise InputError(f"{owner.shown} is on another machine; run `harness cancel` on {host}.")
    if process_start(owner.pid) == owner.started:
        os.kill(owner.pid, signal.SIGTERM)


def _cancel_evaluation(folder: SweepFolder, console: Console) -> None:
    jobs = evaluation_jobs(folder, Queues())
    if jobs:
        cancel_jobs(jobs)
        console.print(f"cancelled the evaluation ({jobs[-1].shown})", markup=False)
