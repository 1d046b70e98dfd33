"""A local profile uses the GPUs that it may, and is refused where it asks for more, not run on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slurm import preflight
from slurm.errors import ClusterError
from slurm.local_ranks import rank_environment
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
        ("-1", ["", ""], 0),
        ("2,-1,3", ["2", ""], 1),
    ],
)
def test_jobs_share_the_gpus_that_the_user_left_visible(
    allowed: str | None, given: list[str], count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
        assert preflight.gpus_here() == count
    profile = ClusterProfile(name="mine", gpus_per_node=2, max_parallel=2)
    shown = [rank_environment(profile, "local-1", 0, slot, 1)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)]
    assert shown == given


@pytest.mark.parametrize(("gpus", "there", "noted"), [(0, 4, True), (0, 1, False), (1, 4, False), (0, None, False)])
def test_gpus_of_this_machine_that_stay_idle_are_told(
    gpus: int, there: int | None, noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "gpus_here", lambda: there)
    note = preflight.note_of_gpus(ClusterProfile(name="mine", gpus_per_node=gpus, max_parallel=2))
    assert ("this machine has 4 GPUs" in (note or "")) is noted


@pytest.mark.parametrize(
    ("values", "gres", "noted"),
    [
        ({}, "gpu:a100:4(S:0)", True),
        ({}, "(null)", False),
        ({"gpus_per_node": 1}, "gpu:4", False),
        ({"options": {"gres": "gpu:4"}, "tasks_per_node": 4}, "gpu:4", False),
        ({"options": {"gpus-per-task": 1}}, "gpu:4", False),
    ],
)
def test_gpus_of_a_partition_that_nobody_asks_for_are_told(
    values: dict[str, Any], gres: str, noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"scontrol": "PartitionName=gpu Default=YES", "sinfo": f"n1|8|1000|(null)\nn2|64|256000|{gres}\n"}
    monkeypatch.setattr(preflight, "ask", lambda program, *words: said[program])
    note = preflight.note_of_gpus(ClusterProfile(name="site", executor="slurm", **values))
    assert ("nodes of partition 'gpu' have up to 4 GPUs, but profile 'site' asks for none" in (note or "")) is noted


def test_a_controller_that_does_not_answer_is_no_reason_for_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*words: str) -> str:
        raise ClusterError("no answer")

    monkeypatch.setattr(preflight, "ask", away)
    assert preflight.note_of_gpus(ClusterProfile(name="site", executor="slurm")) is None
