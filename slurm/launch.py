"""Submits jobs to SLURM through submitit, so that nothing has to keep running where they were submitted."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm import slurm as submitit_slurm

from slurm.batches import Batch, array_text, dependency_text, most_at_once, plan_batches
from slurm.deferred import signals_deferred
from slurm.errors import ClusterError
from slurm.job import Job, Payload, make_private, write_payload, write_private
from slurm.profile import ClusterProfile
from slurm.queue import client_environment, max_array_size
from slurm.submission import Submission, note_submission

__all__ = ["Job", "Submission", "submit"]

NOTED = "noted.txt"
"""Ids of the sbatch calls of a submission whose jobs all have their notes, one a line."""
# The batch shell must outlive the signals that end the ranks, or the job would end before they have saved; and, where
# the profile's own lines said `set -e`, ranks that died, or nothing would put the job back into the queue.
_OUTLIVE_THE_RANKS = ("set +e", "trap : TERM USR2 INT")


class SlurmExecutor(submitit_slurm.SlurmExecutor):
    """submitit's executor, for an sbatch of the site's own that says more than SLURM's: of quotas, or earlier jobs."""

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        text = string if isinstance(string, str) else string.decode("utf-8", "replace")
        found = re.findall(r"^Submitted batch job \d+", text, re.MULTILINE)
        return submitit_slurm.SlurmExecutor._get_job_id_from_submission_command(found[-1] if found else text)


def submit(
    jobs: Sequence[Job],
    profile: ClusterProfile,
    folder: Path,
    *,
    label: str = "harness",
    submitted: Mapping[str, str] | None = None,
    hold: bool = False,
) -> dict[str, Submission]:
    """Submits jobs of one shape: arrays of those that wait for the same, dependencies between them.

    At most `max_parallel` of them run at the same time.

    Args:
        folder: where payloads, sbatch files and logs go; private, on a file system that the compute nodes share.
        label: the name of the arrays in the queue; a job of its own is called by its own name.
        submitted: name -> SLURM id of jobs that are in the queue already and that `after` may name. Jobs that are
            done must not be waited for.
        hold: submit, but let nothing start.

    Raises:
        ClusterError: sbatch refused; what it said is in the sentence. Jobs submitted before that stay noted.
    """
    if not (label + str(folder.absolute())).isprintable():
        raise ClusterError(f"{label!r} in {str(folder)!r}: has a control character; rename it.")
    if "%" in str(folder.absolute()):
        raise ClusterError(f"{folder}: SLURM replaces '%' in paths of logs; give a folder without it.")
    own = make_private(make_private(folder) / f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}").absolute()
    write_private(own / NOTED, "")
    ids = dict(submitted or {})
    batch_ids: dict[int, str] = {}
    submissions: dict[str, Submission] = {}
    with client_environment(profile.slurm_conf), _private_files():
        batches = plan_batches(jobs, max_array_size(), ids)
        # The throttle of an array knows nothing of other arrays: where two could exceed it together, they take turns.
        one_by_one = most_at_once(jobs) > profile.max_parallel
        for number, batch in enumerate(batches):
            dependency = dependency_text(batch, batches, batch_ids, ids, one_by_one)
            with signals_deferred():  # a job in the queue without its note would be lost
                batch_ids[number], script = _submit_batch(batch, number, profile, own, label, dependency, hold)
                noted = _note_batch(batch, batch_ids[number], script, profile, own)
            submissions |= noted
            ids |= {name: submission.job_id for name, submission in noted.items()}
    return submissions


def _note_batch(batch: Batch, batch_id: str, script: str, profile: ClusterProfile, own: Path) -> dict[str, Submission]:
    noted = {}
    for place, job in batch.jobs.items():
        job_id = f"{batch_id}_{place}" if batch.is_array else batch_id
        noted[job.name] = describe(job, job_id, profile, own)
        note_submission(job, noted[job.name], script)
    with (own / NOTED).open("a") as file:
        file.write(f"{batch_id}\n")
    return noted


