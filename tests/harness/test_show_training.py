"""What `harness train` shows while it trains."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

from rich.console import Console

from harness.show_training import shown_training

RUNNING = {"phase": "pretrain", "step": 1200, "total_steps": 3000, "steps_per_s": 15.0}


def shown(out: Path, terminal: bool, statuses: list[dict[str, object]]) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    with shown_training(console, out):
        for status in statuses:
            (out / "status.json").write_text(json.dumps(status))
            time.sleep(1.2)  # more than a look at the file takes
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_shows_phase_step_speed_and_time_left_in_80_columns(tmp_path: Path) -> None:
    text = shown(tmp_path, True, [RUNNING])
    assert "pretrain" in text
    assert "1,200 / 3,000 · 15.0 steps/s · 2 min left" in text


def test_a_log_gets_whole_lines_and_no_bar(tmp_path: Path) -> None:
    text = shown(tmp_path, False, [RUNNING, {**RUNNING, "step": 1201}])
    assert text == "pretrain: 1,200 / 3,000 · 15.0 steps/s · 2 min left\n"


def test_the_status_of_an_earlier_start_is_not_shown_as_the_present_one(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(RUNNING))
    assert shown(tmp_path, False, [RUNNING]) == ""


def test_a_half_written_or_foreign_file_does_not_end_the_training(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"phase": "pre')
    assert shown(tmp_path, False, [RUNNING]).startswith("pretrain")


def test_the_end_of_a_training_is_not_held_up(tmp_path: Path) -> None:
    console, began = Console(file=io.StringIO()), time.monotonic()
    with shown_training(console, tmp_path):
        pass
    assert time.monotonic() - began < 5  # half a second until its next look; it waits for ten at most
