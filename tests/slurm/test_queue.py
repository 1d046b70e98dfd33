"""What `squeue` prints, read."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm import queue as queue_module
from slurm.queue import QueuedJob, client_variables, queue

LINE = "5|N/A|PENDING|None||0|2026-01-01T00:00:00|N/A|/runs/submission.sh|"


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A squeue that prints one job, which the options of the real one can hide."""
    program = tmp_path / "squeue"
    program.write_text(
        f"#!/bin/sh\ncase \"$*${{SQUEUE_STATES-}}\" in *RUNNING*) ;; *--all*--array*) echo '{LINE}';; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_job_in_a_hidden_partition_is_in_the_queue(squeue: Path) -> None:
    """It would be taken for gone, and submitted again."""
    assert list(queue()) == ["5"]


def test_options_of_the_users_shell_hide_no_job(squeue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    assert list(queue()) == ["5"]


@pytest.mark.parametrize(
    "name", ["SQUEUE_PARTITION", "SCANCEL_STATE", "SINFO_FORMAT", "SCONTROL_LOCAL", "SBATCH_EXPORT", "SLURM_JOB_ID"]
)
def test_no_variable_that_changes_a_command_reaches_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (name, "SLURM_CONF", "HARNESS_WEIGHTS"):
        monkeypatch.setenv(variable, "/x")
    assert {"SLURM_CONF", "HARNESS_WEIGHTS", name} & client_variables(None).keys() == {"SLURM_CONF", "HARNESS_WEIGHTS"}


def test_what_a_sites_own_squeue_adds_and_paths_in_any_encoding_hide_no_job(squeue: Path) -> None:
    other = rb"6|N/A|RUNNING|None|n1|0|2026-01-01T00:00:00|2026-01-01T00:00:00|/home/me/mod\0350les.sh|"
    squeue.write_bytes(b"#!/bin/sh\nprintf 'maintenance on Monday\\n%s\\n" + other + b"\\n' '" + LINE.encode() + b"'\n")
    assert list(queue()) == ["5", "6"]


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
