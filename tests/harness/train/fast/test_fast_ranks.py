"""Several ranks with what a step on GPUs has: compiled networks, and work that is warmed up and recorded.

In the recording's place the work is done anew, so what is shown is that the ranks warm up together and lose nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.config import RunConfig
from harness.train import phase as phase_module
from harness.train.fast.fuse import Compiler
from harness.train.fast.graph import Graphs, KeptInputs
from harness.train.nets import Nets
from harness.train.phase import Phase
from harness.train.ranks import Ranks
from harness.train.steps import train_step

STEPS = 3
WARM_UP_CALLS = 11


class DoneAnew:
    def building(self) -> AbstractContextManager[None]:
        return nullcontext()

    def warm_up(self, call: Callable[[], Any]) -> None:
        for _ in range(WARM_UP_CALLS):
            call()
        with KeptInputs():
            call()

    def capture(self, call: Callable[[], Any]) -> Callable[[], Any]:
        return call


def graphs(state: Callable[[], Any], num_ranks: int, is_recorded: bool) -> Graphs:
    """Where nothing is recorded as well, so that learning rates are in tensors."""
    made = Graphs(DoneAnew(), state, required=True, num_ranks=num_ranks)
    made.failure = None if is_recorded else "not recorded"
    return made


def train(recipe_file: str, way: str, out: str) -> None:
    """One rank's part: a few adversarial steps; rank 0 writes the weights to `out`."""
    if way == "compiled":
        phase_module.compiler_for = lambda *_: Compiler("aot_eager")
    else:
        phase_module.graphs_for = lambda _, ranks, state: graphs(state, ranks.world_size, way == "recorded")
    config = RunConfig.model_validate(yaml.safe_load(Path(recipe_file).read_text(encoding="utf-8")))
    ranks = Ranks(config, str(Path(out).parent))
    phase = Phase(config, 1, Nets(config, ranks), ranks)
    stream = phase.patches(phase.first_step)
    for step in range(phase.first_step, phase.first_step + STEPS):
        train_step(phase, next(stream), step, log_norms=step == phase.first_step + 1)
    if ranks.is_main:
        torch.save([p.detach() for p in (*phase.generator.parameters(), *phase.discriminator.parameters())], out)
    phase.close()
    ranks.close()


def weights_of(recipe_file: Path, way: str, launcher: Any) -> list[torch.Tensor]:
    out = recipe_file.with_suffix(f".{way}.pt")
    words = (str(recipe_file), way, str(out))
    here = f"import sys; sys.path.append({str(Path(__file__).parent)!r})"
    ranks = launcher.start_ranks(f"{here}; from {Path(__file__).stem} import train; train(*{words!r})", 2)
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    weights: list[torch.Tensor] = torch.load(out)
    return weights


@pytest.mark.slow
def test_two_ranks_train_alike_in_every_way(launcher, recipe, tmp_path):
    """Several buckets of gradients; Adam's epsilon is large, since it would make whole steps of rounding."""
    adam = {"learning_rate": 1e-3, "eps": 1e-3}
    first, second = ({**phase, "generator_optimizer": adam} for phase in recipe["phases"])
    second["discriminator_optimizer"] = adam
    wide = {**recipe, "phases": [first, second], "discriminator": {"name": "vgg", "num_channels": 32}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(wide), encoding="utf-8")
    plain, recorded, compiled = (
        weights_of(tmp_path / "recipe.yaml", way, launcher) for way in ("plain", "recorded", "compiled")
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))
    for expected, found in zip(plain, compiled, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=5e-5)
