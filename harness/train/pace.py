"""How fast a phase goes: for status.json, for whoever watches, and for how often it saves."""

from __future__ import annotations

import math
import time

import torch

from harness.train.cadence import mean_time_between_stops, steps_between_saves
from harness.train.phase import Phase
from harness.train.run import Run

_STATUS_EVERY_S = 1.0
_FIRST_SAVE_STEPS = 10
"""Steps to the first checkpoint of a start that follows an interruption: enough to see how long one takes."""


class Pace:
    """How fast the phase goes, how often it saves, and what status.json says of it."""

    def __init__(self, run: Run, phase: Phase) -> None:
        self._run = run
        self._phase = phase
        self._mtbf_s = self._time_between_stops()
        self._begin = self._told = time.monotonic()
        self._begin_step = run.step
        self._val_psnr: float | None = None
        self._validation_s = 0.0
        self._num_validations = 0
        self.save_every = self._steps_to_first_save()

    def _time_between_stops(self) -> float | None:
        """The same on every rank: the shortest that any knows of, as one may not see yet what another has noted."""
        own_s = mean_time_between_stops(self._run.stretch.out / "events.jsonl")
        (per_s,) = self._run.ranks.largest([1.0 / own_s if own_s else 0.0])
        return 1.0 / per_s if per_s else None

    def _steps_to_first_save(self) -> int:
        """The recipe's `every`, or few for a run that was interrupted: killed more often, it would never save."""
        config = self._run.config.checkpoint
        if self._mtbf_s is None:
            return config.every
        return max(config.min_every, min(config.every, _FIRST_SAVE_STEPS))

    def step_done(self) -> None:
        """Notes when the first step is over: from there on time is spent on training, not on starting up."""
        if not self._run.has_stepped:
            if self._run.ranks.device.type == "cuda":
                torch.cuda.synchronize()
            self._run.has_stepped = True
            self._run.log.event("first_step", self._run.step)
            self._begin, self._begin_step = time.monotonic(), self._run.step

    def validated(self, seconds: float) -> None:
        """Notes a validation; says once where they take more than their share of the time."""
        run, config = self._run, self._run.config.validation
        self._validation_s += seconds
        self._num_validations += 1
        elapsed = time.monotonic() - self._begin
        share = self._validation_s / elapsed if elapsed else 0.0
        run.log.event("validation", run.step, seconds=seconds, share=share)
        steps = run.step - self._begin_step
        if share <= config.max_share or run.told_share or self._num_validations < 2 or not run.ranks.is_main:
            return
        run.told_share = True
        training_s = (elapsed - self._validation_s) / steps
        each_s = self._validation_s / self._num_validations
        every = math.ceil(each_s * (1.0 / config.max_share - 1.0) / training_s)
        print(
            f"note: validating takes {share:.0%} of the time, more than validation.max_share {config.max_share:.0%}; "
            f"set validation.every={every} or fewer validation.max_images.",
            flush=True,
        )

    def tell(self, row: dict[str, float]) -> None:
        """Brings status.json up to date, at most once a second."""
        self._val_psnr = row.get("val/psnr", self._val_psnr)
        now = time.monotonic()
        if now - self._told >= _STATUS_EVERY_S or self._run.step == self._phase.last_step:
            self._told = now
            self._run.log.status(
                state="running",
                phase=self._phase.config.name,
                step=self._run.step,
                steps_per_s=1.0 / self._step_s() if self._step_s() else None,
                val_psnr=self._val_psnr,
                save_every=self.save_every,
            )

    def saved(self) -> None:
        """Chooses the steps until the next checkpoint, the same on every rank."""
        run = self._run
        own = steps_between_saves(run.config.checkpoint, run.blocked_s, run.write_s, self._step_s(), self._mtbf_s)
        self.save_every = int(self._run.ranks.largest([float(own)])[0])

    def _step_s(self) -> float:
        steps = self._run.step - self._begin_step
        return (time.monotonic() - self._begin) / steps if steps else 0.0
