"""A tiny packed dataset and a tiny recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.config import RunConfig
from harness.data.pack import pack


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 8 smooth random images of 64 px.

    The folder's name is part of the fingerprint, which decides the order: it must not hang on what was tested before.
    """
    root = tmp_path_factory.mktemp("trainer") / "images"
    root.mkdir()
    source = np.random.default_rng(0)
    for name in ("hill", "lake"):
        (root / name).mkdir()
        for i in range(8):
            small = Image.fromarray(source.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            small.resize((64, 64), Image.Resampling.BICUBIC).save(root / name / f"{i}.png")
    out = tmp_path_factory.mktemp("packed") / "tiny"
    pack([root], out, tile_px=48, workers=1)
    return out


@pytest.fixture(scope="session")
def recipe(dataset: Path) -> dict[str, Any]:
    """Pixel pretraining, then an adversarial phase with batch norm, ADA and label noise; a few seconds long."""
    adam = {"learning_rate": 1e-3}
    return {
        "name": "tiny",
        "data": {"sources": [{"path": str(dataset)}], "patch_px": 32, "flip": True, "window": 8},
        "generator": {"name": "srresnet", "num_blocks": 1, "num_channels": 8, "batch_norm": "everywhere"},
        "discriminator": {"name": "vgg", "num_channels": 4},
        "ema_decay": 0.9,
        "log_every": 1,
        "trackers": [],
        "validation": {"every": 25, "max_images": 2, "sample_images": 1},
        "checkpoint": {"every": 10},
        "phases": [
            {
                "name": "pretrain",
                "iterations": 30,
                "batch_size": 4,
                "losses": [{"name": "l1"}],
                "generator_optimizer": adam,
            },
            {
                "name": "adversarial",
                "iterations": 30,
                "batch_size": 4,
                "losses": [{"name": "l1"}],
                "adversarial": {
                    "weight": 0.01,
                    "real_label": [0.7, 1.0],
                    "instance_noise_std": 0.1,
                    "instance_noise_steps": 20,
                },
                "augment": {"name": "ada", "rule": "text"},
                "generator_optimizer": adam,
                "discriminator_optimizer": adam,
            },
        ],
    }


@pytest.fixture
def config(recipe: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(recipe)
