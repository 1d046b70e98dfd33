"""SLURM's own view: the queue, a job, a partition, read through its command line."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm.errors import ClusterError

# What would make sbatch believe that it is inside another job, or hand a rank another job's place.
_JOB_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("HARNESS_SUPERVISOR_PID", "HARNESS_LOCAL_PORT"),
)


@contextlib.contextmanager
def client_environment(slurm_conf: str | None) -> Iterator[None]:
    """Runs SLURM's clients against `slurm_conf` (None: the system's), and as if outside any job."""
    before = dict(os.environ)
    for name in before:
        own_place = name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) or name in _JOB_VARIABLES
        if own_place and name != "SLURM_CONF":
            del os.environ[name]
    if slurm_conf:
        os.environ["SLURM_CONF"] = str(Path(slurm_conf).absolute())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def ask(*words: str, timeout_s: float = 60) -> str:
    """The output of one of SLURM's commands.

    Raises:
        ClusterError: the command is missing, failed, or did not answer in time.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError:
        raise ClusterError(
            f"`{words[0]}` is not here; log in to a machine of the cluster, or use --cluster local."
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"`{words[0]}` did not answer within {timeout_s:.0f} s; ask whether the cluster is up."
        ) from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise ClusterError(f"`{' '.join(words[:3])}` failed ({said}); ask whether the cluster is up.")
    return done.stdout


def parse_fields(text: str) -> dict[str, str]:
    """`Key=value Key=value` as `scontrol --oneliner` prints it; a value may hold spaces."""
    return {
        key: value.strip()
        for key, value in re.findall(r"(?:^|\s)([A-Za-z][\w:/.]*)=(.*?)(?=\s[A-Za-z][\w:/.]*=|$)", text.strip())
    }


def max_array_size() -> int:
    """SLURM's MaxArraySize: an array's places go from 0 to one less."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    return int(found.group(1)) if found else 1001


@dataclass(frozen=True)
class QueuedJob:
    """A job as squeue shows it."""

    job_id: str
    state: str
    """SLURM's long name: PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    nodes: str
    restarts: int
    submitted: str
    """ISO time without a zone, the cluster's."""
    started: str


def queue(slurm_conf: str | None = None) -> dict[str, QueuedJob]:
    """The user's jobs that are queued or running, by SLURM's id (`ARRAY_PLACE` inside an array)."""
    fields = "ArrayJobID,ArrayTaskID,State,Reason,NodeList,RestartCnt,SubmitTime,StartTime"
    form = ",".join(f"{name}:|" for name in fields.split(","))
    with client_environment(slurm_conf):
        text = ask("squeue", "--noheader", "--array", "--user", str(os.getuid()), "--Format", form)
    jobs = [_queued(line) for line in text.splitlines() if line.strip()]
    return {job.job_id: job for job in jobs}


def _queued(line: str) -> QueuedJob:
    array_id, place, state, reason, nodes, restarts, submitted, started = (
        part.strip() for part in line.strip().removesuffix("|").split("|")
    )
    job_id = array_id if place == "N/A" else f"{array_id}_{place}"
    return QueuedJob(job_id, state, reason, nodes, int(restarts or 0), submitted, started)


def cancel(job_ids: Sequence[str], slurm_conf: str | None = None) -> None:
    """Cancels jobs: they save, leave, and do not come back. Ids that are no longer in the queue are no error."""
    with client_environment(slurm_conf):
        for start in range(0, len(job_ids), 200):
            ask("scancel", "--quiet", *job_ids[start : start + 200])
