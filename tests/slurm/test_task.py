"""A rank of a job: which job it has, where it meets the others, and how it tells that it saved."""

from __future__ import annotations

import pytest

from slurm import task
from slurm.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SAVED
from slurm.job import Job, Payload, write_payload
from slurm.requeue import told_code


@pytest.fixture
def payload_file(tmp_path):
    jobs = {place: Job(f"job{place}", tmp_path, "") for place in (0, 3)}
    write_payload(tmp_path / "payload.json", Payload(jobs, {}, max_requeues=5, max_deaths=2, threads=1))
    return tmp_path / "payload.json"


@pytest.fixture
def in_slurm(monkeypatch):
    for name in ("HARNESS_LOCAL_PORT", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")


@pytest.mark.parametrize(("place", "called"), [("3", "job3"), (None, "job0")])
def test_a_task_calls_the_job_of_its_place_in_the_array(in_slurm, payload_file, monkeypatch, place, called):
    if place is not None:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", place)
    found = []
    monkeypatch.setattr(task.signal, "signal", lambda *_: None)
    monkeypatch.setattr(task, "export", lambda payload: None)
    monkeypatch.setattr(task, "call", lambda job: found.append(job.name) or EXIT_DONE)
    assert task.main(str(payload_file)) == EXIT_DONE and found == [called]


def test_ranks_meet_at_another_port_after_a_requeue(in_slurm, monkeypatch):
    """The one before may still be held."""
    ports = [task._port("7"), task._port("7")]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert ports[0] == ports[1] != task._port("7")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_saved_is_told_by_a_note_of_rank_0_where_slurm_ends_all_ranks_with_the_first(
    in_slurm, payload_file, monkeypatch, rank
):
    monkeypatch.setenv("RANK", rank)
    assert task._report(EXIT_SAVED, payload_file) == EXIT_DONE
    assert told_code(payload_file, EXIT_DONE) == (EXIT_SAVED if rank == "0" else EXIT_DONE)


@pytest.mark.parametrize(("rank", "code"), [("0", EXIT_SAVED), ("1", EXIT_DONE)])
def test_saved_is_told_by_the_exit_code_of_rank_0_here(in_slurm, payload_file, monkeypatch, rank, code):
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("RANK", rank)
    assert task._report(EXIT_SAVED, payload_file) == code
    assert task._report(EXIT_FAILURE, payload_file) == EXIT_FAILURE
