"""The ledger of compute, against histories whose hours are known; and what it adds up to over random ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.layout import RunsFolder
from sweeps.ledger import Ledger, phase_ledger, sweep_ledger
from sweeps.plan import Plan
from sweeps.state import PhaseState
from sweeps.table import ledger_line

H = 3600.0
DONE = PhaseState("done")


def event(hour: float, name: str, step: int = 0, ranks: int = 1, **more: Any) -> dict[str, Any]:
    return {"time": hour * H, "event": name, "step": step, "world_size": ranks, **more}


def ledger(
    rows: list[dict[str, Any]], state: PhaseState = DONE, submitted_h: float | None = None, now_h: float = 99
) -> Ledger:
    return phase_ledger(rows, state, None if submitted_h is None else submitted_h * H, now_h * H)


def check(found: Ledger, **hours: float) -> None:
    names = ("useful_h", "replayed_h", "starting_h", "lost_h", "queued_h")
    assert {name: getattr(found, name) for name in names} == pytest.approx(
        {name: hours.get(name, 0.0) for name in names}
    )


def test_uninterrupted_phase_is_starting_up_and_useful() -> None:
    rows = [event(0, "start"), event(1, "first_step", 1), event(5, "checkpoint", 80), event(6, "done", 100)]
    check(ledger(rows), starting_h=1, useful_h=5)


def test_hours_count_every_rank() -> None:
    rows = [event(0, "start", 0, 4), event(1, "first_step", 1, 4), event(6, "done", 100, 4)]
    check(ledger(rows), starting_h=4, useful_h=20)


def test_stop_that_saved_costs_the_queue_and_a_start_but_no_step() -> None:
    rows = [event(0, "start"), event(1, "first_step", 1), event(3, "stop", 50)]
    rows += [event(5, "start", 50), event(6, "first_step", 51), event(8, "done", 100)]
    check(ledger(rows), starting_h=2, useful_h=4, queued_h=2)


def test_steps_trained_again_after_a_kill_are_replayed() -> None:
    """Killed at step 90 with a checkpoint of step 50: 40 of the next 49 steps had been trained before."""
    rows = [event(0, "start"), event(1, "first_step", 0), event(3, "checkpoint", 50)]
    rows += [
        event(6, "start", 50, last_updated=5 * H, last_step=90),
        event(7, "first_step", 50),
        event(12, "done", 100),
    ]
    check(ledger(rows), starting_h=2, useful_h=4 + 1, replayed_h=4, queued_h=1)


def test_steps_count_as_replayed_up_to_the_furthest_that_any_start_came_to() -> None:
    """The first start came to step 90, the second, killed too, from 50 to 60: the third makes 40 of its 50 again."""
    rows = [event(0, "start"), event(1, "first_step", 0), event(3, "checkpoint", 50)]
    rows += [event(6, "start", 50, last_updated=5 * H, last_step=90), event(7, "first_step", 50)]
    rows += [event(9, "start", 50, last_updated=8 * H, last_step=60), event(10, "first_step", 50)]
    rows += [event(15, "done", 100)]
    check(ledger(rows), starting_h=3, useful_h=4 + 1, replayed_h=1 + 4, queued_h=2)


def test_status_of_an_earlier_start_says_nothing_about_this_one() -> None:
    rows = [event(10, "start"), event(11, "first_step", 1)]
    state = PhaseState("running", status={"updated": 5 * H, "step": 400})
    check(ledger(rows, state), starting_h=1)


def test_waiting_counts_every_rank_that_will_run() -> None:
    rows = [event(3, "start", 0, 4), event(4, "first_step", 1, 4), event(5, "done", 100, 4)]
    check(ledger(rows, submitted_h=1), queued_h=8, starting_h=4, useful_h=4)


def test_start_that_never_came_to_a_step_is_lost() -> None:
    rows = [event(0, "start"), event(2, "failed"), event(2, "start"), event(3, "first_step", 1), event(4, "done", 9)]
    check(ledger(rows), lost_h=2, starting_h=1, useful_h=1)


def test_wait_for_the_first_start_is_queued() -> None:
    rows = [event(3, "start"), event(3, "first_step", 1), event(4, "done", 9)]
    check(ledger(rows, submitted_h=1), queued_h=2, useful_h=1)


def test_phase_that_waits_is_queued_until_now() -> None:
    check(ledger([], PhaseState("queued"), submitted_h=2, now_h=7), queued_h=5)


def test_phase_that_waits_again_is_queued_since_its_last_start_or_its_submission() -> None:
    rows = [event(3, "start"), event(3, "first_step"), event(5, "stop", 9)]
    waits = PhaseState("queued")
    check(ledger(rows, waits, submitted_h=2, now_h=9), queued_h=1 + 4, useful_h=2)
    check(ledger(rows, waits, submitted_h=8, now_h=9), queued_h=1, useful_h=2)
    check(ledger([], PhaseState("missing")))


def test_running_phase_counts_up_to_its_last_word() -> None:
    rows = [event(0, "start"), event(1, "first_step", 1)]
    check(ledger(rows, PhaseState("running", None, {"updated": 4 * H, "step": 30})), starting_h=1, useful_h=3)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 5), st.integers(0, 50), st.integers(0, 50), st.floats(0, 3))))
@settings(deadline=None, max_examples=200)
def test_spent_hours_are_the_time_that_starts_took(starts: list[tuple[float, float, int, int, float]]) -> None:
    """Each start takes `starting` + `training`, begins `back` steps before the end of the last, then waits."""
    clock, reached, rows, spent, waited = 1.0, 0, [], 0.0, 0.0
    for number, (starting, training, steps, back, wait) in enumerate(starts):
        begin = max(0, reached - back)
        rows += [event(clock, "start", begin), event(clock + starting, "first_step", begin)]
        clock += starting + training
        spent += starting + training
        reached = begin + steps
        rows.append(event(clock, "stop", reached))
        if number + 1 < len(starts):
            waited += wait
        clock += wait
    found = ledger(rows)
    occupied = [found.useful_h, found.replayed_h, found.starting_h, found.lost_h]
    assert sum(occupied) == pytest.approx(spent)
    assert found.queued_h == pytest.approx(waited)
    assert min(occupied) >= -1e-9


def test_sweep_adds_its_phases_up_and_shares_are_counted_once(
    plan_of: Callable[..., Plan], tmp_path: Path, write_status: Callable[..., None]
) -> None:
    plan = plan_of({"name": "seed", "key": "phases.1.iterations", "values": [1, 2]})
    runs = RunsFolder(tmp_path)
    rows = [event(0, "start"), event(1, "first_step", 1), event(6, "done", 100)]
    for key in plan.phases:
        write_status(runs.phase(key), state="done")
        # The last line is torn, as a kill leaves it.
        (runs.phase(key) / "events.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"time": 3')
    check(sweep_ledger(runs, plan, dict.fromkeys(plan.phases, DONE)), starting_h=3, useful_h=15)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            Ledger(0.25, 0.0, 0.1, 0, 0),
            "CPU-minutes: 15.0 useful, 0.0 replayed, 6.0 starting up, 0.0 lost, 0.0 queued",
        ),
        (
            Ledger(1200, 1, 2, 0.5, 30, True),
            "GPU-hours: 1,200.0 useful, 1.0 replayed, 2.0 starting up, 0.5 lost, 30.0 queued",
        ),
    ],
)
def test_ledger_is_one_line(found: Ledger, line: str) -> None:
    assert ledger_line(found) == line


def test_training_on_a_gpu_anywhere_makes_gpu_hours(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of()
    runs = RunsFolder(tmp_path)
    for key, device in zip(plan.phases, ("cpu", "cuda")):
        runs.phase(key).mkdir(parents=True)
        (runs.phase(key) / "events.jsonl").write_text(json.dumps(event(0, "start", device=device)))
    assert sweep_ledger(runs, plan, dict.fromkeys(plan.phases, DONE)).on_gpu


def test_waiting_for_the_phase_before_is_not_queueing(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of()
    runs = RunsFolder(tmp_path)
    histories = [
        [event(2, "start"), event(2, "first_step", 1), event(5, "done", 9)],
        [event(6, "start"), event(6, "first_step", 1), event(8, "done", 9)],
    ]
    for key, rows in zip(plan.phases, histories):
        runs.phase(key).mkdir(parents=True)
        (runs.phase(key) / "events.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (runs.phase(key) / "submission.json").write_text(json.dumps({"submitted": 1 * H}))
    check(sweep_ledger(runs, plan, dict.fromkeys(plan.phases, DONE)), useful_h=5, queued_h=1 + 1)


def test_phase_whose_parent_is_not_done_queues_for_nothing_yet(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of()
    runs = RunsFolder(tmp_path)
    pretrain, adversarial = plan.phases
    runs.phase(adversarial).mkdir(parents=True)
    (runs.phase(adversarial) / "submission.json").write_text(json.dumps({"submitted": 1 * H}))
    check(sweep_ledger(runs, plan, {pretrain: PhaseState("missing"), adversarial: PhaseState("queued")}))
