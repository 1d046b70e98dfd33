"""What a process can have of its machine, also where the system does not tell as Linux does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import memory
from harness.process import num_usable_cores


def test_cores_are_those_that_the_process_may_use() -> None:
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cores)})
    try:
        assert num_usable_cores() == 1
    finally:
        os.sched_setaffinity(0, all_cores)
    assert num_usable_cores() == len(all_cores)


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert num_usable_cores() == os.cpu_count()


def test_where_the_kernel_does_not_tell_free_memory_all_of_the_machine_counts(tmp_path: Path) -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    total_bytes = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:")) * 1024
    assert memory._available_on_host(tmp_path / "absent") == pytest.approx(total_bytes, rel=0.05)
    assert 0 < memory._available_on_host() < total_bytes
