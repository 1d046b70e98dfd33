"""Submits a plan to SLURM: what nobody trains yet, and an evaluation that waits for all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slurm.adopt import adopt
from slurm.job import Job
from slurm.launch import conf_of, submit
from slurm.profile import ClusterProfile
from sweeps.apply import claim_phases, jobs_for, pending, ready
from sweeps.evaluate import evaluation_of
from sweeps.layout import SweepFolder
from sweeps.lock import alone
from sweeps.owner import Owner, job_of
from sweeps.plan import Plan
from sweeps.queues import Queues, cancel_jobs
from sweeps.shares import evaluation_jobs, queue_name, share_jobs
from sweeps.state import PhaseState, phase_states, submitted_job

EVALUATION_TARGET = "sweeps.evaluate:main"


@dataclass(frozen=True)
class Submitted:
    """What one submission put into the queue."""

    phases: tuple[str, ...]
    evaluation: str | None
    """SLURM id of the job that gathers the scores; None where it was in the queue already, or nothing is trained."""
    elsewhere: dict[str, Owner]
    """Phases that a process, or a job in another queue, has: nothing can wait for them here."""
    orphaned: tuple[str, ...] = ()
    """Phases whose trainer spoke a short while ago, though its job is in no queue: it may work still."""


def submit_plan(
    plan: Plan,
    folder: SweepFolder,
    profile: ClusterProfile,
    queues: Queues,
    *,
    retry_failed: bool = False,
    hold: bool = False,
    on_wait: Callable[[Owner], None] = lambda other: None,
) -> Submitted:
    """Submits every phase that is not finished and that nobody has, parents before children.

    One process at a time does so under a runs folder; another waits, and finds the jobs of the first in the queue.
    `on_wait` is told for whom.

    Raises:
        ClusterError: sbatch refused.
    """
    with alone(folder.runs.phases, on_wait):
        return _submit(plan, folder, profile, queues, retry_failed, hold)


def _submit(
    plan: Plan, folder: SweepFolder, profile: ClusterProfile, queues: Queues, retry_failed: bool, hold: bool
) -> Submitted:
    adopt(folder.jobs, profile, queues.jobs(conf_of(profile)))
    states = phase_states(folder.runs, plan, queues)
    queued = _to_wait_for(_held(states), queues, profile)
    keys = ready(plan, pending(plan, states, retry_failed=retry_failed), states, queued)
    waiting = evaluation_jobs(folder, queues)  # before the new ones leave their notes in the same folders
    claims = claim_phases(folder.runs, keys, queues)
    queued |= _to_wait_for(claims.others, queues, profile)
    mine = ready(plan, claims.mine, states, queued)
    done = {key for key, state in states.items() if state.state == "done"}
    jobs = jobs_for(folder.runs, plan, mine, done)
    try:
        evaluation = _evaluation(plan, folder, profile, done | set(queued) | set(mine), done, bool(jobs), queues)
        known = {name: queued[name] for job in (*jobs, *evaluation) for name in job.after if name in queued}
        submissions = submit(
            [*jobs, *evaluation], profile, folder.jobs, label=queue_name(plan.sweep), submitted=known, hold=hold
        )
        for key in mine:
            claims.mine.pop(key).hand_over(job_of(submissions[key]))
        if evaluation:  # only now: had sbatch refused, nothing else would evaluate what is training
            cancel_jobs(waiting)
    finally:
        for claimed in claims.mine.values():
            claimed.release()
    ids = [submissions[job.name].job_id for job in evaluation]
    others = {key: owner for key, owner in (_held(states) | claims.others).items() if key not in queued}
    orphaned = tuple(key for key, state in states.items() if state.state == "running" and state.owner is None)
    return Submitted(tuple(mine), ids[-1] if ids else None, others, orphaned)


def _held(states: dict[str, PhaseState]) -> dict[str, Owner]:
    """Phases that somebody has already."""
    found = {key: state.owner for key, state in states.items() if state.state in ("queued", "running")}
    return {key: owner for key, owner in found.items() if owner is not None}


def _to_wait_for(held: dict[str, Owner], queues: Queues, profile: ClusterProfile) -> dict[str, str]:
    """Those of the phases that a job in the profile's own queue has, with its id: no other can be waited for there."""
    conf = conf_of(profile)
    own = {key: owner for key, owner in held.items() if owner.job_id and owner.slurm_conf == conf}
    return {key: str(owner.job_id) for key, owner in own.items() if queues.job(owner) is not None}


def _evaluation(
    plan: Plan,
    folder: SweepFolder,
    profile: ClusterProfile,
    coming: set[str],
    done: set[str],
    something_new: bool,
    queues: Queues,
) -> list[Job]:
    """The jobs of the evaluation behind every last phase that is still to come: the shares, then the one that gathers.

    None where such jobs wait already and there is nothing new to wait for; else they replace those. A training that
    fails, or is cancelled, holds them up no longer: its cells of the report say why they are empty.
    """
    if submitted_job(folder.evaluation, queues) is not None and not something_new:
        return []
    last = list(dict.fromkeys(run.phases[-1] for run in plan.runs))
    after = tuple(key for key in last if key in coming and key not in done)
    name = queue_name(plan.sweep) + "-evaluate"
    evaluation = evaluation_of(folder)
    num_shares = min(profile.max_parallel, len(evaluation.models))
    shares = share_jobs(folder, evaluation.models, evaluation.config, num_shares, name, after)
    gathers_after = tuple(job.name for job in shares) or after
    place = folder.evaluation.absolute()
    gathering = Job(
        name, place, str(folder.path.absolute()), gathers_after, after_failure=True, target=EVALUATION_TARGET
    )
    return [*shares, gathering]
