"""Exact resume: however a run is interrupted, it ends with bitwise the weights of an uninterrupted one."""

from __future__ import annotations

import json
import math
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.config import RunConfig
from harness.data.pack import pack
from harness.errors import EXIT_DONE, EXIT_SAVED, EXIT_WRONG_INPUT, CheckpointError
from harness.train import cadence, job, version
from harness.train.checkpoint import checkpoint_folders, read_manifest, verify
from harness.train.ranks import Ranks
from harness.train.run import Run, Stretch
from harness.train.stop import StopFlag

TOTAL_STEPS = 60


def rows(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def logged_steps(out: Path) -> int:
    """Steps in metrics.jsonl, counted while it is being written."""
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def interrupt_after(processes: list[Any], out: Path, step: int, number: int, victim: int) -> list[int]:
    """Sends a signal to one rank as soon as `step` is logged; returns all exit codes."""
    deadline = time.monotonic() + 120
    while logged_steps(out) < step and time.monotonic() < deadline and processes[victim].poll() is None:
        time.sleep(0.002)
    processes[victim].send_signal(number)
    return [process.wait(timeout=60) for process in processes]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_resumed_run_equals_uninterrupted_run(launcher, recipe, tmp_path, num_ranks):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launcher.finish(launcher.run_file(recipe, whole), num_ranks) == [EXIT_DONE] * num_ranks
    run_file = launcher.run_file(recipe, broken)
    source = random.Random(num_ranks)
    stops = [(signal.SIGTERM, source.randint(3, 20)), (signal.SIGKILL, source.randint(25, 55))]
    for number, step in stops:
        codes = interrupt_after(launcher.start(run_file, num_ranks), broken, step, number, source.randrange(num_ranks))
        if number == signal.SIGTERM:
            assert codes == [EXIT_SAVED] * num_ranks
            assert json.loads((broken / "status.json").read_text())["state"] == "saved"
        else:
            assert EXIT_DONE not in codes
    assert launcher.finish(run_file, num_ranks) == [EXIT_DONE] * num_ranks

    for name in ("generator.safetensors", f"checkpoints/step_{TOTAL_STEPS:09d}/discriminator.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert [row["step"] for row in rows(broken)] == list(range(1, TOTAL_STEPS + 1))
    assert rows(broken) == rows(whole)


def test_work_lost_on_a_stop_signal_is_zero_steps(launcher, recipe, tmp_path):
    run_file = launcher.run_file(recipe, tmp_path / "run")
    codes = interrupt_after(launcher.start(run_file), tmp_path / "run", 12, signal.SIGUSR2, 0)
    assert codes == [EXIT_SAVED]
    steps = [row["step"] for row in rows(tmp_path / "run")]
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))[-1]
    assert newest.name == f"step_{steps[-1]:09d}"


@pytest.mark.parametrize(("writing_share", "expected"), [(math.inf, 2), (1e-9, 12)])
def test_a_run_that_was_often_interrupted_saves_as_often_as_it_may(
    recipe, tmp_path, monkeypatch, writing_share, expected
):
    """In ten steps it knows what a save costs; a stop has come every microsecond."""
    monkeypatch.setattr(cadence, "_WRITING_SHARE", writing_share)
    out = tmp_path / "run"
    out.mkdir()
    earlier = [{"event": "start", "time": 0.0}, {"event": "stop", "time": 1e-6}]
    (out / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in earlier))
    short = {**recipe, "phases": [{**recipe["phases"][0], "iterations": 14}], "validation": {"max_images": 0}}
    short["checkpoint"] = {"every": 12, "min_every": 2}
    assert job.train_recipe(RunConfig.model_validate(short), out) == EXIT_DONE
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    saves = [event["step"] for event in events if event["event"] == "checkpoint"]
    assert (saves[0], saves[-1]) == (10, 14)
    assert json.loads((out / "status.json").read_text())["save_every"] == expected


def test_phases_trained_apart_equal_one_run(launcher, recipe, tmp_path):
    whole, first, second = tmp_path / "whole", tmp_path / "first", tmp_path / "second"
    assert job.main(launcher.run_file(recipe, whole)) == EXIT_DONE
    assert job.main(launcher.run_file(recipe, first, phase=0)) == EXIT_DONE
    assert job.main(launcher.run_file(recipe, second, phase=1, parent=str(first))) == EXIT_DONE
    assert (second / "generator.safetensors").read_bytes() == (whole / "generator.safetensors").read_bytes()
    assert rows(first) + rows(second) == rows(whole)


def test_run_tells_every_version_of_the_code_that_trained_it(launcher, recipe, tmp_path, monkeypatch, capsys):
    phases = [{**recipe["phases"][0], "name": name, "iterations": 1} for name in ("one", "two")]
    short = {**recipe, "phases": phases, "validation": {"every": 9, "max_images": 0}}
    first, second = tmp_path / "first", tmp_path / "second"
    assert job.main(launcher.run_file(short, first, phase=0)) == EXIT_DONE
    assert "versions of the code" not in capsys.readouterr().out
    edited = {**version.versions(), "code": "0123456789ab"}
    monkeypatch.setattr("harness.train.run.versions", lambda: edited)
    assert job.main(launcher.run_file(short, second, phase=1, parent=str(first))) == EXIT_DONE
    both = [version.told(version.versions()), version.told(edited)]
    manifest = read_manifest(checkpoint_folders(second / "checkpoints")[0])
    assert manifest["trained_by"] == both == json.loads((second / "status.json").read_text())["trained_by"]
    assert f"note: trained by several versions of the code: {both[0]}; {both[1]}\n" in capsys.readouterr().out


