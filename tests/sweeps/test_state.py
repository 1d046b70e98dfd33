"""A phase's state from its folder, whoever wrote it and whoever died."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.process import process_start
from slurm.ending import Ending, Outcome, note_ending
from slurm.submission import NOTE
from sweeps.lock import claim
from sweeps.owner import Owner
from sweeps.plan import Plan
from sweeps.state import PhaseState, blocked, last_error_line, note_failure, phase_state, submitted_job

WriteStatus = Callable[..., None]


def alive(owner: Owner) -> bool:
    return True


def gone(owner: Owner) -> bool:
    return False


def silent(owner: Owner) -> None:
    """A cluster that does not answer."""


def submit(folder: Path, executor: str = "slurm") -> None:
    folder.mkdir(exist_ok=True)
    values = {
        "name": "x",
        "job_id": "5",
        "executor": executor,
        "profile": "p",
        "folder": str(folder),
        "logs": "5_*_log.*",
    }
    (folder / NOTE).write_text(json.dumps(values))


def test_untouched_phase_is_missing(tmp_path: Path) -> None:
    assert phase_state(tmp_path / "nowhere", gone).state == "missing"


def test_done_needs_the_exported_generator(tmp_path: Path, write_status: WriteStatus) -> None:
    write_status(tmp_path, state="done")
    assert phase_state(tmp_path, gone).state == "done"
    (tmp_path / "generator.safetensors").unlink()
    assert phase_state(tmp_path, gone).state == "saved", "a phase whose result is gone would never be trained again"


@pytest.mark.parametrize(("said", "state"), [("saved", "saved"), ("failed", "failed"), ("running", "saved")])
def test_what_a_trainer_said_before_it_left(tmp_path: Path, write_status: WriteStatus, said: str, state: str) -> None:
    write_status(tmp_path, state=said, host=socket.gethostname(), pid=2**22 + 1)
    assert phase_state(tmp_path, gone).state == state


def test_orphan_of_a_killed_supervisor_runs_whatever_the_clock_says(tmp_path: Path, write_status: WriteStatus) -> None:
    trainer = {"host": socket.gethostname(), "pid": os.getpid(), "pid_started": process_start(os.getpid())}
    write_status(tmp_path, state="running", updated=time.time() - 24 * 3600, **trainer)
    assert phase_state(tmp_path, gone).state == "running"


def test_a_trainer_is_known_by_what_it_writes_of_itself(tmp_path: Path) -> None:
    from harness.train.log import RunLog

    RunLog(tmp_path, SimpleNamespace(is_main=True, world_size=1)).status(state="running", step=1)  # type: ignore[arg-type]
    assert phase_state(tmp_path, gone).state == "running"


def test_process_with_the_number_of_a_trainer_that_is_gone_is_none(tmp_path: Path, write_status: WriteStatus) -> None:
    trainer = {"host": socket.gethostname(), "pid": os.getpid(), "pid_started": "1"}
    write_status(tmp_path, state="running", updated=time.time(), **trainer)
    assert phase_state(tmp_path, gone).state == "saved"


@pytest.mark.parametrize(("silent_s", "state"), [(10, "running"), (1000, "saved")])
def test_trainer_elsewhere_lives_as_long_as_it_speaks(
    tmp_path: Path, write_status: WriteStatus, silent_s: float, state: str
) -> None:
    write_status(tmp_path, state="running", host="elsewhere", updated=time.time() - silent_s)
    assert phase_state(tmp_path, gone).state == state


def test_claimed_phase_is_queued_and_runs_once_its_trainer_says_so(tmp_path: Path, write_status: WriteStatus) -> None:
    claim(tmp_path)
    assert phase_state(tmp_path, gone).state == "queued"
    write_status(tmp_path, state="running")
    assert phase_state(tmp_path, gone).state == "running"


@pytest.mark.parametrize("said", [None, "saved", "failed", "running"])
def test_phase_whose_submitter_died_before_handing_its_claim_over_belongs_to_the_job(
    tmp_path: Path, write_status: WriteStatus, said: str | None
) -> None:
    submit(tmp_path)
    if said:
        write_status(tmp_path, state=said)
    found = phase_state(tmp_path, alive)
    assert found.state == ("running" if said == "running" else "queued")
    assert found.owner is not None and found.owner.job_id == "5"


def test_job_that_left_the_queue_without_a_word_failed(tmp_path: Path) -> None:
    submit(tmp_path)
    assert phase_state(tmp_path, gone).state == "missing", "cancelled before it began"
    (tmp_path / "5_0_log.err").write_text("Traceback\nImportError: no torch\n\n")
    assert phase_state(tmp_path, gone).state == "failed"
    assert last_error_line(tmp_path) == "ImportError: no torch"


@pytest.mark.parametrize(
    ("outcome", "said", "job_id", "state"),
    [
        ("failed", "running", "5", "failed"),
        ("failed", None, "5", "failed"),
        ("left", "saved", "5", "saved"),
        ("left", None, "5", "missing"),
        ("failed", "saved", "4", "saved"),
    ],
    ids=["died too often", "before its first word", "cancelled", "cancelled before its first word", "earlier job"],
)
def test_note_of_the_last_job_decides_where_the_trainer_could_not(
    tmp_path: Path, write_status: WriteStatus, outcome: Outcome, said: str | None, job_id: str, state: str
) -> None:
    submit(tmp_path)
    (tmp_path / "5_0_log.err").write_text("srun: error: n1: task 0: Killed\n")
    if said:
        write_status(tmp_path, state=said)
    note_ending(tmp_path, Ending(job_id, 137, outcome, "why"))
    assert phase_state(tmp_path, gone).state == state
    assert phase_state(tmp_path, alive).state in ("queued", "running"), "it is in the queue again"


@pytest.mark.parametrize(("outcome", "state"), [("back", "queued"), ("left", "saved"), ("failed", "failed")])
def test_job_that_nobody_can_ask_about_lives_unless_it_noted_that_it_left_for_good(
    tmp_path: Path, write_status: WriteStatus, outcome: Outcome, state: str
) -> None:
    submit(tmp_path)
    write_status(tmp_path, state="saved")
    claim(tmp_path, Owner("", 0, "", "5"))
    assert submitted_job(tmp_path, silent) is not None and phase_state(tmp_path, silent).state == "queued"
    note_ending(tmp_path, Ending("4", 1, outcome, "an earlier job"))
    assert phase_state(tmp_path, silent).state == "queued"
    note_ending(tmp_path, Ending("5", 1, outcome, "why"))
    assert phase_state(tmp_path, silent).state == state


def test_last_error_line_is_the_trainers_and_slurms_only_without_one(tmp_path: Path) -> None:
    submit(tmp_path)
    chatter = [
        "srun: error: n1: task 0: Killed",
        "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***",
        "srun: Force Terminated StepId=7.0",
    ]
    (tmp_path / "5_0_log.err").write_text("\n".join(chatter))
    assert last_error_line(tmp_path) == "srun: error: n1: task 0: Killed"
    (tmp_path / "5_0_log.err").write_text("\n".join(["error: no such data", *chatter]))
    assert last_error_line(tmp_path) == "error: no such data"


def test_damaged_files_are_no_state(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "do')
    (tmp_path / NOTE).write_text("{")
    assert phase_state(tmp_path, alive).state == "missing"


def test_noted_failure_keeps_what_the_trainer_said(tmp_path: Path, write_status: WriteStatus) -> None:
    write_status(tmp_path, state="running", step=7)
    note_failure(tmp_path, "left with exit code 137")
    note_failure(tmp_path, "something else")
    state = phase_state(tmp_path, gone)
    assert (state.state, state.step, state.error) == ("failed", 7, "left with exit code 137")


def test_what_comes_long_after_a_failure_is_blocked_too(plan_of: Callable[..., Plan], recipe: dict[str, Any]) -> None:
    plan = plan_of(set={"phases": [*recipe["phases"], {**recipe["phases"][1], "name": "finetune"}]})
    states = dict(zip(plan.phases, (PhaseState("failed"), PhaseState("missing"), PhaseState("missing"))))
    assert blocked(plan, states) == set(list(plan.phases)[1:])


def test_what_comes_after_a_failure_is_blocked(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of({"name": "seed", "key": "phases.1.iterations", "values": [1, 2]})
    pretrain, *children = plan.phases
    states = {pretrain: PhaseState("failed"), children[0]: PhaseState("done"), children[1]: PhaseState("missing")}
    assert blocked(plan, states) == {children[1]}
