"""How much memory there is, and how much a network takes for each pixel that goes in."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

_PROBE_PX = 32


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: the GPU's, or the host's within the limits of the control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_available_on_host(), _left_in_control_group())


def _available_on_host() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/meminfo has no MemAvailable")


def _left_in_control_group(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """What the limits of this process's control groups (version 2, as SLURM sets them) leave; huge without any."""
    left = 1 << 62
    try:
        own = next(line[3:] for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return left
    group = root / own.lstrip("/")
    while group.is_relative_to(root):
        try:
            limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        except OSError:
            limit, used = "max", "0"
        if limit != "max":
            left = min(left, max(0, int(limit) - int(used)))
        group = group.parent
    return left


class _LiveBytes(TorchDispatchMode):
    """Follows how many bytes of tensors, made while it is on, are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._note(value.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._seen:
            self._seen.add(address)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, address, storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self.live -= size
        self._seen.discard(address)


def peak_bytes_per_pixel(module: nn.Module, device: torch.device, align_px: int = 1) -> float:
    """Most bytes of tensors alive at once per input pixel (float32 input of 3 channels), tried on a small image."""
    edge = -(-_PROBE_PX // align_px) * align_px
    image_BCHW = torch.zeros(1, 3, edge, edge, device=device)
    with _LiveBytes() as follower:
        module(image_BCHW)
    return follower.peak / edge**2
