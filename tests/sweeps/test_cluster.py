"""Submitting plans: what goes into the queue, what waits for what, and who holds the claims; then on a real SLURM."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from evaluation.scores import collect
from evaluation.scores.table import ScoreTable
from harness.data.pack import pack
from slurm.dev.requirements import why_not, why_not_installed
from slurm.devcluster import DevCluster
from slurm.errors import ClusterError
from slurm.job import Job, Payload, make_private, write_payload
from slurm.launch import NOTED, conf_of
from slurm.profile import ClusterProfile
from slurm.queue import QueuedJob, ask, client_environment
from slurm.submission import Submission, note_submission
from sweeps import apply, cluster, run, shares
from sweeps import queues as queues_module
from sweeps.apply import claim_phases, store
from sweeps.cluster import submit_plan
from sweeps.config import SweepConfig
from sweeps.control import cancel_phases, cancel_sweep
from sweeps.evaluate import evaluate_here, evaluation_of
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.lock import holder
from sweeps.owner import Owner, this_process
from sweeps.plan import Identify, Plan
from sweeps.queues import Queues
from sweeps.shares import evaluation_jobs, measure_on_cluster
from sweeps.state import phase_states
from sweeps.status import sweep_status

PlanOf = Callable[..., Plan]
SweepOf = Callable[..., SweepConfig]
SEEDS = {"name": "seed", "key": "phases.1.iterations", "values": [1, 2]}
PROFILE = ClusterProfile(name="test", executor="slurm")
QUIET = Console(quiet=True)


class FakeQueue:
    """Takes submissions, and shows them in the queue until they are taken out."""

    def __init__(self) -> None:
        self.jobs: dict[str, QueuedJob] = {}
        self.submitted: list[tuple[list[Job], dict[str, str]]] = []
        self.refuses = False
        self.cancelled: list[str] = []
        self.last_id = 0

    def submit(
        self,
        jobs: Sequence[Job],
        profile: ClusterProfile,
        folder: Path,
        *,
        label: str,
        submitted: Mapping[str, str] | None = None,
        hold: bool = False,
    ) -> dict[str, Submission]:
        if self.refuses:
            raise ClusterError("sbatch refused")
        submitted = submitted or {}
        known = {*submitted, *(job.name for job in jobs)}
        assert all(set(job.after) <= known for job in jobs), "a job waits for something that nobody knows"
        self.submitted.append((list(jobs), dict(submitted)))
        found = {}
        for job in jobs:
            self.last_id += 1
            job_id = str(self.last_id)
            self.jobs[job_id] = QueuedJob(job_id, "PENDING", "None", "", 0, "", "")
            found[job.name] = Submission(
                job.name, job_id, "slurm", "test", str(folder), f"{job_id}_*_log.*", conf_of(profile)
            )
            note_submission(job, found[job.name], None)
        return found

    def cancel(self, ids: Sequence[str], slurm_conf: str | None) -> None:
        self.cancelled += ids
        for job_id in ids:
            self.jobs.pop(job_id)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    queue = FakeQueue()
    monkeypatch.setattr(cluster, "submit", queue.submit)
    monkeypatch.setattr(shares, "submit", queue.submit)
    monkeypatch.setattr(queues_module, "cancel", queue.cancel)
    monkeypatch.setattr(queues_module, "queue", lambda slurm_conf: dict(queue.jobs))
    return queue


def fresh() -> Queues:
    return Queues(ask_every_s=0)


def states(plan: Plan, folder: SweepFolder) -> list[str]:
    return [state.state for state in phase_states(folder.runs, plan, fresh()).values()]


def test_whole_plan_is_one_submission_that_needs_nobody_to_stay(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    submitted = submit_plan(plan, sweep_folder, PROFILE, fresh())
    ((jobs, known),) = queue.submitted
    pretrain, first, second = plan.phases
    assert {job.name: job.after for job in jobs} == {
        pretrain: (),
        first: (pretrain,),
        second: (pretrain,),
        "s-evaluate": (first, second),
    }
    assert jobs[-1].target == "sweeps.evaluate:main" and known == {}
    assert [job.after_failure for job in jobs] == [False, False, False, True], "half a matrix is better than none"
    assert submitted.phases == tuple(plan.phases) and submitted.evaluation == "4"
    holders = [holder(sweep_folder.runs.phase(key), fresh()) for key in plan.phases]
    assert [owner and owner.job_id for owner in holders] == ["1", "2", "3"]
    assert states(plan, sweep_folder) == ["queued"] * 3


def test_submitting_again_changes_nothing(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, PROFILE, fresh())
    again = submit_plan(plan, sweep_folder, PROFILE, fresh())
    assert (again.phases, again.evaluation) == ((), None)
    assert len(queue.jobs) == 4 and not queue.cancelled


def test_job_that_left_the_queue_unfinished_is_submitted_again(
    plan_of: PlanOf,
    sweep_of: SweepOf,
    sweep_folder: SweepFolder,
    queue: FakeQueue,
    finish: Callable[[str], None],
    write_status: Callable[..., None],
) -> None:
    plan = plan_of(SEEDS)
    pretrain, first, second = plan.phases
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, PROFILE, fresh())
    finish(pretrain)
    write_status(sweep_folder.runs.phase(first), state="saved", step=100)
    del queue.jobs["1"], queue.jobs["2"]
    again = submit_plan(plan, sweep_folder, PROFILE, fresh())
    jobs, known = queue.submitted[-1]
    assert again.phases == (first,)
    assert {job.name: job.after for job in jobs} == {first: (), "s-evaluate": (first, second)}
    assert known == {second: "3"}, "the evaluation waits for the job that is still in the queue"
    assert queue.cancelled == ["4"], "the evaluation that waited for the lost job can never start"


@pytest.mark.parametrize("script", ["submission.sh", "99_submission.sh", "the_sites_own.sh"])
def test_job_that_a_killed_submitter_could_not_note_is_found_and_not_submitted_again(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue, script: str
) -> None:
    """submitit renames its file after sbatch, and a site's sbatch may send a copy from the same folder."""
    plan = plan_of()
    first, second = plan.phases
    store(sweep_of(), plan, sweep_folder)
    own = make_private(make_private(sweep_folder.jobs) / "stamp")
    (own / NOTED).touch()
    there = "submission.sh" if script == "submission.sh" else "99_submission.sh"
    (own / there).write_text("srun python -u -m slurm.task payload_0.json\n")
    job = Job(first, sweep_folder.runs.phase(first), "")
    write_payload(own / "payload_0.json", Payload({0: job}, {}, max_requeues=1, max_deaths=1, threads=1))
    queue.jobs["99"] = QueuedJob("99", "PENDING", "None", "", 0, "", "", str(own / script))
    submitted = submit_plan(plan, sweep_folder, PROFILE, fresh())
    assert submitted.phases == (second,) and states(plan, sweep_folder) == ["queued"] * 2
    jobs, known = queue.submitted[0]
    assert jobs[0].after == (first,) and known == {first: "99"}


