"""Rows of the status table, how they are shown, and how long a thousand of them take."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from harness.process import process_start
from slurm import queue as slurm_queue
from slurm.ending import Ending, note_ending
from slurm.errors import ClusterError
from slurm.queue import QueuedJob
from slurm.submission import NOTE
from sweeps import follow
from sweeps import queues as queues_module
from sweeps.follow import Follower, follower_of, reasons, show_status
from sweeps.layout import SweepFolder
from sweeps.ledger import sweep_ledger
from sweeps.plan import Plan
from sweeps.queues import Queues
from sweeps.status import Row, RunState, SweepStatus, sweep_status
from sweeps.table import duration, ledger_line, plain_line, print_plan, savings, status_view

PlanOf = Callable[..., Plan]
WriteStatus = Callable[..., None]
_HERE = {"host": socket.gethostname(), "pid": os.getpid(), "pid_started": process_start(os.getpid())}
SEEDS = {"name": "seed", "key": "phases.1.iterations", "values": {"a": 50, "b": 51}}


def shown(renderable: object, width: int = 140) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(renderable)
    return stream.getvalue()


def test_row_tells_phase_step_speed_time_left_and_the_last_psnr(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus, finish: Callable[[str], None]
) -> None:
    plan = plan_of(SEEDS)
    pretrain, first, _ = plan.phases
    write_status(sweep_folder.runs.phase(pretrain), state="done", step=100, val_psnr=24.0, starts=3)
    write_status(
        sweep_folder.runs.phase(first), state="running", step=110, steps_per_s=2.0, val_psnr=25.5,
        starts=2, **_HERE,
    )  # fmt: skip
    running, waiting = sweep_status(sweep_folder.runs, plan, Queues()).rows
    assert (running.state, running.phase, running.step, running.total_steps) == ("running", "adversarial", 110, 150)
    assert (running.steps_per_s, running.left_s, running.val_psnr, running.starts_again) == (2.0, 20.0, 25.5, 3)
    assert (waiting.state, waiting.phase, waiting.step, waiting.val_psnr) == ("waiting", "adversarial", 100, 24.0)
    line = plain_line(running)
    assert "restarted 3x" in line and "110 / 150" in line and "20 s" in line and "25.50" in line


def test_row_tells_preemptions_restarts_and_how_often_it_saves(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus
) -> None:
    plan = plan_of()
    first, _ = plan.phases
    folder = sweep_folder.runs.phase(first)
    write_status(folder, state="running", step=10, save_every=250, starts=4, **_HERE)
    note_ending(folder, Ending("1", 75, "back", "was preempted, and had saved", 2))
    (row,) = sweep_status(sweep_folder.runs, plan, Queues()).rows
    line = plain_line(row)
    assert "running, preempted 2x, restarted 1x" in line and "every 250" in line
    write_status(folder, state="saved", step=10, starts=2)
    note_ending(folder, Ending("1", 75, "left", "was requeued 9 times already (max_requeues)", 1))
    (row,) = sweep_status(sweep_folder.runs, plan, Queues()).rows
    assert "saved, preempted 1x: was requeued 9 times already (max_requeues)" in plain_line(row)


def test_shared_phase_counts_once_in_the_progress(
    plan_of: PlanOf, sweep_folder: SweepFolder, finish: Callable[[str], None]
) -> None:
    plan = plan_of(SEEDS)
    finish(next(iter(plan.phases)))
    status = sweep_status(sweep_folder.runs, plan, Queues())
    assert (status.steps_done, status.steps_total) == (100, 100 + 50 + 51)
    assert not status.is_done and status.is_at_rest


def test_finished_run_is_done_though_a_phase_before_its_last_was_removed(
    plan_of: PlanOf, sweep_folder: SweepFolder, finish: Callable[[str], None]
) -> None:
    plan = plan_of(SEEDS)
    _, first, second = plan.phases
    finish(first)
    done, waiting = sweep_status(sweep_folder.runs, plan, Queues()).rows
    assert (done.state, done.phase, done.step) == ("done", "adversarial", 150)
    assert (waiting.state, waiting.phase, waiting.step) == ("waiting", "pretrain", 0)
    finish(second)
    status = sweep_status(sweep_folder.runs, plan, Queues())
    assert status.is_done and status.steps_done == status.steps_total


def test_failure_shows_the_trainers_last_word(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus
) -> None:
    plan = plan_of()
    write_status(sweep_folder.runs.phase(next(iter(plan.phases))), state="failed", step=3, error="[nan] at step 3")
    status = sweep_status(sweep_folder.runs, plan, Queues())
    assert status.counts == {"failed": 1}
    console = Console(file=io.StringIO(), width=120, height=30, force_terminal=True)
    with Follower(console, lambda: status) as follower:
        follower.show()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[nan] at step 3" in text, "brackets were taken for markup"


def test_job_in_the_queue_shows_its_nodes_or_what_it_waits_for(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(SEEDS)
    jobs = {}
    for number, (key, state) in enumerate(zip(plan.phases, ("RUNNING", "PENDING", "PENDING"))):
        folder = sweep_folder.runs.phase(key)
        folder.mkdir(parents=True)
        note = {"name": key, "job_id": str(number), "executor": "slurm", "profile": "p", "folder": "x", "logs": "x"}
        (folder / NOTE).write_text(json.dumps(note))
        nodes, reason = ("n1", "None") if state == "RUNNING" else ("", "Dependency")
        jobs[str(number)] = QueuedJob(str(number), state, reason, nodes, 0, "", "")
    monkeypatch.setattr(queues_module, "queue", lambda slurm_conf: jobs)
    rows = sweep_status(sweep_folder.runs, plan, Queues()).rows
    assert {(row.state, row.nodes) for row in rows} == {("running", "n1")}, "it has its nodes, but no first step yet"
    write_status(sweep_folder.runs.phase(next(iter(plan.phases))), state="running", step=1)
    rows = sweep_status(sweep_folder.runs, plan, Queues()).rows
    assert {(row.state, row.nodes) for row in rows} == {("running", "n1")}
    jobs["0"] = QueuedJob("0", "PENDING", "BeginTime", "", 1, "", "")
    write_status(sweep_folder.runs.phase(next(iter(plan.phases))), state="running", step=1, steps_per_s=2.0)
    rows = sweep_status(sweep_folder.runs, plan, Queues()).rows
    killed = {(row.state, row.nodes, row.steps_per_s) for row in rows}
    assert killed == {("queued", "(BeginTime)", None)}, "a killed trainer could not say that it runs no more"
    write_status(sweep_folder.runs.phase(next(iter(plan.phases))), state="done")
    rows = sweep_status(sweep_folder.runs, plan, Queues()).rows
    assert {(row.state, row.nodes) for row in rows} == {("queued", "(Dependency)")}


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        ("SUSPENDED", "None", ("queued", "(SUSPENDED)", None)),
        ("REQUEUE_HOLD", "JobHeldUser", ("queued", "(JobHeldUser)", None)),
        ("CONFIGURING", "None", ("queued", "(CONFIGURING)", None)),
        ("COMPLETING", "None", ("running", "n1", 2.0)),
        ("RUNNING", "None", ("running", "n1", 2.0)),
    ],
)
def test_job_that_does_not_compute_does_not_run_whatever_its_trainer_said_last(
    plan_of: PlanOf,
    sweep_folder: SweepFolder,
    write_status: WriteStatus,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    reason: str,
    told: tuple[str, str, float | None],
) -> None:
    from sweeps.lock import claim
    from sweeps.owner import Owner

    monkeypatch.setattr(queues_module, "queue", lambda conf: {"5": QueuedJob("5", state, reason, "n1", 0, "", "")})
    plan = plan_of()
    folder = sweep_folder.runs.phase(next(iter(plan.phases)))
    claim(folder, Owner("", 0, "", "5"))
    write_status(folder, state="running", step=1, steps_per_s=2.0)
    (row,) = sweep_status(sweep_folder.runs, plan, Queues()).rows
    assert (row.state, row.nodes, row.steps_per_s) == told


def test_cluster_that_does_not_answer_is_a_warning_not_a_death(
    plan_of: PlanOf, sweep_folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeps.lock import claim
    from sweeps.owner import Owner

    def silent(slurm_conf: str | None) -> dict[str, QueuedJob]:
        raise ClusterError("`squeue` did not answer")

    monkeypatch.setattr(queues_module, "queue", silent)
    plan = plan_of()
    claim(sweep_folder.runs.phase(next(iter(plan.phases))), Owner("", 0, "", "5"))
    status = sweep_status(sweep_folder.runs, plan, Queues())
    assert status.rows[0].state == "queued"
    assert "did not answer" in shown(status_view(status))
    queues = Queues(ask_every_s=0)
    assert sweep_status(sweep_folder.runs, plan, queues).warnings
    monkeypatch.setattr(queues_module, "queue", lambda slurm_conf: {})
    assert not sweep_status(sweep_folder.runs, plan, queues).warnings, "it answers again"


def test_runs_of_several_versions_of_the_code_are_a_warning(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus
) -> None:
    plan = plan_of()
    first, second = map(sweep_folder.runs.phase, plan.phases)
    write_status(first, state="done", trained_by=["harness 1"])
    write_status(second, state="running", trained_by=["harness 1"])
    assert not sweep_status(sweep_folder.runs, plan, Queues()).warnings
    write_status(second, state="running", trained_by=["harness 1", "harness 2"])
    assert "by 2 versions of the code" in shown(status_view(sweep_status(sweep_folder.runs, plan, Queues())))


def test_other_job_that_has_the_id_of_one_that_is_gone_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeps.owner import Owner

    scripts = {"1": "/home/me/other.sh", "2": "/other/mount/jobs/20260101T000000-abc/submission.sh", "3": ""}
    jobs = {job_id: QueuedJob(job_id, "RUNNING", "None", "n1", 0, "", "", path) for job_id, path in scripts.items()}
    monkeypatch.setattr(queues_module, "queue", lambda conf: jobs)
    queues = Queues()
    owners = [Owner("", 0, "", job_id, None, "/runs/s/jobs/20260101T000000-abc") for job_id in scripts]
    assert [queues(owner) for owner in owners] == [False, True, True]
    assert [queues.job(owner) is not None for owner in owners] == [False, True, True]


def test_queue_is_asked_once_for_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeps.owner import Owner

    asked = []
    monkeypatch.setattr(queues_module, "queue", lambda conf: asked.append(conf) or {})
    queues = Queues()
    for number in range(100):
        assert queues(Owner("", 0, "", str(number), "a.conf")) is False
    assert asked == ["a.conf"]
    assert slurm_queue.queue is not None


def test_follower_prints_each_change_once_where_there_is_no_terminal(
    plan_of: PlanOf, sweep_folder: SweepFolder, finish: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.follow._REFRESH_S", 0.0)
    plan = plan_of()
    stream = io.StringIO()
    with Follower(Console(file=stream, width=80), lambda: sweep_status(sweep_folder.runs, plan, Queues())) as follower:
        for _ in range(3):
            follower.show()
            time.sleep(0.05)
        for key in plan.phases:
            finish(key)
        for _ in range(3):
            follower.show()
            time.sleep(0.05)
    assert stream.getvalue().splitlines() == ["s  done  adversarial  150 / 150"]
    assert "\x1b" not in stream.getvalue()


def test_live_table_has_the_ledger_below(plan_of: PlanOf, sweep_folder: SweepFolder) -> None:
    plan = plan_of()
    console = Console(file=io.StringIO(), width=120, height=30, force_terminal=True)
    with follower_of(sweep_folder, plan, console, Queues()) as follower:
        follower.show()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("0 / 150") < text.index("CPU-minutes: 0.0 useful")


def test_plan_table_names_every_run_and_phase_and_what_is_saved(plan_of: PlanOf) -> None:
    plan = plan_of(SEEDS)
    stream = io.StringIO()
    print_plan(Console(file=stream, width=160), plan)
    text = stream.getvalue()
    assert all(name in text for name in [*plan.phases, "a", "b"])
    assert savings(plan) == ("2 runs, 3 phases: 201 iterations instead of 301; sharing phases saves 100 (33.2%).")
    assert savings(plan_of()) == "1 run, 2 phases: 150 iterations; no phase is shared."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (90_000, "25 h 00 min"),
        (1e6, "11 d 13 h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def thousand_runs(plan_of: PlanOf, folder: SweepFolder, write_status: WriteStatus) -> Plan:
    plan = plan_of({"name": "seed", "key": "seed", "values": list(range(1000))})
    rows = [
        {"time": t, "event": e, "step": t, "world_size": 1}
        for t in range(0, 100, 10)
        for e in ("start", "first_step", "stop")
    ]
    events = "\n".join(map(json.dumps, rows))
    for key, phase in plan.phases.items():
        done = phase.name == "pretrain"
        write_status(
            folder.runs.phase(key), state="done" if done else "saved", step=100 + 20 * (not done), val_psnr=25.0
        )
        (folder.runs.phase(key) / "events.jsonl").write_text(events)
    return plan


@pytest.mark.slow
def test_thousand_runs_are_all_told(plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus) -> None:
    plan = thousand_runs(plan_of, sweep_folder, write_status)
    status = sweep_status(sweep_folder.runs, plan, Queues())
    line = ledger_line(sweep_ledger(sweep_folder.runs, plan, status.states))
    text = shown(status_view(status))
    assert len(status.rows) == 1000 and "replayed" in line and "999" in text


def test_each_reason_is_told_once_and_in_full(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus
) -> None:
    plan = plan_of({"name": "seed", "key": "phases.1.iterations", "values": {"a": 50, "b": 51, "c": 52}})
    pretrain = next(iter(plan.phases))
    error = "DataError: photos/train-000017.tar is shorter than its sidecar says; copy it again."
    write_status(sweep_folder.runs.phase(pretrain), state="failed", error=error)
    status = sweep_status(sweep_folder.runs, plan, Queues())
    assert reasons(status) == [f"a and 2 more failed: {error[:-1]}; so adversarial cannot start"]
    stream = io.StringIO()
    show_status(Console(file=stream, width=60), status, sweep_folder, plan)
    assert f"a and 2 more failed: {error[:-1]}; so" in stream.getvalue()


def test_sweep_is_followed_over_a_moment_in_which_a_requeued_job_is_in_no_list(
    plan_of: PlanOf, sweep_folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()
    given: list[RunState] = []
    told: tuple[RunState, ...] = ("queued", "saved", "running", "done")

    def status(runs: object, plan: Plan, queues: object) -> SweepStatus:
        given.append(told[len(given)])
        row = Row("s", {}, given[-1], "pretrain", 0, 150, 0)
        return SweepStatus("s", [row], 0, 150, {})

    monkeypatch.setattr(follow, "sweep_status", status)
    monkeypatch.setattr(follow, "_REFRESH_S", 0)
    assert follow.follow_sweep(sweep_folder, plan, Console(file=io.StringIO()), poll_s=0).is_done
    assert tuple(given) == told


def test_live_view_fits_the_terminal_and_tells_how_many_reasons_it_leaves_out(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus
) -> None:
    plan = plan_of({"name": "seed", "key": "seed", "values": list(range(30))})
    for number, run in enumerate(plan.runs[:5]):
        versions = [f"harness {number} (code 12345678), torch 2.8.0"]
        write_status(sweep_folder.runs.phase(run.phases[0]), state="failed", error=f"{number}", trained_by=versions)
    status = sweep_status(sweep_folder.runs, plan, Queues())
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    view = Follower(console, lambda: status)._view(status)
    assert "and 2 more reasons" in shown(view, width=80)
    assert shown(view, width=80).count("\n") <= 23, "the last lines would be cut off"


def test_live_table_shows_the_most_telling_runs_first(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus
) -> None:
    plan = plan_of({"name": "seed", "key": "seed", "values": list(range(30))})
    last = plan.runs[-1].phases[0]
    write_status(sweep_folder.runs.phase(last), state="failed", error="no luck")
    text = shown(status_view(sweep_status(sweep_folder.runs, plan, Queues()), max_lines=5))
    assert "failed" in text and "and 25 more runs" in text


@pytest.mark.parametrize(
    ("lines", "stay"),
    [
        (1, "running"),
        (2, "failed running"),
        (3, "saved failed running"),
        (4, "queued saved failed running"),
        (5, "waiting queued saved failed running"),
        (6, "done waiting queued saved failed running"),
    ],
)
def test_rows_that_stay_in_a_short_table_keep_the_order_of_the_plan(lines: int, stay: str) -> None:
    states: list[RunState] = ["done", "waiting", "queued", "saved", "failed", "running", "done"]
    rows = [Row(f"run{place}", {}, state, "pretrain", 0, 100, 0) for place, state in enumerate(states)]
    text = shown(status_view(SweepStatus("s", rows, 0, 700, {}), lines))
    table = [line.split("│")[1:3] for line in text.splitlines() if line.startswith("│")]
    names, said = zip(*([cell.strip() for cell in cells] for cells in table))
    assert list(said) == stay.split()
    assert list(names) == [f"run{states.index(state)}" for state in stay.split()], "of equals the first stay"


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_name_is_shown_whole_whatever_the_reason_of_a_failure(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus, width: int
) -> None:
    name = "100-augmentation-No-generator-rrdb-seed-1"
    plan = plan_of({"name": "seed", "key": "seed", "values": {name: 0, "b": 1}})
    failed, other = plan.runs
    write_status(sweep_folder.runs.phase(failed.phases[0]), state="failed", step=3, error="the loss is " * 20)
    write_status(sweep_folder.runs.phase(other.phases[0]), state="saved", step=9)
    text = shown(status_view(sweep_status(sweep_folder.runs, plan, Queues())), width)
    rows = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    assert "".join(row[1].strip() for row in rows) == f"{name}b"
    assert [row[2].split()[0] for row in rows if row[2].strip()] == ["failed", "saved"]
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_narrow_terminal_shows_fewer_columns_but_no_cut_number(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus, width: int
) -> None:
    plan = plan_of({"name": "seed", "key": "seed", "values": [0, 1]})
    for key in plan.phases:
        folder = sweep_folder.runs.phase(key)
        write_status(folder, state="running", phase="adversarial", step=119, steps_per_s=0.01, val_psnr=25.0)
    text = shown(status_view(sweep_status(sweep_folder.runs, plan, Queues())), width)
    table = text[: text.index("└")]
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in table and "time left" in table and " / " in table
    assert ("val PSNR" in table) == (width >= 80)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_how_often_a_run_was_interrupted_is_shown_in_narrow_terminals_too(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus, width: int
) -> None:
    plan = plan_of({"name": "seed", "key": "seed", "values": [0, 1]})
    for key in plan.phases:
        folder = sweep_folder.runs.phase(key)
        write_status(folder, state="running", step=119, steps_per_s=0.01, val_psnr=25.0, starts=7, **_HERE)
    text = shown(status_view(sweep_status(sweep_folder.runs, plan, Queues())), width)
    assert "running, restarted 12x" in text and "time left" in text


@pytest.mark.parametrize("width", [20, 28, 36])
def test_terminal_too_narrow_for_a_table_shows_a_line_a_run(
    plan_of: PlanOf, sweep_folder: SweepFolder, write_status: WriteStatus, width: int
) -> None:
    plan = plan_of({"name": "seed", "key": "phases.0.iterations", "values": [1_000_000, 2_000_000]})
    for key in plan.phases:
        write_status(sweep_folder.runs.phase(key), state="running", step=123_456, updated=time.time())
    text = shown(status_view(sweep_status(sweep_folder.runs, plan, Queues())), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text and "123,456" in text and "2,000,050" in text and "running" in text
