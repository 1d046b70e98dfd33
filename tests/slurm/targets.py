"""Small targets for jobs in tests: they count steps into files, and stop as the trainer does."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path


def count(argument: str) -> int:
    """Counts to `steps` in `out`/count, one line a step in `out`/steps; a stop signal saves and returns 75.

    argument: JSON of {out, steps, step_s, save_s}; saving takes `save_s`.
    """
    options = json.loads(argument)
    out = Path(options["out"])
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: stop.append(number))
    rank = os.environ["RANK"]
    state = out / f"count_{rank}"
    step = int(state.read_text()) if state.exists() else 0
    with (out / f"starts_{rank}").open("a") as file:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "COLOUR")
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
