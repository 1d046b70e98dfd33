"""Recipes that can only be mistakes are refused in one sentence, what is close to them is not; and what may change."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest

from harness.config import RunConfig
from harness.errors import InputError
from harness.identity import check_same_result
from harness.schema import parse, set_key
from harness.train.job import prepare_folder

ADAM: dict[str, Any] = {"learning_rate": 1e-3}
PHASE: dict[str, Any] = {"iterations": 4, "batch_size": 2, "losses": [{"name": "l1"}], "generator_optimizer": ADAM}
GAME = {"name": "game", "adversarial": {"weight": 0.1}, "discriminator_optimizer": ADAM}
RUN: dict[str, Any] = {
    "data": {"sources": [{"path": "data/demo"}], "patch_px": 32},
    "generator": {"name": "srresnet"},
    "discriminator": {"name": "vgg"},
    "phases": [{**PHASE, "name": "pixel"}, {**PHASE, **GAME}],
}
FEATURES = {"name": "features", "network": "vgg19", "layers": {"pool4": 1.0, "conv1_1": 1.0}, "distance": "l1"}


def changed(changes: dict[str, Any]) -> RunConfig:
    values = copy.deepcopy(RUN)
    for path, value in changes.items():
        set_key(values, path, value, "test")
    return parse(RunConfig, values, "r.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases.0.generator_optimizer.schedule": {"name": "multistep", "milestones": [-3]}}, "milestones.0'.* 0"),
        ({"phases.0.generator_optimizer.schedule": {"name": "multistep", "milestones": []}}, "at least 1 item"),
        ({"phases.0.generator_optimizer.schedule": {"name": "cosine", "period_steps": 5, "minimum": 0.1}},
         r"schedule.minimum 0.1 is above learning_rate 0.001"),
        ({"phases.1.generator_every": 5}, "'game' has generator_every 5, .* is never updated; give at most 4"),
        ({"phases.0.generator_every": 2}, "'pixel' has generator_every 2, .* update nothing; give at most 1"),
        ({"phases.0.losses": [{"name": "l1"}, {"name": "l2"}, {"name": "l1"}]}, "has the loss l1 twice"),
        ({"phases.0.losses": [{"name": "l1", "weight": 0}]}, "no loss with a weight above 0"),
        ({"phases.0.train_last": 2, "phases.0.reinit_last": 3}, "reinit_last 3 is above train_last 2"),
        ({"phases.1.adversarial.real_label": [0, 0], "phases.1.adversarial.fake_label": [1, 1]}, "exchange them"),
        ({"data.patch_px": 8, "phases.1.losses": [{"name": "ssim"}]}, "8 is too small for the loss ssim .* needs 11"),
        ({"data.patch_px": 12, "phases.1.losses": [FEATURES]}, "12 is too small for the loss features .* needs 16"),
        ({"name": "../out"}, "key 'name'"),
    ],
)  # fmt: skip
def test_what_can_only_be_a_mistake_is_refused(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        changed(changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"phases.0.generator_optimizer.schedule": {"name": "multistep", "milestones": [1, 900]}},
        {"phases.0.generator_optimizer.schedule": {"name": "cosine", "period_steps": 5, "minimum": 1e-3}},
        {"phases.1.generator_every": 4},
        {"phases.0.losses": [{"name": "l1", "weight": 0}, {"name": "l2"}], "phases.1.losses": []},
        {"phases.0.train_last": 2, "phases.0.reinit_last": 2},
        {"phases.1.adversarial.real_label": [0.4, 1], "phases.1.adversarial.fake_label": [0, 0.6]},
        {"data.patch_px": 12, "phases.1.losses": [{"name": "ssim"}]},
        {"data.patch_px": 16, "phases.1.losses": [FEATURES]},
    ],
)
def test_what_may_be_meant_is_not(changes):
    assert changed(changes).phases[0].name == "pixel"


@pytest.mark.parametrize(("newest", "refused"), [(None, [0]), (1000, [0]), (1001, [0, 1])])
def test_a_phase_may_be_given_anew_until_a_step_of_it_is_saved(tmp_path, newest, refused):
    config = changed({"phases.0.iterations": 1000})
    prepare_folder(tmp_path, config)
    if newest is not None:
        (tmp_path / "checkpoints" / f"step_{newest:09d}").mkdir(parents=True)
    for number in (0, 1):
        other = changed({"phases.0.iterations": 1000, f"phases.{number}.accumulate": 2})
        with pytest.raises(InputError, match="another config") if number in refused else contextlib.nullcontext():
            prepare_folder(tmp_path, other)


def test_weights_to_start_from_may_move_where_the_folder_is_named_by_what_they_hold(tmp_path):
    """A phase of a sweep is, and the weights may lie under another mount by the time it is resumed."""
    old, new = (changed({"init_from": f"{place}/weights.pth"}) for place in ("/a", "/b"))
    assert check_same_result(old, new, tmp_path, named_by_content=True) == [
        "init_from: /a/weights.pth -> /b/weights.pth"
    ]
    with pytest.raises(InputError, match="started with another configuration"):
        check_same_result(old, new, tmp_path)
