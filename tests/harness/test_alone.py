"""One process a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.alone import alone_in
from harness.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from harness.alone import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(
    holder: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="another process is at work there"), alone_in(tmp_path, patience_s=0.2):
        pytest.fail("two processes in one folder")
    holder.kill()
    with alone_in(tmp_path):
        pass


def test_a_process_waits_for_one_that_is_leaving(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        begin = time.monotonic()
        with pytest.raises(InputError), alone_in(tmp_path, patience_s=0.5):
            pytest.fail("two processes in one folder")
        assert time.monotonic() - begin >= 0.5
    with alone_in(tmp_path, patience_s=0):
        pass


def test_other_folders_are_free(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with alone_in(tmp_path / "a"), alone_in(tmp_path / "b", patience_s=0):
        pass


def test_without_locks_nobody_is_kept_out_and_the_user_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with alone_in(tmp_path), alone_in(tmp_path, patience_s=0):
        assert f"note: {tmp_path}: cannot be locked (" in capsys.readouterr().err
