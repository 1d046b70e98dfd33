"""Weights to start from are the ones that a reader of the recipe expects, or there are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from harness.errors import EXIT_DONE, CheckpointError
from harness.train import job
from harness.train.checkpoint import newest_good, step_folder
from harness.train.start import load_generator, read_start_weights


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    """A run of 12 steps with checkpoints of steps 10 and 12."""
    out = tmp_path_factory.mktemp("finished") / "run"
    phases = [{**recipe["phases"][1], "iterations": 12}]
    config = {**recipe, "phases": phases, "validation": {"max_images": 0}}
    (out.parent / "run.yaml").write_text(json.dumps({"config": config, "out": str(out)}))
    assert job.main(str(out.parent / "run.yaml")) == EXIT_DONE
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of it whose newest checkpoint is damaged in a file that holds no weights."""
    shutil.copytree(finished, tmp_path / "run")
    state = step_folder(tmp_path / "run" / "checkpoints", 12) / "training_state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    return tmp_path / "run"


def equal(one: dict[str, torch.Tensor], file: Path) -> bool:
    other = safetensors.torch.load_file(file)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_run_gives_the_weights_that_it_exported(run):
    assert equal(read_start_weights(run), run / "generator.safetensors")
    assert equal(load_generator(run)[0].state_dict(), run / "generator.safetensors")


def test_a_run_exports_its_averaged_generator(finished):
    exported, end = (
        safetensors.torch.load_file(finished / "generator.safetensors"),
        step_folder(finished / "checkpoints", 12),
    )
    assert equal(exported, end / "generator_ema.safetensors") and not equal(exported, end / "generator.safetensors")


def test_a_fallback_to_the_checkpoint_before_is_told(run, capsys):
    folder = step_folder(run / "checkpoints", 10)
    assert equal(read_start_weights(run, "discriminator"), folder / "discriminator.safetensors")
    (run / "generator.safetensors").unlink()
    assert equal(read_start_weights(run), folder / "generator_ema.safetensors")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("step_000000012/training_state.pt" in line for line in said)
    assert all(line.startswith("warning: ") and line.endswith("The one before is used.") for line in said)


def test_a_checkpoint_without_its_manifest_gives_no_weights(run):
    folder = step_folder(run / "checkpoints", 10)
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="is no export of this project"):
        read_start_weights(folder)


def test_the_oldest_checkpoint_is_not_said_to_have_one_before(run):
    (step_folder(run / "checkpoints", 10) / "manifest.json").unlink()
    said: list[str] = []
    assert newest_good(run / "checkpoints", said.append) is None
    assert said[0].endswith("The one before is used.") and said[1].endswith("There is none before it.")
