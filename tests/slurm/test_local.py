"""The local supervisor: order, places, restarts, and no rank left behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from slurm.errors import ClusterError
from slurm.job import Job
from slurm.local import Supervisor
from slurm.local_ranks import LocalRanks
from slurm.profile import ClusterProfile
from slurm.submission import read_submission

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable_targets(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))


def counting(folder, name="a", steps=5, after=(), **more):
    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    options = {"out": str(out), "steps": steps, "step_s": 0.02, **more}
    return Job(name, out, json.dumps(options), tuple(after), "targets:count")


def calling(folder, target, argument, name="a"):
    return Job(name, folder / name, argument, (), f"targets:{target}")


def count(folder, name="a", rank=0):
    path = folder / name / f"count_{rank}"
    return int(path.read_text()) if path.exists() else 0


def starts(folder, name="a", rank=0):
    path = folder / name / f"starts_{rank}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, timeout_s=20):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


def test_ranks_are_told_their_place(tmp_path):
    profile = ClusterProfile(tasks_per_node=2, cpus_per_task=3, environment={"COLOUR": "blue; $HOME"})
    job = counting(tmp_path)
    supervisor = Supervisor([job], profile, tmp_path / "slurm")
    assert supervisor.run()["a"].state == "done"
    (zero,), (one,) = starts(tmp_path, rank=0), starts(tmp_path, rank=1)
    assert [rank["RANK"] for rank in (zero, one)] == [rank["LOCAL_RANK"] for rank in (zero, one)] == ["0", "1"]
    for rank in (zero, one):
        assert (rank["WORLD_SIZE"], rank["MASTER_ADDR"], rank["OMP_NUM_THREADS"]) == ("2", "127.0.0.1", "3")
        assert (rank["COLOUR"], rank["HARNESS_GPUS_PER_NODE"]) == ("blue; $HOME", "0")
    assert zero["MASTER_PORT"] == one["MASTER_PORT"]
    assert [path.name[-10:] for path in read_submission(job.folder).log_files(rank=1)] == ["_1_log.out", "_1_log.err"]


def test_jobs_run_in_their_order_and_no_more_than_allowed_at_once(tmp_path):
    jobs = [counting(tmp_path, "last", after=["a", "b"]), *[counting(tmp_path, name, steps=10) for name in "abc"]]
    most = []
    supervisor = Supervisor(jobs, ClusterProfile(max_parallel=2), tmp_path / "slurm")
    states = supervisor.run(lambda s: most.append([n for n, x in s.items() if x.state == "running"]))
    assert {state.state for state in states.values()} == {"done"}
    assert max(len(running) for running in most) == 2
    assert not any("last" in running and set(running) & {"a", "b"} for running in most)


@pytest.mark.parametrize(
    ("target", "argument", "starts", "code"),
    [("fail", "1", 1, 1), ("fail", "2", 1, 2), ("raise_error", "no", 1, 1), ("fail", "75", 4, 75), ("die", "", 3, 137)],
)
def test_restarts_are_bounded(tmp_path, target, argument, starts, code):
    profile = ClusterProfile(max_requeues=3, max_deaths=2)
    supervisor = Supervisor([calling(tmp_path, target, argument)], profile, tmp_path / "slurm")
    state = supervisor.run()["a"]
    assert (state.state, state.starts, state.exit_code) == ("failed", starts, code)


@pytest.mark.parametrize(("codes", "state"), [((-9, -9, 75, -9, -9), "waiting"), ((-9, -9, -9), "failed")])
def test_only_deaths_since_the_last_save_are_bounded(tmp_path, codes, state):
    supervisor = Supervisor([calling(tmp_path, "die", "")], ClusterProfile(max_deaths=2), tmp_path / "slurm")
    for code in codes:
        supervisor._settle("a", 128 - code if code < 0 else code)
    assert supervisor.states["a"].state == state


def test_children_of_a_failed_job_are_blocked(tmp_path):
    jobs = [calling(tmp_path, "fail", "1"), counting(tmp_path, "b", after=["a"]), counting(tmp_path, "c", after=["b"])]
    states = Supervisor(jobs, ClusterProfile(), tmp_path / "slurm").run()
    assert [state.state for state in states.values()] == ["failed", "blocked", "blocked"]
    assert not starts(tmp_path, "b")


@pytest.mark.parametrize("code", [0, 75])
def test_rank_that_stays_long_after_another_has_left_is_killed(tmp_path, monkeypatch, code):
    commands = iter([f"exit {code}", "exec sleep 60"])
    start = partial(subprocess.Popen, shell=True, stdin=subprocess.PIPE, start_new_session=True)
    monkeypatch.setattr(LocalRanks, "_start", lambda self, rank, port: start(next(commands)))
    ranks = LocalRanks(tmp_path, ClusterProfile(tasks_per_node=2), slot=0)
    wait_for(lambda: ranks.poll(patience_s=0.1) == 128 + signal.SIGKILL)


def test_one_dead_rank_ends_all_and_the_job_starts_again(tmp_path):
    profile = ClusterProfile(tasks_per_node=2)
    killed = []

    def kill_rank_1(states):
        if not killed and count(tmp_path, rank=1) >= 5:
            killed.append(starts(tmp_path, rank=1)[0]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    supervisor = Supervisor([counting(tmp_path, steps=60)], profile, tmp_path / "slurm")
    state = supervisor.run(kill_rank_1)["a"]
    assert (state.state, state.starts) == ("done", 2)
    assert not any(is_alive(start["pid"]) for rank in (0, 1) for start in starts(tmp_path, rank=rank))


@pytest.fixture
def supervising(tmp_path):
    """A supervisor of two ranks in a process of its own, at work on a long job."""
    script = (
        "import sys; from pathlib import Path; from slurm.job import Job; from slurm.local import Supervisor\n"
        "from slurm.profile import ClusterProfile\n"
        "job = Job('a', Path(sys.argv[1]), sys.argv[2], (), 'targets:count')\n"
        "states = Supervisor([job], ClusterProfile(tasks_per_node=2), Path(sys.argv[1]) / 'slurm').run()\n"
        "print(states['a'].state, states['a'].exit_code, flush=True)\n"
    )
    job = counting(tmp_path, steps=100000, save_s=1)
    words = [sys.executable, "-c", script, str(job.folder), job.argument]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: min(count(tmp_path, rank=rank) for rank in (0, 1)) >= 3)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_ranks_which_save_first(supervising, tmp_path, number):
    os.killpg(supervising.pid, number)  # as a terminal does with Ctrl-C
    assert supervising.communicate(timeout=20)[0].split() == ["stopped", "75"]
    for rank in (0, 1):
        signals = (tmp_path / "a" / f"signals_{rank}").read_text().split()
        assert signals == ["SIGTERM"], "the terminal's own reaches the supervisor alone"
        assert (tmp_path / "a" / f"saved_{rank}").read_text() == str(count(tmp_path, rank=rank))
        assert not is_alive(starts(tmp_path, rank=rank)[0]["pid"])


@pytest.mark.parametrize(
    ("code", "state"), [(0, "done"), (75, "stopped"), (137, "stopped"), (1, "failed"), (2, "failed")]
)
def test_what_fails_while_all_is_stopped_has_failed(tmp_path, code, state):
    supervisor = Supervisor([counting(tmp_path)], ClusterProfile(), tmp_path / "slurm")
    supervisor.interrupted = True
    supervisor._settle("a", code)
    assert supervisor.states["a"].state == state


def test_asking_twice_to_stop_kills_nobody_who_is_saving(supervising, tmp_path):
    for _ in range(3):
        supervising.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert supervising.communicate(timeout=20)[0].split() == ["stopped", "75"]
    assert all((tmp_path / "a" / f"saved_{rank}").exists() for rank in (0, 1))


def test_an_error_while_it_watches_lets_the_ranks_save(tmp_path):
    def show(states):
        if count(tmp_path) >= 5:
            raise BrokenPipeError("whoever read the output is gone")

    supervisor = Supervisor([counting(tmp_path, steps=100000)], ClusterProfile(), tmp_path / "slurm")
    with pytest.raises(BrokenPipeError):
        supervisor.run(show)
    assert (tmp_path / "a" / "saved_0").read_text() == str(count(tmp_path))
    assert not is_alive(starts(tmp_path)[0]["pid"])


@pytest.mark.parametrize("what", [{"python": "/no/such/python"}, {"container": ["no-such-container", "exec"]}])
def test_a_python_that_is_not_there_is_told_as_the_profiles(tmp_path, what):
    supervisor = Supervisor([counting(tmp_path)], ClusterProfile(name="mine", **what), tmp_path / "slurm")
    with pytest.raises(ClusterError, match=r"no.such-?.*: cannot be started .*mend python or container .* 'mine'"):
        supervisor.run()


def test_a_killed_supervisor_leaves_no_rank_behind(supervising, tmp_path):
    supervising.kill()
    pids = [starts(tmp_path, rank=rank)[0]["pid"] for rank in (0, 1)]
    wait_for(lambda: not any(is_alive(pid) for pid in pids), 5)
    assert (tmp_path / "a" / "saved_0").exists()


def test_stopped_jobs_go_on_with_the_next_call(tmp_path):
    job = counting(tmp_path, steps=40)

    def stop(states):
        if count(tmp_path) >= 5 and not supervisor.interrupted:
            supervisor.stop()

    supervisor = Supervisor([job, counting(tmp_path, "b", after=["a"])], ClusterProfile(), tmp_path / "slurm")
    assert [state.state for state in supervisor.run(stop).values()] == ["stopped", "stopped"]
    assert 5 <= count(tmp_path) < 40
    assert Supervisor([job], ClusterProfile(), tmp_path / "slurm").run()["a"].state == "done"


@pytest.mark.slow
def test_fifty_random_kills_lose_nothing_that_was_saved(tmp_path):
    source, kills = random.Random(0), []
    due = [time.monotonic() + 1.0]

    def kill(states):
        pids = states["a"].pids
        if pids and time.monotonic() > due[0] and len(kills) < 50:
            due[0] = time.monotonic() + source.uniform(0.3, 1.0)
            with contextlib.suppress(ProcessLookupError):  # it had just left
                os.kill(source.choice(pids), signal.SIGKILL)
                kills.append(count(tmp_path))

    profile = ClusterProfile(tasks_per_node=2, max_deaths=100)
    state = Supervisor([counting(tmp_path, steps=1500)], profile, tmp_path / "slurm").run(kill)["a"]
    assert len(kills) == 50 and kills == sorted(kills)
    assert (state.state, count(tmp_path), count(tmp_path, rank=1)) == ("done", 1500, 1500)
