"""What a later phase lacks is told before the first step, in one sentence, and nothing of a finished phase is asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.config import RunConfig
from harness.errors import InputError
from harness.train import loop
from harness.train.fit import check_phases
from harness.train.job import train_recipe
from harness.train.nets import Nets

ONE_RANK = SimpleNamespace(world_size=1, share_of=lambda batch_size, what: batch_size, device=torch.device("cpu"))
FEATURES = {"name": "features", "network": "vgg16", "layers": {"conv5_3": 1.0}, "distance": "l2"}


def check(recipe: dict[str, Any], later: dict[str, Any], numbers: tuple[int, ...] = (0, 1), **more: Any) -> None:
    """Checks the recipe with changes to its second phase and to its other keys, as if no step was done."""
    phases = [recipe["phases"][0], {**recipe["phases"][1], **later}]
    config = RunConfig.model_validate({**recipe, "phases": phases, **more})
    check_phases(config, list(numbers), Nets(config, ONE_RANK), ONE_RANK)


def test_phases_that_lack_nothing_pass(recipe, dataset):
    later = {"train_last": 3, "reinit_last": 2, "sources": [{"path": str(dataset), "classes": ["lake"]}]}
    check(recipe, later, discriminator={"name": "unet", "num_channels": 4})


@pytest.mark.parametrize(
    ("later", "more", "message"),
    [
        ({"sources": [{"path": "nowhere"}]}, {}, "phase 'adversarial': nowhere: is not a packed dataset"),
        ({"train_last": 99}, {}, r"phase 'adversarial': train_last: 99 .* has \d+ convolutions"),
        ({"reinit_last": 99}, {}, r"phase 'adversarial': reinit_last: 99 "),
        ({"losses": [FEATURES]}, {}, "phase 'adversarial': vgg16.* is not in .*weights fetch vgg16"),
        ({"accumulate": 4, "batch_size": 4}, {"generator": {"name": "unet"}}, "batch norm has a single value"),
        ({}, {"init_discriminator_from": "nowhere"}, "nowhere: cannot be read"),
        ({}, {"discriminator": {"name": "vgg16"}}, "vgg16.* is not in"),
    ],
)
def test_what_a_later_phase_lacks_is_told_at_the_start(recipe, tmp_path, monkeypatch, later, more, message):
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=message):
        check(recipe, later, **more)


@pytest.mark.parametrize("name", ["conv", "srgan"])
def test_a_single_patch_of_which_the_discriminator_leaves_one_pixel_is_told_at_the_start(recipe, name):
    """Torch's batch norm would end the run; two patches, a larger one, or no batch norm are fine."""
    one = {"batch_size": 2, "accumulate": 2}
    conv, small = {"name": name, "num_channels": 4}, {**recipe["data"], "patch_px": 16}
    said = f"single value at the end of the discriminator {name}, with one patch of 16 px"
    with pytest.raises(InputError, match=said):
        check(recipe, one, data=small, discriminator=conv)
    check(recipe, {"batch_size": 2, "accumulate": 1}, data=small, discriminator=conv)
    check(recipe, one, data={**small, "patch_px": 20}, discriminator=conv)
    check(recipe, one, data=small, discriminator={**conv, "batch_norm": False})


def test_a_discriminator_that_does_not_fit_is_told_at_the_start(recipe, tmp_path):
    from safetensors.torch import save_file

    save_file({"pairs.0.0.weight": torch.zeros(1)}, tmp_path / "d.safetensors")
    start = {"init_discriminator_from": str(tmp_path / "d.safetensors")}
    with pytest.raises(InputError, match=r"'pairs.0.0.weight' has the shape \[1\]"):
        check(recipe, {}, **start)
    data = {**recipe["data"], "patch_px": 12}
    with pytest.raises(InputError, match="12 px cannot be halved three times"):
        check(recipe, {}, data=data, discriminator={"name": "unet"})


def test_later_data_with_images_too_small_for_a_patch_is_told_at_the_start(recipe, dataset):
    other = {"sources": [{"path": str(dataset), "classes": ["lake"]}]}
    with pytest.raises(InputError, match="samples are smaller than the patch of 52 px"):
        check(recipe, other, data={**recipe["data"], "patch_px": 52})


def test_a_finished_phase_is_asked_for_nothing(recipe):
    check(recipe, {"sources": [{"path": "nowhere"}]}, numbers=())
    check(recipe, {"train_last": 99}, numbers=(1,))  # opening it tells


def test_a_run_is_refused_before_it_is_begun(recipe, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "_train_phases", lambda run: pytest.fail("began"))
    phases = [recipe["phases"][0], {**recipe["phases"][1], "train_last": 99}]
    assert train_recipe(RunConfig.model_validate({**recipe, "phases": phases}), tmp_path / "run") == 2
    assert "train_last: 99" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
