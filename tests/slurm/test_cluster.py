"""What the real SLURM does with what is submitted to it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from slurm.devcluster import DevCluster
from slurm.ending import read_ending
from slurm.job import Job
from slurm.launch import submit
from slurm.preflight import cluster_reasons
from slurm.queue import ask, cancel, parse_fields, queue

pytestmark = pytest.mark.slurm
PATIENCE_S = 300.0


def counting(folder, name, after=(), steps=3, step_s=0.1):
    out = folder / name
    out.mkdir(parents=True)
    argument = json.dumps({"out": str(out), "steps": steps, "step_s": step_s})
    return Job(name, out, argument, tuple(after), "targets:count")


def calling(folder, name, target, argument, after=()):
    return Job(name, folder / name, argument, tuple(after), f"targets:{target}")


def state_of(job_id):
    return parse_fields(ask("scontrol", "show", "job", job_id, "--oneliner"))["JobState"]


def wait_for(condition, complaint):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.1)


def wait_done(*job_ids):
    wait_for(lambda: all(state_of(i) == "COMPLETED" for i in job_ids), [(i, state_of(i)) for i in job_ids])


def finished_at(folder, name):
    return (folder / name / "count_0").stat().st_mtime


def begun_at(folder, name):
    return (folder / name / "starts_0").stat().st_mtime


@pytest.fixture
def one_node(clean_cluster, profile):
    return profile.model_copy(update={"nodes": 1, "max_parallel": 4})


def test_children_start_after_their_own_parents(one_node, tmp_path):
    parents = [counting(tmp_path, f"p{i}") for i in range(3)]
    children = [counting(tmp_path, f"c{i}", [f"p{i}"]) for i in range(3)]
    last = counting(tmp_path, "last", [child.name for child in children])
    submissions = submit([*parents, *children, last], one_node, tmp_path / "a folder with spaces")
    wait_done(*[submission.job_id for submission in submissions.values()])
    for i in range(3):
        assert finished_at(tmp_path, f"p{i}") <= begun_at(tmp_path, f"c{i}")
        assert finished_at(tmp_path, f"c{i}") <= begun_at(tmp_path, "last")
        assert submissions[f"c{i}"].log_files(rank=0)


def test_child_of_a_requeued_parent_waits_until_it_is_done(one_node, tmp_path):
    parents = [counting(tmp_path, f"p{i}", steps=150) for i in range(2)]
    children = [counting(tmp_path, f"c{i}", [f"p{i}"]) for i in range(2)]
    ids = {name: s.job_id for name, s in submit([*parents, *children], one_node, tmp_path / "slurm").items()}
    wait_for(lambda: all((tmp_path / p / "count_0").exists() for p in ("p0", "p1")), "the parents did not start")
    ask("scancel", "--signal=TERM", ids["p0"])
    wait_for(lambda: state_of(ids["p0"]) == "PENDING", "p0 was not put back into the queue")
    time.sleep(2.2)
    assert state_of(ids["c0"]) == "PENDING"
    ask("scontrol", "update", f"JobId={ids['p0']}", "StartTime=now")
    wait_done(*ids.values())
    assert finished_at(tmp_path, "p0") <= begun_at(tmp_path, "c0")
    assert [len((tmp_path / p / "starts_0").read_text().splitlines()) for p in ("p0", "p1")] == [2, 1]
    ports = {json.loads(line)["MASTER_PORT"] for line in (tmp_path / "p0" / "starts_0").read_text().splitlines()}
    assert len(ports) == 2


def test_child_of_a_failed_parent_leaves_the_queue_and_its_brother_runs(one_node, tmp_path):
    parents = [Job("p0", tmp_path / "p0", "1", (), "targets:fail"), counting(tmp_path, "p1")]
    children = [counting(tmp_path, f"c{i}", [f"p{i}"]) for i in range(2)]
    ids = {name: s.job_id for name, s in submit([*parents, *children], one_node, tmp_path / "slurm").items()}
    wait_done(ids["p1"], ids["c1"])
    assert state_of(ids["p0"]) == "FAILED"
    wait_for(lambda: ids["c0"] not in queue(), "the child of the failed job is still in the queue")
    assert not (tmp_path / "c0" / "starts_0").exists()


def test_no_more_jobs_run_at_once_than_max_parallel_over_all_arrays(one_node, tmp_path):
    parents = [counting(tmp_path, f"p{i}", steps=8) for i in range(4)]
    children = [counting(tmp_path, f"c{i}", [f"p{i}"], steps=8) for i in range(4)]
    failing = [calling(tmp_path, "bad", "fail", "1"), counting(tmp_path, "never", ["bad"])]
    jobs = [*parents, *children]
    ids = {
        name: s.job_id
        for name, s in submit(
            [*jobs, *failing], one_node.model_copy(update={"max_parallel": 2}), tmp_path / "slurm"
        ).items()
    }
    wait_done(*[ids[job.name] for job in jobs])
    assert state_of(ids["never"]) == "CANCELLED"
    spans = [(begun_at(tmp_path, job.name), finished_at(tmp_path, job.name)) for job in jobs]
    at_once = [sum(begin <= moment < end for begin, end in spans) for moment, _ in spans]
    assert max(at_once) <= 2


def test_job_that_dies_again_and_again_fails_in_the_end(one_node, tmp_path):
    job = Job("a", tmp_path / "a", "", (), "targets:die")
    job_id = submit([job], one_node.model_copy(update={"max_deaths": 1}), tmp_path / "slurm")["a"].job_id
    wait_for(
        lambda: (
            state_of(job_id) == "PENDING"
            and parse_fields(ask("scontrol", "show", "job", job_id, "--oneliner"))["Restarts"] == "1"
        ),
        "did not come back once",
    )
    time.sleep(2.2)
    ask("scontrol", "update", f"JobId={job_id}", "StartTime=now")
    wait_for(lambda: state_of(job_id) == "FAILED", "did not fail")
    ending = read_ending(tmp_path / "a")
    assert ending is not None and (ending.job_id, ending.exit_code, ending.outcome) == (job_id, 137, "failed")
    assert ending.reason == "was killed by SIGKILL, died 2 times without saving in between (max_deaths)"


def test_what_may_follow_a_failure_starts_when_all_have_ended_however(one_node, tmp_path):
    parents = [
        calling(tmp_path, "failed", "fail", "1"),
        counting(tmp_path, "cancelled", steps=6000),
        counting(tmp_path, "requeued", steps=150),
        calling(tmp_path, "never", "fail", "0", ["failed"]),
    ]
    names = tuple(job.name for job in parents)
    report = counting(tmp_path, "report", names)
    report = Job(report.name, report.folder, report.argument, names, report.target, after_failure=True)
    ids = {name: s.job_id for name, s in submit([*parents, report], one_node, tmp_path / "slurm").items()}
    for name in ("cancelled", "requeued"):
        wait_for(lambda name=name: (tmp_path / name / "count_0").exists(), f"{name} did not start")
    ask("scancel", "--signal=TERM", ids["requeued"])
    wait_for(lambda: state_of(ids["requeued"]) == "PENDING", "was not put back into the queue")
    cancel([ids["cancelled"]])
    wait_for(lambda: state_of(ids["cancelled"]) == "CANCELLED", "was not cancelled")
    time.sleep(2.2)
    assert state_of(ids["report"]) == "PENDING", "it did not wait for the job that comes back"
    ask("scontrol", "update", f"JobId={ids['requeued']}", "StartTime=now")
    wait_done(ids["requeued"], ids["report"])
    assert state_of(ids["failed"]) == "FAILED" and state_of(ids["never"]) == "CANCELLED"
    assert finished_at(tmp_path, "requeued") <= begun_at(tmp_path, "report")
    endings = {name: read_ending(tmp_path / name) for name in names}
    assert {name: ending and ending.outcome for name, ending in endings.items()} == {
        "failed": "failed", "cancelled": "left", "requeued": "done", "never": None,
    }  # fmt: skip
    assert endings["cancelled"] is not None and endings["cancelled"].reason == "was cancelled"


def test_job_comes_back_although_the_controller_was_away_when_it_left(one_node, tmp_path):
    job = counting(tmp_path, "a", steps=200)
    job_id = submit([job], one_node, tmp_path / "slurm")["a"].job_id
    wait_for(lambda: (tmp_path / "a" / "count_0").exists(), "did not start")
    cluster = DevCluster(Path(os.environ["SLURM_CONF"]).parent)
    cluster.end_controller()
    pid = json.loads((tmp_path / "a" / "starts_0").read_text().splitlines()[0])["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: (tmp_path / "a" / "saved_0").exists(), "did not save")
    time.sleep(3)
    cluster.start_controller()
    wait_for(lambda: state_of(job_id) == "PENDING", "was not put back into the queue")
    time.sleep(2.2)
    ask("scontrol", "update", f"JobId={job_id}", "StartTime=now")
    wait_done(job_id)


def test_places_of_the_ranks_on_two_nodes(clean_cluster, profile, tmp_path):
    job = counting(tmp_path, "a")
    wide = profile.model_copy(update={"tasks_per_node": 2, "environment": {"COLOUR": "blue; $HOME"}})
    wait_done(submit([job], wide, tmp_path / "slurm")["a"].job_id)
    ranks = [json.loads((job.folder / f"starts_{rank}").read_text()) for rank in range(4)]
    assert [rank["RANK"] for rank in ranks] == ["0", "1", "2", "3"]
    assert sorted(rank["LOCAL_RANK"] for rank in ranks) == ["0", "0", "1", "1"]
    assert {rank["WORLD_SIZE"] for rank in ranks} == {"4"}
    assert len({(rank["MASTER_ADDR"], rank["MASTER_PORT"], rank["COLOUR"]) for rank in ranks}) == 1
    assert ranks[0]["COLOUR"] == "blue; $HOME"


def test_payload_changed_by_others_is_not_run(one_node, tmp_path):
    job = counting(tmp_path, "a")
    submission = submit([job], one_node, tmp_path / "slurm", hold=True)["a"]
    (Path(submission.folder) / "payload_0.json").chmod(0o666)
    ask("scontrol", "release", submission.job_id)
    wait_for(lambda: state_of(submission.job_id) == "FAILED", "was run")
    assert not (job.folder / "starts_0").exists()
    assert "others may write it" in submission.log_files(rank=0)[1].read_text()


def test_preflight_gives_every_reason_at_once(clean_cluster, profile, tmp_path):
    assert cluster_reasons(profile, tmp_path / "new", save_s=5) == []
    limits = {"nodes": 9, "time_min": 5000, "gpus_per_node": 4, "memory_gb": 9e5, "max_requeues": 0}
    wrong = profile.model_copy(update=limits)
    reasons = cluster_reasons(wrong, Path("/proc/new"), num_jobs=10**6, save_s=45, need_gb=1e9)
    for said in (
        "/proc: cannot be written",
        "nodes is 9",
        "time_min 5000 is above the 1440 min",
        "gpus_per_node is 4",
        "memory_gb is 900000",
        "1000000 jobs are more than the 20000",
        "30 s of grace, but saving takes 45.0 s",
        "max_requeues 0 lets none of them come back",
    ):
        assert [reason for reason in reasons if said in reason], said
    assert (
        "does not exist; use one of low, high"
        in cluster_reasons(profile.model_copy(update={"partition": "lo"}), tmp_path)[0]
    )
    assert "Invalid feature" in cluster_reasons(profile.model_copy(update={"constraint": "a100"}), tmp_path)[0]
    assert "GiB free" in cluster_reasons(profile, tmp_path, need_gb=1e9)[0]


def test_a_thousand_held_jobs_are_a_few_arrays_and_all_seen(one_node, tmp_path):
    parents = [counting(tmp_path, f"p{i}") for i in range(500)]
    children = [counting(tmp_path, f"c{i}", [f"p{i}"]) for i in range(500)]
    submissions = submit([*parents, *children], one_node, tmp_path / "slurm", hold=True)
    assert {s.job_id for s in submissions.values()} <= queue().keys()
    assert len({s.job_id.split("_")[0] for s in submissions.values()}) == 2
    cancel([s.job_id for s in submissions.values()])
    wait_for(lambda: not queue(), "were not cancelled")


def test_stopped_cluster_leaves_no_process(cluster, tmp_path):
    own = DevCluster(tmp_path / "cluster", nodes=1)
    before = os.environ["SLURM_CONF"]
    own.start()
    try:
        os.environ["SLURM_CONF"] = str(own.conf)
        ask("sbatch", "--output=/dev/null", "--wrap", "sleep 600")
        wait_for(own.job_processes, "the job did not start")
        pids = [int(path.read_text()) for path in own.folder.glob("*.pid")]
        assert len(pids) == 3
    finally:
        own.stop()
        os.environ["SLURM_CONF"] = before
    assert not own.job_processes() and not own.is_up()
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_ranks_get_the_gpus_of_their_type_and_know_how_many_were_promised(clean_cluster, profile, tmp_path):
    job = counting(tmp_path, "a")
    with_gpus = profile.model_copy(update={"gpus_per_node": 2, "gpu_type": "dev"})
    assert cluster_reasons(with_gpus, tmp_path) == []
    wait_done(submit([job], with_gpus, tmp_path / "slurm")["a"].job_id)
    ranks = [json.loads((job.folder / f"starts_{rank}").read_text()) for rank in range(4)]
    assert sorted(rank["LOCAL_RANK"] for rank in ranks) == ["0", "0", "1", "1"]
    assert {(rank["CUDA_VISIBLE_DEVICES"], rank["HARNESS_GPUS_PER_NODE"]) for rank in ranks} == {("0,1", "2")}
    other = with_gpus.model_copy(update={"gpu_type": "a100"})
    (reason,) = cluster_reasons(other, tmp_path)
    assert "gpus_per_node (gpu_type a100) is 2, but the nodes of partition 'low' have at most 0" in reason
