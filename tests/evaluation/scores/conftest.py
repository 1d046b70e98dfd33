"""Networks with random weights, saved as the files that their publishers give out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.scores.inception import fid_inception_skeleton

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FID's network with random weights, where the torch hub keeps it: TORCH_HOME/hub/checkpoints."""
    torch.manual_seed(11)
    network = fid_inception_skeleton()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            # Gains above the usual keep the features of different images apart through 90 layers.
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path = tmp_path_factory.mktemp("torch_home") / "hub" / "checkpoints" / INCEPTION_FILE
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    return path


def _write_images(folder: Path, count: int, noise: float, edge_px: int = 48) -> list[np.ndarray]:
    """Smooth random pictures (the same for every call) with more or less noise on them, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        random = np.random.default_rng(number)
        coarse = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((edge_px, edge_px), Image.Resampling.BICUBIC), float)
        image = np.clip(smooth + random.normal(0, 1, smooth.shape) * noise, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number:03d}.png")
        images.append(image)
    return images


@pytest.fixture(scope="session")
def write_images() -> Callable[..., list[np.ndarray]]:
    """write_images(folder, count, noise) writes PNG files and gives their pixels."""
    return _write_images
