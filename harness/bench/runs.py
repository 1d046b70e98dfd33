"""Real runs, measured from outside: the hours that a recipe takes, and what bf16 costs in quality."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.bench.step import draw_data, prepared
from harness.config import RunConfig
from harness.errors import InputError
from harness.train.fast.fuse import is_long

_POLL_S = 0.005
_LEAST_SPAN = 0.25
"""Share of a run's steps between the two rows that its pace is taken from."""


@dataclass(frozen=True)
class PhaseRun:
    """A short real run of one phase, and what the whole phase would take at its pace."""

    recipe: str
    phase: str
    steps: int
    batch_size: int
    step_s: float
    """Seconds a step at the run's pace; see `seconds_per_step`."""
    once_s: float
    """Seconds of the run that are not its steps': recording or compiling them, the last validation and checkpoint."""
    iterations: int

    @property
    def hours(self) -> float:
        return (self.once_s + self.step_s * self.iterations) / 3600


def measure_runs(name: str, config: RunConfig, steps: int, folder: Path, batch_size: int | None) -> list[PhaseRun]:
    """Trains `steps` steps of each phase of a recipe, with its own logging, validation and checkpoints.

    The data are drawn landscapes of the recipe's patch size and more, so that patches are cropped as from real tiles.
    The pace has reading and logging in it, and those validations and checkpoints that fall between the two rows that it
    is taken from; what else the run does counts once. The others of a whole phase are not in its hours: validating
    takes at most the recipe's `max_share` of the time, or the run says so, and a checkpoint holds up the loop for tens
    of milliseconds.
    """
    data = draw_data(folder, config.data.patch_px)
    runs = []
    for number, phase in enumerate(config.phases):
        values = prepared(config, data, batch_size)
        values["phases"] = [{**values["phases"][number], "iterations": steps}]
        values["trackers"] = list(config.trackers)
        if config.compile == "auto" and torch.cuda.is_available():  # as in the whole phase
            values["compile"] = "on" if is_long(phase.iterations) and not config.deterministic else "off"
        out = folder / f"{name}-{phase.name}"
        with noted_steps(out / "metrics.jsonl") as logged:
            train_apart(values, out)
        times = {row["event"]: row["time"] for row in _rows(out / "events.jsonl")}
        step_s = seconds_per_step(logged, times, steps)
        once_s = max(0.0, times["done"] - times["start"] - step_s * steps)
        size = values["phases"][0]["batch_size"]
        runs.append(PhaseRun(name, phase.name, steps, size, step_s, once_s, phase.iterations))
    return runs


def seconds_per_step(logged: Sequence[tuple[int, float]], times: Mapping[str, float], steps: int) -> float:
    """The pace of a run of so many steps in its second half, up to the last row before the end's validation.

    A run without rows that are far enough apart is timed from its first step to its end, which counts what is done
    once as if every step had it.

    Args:
        logged: (step, time) of each logged row.
        times: of the events `first_step` and `done`.
    """
    before_end = [row for row in logged if row[0] < steps]
    if before_end:
        (half, begin), (last, end) = min(before_end, key=lambda row: abs(row[0] - steps / 2)), before_end[-1]
        if last - half >= _LEAST_SPAN * steps:
            return (end - begin) / (last - half)
    return (times["done"] - times["first_step"]) / max(1, steps - 1)


@contextmanager
def noted_steps(metrics: Path) -> Iterator[list[tuple[int, float]]]:
    """Notes within when each step's row is there, as (step, time): rows have no times, to be the same in each run."""
    noted: list[tuple[int, float]] = []
    is_over = threading.Event()
    watcher = threading.Thread(target=_note_steps, args=(metrics, noted, is_over))
    watcher.start()
    try:
        yield noted
    finally:
        is_over.set()
        watcher.join()


def _note_steps(metrics: Path, noted: list[tuple[int, float]], is_over: threading.Event) -> None:
    place = 0
    while not is_over.wait(_POLL_S):
        if not metrics.exists() or metrics.stat().st_size == place:
            continue
        with metrics.open("rb") as file:
            place = file.seek(min(place, file.seek(0, os.SEEK_END)))  # shorter where a run went back
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        noted += [(json.loads(line)["step"], time.time()) for line in whole.splitlines()]
        place += len(whole)


def measure_precision(
    config: RunConfig, data: str, steps: int, folder: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """PSNR (dB) at the end of a recipe's first phase in fp32 and in bf16, on the same data and seed."""
    found = {}
    for precision in ("fp32", "bf16"):
        values: dict[str, Any] = json.loads(config.model_dump_json())
        values |= {"precision": precision, "trackers": [], "phases": values["phases"][:1]}
        values["phases"][0]["iterations"] = steps
        values["data"]["sources"] = [{"path": data}]
        values["validation"] |= {"every": steps, "max_images": 48, "sample_images": 0}
        train_apart(values, folder / precision)
        found[precision] = _rows(folder / precision / "metrics.jsonl")[-1]["val/psnr"]
        say(f"{precision}: {found[precision]:.3f} dB after {steps} steps")
    return found


def train_apart(values: dict[str, Any], out: Path) -> None:
    """Trains a configuration in a process of its own, as the command does.

    Raises:
        InputError: it did not finish.
    """
    recipe = out.with_suffix(".yaml")
    recipe.write_text(json.dumps(values), encoding="utf-8")
    command = [sys.executable, "-m", "harness", "train", str(recipe), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(
            f"{recipe.name}: the measured run left with exit code {done.returncode}: {done.stderr.strip()}"
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
