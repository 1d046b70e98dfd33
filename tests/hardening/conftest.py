"""Small data, and a way to run commands in this process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness import cli, weights
from harness.config import RunConfig
from harness.data.pack import pack
from harness.models.build import build_generator
from harness.train.checkpoint import write_weights

GENERATOR = {"name": "rrdb", "num_blocks": 1, "num_channels": 8, "growth": 8}
"""One that every format of `harness export` can hold."""
RECIPE = {
    "trackers": [],
    "data": {"sources": [{"path": "x"}], "patch_px": 16},
    "generator": {"name": "srcnn", "num_channels": [4, 4]},
    "validation": {"max_images": 0},
    "phases": [
        {
            "name": "a",
            "iterations": 2,
            "batch_size": 1,
            "losses": [{"name": "l1"}],
            "generator_optimizer": {"learning_rate": 1e-3},
        }
    ],
}


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command as the shell would, in this process."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        return Said(int(left.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 12 noisy images of 64 px: 12 kB each, and no codec makes them smaller."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name in ("hill", "lake"):
        (root / name).mkdir()
        for i in range(12):
            Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def packed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "set"
    pack([photos], out, tile_px=48, workers=1, val=1, test=1)
    return out


@pytest.fixture(scope="session")
def recipe(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(json.dumps({**RECIPE, "data": {"sources": [{"path": str(packed)}], "patch_px": 16}}))
    return path


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported generator."""
    return exported(tmp_path_factory.mktemp("run"), GENERATOR)


@pytest.fixture(scope="session")
def few_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported generator that is quickly told in other words."""
    return exported(tmp_path_factory.mktemp("few"), {"name": "espcn", "num_channels": [8, 4]})


def exported(folder: Path, generator: dict[str, Any]) -> Path:
    config = RunConfig.model_validate({**RECIPE, "generator": generator})
    path = folder / "generator.safetensors"
    metadata = {"harness": json.dumps({"step": 2, "config": config.model_dump(mode="json")})}
    write_weights(path, build_generator(config.generator, config.scale).state_dict(), metadata)
    return path


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def disk(full_disk: Path) -> Path:
    """The same with 8 MB, to be filled by the test."""
    subprocess.run(["mount", "-o", "remount,size=8m", full_disk], check=True)
    return full_disk


@pytest.fixture
def toy_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A pretrained network of 300 kB that is fetched from a file, and its name."""
    content = np.random.default_rng(1).bytes(300_000)
    (tmp_path / "published").write_bytes(content)
    url, sha256 = (tmp_path / "published").as_uri(), hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(weights.TABLE, "toy", weights.Weights("toy", "tests", "toy.pth", len(content), sha256, url))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return "toy"
