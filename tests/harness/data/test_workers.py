"""Work that is shared among processes, and what becomes of it where one is killed or the disk is full."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.data.pack import pack
from harness.data.workers import pool
from harness.errors import TrainingError


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize(("workers", "chunk"), [(1, 3), (2, 1), (2, 3)])
def test_each_item_is_done_once_however_they_are_handed_over(workers, chunk):
    with pool(workers) as run:
        assert sorted(run(abs, list(range(-10, 0)), chunk=chunk)) == list(range(1, 11))


def test_a_killed_worker_is_one_sentence_and_a_failure():
    killed = r"a worker was killed \(out of memory\?\); run it again with fewer"
    with pytest.raises(TrainingError, match=killed), pool(2) as run:
        list(run(die_at_three, [1, 2, 3, 4]))


def tell_and_wait(_: int) -> None:
    print(os.getpid(), flush=True)
    time.sleep(600)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_in_workers() -> None:
    with pool(2) as run:
        list(run(tell_and_wait, [1, 2]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(number):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_workers as t; t.wait_in_workers()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(number)
    assert parent.wait(30) == -number
    until = time.monotonic() + 30
    while any(map(is_alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    left = [pid for pid in workers if is_alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk on which no file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_pack_on_a_full_disk_names_the_file_and_goes_on_once_there_is_room(image_folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OSError, match=re.escape(f"{out}/.building/train-000000-0000.part")), files_of_at_most(100_000):
        pack([image_folder], out, tile_px=40, workers=1)
    pack([image_folder], out, tile_px=40, workers=1)
    pack([image_folder], tmp_path / "whole", tile_px=40, workers=1)
    assert _contents(out) == _contents(tmp_path / "whole")


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
