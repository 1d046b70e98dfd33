"""The least time that a step can take on a device: its operations, its bytes and its kernels at the measured rates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.bench.kernels import Kernel, kernels_of


@dataclass(frozen=True)
class Rates:
    """What a device was measured to do."""

    matrix_flops_s: float
    """Operations a second of a large square matrix product in the recipe's precision."""
    copy_bytes_s: float
    """Bytes a second, read and written, of a copy much larger than any cache."""
    shortest_kernel_s: float | None
    """From the start of a kernel that does nothing to the start of the next, in a recorded graph; None on a CPU."""


@dataclass(frozen=True)
class Work:
    """What a step consists of."""

    flops: float
    """Multiplications and additions of convolutions and matrix products (torch's FlopCounterMode)."""
    moved_bytes: float
    """See `MovedBytes`."""
    kernels: tuple[Kernel, ...] | None
    """What the device runs; None on a CPU."""

    @property
    def num_kernels(self) -> float:
        return sum(kernel.num_calls for kernel in self.kernels or ())


@dataclass(frozen=True)
class Floor:
    """Seconds below which a step cannot be, for three reasons; the largest is the floor."""

    operations_s: float
    bytes_s: float
    kernels_s: float | None

    @property
    def seconds(self) -> float:
        return max(self.operations_s, self.bytes_s, self.kernels_s or 0.0)

    @classmethod
    def of(cls, work: Work, rates: Rates) -> Floor:
        kernels_s = None
        if work.kernels is not None and rates.shortest_kernel_s is not None:
            kernels_s = work.num_kernels * rates.shortest_kernel_s
        return cls(work.flops / rates.matrix_flops_s, work.moved_bytes / rates.copy_bytes_s, kernels_s)


class MovedBytes(TorchDispatchMode):
    """Counts the bytes that operations read and write.

    Every aten operation counts the tensors that it takes and those that it returns, each storage once per operation
    and no more of it than the tensor spans; views and allocations move nothing. So it is what an eager step moves
    if nothing stays in a cache between two operations: fusing operations can go below it, a cache as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not (function.is_view or str(function.name()) in _ALLOCATIONS):
            sizes: dict[int, int] = {}
            for value in tree_leaves((args, kwargs, result)):
                if isinstance(value, torch.Tensor):
                    sizes[value.data_ptr()] = value.numel() * value.element_size()
            self.total += sum(sizes.values())
        return result


_ALLOCATIONS = {"aten::empty.memory_format", "aten::empty_like", "aten::empty_strided", "aten::detach"}


def work_of(eager_step: Callable[[], Any], step: Callable[[], Any], device: torch.device) -> Work:
    """Counts what one call of an eager step computes and moves, and the kernels of the step that trains."""
    eager_step()
    with FlopCounterMode(display=False) as flops, MovedBytes() as moved:
        eager_step()
    return Work(flops.get_total_flops(), moved.total, kernels_of(step) if device.type == "cuda" else None)


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    kernel_s = _shortest_kernel_s(device) if device.type == "cuda" else None
    return Rates(matrix_rate(device, dtype), copy_rate(device), kernel_s)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product on random numbers."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds_per_call(lambda: a @ b, 1.0, device)


def copy_rate(device: torch.device) -> float:
    """Bytes a second, read plus written, of copying 512 MB (a gigabyte is moved)."""
    source = torch.zeros(128 * 2**20, device=device)
    target = torch.zeros_like(source)
    return 2 * source.numel() * 4 / seconds_per_call(lambda: target.copy_(source), 1.0, device)


def seconds_per_call(call: Callable[[], Any], seconds: float, device: torch.device) -> float:
    """The shortest time of a call in about `seconds`; see `seconds_per_calls`."""
    return seconds_per_calls({"": call}, seconds, device)[""]


def seconds_per_calls(calls: dict[str, Callable[[], Any]], seconds: float, device: torch.device) -> dict[str, float]:
    """The shortest time of each call, after one to warm up, in turns until each had its `seconds` (at least 3 turns).

    In turns, so that a slow minute of the machine hits all alike; the shortest, since other work on the machine only
    ever adds. A process that computes in one thread on a CPU is measured in its processor time, which leaves out the
    time that it was not let run. On a GPU short calls are timed ten at a time, by its own clock and behind another
    call: as in a run, what the host does beforehand counts only where the device waits for it.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    groups = {name: _group_of(call, device) for name, call in calls.items()}
    while any(sum(spent) < seconds or len(spent) < 3 for spent in times.values()):
        for name, call in calls.items():
            times[name].append(_seconds_of(call, groups[name], device))
    return {name: min(spent) / groups[name] for name, spent in times.items()}


def _seconds_of(call: Callable[[], Any], count: int, device: torch.device) -> float:
    if device.type == "cuda":
        return _seconds_on_gpu(call, count)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    for _ in range(count):
        call()
    return clock() - begin


def _seconds_on_gpu(call: Callable[[], Any], count: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _group_of(call: Callable[[], Any], device: torch.device, enough_s: float = 0.1) -> int:
    """How many calls are timed at once, after one call to warm up."""
    call()
    finish(device)
    if device.type == "cpu":
        return 1
    begin = time.perf_counter()
    call()
    finish(device)
    return max(1, min(10, int(enough_s / (time.perf_counter() - begin))))


def finish(device: torch.device) -> None:
    """Waits until a device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _shortest_kernel_s(device: torch.device, count: int = 1000) -> float:
    value = torch.zeros(1, device=device)
    graph = torch.cuda.CUDAGraph()
    value.add_(1)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(count):
            value.add_(1)
    return seconds_per_call(graph.replay, 0.2, device) / count
