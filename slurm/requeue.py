"""After a job's ranks have left: does it come back? Run by the sbatch file as `python -m slurm.requeue PAYLOAD CODE`.

SLURM requeues by itself after preemption and node failure, if it got to kill the job; what left before that, because
it had saved, it takes for finished. A cancelled job must not come back. Runs once a job, after all ranks, so that no
rank is still writing when the job is started again. Imports nothing heavy.
"""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from slurm.ending import Ending, Outcome, note_ending, read_ending
from slurm.errors import EXIT_DONE, EXIT_SAVED, EXIT_WRONG_INPUT, ClusterError, death_of, has_died
from slurm.job import Payload, read_own, read_payload
from slurm.queue import ask, minutes, parse_fields

_PATIENCE_S = 600.0
"""A controller that is away so long (restarted, failing over) is waited for; a thousand jobs must not be lost by it."""
_AWAY = re.compile(r"contact slurm controller|did not answer|timed out|refused|unexpected message|zero bytes", re.I)


@dataclass(frozen=True)
class Decision:
    """What becomes of the job, and why."""

    outcome: Outcome
    reason: str
    requeue: bool = False
    """Whether it has to be put back into the queue; SLURM may be doing that already."""
    preempted: bool = False


def decide(code: int, job: dict[str, str], deaths: int, payload: Payload) -> Decision:
    """Decides from the job's exit code and what SLURM says about the job.

    Args:
        job: the fields of `scontrol show job`.
        deaths: deaths since the job last saved, this one included.
    """
    restarts = int(job.get("Restarts", "0"))
    preempted = _preempted_in_this_start(job)
    state = _state(job, preempted)
    saved = code == EXIT_SAVED
    if code == EXIT_DONE:
        return Decision("done", "finished")
    if not saved and not has_died(code):
        return Decision("failed", f"left with exit code {code}")
    if state != "RUNNING":
        if state == "TIMEOUT" and not saved:
            return Decision("failed", "reached its time limit before it had saved (raise signal_s)")
        return Decision("left", _ENDED_BY_SLURM.get(state, f"ended by SLURM: {state}"), preempted=preempted)
    if job.get("Requeue") == "0":
        return Decision("left", "this cluster does not let the job be requeued")
    if restarts >= payload.max_requeues:
        return Decision("left", f"was requeued {restarts} times already (max_requeues)")
    if not saved and deaths > payload.max_deaths:
        return Decision("failed", f"{death_of(code)}, died {deaths} times without saving in between (max_deaths)")
    if saved and preempted:
        return Decision("back", "was preempted, and had saved", requeue=True, preempted=True)
    return Decision("back", "saved and left before its end" if saved else death_of(code), True, preempted)


_ENDED_BY_SLURM = {
    "CANCELLED": "was cancelled",
    "TIMEOUT": "reached its time limit",
    "PREEMPTED": "was preempted",
}


def _state(job: dict[str, str], preempted: bool) -> str:
    """The job's state; `scontrol` says COMPLETING of every job that SLURM has ended and that is still leaving."""
    state = job.get("JobState", "UNKNOWN")
    if state != "COMPLETING":
        return state
    if preempted:
        return "PREEMPTED"
    return "TIMEOUT" if minutes(job.get("RunTime", "")) >= minutes(job.get("TimeLimit", "")) else "CANCELLED"


def _preempted_in_this_start(job: dict[str, str]) -> bool:
    """SLURM keeps the time of the last preemption over a requeue; both are ISO times of one clock."""
    at = job.get("PreemptTime", "None")
    if job.get("JobState") == "PREEMPTED":
        return True
    return at != "None" and at >= job.get("StartTime", "")


def count_deaths(note: Path, code: int) -> int:
    """The deaths since the job last saved, this one included; kept in a file beside the payload."""
    if not has_died(code):
        note.unlink(missing_ok=True)
        return 0
    with note.open("a", encoding="utf-8") as file:
        file.write(f"{code}\n")
    return len(note.read_text(encoding="utf-8").splitlines())


def job_id() -> str:
    """This job's id as scontrol takes it: an array's own id would mean all its places."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def restart_count() -> str:
    """How often this job was started again, as SLURM counts."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def saved_note(payload_path: Path) -> Path:
    """Where rank 0 notes that the job has saved and wants to be run again; it holds the number of the restart."""
    return payload_path.with_name(f"{job_id()}.saved")


def told_code(payload_path: Path, srun_code: int) -> int:
    """75 where rank 0 noted it in this start, whatever happened to the ranks while they left; else srun's code."""
    try:
        saved = read_own(saved_note(payload_path)) == restart_count()
    except ClusterError:
        saved = False
    return EXIT_SAVED if saved else srun_code


def main(payload_path: str, srun_code: int) -> int:
    """Requeues the job where that is right; returns the exit code that the job shall have."""
    code = told_code(Path(payload_path), srun_code)
    try:
        payload = read_payload(Path(payload_path))
        own = job_id()
        deaths = count_deaths(Path(payload_path).with_name(f"{own}.deaths"), code)
        fields = parse_fields(ask_patiently("scontrol", "show", "job", own, "--oneliner"))
        decision = decide(code, fields, deaths, payload)
        print(f"job {own}: {decision.reason}; {'requeue' if decision.requeue else 'no requeue'}", flush=True)
        _note(payload, own, code, decision)
        if decision.requeue:  # the last deed: SLURM ends this process with the job
            ask_patiently("scontrol", "requeue", own)
    except ClusterError as error:
        print(error, file=sys.stderr, flush=True)
    return code


def _note(payload: Payload, own: str, code: int, decision: Decision) -> None:
    """Leaves the ending in the job's folder; a full disk must not keep the job from coming back."""
    folder = payload.jobs[int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))].folder
    before = read_ending(folder)
    preemptions = (before.preemptions if before else 0) + decision.preempted
    try:
        note_ending(folder, Ending(own, code, decision.outcome, decision.reason, preemptions))
    except OSError as error:
        print(f"the end of the job could not be noted ({error})", file=sys.stderr, flush=True)


def ask_patiently(*words: str, patience_s: float = _PATIENCE_S) -> str:
    """`ask`, again and again while the controller cannot be reached.

    Raises:
        ClusterError: it answered with an error, or was away for longer than `patience_s`.
    """
    give_up_at, pause_s = time.monotonic() + patience_s, 1.0
    while True:
        try:
            return ask(*words)
        except ClusterError as error:
            if not _AWAY.search(str(error)) or time.monotonic() > give_up_at:
                raise
            print(f"{error} Asking again.", file=sys.stderr, flush=True)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 30.0)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print("usage: python -m slurm.requeue PAYLOAD EXIT_CODE", file=sys.stderr)
        sys.exit(EXIT_WRONG_INPUT)
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
