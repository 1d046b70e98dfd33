"""What preflight reads from a partition: its GPUs, and whether its preemption leaves time to save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slurm import preflight
from slurm.profile import ClusterProfile

PROFILE = ClusterProfile(name="site", executor="slurm")
PREEMPTS = {"PreemptType": "preempt/partition_prio"}


@pytest.mark.parametrize(
    ("mode", "grace_s", "save_s", "said"),
    [
        ("REQUEUE", "0", 0.4, ""),  # loses what was done since the last checkpoint, nothing more
        ("REQUEUE", "0", None, ""),
        ("REQUEUE", "30", 0.4, ""),
        ("REQUEUE", "30", 45.0, "30 s of grace, but saving takes 45.0 s"),
        ("CANCEL", "30", 45.0, "30 s of grace, but saving takes 45.0 s"),
        ("CANCEL", "0", 0.4, "cancels preempted jobs at once"),
    ],
)
def test_no_grace_is_refused_only_where_nothing_would_come_back(
    mode: str, grace_s: str, save_s: float | None, said: str
) -> None:
    partition = {"PreemptMode": mode, "GraceTime": grace_s}
    reasons = list(preflight._preemption(PROFILE, "low", partition, PREEMPTS, save_s))
    assert len(reasons) == bool(said)
    assert said in "".join(reasons)


@pytest.mark.parametrize(("mode", "refused"), [("REQUEUE", True), ("SUSPEND", False), ("GANG", False), ("OFF", False)])
def test_jobs_that_may_not_be_requeued_are_refused_where_preemption_would_end_them(mode: str, refused: bool) -> None:
    profile = PROFILE.model_copy(update={"max_requeues": 0})
    reasons = list(preflight._preemption(profile, "low", {"PreemptMode": mode}, PREEMPTS, None))
    assert len(reasons) == refused and all("max_requeues 0" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:1080ti:4", 4),
        ("gpu:4", 4),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:4(S:0,1),mps:400", 4),
        ("gpu:a100_3g.20gb:2,gpu:1080ti:3", 5),
        ("gpu:(null):4(S:0-1)", 4),
        ("(null)", 0),
    ],
)
def test_gpus_of_a_node_are_counted_whatever_their_type(gres: str, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "ask", lambda *words: f"n1|64|256000|{gres}\n")
    (node,) = preflight.read_nodes("low")
    assert node.gpus == gpus


def test_gpus_of_one_type_are_counted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "ask", lambda *words: "n1|64|256000|gpu:a100:2(S:0),gpu:a100_3g.20gb:3,gpu:v100:4\n")
    counts = {kind: preflight.read_nodes("low", kind)[0].gpus for kind in ("a100", "a100_3g.20gb", "v100", "h100")}
    assert counts == {"a100": 2, "a100_3g.20gb": 3, "v100": 4, "h100": 0}


@pytest.mark.parametrize(
    ("time_min", "nodes", "said"),
    [
        (60, 2, []),
        (61, 2, ["time_min 61 is above the 60 min of partition 'short'; lower it."]),
        (60, 3, ["nodes 3 is above the 2 that partition 'short' gives one job; lower it."]),
    ],
)
def test_a_job_may_take_all_that_a_partition_allows(time_min: int, nodes: int, said: list[str]) -> None:
    profile = ClusterProfile(name="site", executor="slurm", time_min=time_min, nodes=nodes)
    assert list(preflight._limits(profile, "short", {"MaxTime": "01:00:00", "MaxNodes": "2"})) == said


@pytest.mark.parametrize(("save_s", "refused"), [(None, False), (90.0, False), (90.5, True)])
def test_a_save_has_to_fit_between_the_signal_and_the_time_limit(save_s: float | None, refused: bool) -> None:
    said = ["signal_s 90 is shorter than a save of 90.5 s; raise it to 181."]
    assert list(preflight._time_signal(PROFILE, save_s)) == said * refused


@pytest.mark.parametrize(("num_jobs", "refused"), [(500, False), (501, True)])
def test_a_cluster_may_be_filled_with_jobs(num_jobs: int, refused: bool) -> None:
    reasons = list(preflight._queue({"MaxJobCount": "500"}, num_jobs))
    assert (
        reasons == ["501 jobs are more than the 500 that this cluster keeps (MaxJobCount); split the sweep."] * refused
    )


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        ({}, []),
        ({"AllowAccounts": "ALL", "AllowQos": "normal,high"}, []),
        ({"AllowAccounts": "other,lab"}, []),
        ({"AllowAccounts": "lab2"}, ["account 'lab' may not use partition 'p' (allowed: lab2); use another."]),
        ({"DenyAccounts": "other,lab"}, ["account 'lab' may not use partition 'p' (allowed: ALL); use another."]),
        ({"AllowQos": "normal"}, ["qos 'high' may not use partition 'p' (allowed: normal); use another."]),
        ({"DenyQos": "high"}, ["qos 'high' may not use partition 'p' (allowed: ALL); use another."]),
        ({"State": "DRAIN"}, ["partition 'p' is DRAIN; use another, or wait until it is up."]),
    ],
)
def test_an_account_or_qos_that_a_partition_does_not_take_is_told(partition: dict[str, str], said: list[str]) -> None:
    profile = ClusterProfile(name="site", executor="slurm", account="lab", qos="high")
    assert list(preflight._limits(profile, "p", partition)) == said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tasks_per_node": 2, "cpus_per_task": 4}, ""),
        ({"tasks_per_node": 2, "cpus_per_task": 5}, "cpus_per_task times the ranks of a node is 10, but the nodes of"),
        ({"gpus_per_node": 4, "nodes": 1}, ""),
        ({"gpus_per_node": 4, "nodes": 2}, "only 1 nodes of partition 'p' have all that 2 nodes need; ask for less."),
        ({"gpus_per_node": 5}, "gpus_per_node is 5, but the nodes of partition 'p' have at most 4; lower it."),
        ({"memory_gb": 64, "nodes": 2}, ""),
        ({"memory_gb": 64.5}, "memory_gb is 64.5, but the nodes of partition 'p' have at most 64; lower it."),
        ({"nodes": 3}, "nodes is 3, but partition 'p' has 2; lower it."),
    ],
)
def test_a_job_fits_the_nodes_of_its_partition_or_is_told_what_does_not(
    asked: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [preflight.Node(8, 65536, gpus) for gpus in (0, 4)]
    monkeypatch.setattr(preflight, "read_nodes", lambda name, gpu_type: nodes)
    reasons = list(preflight._nodes(ClusterProfile(name="site", executor="slurm", **asked), "p"))
    assert len(reasons) == bool(said) and "".join(reasons).startswith(said)


@pytest.mark.parametrize(
    ("partition", "said"),
    [("short,long", ["1440 is above the 60 min of partition 'short'"]), ("long,gone", ["'gone' does not exist"])],
)
def test_each_of_several_partitions_is_looked_at(
    partition: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"short": {"MaxTime": "01:00:00"}, "long": {"MaxTime": "2-00:00:00"}}
    monkeypatch.setattr(preflight, "read_partitions", lambda: found)
    monkeypatch.setattr(preflight, "read_config", dict)
    monkeypatch.setattr(preflight, "read_nodes", lambda name, gpu_type: [preflight.Node(8, 1000, 0)])
    monkeypatch.setattr(preflight, "unseen", lambda *words: [])
    monkeypatch.setattr(preflight, "_trial", lambda profile: [])
    profile = ClusterProfile(name="site", executor="slurm", partition=partition, time_min=1440)
    reasons = preflight._slurm(profile, 1, None, (), None)
    assert len(reasons) == len(said) and all(part in reason for part, reason in zip(said, reasons))


@pytest.mark.parametrize("refuses", [True, False])
def test_sbatch_is_asked_itself_where_nothing_else_speaks_against_a_job(
    refuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\n[ $1 = --test-only ] && echo 'Invalid qos' >&2 && exit {int(refuses)}\n")
    sbatch.chmod(0o755)
    for tool in ("srun", "scontrol", "squeue"):
        (tmp_path / tool).symlink_to(sbatch)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(preflight, "read_partitions", lambda: {"low": {}})
    monkeypatch.setattr(preflight, "read_config", dict)
    monkeypatch.setattr(preflight, "read_nodes", lambda name, gpu_type: [preflight.Node(8, 1000, 0)])
    monkeypatch.setattr(preflight, "unseen", lambda *words: [])
    reasons = preflight._slurm(PROFILE.model_copy(update={"partition": "low"}), 1, None, (), None)
    assert reasons == (["sbatch would refuse a job with the profile 'site' (Invalid qos); mend the profile."] * refuses)
