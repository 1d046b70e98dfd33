"""SLURM's queues of each cluster that has jobs of ours: asked at most every few seconds, and cancelling in them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

from slurm.errors import ClusterError
from slurm.queue import QueuedJob, cancel, queue
from sweeps.owner import Owner

_ASK_EVERY_S = 5.0
_ROUND_S = 0.1
"""An answer this young serves a whole round of questions, even about jobs that it does not show."""


class Queues:
    """Answers whether a job is in its cluster's queue; a cluster is asked only where a job of it comes up."""

    def __init__(self, ask_every_s: float = _ASK_EVERY_S) -> None:
        self._ask_every_s = ask_every_s
        self._jobs: dict[str | None, dict[str, QueuedJob] | None] = {}
        self._asked: dict[str | None, float] = {}
        self._newest: dict[str | None, int] = {}
        self.errors: dict[str | None, str] = {}
        """Cluster -> why it could not be asked."""

    def __call__(self, owner: Owner) -> bool | None:
        """Whether the owner's job is queued or running; None where its cluster does not answer."""
        if self._is_old(owner.slurm_conf) or self._may_have_missed(owner):
            self._ask(owner.slurm_conf)
            self._note_newest(owner.slurm_conf, owner.job_id)
        return None if self._jobs[owner.slurm_conf] is None else self._find(owner) is not None

    def job(self, owner: Owner) -> QueuedJob | None:
        """The owner's job as the queue shows it; None where it is none, or not there."""
        if owner.job_id is None:
            return None
        if self._is_old(owner.slurm_conf):
            self._ask(owner.slurm_conf)
        return self._find(owner)

    def jobs(self, slurm_conf: str | None) -> list[QueuedJob]:
        """All jobs of the user in a cluster's queue; none where it does not answer."""
        if self._is_old(slurm_conf):
            self._ask(slurm_conf)
        return list((self._jobs[slurm_conf] or {}).values())

    def _find(self, owner: Owner) -> QueuedJob | None:
        """The owner's job in the last answer, and no other one that has its id by now."""
        job = (self._jobs[owner.slurm_conf] or {}).get(str(owner.job_id))
        if job is None or not job.script or owner.folder is None:
            return job
        # A folder's name has its time and chance in it; the path before it may be another on this machine.
        return job if Path(job.script).parent.name == Path(owner.folder).name else None

    def _is_old(self, slurm_conf: str | None) -> bool:
        return time.monotonic() - self._asked.get(slurm_conf, float("-inf")) > self._ask_every_s

    def _may_have_missed(self, owner: Owner) -> bool:
        """Whether the job is not in the last answer, but may have been submitted after it.

        SLURM counts its ids up: a job up to the newest that was known by then was there before. So of the jobs of an
        array, or of older ones that are gone, one at most costs a question.
        """
        if time.monotonic() - self._asked[owner.slurm_conf] < _ROUND_S:
            return False
        jobs = self._jobs[owner.slurm_conf]
        newest = self._newest.get(owner.slurm_conf, 0)
        return jobs is not None and owner.job_id not in jobs and _number(owner.job_id) > newest

    def _note_newest(self, slurm_conf: str | None, *job_ids: str | None) -> None:
        self._newest[slurm_conf] = max([self._newest.get(slurm_conf, 0), *map(_number, job_ids)])

    def _ask(self, slurm_conf: str | None) -> None:
        try:
            self._jobs[slurm_conf] = jobs = queue(slurm_conf)
            self._note_newest(slurm_conf, *jobs)
            self.errors.pop(slurm_conf, None)
        except ClusterError as error:
            self._jobs[slurm_conf] = None
            self.errors[slurm_conf] = str(error)
        self._asked[slurm_conf] = time.monotonic()


def cancel_jobs(owners: Iterable[Owner]) -> None:
    """Takes SLURM jobs out of their queues, with one command for each cluster.

    Raises:
        ClusterError: SLURM refused.
    """
    by_cluster: dict[str | None, list[str]] = {}
    for owner in owners:
        by_cluster.setdefault(owner.slurm_conf, []).append(str(owner.job_id))
    for slurm_conf, ids in by_cluster.items():
        cancel(ids, slurm_conf)


def _number(job_id: str | None) -> int:
    """The number in front of a SLURM id, that of the whole array inside one; 0 where there is none."""
    found = re.match(r"\d+", job_id or "")
    return int(found.group()) if found else 0
