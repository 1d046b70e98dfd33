"""What each part of a step is given, counts and logs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.config import RunConfig
from harness.losses import adversarial
from harness.train import steps
from harness.train.phase import Phase
from harness.train.steps import discriminator_loss, train_step

NO_NORM = {
    "generator": {"name": "srresnet", "num_blocks": 1, "num_channels": 8, "batch_norm": "none"},
    "discriminator": {"name": "vgg", "num_channels": 4, "batch_norm": False},
}


@pytest.fixture
def open_phase(recipe: dict[str, Any], first_phase: Callable[[RunConfig], Phase]) -> Callable[..., Phase]:
    """An adversarial phase in this process, without batch norm; `changes` go into its configuration."""

    def build(**changes: Any) -> Phase:
        phase = {**recipe["phases"][1], "augment": {"name": "none"}, "adversarial": {"weight": 0.1}, **changes}
        config = RunConfig.model_validate({**recipe, **NO_NORM, "phases": [phase]})
        return first_phase(config)

    return build


def test_images_that_are_shown_twice_are_changed_alike_and_all_others_by_numbers_of_their_own(open_phase, monkeypatch):
    """A relativistic generator compares with the real images as the discriminator has seen them."""
    game = {"form": "relativistic", "weight": 0.1, "instance_noise_std": 0.1, "instance_noise_steps": 9}
    phase, shown, noised, labelled = open_phase(adversarial=game), [], [], []
    labels, noise = adversarial.labels, adversarial.with_instance_noise
    monkeypatch.setattr(phase.augment, "forward", lambda images, _, purpose: shown.append(purpose) or images)
    monkeypatch.setattr(adversarial, "labels", lambda *args: labelled.append(args[3]) or labels(*args))
    monkeypatch.setattr(adversarial, "with_instance_noise", lambda *args: noised.append(args[3]) or noise(*args))
    train_step(phase, next(phase.patches(0)), 0, log_norms=False)
    assert shown == noised == ["real", "fake", "generator", "real"]
    assert labelled == ["real", "fake"]


def test_p_rises_by_the_images_of_its_window_where_real_ones_are_known(open_phase, monkeypatch):
    def judge(phase, discriminator, real, fake):
        nothing = 0.0 * sum(p.sum() for p in discriminator.parameters())
        return [nothing + logit * torch.ones(len(real), 1) for logit in (5.0, -5.0)]

    monkeypatch.setattr(steps, "_judge", judge)
    phase = open_phase(augment={"name": "ada", "rule": "paper"})
    config = phase.augment.controller.config
    stream, expected = phase.patches(0), 0.0
    for step in range(2 * config.every):
        train_step(phase, next(stream), step, log_norms=False)
        if (step + 1) % config.every == 0:
            expected += 4 * config.every / config.adjust_images
        assert float(phase.augment.controller.p) == pytest.approx(expected)


def test_a_checkpoint_speaks_for_the_window_of_all_ranks(open_phase, monkeypatch):
    """Rank 0 writes it, and every rank goes on from it with its share of what all have counted."""
    phase = open_phase(augment={"name": "ada", "rule": "text"})
    others = {1: torch.ones(2), 4: torch.tensor([-4.0, 4.0])}  # of a second rank, by the numbers of the first
    phase.augment.controller.tally.copy_(torch.tensor([2.0, 4.0]))
    monkeypatch.setattr(phase, "sum_over_ranks", lambda values: values + others[int(values[1])])
    assert phase.state_dict()["augment"]["controller.tally"].tolist() == [-1.0, 4.0]


def test_a_penalty_that_is_due_every_nth_step_weighs_as_much_as_one_in_each(open_phase):
    losses = []
    for weight, every in ((0.0, 1), (8.0, 1), (2.0, 4)):
        phase = open_phase(adversarial={"weight": 0.1, "r1_weight": weight, "r1_every": every})
        patches = next(phase.patches(0))
        kind = replace(phase.kind(0, log_norms=False), penalises_gradient=weight > 0)
        loss, _ = discriminator_loss(phase, patches, patches.hr_image.flip(3), kind)
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[2], rel=1e-6) and losses[1] > losses[0] + 1e-7


def test_gradients_are_reduced_with_the_last_micro_batch_alone(open_phase, monkeypatch):
    phase, held = open_phase(batch_size=6, accumulate=3), []
    real = steps.no_reduction
    monkeypatch.setattr(
        steps, "no_reduction", lambda module, last: held.append((module is phase.generator, last)) or real(module, last)
    )
    train_step(phase, next(phase.patches(0)), 0, log_norms=False)
    assert held == [(of_generator, last) for of_generator in (False, True) for last in (False, False, True)]


def test_micro_batches_log_what_one_batch_logs_and_the_total_is_the_weighted_sum(open_phase):
    logged = []
    for accumulate in (1, 2):
        phase = open_phase(accumulate=accumulate, losses=[{"name": "l1", "weight": 0.5}])
        row = train_step(phase, next(phase.patches(0)), 0, log_norms=True)
        logged.append({name: value.item() for name, value in row.items() if name != "sr/std" and "color" not in name})
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)
    total = 0.5 * logged[0]["loss/l1"] + 0.1 * logged[0]["loss/adversarial"]
    assert logged[0]["loss/total"] == pytest.approx(total)


def test_the_average_follows_each_update_of_the_generator_and_nothing_else(open_phase):
    phase = open_phase(generator_every=2)
    generator, average = phase.nets.generator, phase.nets.ema.module
    stream, expected = phase.patches(0), [p.detach().clone() for p in average.parameters()]
    for step in range(4):
        train_step(phase, next(stream), step, log_norms=False)
        if step % 2:
            expected = [0.9 * mean + 0.1 * p.detach() for mean, p in zip(expected, generator.parameters(), strict=True)]
        for mean, given in zip(expected, average.parameters(), strict=True):
            torch.testing.assert_close(given, mean)
    assert any(not torch.equal(mean, p) for mean, p in zip(average.parameters(), generator.parameters(), strict=True))


@pytest.mark.parametrize("clipped", ["generator", "discriminator"])
def test_each_network_has_its_own_bound_of_the_gradient(open_phase, clipped):
    phase = open_phase(**{f"{clipped}_optimizer": {"learning_rate": 1e-3, "clip_norm": 1e-5}})
    train_step(phase, next(phase.patches(0)), 0, log_norms=False)
    for name, network in (("generator", phase.nets.generator), ("discriminator", phase.nets.discriminator)):
        norm = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm()
        assert (norm.item() <= 1.001e-5) is (name == clipped)
