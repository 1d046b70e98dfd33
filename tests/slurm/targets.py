"""Small targets for jobs in tests: they count steps into files, and stop as the trainer does."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any


def count(argument: str) -> int:
    """Counts to `steps` in `out`/count, one line a step in `out`/steps; a stop signal saves and returns 75.

    argument: JSON of {out, steps, step_s, save_s}; saving takes `save_s`.
    """
    options = json.loads(argument)
    out = Path(options["out"])
    stop: list[int] = []
    rank = os.environ["RANK"]

    def on_signal(number: int, frame: Any) -> None:
        stop.append(number)
        with (out / f"signals_{rank}").open("a") as file:
            print(signal.Signals(number).name, file=file)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, on_signal)
    state = out / f"count_{rank}"
    step = int(state.read_text()) if state.exists() else 0
    with (out / f"starts_{rank}").open("a") as file:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "COLOUR")
        names += ("CUDA_VISIBLE_DEVICES", "HARNESS_GPUS_PER_NODE")
        print(json.dumps({"pid": os.getpid(), **{name: os.environ.get(name) for name in names}}), file=file)
    while step < options["steps"]:
        if stop:
            time.sleep(options.get("save_s", 0))
            (out / f"saved_{rank}").write_text(str(step))
            return 75
        time.sleep(options["step_s"])
        step += 1
        temporary = state.with_suffix(".new")
        temporary.write_text(str(step))
        temporary.replace(state)
    return 0


def fail(argument: str) -> int:
    """Returns the exit code that it is given."""
    return int(argument)


def die(argument: str) -> int:
    """Is killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def raise_error(argument: str) -> int:
    """Raises."""
    raise RuntimeError(argument)


def train(argument: str) -> int:
    """The real trainer, which tells where it is and takes its time there, so that a test can act.

    argument: JSON of {run_file, notes}. `notes`/pace.json, read at each start, says how many seconds to wait at each
    place: step, validate, write, restore, phase, import; or "held N", to wait there the Nth time until `notes`/go is
    there. `notes`/marks gets a line whenever rank 0 comes to a place, `notes`/pids the ranks' process ids,
    `notes`/signals what they got and when; where pace has "keys", each batch's sample keys go to
    `notes`/keys_START_RANK.
    """
    options = json.loads(argument)
    notes = Path(options["notes"])
    pace = json.loads((notes / "pace.json").read_text())
    rank = os.environ["RANK"]
    with (notes / "pids").open("a") as file:
        print(os.getpid(), rank, file=file)

    visits: dict[str, int] = {}

    def wait(place: str) -> None:
        if rank == "0" and place != "step":
            with (notes / "marks").open("a") as file:
                print(place, file=file)
        visits[place] = visits.get(place, 0) + 1
        if isinstance(pace.get(place), str):
            while visits[place] == int(pace[place].split()[1]) and not (notes / "go").exists():
                time.sleep(0.02)
            return
        end = time.monotonic() + pace.get(place, 0)
        while time.monotonic() < end:  # a signal must not cut it short
            time.sleep(max(0.0, end - time.monotonic()))

    wait("import")
    import harness.train.loop as loop
    import harness.train.phase as phase
    import harness.train.stop as stop
    import harness.train.validate as validate
    import harness.train.writer as writer

    def slow(module: Any, name: str, place: str) -> None:
        original = getattr(module, name)

        def waiting(*args: Any, **kwargs: Any) -> Any:
            wait(place)
            return original(*args, **kwargs)

        setattr(module, name, waiting)

    on_signal = stop.StopFlag._on_signal

    def noting(self: Any, number: int, frame: Any) -> None:
        with (notes / "signals").open("a") as file:
            print(time.time(), signal.Signals(number).name, file=file)
        on_signal(self, number, frame)

    stop.StopFlag._on_signal = noting  # type: ignore[method-assign]
    slow(loop, "train_step", "step")
    slow(loop.Run, "restore", "restore")
    slow(loop, "_open_phase", "phase")
    slow(validate.Validation, "run", "validate")
    slow(writer, "write_checkpoint", "write")
    if pace.get("keys"):
        _note_keys(phase.PatchLoader, notes / f"keys_{pace['keys']}_{rank}")
    from harness.train.job import main

    return main(options["run_file"])


def _note_keys(loader: Any, path: Path) -> None:
    batches = loader.batches

    def noting(self: Any, first_position: int) -> Any:
        for batch in batches(self, first_position):
            with path.open("a") as file:
                keys = zip(batch.position_B.tolist(), self.samples.keys(batch.position_B.numpy()))
                file.writelines(f"{position} {key}\n" for position, key in keys)
            yield batch

    loader.batches = noting
