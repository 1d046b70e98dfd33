"""What a GPU does in a step: its kernels by name, how many, and how long they take together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from rich.table import Table

_STEPS = 3
_SHOWN = 12


@dataclass(frozen=True)
class Kernel:
    """A kernel's calls in one step."""

    name: str
    num_calls: float
    """A mean over steps."""
    seconds: float
    """Of all calls together."""


def kernels_of(step: Callable[[], Any]) -> tuple[Kernel, ...]:
    """The kernels of a step on an NVIDIA GPU, those of its graph too, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(_STEPS):
            step()
        torch.cuda.synchronize()
    on_device = torch.autograd.DeviceType.CUDA
    return summed(
        (
            (event.name, event.time_range.elapsed_us())
            for event in seen.events() or ()
            if event.device_type == on_device
        ),
        _STEPS,
    )


def summed(calls: Iterable[tuple[str, float]], num_steps: int) -> tuple[Kernel, ...]:
    """(name, microseconds) of each call in so many steps, by name."""
    times: dict[str, list[float]] = {}
    for name, elapsed_us in calls:
        times.setdefault(name, []).append(elapsed_us)
    kernels = [Kernel(name, len(each) / num_steps, sum(each) / num_steps * 1e-6) for name, each in times.items()]
    return tuple(sorted(kernels, key=lambda kernel: -kernel.seconds))


def table_of(title: str, kernels: Sequence[Kernel]) -> Table:
    """The longest kernels as a rich table."""
    from rich.table import Table

    total_s = sum(kernel.seconds for kernel in kernels)
    table = Table("kernel", title=title)
    for heading in ("calls", "us", "of all"):
        table.add_column(heading, justify="right")
    for kernel in kernels[:_SHOWN]:
        share = kernel.seconds / total_s
        table.add_row(kernel.name[:100], f"{kernel.num_calls:g}", f"{kernel.seconds * 1e6:,.0f}", f"{share:.0%}")
    return table
