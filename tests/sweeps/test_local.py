"""Whole sweeps on this machine, with real supervisors and processes and a trainer that takes a moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slurm.profile import ClusterProfile
from sweeps import apply
from sweeps.apply import store
from sweeps.config import SweepConfig, dump_sweep
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.local import train_here
from sweeps.lock import claim
from sweeps.plan import Plan
from sweeps.queues import Queues
from sweeps.status import sweep_status

PlanOf = Callable[..., Plan]
SweepOf = Callable[..., SweepConfig]
PROFILE = ClusterProfile(name="local", max_parallel=3)
SEEDS = {"name": "seed", "key": "phases.1.iterations", "values": [1, 2]}


@pytest.fixture(autouse=True)
def fake_trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces training; the result tells what each phase shall do."""
    here = str(Path(__file__).parent)
    monkeypatch.setattr(apply, "TRAIN_TARGET", "fake_trainer:main")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    return lambda **plan: monkeypatch.setenv("FAKE_TRAINER", json.dumps(plan))


def starts(folder: SweepFolder, key: str) -> int:
    path = folder.runs.phase(key) / "starts.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_every_phase_is_trained_once_after_its_parent(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    assert not train_here(plan, sweep_folder, PROFILE).failed
    assert sweep_status(sweep_folder.runs, plan, Queues()).is_done
    assert not train_here(plan, sweep_folder, PROFILE).failed
    assert [starts(sweep_folder, key) for key in plan.phases] == [1, 1, 1], "a finished phase was trained again"


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("fail", "the loss is not finite"),
        ("refuse", "no such data"),
        ("leave", "left with exit code 2"),
        ("killed", "was killed by SIGKILL; a warning of some library"),
    ],
)
def test_failed_phase_blocks_its_children_and_is_retried_on_request_only(
    plan_of: PlanOf,
    sweep_of: SweepOf,
    sweep_folder: SweepFolder,
    fake_trainer: Callable[..., None],
    how: str,
    error: str,
) -> None:
    plan = plan_of()
    pretrain, adversarial = plan.phases
    store(sweep_of(), plan, sweep_folder)
    fake_trainer(pretrain=how)
    assert train_here(plan, sweep_folder, PROFILE.model_copy(update={"max_deaths": 0})).failed == (pretrain,)
    assert not train_here(plan, sweep_folder, PROFILE).failed
    assert (starts(sweep_folder, pretrain), starts(sweep_folder, adversarial)) == (1, 0)
    (row,) = sweep_status(sweep_folder.runs, plan, Queues()).rows
    assert (row.state, row.phase) == ("failed", "pretrain") and error in row.error
    fake_trainer(pretrain="0")
    assert not train_here(plan, sweep_folder, PROFILE, retry_failed=True).failed
    assert (starts(sweep_folder, pretrain), starts(sweep_folder, adversarial)) == (2, 1)


def test_phase_that_fails_again_is_not_tried_for_ever(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, fake_trainer: Callable[..., None]
) -> None:
    plan = plan_of()
    pretrain = next(iter(plan.phases))
    store(sweep_of(), plan, sweep_folder)
    fake_trainer(pretrain="fail")

    def watch() -> None:
        assert starts(sweep_folder, pretrain) < 3

    for _ in range(2):
        assert train_here(plan, sweep_folder, PROFILE, retry_failed=True, on_poll=watch).failed == (pretrain,)
    assert starts(sweep_folder, pretrain) == 2


def _train_elsewhere(folder: SweepFolder, sweep: SweepConfig, name: str) -> subprocess.Popen[bytes]:
    """Plans and trains the sweep in a process of its own."""
    code = """
import sys
from sweeps import apply
from sweeps.config import load_sweep
from sweeps.grid import expand
from sweeps.layout import RunsFolder
from sweeps.local import train_here
from sweeps.lock import claim
from sweeps.plan import Identify, make_plan
from slurm.profile import ClusterProfile
from pathlib import Path
apply.TRAIN_TARGET = "fake_trainer:main"
file, runs = sys.argv[1:]
sweep = load_sweep(file)
plan = make_plan(sweep.name, expand(sweep, lambda path: []), Identify(lambda path: f"content of {path}"))
folder = RunsFolder(Path(runs)).sweep(sweep.name)
apply.store(sweep, plan, folder)
print("planned", flush=True)
train_here(plan, folder, ClusterProfile(max_parallel=3))
"""
    file = folder.runs.root.parent / f"{name}.yaml"
    file.write_text(dump_sweep(sweep.model_copy(update={"name": name})), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(file), str(folder.runs.root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"planned\n", process.stderr.read()  # type: ignore[union-attr]
    return process


def test_two_sweeps_that_share_phases_train_each_once(
    sweep_of: SweepOf, plan_of: PlanOf, sweep_folder: SweepFolder, fake_trainer: Callable[..., None]
) -> None:
    fake_trainer(pretrain="1", adversarial="0.5")
    processes = [_train_elsewhere(sweep_folder, sweep_of(SEEDS), name) for name in ("one", "two")]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert [starts(sweep_folder, key) for key in plan_of(SEEDS).phases] == [1, 1, 1]
    for name in ("one", "two"):
        assert sweep_status(sweep_folder.runs, plan_of(SEEDS), Queues()).is_done, name


def test_sweep_takes_over_from_one_that_was_killed(
    sweep_of: SweepOf, plan_of: PlanOf, sweep_folder: SweepFolder, fake_trainer: Callable[..., None]
) -> None:
    fake_trainer(pretrain="60")
    process = _train_elsewhere(sweep_folder, sweep_of(), "one")
    plan = plan_of()
    pretrain = next(iter(plan.phases))
    _wait_for(lambda: starts(sweep_folder, pretrain) == 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    fake_trainer(pretrain="0")
    assert not train_here(plan, sweep_folder, PROFILE).failed
    assert sweep_status(sweep_folder.runs, plan, Queues()).is_done
    assert starts(sweep_folder, pretrain) == 2


def test_interrupted_sweep_frees_its_claims_and_goes_on_later(
    sweep_of: SweepOf, plan_of: PlanOf, sweep_folder: SweepFolder, fake_trainer: Callable[..., None]
) -> None:
    fake_trainer(pretrain="60")
    process = _train_elsewhere(sweep_folder, sweep_of(), "one")
    plan = plan_of()
    pretrain = next(iter(plan.phases))
    _wait_for(lambda: starts(sweep_folder, pretrain) == 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    states = sweep_status(RunsFolder(sweep_folder.runs.root), plan, Queues()).states
    assert {state.state for state in states.values()} <= {"saved", "missing"}


def test_interrupt_while_others_train_leaves_as_saved(
    sweep_of: SweepOf, plan_of: PlanOf, sweep_folder: SweepFolder
) -> None:
    plan = plan_of()
    store(sweep_of(), plan, sweep_folder)
    for key in plan.phases:
        claim(sweep_folder.runs.phase(key))

    def interrupt() -> None:
        raise KeyboardInterrupt

    assert train_here(plan, sweep_folder, PROFILE, on_poll=interrupt).interrupted


def _wait_for(condition: Callable[[], Any], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)
