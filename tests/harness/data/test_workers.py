"""Work that is shared among processes."""

from __future__ import annotations

import os
import signal

import pytest

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
