"""The note that a job leaves when all its ranks have left: how it ended, and why it comes back or does not."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from slurm.job import write_private

NOTE = "ended.json"

Outcome = Literal["done", "back", "left", "failed"]
"""back: it is in the queue again; left: it can go on, but nobody has it run again; failed: running again is no use."""


@dataclass(frozen=True)
class Ending:
    """How one start of a job ended."""

    job_id: str
    """SLURM's id, `ARRAY_PLACE` inside an array: a note of an earlier submission has another."""
    exit_code: int
    outcome: Outcome
    reason: str
    preemptions: int = 0
    """How often the job of this folder was preempted so far, over all submissions; only where it was given the time
    to leave."""


def note_ending(job_folder: Path, ending: Ending) -> None:
    """Leaves the note in the job's folder; raises OSError where that cannot be written."""
    write_private(job_folder / NOTE, json.dumps(asdict(ending), indent=1), sync=False)


def read_ending(job_folder: Path) -> Ending | None:
    """The last ending of a job of this folder; None where none has ended yet, or the note is damaged."""
    try:
        return Ending(**json.loads((job_folder / NOTE).read_bytes()))
    except (OSError, TypeError, ValueError):
        return None
