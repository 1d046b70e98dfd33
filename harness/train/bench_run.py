"""Real runs, measured from outside: the hours that a recipe takes, and what bf16 costs in quality."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config import RunConfig
from harness.errors import InputError
from harness.train.bench import draw_data, prepared
from harness.train.fuse import is_long


@dataclass(frozen=True)
class PhaseRun:
    """A short real run of one phase, and what the whole phase would take at its pace."""

    recipe: str
    phase: str
    steps: int
    batch_size: int
    step_s: float
    """Seconds a step with all that a run does: reading, logging, validating, saving."""
    iterations: int

    @property
    def hours(self) -> float:
        return self.step_s * self.iterations / 3600


def measure_runs(name: str, config: RunConfig, steps: int, folder: Path, batch_size: int | None) -> list[PhaseRun]:
    """Trains `steps` steps of each phase of a recipe, with its own logging, validation and checkpoints.

    The data are drawn landscapes of the recipe's patch size and more, so that patches are cropped as from real tiles.
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
        train_apart(values, out)
        times = {row["event"]: row["time"] for row in _rows(out / "events.jsonl")}
        step_s = (times["done"] - times["first_step"]) / (steps - 1)
        size = values["phases"][0]["batch_size"]
        runs.append(PhaseRun(name, phase.name, steps, size, step_s, phase.iterations))
    return runs


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
