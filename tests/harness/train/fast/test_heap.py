"""Freed memory is kept, so that a step finds its pages in place."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from harness.train.fast.heap import keep_freed_memory
{keep}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    return torch.full((48 << 20,), 1, dtype=torch.uint8)
for _ in range(12):  # until no small block between the large ones is left to take
    work()
before = faults()
for _ in range(10):
    work()
print(faults() - before)
"""


def faults(keep: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_memory_that_is_freed_is_found_again_without_page_faults():
    assert faults("assert keep_freed_memory()") < 1000
    assert faults("") > 10 * 1000  # 10 x 48 MiB in pages of 4 KiB are 122,880
