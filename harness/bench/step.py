"""How fast a step is: the project's step in a recipe's settings, against a plain one and against the device's floor."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from harness.bench.floor import Floor, Rates, measure_rates, seconds_per_call, seconds_per_calls, work_of
from harness.bench.plain import PlainTraining
from harness.bench.step_table import StepFigure
from harness.config import RunConfig
from harness.precision import has_bf16
from harness.train.fast.fuse import as_written
from harness.train.log import Meter, RunLog
from harness.train.memory import read_peak, reset_peak
from harness.train.nets import Nets
from harness.train.patches import Patches
from harness.train.phase import Phase
from harness.train.ranks import Ranks, make_fast
from harness.train.steps import Scalars, train_step, update

_BENCH_IMAGES = 4
_CPU_PIXELS = 4 * 128 * 128
"""HR pixels of a batch on a CPU, where the recipes' own batches take minutes; at least one patch."""


def run(
    recipes: dict[str, RunConfig],
    batch_size: int | None = None,
    seconds: float | None = None,
    say: Callable[[str], None] = print,
) -> list[StepFigure]:
    """Measures the phases of each recipe, each recipe in a process of its own so that memory is its own.

    Args:
        recipes: configurations by name; their data is replaced by drawn patches, pretrained feature networks by random
            ones of the same shape.
        batch_size: patches a step; unless given the recipe's own on a GPU, and on a CPU about four of 128 px.
        seconds: time spent on each measurement, at the least; unless given 3 on a CPU, 1 on a GPU, which is steadier.
    """
    seconds = seconds or (1.0 if torch.cuda.is_available() else 3.0)
    figures = []
    rates: dict[str, Rates] = {}
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        data = draw_data(Path(folder), max(config.data.patch_px for config in recipes.values()))
        for name, config in recipes.items():
            say(f"{name} ...")
            values = prepared(config, data, batch_size)
            if config.precision not in rates:
                rates[config.precision] = _apart(measure_rates_in, config.precision)
            found = _apart(measure_recipe, name, values, rates[config.precision], seconds, folder)
            for f in found:  # at once, for who does not wait for the table
                say(f"{name}, {f.phase}: {f.step_s * 1e3:.3g} ms a step, {f.ratio:.2f} times the plain one")
            figures += found
    return figures


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def prepared(config: RunConfig, data: str, batch_size: int | None) -> dict[str, Any]:
    """The recipe's values with the bench's data and batch: what is computed in a step stays as it is."""
    values: dict[str, Any] = json.loads(config.model_dump_json())
    values |= {"trackers": ["tensorboard"], "init_from": None, "init_discriminator_from": None}
    values["data"]["sources"] = [{"path": data}]
    for phase in values["phases"]:
        phase |= {"batch_size": batch_size or _batch_for(config, phase["batch_size"])}
        phase |= {"sources": None, "accumulate": 1}
        for loss in phase["losses"]:
            if loss["name"] == "features":
                loss["weights"] = "random"
    if (values["discriminator"] or {}).get("weights") == "pretrained":
        values["discriminator"]["weights"] = "random"
    return values


