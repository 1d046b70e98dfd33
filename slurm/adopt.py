"""Jobs in the queue that a killed submitter had no time to note: they are noted later, as it would have done.

Without that a phase would be submitted twice. A job's sbatch file says where it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from slurm.errors import ClusterError
from slurm.job import Job, read_payload
from slurm.launch import NOTED, describe
from slurm.profile import ClusterProfile
from slurm.queue import QueuedJob
from slurm.submission import note_submission, read_submission


def adopt(folder: Path, profile: ClusterProfile, queued: Iterable[QueuedJob]) -> list[str]:
    """Notes jobs of earlier submissions to `folder` that were not noted; returns their names.

    One whose place has been taken by another job in the queue is left alone. Not for two processes at once.
    """
    by_id = {job.job_id: job for job in queued}
    adopted = []
    for job_id, seen in by_id.items():
        own = folder.absolute() / Path(seen.script).parent.name
        if not seen.script or not _is_unnoted(job_id, own):
            continue
        job = _job_of(seen, own)
        before = read_submission(job.folder) if job is not None else None
        if job is not None and (before is None or before.job_id not in by_id):
            note_submission(job, describe(job, job_id, profile, own), None)
            adopted.append(job.name)
    return adopted


def _is_unnoted(job_id: str, own: Path) -> bool:
    """Whether a job came from the submission in the folder `own`, which ended before it could note it."""
    try:
        return job_id.partition("_")[0] not in (own / NOTED).read_text().split()
    except OSError:
        return False


def _job_of(seen: QueuedJob, own: Path) -> Job | None:
    """What a job in the queue does, by the payload that its sbatch file names; submitit renames that after sbatch."""
    batch_id, _, place = seen.job_id.partition("_")
    for script in (own / Path(seen.script).name, own / f"{batch_id}_submission.sh"):
        try:
            found = re.search(r"payload_\d+\.json", script.read_text(encoding="utf-8"))
            return read_payload(own / found.group()).jobs.get(int(place or 0)) if found else None
        except (OSError, ClusterError):
            continue
    return None
