"""What a run is between two steps: its networks, its place, its checkpoints."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.config import RunConfig
from harness.errors import CheckpointError, TrainingError
from harness.train.checkpoint import Checkpoint, Snapshot, checkpoint_folders, read_newest
from harness.train.log import Meter, RunLog
from harness.train.nets import Nets
from harness.train.phase import Phase
from harness.train.ranks import Ranks
from harness.train.start import EXPORTED
from harness.train.stop import StopAgreement, StopFlag
from harness.train.version import told, trained_by, versions
from harness.train.watch import NonFinite, all_finite
from harness.train.writer import CheckpointWriter


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
        self.writer = CheckpointWriter(
            stretch.out / "checkpoints", self.config.checkpoint.keep, self._on_written, before=self.log.flush
        )
        self.meter = Meter()
        self.step = self.first_step = self.config.first_step(stretch.first_phase)
        self.saved_step = self.step
        self.last_step = self.config.first_step(stretch.last_phase + 1)
        self.restored: Checkpoint | None = None
        """Where the run goes on from, until its phase has taken over its part."""
        self.trained_by = [told(versions())]
        """Every version that has trained it, in their order, the phases before included."""
        self.rollbacks = 0
        self.blocked_s = self.blocked_cpu_s = 0.0
        """What the last checkpoint held up the loop on this rank."""
        self.write_s = 0.0
        """How long the last one that is whole took to be written; 0 where this rank writes none."""
        self.has_checkpoint = False
        self.has_stepped = False
        self.told_share = False
        """Whether it was said that validating takes more than its share."""

    @property
    def phases_ahead(self) -> list[int]:
        """Numbers of the stretch's phases that are not finished."""
        numbers = range(self.stretch.first_phase, self.stretch.last_phase + 1)
        return [number for number in numbers if self.step < self.config.first_step(number + 1)]

    # -- states ---------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Continues from the newest good checkpoint, the parent's last one, or the configured start."""
        checkpoint = read_newest(self.stretch.out / "checkpoints", self._complain)
        self.has_checkpoint = checkpoint is not None
        if not self.has_checkpoint:
            self._check_nothing_is_lost()
        if checkpoint is None and self.stretch.parent is not None:
            checkpoint = read_newest(self.stretch.parent / "checkpoints", self._complain)
            if checkpoint is None:
                raise CheckpointError(
                    f"{self.stretch.parent}: holds no good checkpoint to go on from; remove that folder, and "
                    "`harness sweep --retry-failed` trains it again."
                )
        if checkpoint is not None:
            self._take_over(checkpoint)
            if self.step < self.first_step:
                raise CheckpointError(
                    f"{checkpoint.path}: is of step {self.step}, not of step {self.first_step} where this phase "
                    f"begins; finish the phase before."
                )
        elif self.config.init_from is not None:
            self.nets.start_from(self.config.init_from)
        self._agree_on_step()
        if self.has_checkpoint:  # a kill may have come after a roll back, before the next checkpoint told of it
            known = max(self.rollbacks, self.log.rollbacks_to(self.step))
            self.rollbacks = int(self.ranks.largest([float(known)])[0])
        self.log.cut_back(self.step)

    def _check_nothing_is_lost(self) -> None:
        """Raises:
        CheckpointError: it would begin anew where it has trained before, and write over that.
        """
        out = self.stretch.out
        if checkpoint_folders(out / "checkpoints"):
            raise CheckpointError(
                f"{out / 'checkpoints'}: holds no checkpoint that training can go on from; put a good one there, or "
                f"remove that folder to begin anew."
            )
        if (out / EXPORTED).exists():
            raise CheckpointError(
                f"{out}: this run has ended, and its checkpoints are gone; give another folder, or remove its "
                f"{EXPORTED} to train it again."
            )

    def save(self, phase: Phase, number: int) -> None:
        """Copies the state to the host and writes it behind the loop's back."""
        begin, begin_cpu = time.monotonic(), time.thread_time()
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
                "trained_by": self.trained_by,
            }
            weights = self.writer.copier.copy(self.nets.weights(), "weights")
            training = self.writer.copier.copy({**training, "rollbacks": self.rollbacks}, "training")
            self.blocked_s, self.blocked_cpu_s = time.monotonic() - begin, time.thread_time() - begin_cpu
            self.writer.start(Snapshot(self.step, weights, training, facts))
        self.saved_step, self.has_checkpoint = self.step, True

    def reserve(self, phase: Phase) -> None:
        """Makes room in host memory for what `save` will copy, so that the first one is as quick as all others."""
        if self.ranks.is_main:
            optimizers = {name: optimizer.state_dict() for name, optimizer in phase.optimizers.items()}
            training = {"phase_state": {"optimizers": optimizers}}
            self.writer.reserve({"weights": self.nets.weights(), "training": training})

    def finish_write(self) -> None:
        """Waits for the last checkpoint.

        Raises:
            TrainingError: it could not be written.
        """
        self.writer.wait()
        error = self.writer.failed
        if any(self.ranks.largest([float(error is not None)])):
            why = f" ({error})" if error is not None else ""  # rank 0 alone knows it
            raise TrainingError(f"{self.stretch.out}: the checkpoint of step {self.step} could not be written{why}.")

    def roll_back(self, reason: NonFinite) -> None:
        """Goes back to the newest good checkpoint; the learning rate is halved from there on.

        Raises:
            TrainingError: the recipe says to stop, there is nothing to go back to, or the ranks went back to different
                steps.
        """
        self.writer.wait()
        self.ranks.barrier()
        checkpoint = read_newest(self.stretch.out / "checkpoints")
        where = f"the newest checkpoint is {checkpoint.path.name}" if checkpoint else "there is no checkpoint before"
        watch = self.config.watch
        if watch.on_non_finite == "stop" or checkpoint is None or self.rollbacks >= watch.max_rollbacks:
            raise TrainingError(f"{reason}; {where}; lower the learning rate, clip gradients, or use fp32.") from None
        rollbacks = self.rollbacks + 1
        self.log.event("rollback", self.step, reason=str(reason))
        self._take_over(checkpoint)
        self._agree_on_step()
        self.rollbacks = rollbacks
        self.meter = Meter()
        self.log.cut_back(self.step)
        self.log.rolled_back(self.step, rollbacks)

    def _agree_on_step(self) -> None:
        """Raises:
        TrainingError: the ranks read checkpoints of different steps, as machines may whose network folders lag behind.
        """
        newest, oldest = (int(abs(step)) for step in self.ranks.largest([float(self.step), -float(self.step)]))
        if newest != oldest:
            raise TrainingError(
                f"{self.stretch.out}: the ranks see different checkpoints (of steps {oldest} and {newest}), so their "
                f"machines do not see the same files yet; start again when they do."
            )

    def _take_over(self, checkpoint: Checkpoint) -> None:
        self.nets.load(checkpoint)
        self.step = self.saved_step = checkpoint.step
        self.restored = checkpoint
        self.rollbacks = checkpoint.training["rollbacks"]
        self.trained_by = [*dict.fromkeys([*trained_by(checkpoint.manifest), told(versions())])]

    def _complain(self, message: str) -> None:
        if self.ranks.is_main:
            print(f"warning: {message}", flush=True)

    def _on_written(self, step: int, save_s: float) -> None:
        error = self.writer.failed
        with suppress(OSError):  # a full disk, which the training thread meets at its next row
            if error is None:
                self.write_s = save_s
                blocked = {"blocked_s": self.blocked_s, "blocked_cpu_s": self.blocked_cpu_s}
                self.log.event("checkpoint", step, save_s=save_s, **blocked)
            else:
                self.log.event("checkpoint_failed", step, error=str(error))

    def _report_failed_write(self) -> None:
        if self.writer.failed is not None:
            self._complain(f"a checkpoint could not be written ({self.writer.failed}); the one before is kept.")
