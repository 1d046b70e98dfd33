"""Several commands on one runs folder at once: each phase is trained once, and every command ends well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.scores.table import ScoreTable

pytestmark = pytest.mark.slow


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, words)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HARNESS_RUNS": "runs"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in out + err, out + err
    return process.returncode, out + err


@pytest.fixture
def sweep_file(tmp_path: Path, recipe: Path) -> Path:
    base = json.loads(recipe.read_text())
    base["phases"] = [{**base["phases"][0], "name": name, "iterations": 100} for name in ("first", "second")]
    values = {
        "name": "both",
        "base": base,
        "axes": [{"name": "seed", "key": "seed", "values": [0, 1]}],
        "evaluate": {"metrics": ["mse"], "baselines": ["bicubic"]},
    }
    path = tmp_path / "both.yaml"
    path.write_text(json.dumps(values))
    return path


def test_two_sweeps_status_and_evaluations_share_one_folder(tmp_path: Path, sweep_file: Path) -> None:
    sweeps = [start(tmp_path, "sweep", sweep_file, "--cluster", "local") for _ in range(2)]
    looks = []
    while any(sweep.poll() is None for sweep in sweeps):
        looks.append(ended(start(tmp_path, "status")))
    assert [ended(sweep)[0] for sweep in sweeps] == [0, 0]
    assert {code for code, _ in looks} <= {0, 2} and looks[-1][0] == 0, looks
    assert all(code == 0 or "holds no sweep" in said for code, said in looks)
    check_each_trained_once(tmp_path / "runs")

    before = ScoreTable.load(tmp_path / "runs" / "both" / "report").images
    again = [start(tmp_path, name) for name in ("evaluate", "evaluate", "report")]
    assert [ended(command)[0] for command in again] == [0, 0, 0]
    assert ScoreTable.load(tmp_path / "runs" / "both" / "report").images.equals(before)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.name.endswith((".part", ".tmp"))]


def check_each_trained_once(runs: Path) -> None:
    phases = list((runs / "phases").iterdir())
    assert len(phases) == 4
    for phase in phases:
        events = [json.loads(line)["event"] for line in (phase / "events.jsonl").read_text().splitlines()]
        assert events.count("start") == 1 and events.count("done") == 1
        steps = [json.loads(line)["step"] for line in (phase / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps))
