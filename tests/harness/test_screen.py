"""Commands show what they have to say whatever the terminal, the pipe or the environment is like."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from harness.screen import prepare_streams


def run(words: str, shell: str = "", **environment: str | None) -> subprocess.CompletedProcess[bytes]:
    """Runs a command through a shell, which `shell` tells where its streams go; None takes a variable away."""
    changed = {**os.environ, **environment}
    command = f'"{sys.executable}" -m harness {words} {shell}'
    kept = {name: value for name, value in changed.items() if value is not None}
    return subprocess.run(["sh", "-c", command], env=kept, capture_output=True, check=False)


def test_columns_that_are_no_width_count_as_none() -> None:
    wide = run("weights list", COLUMNS="200").stdout
    for columns in ("", "0", "wide", "-3", None):
        done = run("weights list", COLUMNS=columns)
        assert done.returncode == 0 and not done.stderr
        assert "Pretrained networks" in done.stdout.decode()
        assert done.stdout != wide


@pytest.mark.parametrize("shell", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_stream_is_no_failure(shell: str) -> None:
    done = run("weights list", shell)
    assert done.returncode == 0 and not done.stderr
    assert run("weights list nonsense", shell).returncode == 2


def test_letters_that_the_terminal_lacks_become_question_marks(tmp_path) -> None:
    folder = tmp_path / "señal"
    done = run("weights list", PYTHONIOENCODING="latin-1", HARNESS_WEIGHTS=str(folder))
    assert done.returncode == 0 and str(folder).encode("latin-1") in done.stdout
    done = run("weights list", PYTHONIOENCODING="ascii", HARNESS_WEIGHTS=str(folder))
    assert done.returncode == 0 and b"se?al" in done.stdout


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the second is Python's in the locale C
def test_letters_of_files_that_the_terminal_lacks_become_question_marks(monkeypatch, errors: str) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii", errors))
    prepare_streams()
    sys.stdout.write("straße")
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"stra?e"
