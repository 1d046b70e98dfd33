"""A small recipe, and ways to plan it without data or torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.config import SweepConfig
from sweeps.grid import expand
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.plan import Identify, Plan, make_plan

ADAM = {"learning_rate": 1e-4}
RECIPE: dict[str, Any] = {
    "data": {"sources": [{"path": "data/photos"}], "patch_px": 32},
    "generator": {"name": "srresnet", "num_blocks": 1, "num_channels": 8},
    "discriminator": {"name": "vgg", "num_channels": 4},
    "phases": [
        {
            "name": "pretrain",
            "iterations": 100,
            "batch_size": 4,
            "losses": [{"name": "l1"}],
            "generator_optimizer": ADAM,
        },
        {
            "name": "adversarial",
            "iterations": 50,
            "batch_size": 4,
            "losses": [{"name": "l1"}],
            "adversarial": {"form": "vanilla", "weight": 1e-3},
            "generator_optimizer": ADAM,
            "discriminator_optimizer": ADAM,
        },
    ],
}


@pytest.fixture
def recipe() -> dict[str, Any]:
    return copy.deepcopy(RECIPE)


def _sweep_of(*axes: dict[str, Any], **more: Any) -> SweepConfig:
    return SweepConfig.model_validate({"name": "s", "base": RECIPE, "axes": list(axes), **more})


def _plan_of(*axes: dict[str, Any], **more: Any) -> Plan:
    sweep = _sweep_of(*axes, **more)
    return make_plan(sweep.name, expand(sweep, lambda path: ["a", "b"]), Identify(lambda path: f"content of {path}"))


@pytest.fixture(scope="session")
def sweep_of() -> Callable[..., SweepConfig]:
    """A sweep over the small recipe, from its axes and further keys."""
    return _sweep_of


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., Plan]:
    """The plan of such a sweep; paths stand for their content."""
    return _plan_of


@pytest.fixture
def sweep_folder(tmp_path: Path) -> SweepFolder:
    return RunsFolder(tmp_path / "runs").sweep("s")


def _write_status(folder: Path, **values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status.json").write_text(json.dumps({"pid": 1, "host": "nowhere", "starts": 1, **values}))
    if values.get("state") == "done":
        (folder / "generator.safetensors").write_bytes(b"weights")


@pytest.fixture(scope="session")
def write_status() -> Callable[..., None]:
    """Writes status.json into a folder as a trainer leaves it."""
    return _write_status


@pytest.fixture
def finish(sweep_folder: SweepFolder) -> Callable[[str], None]:
    """Marks a phase as finished."""
    return lambda key: _write_status(sweep_folder.runs.phase(key), state="done", step=100)
