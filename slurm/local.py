"""Runs jobs on this machine: a supervisor that starts them in their order, and again what left before its end.

submitit's local executor starts a job once and leaves its ranks behind when interrupted, so it is not used here.
"""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from slurm.errors import EXIT_DONE, EXIT_SAVED, has_died
from slurm.job import Job, check_jobs, make_private, write_payload
from slurm.launch import payload_of
from slurm.local_ranks import LocalRanks
from slurm.profile import ClusterProfile
from slurm.submission import Submission, note_submission

State = Literal["waiting", "running", "stopping", "done", "failed", "stopped", "blocked"]
_ENDED = ("done", "failed", "stopped", "blocked")
_POLL_S = 0.1


@dataclass
class LocalState:
    """How one job stands."""

    state: State = "waiting"
    starts: int = 0
    deaths: int = 0
    """Deaths since the job last saved and left."""
    exit_code: int | None = None
    """Of the last start that ended; 128 + N where signal N ended it."""
    pids: tuple[int, ...] = ()

    @property
    def ended(self) -> bool:
        return self.state in _ENDED


class Supervisor:
    """Runs `jobs` in their order, `max_parallel` at a time; each is started again after a 75 or a death, bounded.

    Use `run()`, or as a context manager `poll()` until it returns False. Leaving the context lets the ranks save, and
    leaves none behind. A death of the supervisor itself, even by SIGKILL, is noticed by the ranks: they save and leave.
    """

    def __init__(self, jobs: Sequence[Job], profile: ClusterProfile, folder: Path, *, stop_timeout_s: float = 60):
        check_jobs(jobs)
        self.jobs = {job.name: job for job in jobs}
        self.profile = profile
        self.folder = make_private(folder).absolute()
        self.stop_timeout_s = stop_timeout_s
        self.states = {job.name: LocalState() for job in jobs}
        self.interrupted = False
        """Whether a signal or `stop` ended it before the jobs were through."""
        self._running: dict[str, LocalRanks] = {}
        self._ids = {job.name: f"local-{secrets.token_hex(4)}" for job in jobs}
        self._asked_to_stop = False
        self._interrupts = 0
        self._kill_all_at = float("inf")

    def run(self, on_poll: Callable[[Mapping[str, LocalState]], None] | None = None) -> dict[str, LocalState]:
        """Runs until every job has ended, or until a signal; `on_poll` is called several times a second.

        SIGINT and SIGTERM stop the jobs: they save and leave, and are `stopped`. A second SIGINT kills them.

        Raises:
            ClusterError: the profile's Python or container cannot be started.
        """
        with self:
            while self.poll():
                if on_poll is not None:
                    on_poll(self.states)
                time.sleep(_POLL_S)
            if on_poll is not None:
                on_poll(self.states)
        return self.states

    def poll(self) -> bool:
        """Notices what ended and starts what can start; False once every job has ended."""
        if self._asked_to_stop and not self.interrupted:
            self.stop()
        if self._interrupts > 1 or time.monotonic() > self._kill_all_at:
            self._kill_all()
        for name in list(self._running):
            self._reap(name)
        self._block_orphaned()
        self._start_ready()
        return not all(state.ended for state in self.states.values())

    def stop(self) -> None:
        """Asks every running job to save and leave; `poll` on until it returns False. What takes too long is killed."""
        self.interrupted = True
        self._kill_all_at = time.monotonic() + self.stop_timeout_s
        for name, state in self.states.items():
            if state.state == "waiting":
                state.state = "stopped"
            elif state.state == "running":
                state.state = "stopping"
                self._running[name].ask_to_save()

    def __enter__(self) -> Supervisor:
        self._handlers = _catch(self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._running:  # an error: whatever it is, it must not cost what the jobs have not saved yet
                self.stop()
                while self.poll():
                    time.sleep(_POLL_S)
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_stop = True
        self._interrupts += number == signal.SIGINT  # `harness cancel` may well be called twice

    def _block_orphaned(self) -> None:
        for name, state in self.states.items():
            parents = [self.states[parent].state for parent in self.jobs[name].after]
            needed = ("stopped",) if self.jobs[name].after_failure else ("failed", "blocked", "stopped")
            if state.state == "waiting" and any(parent in needed for parent in parents):
                state.state = "stopped" if "stopped" in parents else "blocked"

    def _start_ready(self) -> None:
        for name, state in self.states.items():
            used = {running.slot for running in self._running.values()}
            free = [slot for slot in range(self.profile.max_parallel) if slot not in used]
            if not free:
                return
            parents = [self.states[parent] for parent in self.jobs[name].after]
            ready = all(parent.ended if self.jobs[name].after_failure else parent.state == "done" for parent in parents)
            if state.state == "waiting" and ready:
                self._start(name, free[0])

    def _start(self, name: str, slot: int) -> None:
        state = self.states[name]
        if not state.starts:
            self._prepare(self.jobs[name])
        self._running[name] = LocalRanks(self.folder / self._ids[name], self.profile, slot)
        state.state = "running"
        state.starts += 1
        state.pids = self._running[name].pids

    def _prepare(self, job: Job) -> None:
        own = make_private(self.folder / self._ids[job.name])
        write_payload(own / "payload.json", payload_of({0: job}, self.profile))
        job_id = self._ids[job.name]
        note_submission(job, Submission(job.name, job_id, "local", self.profile.name, str(own), "*_log.*"), None)

    def _reap(self, name: str) -> None:
        code = self._running[name].poll(self.stop_timeout_s)
        if code is not None:
            del self._running[name]
            self._settle(name, code)

    def _settle(self, name: str, code: int) -> None:
        state = self.states[name]
        state.exit_code, state.pids = code, ()
        died = has_died(code)
        state.deaths = state.deaths + 1 if died else 0
        allowed = state.deaths <= self.profile.max_deaths and state.starts <= self.profile.max_requeues
        if code == EXIT_DONE:
            state.state = "done"
        elif self.interrupted and (died or code == EXIT_SAVED):
            state.state = "stopped"
        elif (died or code == EXIT_SAVED) and allowed:
            state.state = "waiting"
        else:
            state.state = "failed"

    def _kill_all(self) -> None:
        self.interrupted = True
        for name, running in self._running.items():
            self.states[name].state = "stopping"
            running.kill()
        for state in self.states.values():
            if state.state == "waiting":
                state.state = "stopped"


def _catch(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, signal.Handlers]:
    """Takes over SIGINT and SIGTERM; gives back what was there. Outside the main thread nothing can be taken over."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}  # type: ignore[misc]
