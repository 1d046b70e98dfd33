"""Paths that compute nodes do not see are refused before anything is submitted."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from slurm import reach
from slurm.dev.requirements import why_not, why_not_installed
from slurm.devcluster import DevCluster
from slurm.preflight import cluster_reasons
from slurm.probe import look
from slurm.profile import ClusterProfile
from slurm.queue import client_environment, client_variables
from slurm.reach import Mount, mount_of, read_mounts, unseen

MOUNTINFO = """\
22 28 0:21 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:22 / /tmp rw - tmpfs tmpfs rw
24 22 0:23 / /home rw shared:9 - nfs4 server:/home rw
25 24 0:24 / /home/me/a\\040scratch rw - tmpfs tmpfs rw
26 22 0:25 / /tmp rw - nfs4 server:/tmp rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/data/x", "ext4"), ("/home/me/runs", "nfs4"), ("/home/me/a scratch/x", "tmpfs"), ("/tmp/x", "nfs4")],
)
def test_path_lies_on_the_innermost_and_last_mounted_file_system(path, kind):
    mount = mount_of(Path(path), read_mounts(MOUNTINFO))
    assert mount is not None and mount.kind == kind


@pytest.fixture
def elsewhere(monkeypatch):
    """A cluster of other machines, none of them idle."""
    monkeypatch.setattr(reach, "_nodes_are_here", lambda partition: False)
    monkeypatch.setattr(reach, "ask", lambda *words: "")


def test_folder_in_this_machines_memory_is_refused(elsewhere, monkeypatch):
    monkeypatch.setattr(reach, "read_mounts", lambda: [Mount(Path("/"), "ext4"), Mount(Path("/dev/shm"), "tmpfs")])
    reasons = list(unseen(ClusterProfile(executor="slurm"), [Path("/data/x")], Path("/dev/shm/runs"), "low"))
    assert reasons == ["/dev/shm/runs: lies on tmpfs of this machine, which no compute node sees; use a shared folder."]


def test_nodes_that_are_this_machine_see_its_memory(elsewhere, monkeypatch):
    monkeypatch.setattr(reach, "_nodes_are_here", lambda partition: True)
    monkeypatch.setattr(reach, "read_mounts", lambda: [Mount(Path("/"), "tmpfs")])
    assert not list(unseen(ClusterProfile(executor="slurm"), [], Path("/dev/shm/runs"), "low"))


def test_node_is_asked_for_a_gpu_where_jobs_take_some(monkeypatch):
    """Partitions of GPUs may refuse a job without."""
    asked = []
    done = subprocess.CompletedProcess((), 0, stdout='harness-probe {"unread": [], "unwritten": []}\n', stderr="")
    monkeypatch.setattr(subprocess, "run", lambda words, **options: asked.append(words) or done)
    for gpus in (4, 0):
        profile = ClusterProfile(executor="slurm", partition="gpu", account="lab", gpus_per_node=gpus)
        assert reach._run_probe(profile, [], []) == {"unread": [], "unwritten": []}
    with_gpus, without = asked
    assert {"--partition=gpu", "--account=lab", "--gpus-per-node=1"} <= set(with_gpus)
    assert not any(word.startswith("--gpus") for word in without)


def test_what_the_profile_does_not_call_shared_is_refused(elsewhere, monkeypatch):
    monkeypatch.setattr(reach, "read_mounts", lambda: [Mount(Path("/"), "ext4")])
    profile = ClusterProfile(name="site", executor="slurm", shared=("/home", "/scratch"))
    reasons = list(unseen(profile, [Path("/home/x"), Path("/homes/x")], Path("/scratch/runs"), "low"))
    assert reasons == ["/homes/x: is not under what profile 'site' calls shared (/home, /scratch); move it there."]


def test_nodes_of_this_machine_are_recognised(monkeypatch):
    answers = {"sinfo": "n1\nn2\n", "scontrol": "NodeName=n1 NodeAddr=127.0.0.1\nNodeName=n2 NodeAddr=10.0.0.2\n"}
    monkeypatch.setattr(reach, "ask", lambda *words: answers[words[0]])
    assert not reach._nodes_are_here("low")
    answers["scontrol"] = answers["scontrol"].replace("10.0.0.2", "127.0.0.1")
    assert reach._nodes_are_here("low")


def test_probe_tells_what_it_cannot_read_or_write(tmp_path):
    (tmp_path / "here").touch()
    found = look(
        [str(tmp_path / "here"), str(tmp_path / "gone")], [str(tmp_path / "here"), str(tmp_path / "not" / "a")]
    )
    assert found == {"unread": [str(tmp_path / "gone")], "unwritten": [str(tmp_path / "not" / "a")]}


@pytest.fixture
def blind_node(tmp_path, monkeypatch):
    """A cluster of one node that sees an empty folder where this machine has `tmp_path`/local."""
    reason = why_not() or why_not_installed()
    if reason:
        pytest.skip(f"no development cluster: {reason}")
    local = tmp_path / "local"
    local.mkdir()
    cluster = DevCluster(tmp_path / "cluster", nodes=1)
    cluster.start()
    try:
        cluster.end_node("n1")
        hide = f"mount -t tmpfs none {shlex.quote(str(local))} && exec slurmd -N n1"
        words = ["unshare", "--mount", "sh", "-c", hide]
        done = subprocess.run(
            words, env=client_variables(str(cluster.conf)), capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no mount namespace can be made here: {done.stderr.strip()}")
        cluster.start()
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield cluster
    finally:
        cluster.stop()


@pytest.mark.slurm
def test_paths_that_a_real_node_does_not_see_are_refused(blind_node, tmp_path):
    profile = ClusterProfile(name="dev", executor="slurm", partition="low", slurm_conf=str(blind_node.conf))
    seen, hidden = tmp_path / "seen.tar", tmp_path / "local" / "hidden.tar"
    seen.touch()
    hidden.touch()
    assert cluster_reasons(profile, tmp_path / "runs", reads=[seen]) == []
    assert cluster_reasons(profile, tmp_path / "local" / "runs", reads=[seen, hidden]) == [
        f"{hidden}: a node of partition 'low' cannot read it; move it to a folder that the nodes share.",
        f"{tmp_path}/local: is not the same writable folder on a node of partition 'low'; give a shared one.",
    ]
    assert os.listdir(tmp_path / "local") == ["hidden.tar"], "the preflight left something behind"
    wrong = profile.model_copy(update={"python": str(tmp_path / "no-python")})
    (reason,) = cluster_reasons(wrong, tmp_path / "runs")
    assert "could not run this Python and project" in reason and "no-python: No such file" in reason


@pytest.mark.slurm
def test_busy_cluster_is_not_asked_and_nothing_waits(blind_node, tmp_path):
    with client_environment(str(blind_node.conf)):
        blind_node.ask("sbatch", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600")
        blind_node.wait_state("n1", "alloc")
    profile = ClusterProfile(name="dev", executor="slurm", partition="low", slurm_conf=str(blind_node.conf))
    assert cluster_reasons(profile, tmp_path / "local" / "runs") == []
    assert len(blind_node.ask("squeue", "--noheader").splitlines()) == 1
