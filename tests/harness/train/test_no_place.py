"""A run whose folder or data are taken away ends in one sentence and as a failure, told wherever that is possible."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.config import RunConfig
from harness.errors import EXIT_DONE, EXIT_FAILURE, EXIT_WRONG_INPUT, TrainingError, UnreachableError
from harness.train import loop, validate, writer
from harness.train.job import train_recipe
from harness.train.log import RunLog


def short(recipe: dict[str, Any], max_images: int) -> RunConfig:
    """Ten steps, and a validation at their end."""
    phases = [{**recipe["phases"][0], "iterations": 10}]
    validation = {"every": 10, "max_images": max_images, "sample_images": 1}
    return RunConfig.model_validate({**recipe, "phases": phases, "validation": validation})


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, then: Any) -> None:
    """Calls `then` before a step is trained."""
    real = loop.train_step

    def step(phase, patches, now, log_norms):
        if now == number:
            then()
        return real(phase, patches, now, log_norms)

    monkeypatch.setattr(loop, "train_step", step)


def fails(code: int, of: str) -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code), of)

    return fail


@pytest.mark.parametrize("name", ["samples/step_000000010.png", "status.json", "generator.safetensors"])
def test_what_can_no_longer_be_written_is_a_failure_and_no_wrong_input(recipe, tmp_path, monkeypatch, capfd, name):
    out = tmp_path / "run"

    def take_away() -> None:
        (out / name).unlink(missing_ok=True)
        (out / name).mkdir(parents=True)

    at_step(monkeypatch, 5, take_away)
    assert train_recipe(short(recipe, max_images=1), out) == EXIT_FAILURE
    said = capfd.readouterr().err
    assert said.startswith("error: no longer possible: ") and f"{name}: cannot be written" in said
    assert said.count("\n") == 1
    if name != "status.json":
        status = json.loads((out / "status.json").read_text())
        assert status["state"] == "failed" and status["error"].startswith("TrainingError: no longer possible")


def test_what_could_never_be_written_is_wrong_input(recipe, tmp_path, capfd):
    (tmp_path / "run" / "status.json").mkdir(parents=True)
    assert train_recipe(short(recipe, max_images=0), tmp_path / "run") == EXIT_WRONG_INPUT
    assert "name another place" in capfd.readouterr().err


def test_data_that_can_no_longer_be_had_are_a_failure_and_no_wrong_input(recipe, tmp_path, monkeypatch, capfd):
    def cut_off() -> None:
        raise UnreachableError("s3://bucket/shard.tar: cannot be fetched; check the URL and network.")

    at_step(monkeypatch, 5, cut_off)
    assert train_recipe(short(recipe, max_images=0), tmp_path / "run") == EXIT_FAILURE
    assert capfd.readouterr().err.startswith("error: s3://bucket/shard.tar: cannot be fetched")


def test_a_reason_is_told_although_the_run_can_no_longer_note_it(recipe, tmp_path, monkeypatch, capfd):
    def diverge() -> None:
        raise TrainingError("the loss became nan")

    at_step(monkeypatch, 5, diverge)
    real = RunLog.event

    def event(log, name, step, **facts):
        if name == "failed":
            fails(errno.ENOSPC, "events.jsonl")()
        real(log, name, step, **facts)

    monkeypatch.setattr(RunLog, "event", event)
    assert train_recipe(short(recipe, max_images=0), tmp_path / "run") == EXIT_FAILURE
    assert "became nan" in capfd.readouterr().err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EPERM, errno.EIO, errno.ESTALE])
def test_a_full_or_broken_disk_is_one_sentence(recipe, tmp_path: Path, monkeypatch, capfd, code):
    monkeypatch.setattr(validate, "_write_strips", fails(code, "samples/a.png"))
    assert train_recipe(short(recipe, max_images=1), tmp_path / "run") == EXIT_FAILURE
    assert capfd.readouterr().err == f"error: samples/a.png: {os.strerror(code)}; free space or mend its rights.\n"


@pytest.mark.parametrize("is_stopped", [False, True], ids=["ended", "stopped"])
def test_a_run_whose_last_checkpoint_is_not_on_the_disk_has_failed(recipe, tmp_path, monkeypatch, capfd, is_stopped):
    if is_stopped:
        at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(writer, "write_checkpoint", fails(errno.ENOSPC, "weights"))
    assert train_recipe(short(recipe, max_images=0), tmp_path / "run") == EXIT_FAILURE
    assert f"the checkpoint of step {6 if is_stopped else 10} could not be written" in capfd.readouterr().err
    assert not (tmp_path / "run" / "generator.safetensors").exists()


def test_a_checkpoint_that_could_not_be_written_is_told_and_the_run_goes_on(recipe, tmp_path, monkeypatch, capfd):
    real, failing = writer.write_checkpoint, [fails(errno.ENOSPC, "weights")]
    monkeypatch.setattr(writer, "write_checkpoint", lambda *args: (failing.pop() if failing else real)(*args))
    config = short({**recipe, "checkpoint": {"every": 5}}, max_images=0)
    assert train_recipe(config, tmp_path / "run") == EXIT_DONE
    assert "warning: a checkpoint could not be written" in capfd.readouterr().out


def test_a_checkpoint_that_cannot_be_noted_is_no_error_of_its_thread(recipe, tmp_path, monkeypatch):
    real, died = RunLog.event, []

    def event(log, name, step, **facts):
        if name == "checkpoint":
            fails(errno.ENOSPC, "events.jsonl")()
        real(log, name, step, **facts)

    monkeypatch.setattr(RunLog, "event", event)
    monkeypatch.setattr(threading, "excepthook", died.append)
    assert train_recipe(short(recipe, max_images=0), tmp_path / "run") == 0
    assert died == []


def test_a_machine_without_room_for_a_thread_is_one_sentence(recipe, tmp_path, monkeypatch, capfd):
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "checkpoint":
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert train_recipe(short(recipe, max_images=0), tmp_path / "run") == EXIT_FAILURE
    said = capfd.readouterr().err
    assert said == "error: out of memory (can't start new thread); free some of it, or use a machine with more.\n"
