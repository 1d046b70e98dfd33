"""One row per run: how it stands, read from the files of its phases. Nothing here prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from sweeps.layout import RunsFolder
from sweeps.plan import Phase, Plan, PlannedRun
from sweeps.queues import Queues
from sweeps.state import PhaseState, last_error_line, needed, phase_states, phases_ahead

RunState = Literal["done", "running", "queued", "saved", "waiting", "failed"]
_LEAVING = ("COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING")
"""SLURM's words for a job of which nobody can tell from outside whether its trainer still works."""
ORDER: tuple[RunState, ...] = ("running", "queued", "saved", "failed", "waiting", "done")


@dataclass(frozen=True)
class Row:
    """How one run stands."""

    run: str
    axes: dict[str, str]
    state: RunState
    phase: str
    """The phase that it is in, or the one that comes next."""
    step: int
    total_steps: int
    starts_again: int
    """How often its phases were started again after they had begun."""
    preempted: int = 0
    """How often SLURM preempted its phases."""
    steps_per_s: float | None = None
    left_s: float | None = None
    val_psnr: float | None = None
    nodes: str = ""
    error: str = ""
    note: str = ""
    """Why a run that could go on does not."""
    save_every: int | None = None
    """Steps between checkpoints, as the trainer has chosen them."""

    @property
    def why(self) -> str:
        """Why it failed, or could go on and does not."""
        return self.error or self.note


@dataclass(frozen=True)
class SweepStatus:
    """A sweep at one moment."""

    sweep: str
    rows: list[Row]
    steps_done: int
    """Iterations done over all phases, each shared phase once."""
    steps_total: int
    states: dict[str, PhaseState] = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[RunState, int]:
        found = Counter(row.state for row in self.rows)
        return {state: found[state] for state in ORDER if found[state]}

    @property
    def is_done(self) -> bool:
        return all(row.state == "done" for row in self.rows)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing runs and nothing is queued."""
        return not any(row.state in ("running", "queued") for row in self.rows)


def sweep_status(runs: RunsFolder, plan: Plan, queues: Queues) -> SweepStatus:
    """Reads how every run of a plan stands; the folder of a shared phase is read once."""
    states = phase_states(runs, plan, queues)
    rows = [_row(run, plan, states, runs, queues) for run in plan.runs]
    ahead = needed(plan, states)
    left = sum(plan.phases[key].iterations - _steps_in(plan.phases[key], states[key]) for key in ahead)
    warnings = (*queues.errors.values(), *mixed_versions(states.values()))
    return SweepStatus(plan.sweep, rows, plan.iterations - left, plan.iterations, states, warnings)


def mixed_versions(states: Iterable[PhaseState]) -> list[str]:
    """What to say where not all phases were trained by the same version of the code; empty where they were."""
    found = sorted({text for state in states for text in state.status.get("trained_by") or ()})
    if len(found) < 2:
        return []
    return [f"trained by {len(found)} versions of the code, which may be a part of the differences: {'; '.join(found)}"]


def _steps_in(phase: Phase, state: PhaseState) -> int:
    """Iterations of a phase that are done."""
    if state.state == "done":
        return phase.iterations
    return max((state.step or 0) - phase.first_step, 0)


def _row(run: PlannedRun, plan: Plan, states: dict[str, PhaseState], runs: RunsFolder, queues: Queues) -> Row:
    own = [(plan.phases[key], states[key]) for key in run.phases]
    key = next(iter(phases_ahead(run, states)), run.phases[-1])
    phase, state = plan.phases[key], states[key]
    step = phase.first_step + _steps_in(phase, state)
    psnrs = [s.status["val_psnr"] for _, s in own if s.status.get("val_psnr") is not None]
    shown = _run_state(state, queues)
    speed = state.status.get("steps_per_s") if shown == "running" else None
    return Row(
        run=run.name,
        axes=run.axes,
        state=shown,
        phase=phase.name,
        step=step,
        total_steps=run.total_steps,
        starts_again=sum(max(int(s.status.get("starts") or 1) - 1, 0) for _, s in own),
        preempted=sum(s.ending.preemptions for _, s in own if s.ending is not None),
        steps_per_s=speed,
        left_s=(run.total_steps - step) / speed if speed else None,
        val_psnr=psnrs[-1] if psnrs else None,
        nodes=_nodes(state, queues),
        error=_error(runs, run, plan, phase, state),
        note=_note(state),
        save_every=state.status.get("save_every") if shown == "running" else None,
    )


def _run_state(state: PhaseState, queues: Queues) -> RunState:
    """A job that has its nodes runs, even where its trainer has not yet said so.

    One that was suspended, or killed and waits for other nodes, does not, whatever its trainer said last.
    """
    if state.state == "missing":
        return "waiting"
    job = queues.job(state.owner) if state.state in ("queued", "running") and state.owner is not None else None
    if job is None or job.state in _LEAVING:
        return state.state
    return "running" if job.state == "RUNNING" else "queued"


def _nodes(state: PhaseState, queues: Queues) -> str:
    if state.state not in ("running", "queued"):
        return ""
    job = None if state.owner is None else queues.job(state.owner)
    if job is not None and (job.state == "RUNNING" or job.state in _LEAVING):
        return job.nodes
    if job is not None:
        why = [word for word in (job.reason, job.state) if word not in ("None", "PENDING")]
        return f"({why[0]})" if why else ""
    return str(state.status.get("host", "")) if state.state == "running" else ""


def _note(state: PhaseState) -> str:
    can_go_on = state.state in ("saved", "missing")
    return state.ending.reason if can_go_on and state.ending is not None and state.ending.outcome == "left" else ""


def _error(runs: RunsFolder, run: PlannedRun, plan: Plan, phase: Phase, state: PhaseState) -> str:
    """The trainer's own last word, else how its job ended and the last line that its log has of it."""
    if state.state != "failed":
        return ""
    said = state.error
    if not said:
        reasons = (state.ending.reason if state.ending else "", last_error_line(runs.phase(phase.key)))
        said = "; ".join(reason for reason in reasons if reason) or "no reason was noted; see `harness logs`"
    later = [plan.phases[key].name for key in run.phases[run.phases.index(phase.key) + 1 :]]
    return f"{said.rstrip('.')}; so {_list(later)} cannot start" if later else said


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
