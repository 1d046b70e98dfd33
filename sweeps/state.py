"""What has become of a phase, from the files in its folder: the trainer's own word, checked against who still lives."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.process import process_start
from slurm.ending import Ending, read_ending
from slurm.errors import ClusterError
from slurm.submission import Submission, read_submission
from sweeps.layout import RunsFolder, read_json, write_atomically
from sweeps.lock import holder
from sweeps.owner import JobAlive, Owner, job_of
from sweeps.plan import Plan, PlannedRun

State = Literal["missing", "queued", "running", "saved", "failed", "done"]
"""missing: never started; queued: somebody will train it; saved: it left before the end, or died, and can go on."""

_SLURMS_OWN = ("srun:", "slurmstepd:")
SILENT_AFTER_S = 300.0
"""A trainer on another machine that has said nothing for so long is taken for dead, where nobody can be asked."""


@dataclass(frozen=True)
class PhaseState:
    """One phase's state, who holds it, and the trainer's last words."""

    state: State
    owner: Owner | None = None
    status: dict[str, Any] = field(default_factory=dict)
    ending: Ending | None = None
    """How a SLURM job last ended in its folder."""

    @property
    def step(self) -> int | None:
        return self.status.get("step")

    @property
    def error(self) -> str | None:
        return self.status.get("error")


def phase_state(folder: Path, job_alive: JobAlive) -> PhaseState:
    """The state of the phase in `folder`.

    `done` needs the exported generator too, so that a phase whose result was removed is trained again.
    """
    status = read_json(folder / "status.json") or {}
    said, ending = status.get("state"), read_ending(folder)
    if said == "done" and (folder / "generator.safetensors").is_file():
        return PhaseState("done", None, status, ending)
    job_alive = unless_ended(folder, job_alive)
    owner = holder(folder, job_alive) or submitted_job(folder, job_alive)
    if said == "running" and (owner is not None or _trainer_lives(status)):
        return PhaseState("running", owner, status, ending)
    if owner is not None:
        return PhaseState("queued", owner, status, ending)
    last = ending if ending is not None and _is_of_last_job(ending, folder) else None
    if said == "failed" or (last is not None and last.outcome == "failed"):
        return PhaseState("failed", None, status, ending)
    if not status and last is None and _left_without_a_word(folder):
        return PhaseState("failed", None, status, ending)
    return PhaseState("saved" if status else "missing", None, status, ending)


def _is_of_last_job(ending: Ending, folder: Path) -> bool:
    """Whether it is of the last submission, not of one before."""
    submission = _read_note(folder)
    return submission is not None and submission.job_id == ending.job_id


def phase_states(runs: RunsFolder, plan: Plan, job_alive: JobAlive) -> dict[str, PhaseState]:
    """The state of every phase of a plan; each folder is read once."""
    return {key: phase_state(runs.phase(key), job_alive) for key in plan.phases}


def needed(plan: Plan, states: dict[str, PhaseState]) -> set[str]:
    """Phases that are still to be trained: of each run those after the last one that is finished.

    So the folder of a phase may be removed once what comes after it is there.
    """
    found: set[str] = set()
    for run in plan.runs:
        found.update(phases_ahead(run, states))
    return found


def phases_ahead(run: PlannedRun, states: dict[str, PhaseState]) -> tuple[str, ...]:
    """Keys of a run's phases after the last one that is finished."""
    num_behind = max((number for number, key in enumerate(run.phases, 1) if states[key].state == "done"), default=0)
    return run.phases[num_behind:]


def blocked(plan: Plan, states: dict[str, PhaseState]) -> set[str]:
    """Phases that cannot be trained because a phase before them failed."""
    found: set[str] = set()
    for key, phase in plan.phases.items():
        parent = phase.parent
        if parent is not None and (parent in found or states[parent].state == "failed"):
            found.add(key)
    return found - {key for key, state in states.items() if state.state == "done"}


def submitted_job(folder: Path, job_alive: JobAlive) -> Owner | None:
    """The SLURM job noted in the folder, if it lives: a submitter may have died before it handed its claim over.

    Where nobody can tell, it lives: a controller that is away for a moment ends nothing.
    """
    note = _read_note(folder)
    if note is None or note.executor != "slurm":
        return None
    owner = job_of(note)
    return None if unless_ended(folder, job_alive)(owner) is False else owner


def unless_ended(folder: Path, job_alive: JobAlive) -> JobAlive:
    """`job_alive`; but where nobody can tell, a job that noted in the folder that it left for good is gone."""

    def known(owner: Owner) -> bool | None:
        alive = job_alive(owner)
        ending = read_ending(folder) if alive is None else None
        left = ending is not None and ending.job_id == owner.job_id and ending.outcome != "back"
        return False if left else alive

    return known


def _left_without_a_word(folder: Path) -> bool:
    """Whether a SLURM job began, and left the queue before the trainer could write anything.

    One that is to come back would still be in the queue.
    """
    submission = _read_note(folder)
    return submission is not None and submission.executor == "slurm" and bool(submission.log_files(0))


def note_failure(folder: Path, error: str) -> None:
    """Says in place of a trainer that is gone why it failed, unless it has said so itself."""
    status = read_json(folder / "status.json") or {}
    if status.get("state") != "failed":
        write_atomically(folder / "status.json", json.dumps({**status, "state": "failed", "error": error}))


def last_error_line(folder: Path) -> str:
    """The last line that rank 0 of a job wrote to its error log; failing that, SLURM's last error in there."""
    submission = _read_note(folder)
    for path in [path for path in (submission.log_files(0) if submission else []) if path.suffix == ".err"]:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        own = [line for line in lines if not line.startswith(_SLURMS_OWN)]
        said = own or [line for line in lines if "error:" in line and "STEP" not in line] or lines
        if said:
            return said[-1]
    return ""


def _read_note(folder: Path) -> Submission | None:
    """The note of the last submission; one that is damaged says nothing."""
    try:
        return read_submission(folder)
    except ClusterError:
        return None


def _trainer_lives(status: dict[str, Any]) -> bool:
    """Whether the trainer that wrote `status` still works, for instance as the orphan of a killed supervisor."""
    if status.get("host") == socket.gethostname():  # whatever a clock says; a start is "" where there is no /proc
        return process_start(int(status.get("pid") or 0)) == (status.get("pid_started") or "")
    return time.time() - float(status.get("updated") or 0) < SILENT_AFTER_S
