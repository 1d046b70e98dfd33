"""Who is working on something: a process on a machine or a SLURM job, and whether it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness.process import process_start
from slurm.submission import Submission


@dataclass(frozen=True)
class Owner:
    """A process (machine, pid and start time, since pids come again) or a SLURM job."""

    machine: str
    pid: int
    started: str
    job_id: str | None = None
    slurm_conf: str | None = None
    """The cluster of `job_id`, where it is not the machine's own."""
    folder: str | None = None
    """Where the job's sbatch file lies: SLURM gives ids again, at the latest when a cluster is set up anew."""

    @property
    def shown(self) -> str:
        return f"job {self.job_id}" if self.job_id else f"process {self.pid} on {self.machine.split('/')[0]}"


JobAlive = Callable[[Owner], "bool | None"]
"""A SLURM job -> whether it is queued or running; None where nobody can tell."""


def job_of(submission: Submission) -> Owner:
    """The SLURM job of a submission."""
    return Owner("", 0, "", submission.job_id, submission.slurm_conf, submission.folder)


def this_process() -> Owner:
    return Owner(this_machine(), os.getpid(), process_start(os.getpid()) or "")


@lru_cache(maxsize=1)
def this_machine() -> str:
    """The host, its boot and the process namespace: only within all three does a pid mean the same process."""
    boot = _first_line(Path("/proc/sys/kernel/random/boot_id")) or ""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return "/".join([socket.gethostname(), boot, namespace])


def is_alive(owner: Owner, heartbeat_age_s: Callable[[], float], stale_after_s: float, job_alive: JobAlive) -> bool:
    """Whether an owner still lives.

    A process of this machine is looked up, a SLURM job is asked for, and all else goes by the heartbeat's age.
    """
    if owner.job_id is not None:
        known = job_alive(owner)
        return True if known is None else known
    if owner.machine == this_machine():
        return process_start(owner.pid) == owner.started
    return heartbeat_age_s() < stale_after_s


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
