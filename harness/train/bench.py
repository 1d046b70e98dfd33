"""How fast a step is: the project's step in a recipe's settings, against a plain one and against the device's floor."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.config import RunConfig
from harness.data.loader import Batch
from harness.train.floor import Floor, Rates, Work, measure_rates, seconds_per_call, seconds_per_calls, work_of
from harness.train.log import Meter
from harness.train.memory import read_peak, reset_peak
from harness.train.nets import Nets
from harness.train.patches import Patches
from harness.train.phase import Phase
from harness.train.plain import PlainTraining
from harness.train.ranks import Ranks, make_fast
from harness.train.steps import Scalars, train_step, update

if TYPE_CHECKING:
    from rich.table import Table

_BENCH_IMAGES = 4
_CPU_PIXELS = 4 * 128 * 128
"""HR pixels of a batch on a CPU, where the recipes' own batches take minutes; at least one patch."""


@dataclass(frozen=True)
class StepFigure:
    """One phase of one recipe on this machine."""

    recipe: str
    phase: str
    batch_size: int
    device: str
    plain_s: float
    """Seconds of the plain reference's step."""
    settings_s: float
    """The same step in bf16 and channels_last: what is got from the settings alone."""
    step_s: float
    loop_s: float
    """The loop's own work for a step on the host: reading, degrading, moving patches, summing what is logged."""
    work: Work
    rates: Rates
    floor: Floor
    peak_memory_mb: float

    @property
    def ratio(self) -> float:
        return self.plain_s / self.step_s

    @property
    def limit(self) -> float:
        """The ratio of a step that did the same operations at the whole matrix rate and nothing else."""
        return self.plain_s / self.floor.operations_s

    @property
    def of_floor(self) -> float:
        """The step's multiple of its floor."""
        return self.step_s / self.floor.seconds

    @property
    def loop_overhead(self) -> float:
        """Share of an iteration that is not the step."""
        return self.loop_s / (self.loop_s + self.step_s)


def run(
    recipes: dict[str, RunConfig],
    batch_size: int | None = None,
    seconds: float = 3.0,
    say: Callable[[str], None] = print,
) -> list[StepFigure]:
    """Measures the phases of each recipe, each recipe in a process of its own so that memory is its own.

    Args:
        recipes: configurations by name; their data is replaced by drawn patches, pretrained feature networks by random
            ones of the same shape.
        batch_size: patches a step; unless given the recipe's own on a GPU, and on a CPU about four of 128 px.
        seconds: time spent on each measurement, at the least.
    """
    figures = []
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        data = draw_data(Path(folder), max(config.data.patch_px for config in recipes.values()))
        for name, config in recipes.items():
            say(f"{name} ...")
            values = prepared(config, data, batch_size)
            rates = _apart(measure_rates_in, config.precision)
            figures += _apart(measure_recipe, name, values, rates, seconds, folder)
    return figures


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def prepared(config: RunConfig, data: str, batch_size: int | None) -> dict[str, Any]:
    """The recipe's values with the bench's data and batch: what is computed in a step stays as it is."""
    values: dict[str, Any] = json.loads(config.model_dump_json())
    values |= {"trackers": [], "init_from": None, "init_discriminator_from": None}
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
    return measure_rates(device, torch.bfloat16 if precision == "bf16" else torch.float32)


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
        stream = phase.batches(phase.first_step)
        patches = phase.patches(next(stream))
        step = phase.first_step + phase.config.generator_every - 1
        kind = phase.kind(step, log_norms=False)
        reset_peak(ranks.device)
        train_step(phase, patches, step, log_norms=False)
        peak_mb = read_peak(ranks.device) / 2**20
        phase.set_values(step)
        work = work_of(lambda: update(phase, patches, kind), ranks.device)
        plain, settings = (PlainTraining(phase, kind, bf16_nhwc) for bf16_nhwc in (False, True))
        own = Patches(patches.lr_image.clone(), patches.hr_image.clone(), patches.position.clone())
        calls: dict[str, Callable[[], Any]] = {
            "plain": lambda: plain.step(own),
            "settings": lambda: settings.step(own),
            "step": lambda: train_step(phase, patches, step, log_norms=False),
        }
        times = seconds_per_calls(calls, seconds, ranks.device)
        loop_s = _loop_s(phase, stream, lambda: train_step(phase, patches, step, log_norms=False), times["step"])
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
        work=work,
        rates=rates,
        floor=Floor.of(work, rates),
        peak_memory_mb=peak_mb,
    )


def _loop_s(phase: Phase, stream: Iterator[Batch], step: Callable[[], Scalars], step_s: float) -> float:
    """Seconds that an iteration of the loop takes beside its step.

    On a CPU what the loop does is timed by itself; on a GPU, where it happens while the device computes, whole
    iterations are timed and the step's own time is taken off.
    """
    meter, scalars, device = Meter(), step(), phase.noise_std.device

    def outside() -> None:
        phase.patches(next(stream))
        meter.add(scalars)

    def iteration() -> None:
        phase.patches(next(stream))
        meter.add(step())

    if device.type == "cuda":
        return max(0.0, seconds_per_call(iteration, 1.0, device) - step_s)
    return seconds_per_call(outside, 0.5, device)


def table_of(figures: Sequence[StepFigure]) -> Table:
    """The figures as a rich table."""
    from rich.table import Table

    table = Table(title=f"Training step on {figures[0].device}" if figures else "Training step")
    for title in ("recipe", "phase"):
        table.add_column(title)
    titles = ("batch", "plain /s", "settings", "ours /s", "ratio", "limit", "TFLOP/s", "of rate", "floor", "MB", "loop")
    for title in titles:
        table.add_column(title, justify="right")
    for f in figures:
        table.add_row(
            f.recipe, f.phase, str(f.batch_size), f"{f.batch_size / f.plain_s:.2f}",
            f"{f.plain_s / f.settings_s:.2f}x", f"{f.batch_size / f.step_s:.2f}", f"{f.ratio:.2f}x", f"{f.limit:.1f}x",
            f"{f.work.flops / f.step_s / 1e12:.3f}", f"{f.floor.operations_s / f.step_s:.0%}", _floor_text(f),
            f"{f.peak_memory_mb:,.0f}", f"{f.loop_overhead:.1%}",
        )  # fmt: skip
    table.caption = (
        "patches a second of the plain fp32 step, what bf16 and channels_last alone make of it, ours, ours to plain; "
        "limit: the ratio at the whole matrix rate; floor: the step's multiple of it and what it consists of"
    )
    return table


def _floor_text(figure: StepFigure) -> str:
    parts = {"matrix": figure.floor.operations_s, "bytes": figure.floor.bytes_s, "kernels": figure.floor.kernels_s or 0}
    return f"{figure.of_floor:.1f} {max(parts, key=lambda name: parts[name])}"


def rates_text(figure: StepFigure) -> str:
    """One line: what the device was measured to do."""
    rates = figure.rates
    kernel = f", shortest kernel {rates.shortest_kernel_s * 1e6:.2f} us" if rates.shortest_kernel_s else ""
    return (
        f"{figure.device}: matrix products {rates.matrix_flops_s / 1e12:.3f} TFLOP/s, "
        f"copies {rates.copy_bytes_s / 1e9:.1f} GB/s{kernel}"
    )


def as_json(figures: Sequence[StepFigure]) -> list[dict[str, Any]]:
    """The figures with what follows from them."""
    derived = ("ratio", "limit", "of_floor", "loop_overhead")
    return [{**asdict(figure), **{name: getattr(figure, name) for name in derived}} for figure in figures]


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