def describe(job: Job, job_id: str, profile: ClusterProfile, own: Path) -> Submission:
    """The note of a job that is in the queue under this id."""
    return Submission(job.name, job_id, "slurm", profile.name, str(own), f"{job_id}_*_log.*", conf_of(profile))


def conf_of(profile: ClusterProfile) -> str | None:
    """The cluster's slurm.conf, as notes name it; None where it is the system's."""
    return str(Path(profile.slurm_conf).absolute()) if profile.slurm_conf else None


def _submit_batch(
    batch: Batch, number: int, profile: ClusterProfile, own: Path, label: str, dependency: str, hold: bool
) -> tuple[str, str]:
    """Returns SLURM's id and the text of the sbatch file."""
    payload = own / f"payload_{number}.json"
    write_payload(payload, payload_of(batch.jobs, profile))
    name = label if batch.is_array else batch.jobs[0].name
    executor = make_executor(profile, own, payload, name, dependency, batch, hold)
    try:
        job = executor._submit_command(task_command(profile, payload))
    except (FailedJobError, FailedSubmissionError) as error:
        said = " ".join(str(error).split())
        raise ClusterError(f"sbatch refused the job '{name}' ({said}); mend the profile '{profile.name}'.") from None
    return job.job_id, job.paths.submission_file.read_text(encoding="utf-8")


def payload_of(jobs: dict[int, Job], profile: ClusterProfile) -> Payload:
    """What the tasks of these jobs are told."""
    limits = (profile.max_requeues, profile.max_deaths, profile.cpus_per_task, profile.gpus_per_node)
    return Payload(jobs, dict(profile.environment), *limits)


def task_command(profile: ClusterProfile, payload: Path) -> str:
    """The shell command of one rank, each word quoted."""
    return shlex.join([*profile.container, profile.python or sys.executable, "-u", "-m", "slurm.task", str(payload)])


def make_executor(
    profile: ClusterProfile, own: Path, payload: Path, name: str, dependency: str, batch: Batch, hold: bool
) -> SlurmExecutor:
    """submitit's executor with everything that the sbatch file says."""
    executor = SlurmExecutor(own, python=shlex.quote(profile.python or sys.executable))
    # The last line sees srun's exit code, and decides whether the job has to come back. It runs outside the container,
    # whose Python is not there.
    python = sys.executable if profile.container else profile.python or sys.executable
    after_ranks = f'exec {shlex.quote(python)} -m slurm.requeue {shlex.quote(str(payload))} "$?"'
    options: dict[str, object] = {"requeue": True, "kill-on-invalid-dep": "yes", **profile.options}
    if hold:
        options["hold"] = True
    if batch.is_array:
        options["array"] = array_text(list(batch.jobs), profile.max_parallel)
    parameters = {
        "job_name": name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": profile.time_min,
        "nodes": profile.nodes,
        "ntasks_per_node": profile.ranks_per_node,
        "cpus_per_task": profile.cpus_per_task,
        "gpus_per_node": profile.gpus_text,
        "mem": None if profile.memory_gb is None else f"{int(profile.memory_gb * 1024)}M",
        "dependency": dependency or None,
        "signal_delay_s": profile.signal_s,
        "wckey": None,
        "setup": [*profile.setup, *_OUTLIVE_THE_RANKS],
        "teardown": [after_ranks],
        "srun_args": _srun_words(profile),
        "additional_parameters": {key: value for key, value in options.items() if value is not False},
    }
    executor.update_parameters(
        **{key: value for key, value in parameters.items() if value is not None or key == "wckey"}
    )
    if batch.is_array:
        executor.parameters["map_count"] = len(batch.jobs)
    return executor


def _srun_words(profile: ClusterProfile) -> list[str]:
    return [
        "--open-mode=append",  # a requeued job goes on in the same logs
        "--kill-on-bad-exit=1",  # one dead rank ends all, else the others wait for it in a collective
        "--wait=600",  # but ranks may be done long before rank 0 has written; sites set less than that
        f"--cpus-per-task={profile.cpus_per_task}",  # srun no longer takes this over from sbatch (22.05)
    ]


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
