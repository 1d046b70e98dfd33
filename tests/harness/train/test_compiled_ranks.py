"""Several ranks whose networks are compiled: their gradients are averaged as those of networks that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.config import RunConfig
from harness.train import phase as phase_module
from harness.train.fuse import Compiler
from harness.train.nets import Nets
from harness.train.phase import Phase
from harness.train.ranks import Ranks
from harness.train.steps import train_step

STEPS = 3


def train(recipe_file: str, is_compiled: str, out: str) -> None:
    """One rank's part: a few adversarial steps; rank 0 writes the weights to `out`."""
    phase_module.compiler_for = lambda *_: Compiler("aot_eager") if int(is_compiled) else None
    config = RunConfig.model_validate(yaml.safe_load(Path(recipe_file).read_text(encoding="utf-8")))
    ranks = Ranks(config, str(Path(out).parent))
    phase = Phase(config, 1, Nets(config, ranks), ranks)
    stream = phase.patches(phase.first_step)
    for step in range(phase.first_step, phase.first_step + STEPS):
        train_step(phase, next(stream), step, log_norms=False)
    if ranks.is_main:
        torch.save([p.detach() for p in (*phase.generator.parameters(), *phase.discriminator.parameters())], out)
    phase.close()
    ranks.close()


def weights_of(recipe_file: Path, is_compiled: bool, launcher: Any) -> list[torch.Tensor]:
    out = recipe_file.with_suffix(f".{is_compiled}.pt")
    words = (str(recipe_file), str(int(is_compiled)), str(out))
    here = f"import sys; sys.path.append({str(Path(__file__).parent)!r})"
    ranks = launcher.start_ranks(f"{here}; from {Path(__file__).stem} import train; train(*{words!r})", 2)
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    weights: list[torch.Tensor] = torch.load(out)
    return weights


@pytest.mark.slow
def test_compiled_networks_of_two_ranks_train_as_others_do(launcher, recipe, tmp_path):
    """Several buckets of gradients; Adam's epsilon is large, since it would make whole steps of rounding."""
    adam = {"learning_rate": 1e-3, "eps": 1e-3}
    first, second = ({**phase, "generator_optimizer": adam} for phase in recipe["phases"])
    second["discriminator_optimizer"] = adam
    wide = {**recipe, "phases": [first, second], "discriminator": {"name": "vgg", "num_channels": 32}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(wide), encoding="utf-8")
    plain, compiled = (weights_of(tmp_path / "recipe.yaml", way, launcher) for way in (False, True))
    for expected, found in zip(plain, compiled, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=5e-5)
