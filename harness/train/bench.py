"""How fast a step is: the project's step in a recipe's settings against a plain one, on synthetic patches.

The plain reference is how SRGAN's students and BasicSR train: eager fp32 in NCHW, a forward pass of the generator for
each update, unfused Adam, every loss read back in every step.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.config import RunConfig
from harness.losses import adversarial
from harness.train.nets import Nets
from harness.train.phase import Patches, Phase
from harness.train.ranks import Ranks, make_fast
from harness.train.steps import train_step

if TYPE_CHECKING:
    from rich.table import Table

_BENCH_IMAGES = 4


@dataclass(frozen=True)
class StepFigure:
    """One phase of one recipe on this machine."""

    recipe: str
    phase: str
    batch_size: int
    device: str
    reference_patches_s: float
    patches_s: float
    gflop_per_patch: float
    achieved_tflops: float
    matrix_tflops: float
    """What a large matrix product in the recipe's precision reaches here."""
    peak_memory_mb: float
    loop_overhead: float
    """Share of the loop's time outside the step: reading, degrading, moving patches, bookkeeping."""

    @property
    def ratio(self) -> float:
        return self.patches_s / self.reference_patches_s


def run(
    recipes: dict[str, RunConfig], batch_size: int = 4, seconds: float = 3.0, say: Callable[[str], None] = print
) -> list[StepFigure]:
    """Measures the phases of each recipe, each recipe in a process of its own so that memory is its own.

    Args:
        recipes: configurations by name; their data is replaced by drawn patches, pretrained feature networks by random
            ones of the same shape.
        batch_size: patches a step; recipes' own batches need a GPU.
        seconds: time spent on each measurement.
    """
    figures = []
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        data = _draw_data(Path(folder), max(config.data.patch_px for config in recipes.values()))
        for name, config in recipes.items():
            say(f"{name} ...")
            values = prepared(config, data, batch_size)
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                figures += pool.apply(measure_recipe, (name, values, seconds, folder))
    return figures


def prepared(config: RunConfig, data: str, batch_size: int) -> dict[str, Any]:
    """The recipe's values with the bench's data and batch: what is computed in a step stays as it is."""
    values: dict[str, Any] = json.loads(config.model_dump_json())
    values |= {"trackers": [], "init_from": None, "init_discriminator_from": None}
    values["data"]["sources"] = [{"path": data}]
    for phase in values["phases"]:
        phase |= {"batch_size": batch_size, "sources": None, "accumulate": 1}
        for loss in phase["losses"]:
            if loss["name"] == "features":
                loss["weights"] = "random"
    if (values["discriminator"] or {}).get("weights") == "pretrained":
        values["discriminator"]["weights"] = "random"
    return values


def measure_recipe(name: str, values: dict[str, Any], seconds: float, folder: str) -> list[StepFigure]:
    """The figures of each distinct kind of phase (pixel, adversarial) of one recipe."""
    make_fast()
    config = RunConfig.model_validate(values)
    ranks = Ranks(config, folder)
    kinds: dict[bool, int] = {}
    for number, phase in enumerate(config.phases):
        kinds.setdefault(phase.adversarial is not None, number)
    try:
        return [measure_phase(name, config, number, ranks, seconds) for number in kinds.values()]
    finally:
        ranks.close()


def measure_phase(name: str, config: RunConfig, number: int, ranks: Ranks, seconds: float) -> StepFigure:
    phase = Phase(config, number, Nets(config, ranks), ranks)
    try:
        stream = phase.batches(phase.first_step)
        patches = phase.patches(next(stream))
        first = phase.first_step + phase.config.generator_every - 1
        with FlopCounterMode(display=False) as counter:
            train_step(phase, patches, first, log_norms=False)
        step_s = _seconds_per_call(lambda: train_step(phase, patches, first, log_norms=False), seconds, ranks.device)
        memory_mb = _peak_memory_mb(ranks.device)
        loop_s = _seconds_per_call(
            lambda: train_step(phase, phase.patches(next(stream)), first, log_norms=False), seconds, ranks.device
        )
        reference = PlainTraining(phase)
        reference_s = _seconds_per_call(lambda: reference.step(patches), seconds, ranks.device)
    finally:
        phase.close()
    flops, batch = counter.get_total_flops(), phase.config.batch_size
    return StepFigure(
        recipe=name,
        phase=phase.config.name,
        batch_size=batch,
        device=_device_name(ranks.device),
        reference_patches_s=batch / reference_s,
        patches_s=batch / step_s,
        gflop_per_patch=flops / batch / 1e9,
        achieved_tflops=flops / step_s / 1e12,
        matrix_tflops=matrix_rate(ranks.device, torch.bfloat16 if config.precision == "bf16" else torch.float32) / 1e12,
        peak_memory_mb=memory_mb,
        loop_overhead=max(0.0, 1.0 - step_s / loop_s),
    )


