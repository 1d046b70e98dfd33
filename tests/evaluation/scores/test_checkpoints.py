"""Which weights a run means: the final ones, a fallback that is said, or a reason why there are none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.config import EvaluateConfig
from evaluation.model import Model
from evaluation.scores.checkpoints import find_weights
from evaluation.scores.collect import evaluate
from evaluation.scores.roster import model_of
from harness.config import RunConfig, dump_yaml
from harness.data.pack import pack
from harness.errors import CheckpointError, InputError
from harness.models.build import build_generator
from harness.train.checkpoint import Snapshot, write_checkpoint, write_weights


def run_config(dataset: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "data": {"sources": [{"path": dataset}], "patch_px": 32},
            "generator": {"name": "srresnet", "num_blocks": 1, "num_channels": 8, "start_as_skip": False},
            "phases": [
                {
                    "name": "pixel",
                    "iterations": 20,
                    "batch_size": 4,
                    "losses": [{"name": "l1"}],
                    "generator_optimizer": {"learning_rate": 1e-4},
                }
            ],
        }
    )


def weights(config: RunConfig, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_generator(config.generator, config.scale).state_dict()


def write_run(folder: Path, dataset: str, state: str, steps: tuple[int, ...]) -> Path:
    """A run's folder as training leaves it; each checkpoint has weights of its own."""
    config = run_config(dataset)
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "status.json").write_text(json.dumps({"state": state, "step": max(steps), "total_steps": 20}))
    facts: dict[str, Any] = {"phase": 0, "config": config.model_dump(mode="json"), "dataset_fingerprint": "x"}
    for step in steps:
        named = {"generator": weights(config, step), "generator_ema": weights(config, step + 100)}
        write_checkpoint(folder / "checkpoints", Snapshot(step, named, {}, facts))
    if state == "done":
        metadata = {"harness": json.dumps({"config": config.model_dump(mode="json")})}
        write_weights(folder / "generator.safetensors", weights(config, max(steps) + 100), metadata)
    return folder


@pytest.fixture(scope="module")
def packed(write_images, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "photos" / "calm", 5, 3.0)
    pack([folder / "photos"], folder / "packed", codec="npy", tile_px=32, test=2, val=0, seed=0)
    return str(folder / "packed")


def test_a_finished_run_is_its_final_weights(tmp_path: Path, packed: str) -> None:
    run = write_run(tmp_path / "run", packed, "done", (10, 20))
    found = find_weights(Model("net", "checkpoint", str(run)), latest=False)
    expected = hashlib.sha256((run / "generator.safetensors").read_bytes()).hexdigest()
    assert (found.path, found.sha256) == (run, expected)
    assert not found.notes


def test_an_unfinished_run_is_refused_unless_its_newest_checkpoint_is_asked_for(tmp_path: Path, packed: str) -> None:
    model = Model("net", "checkpoint", str(write_run(tmp_path / "run", packed, "running", (10, 20))))
    with pytest.raises(CheckpointError, match=r"not finished \(running at step 20 of 20\).*evaluate\.latest"):
        find_weights(model, latest=False)
    found = find_weights(model, latest=True)
    assert found.path.name == "step_000000020" and "newest checkpoint is used" in found.notes[0]


def test_a_torn_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path, packed: str) -> None:
    run = write_run(tmp_path / "run", packed, "running", (10, 20))
    torn = run / "checkpoints" / "step_000000020" / "generator_ema.safetensors"
    torn.write_bytes(torn.read_bytes()[:-10])
    found = find_weights(Model("net", "checkpoint", str(run)), latest=True)
    assert found.path.name == "step_000000010"
    assert any("step_000000020" in note and "one before is used" in note for note in found.notes)


def test_torn_final_weights_fall_back_to_the_newest_checkpoint_and_the_table_says_so(
    tmp_path: Path, packed: str
) -> None:
    run = write_run(tmp_path / "run", packed, "done", (10, 20))
    final = run / "generator.safetensors"
    models = [Model("net", "checkpoint", str(run))]
    config = EvaluateConfig(metrics=("psnr",))
    whole = evaluate(models, config, tmp_path / "whole")
    final.write_bytes(final.read_bytes()[:200])
    torn = evaluate(models, config, tmp_path / "torn")
    assert not whole.missing and not torn.missing and not whole.notes
    assert "generator.safetensors: cannot be read" in torn.notes[0] and "step_000000020" in torn.notes[0]
    assert torn.mean("net", "calm", "psnr") == whole.mean("net", "calm", "psnr"), "the last checkpoint is the end"


def test_a_run_without_anything_readable_says_so_in_its_cells(tmp_path: Path, packed: str) -> None:
    run = write_run(tmp_path / "run", packed, "running", (10,))
    (run / "checkpoints" / "step_000000010" / "manifest.json").write_text("{")
    config = EvaluateConfig(metrics=("psnr",), dataset=packed, scale=4, latest=True)
    table = evaluate([Model("net", "checkpoint", str(run))], config, tmp_path / "out")
    assert "has no readable checkpoint" in table.missing["net", "calm", "psnr"]


@pytest.mark.parametrize("place", ["checkpoints/step_000000020", "generator.safetensors"])
def test_a_checkpoint_folder_and_an_exported_file_are_models(place: str, tmp_path: Path, packed: str) -> None:
    run = write_run(tmp_path / "run", packed, "done", (20,))
    models = [Model("run", "checkpoint", str(run)), Model("part", "checkpoint", str(run / place))]
    table = evaluate(models, EvaluateConfig(metrics=("psnr",)), tmp_path / "out")
    assert table.mean("part", "calm", "psnr") == table.mean("run", "calm", "psnr")
    assert set(table.images["dataset_fingerprint"]) == {
        json.loads((Path(packed) / "dataset.json").read_text())["fingerprint"]
    }


def test_a_model_on_the_command_line_is_recognised_by_what_lies_there(tmp_path: Path, packed: str) -> None:
    run = write_run(tmp_path / "run", packed, "done", (20,))
    (tmp_path / "sr").mkdir()
    torch.save({}, tmp_path / "theirs.pth")
    kinds = {
        text: model_of(text).kind
        for text in (
            "bicubic",
            str(run),
            str(run / "checkpoints" / "step_000000020"),
            str(run / "generator.safetensors"),
            str(tmp_path / "sr"),
            str(tmp_path / "theirs.pth"),
        )
    }
    assert list(kinds.values()) == ["method", *["checkpoint"] * 3, "folder", "spandrel"]
    assert model_of(f"mine={run}").name == "mine" and model_of(str(tmp_path / "theirs.pth")).name == "theirs"
    for name in ("srgan-v1.5", "rate=0.1"):
        (tmp_path / name).mkdir()
        model = model_of(str(tmp_path / name))
        assert (model.name, model.path, model_of(f"a={tmp_path / name}").path) == (name, model.path, model.path)
    with pytest.raises(InputError, match="no such file or folder, nor a method"):
        model_of(str(tmp_path / "nothing"))


def test_a_network_gives_the_same_image_whole_and_in_tiles(tmp_path: Path, packed: str) -> None:
    run = write_run(tmp_path / "run", packed, "done", (20,))
    models = [Model("net", "checkpoint", str(run))]
    scores = [
        evaluate(models, EvaluateConfig(metrics=("psnr",), tile_px=tile_px), tmp_path / str(tile_px))
        for tile_px in (None, 16)
    ]
    assert scores[0].mean("net", "calm", "psnr") == pytest.approx(scores[1].mean("net", "calm", "psnr"), abs=0.01)
