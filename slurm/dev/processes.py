"""Which processes of this machine belong to the jobs of a development cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def job_processes(conf: Path, nodes: Sequence[str], node: str | None) -> list[int]:
    """Processes of jobs (of one node): ranks, batch shells, and SLURM's own attendants of each step.

    Args:
        conf: the cluster's slurm.conf, in its folder.
        nodes: all nodes of the cluster.
        node: the one that is meant; None means all.
    """
    mark = f"SLURM_CONF={conf}".encode()
    name = None if node is None else f"SLURMD_NODENAME={node}".encode()
    found = []
    for pid, environment in _environments():
        of_job = mark in environment and any(line.startswith(b"SLURM_JOB_ID=") for line in environment)
        if of_job and (name is None or name in environment):
            found.append(pid)
    return found + _attendants(conf.parent / "log", nodes if node is None else [node])


def _attendants(logs: Path, nodes: Sequence[str]) -> list[int]:
    """slurmstepd processes, known by the log of their node that they hold open."""
    known = {f"{logs}/slurmd-{node}.log" for node in nodes}
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if not words.startswith((b"slurmstepd", b"/usr/sbin/slurmstepd")):
                continue
            if known & {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}:
                found.append(pid)
    return found


def is_alive(pid: int | None) -> bool:
    """Whether there is such a process, and it is no zombie."""
    if pid is None:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    for pid in _pids():
        with contextlib.suppress(OSError):
            yield pid, Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def _pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            yield int(entry.name)
