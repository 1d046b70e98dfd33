"""What `squeue` prints, read."""

from __future__ import annotations

import pytest

from slurm import queue as queue_module
from slurm.queue import QueuedJob, queue


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("/runs/s/jobs/20260101T000000-abc/submission.sh", "/runs/s/jobs/20260101T000000-abc/submission.sh"),
        ("/runs/a|b/submission.sh", "/runs/a|b/submission.sh"),
        ("/var/spool/slurmd/job00005/slurm_script", ""),
        ("(null)", ""),
        ("submission.sh", ""),
        ("", ""),
    ],
)
def test_file_of_a_job_is_known_only_where_squeue_names_the_one_that_was_submitted(
    monkeypatch: pytest.MonkeyPatch, command: str, script: str
) -> None:
    """A copy made by a site's own sbatch would make each of our jobs another one's."""
    line = f"5             |3             |RUNNING|None|n1|2|2026-01-01T00:00:00|2026-01-01T00:00:01|{command}|\n"
    monkeypatch.setattr(queue_module, "ask", lambda *words, slurm_conf: line)
    times = ("2026-01-01T00:00:00", "2026-01-01T00:00:01")
    assert queue() == {"5_3": QueuedJob("5_3", "RUNNING", "None", "n1", 2, *times, script)}
