"""A run whose numbers go wrong stops with a checkpoint from before, or goes back to it, as the recipe says."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.config import RunConfig
from harness.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SAVED
from harness.train import checkpoint, loop, run
from harness.train.checkpoint import newest_good
from harness.train.job import train_recipe


def short(recipe: dict[str, Any], **changes: Any) -> RunConfig:
    phases = [{**recipe["phases"][0], "iterations": 30}]
    return RunConfig.model_validate({**recipe, "phases": phases, "validation": {"max_images": 0}, **changes})


def poison(monkeypatch: pytest.MonkeyPatch, at_step: int, times: int) -> None:
    """A weight becomes NaN after `at_step`, the first `times` times that this step is trained."""
    real, left = loop.train_step, [times]

    def step(phase, patches, number, log_norms):
        scalars = real(phase, patches, number, log_norms)
        if number == at_step and left[0]:
            left[0] -= 1
            with torch.no_grad():
                next(phase.nets.generator.parameters()).fill_(float("nan"))
        return scalars

    monkeypatch.setattr(loop, "train_step", step)


def stops_at(number: int) -> Any:
    """A step that is asked to stop once."""
    real, asked = loop.train_step, []

    def step(phase, patches, now, log_norms):
        if now == number and not asked:
            asked.append(now)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(phase, patches, now, log_norms)

    return step


def events(out: Path, name: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == name]


def test_a_non_finite_weight_stops_the_run_and_is_never_saved(recipe, tmp_path, monkeypatch, capfd):
    poison(monkeypatch, at_step=17, times=1)
    out = tmp_path / "run"
    assert train_recipe(short(recipe), out) == EXIT_FAILURE
    assert "newest checkpoint is step_000000010" in capfd.readouterr().err
    assert json.loads((out / "status.json").read_text())["state"] == "failed"
    good = newest_good(out / "checkpoints")
    assert good is not None and good.name == "step_000000010"
    weights = safetensors.torch.load_file(good / "generator.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_weight_that_breaks_just_before_a_save_is_not_saved(recipe, tmp_path, monkeypatch):
    poison(monkeypatch, at_step=19, times=1)  # step 20 is saved, and its loss was still finite
    assert train_recipe(short(recipe), tmp_path / "run") == EXIT_FAILURE
    assert newest_good(tmp_path / "run" / "checkpoints").name == "step_000000010"


def test_rolling_back_goes_on_from_the_checkpoint_before_at_half_the_rate(recipe, tmp_path, monkeypatch):
    poison(monkeypatch, at_step=17, times=2)
    out = tmp_path / "run"
    assert train_recipe(short(recipe, watch={"on_non_finite": "rollback"}), out) == EXIT_DONE
    assert len(events(out, "rollback")) == 2
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert rows[9]["learning_rate/generator"] == pytest.approx(1e-3)
    assert rows[10]["learning_rate/generator"] == pytest.approx(0.25e-3)


def test_rolling_back_over_the_beginning_of_a_phase_trains_the_phase_before_again(recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"
    first = {**recipe["phases"][0], "iterations": 4}
    recipe = {**recipe, "phases": [first, {**first, "name": "second"}], "checkpoint": {"every": 2, "min_every": 1}}
    changes = {"validation": {"max_images": 0}, "watch": {"on_non_finite": "rollback"}}
    poison(monkeypatch, at_step=4, times=1)

    def read_newest(folder, on_bad=None):
        (folder / "step_000000004" / "manifest.json").unlink(missing_ok=True)
        return checkpoint.read_newest(folder, on_bad)

    monkeypatch.setattr(run, "read_newest", read_newest)
    assert train_recipe(RunConfig.model_validate({**recipe, **changes}), out) == EXIT_DONE
    assert [event["step"] for event in events(out, "checkpoint")] == [2, 4, 4, 6, 8]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["phase"] for row in rows] == ["pretrain"] * 4 + ["second"] * 4


def test_rolling_back_ends_after_the_allowed_times(recipe, tmp_path, monkeypatch):
    poison(monkeypatch, at_step=17, times=99)
    watch = {"on_non_finite": "rollback", "max_rollbacks": 2}
    assert train_recipe(short(recipe, watch=watch), tmp_path / "run") == EXIT_FAILURE
    assert len(events(tmp_path / "run", "rollback")) == 2


def test_a_kill_after_a_roll_back_does_not_make_it_forgotten(recipe, tmp_path, monkeypatch):
    """Else a run that always diverges could be killed and go back for ever."""
    real, out = loop.train_step, tmp_path / "run"

    class Killed(BaseException):
        pass

    def step(phase, patches, number, log_norms):
        if number == 12 and events(out, "rollback"):
            raise Killed
        return real(phase, patches, number, log_norms)

    poison(monkeypatch, at_step=17, times=99)
    poisoned = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *args: (step if args[2] == 12 else poisoned)(*args))
    config = short(recipe, watch={"on_non_finite": "rollback", "max_rollbacks": 2})
    for _ in range(2):  # the second time before anything could be saved
        with pytest.raises(Killed):
            train_recipe(config, out)
    monkeypatch.setattr(loop, "train_step", poisoned)
    assert train_recipe(config, out) == EXIT_FAILURE
    assert len(events(out, "rollback")) == 2
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[9]["learning_rate/generator"] == pytest.approx(1e-3)
    assert rows[10]["learning_rate/generator"] == pytest.approx(0.25e-3)


def test_what_was_noted_of_another_checkpoint_changes_no_rate(recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    (out / "status.json").write_text(json.dumps({"rolled_back": {"step": 10, "count": 3}}))
    monkeypatch.setattr(loop, "train_step", stops_at(15))
    assert train_recipe(short(recipe), out) == EXIT_SAVED
    for path in (out / "checkpoints").glob("step_*15"):
        shutil.rmtree(path)
    assert train_recipe(short(recipe), out) == EXIT_DONE
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {row["learning_rate/generator"] for row in rows} == {1e-3}


def test_tensorboard_shows_each_step_once_after_a_roll_back(recipe, tmp_path, monkeypatch):
    poison(monkeypatch, at_step=17, times=1)
    config = short(recipe, watch={"on_non_finite": "rollback"}, trackers=["tensorboard"])
    assert train_recipe(config, tmp_path / "run") == EXIT_DONE
    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "tiny")).Reload().Scalars("learning_rate/generator")
    assert [point.step for point in shown] == list(range(1, 31))
    assert [point.value for point in shown[9:11]] == pytest.approx([1e-3, 0.5e-3])


def test_a_real_divergence_is_noticed(recipe, tmp_path, capfd):
    config = short(recipe, generator={"name": "srresnet", "num_blocks": 1, "num_channels": 8})
    phase = config.phases[0].model_copy(
        update={"generator_optimizer": config.phases[0].generator_optimizer.model_copy(update={"learning_rate": 1e25})}
    )
    assert train_recipe(config.model_copy(update={"phases": (phase,)}), tmp_path / "run") == EXIT_FAILURE
    assert "no longer finite" in (said := capfd.readouterr().err) or "became" in said


def test_collapsed_images_stop_the_run(recipe, tmp_path, capfd):
    assert train_recipe(short(recipe, watch={"collapsed_range": 100.0}), tmp_path / "run") == EXIT_FAILURE
    assert "have collapsed" in capfd.readouterr().err


def test_a_discriminator_that_is_always_right_stops_the_run(recipe, tmp_path, monkeypatch, capfd):
    real = loop.train_step

    def always_right(phase, patches, number, log_norms):
        return real(phase, patches, number, log_norms) | {"d/accuracy": torch.tensor(1.0)}

    monkeypatch.setattr(loop, "train_step", always_right)
    config = short(recipe, watch={"perfect_discriminator_steps": 10})
    assert train_recipe(config, tmp_path / "run") == EXIT_FAILURE
    said = capfd.readouterr().err
    assert "step 11: the discriminator was right about every image for 10 steps" in said
    assert newest_good(tmp_path / "run" / "checkpoints") is not None
    # As early in a run that was interrupted on the way.
    monkeypatch.setattr(loop, "train_step", stops_at(5))
    assert train_recipe(config, tmp_path / "stopped") == EXIT_SAVED
    assert train_recipe(config, tmp_path / "stopped") == EXIT_FAILURE
    assert capfd.readouterr().err == said


def test_wrong_input_leaves_no_folder_that_would_refuse_the_mended_run(recipe, tmp_path):
    """A patch larger than the tiles is noticed only once the data is open."""
    wrong = short({**recipe, "data": {**recipe["data"], "patch_px": 64}}, discriminator=None)
    assert train_recipe(wrong, tmp_path / "new") == 2
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    assert train_recipe(wrong, tmp_path / "there") == 2
    assert train_recipe(short(recipe), tmp_path / "there") == EXIT_DONE
    assert (tmp_path / "there" / "notes.txt").read_text() == "mine"