class PlainTraining:
    """The reference step, on networks of the same architecture."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._generator = phase.nets.generator.float().to(memory_format=torch.contiguous_format)
        self._generator_adam = _plain_adam(self._generator)
        self._discriminator = phase.nets.discriminator if phase.is_adversarial else None
        if self._discriminator is not None:
            self._discriminator = self._discriminator.float().to(memory_format=torch.contiguous_format)
            self._discriminator_adam = _plain_adam(self._discriminator)

    def step(self, patches: Patches) -> list[float]:
        lr_image, hr_image = patches.lr_image.contiguous(), patches.hr_image.contiguous()
        losses = [self._update_discriminator(lr_image, hr_image, patches.position)] if self._discriminator else []
        sr_image = self._generator(lr_image)
        terms = self._phase.losses(sr_image, hr_image)
        losses += [value.item() for value in terms.values()]
        total = sum(
            (self._phase.losses.weights[k] * v for k, v in terms.items()), torch.zeros((), device=lr_image.device)
        )
        if self._discriminator is not None and self._phase.config.adversarial is not None:
            game = self._phase.config.adversarial
            real_logits = self._discriminator(hr_image) if adversarial.needs_real_logits(game.form) else None
            term = adversarial.generator_loss(game.form, self._discriminator(sr_image), real_logits)
            losses.append(term.item())
            total = total + game.weight * term
        self._generator_adam.zero_grad()
        total.backward()
        self._generator_adam.step()
        return losses

    def _update_discriminator(self, lr_image: torch.Tensor, hr_image: torch.Tensor, position: torch.Tensor) -> float:
        game = self._phase.config.adversarial
        assert self._discriminator is not None and game is not None
        fake = self._phase.augment(self._generator(lr_image).detach(), position, "fake")
        real_logits = self._discriminator(self._phase.augment(hr_image, position, "real"))
        labels = [adversarial.labels(game, 0, position, side) for side in ("real", "fake")]
        loss = adversarial.discriminator_loss(game.form, real_logits, self._discriminator(fake), *labels)
        self._discriminator_adam.zero_grad()
        loss.backward()
        self._discriminator_adam.step()
        return loss.item()


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Operations a second of a square matrix product on random numbers."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _seconds_per_call(lambda: a @ b, 1.0, device)


def table_of(figures: Sequence[StepFigure]) -> Table:
    """The figures as a rich table."""
    from rich.table import Table

    table = Table(title=f"Training step on {figures[0].device}" if figures else "Training step")
    for title in ("recipe", "phase"):
        table.add_column(title)
    for title in (
        "batch",
        "plain patches/s",
        "patches/s",
        "ratio",
        "GFLOP/patch",
        "TFLOP/s",
        "of matrix rate",
        "MB",
        "loop",
    ):
        table.add_column(title, justify="right")
    for f in figures:
        table.add_row(
            f.recipe, f.phase, str(f.batch_size), f"{f.reference_patches_s:.2f}", f"{f.patches_s:.2f}",
            f"{f.ratio:.2f}x",
            f"{f.gflop_per_patch:.1f}", f"{f.achieved_tflops:.3f}", f"{f.achieved_tflops / f.matrix_tflops:.0%}",
            f"{f.peak_memory_mb:,.0f}", f"{f.loop_overhead:.1%}",
        )  # fmt: skip
    return table


def as_json(figures: Sequence[StepFigure]) -> list[dict[str, Any]]:
    return [{**asdict(figure), "ratio": figure.ratio} for figure in figures]


def _plain_adam(module: torch.nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=1e-4, foreach=False, fused=False)


def _seconds_per_call(call: Callable[[], Any], seconds: float, device: torch.device) -> float:
    """The median time of a call, after two to warm up."""
    times: list[float] = []
    for number in range(10_000):
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            times.append(time.perf_counter() - begin)
        if sum(times) > seconds and len(times) >= 3:
            break
    return sorted(times)[len(times) // 2]


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _draw_data(folder: Path, patch_px: int) -> str:
    from harness.data.pack import pack
    from harness.data.synth import write_dataset

    write_dataset(folder / "images", _BENCH_IMAGES, size_px=patch_px + 64)
    pack([folder / "images"], folder / "packed", tile_px=patch_px, val=1, test=1)
    return str(folder / "packed")
