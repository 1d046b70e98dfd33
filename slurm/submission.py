"""The note in a job's folder that says where it was submitted, under which id, and where its logs are."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from slurm.errors import ClusterError
from slurm.job import Job, make_private, write_private

NOTE = "submission.json"
SCRIPT_COPY = "sbatch.sh"


@dataclass(frozen=True)
class Submission:
    """One job as it was handed to SLURM or to the local supervisor."""

    name: str
    job_id: str
    """SLURM's id, `ARRAY_PLACE` inside an array; `local-...` for the supervisor."""
    executor: str
    profile: str
    folder: str
    """Where the payload, the sbatch file and the logs lie."""
    logs: str
    """Pattern of the ranks' log files inside `folder`; rank 0 is `*_0_log.*`."""
    slurm_conf: str | None = None
    submitted: float = field(default_factory=time.time)

    def log_files(self, rank: int | None = None) -> list[Path]:
        """The log files that exist: of all ranks, or of one; output before errors."""
        found = sorted(Path(self.folder).glob(self.logs), key=lambda path: (path.suffix != ".out", path.name))
        return found if rank is None else [path for path in found if f"_{rank}_log" in path.name]


def note_submission(job: Job, submission: Submission, script: str | None) -> None:
    """Leaves the note, and the text of the sbatch file where there is one, in the job's folder.

    The note has the submission's folder as seen from the job's, so that logs are found where both were moved.
    """
    make_private(job.folder)
    noted = replace(submission, folder=os.path.relpath(submission.folder, job.folder))
    write_private(job.folder / NOTE, json.dumps(asdict(noted), indent=1), sync=False)
    if script is not None:
        write_private(job.folder / SCRIPT_COPY, script, sync=False)


def read_submission(job_folder: Path) -> Submission | None:
    """The note in a job's folder; None where it was never submitted.

    Raises:
        ClusterError: the note is damaged.
    """
    path = job_folder / NOTE
    try:
        noted = Submission(**json.loads(path.read_text(encoding="utf-8")))
        # By names alone, as it was written: a folder on the way may be a link.
        return replace(noted, folder=os.path.normpath(job_folder.absolute() / noted.folder))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise ClusterError(f"{path}: cannot be read ({error}); remove it and submit again.") from None
