"""The entry of a training job: reads a run file, trains, and tells how it ended by an exit code."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from harness.alone import alone_in
from harness.config import RunConfig, dump_yaml
from harness.errors import EXIT_FAILURE, EXIT_LOST_RANK, InputError, NetworksTooLarge, TrainingError, first_line
from harness.files import not_written, write_text
from harness.identity import check_same_result
from harness.schema import Section, parse, read_yaml
from harness.train.lost import lost_a_rank

_NO_PLACE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG,  # full
    errno.EROFS, errno.EACCES, errno.EPERM,  # without rights
    errno.EIO, errno.ESTALE,  # broken
}  # fmt: skip
_CONFIG = "config.yaml"


class RunFile(Section):
    """What a job is told: a run's configuration, and which of its phases to train where."""

    config: RunConfig
    out: str
    phase: int | None = None
    """Only this phase, continuing from `parent`; null trains all phases."""
    parent: str | None = None


def main(run_file: str) -> int:
    """Trains what `run_file` says; see `harness.errors` for the exit codes.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are taken from the environment.
    """
    path = Path(run_file)
    return _coded(lambda: _train_file(parse(RunFile, read_yaml(path), str(path))))


def train_recipe(config: RunConfig, out: Path) -> int:
    """Trains a whole run in `out`, or continues it there; returns the exit code."""
    return _coded(lambda: _train_file(RunFile(config=config, out=str(out))))


def _train_file(run: RunFile) -> int:
    from harness.train.fast.fuse import keep_compiled
    from harness.train.loop import train
    from harness.train.ranks import make_deterministic, make_fast
    from harness.train.run import Stretch

    out = Path(run.out)
    if run.phase is not None and run.phase >= len(run.config.phases):
        raise InputError(f"phase {run.phase} does not exist; the run has {len(run.config.phases)} phases.")
    first, last = (0, len(run.config.phases) - 1) if run.phase is None else (run.phase, run.phase)
    with _own_folder(out, run.config, is_phase=run.phase is not None):
        make_deterministic() if run.config.deterministic else make_fast()
        if run.config.compile != "off":
            keep_compiled(out, is_shared=run.phase is not None)
        return train(Stretch(run.config, out, first, last, Path(run.parent) if run.parent else None))


@contextmanager
def _own_folder(out: Path, config: RunConfig, is_phase: bool) -> Iterator[None]:
    """A run folder of this run, held against other trainers; rank 0 does both for all ranks.

    A run that ends before it has trained a step to keep leaves no configuration behind, so that the mended command may
    use the folder; and nothing at all where the input was wrong, or the networks too large.
    """
    existed, begun = out.exists(), (out / _CONFIG).exists()
    if _rank() != 0:
        prepare_folder(out, config, is_phase)
        yield
        return
    _make_folder(out)
    with alone_in(out, lock=".trainer"):
        try:
            prepare_folder(out, config, is_phase)
            yield
        except (InputError, TrainingError) as error:
            if not any((out / name).exists() for name in ("checkpoints", "metrics.jsonl")):
                _forget(out, existed or not isinstance(error, (InputError, NetworksTooLarge)), begun)
            raise


def _forget(out: Path, keeps_rest: bool, begun: bool) -> None:
    if not keeps_rest:
        shutil.rmtree(out, ignore_errors=True)
    elif not begun:
        (out / _CONFIG).unlink(missing_ok=True)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def prepare_folder(out: Path, config: RunConfig, is_phase: bool = False) -> None:
    """Writes the configuration into a run folder, or checks that the one there is of the same run.

    Args:
        is_phase: it is the folder of a sweep's phase, whose name stands for all that decides its result.

    Raises:
        InputError: the folder cannot be written, or holds another run.
    """
    stored = out / _CONFIG
    if stored.exists():
        before = parse(RunConfig, read_yaml(stored), str(stored))
        for line in check_same_result(before, config, out, is_phase, _num_begun(before, out)):
            print(f"note: continued with {line}", flush=True)
    if _rank() != 0:
        return
    write_text(stored, dump_yaml(config))


def _num_begun(config: RunConfig, out: Path) -> int:
    """How many phases of a run have left a step to go on from; the first counts in any case."""
    from harness.train.checkpoint import checkpoint_folders

    newest = max((int(path.name.rpartition("_")[2]) for path in checkpoint_folders(out / "checkpoints")), default=0)
    return max(1, sum(config.first_step(number) < newest for number in range(len(config.phases))))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise not_written(out, error) from None


def leave(code: int) -> NoReturn:
    """Ends a rank's process at once.

    All is written by then, and the interpreter's teardown of a process group's native threads can abort a rank that is
    done ("terminate called without an active exception"), which would look like a death.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _coded(train: Callable[[], int]) -> int:
    try:
        return train()
    except (InputError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception as error:
        sentence = _told_of_machine(error)
        if sentence is None:
            traceback.print_exc()
            return EXIT_LOST_RANK if lost_a_rank(error) else EXIT_FAILURE
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        return EXIT_FAILURE


def _told_of_machine(error: Exception) -> str | None:
    """What the machine lacks, in a sentence; None where it is something else."""
    from harness.train.shortage import is_out_of_memory

    if isinstance(error, OSError) and error.errno in _NO_PLACE:
        return f"{error.filename or 'the output folder'}: {error.strerror}; free space or mend its rights."
    if is_out_of_memory(error):
        first = first_line(error)
        return f"out of memory ({first}); free some of it, or use a machine with more."
    return None
