"""Where the compute of a sweep went, from the events of its phases: useful, replayed, starting up, lost, queued."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sweeps.layout import RunsFolder, read_json, read_rows
from sweeps.plan import Plan
from sweeps.state import PhaseState

_ENDS = ("stop", "done", "failed")


@dataclass(frozen=True)
class Ledger:
    """Hours times ranks: GPU-hours where each rank has a GPU, else hours of CPU slots."""

    useful_h: float = 0.0
    """Training steps for the first time, validating and saving included."""
    replayed_h: float = 0.0
    """Training steps again that a kill had taken."""
    starting_h: float = 0.0
    """From a start to its first step."""
    lost_h: float = 0.0
    """Starts that never came to a step, and the time from a start's last word to its end."""
    queued_h: float = 0.0
    """From the submission, or an interruption, to the next start."""
    on_gpu: bool = False
    """Whether any of it was trained on a GPU."""

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.useful_h + other.useful_h,
            self.replayed_h + other.replayed_h,
            self.starting_h + other.starting_h,
            self.lost_h + other.lost_h,
            self.queued_h + other.queued_h,
            self.on_gpu or other.on_gpu,
        )


@dataclass
class _Start:
    """One start of a phase, from its `start` event to its last word."""

    began: float
    begin_step: int
    ranks: int
    first_step_at: float | None = None
    first_step: int = 0
    last_word: float = 0.0
    last_step: int = 0
    ended: float | None = None


def sweep_ledger(runs: RunsFolder, plan: Plan, states: dict[str, PhaseState]) -> Ledger:
    """The ledger of a plan whose phases stand as `states` says; a phase that other sweeps share counts in full."""
    events = {key: read_rows(runs.phase(key) / "events.jsonl") for key in plan.phases}
    total = Ledger()
    for key, phase in plan.phases.items():
        rows = events[key]
        note = read_json(runs.phase(key) / "submission.json") or {}
        since = _could_start_at(note.get("submitted"), events[phase.parent] if phase.parent else None)
        total += phase_ledger(rows, states[key], since, time.time())
        total += Ledger(on_gpu=any(row.get("device") == "cuda" for row in rows))
    return total


def _could_start_at(submitted: float | None, parent_rows: list[dict[str, Any]] | None) -> float | None:
    """From when a phase waited for a place, and no more for the phase before it; None where it does not yet."""
    if submitted is None or parent_rows is None:
        return submitted
    finished = [float(row["time"]) for row in parent_rows if row.get("event") == "done"]
    return max(submitted, finished[-1]) if finished else None


def phase_ledger(rows: list[dict[str, Any]], state: PhaseState, submitted: float | None, now: float) -> Ledger:
    """The ledger of one phase.

    Args:
        rows: its events, in the order of time.
        submitted: since when it waited for a place, in Unix seconds; None where nobody asked for one.
    """
    starts = list(_starts(rows))
    if starts and starts[-1].ended is None:
        _hear(starts[-1], float(state.status.get("updated") or 0), int(state.status.get("step") or 0))
    total = Ledger()
    reached = starts[0].begin_step if starts else 0
    for number, start in enumerate(starts):
        total += _ledger_of(start, reached)
        reached = max(reached, start.last_step)
        if number:
            before = starts[number - 1]
            total += Ledger(queued_h=max(0.0, start.began - (before.ended or before.last_word)) * start.ranks / 3600)
    return total + _waiting(starts, state, submitted, now)


def _starts(rows: list[dict[str, Any]]) -> Iterator[_Start]:
    current: _Start | None = None
    for row in rows:
        at, step, event = float(row.get("time", 0)), int(row.get("step") or 0), row.get("event")
        if event == "start":
            if current is not None:
                if current.ended is None and row.get("last_updated"):
                    _hear(current, float(row["last_updated"]), int(row.get("last_step") or 0))
                yield current
            current = _Start(at, step, int(row.get("world_size") or 1), last_word=at, last_step=step)
        elif current is not None:
            if event == "first_step":
                current.first_step_at, current.first_step = at, step
            _hear(current, at, step)
            if event in _ENDS:
                current.ended = at
    if current is not None:
        yield current


def _hear(start: _Start, at: float, step: int) -> None:
    """A later sign of life; one from before the start says nothing about it."""
    if at >= start.last_word:
        start.last_word, start.last_step = at, max(start.last_step, step)


def _ledger_of(start: _Start, reached: int) -> Ledger:
    """One start's time; `reached` is the furthest step that earlier starts had come to."""
    scale = start.ranks / 3600
    end = start.ended or start.last_word
    if start.first_step_at is None:
        return Ledger(lost_h=(end - start.began) * scale)
    training_s = end - start.first_step_at
    steps = start.last_step - start.first_step
    again = min(max(reached - start.first_step, 0), steps)
    replayed_s = training_s * again / steps if steps else 0.0
    return Ledger(
        useful_h=(training_s - replayed_s) * scale,
        replayed_h=replayed_s * scale,
        starting_h=(start.first_step_at - start.began) * scale,
    )


def _waiting(starts: list[_Start], state: PhaseState, submitted: float | None, now: float) -> Ledger:
    """The wait for the first start, and the one that has not ended yet."""
    waited_s = 0.0
    ranks = starts[-1].ranks if starts else 1
    if submitted is not None and starts and submitted < starts[0].began:
        waited_s += starts[0].began - submitted
    if state.state == "queued":
        since = max([submitted or now, *((start.ended or start.last_word) for start in starts)])
        waited_s += max(0.0, now - since)
    return Ledger(queued_h=waited_s * ranks / 3600)
