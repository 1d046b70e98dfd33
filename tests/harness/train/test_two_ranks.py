"""Two ranks train what one process trains, and log the same of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from harness.errors import EXIT_DONE
from harness.train import job
from harness.train.checkpoint import checkpoint_folders

OF_HALVES = ("sr/std", "sr/color_shift")
"""The means of two parts of a batch, which are not those of the whole."""


def rows(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in OF_HALVES} for row in found]


def test_two_ranks_train_and_log_what_one_process_does(launcher, recipe, tmp_path):
    """Without batch norm, of which each rank has its own; each step is saved, so that saves fall between two rows."""
    adam = {"learning_rate": 1e-3, "eps": 1e-3}  # with the usual epsilon Adam makes whole steps of rounding
    ada = {"name": "ada", "rule": "text", "every": 2, "step": 0.1, "target": -1.0}
    phase = {**recipe["phases"][1], "iterations": 4, "augment": ada}
    phase |= {"generator_optimizer": adam, "discriminator_optimizer": adam}
    plain = {**recipe, "phases": [phase], "log_every": 2, "checkpoint": {"every": 1, "keep": 9}}
    plain |= {"generator": {**recipe["generator"], "batch_norm": "none"}}
    plain |= {"discriminator": {**recipe["discriminator"], "batch_norm": False}}
    one, two = tmp_path / "one", tmp_path / "two"
    assert job.main(str(launcher.run_file(plain, one))) == EXIT_DONE
    assert launcher.finish(launcher.run_file(plain, two), 2) == [EXIT_DONE] * 2
    assert [row["step"] for row in rows(one)] == [2, 4] and rows(one)[1]["augment/p"] > 0
    for expected, given in zip(rows(one), rows(two), strict=True):
        assert given.pop("phase") == expected.pop("phase")
        assert given == pytest.approx(expected, rel=1e-4, abs=1e-6)
    folders = [[path.name for path in checkpoint_folders(out / "checkpoints")] for out in (one, two)]
    assert folders[0] == folders[1] and len(folders[0]) == 4
    weights, others = (safetensors.torch.load_file(out / "generator.safetensors") for out in (one, two))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-6)
