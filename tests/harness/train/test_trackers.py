"""Weights & Biases, reached through Accelerate, with a package in its place that writes down what it is told."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EXIT_DONE, EXIT_WRONG_INPUT
from harness.train import job

FAKE = """
import json, os
def _note(**row):
    with open(os.environ["FAKE_WANDB"], "a") as file:
        file.write(json.dumps(row) + chr(10))
class Run:
    def log(self, values, step=None, **kwargs):
        _note(call="log", step=step, names=sorted(values))
    def finish(self):
        _note(call="finish")
def init(**kwargs):
    if "FAKE_WANDB_FAILS" in os.environ:
        raise RuntimeError("api_key not configured")
    _note(call="init", **kwargs)
    return Run()
"""


def short(recipe: dict[str, Any]) -> dict[str, Any]:
    phases = [{**recipe["phases"][0], "iterations": 5}]
    validation = {"every": 2, "max_images": 1}
    return {**recipe, "phases": phases, "validation": validation, "log_every": 2, "trackers": ["wandb"]}


@pytest.fixture
def wandb(tmp_path, monkeypatch) -> Path:
    """A package called wandb for the runs that are started; returns the file in which it notes its calls."""
    packages, notes = tmp_path / "packages", tmp_path / "notes.jsonl"
    (packages / "wandb-1.0.dist-info").mkdir(parents=True)
    (packages / "wandb-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: wandb\nVersion: 1.0\n")
    (packages / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("FAKE_WANDB", str(notes))
    return notes


def test_weights_and_biases_gets_every_row_and_the_same_run_after_a_resume(launcher, recipe, tmp_path, wandb):
    run_file = launcher.run_file(short(recipe), tmp_path / "run")
    assert launcher.finish(run_file, forked=False) == [EXIT_DONE]
    assert launcher.finish(run_file, forked=False) == [EXIT_DONE]
    calls = [json.loads(line) for line in wandb.read_text().splitlines()]
    begins = [call for call in calls if call["call"] == "init"]
    assert len(begins) == 2 and begins[0] == begins[1]
    assert begins[0]["project"] == "tiny" and begins[0]["resume"] == "allow" and begins[0]["id"]
    logs = [call for call in calls if call["call"] == "log"]
    assert [call["step"] for call in logs] == [2, 4, 5], "the last step of a phase has a row and scores, too"
    assert all({"loss/l1", "val/psnr"} <= set(call["names"]) for call in logs)
    assert calls[-1]["call"] == "finish"


def test_a_tracker_that_cannot_be_opened_is_one_sentence(launcher, recipe, tmp_path, wandb, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_WANDB_FAILS", "1")
    assert launcher.finish(launcher.run_file(short(recipe), tmp_path / "run"), forked=False) == [EXIT_WRONG_INPUT]
    said = capfd.readouterr().err
    assert "trackers: wandb cannot be opened (api_key not configured)" in said and "Traceback" not in said


def test_a_tracker_that_is_not_installed_is_told_and_not_left_out(launcher, recipe, tmp_path, capsys):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed here")
    assert job.main(launcher.run_file(short(recipe), tmp_path / "run")) == EXIT_WRONG_INPUT
    assert "trackers: 'wandb' is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
