"""What SLURM's queue says, asked for at most every few seconds, for each cluster that has jobs of ours."""

from __future__ import annotations

import time

from slurm.errors import ClusterError
from slurm.queue import QueuedJob, queue
from sweeps.owner import Owner

_ASK_EVERY_S = 5.0


class Queues:
    """Answers whether a job is in its cluster's queue; a cluster is asked only where a job of it comes up."""

    def __init__(self, ask_every_s: float = _ASK_EVERY_S) -> None:
        self._ask_every_s = ask_every_s
        self._jobs: dict[str | None, dict[str, QueuedJob] | None] = {}
        self._asked: dict[str | None, float] = {}
        self.errors: dict[str | None, str] = {}
        """Cluster -> why it could not be asked."""

    def __call__(self, owner: Owner) -> bool | None:
        """Whether the owner's job is queued or running; None where its cluster does not answer."""
        jobs = self._queue(owner.slurm_conf)
        return None if jobs is None else owner.job_id in jobs

    def job(self, owner: Owner) -> QueuedJob | None:
        """The owner's job as the queue shows it; None where it is none, or not there."""
        if owner.job_id is None:
            return None
        return (self._queue(owner.slurm_conf) or {}).get(owner.job_id)

    def _queue(self, slurm_conf: str | None) -> dict[str, QueuedJob] | None:
        if time.monotonic() - self._asked.get(slurm_conf, float("-inf")) > self._ask_every_s:
            try:
                self._jobs[slurm_conf] = queue(slurm_conf)
                self.errors.pop(slurm_conf, None)
            except ClusterError as error:
                self._jobs[slurm_conf] = None
                self.errors[slurm_conf] = str(error)
            self._asked[slurm_conf] = time.monotonic()
        return self._jobs[slurm_conf]