def test_failed_phase_is_submitted_again_on_request_only(
    plan_of: PlanOf,
    sweep_of: SweepOf,
    sweep_folder: SweepFolder,
    queue: FakeQueue,
    write_status: Callable[..., None],
) -> None:
    plan = plan_of()
    store(sweep_of(), plan, sweep_folder)
    write_status(sweep_folder.runs.phase(next(iter(plan.phases))), state="failed")
    assert submit_plan(plan, sweep_folder, PROFILE, fresh()).phases == ()
    assert submit_plan(plan, sweep_folder, PROFILE, fresh(), retry_failed=True).phases == tuple(plan.phases)


def test_other_sweep_waits_for_the_jobs_of_the_first(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    one, two = plan_of(SEEDS), plan_of({**SEEDS, "values": [2, 3]})
    other = sweep_folder.runs.sweep("t")
    store(sweep_of(SEEDS), one, sweep_folder)
    submit_plan(one, sweep_folder, PROFILE, fresh())
    store(sweep_of({**SEEDS, "values": [2, 3]}), two, other)
    submitted = submit_plan(two, other, PROFILE, fresh())
    pretrain, shared, own = two.phases
    jobs, known = queue.submitted[-1]
    assert submitted.phases == (own,)
    assert {job.name: job.after for job in jobs} == {own: (pretrain,), "s-evaluate": (shared, own)}
    assert known == {pretrain: "1", shared: "3"}
    assert submitted.elsewhere == {}, "all of it can be waited for"


def test_job_of_another_cluster_is_not_waited_for_by_its_number(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    pretrain = next(iter(plan.phases))
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, PROFILE.model_copy(update={"slurm_conf": "/etc/other.conf"}), fresh())
    for job_id in ("2", "3"):  # its children were cancelled
        del queue.jobs[job_id]
    submitted = submit_plan(plan, sweep_folder, PROFILE, fresh())
    assert set(submitted.elsewhere) == {pretrain} and submitted.phases == ()
    assert all(job.after == () for job in queue.submitted[-1][0]), "job 1 of this cluster is another one"


def test_jobs_of_a_queue_that_does_not_answer_are_neither_submitted_again_nor_waited_for(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(slurm_conf: str | None) -> dict[str, QueuedJob]:
        raise ClusterError("`squeue` did not answer within 60 s")

    plan, more = plan_of(SEEDS), plan_of({**SEEDS, "values": [1, 2, 3]})
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, PROFILE, fresh())
    monkeypatch.setattr(queues_module, "queue", silent)
    store(sweep_of(SEEDS), more, sweep_folder)
    again = submit_plan(more, sweep_folder, PROFILE, fresh())
    assert again.phases == () and again.evaluation is None and queue.submitted[1:] == [([], {})]
    assert set(again.elsewhere) == set(plan.phases), "sbatch refuses to wait for a job that may be gone"


def test_cancelling_one_run_leaves_the_others_and_the_evaluation_in_the_queue(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, PROFILE, fresh())
    cancel_sweep(sweep_folder, [plan.runs[0].name], QUIET)
    assert queue.cancelled == ["2"] and set(queue.jobs) == {"1", "3", "4"}


def test_queue_that_does_not_answer_is_told_by_a_sweep_that_leaves_its_jobs_alone(
    plan_of: PlanOf, sweep_of: SweepOf, tmp_path: Path, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(slurm_conf: str | None) -> dict[str, QueuedJob]:
        raise ClusterError("`squeue` did not answer within 60 s; ask whether the cluster is up.")

    plan, folder = plan_of(), RunsFolder(tmp_path / "my runs").sweep("s")
    store(sweep_of(), plan, folder)
    submit_plan(plan, folder, PROFILE, fresh())
    monkeypatch.setattr(queues_module, "queue", silent)
    console = Console(file=io.StringIO(), width=160)
    planned = run.Planned(sweep_of(), plan, folder, run.Changes())
    assert run._on_slurm(planned, PROFILE, True, False, console) == 0
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "warning: `squeue` did not answer within 60 s" in told and "submitted before counts as queued" in told
    assert f"harness status --watch --runs '{folder.runs.root}'" in told, "a folder's name may have a space"


def test_phase_whose_job_is_gone_is_told_of_as_long_as_its_trainer_may_work(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue, write_status: Callable[..., None]
) -> None:
    plan = plan_of()
    first, second = plan.phases
    store(sweep_of(), plan, sweep_folder)
    submit_plan(plan, sweep_folder, PROFILE, fresh())
    queue.jobs.clear()
    write_status(sweep_folder.runs.phase(first), state="running", updated=time.time())
    submitted = submit_plan(plan, sweep_folder, PROFILE, fresh())
    assert (submitted.phases, submitted.orphaned) == ((), (first,))
    console = Console(file=io.StringIO(), width=160)
    run._tell_submitted(submitted, console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{first}: left the queue, but its trainer spoke a moment ago; run the same command again in 5 min" in told
    write_status(sweep_folder.runs.phase(first), state="running", updated=time.time() - 301)
    assert submit_plan(plan, sweep_folder, PROFILE, fresh()).phases == (first, second)


def test_jobs_are_cancelled_in_their_own_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[tuple[list[str], str | None]] = []
    monkeypatch.setattr(queues_module, "cancel", lambda ids, slurm_conf: cancelled.append((ids, slurm_conf)))
    queues_module.cancel_jobs(Owner("", 0, "", job_id, conf) for job_id, conf in (("1", None), ("1", "b"), ("2", None)))
    assert cancelled == [(["1", "2"], None), (["1"], "b")]


def test_phase_that_a_process_trains_cannot_be_waited_for_by_a_job(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    pretrain = next(iter(plan.phases))
    store(sweep_of(SEEDS), plan, sweep_folder)
    claim_phases(sweep_folder.runs, [pretrain], fresh())
    submitted = submit_plan(plan, sweep_folder, PROFILE, fresh())
    assert submitted.phases == ()
    assert submitted.elsewhere == {pretrain: this_process()}


def test_of_two_submissions_at_once_the_second_finds_the_jobs_of_the_first(
    plan_of: PlanOf,
    sweep_of: SweepOf,
    sweep_folder: SweepFolder,
    queue: FakeQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    submitting = threading.Event()

    def slowly(*args: Any, **more: Any) -> dict[str, Submission]:
        submitting.set()
        time.sleep(0.5)
        return queue.submit(*args, **more)

    monkeypatch.setattr(cluster, "submit", slowly)
    first = threading.Thread(target=submit_plan, args=(plan, sweep_folder, PROFILE, fresh()))
    first.start()
    assert submitting.wait(10)
    waited_for: list[Owner] = []
    second = submit_plan(plan, sweep_folder, PROFILE, fresh(), on_wait=waited_for.append)
    first.join()
    assert waited_for == [this_process()], "nobody waits without a word"
    assert second.phases == () and second.elsewhere == {}
    assert [len(jobs) for jobs, _ in queue.submitted] == [4, 0], "one evaluation, too"


def test_refused_submission_leaves_no_claim_behind(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    queue.refuses = True
    with pytest.raises(ClusterError):
        submit_plan(plan, sweep_folder, PROFILE, fresh())
    assert states(plan, sweep_folder) == ["missing"] * 3


def test_refused_submission_leaves_the_waiting_evaluation_in_the_queue(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, SHARED, fresh())
    del queue.jobs["3"]  # the last training was lost; the others go on
    queue.refuses = True
    with pytest.raises(ClusterError):
        submit_plan(plan, sweep_folder, SHARED, fresh())
    assert queue.cancelled == [] and {"4", "5", "6", "7"} <= set(queue.jobs)


def test_job_submitted_after_the_queue_was_asked_is_not_taken_for_dead(
    plan_of: PlanOf,
    sweep_of: SweepOf,
    sweep_folder: SweepFolder,
    queue: FakeQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    monkeypatch.setattr(queues_module, "_ROUND_S", 0.0)
    slow = Queues(ask_every_s=1000)
    assert slow(Owner("", 0, "", "0")) is False
    submit_plan(plan, sweep_folder, PROFILE, fresh())
    assert submit_plan(plan, sweep_folder, PROFILE, slow).phases == ()
    assert len(queue.submitted[-1][0]) == 0


def test_jobs_that_are_gone_cost_one_question_for_all(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues_module, "_ROUND_S", 0.0)
    asked: list[str | None] = []
    monkeypatch.setattr(queues_module, "queue", lambda slurm_conf: asked.append(slurm_conf) or {})
    queues = Queues(ask_every_s=1000)
    gone = [Owner("", 0, "", f"17_{place}") for place in range(100)]
    assert not any(queues(owner) for owner in [*gone, *gone, Owner("", 0, "", "16")])
    assert len(asked) == 1
    assert queues(Owner("", 0, "", "18")) is False and len(asked) == 2, "it may have come since"


def test_finished_sweep_submits_its_evaluation_alone(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue, finish: Callable[[str], None]
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    for key in plan.phases:
        finish(key)
    submitted = submit_plan(plan, sweep_folder, PROFILE, fresh())
    assert submitted.phases == () and submitted.evaluation is not None
    assert [job.after for job in queue.submitted[0][0]] == [()]


def test_run_that_left_the_file_goes_on_until_the_sweep_is_applied_with_cancel_gone(
    recipe: dict[str, Any], sweep_folder: SweepFolder, tmp_path: Path, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "load_profile", lambda name: PROFILE)
    monkeypatch.setattr(run, "Identify", lambda: Identify(lambda path: f"content of {path}"))
    file = tmp_path / "s.yaml"
    said = io.StringIO()

    def apply_with(seeds: list[int], cancel_gone: bool) -> list[str]:
        """Submits the sweep over these lengths of the last phase; returns what was cancelled."""
        file.write_text(yaml.safe_dump({"name": "s", "base": recipe, "axes": [{**SEEDS, "values": seeds}]}))
        queue.cancelled.clear()
        said.truncate(0)
        console = Console(file=said)
        run.run_sweep(
            file, runs_dir=sweep_folder.runs.root, detach=True, check=False, cancel_gone=cancel_gone, console=console
        )
        return queue.cancelled

    assert apply_with([1, 2], False) == [] and set(queue.jobs) == {"1", "2", "3", "4"}
    assert apply_with([1], False) == [], "nothing new is trained, so even the evaluation waits as it did"
    assert "phases that left the file are left alone" in said.getvalue()
    assert apply_with([1], True) == ["3"], "the second run's own phase; the first is the other run's too"
    assert apply_with([1], True) == [], "it has left the queue"
    assert apply_with([2], True) == ["2", "4"], "and the evaluation, which has something new to wait for"
    assert "gone: 1" in said.getvalue() and "left alone" not in said.getvalue()


def test_phase_that_another_sweep_needs_is_told_of_only_where_somebody_has_it(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue, finish: Callable[[str], None]
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    other = sweep_folder.runs.sweep("other")
    store(sweep_of(SEEDS), plan, other)
    submit_plan(plan, sweep_folder, PROFILE, fresh())
    submit_plan(plan, other, PROFILE, fresh())
    pretrain, *last = plan.phases
    finish(pretrain)
    console = Console(file=io.StringIO(), width=200)
    cancel_phases(sweep_folder, plan.phases, console)
    told = [line.partition(":")[0] for line in console.file.getvalue().splitlines() if "another sweep" in line]  # type: ignore[attr-defined]
    assert told == last and queue.cancelled == []


def test_phase_of_two_sweeps_is_cancelled_with_the_second_of_them(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    one, two = plan_of(SEEDS), plan_of({**SEEDS, "values": [2, 3]})
    other = sweep_folder.runs.sweep("t")
    for plan, folder in ((one, sweep_folder), (two, other)):
        store(sweep_of(SEEDS), plan, folder)
        submit_plan(plan, folder, PROFILE, fresh())
    shared = next(key for key in list(one.phases)[1:] if key in two.phases)
    cancel_sweep(sweep_folder, [], QUIET)
    assert [states(two, other)[place] for place in (0, 1, 2)] == ["queued"] * 3, "the other sweep needs two of them"
    assert phase_states(sweep_folder.runs, one, fresh())[shared].state == "queued"
    cancel_sweep(other, [], QUIET)
    assert queue.jobs == {}, "nobody needs them any more"


def test_plan_of_another_sweep_that_cannot_be_read_keeps_nothing_from_being_cancelled(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    damaged = sweep_folder.runs.sweep("damaged")
    for folder in (sweep_folder, damaged):
        store(sweep_of(SEEDS), plan, folder)
    submit_plan(plan, sweep_folder, PROFILE, fresh())
    damaged.plan.write_text("")
    cancel_sweep(sweep_folder, [], QUIET)
    assert queue.jobs == {}


SHARED = ClusterProfile(name="test", executor="slurm", max_parallel=3)


def test_evaluation_is_shared_among_as_many_jobs_as_may_run_and_gathered_behind_them(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    submitted = submit_plan(plan, sweep_folder, SHARED, fresh())
    jobs = {job.name: job for job in queue.submitted[0][0]}
    _, first, second = plan.phases
    names = [f"s-evaluate-{number}" for number in range(3)]
    assert all(jobs[name].after == (first, second) and jobs[name].after_failure for name in names)
    assert jobs["s-evaluate"].after == tuple(names)
    assert submitted.evaluation == "7", "the job that gathers"
    contents = [json.loads(Path(jobs[name].argument).read_text()) for name in names]
    assert [content["share"] for content in contents] == [0, 1, 2]
    assert all(content["num_shares"] == 3 for content in contents)
    assert [model["name"] for model in contents[0]["models"]][-2:] == ["nearest", "bicubic"]
    assert all(Path(model["path"]).is_absolute() for model in contents[0]["models"][:2])


def test_jobs_are_told_paths_that_mean_the_same_in_any_folder(
    plan_of: PlanOf, sweep_of: SweepOf, tmp_path: Path, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunsFolder(Path("runs")).sweep("s")
    store(sweep_of(SEEDS), plan_of(SEEDS), folder)
    submit_plan(plan_of(SEEDS), folder, SHARED, fresh())
    jobs, _ = queue.submitted[0]
    told = [place for job in jobs for place in (str(job.folder), job.argument)]
    shares = [json.loads(Path(job.argument).read_text()) for job in jobs if job.target == "evaluation.shares:run_share"]
    told += [model["path"] for share in shares for model in share["models"] if model["path"]]
    told += [share["out_dir"] for share in shares]
    assert [place for place in told if not place.startswith(str(tmp_path / "runs"))] == []


def test_no_more_shares_than_models(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, SHARED.model_copy(update={"max_parallel": 50}), fresh())
    assert sum(job.target == "evaluation.shares:run_share" for job in queue.submitted[0][0]) == 4


def test_waiting_shares_are_left_alone_replaced_and_cancelled_with_the_job_that_gathers(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, queue: FakeQueue, finish: Callable[[str], None]
) -> None:
    plan = plan_of(SEEDS)
    pretrain, first, second = plan.phases
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, SHARED, fresh())
    submit_plan(plan, sweep_folder, SHARED, fresh())
    assert len(queue.submitted[-1][0]) == 0 and not queue.cancelled
    finish(pretrain)
    del queue.jobs["1"], queue.jobs["2"]  # the second phase left without a word
    submit_plan(plan, sweep_folder, SHARED, fresh())
    assert sorted(queue.cancelled) == ["4", "5", "6", "7"]
    waiting = {owner.job_id for owner in evaluation_jobs(sweep_folder, fresh())}
    assert len(waiting) == 4 and waiting <= set(queue.jobs)
    assert all(job.after == (first, second) for job in queue.submitted[-1][0] if "run_share" in job.target)


def test_shares_that_are_lost_are_told_with_their_last_words(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    evaluation = evaluation_of(sweep_folder)
    asked: list[Job] = []
    monkeypatch.setattr(shares, "submit", lambda jobs, *args, **more: asked.extend(jobs))
    monkeypatch.setattr(collect, "Remaining", lambda *args: SimpleNamespace(total=8, count=lambda: 4))
    seen: list[tuple[int, int]] = []
    with pytest.raises(ClusterError, match=r"3 of 3 jobs of the evaluation left before their end.*it continues"):
        measure_on_cluster(
            sweep_folder, evaluation.models, evaluation.config, SHARED, lambda *now: seen.append(now), 0.01
        )
    assert len(asked) == 3 and seen[-1] == (4, 8)


def test_measuring_anew_replaces_the_shares_of_an_earlier_call_once_its_own_are_submitted(
    plan_of: PlanOf,
    sweep_of: SweepOf,
    sweep_folder: SweepFolder,
    queue: FakeQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store(sweep_of(SEEDS), plan_of(SEEDS), sweep_folder)
    evaluation = evaluation_of(sweep_folder)
    monkeypatch.setattr(collect, "Remaining", lambda *args: SimpleNamespace(total=8, count=lambda: 4))

    def measure(until: type[BaseException], profile: ClusterProfile) -> None:
        def leave(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(until):
            measure_on_cluster(sweep_folder, evaluation.models, evaluation.config, profile, leave, 0)

    measure(KeyboardInterrupt, SHARED)
    queue.refuses = True
    measure(ClusterError, SHARED)
    assert queue.cancelled == [] and set(queue.jobs) == {"1", "2", "3"}
    queue.refuses = False
    measure(KeyboardInterrupt, SHARED.model_copy(update={"max_parallel": 2}))
    assert queue.cancelled == ["1", "2", "3"] and set(queue.jobs) == {"4", "5"}


@pytest.fixture(scope="module")
def dev_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    reason = why_not() or why_not_installed()
    if reason:
        pytest.skip(f"no development cluster: {reason}")
    dev = DevCluster(tmp_path_factory.mktemp("cluster"), nodes=2, cpus=2)
    dev.start()
    yield dev
    dev.stop()


@pytest.fixture
def fake_trainer(dev_cluster: DevCluster, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts the fake trainer and evaluation in place of the real ones, and says what each phase does."""
    own = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(own))
    monkeypatch.setattr(apply, "TRAIN_TARGET", "fake_trainer:main")
    monkeypatch.setattr(cluster, "EVALUATION_TARGET", "fake_trainer:evaluate")
    return lambda **plans: monkeypatch.setenv("FAKE_TRAINER", json.dumps(plans))


def wait_for(condition: Callable[[], bool], complaint: Callable[[], Any], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.2)


@pytest.mark.slurm
def test_failed_trainings_say_why_and_the_evaluation_runs_without_them(
    plan_of: PlanOf,
    sweep_of: SweepOf,
    sweep_folder: SweepFolder,
    dev_cluster: DevCluster,
    fake_trainer: Callable[..., None],
) -> None:
    fake_trainer(**{"adversarial-1": "fail", "adversarial-2": "die", "adversarial-3": "0"})
    profile = ClusterProfile(
        name="dev", executor="slurm", partition="low", max_deaths=0, slurm_conf=str(dev_cluster.conf)
    )
    axis = {**SEEDS, "values": [1, 2, 3]}
    plan = plan_of(axis)
    store(sweep_of(axis), plan, sweep_folder)
    submit_plan(plan, sweep_folder, profile, Queues())
    evaluated = sweep_folder.report / "evaluated.txt"
    wait_for(evaluated.exists, lambda: states(plan, sweep_folder))
    assert evaluated.read_text() == "failed running done"
    wait_for(lambda: not evaluation_jobs(sweep_folder, fresh()), lambda: "the evaluation did not leave")
    failed, died, done = sweep_status(sweep_folder.runs, plan, fresh()).rows
    assert (failed.state, failed.error) == ("failed", "TrainingError: the loss is not finite")
    assert died.state == "failed" and died.error.startswith("was killed by SIGKILL, died 1 times without saving")
    assert "Killed" in died.error, "the last line of its log"
    assert done.state == "done"


@pytest.mark.slurm
def test_phase_after_a_failed_one_never_starts_and_its_run_says_why(
    plan_of: PlanOf,
    sweep_of: SweepOf,
    sweep_folder: SweepFolder,
    dev_cluster: DevCluster,
    fake_trainer: Callable[..., None],
) -> None:
    fake_trainer(pretrain="refuse")
    profile = ClusterProfile(name="dev", executor="slurm", partition="low", slurm_conf=str(dev_cluster.conf))
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, profile, Queues())
    wait_for((sweep_folder.report / "evaluated.txt").exists, lambda: states(plan, sweep_folder))
    assert states(plan, sweep_folder) == ["failed", "missing", "missing"]
    assert {(row.state, row.phase, row.error) for row in sweep_status(sweep_folder.runs, plan, fresh()).rows} == {
        ("failed", "pretrain", "left with exit code 2; error: no such data; so adversarial cannot start")
    }
    fake_trainer()
    (sweep_folder.report / "evaluated.txt").unlink()
    submit_plan(plan, sweep_folder, profile, Queues(), retry_failed=True)
    wait_for((sweep_folder.report / "evaluated.txt").exists, lambda: states(plan, sweep_folder))
    assert states(plan, sweep_folder) == ["done"] * 3


@pytest.mark.slurm
def test_sweep_on_a_real_slurm_trains_every_phase_and_evaluates_after_them(
    plan_of: PlanOf,
    sweep_of: SweepOf,
    sweep_folder: SweepFolder,
    dev_cluster: DevCluster,
    fake_trainer: Callable[..., None],
) -> None:
    fake_trainer(pretrain="1")
    profile = ClusterProfile(name="dev", executor="slurm", partition="low", slurm_conf=str(dev_cluster.conf))
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    submit_plan(plan, sweep_folder, profile, Queues())
    assert set(states(plan, sweep_folder)) <= {"queued", "running"}
    wait_for((sweep_folder.report / "evaluated.txt").exists, lambda: states(plan, sweep_folder))
    assert states(plan, sweep_folder) == ["done"] * 3
    assert (sweep_folder.report / "evaluated.txt").read_text() == "done done"
    submit_plan(plan, sweep_folder, profile, Queues())
    starts = [(sweep_folder.runs.phase(key) / "starts.txt").read_text().splitlines() for key in plan.phases]
    assert [len(lines) for lines in starts] == [1, 1, 1]


@pytest.mark.slurm
def test_evaluation_on_a_real_slurm_is_the_same_as_here(
    plan_of: PlanOf, sweep_of: SweepOf, tmp_path: Path, dev_cluster: DevCluster
) -> None:
    random = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "photos" / "sea" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    pack([tmp_path / "photos"], tmp_path / "packed", codec="npy", tile_px=32, test=4, val=0, seed=0)
    evaluate = {"dataset": str(tmp_path / "packed"), "scale": 4, "metrics": ["psnr", "ssim"]}
    profile = ClusterProfile(
        name="dev", executor="slurm", partition="low", max_parallel=2, slurm_conf=str(dev_cluster.conf)
    )
    scores = []
    for number, cluster_profile in enumerate([profile, ClusterProfile(max_parallel=1)]):
        folder = RunsFolder(tmp_path / str(number)).sweep("s")
        store(sweep_of(SEEDS, evaluate=evaluate), plan_of(SEEDS), folder)
        with Console(quiet=True) as console:
            evaluate_here(evaluation_of(folder), console, cluster=cluster_profile)
        scores.append(ScoreTable.load(folder.report).images)
    submissions = list((tmp_path / "0" / "s" / "evaluation" / "shares-now").glob("share_*/submission.json"))
    assert len(submissions) == 2 and len(scores[0]) == 8, "both baselines on four images"
    assert scores[0].equals(scores[1])


@pytest.mark.slurm
def test_thousand_runs_are_submitted_as_a_few_arrays_and_all_seen(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, dev_cluster: DevCluster
) -> None:
    axis = {"name": "seed", "key": "seed", "values": list(range(1000))}
    profile = ClusterProfile(name="dev", executor="slurm", partition="low", slurm_conf=str(dev_cluster.conf))
    plan = plan_of(axis)
    store(sweep_of(axis), plan, sweep_folder)
    submitted = submit_plan(plan, sweep_folder, profile, Queues(), hold=True)
    status = sweep_status(sweep_folder.runs, plan, Queues())
    with client_environment(str(dev_cluster.conf)):
        ask("scancel", "--user", "root")
    assert len(submitted.phases) == 2000
    assert status.counts == {"queued": 1000}
    scripts = {folder.name for folder in sweep_folder.jobs.iterdir()}
    assert len(scripts) == 1 and len(list(sweep_folder.jobs.glob("*/payload_*.json"))) == 3
