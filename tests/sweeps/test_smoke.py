"""`make smoke` says what became of each recipe as soon as it is known."""

from __future__ import annotations

import io
import json
import time
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from harness import show_training
from harness.alone import alone_in
from harness.errors import InputError
from sweeps import smoke
from sweeps.smoke import SmokeResult, run_smoke


def test_each_recipe_is_told_when_it_is_through_and_a_failed_one_decides_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    told_before = []

    def train(name: str, out: Path) -> SmokeResult:
        told_before.append(screen.getvalue().count(" dB ") + screen.getvalue().count("exit code"))
        return SmokeResult(name, 1000, 10, 61.4, 1 if name == "esrgan" else 0, 25.031, 6.0, 23.872)

    monkeypatch.setattr(smoke, "train_smoke", train)
    monkeypatch.setattr(smoke, "make_embedded", lambda console: None)
    assert run_smoke(["srgan", "esrgan", "esrdgan"], tmp_path, Console(file=screen, width=120)) == 1
    assert told_before == [0, 1, 2]
    assert "srgan: 23.87 dB (bicubic 25.03) after 61 s" in screen.getvalue()
    assert "esrgan: left with exit code 1 after 61 s" in screen.getvalue()
    assert run_smoke(["srgan"], tmp_path, Console(file=screen)) == 0


def test_how_a_recipe_gets_on_is_shown_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def train(name: str, out: Path) -> SmokeResult:
        out.mkdir()
        status = {"phase": "pretrain", "step": 12, "total_steps": 30, "steps_per_s": 2.0}
        (out / "status.json").write_text(json.dumps(status))
        for _ in range(200):
            if "pretrain" not in screen.getvalue():
                time.sleep(0.01)
        return SmokeResult(name, 1000, 30, 15, 0, 25.031, 6.0, 23.872)

    monkeypatch.setattr(smoke, "train_smoke", train)
    monkeypatch.setattr(smoke, "make_embedded", lambda console: None)
    monkeypatch.setattr(show_training, "_POLL_S", 0.01)
    run_smoke(["srgan"], tmp_path, Console(file=screen, width=120))
    assert "pretrain: 12 / 30 · 2.0 steps/s · 9 s left" in screen.getvalue()


def test_a_second_command_does_not_clear_the_folder_of_a_running_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "alone_in", partial(alone_in, patience_s=0))
    (tmp_path / "srgan").mkdir()
    with alone_in(tmp_path), pytest.raises(InputError, match="another process is at work there"):
        run_smoke(["srgan"], tmp_path, Console(file=io.StringIO()))
    assert (tmp_path / "srgan").exists()
