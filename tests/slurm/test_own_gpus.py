"""A local profile uses the GPUs that it may, and is refused where it asks for more, not run on the processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm import preflight
from slurm.job import Job
from slurm.local import Supervisor
from slurm.profile import ClusterProfile


@pytest.mark.parametrize(
    ("gpus", "jobs", "there", "refused"),
    [(1, 1, 0, True), (1, 2, 1, True), (2, 2, 4, False), (0, 2, 0, False), (1, 1, None, False)],
)
def test_gpus_that_are_not_there_are_a_reason_not_to_start(
    gpus: int, jobs: int, there: int | None, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "gpus_here", lambda: there)
    profile = ClusterProfile(name="mine", executor="local", gpus_per_node=gpus, max_parallel=jobs)
    reasons = preflight.cluster_reasons(profile, tmp_path)
    assert [f"gpus_per_node {gpus} x max_parallel {jobs} GPUs" in reason for reason in reasons] == [True] * refused


@pytest.mark.parametrize(
    ("allowed", "given", "count"),
    [
        (None, ["0,1", "2,3"], None),
        ("4,5,6,7", ["4,5", "6,7"], 4),
        ("GPU-a, GPU-b", ["GPU-a,GPU-b", ""], 2),
        ("", ["", ""], 0),
    ],
)
def test_jobs_share_the_gpus_that_the_user_left_visible(
    allowed: str | None, given: list[str], count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
        assert preflight.gpus_here() == count
    profile = ClusterProfile(name="mine", gpus_per_node=2, max_parallel=2)
    supervisor = Supervisor([Job("a", tmp_path / "a", "")], profile, tmp_path / "jobs")
    assert [supervisor._rank_environment("a", 0, 1, slot)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)] == given
