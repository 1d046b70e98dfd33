"""How long a run takes to its first step, how long a checkpoint holds it up, and how soon it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.config import load_run_config
from sweeps.config import RECIPES

_SAVE_EVERY = 6
"""Steps: a checkpoint is written before the next is due, as in every real run."""


def measure_resume(folder: Path) -> list[tuple[str, float, float]]:
    """(what, seconds, bar) of starting anew, of a checkpoint, of a stop signal and of starting from a checkpoint."""
    from harness.data.pack import pack
    from harness.data.synth import write_dataset

    write_dataset(folder / "images", 6, size_px=192)
    pack([folder / "images"], folder / "data", tile_px=144, val=1, test=1)
    config = load_run_config(RECIPES / "superaugan-ffhq.yaml")
    values = json.loads(config.model_dump_json())
    values["data"]["sources"] = [{"path": str(folder / "data")}]
    values |= {"validation": {"max_images": 0}, "checkpoint": {"every": _SAVE_EVERY}, "log_every": 1}
    for phase in values["phases"]:
        phase |= {"batch_size": 2, "sources": None}
    values["phases"] = [{**values["phases"][-1], "iterations": 1000}]
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(values), encoding="utf-8")
    first_s, stop_s, saves = _start_and_stop(recipe, folder / "run")
    again_s, stop_again_s, more = _start_and_stop(recipe, folder / "run")
    blocked, blocked_cpu = (sorted(e[key] for e in (*saves, *more)) for key in ("blocked_s", "blocked_cpu_s"))
    return [
        ("process start to the end of the first step", first_s, 8.0),
        ("the same from a checkpoint", again_s, 8.0),
        ("a checkpoint holds the loop up (median)", blocked[len(blocked) // 2], 0.05),
        ("a checkpoint holds the loop up (longest)", blocked[-1], 0.05),
        ("the same in processor time (longest)", blocked_cpu[-1], 0.05),
        ("stop signal to exit, saved", max(stop_s, stop_again_s), 5.0),
    ]


def _start_and_stop(recipe: Path, out: Path) -> tuple[float, float, list[dict[str, Any]]]:
    """Seconds to the first step, seconds from a signal to the exit, and the checkpoints written before the signal."""
    begin = time.time()
    known = len(_events(out))
    with open(os.devnull, "wb") as nothing:
        command = [sys.executable, "-m", "harness", "train", str(recipe), "--out", str(out)]
        process = subprocess.Popen(command, stdout=nothing)
    while len(_saves(out, known)) < 3 and process.poll() is None:
        time.sleep(0.05)
    saves, asked = _saves(out, known), time.time()
    process.send_signal(signal.SIGTERM)
    process.wait()
    stopped_s = time.time() - asked
    first = next(event["time"] for event in _events(out)[known:] if event["event"] == "first_step")
    return first - begin, stopped_s, saves


def _saves(out: Path, known: int) -> list[dict[str, Any]]:
    return [event for event in _events(out)[known:] if event["event"] == "checkpoint"]


def _events(out: Path) -> list[dict[str, Any]]:
    try:
        text = (out / "events.jsonl").read_text(encoding="utf-8")
    except OSError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
