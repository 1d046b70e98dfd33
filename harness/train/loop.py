"""The training loop: load, step, log, validate, save; exactly resumable at every step."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config import RunConfig
from harness.errors import EXIT_DONE, EXIT_SAVED, CheckpointError, TrainingError
from harness.train.cadence import mean_time_between_stops, steps_between_saves
from harness.train.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    Snapshot,
    newest_good,
    read_checkpoint,
    write_weights,
)
from harness.train.log import Meter, RunLog
from harness.train.lost import lost_a_rank
from harness.train.nets import Nets
from harness.train.phase import Phase
from harness.train.ranks import Ranks
from harness.train.start import EXPORTED
from harness.train.steps import train_step
from harness.train.stop import StopAgreement, StopFlag
from harness.train.validate import Validation
from harness.train.watch import NonFinite, Watch, all_finite

_STATUS_EVERY_S = 1.0


@dataclass(frozen=True)
class Stretch:
    """Which part of a run is trained, and where."""

    config: RunConfig
    out: Path
    first_phase: int
    last_phase: int
    parent: Path | None
    """Folder of the phase before `first_phase`, where that was trained elsewhere."""


class Run:
    """A stretch of a run at work on this rank."""

    def __init__(self, stretch: Stretch, ranks: Ranks, flag: StopFlag) -> None:
        self.config = stretch.config
        self.stretch = stretch
        self.ranks = ranks
        self.flag = flag
        self.log = RunLog(stretch.out, ranks)
        self.nets = Nets(self.config, ranks)
        self.agreement = StopAgreement(flag, ranks.world_size, ranks.largest)
        self.writer = CheckpointWriter(stretch.out / "checkpoints", self.config.checkpoint.keep, self._on_written)
        self.meter = Meter()
        self.step = self.first_step = self.config.first_step(stretch.first_phase)
        self.saved_step = self.step
        self.last_step = self.config.first_step(stretch.last_phase + 1)
        self.training: dict[str, Any] | None = None
        self.fingerprint: str | None = None
        self.rollbacks = 0
        self.blocked_s = 0.0
        self.has_checkpoint = False
        self.has_stepped = False

    # -- states ---------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Continues from the newest good checkpoint, the parent's last one, or the configured start."""
        path = newest_good(self.stretch.out / "checkpoints", self._complain)
        self.has_checkpoint = path is not None
        if path is None and self.stretch.parent is not None:
            path = newest_good(self.stretch.parent / "checkpoints", self._complain)
            if path is None:
                raise CheckpointError(f"{self.stretch.parent}: holds no good checkpoint; train that phase first.")
        if path is not None:
            self._take_over(read_checkpoint(path))
            if self.step < self.first_step:
                raise CheckpointError(
                    f"{path}: is of step {self.step}, not of step {self.first_step} where this phase begins; "
                    f"finish the phase before."
                )
        elif self.config.init_from:
            self.nets.start_from(self.config.init_from)
        self.log.cut_back(self.step)

    def save(self, phase: Phase, number: int) -> None:
        """Copies the state to the host and writes it behind the loop's back."""
        begin = time.monotonic()
        if not all_finite(self.nets.generator, self.nets.discriminator):
            raise NonFinite(f"a weight is no longer finite at step {self.step}")
        self.writer.wait()
        self._report_failed_write()
        training = {"phase": number, "phase_state": phase.state_dict(), "meter": self.meter.state_dict(self.ranks)}
        if self.ranks.is_main:
            facts = {
                "phase": phase.config.name,
                "config": self.config.model_dump(mode="json"),
                "dataset_fingerprint": phase.loader.fingerprint,
            }
            weights = self.writer.copier.copy(self.nets.weights(), "weights")
            training = self.writer.copier.copy({**training, "rollbacks": self.rollbacks}, "training")
            self.log.flush()
            self.writer.start(Snapshot(self.step, weights, training, facts))
        self.saved_step, self.has_checkpoint = self.step, True
        self.blocked_s = time.monotonic() - begin

    def finish_write(self) -> None:
        """Waits for the last checkpoint.

        Raises:
            TrainingError: it could not be written.
        """
        self.writer.wait()
        error = self.writer.failed
        if any(self.ranks.largest([float(error is not None)])):
            raise TrainingError(
                f"{self.stretch.out}: the checkpoint of step {self.step} could not be written ({error})."
            )

    def roll_back(self, reason: NonFinite) -> None:
        """Goes back to the newest good checkpoint; the learning rate is halved from there on.

        Raises:
            TrainingError: the recipe says to stop, or there is nothing to go back to.
        """
        self.writer.wait()
        self.ranks.barrier()
        path = newest_good(self.stretch.out / "checkpoints")
        where = f"the newest checkpoint is {path.name}" if path else "there is no checkpoint before"
        watch = self.config.watch
        if watch.on_non_finite == "stop" or path is None or self.rollbacks >= watch.max_rollbacks:
            raise TrainingError(f"{reason}; {where}; lower the learning rate, clip gradients, or use fp32.") from None
        rollbacks = self.rollbacks + 1
        self.log.event("rollback", self.step, reason=str(reason))
        self._take_over(read_checkpoint(path))
        self.rollbacks = rollbacks
        self.meter = Meter()
        self.log.cut_back(self.step)

    def _take_over(self, checkpoint: Checkpoint) -> None:
        self.nets.load(checkpoint)
        self.step = self.saved_step = checkpoint.step
        self.training = checkpoint.training
        self.fingerprint = checkpoint.manifest.get("dataset_fingerprint")
        self.rollbacks = checkpoint.training.get("rollbacks", 0)

    def _complain(self, message: str) -> None:
        if self.ranks.is_main:
            print(f"warning: {message}", flush=True)

    def _on_written(self, step: int, save_s: float) -> None:
        error = self.writer.failed
        if error is None:
            self.log.event("checkpoint", step, save_s=save_s, blocked_s=self.blocked_s)
        else:
            self.log.event("checkpoint_failed", step, error=str(error))

    def _report_failed_write(self) -> None:
        if self.writer.failed is not None:
            self._complain(f"a checkpoint could not be written ({self.writer.failed}); the one before is kept.")


