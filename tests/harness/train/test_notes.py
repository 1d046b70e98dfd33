"""What a user would not expect of this machine is told at a run's start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.config import RunConfig, load_run_config
from harness.train.notes import notes_of
from sweeps.config import RECIPES

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def notes(
    device: torch.device, world_size: int, *, bf16: bool = True, in_order: bool = False, **changes: Any
) -> list[str]:
    ranks: Any = SimpleNamespace(device=device, world_size=world_size, bf16=bf16, sums_in_order=in_order)
    config: RunConfig = load_run_config(RECIPES / "superaugan-ffhq.yaml").model_copy(update=changes)
    return notes_of(config, ranks, ["this version"])


def test_several_gpus_are_told_that_their_steps_are_not_recorded() -> None:
    (note,) = notes(GPU, 4)
    assert "cuda_graphs=on" in note and "--ranks 4" in note


@pytest.mark.parametrize(
    ("device", "world_size", "others"),
    [(GPU, 1, {}), (CPU, 4, {}), (GPU, 4, {"cuda_graphs": "on"}), (GPU, 4, {"cuda_graphs": "off"}),
     (GPU, 4, {"in_order": True})],
)  # fmt: skip
def test_who_has_graphs_or_cannot_have_them_is_told_nothing(
    device: torch.device, world_size: int, others: dict[str, Any]
) -> None:
    assert notes(device, world_size, **others) == []


def test_a_device_without_bf16_is_named() -> None:
    (note,) = notes(CPU, 1, bf16=False)
    assert note.startswith("this cpu has no bfloat16 instructions")
    assert notes(CPU, 1, bf16=False, precision="fp32") == []
