"""How much memory can still be had. Imports no torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: the GPU's, or the host's."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return free_host_bytes()


def free_host_bytes() -> int:
    """Memory of this machine that can still be had, within the limits of the control group."""
    return min(_available_on_host(), _left_in_control_group())


def _available_on_host(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What the kernel estimates; all that the machine has where it does not tell, as on macOS."""
    with contextlib.suppress(OSError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_control_group(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """What the limits of this process's control groups (version 2, as SLURM sets them) leave; huge without any.

    Pages of files that were read count as used there; the kernel gives them up before it refuses memory.
    """
    left = 1 << 62
    try:
        own = next(line[3:] for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return left
    group = root / own.lstrip("/")
    while group.is_relative_to(root):
        try:
            limit = (group / "memory.max").read_text().strip()
            used = int((group / "memory.current").read_text()) - _file_pages(group / "memory.stat")
        except OSError:
            limit, used = "max", 0
        if limit != "max":
            left = min(left, max(0, int(limit) - used))
        group = group.parent
    return left


def _file_pages(stat: Path) -> int:
    """Bytes of a control group that hold what was read from files."""
    rows = dict(line.split() for line in stat.read_text().splitlines())
    return int(rows.get("inactive_file", 0)) + int(rows.get("active_file", 0))
