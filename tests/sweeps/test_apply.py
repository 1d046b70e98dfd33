"""Applying a plan: what is written, skipped, left alone and reported."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.config import RunConfig
from harness.errors import InputError
from harness.train.job import RunFile
from slurm.ending import Ending, note_ending
from sweeps.apply import claim_phases, compare, jobs_for, last_plan, pending, ready, store
from sweeps.config import SweepConfig
from sweeps.layout import SweepFolder, write_atomically
from sweeps.lock import claim
from sweeps.owner import Owner, this_process
from sweeps.plan import Plan
from sweeps.state import PhaseState, phase_states

PlanOf = Callable[..., Plan]
SweepOf = Callable[..., SweepConfig]
SEEDS = {"name": "seed", "key": "phases.1.iterations", "values": [1, 2]}


def nobody(owner: object) -> bool:
    return False


def states_of(plan: Plan, *states: str) -> dict[str, PhaseState]:
    return {key: PhaseState(state) for key, state in zip(plan.phases, states)}  # type: ignore[arg-type]


def test_run_file_is_what_the_trainer_reads(plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    pretrain, first, _ = plan.phases
    run = RunFile.model_validate(yaml.safe_load((sweep_folder.runs.phase(first) / "run.yaml").read_text()))
    assert (run.phase, run.out) == (1, str(sweep_folder.runs.phase(first).absolute()))
    assert run.parent == str(sweep_folder.runs.phase(pretrain).absolute())
    assert Path(run.config.data.sources[0].path).is_absolute()
    assert [phase.name for phase in run.config.phases] == ["pretrain", "adversarial"]


def test_folders_can_be_entered_by_their_owner_alone(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder
) -> None:
    plan = plan_of()
    store(sweep_of(), plan, sweep_folder)
    made = [sweep_folder.runs.root, sweep_folder.path, sweep_folder.models, *map(sweep_folder.runs.phase, plan.phases)]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in made} == {0o700}


def test_models_are_relative_links_with_readable_names_that_follow_the_plan(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, tmp_path: Path
) -> None:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    moved = sweep_folder.runs.root.rename(tmp_path / "moved")
    links = sorted((moved / "s" / "models").iterdir())
    assert [link.name for link in links] == ["1", "2"]
    assert [link.resolve() for link in links] == [moved / "phases" / key for key in list(plan.phases)[1:]]
    moved.rename(sweep_folder.runs.root)
    store(sweep_of(), plan_of(), sweep_folder)
    assert [link.name for link in sweep_folder.models.iterdir()] == ["s"]


def test_storing_twice_changes_nothing(plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder) -> None:
    def content() -> dict[str, bytes]:
        files = [path for path in sweep_folder.runs.root.rglob("*") if path.is_file() and not path.is_symlink()]
        return {str(path): path.read_bytes() for path in files}

    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    before = content()
    store(sweep_of(SEEDS), plan, sweep_folder)
    assert content() == before
    assert last_plan(sweep_folder) == plan


def test_unwritable_runs_folder_is_one_sentence(plan_of: PlanOf, sweep_of: SweepOf, tmp_path: Path) -> None:
    from sweeps.layout import RunsFolder

    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        store(sweep_of(), plan_of(), RunsFolder(tmp_path / "file").sweep("s"))


def test_full_disk_is_told_with_the_name_of_the_file_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str, encoding: str) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")  # as of a write, which names no file

    write_atomically(tmp_path / "plan.json", "old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left") as raised:
        patch.setattr(Path, "write_text", full)
        write_atomically(tmp_path / "plan.json", "new")
    assert raised.value.filename == str(tmp_path / "plan.json") and raised.value.errno == errno.ENOSPC
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_finished_phases_are_skipped_and_running_ones_left_alone(plan_of: PlanOf) -> None:
    plan = plan_of(SEEDS)
    _, first, second = plan.phases
    assert pending(plan, states_of(plan, "missing", "missing", "missing")) == list(plan.phases)
    assert pending(plan, states_of(plan, "done", "saved", "running")) == [first]
    assert pending(plan, states_of(plan, "done", "queued", "missing")) == [second]
    assert pending(plan, states_of(plan, "done", "done", "done")) == []


def test_removed_phase_is_trained_again_only_where_a_run_lacks_what_comes_after_it(plan_of: PlanOf) -> None:
    plan = plan_of(SEEDS)
    pretrain, _, second = plan.phases
    assert pending(plan, states_of(plan, "missing", "done", "done")) == []
    assert pending(plan, states_of(plan, "missing", "done", "missing")) == [pretrain, second]


def test_failed_phases_come_back_on_request_with_what_waits_for_them(plan_of: PlanOf) -> None:
    plan = plan_of(SEEDS)
    states = states_of(plan, "failed", "missing", "done")
    assert pending(plan, states) == []
    assert pending(plan, states, retry_failed=True) == list(plan.phases)[:2]


def test_phase_is_ready_when_its_parent_is_finished_or_comes_along(plan_of: PlanOf) -> None:
    plan = plan_of(SEEDS)
    pretrain, first, second = plan.phases
    states = states_of(plan, "running", "missing", "missing")
    assert ready(plan, [first, second], states) == []
    assert ready(plan, [first, second], states, also=[pretrain]) == [first, second]
    assert ready(plan, [pretrain, first], states_of(plan, "saved", "missing", "missing")) == [pretrain, first]


def test_jobs_wait_for_parents_that_are_not_finished(plan_of: PlanOf, sweep_folder: SweepFolder) -> None:
    plan = plan_of(SEEDS)
    pretrain, first, second = plan.phases
    assert [job.after for job in jobs_for(sweep_folder.runs, plan, plan.phases, set())] == [
        (),
        (pretrain,),
        (pretrain,),
    ]
    assert [job.after for job in jobs_for(sweep_folder.runs, plan, [first, second], {pretrain})] == [(), ()]


def test_edited_file_is_compared_with_the_last_plan(plan_of: PlanOf) -> None:
    old = plan_of({"name": "x", "settings": {"a": {}, "b": {"seed": 1}, "c": {"seed": 2}}})
    new = plan_of({"name": "x", "settings": {"a": {}, "b": {"seed": 9}, "d": {"seed": 2}}})
    changes = compare(old, new)
    assert (changes.new, changes.changed, changes.gone, changes.kept) == (("d",), ("b",), ("c",), ("a",))


def test_what_another_process_claimed_is_left_to_it(
    plan_of: PlanOf, sweep_folder: SweepFolder, finish: Callable[[str], None]
) -> None:
    plan = plan_of(SEEDS)
    first = claim_phases(sweep_folder.runs, plan.phases, nobody)
    second = claim_phases(sweep_folder.runs, plan.phases, nobody)
    assert list(first.mine) == list(plan.phases) and not first.others
    assert not second.mine and set(second.others.values()) == {this_process()}
    states = phase_states(sweep_folder.runs, plan, nobody)
    assert {state.state for state in states.values()} == {"queued"}


def test_phase_whose_job_noted_that_it_left_can_be_claimed_though_no_queue_can_be_asked(
    plan_of: PlanOf, sweep_folder: SweepFolder
) -> None:
    plan = plan_of()
    left, back = plan.phases
    for key, outcome in ((left, "left"), (back, "back")):
        place = sweep_folder.runs.phase(key)
        claim(place, Owner("", 0, "", "7"))
        note_ending(place, Ending("7", 75, outcome, "was cancelled"))  # type: ignore[arg-type]
    claims = claim_phases(sweep_folder.runs, plan.phases, lambda owner: None)
    assert list(claims.mine) == [left] and list(claims.others) == [back]


def test_phase_finished_between_planning_and_claiming_is_given_back(
    plan_of: PlanOf, sweep_folder: SweepFolder, finish: Callable[[str], None]
) -> None:
    plan = plan_of()
    finish(next(iter(plan.phases)))
    claims = claim_phases(sweep_folder.runs, plan.phases, nobody)
    assert list(claims.mine) == list(plan.phases)[1:]
    assert not claims.others


def test_started_phase_takes_new_ways_of_watching_and_a_finished_one_does_not(
    plan_of: PlanOf, sweep_of: SweepOf, sweep_folder: SweepFolder, finish: Callable[[str], None]
) -> None:
    plan = plan_of()
    store(sweep_of(), plan, sweep_folder)
    done, begun = plan.phases
    finish(done)
    watched = plan_of(set={"log_every": 7})
    store(sweep_of(set={"log_every": 7}), watched, sweep_folder)

    def log_every(key: str) -> int:
        values = yaml.safe_load((sweep_folder.runs.phase(key) / "run.yaml").read_text())
        return RunConfig.model_validate(values["config"]).log_every

    assert (log_every(done), log_every(begun)) == (50, 7)
    assert os.listdir(sweep_folder.models) == ["s"]