def _batch_for(config: RunConfig, own: int) -> int:
    if torch.cuda.is_available():
        return own
    return max(1, min(own, _CPU_PIXELS // config.data.patch_px**2))


def measure_rates_in(precision: str) -> Rates:
    """What this device does in a precision."""
    make_fast()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return measure_rates(device, torch.bfloat16 if precision == "bf16" and has_bf16(device) else torch.float32)


def measure_recipe(name: str, values: dict[str, Any], rates: Rates, seconds: float, folder: str) -> list[StepFigure]:
    """The figures of each distinct kind of phase (pixel, adversarial) of one recipe."""
    make_fast()
    config = RunConfig.model_validate(values)
    ranks = Ranks(config, folder)
    kinds: dict[bool, int] = {}
    for number, phase in enumerate(config.phases):
        kinds.setdefault(phase.adversarial is not None, number)
    try:
        return [measure_phase(name, config, number, ranks, rates, seconds) for number in kinds.values()]
    finally:
        ranks.close()


def measure_phase(name: str, config: RunConfig, number: int, ranks: Ranks, rates: Rates, seconds: float) -> StepFigure:
    """One phase; the step is one that updates both networks."""
    phase = Phase(config, number, Nets(config, ranks), ranks)
    try:
        stream = phase.patches(phase.first_step)
        patches = next(stream)
        step = phase.first_step + phase.config.generator_every - 1
        kind = phase.kind(step, log_norms=False)
        reset_peak(ranks.device)
        train_step(phase, patches, step, log_norms=False)
        peak_mb = read_peak(ranks.device) / 2**20
        phase.set_values(step)
        plain, settings = (PlainTraining(phase, kind, bf16_nhwc) for bf16_nhwc in (False, True))
        own = Patches(patches.lr_image.clone(), patches.hr_image.clone(), patches.position.clone())
        calls: dict[str, Callable[[], Any]] = {
            "plain": lambda: _as_written(phase, lambda: plain.step(own)),
            "settings": lambda: _as_written(phase, lambda: settings.step(own)),
            "step": lambda: train_step(phase, patches, step, log_norms=False),
        }
        work = work_of(lambda: _as_written(phase, lambda: update(phase, patches, kind)), calls["step"], ranks.device)
        times = seconds_per_calls(calls, seconds, ranks.device)
        loop_s = _loop_s(phase, stream, calls["step"])
        log_s = _log_s(config, phase, ranks, train_step(phase, patches, step, log_norms=True))
    finally:
        phase.close()
    return StepFigure(
        recipe=name,
        phase=phase.config.name,
        batch_size=phase.config.batch_size,
        device=_device_name(ranks.device),
        plain_s=times["plain"],
        settings_s=times["settings"],
        step_s=times["step"],
        loop_s=loop_s,
        log_s=log_s,
        log_every=config.log_every,
        work=work,
        rates=rates,
        floor=Floor.of(work, rates),
        peak_memory_mb=peak_mb,
    )


def _as_written(phase: Phase, call: Callable[[], Any]) -> Any:
    """What a call gives with the phase as it was before the compiler had its parts."""
    judges_together, phase.judges_together = phase.judges_together, False
    try:
        with as_written():
            return call()
    finally:
        phase.judges_together = judges_together


def _loop_s(phase: Phase, stream: Iterator[Patches], step: Callable[[], Scalars]) -> float:
    """Seconds that an iteration of the loop takes beside its step.

    On a CPU what the loop does is timed by itself; on a GPU, where it happens while the device computes, whole
    iterations are timed in turns with steps alone, since the clocks of a GPU follow what it has just done.
    """
    meter, scalars, device = Meter(), step(), phase.noise_std.device

    def outside() -> None:
        next(stream)
        meter.add(scalars)

    def iteration() -> None:
        next(stream)
        meter.add(step())

    if device.type == "cuda":
        times = seconds_per_calls({"step": step, "iteration": iteration}, 1.0, device)
        return max(0.0, times["iteration"] - times["step"])
    return seconds_per_call(outside, 0.5, device)


def _log_s(config: RunConfig, phase: Phase, ranks: Ranks, scalars: Scalars) -> float:
    meter, log = Meter(), RunLog(Path(ranks.accelerator.project_dir), ranks)
    log.start_trackers(0, config)

    def row() -> None:
        meter.add(scalars)
        log.metrics(1, phase.config.name, meter.fetch(ranks))
        log.status(state="running", step=1)

    return seconds_per_call(row, 0.3, ranks.device)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def draw_data(folder: Path, patch_px: int) -> str:
    """A small packed dataset of drawn landscapes, larger than the patches."""
    from harness.data.pack import pack
    from harness.data.synth import write_dataset

    write_dataset(folder / "images", _BENCH_IMAGES, size_px=patch_px + 64)
    pack([folder / "images"], folder / "packed", tile_px=patch_px, val=1, test=1)
    return str(folder / "packed")
