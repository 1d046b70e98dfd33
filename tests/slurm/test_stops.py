"""However SLURM stops a run, it comes back and ends with bitwise the weights of an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import harness.errors
from slurm.queue import ask, cancel

pytestmark = pytest.mark.slurm

SAVE_EVERY = 20
LEAVE_WITHIN_S = 30


def begin(run, profile, step_s: float = 0.05, at_step: int = 15) -> None:
    """Submits a slow run and waits until it is at work."""
    run.pace(step=step_s)
    run.submit(profile)
    run.wait_step(at_step)


def signal_job(run, name: str) -> None:
    ask("scancel", f"--signal={name}", run.job_id)


def test_preemption_by_the_high_partition(run, reference, profile):
    begin(run, profile)
    run.preempt()
    run.comes_back(reference, "1 preemption, SIGTERM", run.wait_left())


@pytest.fixture
def user_signal(clean_cluster) -> Iterator[None]:
    clean_cluster.use_user_signal(True)
    yield
    clean_cluster.use_user_signal(False)


def test_preemption_by_the_user_signal(user_signal, run, reference, profile):
    begin(run, profile)
    run.preempt()
    left_at = run.wait_left()
    assert {name for _, name in run.signals()} == {"SIGUSR2"}
    run.comes_back(reference, "2 preemption, send_user_signal", left_at)


def test_time_limit(run, reference, profile):
    begin(run, profile, step_s=0.3, at_step=5)
    ask("scontrol", "update", f"JobId={run.job_id}", "TimeLimit=2")
    left_at = run.wait_left()
    assert {name for _, name in run.signals()} == {"SIGUSR2"}
    run.wait_requeued()
    ask("scontrol", "update", f"JobId={run.job_id}", "TimeLimit=10")
    run.comes_back(reference, "3 time limit, SIGUSR2", left_at)


def test_scontrol_requeue(run, reference, profile):
    begin(run, profile)
    ask("scontrol", "requeue", run.job_id)
    run.comes_back(reference, "4 scontrol requeue", run.wait_left())


@pytest.mark.parametrize("victim", [0, 1])
def test_one_rank_killed_ends_all_and_the_run_comes_back(run, reference, profile, victim):
    begin(run, profile, at_step=SAVE_EVERY + 8)
    killed_at = time.time()
    os.kill(run.pid_of_rank(victim), signal.SIGKILL)
    left_at = run.wait_left(LEAVE_WITHIN_S)
    assert left_at - killed_at < LEAVE_WITHIN_S
    run.comes_back(reference, f"5 SIGKILL of rank {victim}", left_at, made_again=SAVE_EVERY, hit_at=killed_at)


def test_slurmd_killed(run, reference, profile):
    begin(run, profile, step_s=0.4)
    _, lost_node = run.nodes()
    os.kill(run.cluster.node_pid(lost_node), signal.SIGKILL)
    left_at = run.wait_left(90)
    run.wait_requeued()
    run.cluster.start_node(lost_node)
    run.comes_back(reference, "6 slurmd killed", left_at)


@pytest.mark.skipif(
    not hasattr(harness.errors, "EXIT_LOST_RANK"),
    reason="the trainer does not yet tell a lost rank from a failure of its own (exit code 76)",
)
def test_whole_node_lost(run, reference, profile):
    begin(run, profile, at_step=SAVE_EVERY + 8)
    _, lost_node = run.nodes()
    lost_at = time.time()
    run.cluster.kill_node(lost_node)
    left_at = run.wait_left(90)
    run.wait_requeued()
    run.cluster.start_node(lost_node)
    run.until(lambda: run.cluster.node_states()[lost_node] == "idle", 60, "the node did not come back")
    run.comes_back(reference, "6 whole node lost", left_at, made_again=SAVE_EVERY, hit_at=lost_at)


def test_cancelled_run_saves_and_does_not_come_back(run, reference, profile):
    begin(run, profile)
    cancel([run.job_id])
    left_at = run.wait_left()
    saved_at = len(run.rows())
    run.until(lambda: run.state == "CANCELLED", 60, "was not cancelled")
    assert run.fields()["Restarts"] == "0"
    assert run.status()["state"] == "saved"
    assert run.checkpoints()[-1].name == f"step_{saved_at:09d}"
    run.pace()
    run.submit(profile)
    run.wait_done()
    run.tell("7 scancel, then submitted anew", left_at, saved_at - run.events("start")[-1]["step"])
    run.check_equal(reference)


def test_second_signal_while_saving(run, reference, profile):
    run.pace(step=0.05, write=2.0)
    run.submit(profile)
    run.wait_step(SAVE_EVERY + 8)
    run.until(lambda: run.events("checkpoint"), 30, "no checkpoint was written")
    writes = run.marks().count("write")
    signal_job(run, "TERM")
    run.wait_mark("write", writes + 1)
    for name in ("TERM", "USR2", "TERM"):
        signal_job(run, name)
        time.sleep(0.2)
    run.comes_back(reference, "8 second signal while saving (write +2 s)", run.wait_left())


@pytest.mark.parametrize(
    ("place", "times"),
    [("import", 1), ("restore", 1), ("validate", 1), ("phase", 2)],
    ids=["while importing", "before the first step", "while evaluating", "between phases"],
)
def test_signal_at_an_unusual_place(run, reference, profile, place, times):
    run.pace(**{place: 1.5})
    run.submit(profile)
    run.wait_mark(place, times)
    sent_at = time.time()
    signal_job(run, "TERM")
    run.comes_back(reference, f"9 signal at '{place}' (+1.5 s)", run.wait_left(), hit_at=sent_at)


def test_torn_newest_checkpoint_falls_back_to_the_one_before(run, reference, profile):
    begin(run, profile, at_step=SAVE_EVERY + 8)
    signal_job(run, "TERM")
    left_at = run.wait_left()
    newest = run.checkpoints()[-1]
    with (newest / "training_state.pt").open("r+b") as file:
        file.truncate(random.Random(0).randrange(1, newest.joinpath("training_state.pt").stat().st_size))
    run.comes_back(reference, "10 newest checkpoint torn", left_at, made_again=SAVE_EVERY)
    assert f"{newest.name}/training_state.pt: differs from its checksum" in run.logs()


@pytest.fixture
def small_disk(run) -> Iterator[Callable[[], None]]:
    """The run's checkpoints lie on a disk of their own, which the returned function fills."""
    disk = run.out / "checkpoints"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    yield lambda: _fill(disk / "ballast")
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_full_disk_costs_one_checkpoint_and_the_run_goes_on(run, small_disk, reference, profile):
    begin(run, profile, at_step=SAVE_EVERY + 2)
    run.until(lambda: run.events("checkpoint"), 30, "no checkpoint was written")
    small_disk()
    run.until(lambda: run.events("checkpoint_failed"), 30, "the disk was not full")
    (run.out / "checkpoints" / "ballast").unlink()
    reached = len(run.rows())
    run.wait_step(reached + 2 * SAVE_EVERY)
    assert len(run.events("start")) == 1
    hit_at = time.time()
    os.kill(run.pid_of_rank(0), signal.SIGKILL)
    left_at = run.wait_left()
    run.comes_back(reference, "10 disk full, then SIGKILL", left_at, made_again=2 * SAVE_EVERY, hit_at=hit_at)
