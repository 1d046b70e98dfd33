"""Backbones with random weights, saved as the files that torchvision publishes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision import models

BUILDERS = {"alex": models.alexnet, "vgg": models.vgg16, "squeeze": models.squeezenet1_1}


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("backbones")

    def make(network: str) -> Path:
        path = folder / f"{network}.pth"
        if not path.exists():
            torch.manual_seed(7)
            state = BUILDERS[network](weights=None).state_dict()
            # The large dense layers say nothing about LPIPS; their names must be there all the same.
            small = {k: v[:1, :1] if k.startswith("classifier") and v.dim() == 2 else v for k, v in state.items()}
            torch.save({k: v.clone() for k, v in small.items()}, path)
        return path

    return make
