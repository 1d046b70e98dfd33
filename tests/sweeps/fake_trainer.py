"""A trainer that takes a moment: writes what a real one writes, and fails or dies where the test says so."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml

from harness.process import process_start
from sweeps.layout import read_json


def main(run_file: str) -> int:
    values = yaml.safe_load(Path(run_file).read_text())
    out, number = Path(values["out"]), values["phase"]
    phase = values["config"]["phases"][number]
    first = sum(before["iterations"] for before in values["config"]["phases"][:number])
    assert number == 0 or (Path(values["parent"]) / "generator.safetensors").exists(), "the parent is not finished"
    with (out / "starts.txt").open("a") as file:
        file.write(f"{time.time()}\n")
    plans = json.loads(os.environ.get("FAKE_TRAINER", "{}"))
    plan = plans.get(f"{phase['name']}-{phase['iterations']}", plans.get(phase["name"], ""))
    process = {"pid": os.getpid(), "pid_started": process_start(os.getpid()), "host": os.uname().nodename}
    status = {**process, "starts": 1, "updated": time.time(), "step": first}
    if plan == "fail":
        _write(out, {**status, "state": "failed", "error": "TrainingError: the loss is not finite"})
        return 1
    if plan == "die":
        _write(out, {**status, "state": "running", "steps_per_s": 10.0})
        os.kill(os.getpid(), signal.SIGKILL)
    if plan == "killed":
        print("a warning of some library", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if plan == "refuse":
        print("error: no such data", file=sys.stderr)
        return 2
    if plan == "leave":
        return 2
    _write(out, {**status, "state": "running", "steps_per_s": 10.0})
    time.sleep(float(plan or 0))
    (out / "generator.safetensors").write_bytes(b"weights")
    _write(out, {**status, "state": "done", "step": first + phase["iterations"], "val_psnr": 30.0})
    return 0


def _write(out: Path, status: dict[str, object]) -> None:
    temporary = out / ".status"
    temporary.write_text(json.dumps(status))
    temporary.replace(out / "status.json")


def evaluate(sweep_folder: str) -> int:
    """An evaluation that notes which models it found finished."""
    folder = Path(sweep_folder)
    found = [
        (read_json(model / "status.json") or {}).get("state", "missing")
        for model in sorted((folder / "models").iterdir())
    ]
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "evaluated.txt").write_text(" ".join(found))
    return 0
