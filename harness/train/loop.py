"""The training loop: load, step, log, validate, save; exactly resumable at every step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from harness.errors import EXIT_DONE, EXIT_SAVED, CheckpointError, NotWritten, TrainingError, first_line
from harness.train.checkpoint import Checkpoint, write_weights
from harness.train.fit import check_phases
from harness.train.lost import lost_a_rank
from harness.train.memory import explain_out_of_memory
from harness.train.notes import notes_of
from harness.train.pace import Pace
from harness.train.patches import Patches
from harness.train.phase import Phase
from harness.train.ranks import Ranks
from harness.train.run import Run, Stretch
from harness.train.shortage import building_networks, is_out_of_memory
from harness.train.start import EXPORTED
from harness.train.steps import Scalars, train_step
from harness.train.stop import StopFlag
from harness.train.validate import Validation
from harness.train.watch import NonFinite


def train(stretch: Stretch) -> int:
    """Trains a stretch of a run to its end, or to a stop signal; call again to continue.

    Returns:
        0 when the stretch is finished, 75 when it was stopped and saved.

    Raises:
        InputError: the configuration, data or stored state do not fit.
        TrainingError: the numbers went wrong, or something does not fit in memory.
    """
    ranks = Ranks(stretch.config, str(stretch.out))
    # Only now: until all ranks have met there is nothing to save, and a signal may end this one at once.
    flag = StopFlag()
    flag.install()
    try:
        with building_networks():
            run = Run(stretch, ranks, flag)
            run.restore()
        check_phases(run.config, run.phases_ahead, run.nets, ranks)
        for note in notes_of(stretch.config, ranks, run.trained_by) if ranks.is_main else ():
            print(f"note: {note}", flush=True)
        run.log.start_trackers(run.step, stretch.config)
        run.log.started(run.step)
        steps = {"step": run.step, "total_steps": run.last_step, "first_step": run.first_step}
        run.log.status(state="running", **steps, trained_by=run.trained_by)
        with _failures_told(run):
            return _train_phases(run)
    finally:
        ranks.close()
        flag.restore()


@contextmanager
def _failures_told(run: Run) -> Iterator[None]:
    """Around the training: what ends it is told in the run's folder as well, where that is possible.

    Raises:
        TrainingError: what could be written at the start no longer can, which is nobody's wrong input.
    """
    try:
        try:
            yield
        except NotWritten as error:
            raise TrainingError(f"no longer possible: {error}") from error
    except Exception as error:
        run.writer.wait()
        if not lost_a_rank(error):
            with suppress(OSError, NotWritten):  # on a full disk the reason itself matters more
                run.log.event("failed", run.step, error=str(error))
                run.log.status(state="failed", step=run.step, error=f"{type(error).__name__}: {error}")
        raise


def _train_phases(run: Run) -> int:
    while run.phases_ahead:
        if run.has_checkpoint and run.saved_step == run.step and run.agreement.reached(run.step):
            _note_signal(run)
            return _leave_saved(run)
        try:
            code = _train_phase(run, run.phases_ahead[0])
        except NonFinite as reason:
            run.roll_back(reason)  # perhaps into the phase before
            continue
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
    pace = Pace(run, phase)
    reserve_at = run.step + phase.config.generator_every  # by then the optimisers have their states
    try:
        if run.agreement.reached(run.step):
            return _stop(run, phase, number)
        stream = phase.patches(run.step)
        for step in range(run.step, phase.last_step):
            done = step + 1
            logs = done % run.config.log_every == 0 or done == phase.last_step
            run.meter.add(_step(run, phase, stream, step, logs))
            run.step = done
            pace.step_done()
            if done == reserve_at:
                run.reserve(phase)

            row = _log_row(run, phase, step) if logs else {}
            if row:
                phase.watch.check(done, row)
            if _is_due(done, run.config.validation.every, phase.last_step):
                row |= _validate(run, validation, pace)
            if row:
                run.log.metrics(done, phase.config.name, row)
            pace.tell(row)

            if done == phase.last_step or done - run.saved_step >= pace.save_every:
                run.save(phase, number)
                pace.saved()
            if done < phase.last_step and run.agreement.reached(done):
                return _stop(run, phase, number)
        return EXIT_DONE
    finally:
        phase.close()


def _validate(run: Run, validation: Validation, pace: Pace) -> dict[str, float]:
    begin = time.monotonic()
    try:
        row = validation.run(run.stretch.out / "samples" / f"step_{run.step:09d}.png")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"validation: out of memory on an image of {validation.largest}; give sources whose val images are "
            f"smaller, or validation.max_images=0."
        ) from None
    if row:
        pace.validated(time.monotonic() - begin)
    return row


def _step(run: Run, phase: Phase, stream: Iterator[Patches], step: int, log_norms: bool) -> Scalars:
    """Trains on the next patches.

    Raises:
        TrainingError: it does not fit in memory.
    """
    try:
        return train_step(phase, next(stream), step, log_norms)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = error
    raise explain_out_of_memory(failed, run.config, phase, run.ranks)


def _open_phase(run: Run, number: int) -> Phase:
    phase = Phase(run.config, number, run.nets, run.ranks)
    restored, run.restored = run.restored, None
    if restored is not None:
        _check_data(run, phase, number, restored)
    if restored is not None and run.step > phase.first_step:
        _continue_phase(run, phase, restored)
    elif run.step == phase.first_step:
        phase.begin()
    phase.learning_rate_factor = 0.5**run.rollbacks
    return phase


def _check_data(run: Run, phase: Phase, number: int, restored: Checkpoint) -> None:
    """Raises:
    CheckpointError: the checkpoint's phase, be it this or one before, had other data under the same sources.
    """
    has_same_sources = run.config.sources(restored.training["phase"]) == run.config.sources(number)
    if has_same_sources and restored.manifest.get("dataset_fingerprint") != phase.loader.fingerprint:
        raise CheckpointError(
            f"{run.stretch.out}: was trained on other data than lie under the sources now, so it cannot be "
            f"continued exactly; put the data back, or give another output folder."
        )


def _continue_phase(run: Run, phase: Phase, restored: Checkpoint) -> None:
    try:
        phase.load_state_dict(restored.training["phase_state"])
        run.meter.load_state_dict(restored.training["meter"], run.ranks.device)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        first = first_line(error)
        raise CheckpointError(
            f"{restored.path}: its training state does not fit this phase ({type(error).__name__}: {first}); "
            f"remove that folder to continue from the checkpoint before."
        ) from None


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