def test_phase_before_without_a_checkpoint_is_told_with_what_trains_it_again(launcher, recipe, tmp_path, capsys):
    (tmp_path / "first").mkdir()
    run_file = launcher.run_file(recipe, tmp_path / "second", phase=1, parent=str(tmp_path / "first"))
    assert job.main(run_file) == EXIT_WRONG_INPUT
    said = capsys.readouterr().err
    assert f"{tmp_path / 'first'}: holds no good checkpoint" in said and "harness sweep --retry-failed" in said


def test_a_run_never_begins_anew_over_what_it_has_trained(config, tmp_path):
    ranks = Ranks(config, str(tmp_path))
    try:
        run = Run(Stretch(config, tmp_path, 0, 1, None), ranks, StopFlag())
        torn = tmp_path / "checkpoints" / "step_000000010"
        torn.mkdir(parents=True)
        with pytest.raises(CheckpointError, match="holds no checkpoint that training can go on from"):
            run.restore()
        torn.rmdir()
        (tmp_path / "generator.safetensors").touch()
        with pytest.raises(CheckpointError, match="this run has ended, and its checkpoints are gone"):
            run.restore()
        (tmp_path / "generator.safetensors").unlink()
        run.restore()
    finally:
        ranks.close()


def test_edited_file_is_another_version_of_the_code(tmp_path):
    (tmp_path / "model.py").write_text("width = 64\n")
    before = version.code_of(tmp_path)
    assert version.code_of(tmp_path) == before
    (tmp_path / "model.py").write_text("width = 96\n")
    assert version.code_of(tmp_path) != before


def test_continuing_with_another_configuration_is_refused(launcher, recipe, tmp_path, capsys):
    assert job.main(launcher.run_file(recipe, tmp_path / "run", phase=0)) == EXIT_DONE
    another, harmless = {**recipe, "seed": 1}, {**recipe, "log_every": 7}
    assert job.main(launcher.run_file(another, tmp_path / "run", phase=0)) == EXIT_WRONG_INPUT
    assert "seed: 0 -> 1" in capsys.readouterr().err
    assert job.main(launcher.run_file(harmless, tmp_path / "run", phase=0)) == EXIT_DONE


def test_a_phase_on_the_same_sources_is_refused_other_data_than_the_one_before_had(launcher, recipe, tmp_path, capsys):
    """Where data lies may change; what it holds is looked at also where a phase has no checkpoint of its own yet."""
    for name in ("hill", "lake"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            Image.effect_noise((64, 64), 10 + i).convert("RGB").save(tmp_path / "images" / name / f"{i}.png")
    pack([tmp_path / "images"], tmp_path / "other", tile_px=48, workers=1)
    other = {**recipe, "data": {**recipe["data"], "sources": [{"path": str(tmp_path / "other")}]}}
    assert job.main(launcher.run_file(recipe, tmp_path / "run", phase=0)) == EXIT_DONE
    assert job.main(launcher.run_file(other, tmp_path / "run")) == EXIT_WRONG_INPUT
    assert "was trained on other data than lie under the sources now" in capsys.readouterr().err
    own = {**recipe, "phases": [recipe["phases"][0], {**recipe["phases"][1], "sources": other["data"]["sources"]}]}
    parent = str(tmp_path / "run")
    assert job.main(launcher.run_file(own, tmp_path / "own", phase=1, parent=parent)) == EXIT_DONE


def kill_at_random(process: Any, out: Path, source: random.Random) -> None:
    """SIGKILL within the next ten steps, or for one in five at any moment of the start; it must not end before."""
    reached = logged_steps(out)
    step = reached + source.randint(1, 10)
    deadline = time.monotonic() + (source.uniform(0.0, 5.0) if source.random() < 0.2 else 120)
    while logged_steps(out) < step and time.monotonic() < deadline:
        assert process.poll() is None, f"left by itself at step {logged_steps(out)}, with {process.returncode}"
        time.sleep(0.002)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_fifty_random_kills_corrupt_nothing(launcher, recipe, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    # Long enough that the kills, some of which fall some steps late, do not reach the end.
    phases = [{**phase, "iterations": 400} for phase in recipe["phases"]]
    long = {**recipe, "checkpoint": {"every": 3}, "phases": phases}
    assert launcher.finish(launcher.run_file(long, whole)) == [EXIT_DONE]
    run_file = launcher.run_file(long, broken)
    source = random.Random(0)
    for _ in range(50):
        kill_at_random(launcher.start(run_file, forked=False)[0], broken, source)
        for checkpoint in checkpoint_folders(broken / "checkpoints"):
            verify(checkpoint)
    assert launcher.finish(run_file) == [EXIT_DONE]
    assert (broken / "generator.safetensors").read_bytes() == (whole / "generator.safetensors").read_bytes()
    assert [row["step"] for row in rows(broken)] == list(range(1, 801))
    assert rows(broken) == rows(whole)
