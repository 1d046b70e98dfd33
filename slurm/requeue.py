"""After a job's ranks have left: does it come back? Run by the sbatch file as `python -m slurm.requeue PAYLOAD CODE`.

SLURM requeues by itself after preemption and node failure, if it got to kill the job; what left before that, because
it had saved, it takes for finished. A cancelled job must not come back. Runs once a job, after all ranks, so that no
rank is still writing when the job is started again. Imports nothing heavy.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from slurm.errors import EXIT_DONE, EXIT_SAVED, EXIT_WRONG_INPUT, ClusterError, has_died
from slurm.job import Payload, read_own, read_payload
from slurm.queue import ask, parse_fields


@dataclass(frozen=True)
class Decision:
    """Whether the job is put back into the queue, and why (not)."""

    requeue: bool
    reason: str


def decide(code: int, job: dict[str, str], deaths: int, payload: Payload) -> Decision:
    """Decides from the job's exit code and what SLURM says about the job.

    Args:
        job: the fields of `scontrol show job`.
        deaths: deaths since the job last saved, this one included.
    """
    restarts = int(job.get("Restarts", "0"))
    state = job.get("JobState", "UNKNOWN")
    if code == EXIT_DONE:
        return Decision(False, "done")
    if code != EXIT_SAVED and not has_died(code):
        return Decision(False, f"failed with exit code {code}")
    if state != "RUNNING":
        return Decision(False, f"SLURM has already decided: {state}")
    if job.get("Requeue") == "0":
        return Decision(False, "this cluster does not let the job be requeued")
    if restarts >= payload.max_requeues:
        return Decision(False, f"was requeued {restarts} times already (max_requeues)")
    if code != EXIT_SAVED and deaths > payload.max_deaths:
        return Decision(False, f"died {deaths} times without saving in between (max_deaths)")
    how = "saved and left" if code == EXIT_SAVED else f"died (exit code {code})"
    return Decision(True, f"{how} before its end")


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
        decision = decide(code, parse_fields(ask("scontrol", "show", "job", own, "--oneliner")), deaths, payload)
        print(f"job {own}: {decision.reason}; {'requeue' if decision.requeue else 'no requeue'}", flush=True)
        if decision.requeue:
            ask("scontrol", "requeue", own)
    except ClusterError as error:
        print(error, file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print("usage: python -m slurm.requeue PAYLOAD EXIT_CODE", file=sys.stderr)
        sys.exit(EXIT_WRONG_INPUT)
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
