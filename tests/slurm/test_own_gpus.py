"""A local profile that asks for more GPUs than there are is refused, not run on the processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm import preflight
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
