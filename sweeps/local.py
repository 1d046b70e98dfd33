"""Trains a plan on this machine: rounds of claiming what is free, training it, and waiting for what others train."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from slurm.errors import death_of, has_died
from slurm.local import Supervisor
from slurm.profile import ClusterProfile
from sweeps.apply import claim_phases, jobs_for, pending, ready
from sweeps.layout import SweepFolder
from sweeps.lock import Claim, Heartbeat
from sweeps.plan import Plan
from sweeps.queues import Queues
from sweeps.state import PhaseState, last_error_line, note_failure, phase_states

_WAIT_S = 1.0


@dataclass(frozen=True)
class LocalOutcome:
    """How training a plan here ended."""

    interrupted: bool = False
    failed: tuple[str, ...] = ()
    """Keys of the phases that failed in this call."""


def train_here(
    plan: Plan,
    folder: SweepFolder,
    profile: ClusterProfile,
    *,
    retry_failed: bool = False,
    on_poll: Callable[[], None] = lambda: None,
) -> LocalOutcome:
    """Trains every phase of a plan that is not finished; one that fails is not tried again in this call.

    Phases that another process trains are waited for. A signal stops everything: it is saved, and goes on with the
    next call. `on_poll` is called several times a second.
    """
    queues = Queues()
    failed: list[str] = []
    claims: dict[str, Claim] = {}
    with Heartbeat(lambda: list(claims.values())):
        while True:
            states = phase_states(folder.runs, plan, queues)
            lost = _with_children(plan, failed)
            keys = [key for key in pending(plan, states, retry_failed=retry_failed) if key not in lost]
            if not keys and not _others_work(states, lost):
                return LocalOutcome(failed=tuple(failed))
            claims |= claim_phases(folder.runs, ready(plan, keys, states), queues).mine
            mine = ready(plan, claims, states)
            _release(claims, [key for key in claims if key not in mine])
            try:
                if mine:
                    supervisor = _supervise(mine, plan, states, folder, profile, on_poll)
                    failed += _note_failures(supervisor, folder)
                    if supervisor.interrupted:
                        return LocalOutcome(True, tuple(failed))
                else:
                    on_poll()
                    time.sleep(_WAIT_S)
            except KeyboardInterrupt:  # while it waits: the supervisor takes the signal itself
                return LocalOutcome(True, tuple(failed))
            finally:
                _release(claims, list(claims))


def _supervise(
    keys: list[str],
    plan: Plan,
    states: dict[str, PhaseState],
    folder: SweepFolder,
    profile: ClusterProfile,
    on_poll: Callable[[], None],
) -> Supervisor:
    finished = {key for key, state in states.items() if state.state == "done"}
    supervisor = Supervisor(jobs_for(folder.runs, plan, keys, finished), profile, folder.jobs)
    supervisor.run(lambda _: on_poll())
    return supervisor


def _note_failures(supervisor: Supervisor, folder: SweepFolder) -> list[str]:
    """The phases that failed; where the trainer could not say why, how it died and the last line of its log do."""
    failed = [name for name, state in supervisor.states.items() if state.state == "failed"]
    for key in failed:
        place, code = folder.runs.phase(key), supervisor.states[key].exit_code
        died = death_of(code) if code is not None and has_died(code) else ""
        said = "; ".join(part for part in (died, last_error_line(place)) if part)
        note_failure(place, said or f"left with exit code {code}")
    return failed


def _release(claims: dict[str, Claim], keys: Iterable[str]) -> None:
    for key in keys:
        claims.pop(key).release()


def _with_children(plan: Plan, keys: Iterable[str]) -> set[str]:
    """`keys` and every phase after one of them."""
    found = set(keys)
    for key, phase in plan.phases.items():
        if phase.parent in found:
            found.add(key)
    return found


def _others_work(states: dict[str, PhaseState], lost: set[str]) -> bool:
    return any(state.state in ("queued", "running") for key, state in states.items() if key not in lost)
