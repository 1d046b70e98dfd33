"""What a start takes over from what was saved: which checkpoint, and all of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.config import RunConfig
from harness.errors import CheckpointError
from harness.train import loop
from harness.train.config import OptimizerConfig
from harness.train.optimizers import build_adam, restore
from harness.train.ranks import Ranks
from harness.train.run import Run, Stretch
from harness.train.stop import StopFlag
from harness.train.watch import NonFinite


@pytest.fixture
def new_run(config: RunConfig, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """A run in a folder of this test, or one phase of it that follows a parent in another."""
    ranks = Ranks(config, str(tmp_path))

    def build(out: str = "run", phases: tuple[int, int] = (0, 1), parent: str | None = None, **changes: Any) -> Run:
        changed = RunConfig.model_validate({**config.model_dump(), **changes})
        where = tmp_path / parent if parent else None
        return Run(Stretch(changed, tmp_path / out, *phases, where), ranks, StopFlag())

    yield build
    ranks.close()


def save_at(run: Run, step: int, number: int) -> None:
    """Goes on from where the run stands in its phase of a number, and saves it as after `step` steps."""
    phase = loop._open_phase(run, number)
    run.step = step
    run.save(phase, number)
    run.writer.wait()
    phase.close()


def test_a_phase_goes_on_from_its_own_checkpoint_and_begins_with_the_last_of_the_one_before(new_run):
    save_at(new_run("first", (0, 0)), 30, 0)
    begun = new_run("second", (1, 1), "first")
    begun.restore()
    assert begun.step == 30 and not begun.has_checkpoint
    save_at(begun, 34, 1)
    gone_on = new_run("second", (1, 1), "first")
    gone_on.restore()
    assert gone_on.step == 34 and gone_on.has_checkpoint


def test_a_phase_does_not_begin_before_the_one_before_has_ended(new_run):
    save_at(new_run("first", (0, 0)), 20, 0)
    with pytest.raises(CheckpointError, match="is of step 20, not of step 30 where this phase begins"):
        new_run("second", (1, 1), "first").restore()


def test_a_row_is_of_all_its_steps_although_a_stop_came_between(new_run):
    run = new_run()
    run.meter.add({"loss": torch.tensor(1.0)})
    run.meter.add({"loss": torch.tensor(2.0)})
    save_at(run, 7, 0)
    resumed = new_run()
    resumed.restore()
    loop._open_phase(resumed, 0).close()
    resumed.meter.add({"loss": torch.tensor(6.0)})
    assert resumed.meter.fetch(resumed.ranks) == {"loss": 3.0}


def test_a_roll_back_to_the_end_of_a_phase_forgets_the_steps_that_it_takes_back(new_run):
    run = new_run(watch={"on_non_finite": "rollback"})
    save_at(run, 30, 0)
    run.step = 33
    run.meter.add({"loss": torch.tensor(float("nan"))})
    run.roll_back(NonFinite("a weight is no longer finite"))
    loop._open_phase(run, 1).close()
    assert run.step == run.saved_step == 30 and run.meter.fetch(run.ranks) == {}


def test_a_run_starts_from_the_weights_of_another_with_both_of_its_generators(new_run):
    other = new_run("other", seed=1)
    with torch.no_grad():
        for parameter in other.nets.ema.module.parameters():
            parameter.add_(1.0)
    save_at(other, 30, 0)
    run = new_run(init_from=str(other.stretch.out))
    run.restore()
    for network in (run.nets.generator, run.nets.ema.module):
        pairs = zip(network.parameters(), other.nets.ema.module.parameters(), strict=True)
        assert all(torch.equal(given, expected) for given, expected in pairs)


@pytest.mark.parametrize("rate_device", [None, torch.device("cpu")], ids=["on the host", "on the device"])
def test_an_optimizer_takes_over_moments_and_keeps_its_own_settings(rate_device):
    """Those of the device that wrote the state may be others: a rate in a tensor, say."""
    network, config = nn.Linear(2, 2), OptimizerConfig(learning_rate=0.1)
    written = build_adam(network, config, torch.device("cpu") if rate_device is None else None)
    network(torch.ones(1, 2)).sum().backward()
    written.step()
    optimizer = build_adam(network, config, rate_device)
    restore(optimizer, written.state_dict())
    (group,), (other,) = optimizer.param_groups, written.param_groups
    assert isinstance(group["lr"], torch.Tensor) == group["capturable"] == (rate_device is not None)
    assert group["capturable"] != other["capturable"]
    assert all(torch.equal(optimizer.state[p]["exp_avg"], written.state[p]["exp_avg"]) for p in network.parameters())
