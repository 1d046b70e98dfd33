"""What a job is, and the private file through which it reaches the task that runs it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.errors import ClusterError


@dataclass(frozen=True)
class Job:
    """One call `target(argument) -> exit code`, made on every rank.

    The target returns 0 (done), 75 (saved, run me again), 2 (wrong input) or anything else (failed), and can be called
    again after a death at any point.
    """

    name: str
    folder: Path
    """The job's own folder: what was submitted, when and under which id is noted there."""
    argument: str
    after: tuple[str, ...] = ()
    """Names of jobs that have to be done first, or only to have ended."""
    target: str = "harness.train.job:main"
    after_failure: bool = False
    """Whether it also starts where jobs that it comes after have failed or were cancelled."""


@dataclass(frozen=True)
class Payload:
    """What a task reads: the calls of an array's places, and the environment that they share."""

    jobs: dict[int, Job]
    environment: dict[str, str]
    max_requeues: int
    max_deaths: int
    threads: int
    """Threads of each rank, exported as OMP_NUM_THREADS."""
    gpus_per_node: int = 0
    """GPUs that each node was asked for; exported as HARNESS_GPUS_PER_NODE, so that ranks miss what is not there."""


def write_private(path: Path, text: str, *, sync: bool = True) -> None:
    """Writes a file that only its owner can read, by rename, so that no reader sees a part of it.

    `sync` waits until it would outlive a crash of the machine.

    Raises:
        OSError: it cannot be written; names the file, which a full disk does not.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def make_private(folder: Path) -> Path:
    """Creates a folder that only its owner can enter; one that exists and is the owner's is closed to others.

    Raises:
        ClusterError: it cannot be created, or belongs to someone else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise ClusterError(f"{folder}: cannot be made a private folder ({error.strerror}); give another.") from None
    return folder


def write_payload(path: Path, payload: Payload) -> None:
    """Writes `payload`; `read_payload` gives it back."""
    values = {
        "jobs": {
            place: {"name": j.name, "folder": str(j.folder), "argument": j.argument, "target": j.target}
            for place, j in payload.jobs.items()
        },
        "environment": payload.environment,
        "max_requeues": payload.max_requeues,
        "max_deaths": payload.max_deaths,
        "threads": payload.threads,
        "gpus_per_node": payload.gpus_per_node,
    }
    write_private(path, json.dumps(values, indent=1))


def read_payload(path: Path) -> Payload:
    """Reads what `write_payload` wrote.

    Raises:
        ClusterError: the file is missing, damaged, or could have been written by someone else.
    """
    text = read_own(path)
    try:
        values = json.loads(text)
        jobs = {int(place): _job(job) for place, job in values["jobs"].items()}
        limits = {key: int(values[key]) for key in ("max_requeues", "max_deaths", "threads")}
        gpus_per_node = int(values.get("gpus_per_node", 0))  # jobs of an older version may be in the queue
        return Payload(jobs, dict(values["environment"]), **limits, gpus_per_node=gpus_per_node)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"{path}: is not a payload of this version ({error!r}); submit again.") from None


def _job(values: Mapping[str, Any]) -> Job:
    return Job(str(values["name"]), Path(values["folder"]), str(values["argument"]), target=str(values["target"]))


def read_own(path: Path) -> str:
    """The text of a file that belongs to this user and that nobody else can write.

    A task imports and calls what such a file says, so a file of someone else would be someone else's code. The open
    file is examined, not its name.

    Raises:
        ClusterError: it is missing, someone else's, writable by others, or a link.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ClusterError(f"{path}: cannot be opened ({error.strerror}); submit again.") from None
    with os.fdopen(descriptor, encoding="utf-8") as file:
        about = os.fstat(file.fileno())
        if about.st_uid != os.getuid():
            raise ClusterError(f"{path}: belongs to user {about.st_uid}, not to you; nothing in it is run.")
        if stat.S_IMODE(about.st_mode) & 0o022:
            raise ClusterError(f"{path}: others may write it; take that right away (chmod go-w) or submit again.")
        return file.read()


def check_jobs(jobs: Sequence[Job], known: Sequence[str] = ()) -> None:
    """Refuses names that no line can hold, two jobs of one name, and waiting for something unknown or in a circle.

    `known` are names that may be waited for without being among the jobs.

    Raises:
        ClusterError: the sentence names the job.
    """
    names = [job.name for job in jobs]
    for job in jobs:
        if not (job.name + str(job.folder)).isprintable():
            raise ClusterError(f"job {job.name!r} in {str(job.folder)!r}: has a control character; rename it.")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ClusterError(f"two jobs are called '{twice[0]}'; give each a name of its own.")
    ready = set(known)
    waiting = list(jobs)
    while waiting:
        blocked = [job for job in waiting if not set(job.after) <= ready]
        if len(blocked) == len(waiting):
            job = blocked[0]
            missing = sorted(set(job.after) - ready)[0]
            why = "in a circle" if missing in names else "which is not among the jobs"
            raise ClusterError(f"job '{job.name}' waits for '{missing}', {why}; mend its order.")
        ready |= {job.name for job in waiting} - {job.name for job in blocked}
        waiting = blocked
