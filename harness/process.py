"""Processes: which one a pid means (pids come again, but not with the same start), and the cores that this one has.

Works without /proc and processor affinity, as on macOS.
"""

from __future__ import annotations

import os
from pathlib import Path


def num_usable_cores() -> int:
    """Cores that this process may use; not every system can tell those from all it has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks since the boot.

    None where there is none (or only a zombie); without /proc a pid is all there is, and the text is empty.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _start_without_proc(pid)
    fields = line.rpartition(")")[2].split()  # behind the program's name, which may hold anything
    return None if fields[0] in ("Z", "X") else fields[19]


def _start_without_proc(pid: int) -> str | None:
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