def train(stretch: Stretch) -> int:
    """Trains a stretch of a run to its end, or to a stop signal; call again to continue.

    Returns:
        0 when the stretch is finished, 75 when it was stopped and saved.

    Raises:
        InputError: the configuration, data or stored state do not fit.
        TrainingError: the numbers went wrong.
    """
    ranks = Ranks(stretch.config, str(stretch.out))
    # Only now: until all ranks have met there is nothing to save, and a signal may end this one at once.
    flag = StopFlag()
    flag.install()
    try:
        run = Run(stretch, ranks, flag)
        run.restore()
        run.log.start_trackers(run.step, stretch.config)
        run.log.started(run.step)
        run.log.status(state="running", step=run.step, total_steps=run.last_step, first_step=run.first_step)
        try:
            return _train_phases(run)
        except Exception as error:
            run.writer.wait()
            if not lost_a_rank(error):
                run.log.event("failed", run.step, error=str(error))
                run.log.status(state="failed", step=run.step, error=f"{type(error).__name__}: {error}")
            raise
    finally:
        ranks.close()
        flag.restore()


def _train_phases(run: Run) -> int:
    for number in range(run.stretch.first_phase, run.stretch.last_phase + 1):
        if run.step >= run.config.first_step(number + 1):
            continue
        if run.has_checkpoint and run.saved_step == run.step and run.agreement.reached(run.step):
            _note_signal(run)
            return _leave_saved(run)
        while True:
            try:
                code = _train_phase(run, number)
                break
            except NonFinite as reason:
                run.roll_back(reason)
        if code == EXIT_SAVED:
            return _leave_saved(run)
    run.finish_write()
    _export(run)
    run.log.event("done", run.step)
    run.log.status(state="done", step=run.step)
    return EXIT_DONE


