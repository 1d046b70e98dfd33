"""The figures of a step, and the table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.bench.floor import Floor, Rates, Work

if TYPE_CHECKING:
    from rich.table import Table


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
    log_s: float
    """One row of metrics: read back, written, given to the trackers, status.json brought up to date."""
    log_every: int
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

    @property
    def logging(self) -> float:
        """Share of the time that logging takes."""
        return self.log_s / (self.log_every * self.step_s)


def table_of(figures: Sequence[StepFigure]) -> Table:
    """The figures as a rich table."""
    from rich.table import Table

    table = Table(title=f"Training step on {figures[0].device}" if figures else "Training step")
    for title in ("recipe", "phase"):
        table.add_column(title)
    titles = (
        "batch",
        "plain /s",
        "settings",
        "ours /s",
        "ratio",
        "limit",
        "TFLOP/s",
        "of rate",
        "floor",
        "MB",
        "loop",
        "logs",
    )
    for title in titles:
        table.add_column(title, justify="right")
    for f in figures:
        table.add_row(
            f.recipe, f.phase, str(f.batch_size), f"{f.batch_size / f.plain_s:.2f}",
            f"{f.plain_s / f.settings_s:.2f}x", f"{f.batch_size / f.step_s:.2f}", f"{f.ratio:.2f}x", f"{f.limit:.1f}x",
            f"{f.work.flops / f.step_s / 1e12:.3f}", f"{f.floor.operations_s / f.step_s:.0%}", _floor_text(f),
            f"{f.peak_memory_mb:,.0f}", f"{f.loop_overhead:.1%}", f"{f.logging:.2%}",
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
    derived = ("ratio", "limit", "of_floor", "loop_overhead", "logging")
    return [{**asdict(figure), **{name: getattr(figure, name) for name in derived}} for figure in figures]
