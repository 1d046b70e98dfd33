"""SLURM's own view: the queue, a job, a partition, read through its command line."""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slurm.errors import ClusterError

# What would make sbatch believe that it is inside another job, or hand a rank another job's place.
_JOB_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("HARNESS_SUPERVISED", "HARNESS_LOCAL_PORT"),
)
_OWN_PLACE = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
# Options that a shell's start-up file gives SLURM's clients: SQUEUE_STATES hides jobs, which would then be submitted
# twice, SCANCEL_STATE spares them, and SBATCH_TIMELIMIT and its like win over what stands in the sbatch file.
_CLIENT_OPTIONS = ("SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_", "SBATCH_", "SALLOC_")


def client_variables(slurm_conf: str | None) -> dict[str, str]:
    """The environment for SLURM's clients and for new ranks: as if outside any job, and for this slurm.conf.

    The clients get no options but those of their command. Without `slurm_conf` it is the one that SLURM_CONF names
    already, or the system's.
    """
    left_out = (*_OWN_PLACE, *_CLIENT_OPTIONS)
    variables = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not (name.startswith(left_out) or name in _JOB_VARIABLES)
    }
    if slurm_conf:
        variables["SLURM_CONF"] = str(Path(slurm_conf).absolute())
    return variables


@contextlib.contextmanager
def client_environment(slurm_conf: str | None) -> Iterator[None]:
    """Makes `client_variables` this process's own environment for a while; not for several threads."""
    before = dict(os.environ)
    wanted = client_variables(slurm_conf)
    for name in before.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def ask(*words: str, timeout_s: float = 60, slurm_conf: str | None = None) -> str:
    """The output of one of SLURM's commands.

    Raises:
        ClusterError: the command is missing, failed, or did not answer in time.
    """
    environment = client_variables(slurm_conf)
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # the paths of the user's other jobs may be in any encoding
            timeout=timeout_s,
            check=False,
            env=environment,
        )
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


def minutes(text: str) -> float:
    """SLURM's time limit, `[DAYS-]HOURS:MINUTES:SECONDS` or UNLIMITED, in minutes."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not found:
        return math.inf
    days, hours, mins, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + mins + seconds / 60


def max_array_size() -> int:
    """SLURM's MaxArraySize: an array's places go from 0 to one less. 1, that is single jobs, where it allows none."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(found.group(1))) if found else 1001


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
    script: str = ""
    """Path of its sbatch file; empty where it is not known."""


def queue(slurm_conf: str | None = None) -> dict[str, QueuedJob]:
    """The user's jobs that are queued or running, by SLURM's id (`ARRAY_PLACE` inside an array)."""
    fields = "ArrayJobID,ArrayTaskID,State,Reason,NodeList,RestartCnt,SubmitTime,StartTime,Command"
    form = ",".join(f"{name}:|" for name in fields.split(","))
    # --all: without it no job in a hidden partition is shown, and it would be submitted again.
    words = ["squeue", "--all", "--noheader", "--array", "--user", str(os.getuid()), "--Format", form]
    text = ask(*words, slurm_conf=slurm_conf)
    jobs = [_queued(line) for line in text.splitlines() if line.count("|") >= fields.count(",")]
    return {job.job_id: job for job in jobs}


def _queued(line: str) -> QueuedJob:
    array_id, place, state, reason, nodes, restarts, submitted, started, script = (
        part.strip() for part in line.strip().removesuffix("|").split("|", maxsplit=8)
    )
    job_id = array_id if place == "N/A" else f"{array_id}_{place}"
    job = QueuedJob(job_id, state, reason, nodes, int(restarts or 0), submitted, started)
    return replace(job, script=script) if _says_where_from(script) else job


def _says_where_from(script: str) -> bool:
    """Whether it is the file that was submitted; a site's own sbatch may have sent a copy of it, or its text alone."""
    return script.startswith("/") and Path(script).name != "slurm_script"


def cancel(job_ids: Sequence[str], slurm_conf: str | None = None) -> None:
    """Cancels jobs: they save, leave, and do not come back. Ids that are no longer in the queue are no error."""
    for start in range(0, len(job_ids), 200):
        ask("scancel", "--quiet", *job_ids[start : start + 200], slurm_conf=slurm_conf)