def _train_phase(run: Run, number: int) -> int:
    """One phase from where the run stands: EXIT_DONE at its end, EXIT_SAVED after a stop signal."""
    phase = _open_phase(run, number)
    validation = Validation(run.config, run.config.sources(number), run.nets, run.ranks)
    watch = Watch(run.config.watch)
    pace = Pace(run, phase)
    try:
        if run.agreement.reached(run.step):
            return _stop(run, phase, number)
        batches = phase.batches(run.step)
        for step in range(run.step, phase.last_step):
            done = step + 1
            logs = done % run.config.log_every == 0 or done == phase.last_step
            patches = phase.patches(next(batches))
            run.meter.add(train_step(phase, patches, step, log_norms=logs))
            run.step = done
            pace.step_done()

            row = _log_row(run, phase, step) if logs else {}
            if row:
                watch.check(done, row)
            if _is_due(done, run.config.validation.every, phase.last_step):
                row |= validation.run(run.stretch.out / "samples" / f"step_{done:09d}.png")
            if row:
                run.log.metrics(done, phase.config.name, row)
            pace.tell(row)

            if done == phase.last_step or done - run.saved_step >= pace.save_every:
                run.save(phase, number)
                pace.saved(run.blocked_s)
            if done < phase.last_step and run.agreement.reached(done):
                return _stop(run, phase, number)
        return EXIT_DONE
    finally:
        phase.close()


def _open_phase(run: Run, number: int) -> Phase:
    phase = Phase(run.config, number, run.nets, run.ranks)
    training, run.training = run.training, None
    if training is not None and run.step > phase.first_step:
        if run.fingerprint != phase.loader.fingerprint:
            raise CheckpointError(
                f"{run.stretch.out}: was trained on other data than lie under the sources now, so it cannot be "
                f"continued exactly; put the data back, or give another output folder."
            )
        phase.load_state_dict(training["phase_state"])
        run.meter.load_state_dict(training["meter"], run.ranks.device)
    elif run.step == phase.first_step:
        phase.begin()
    phase.learning_rate_factor = 0.5**run.rollbacks
    return phase


def _stop(run: Run, phase: Phase, number: int) -> int:
    _note_signal(run)
    if run.saved_step != run.step or not run.has_checkpoint:
        run.save(phase, number)
    return EXIT_SAVED


def _note_signal(run: Run) -> None:
    run.log.event("signal", run.step, signal=run.flag.signal_name, received_at=run.flag.received_at)


def _leave_saved(run: Run) -> int:
    run.finish_write()
    run.log.event("stop", run.step)
    run.log.status(state="saved", step=run.step)
    return EXIT_SAVED


def _log_row(run: Run, phase: Phase, step: int) -> dict[str, float]:
    rates = {f"learning_rate/{name}": rate for name, rate in phase.learning_rates(step).items()}
    extra = {"data/replaced": float(phase.loader.replaced)} if phase.loader.replaced else {}
    return {**run.meter.fetch(run.ranks), **rates, **extra}


def _is_due(done: int, every: int, last_step: int) -> bool:
    return done % every == 0 or done == last_step


def _export(run: Run) -> None:
    """Writes the averaged generator, which carries its configuration."""
    if run.ranks.is_main:
        # One key, since several come out in random order and equal weights shall be equal files.
        metadata = {"harness": json.dumps({"step": run.step, "config": run.config.model_dump(mode="json")})}
        weights = {name: value.cpu() for name, value in run.nets.ema.module.state_dict().items()}
        write_weights(run.stretch.out / EXPORTED, weights, metadata)
    run.ranks.barrier()


class Pace:
    """How fast the phase goes, how often it saves, and what status.json says of it."""

    def __init__(self, run: Run, phase: Phase) -> None:
        self._run = run
        self._phase = phase
        self._mtbf_s = mean_time_between_stops(run.stretch.out / "events.jsonl")
        self._begin = self._told = time.monotonic()
        self._begin_step = run.step
        self._val_psnr: float | None = None
        self.save_every = run.config.checkpoint.every

    def step_done(self) -> None:
        """Notes when the first step is over: from there on time is spent on training, not on starting up."""
        if not self._run.has_stepped:
            if self._run.ranks.device.type == "cuda":
                torch.cuda.synchronize()
            self._run.has_stepped = True
            self._run.log.event("first_step", self._run.step)
            self._begin, self._begin_step = time.monotonic(), self._run.step

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

    def saved(self, blocked_s: float) -> None:
        """Chooses the steps until the next checkpoint, the same on every rank."""
        own = steps_between_saves(self._run.config.checkpoint, blocked_s, self._step_s(), self._mtbf_s)
        self.save_every = int(self._run.ranks.largest([float(own)])[0])

    def _step_s(self) -> float:
        steps = self._run.step - self._begin_step
        return (time.monotonic() - self._begin) / steps if steps else 0.0
