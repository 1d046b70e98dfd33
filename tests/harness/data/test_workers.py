"""Work that is shared among processes, and what becomes of it where one is killed or the disk is full."""

from __future__ import annotations

import os
import re
import resource
import signal
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
