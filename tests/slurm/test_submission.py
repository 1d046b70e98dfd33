"""The note in a job's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from slurm.job import Job
from slurm.submission import Submission, note_submission, read_submission


def submitted(runs: Path) -> Submission:
    """A job of a sweep, submitted and started."""
    own = runs / "sweep" / "jobs" / "stamp"
    own.mkdir(parents=True)
    (own / "17_0_log.out").touch()
    submission = Submission("a", "17", "slurm", "test", str(own), "17_*_log.*")
    note_submission(Job("a", runs / "phases" / "a", ""), submission, None)
    return submission


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_logs_are_those_of_the_folder_that_was_moved_or_copied(tmp_path, monkeypatch, how):
    submission = submitted(tmp_path / "runs")
    assert read_submission(tmp_path / "runs/phases/a") == submission
    how(tmp_path / "runs", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for seen_from in (tmp_path, Path()):
        found = read_submission(seen_from / "moved/phases/a").log_files(0)
        assert found == [tmp_path / "moved/sweep/jobs/stamp/17_0_log.out"]


def test_logs_are_found_where_the_phases_lie_on_another_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/phases").symlink_to(tmp_path / "disk")
    submission = submitted(tmp_path / "runs")
    assert read_submission(tmp_path / "runs/phases/a") == submission


def test_what_a_rank_said_comes_before_its_errors(tmp_path):
    submission = submitted(tmp_path)
    for name in ("17_0_log.err", "17_1_log.out", "17_10_log.out"):
        (tmp_path / "sweep/jobs/stamp" / name).touch()
    assert [path.name for path in submission.log_files(0)] == ["17_0_log.out", "17_0_log.err"]
    assert [path.name for path in submission.log_files()][-1] == "17_0_log.err"
