"""The tricks of the game as a step plays them: what the discriminator sees, its labels and penalty, and how p moves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from harness.config import RunConfig
from harness.losses.adversarial import labels
from harness.random import key, normal_tensor
from harness.train.patches import Patches
from harness.train.phase import Phase
from harness.train.steps import discriminator_loss, train_step

ADAM = {"learning_rate": 1e-3}
SEED = 3
NO_NORM = {
    "generator": {"name": "srresnet", "num_blocks": 1, "num_channels": 8, "start_as_skip": False},
    "discriminator": {"name": "vgg", "num_channels": 4, "batch_norm": False},
}


@pytest.fixture
def open_phase(recipe: dict[str, Any], first_phase: Callable[[RunConfig], Phase]) -> Callable[..., Phase]:
    """Opens an adversarial phase of four images a step without batch norm; the game's settings and the phase's."""

    def build(game: dict[str, Any], **changes: Any) -> Phase:
        phase = {"name": "gan", "iterations": 100, "batch_size": 4, "losses": [{"name": "l1"}]}
        phase |= {"generator_optimizer": ADAM, "discriminator_optimizer": ADAM}
        phase |= {"adversarial": {"weight": 0.1, **game}, **changes}
        config = RunConfig.model_validate({**recipe, **NO_NORM, "seed": SEED, "phases": [phase]})
        return first_phase(config)

    return build


def watch(module: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What goes in and comes out at each call from now on."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    module.register_forward_hook(lambda _, args, output: calls.append((args[0].detach(), output.detach().clone())))
    return calls


def shown(phase: Phase, images: torch.Tensor, position: torch.Tensor, purpose: str, noise_std: float) -> torch.Tensor:
    """Augmented images with noise of the purpose's own stream."""
    noise = normal_tensor(key(SEED, "instance noise", purpose), position, tuple(images.shape[1:]))
    return phase.augment(images, position, purpose) + noise_std * noise


@pytest.mark.parametrize("r1_weight", [0.0, 1.0], ids=["", "with the penalty"])
def test_real_and_generated_images_are_augmented_and_noisy_in_both_steps(
    open_phase: Callable[..., Phase], r1_weight: float
) -> None:
    game: dict[str, Any] = {"form": "relativistic", "instance_noise_std": 0.4, "instance_noise_steps": 4}
    game |= {"r1_weight": r1_weight, "r1_every": 1}
    phase = open_phase(game, augment={"name": "fixed", "p": 0.8})
    assert phase.nets.discriminator is not None
    judged, generated = watch(phase.nets.discriminator), watch(phase.nets.generator)
    patches: Patches = next(phase.patches(0))
    train_step(phase, patches, 1, log_norms=False)
    (_, sr_image), hr_image, position = generated[0], patches.hr_image, patches.position
    # The discriminator's step, then the generator's, whose generated images have draws of their own.
    sides = [(hr_image, "real"), (sr_image, "fake"), (sr_image, "generator"), (hr_image, "real")]
    assert len(judged) == len(sides)
    for (seen, _), (images, purpose) in zip(judged, sides):
        assert torch.equal(seen, shown(phase, images, position, purpose, 0.3)), purpose
        assert not torch.equal(seen, images)


def test_discriminator_loss_is_of_its_labels_and_as_many_penalties_as_steps_between_them(
    open_phase: Callable[..., Phase],
) -> None:
    soft = {"real_label": [0.7, 1.0], "fake_label": [0.0, 0.3], "label_flip_probability": 0.5}
    phase = open_phase({**soft, "r1_weight": 1e6, "r1_every": 5})
    network, game = phase.nets.discriminator, phase.config.adversarial
    assert network is not None and game is not None
    patches: Patches = next(phase.patches(0))
    fake = torch.rand_like(patches.hr_image)
    real = patches.hr_image.clone().requires_grad_()
    logits = network(real)
    (gradient,) = torch.autograd.grad(logits.sum(), real)
    penalty = gradient.flatten(1).norm(dim=1).square().mean() / 2
    real_label, fake_label = (labels(game, SEED, patches.position, side) for side in ("real", "fake"))
    assert not torch.equal(real_label, fake_label)
    bce = F.binary_cross_entropy_with_logits
    without = bce(logits, real_label) + bce(network(fake), fake_label)
    assert 1e6 * penalty > 0.01, "or the penalty would be lost in rounding"
    for step, expected in ((4, without), (5, without + 1e6 * 5 * penalty)):
        loss, _ = discriminator_loss(phase, patches, fake, phase.kind(step, log_norms=False))
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("parts", "r_t"), [(1, 0.5), (2, 0.0)])
def test_p_follows_the_signs_of_real_images_logits_by_the_global_batch(
    open_phase: Callable[..., Phase], parts: int, r_t: float
) -> None:
    """Of each micro-batch's real images the first seems generated; all generated ones are told apart."""
    ada = {"name": "ada", "rule": "paper", "every": 2, "adjust_images": 100, "start_p": 0.5, "target": -0.5}
    phase = open_phase({}, augment=ada, accumulate=parts)
    assert phase.nets.discriminator is not None
    calls = itertools.count()

    def decide(module: torch.nn.Module, args: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        number = next(calls) % (3 * parts)  # real and generated ones in turn, then the generator's step
        values = torch.full_like(logits, -1.0)
        if number < 2 * parts and number % 2 == 0:
            values[1:] = 1.0
        return 0 * logits + values

    phase.nets.discriminator.register_forward_hook(decide)
    stream = phase.patches(0)
    for step in range(2):
        train_step(phase, next(stream), step, log_norms=False)
    assert next(calls) == 2 * 3 * parts
    assert phase.augment.controller.r_t.item() == pytest.approx(r_t)
    assert phase.augment.controller.p.item() == pytest.approx(0.5 + 4 * 2 / 100)
