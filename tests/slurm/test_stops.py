"""However SLURM stops a run, it comes back and ends with bitwise the weights of an uninterrupted one."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.queue import ask, cancel

pytestmark = pytest.mark.slurm

SAVE_EVERY = 20
LOST_RANK_BAR_S = 30
NODE_BAR_S = 60


def begin(run, profile, step_s: float = 0.1, at_step: int = 15) -> None:
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
    begin(run, profile, step_s=0.5, at_step=5)
    # Whole minutes: the signal comes `signal_s` before the end, and not at once.
    limit_min = math.ceil((run.running_s() + profile.signal_s + 5) / 60)
    ask("scontrol", "update", f"JobId={run.job_id}", f"TimeLimit={limit_min}")
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
    left_at = run.wait_left()
    how = f"5 SIGKILL of rank {victim}"
    run.comes_back(reference, how, left_at, made_again=SAVE_EVERY, hit_at=killed_at, bar_s=LOST_RANK_BAR_S)


def test_slurmd_killed(run, reference, profile):
    begin(run, profile, step_s=0.6)
    _, lost_node = run.nodes()
    os.kill(run.cluster.node_pid(lost_node), signal.SIGKILL)
    left_at = run.wait_left()
    run.wait_requeued()
    run.cluster.start_node(lost_node)
    run.comes_back(reference, "6 slurmd killed", left_at)


def test_whole_node_lost(run, reference, profile):
    begin(run, profile, at_step=SAVE_EVERY + 8)
    _, lost_node = run.nodes()
    lost_at = time.time()
    run.cluster.kill_node(lost_node)
    left_at = run.wait_left()
    run.wait_requeued()
    run.cluster.start_node(lost_node)
    run.until(lambda: run.cluster.node_states()[lost_node] == "idle", "the node did not come back")
    run.comes_back(reference, "6 whole node lost", left_at, made_again=SAVE_EVERY, hit_at=lost_at, bar_s=NODE_BAR_S)


def test_cancelled_run_saves_and_does_not_come_back(run, reference, profile):
    begin(run, profile)
    cancel([run.job_id])
    left_at = run.wait_left()
    saved_at = len(run.rows())
    run.until(lambda: run.state == "CANCELLED", "was not cancelled")
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
    run.until(lambda: run.events("checkpoint"), "no checkpoint was written")
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
    """All ranks are held at the place until the signal is there; the grace counts from when they are let go."""
    run.pace(**{place: f"held {times}"})
    run.submit(profile)
    run.wait_mark(place, times)
    sent_at = time.time()
    signal_job(run, "TERM")
    if place != "import":  # there is nothing to save yet, so a signal ends the rank at once
        run.until(lambda: len(run.signals()) >= 2, "the signal did not come")
        sent_at = time.time()
        run.let_go()
    run.comes_back(reference, f"9 signal at '{place}'", run.wait_left(), hit_at=sent_at)


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
    words = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
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
    begin(run, profile, step_s=0.2, at_step=SAVE_EVERY + 2)
    run.until(lambda: run.events("checkpoint"), "no checkpoint was written")
    small_disk()
    run.until(lambda: run.events("checkpoint_failed"), "the disk was not full")
    (run.out / "checkpoints" / "ballast").unlink()
    reached = len(run.rows())
    run.wait_step(reached + 2 * SAVE_EVERY)
    assert len(run.events("start")) == 1
    hit_at = time.time()
    os.kill(run.pid_of_rank(0), signal.SIGKILL)
    left_at = run.wait_left()
    run.comes_back(reference, "10 disk full, then SIGKILL", left_at, made_again=2 * SAVE_EVERY, hit_at=hit_at)
