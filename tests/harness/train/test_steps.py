"""One iteration computes what a plain, separately written GAN step computes, and changes only what it should."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from harness.augment import consistency
from harness.config import RunConfig
from harness.models import conv
from harness.train import phase as phase_module
from harness.train.phase import Patches, Phase
from harness.train.steps import train_step

FORMS = ["vanilla", "least_squares", "hinge", "relativistic", "relativistic_average"]
# A large eps: with the usual one, Adam turns rounding of a gradient near zero into a full step.
ADAM = {"learning_rate": 1e-3, "betas": [0.9, 0.99], "eps": 1e-3}


@pytest.fixture
def open_phase(recipe: dict[str, Any], first_phase: Callable[[RunConfig], Phase]):
    """Builds a phase in this process; `changes` go into its configuration."""

    def build(run: dict[str, Any] | None = None, **changes: Any) -> Phase:
        phase = {
            "name": "phase",
            "iterations": 100,
            "batch_size": 4,
            "losses": [{"name": "l1"}],
            "generator_optimizer": ADAM,
            **changes,
        }
        config = RunConfig.model_validate({**recipe, **(run or {}), "phases": [phase]})
        return first_phase(config)

    return build


def patches_of(phase: Phase, count: int) -> list[Patches]:
    stream = phase.patches(0)
    return [next(stream) for _ in range(count)]


def bce(logits: torch.Tensor, label: float) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def plain_losses(form: str, real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(discriminator loss, generator loss), written from the papers."""
    if form == "vanilla":
        return bce(real, 1) + bce(fake, 0), bce(fake, 1)
    if form == "least_squares":
        return ((real - 1) ** 2).mean() + (fake**2).mean(), ((fake - 1) ** 2).mean()
    if form == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), -fake.mean()
    average = form == "relativistic_average"
    a, b = real - (fake.mean() if average else fake), fake - (real.mean() if average else real)
    return (bce(a, 1) + bce(b, 0)) / 2, (bce(a, 0) + bce(b, 1)) / 2


def plain_training(
    phase: Phase, batches: list[Patches], form: str | None, weight: float, parts: int = 1
) -> dict[str, torch.Tensor]:
    """The reference: eager fp32, NCHW, a forward pass for each update, unfused Adam. Returns the final weights.

    With several parts, each gives a loss of its own, whose mean is taken.
    """
    generator = copy.deepcopy(phase.nets.generator).to(memory_format=torch.contiguous_format)
    adam = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-3}
    generator_adam = torch.optim.Adam(generator.parameters(), foreach=False, fused=False, **adam)
    discriminator = copy.deepcopy(phase.nets.discriminator)
    discriminator_adam = torch.optim.Adam(discriminator.parameters(), foreach=False, **adam) if discriminator else None
    for patches in batches:
        lr_parts, hr_parts = (image.contiguous().chunk(parts) for image in (patches.lr_image, patches.hr_image))
        if discriminator is not None and discriminator_adam is not None and form is not None:
            discriminator_adam.zero_grad()
            for lr_image, hr_image in zip(lr_parts, hr_parts):
                loss, _ = plain_losses(form, discriminator(hr_image), discriminator(generator(lr_image).detach()))
                (loss / parts).backward()
            discriminator_adam.step()
        loss = torch.zeros(())
        for lr_image, hr_image in zip(lr_parts, hr_parts):
            sr_image = generator(lr_image)
            loss = loss + (sr_image - hr_image).abs().mean() / parts
            if discriminator is not None and form is not None:
                term = plain_losses(form, discriminator(hr_image).detach(), discriminator(sr_image))[1]
                loss = loss + weight * term / parts
        generator_adam.zero_grad()
        loss.backward()
        generator_adam.step()
    weights = {f"g.{name}": p.detach() for name, p in generator.named_parameters()}
    if discriminator is not None:
        weights |= {f"d.{name}": p.detach() for name, p in discriminator.named_parameters()}
    return weights


def weights_of(phase: Phase) -> dict[str, torch.Tensor]:
    weights = {f"g.{name}": p.detach().clone() for name, p in phase.nets.generator.named_parameters()}
    if phase.nets.discriminator is not None:
        weights |= {f"d.{name}": p.detach().clone() for name, p in phase.nets.discriminator.named_parameters()}
    return weights


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


NO_NORM = {
    "generator": {"name": "srresnet", "num_blocks": 1, "num_channels": 8, "batch_norm": "none"},
    "discriminator": {"name": "vgg", "num_channels": 4, "batch_norm": False},
}


@pytest.mark.parametrize("parts", [1, 2])
def test_pixel_step_equals_the_reference_step(open_phase, parts):
    phase = open_phase(NO_NORM, accumulate=parts)  # a bias before batch norm has no gradient but rounding
    batches = patches_of(phase, 10)
    expected = plain_training(phase, batches, None, 0.0)
    for step, patches in enumerate(batches):
        train_step(phase, patches, step, log_norms=False)
    assert_close(weights_of(phase), expected)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_adversarial_step_equals_the_reference_step(open_phase, form, parts):
    game = {"form": form, "weight": 0.1}
    phase = open_phase(NO_NORM, adversarial=game, discriminator_optimizer=ADAM, accumulate=parts)
    batches = patches_of(phase, 10)
    # Only forms that compare real with fake images look at more than one image at a time.
    expected = plain_training(phase, batches, form, 0.1, parts if form == "relativistic_average" else 1)
    for step, patches in enumerate(batches):
        train_step(phase, patches, step, log_norms=True)
    assert_close(weights_of(phase), expected)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_judging_real_and_generated_images_in_one_pass_trains_the_same_networks(
    open_phase, monkeypatch, form, batch_norm
):
    run = NO_NORM | {"discriminator": {**NO_NORM["discriminator"], "batch_norm": batch_norm}}
    changes = {"adversarial": {"form": form, "weight": 0.1}, "discriminator_optimizer": ADAM}
    results = []
    for compiler in (None, lambda function: function):
        monkeypatch.setattr(phase_module, "compiler_for", lambda *_, compiler=compiler: compiler)
        phase = open_phase(run, **changes)
        assert phase.judges_together == (compiler is not None)
        num_steps = 4 if batch_norm else 10  # over four patches it multiplies rounding, a thousandfold in ten steps
        for step, patches in enumerate(patches_of(phase, num_steps)):
            train_step(phase, patches, step, log_norms=False)
        results.append(weights_of(phase) | {f"d.{k}": v for k, v in phase.nets.discriminator.named_buffers()})
    assert_close(results[1], results[0])


@pytest.mark.parametrize(
    ("changes", "game"), [({"spectral_norm": True}, {}), ({}, {"r1_weight": 1.0})], ids=["spectral norm", "r1"]
)
def test_images_are_judged_apart_where_one_pass_would_be_something_else(open_phase, monkeypatch, changes, game):
    monkeypatch.setattr(phase_module, "compiler_for", lambda *_: lambda function: function)
    run = NO_NORM | {"discriminator": {**NO_NORM["discriminator"], **changes}}
    phase = open_phase(run, adversarial={"weight": 0.1, **game}, discriminator_optimizer=ADAM)
    assert not phase.judges_together


@pytest.mark.parametrize("form", [None, *FORMS])
def test_gradients_by_matrix_products_train_the_same_networks(open_phase, monkeypatch, form):
    game = {"adversarial": {"form": form, "weight": 0.1}, "discriminator_optimizer": ADAM} if form else {}
    monkeypatch.setattr(conv, "_WIDE_ROW", 1)
    monkeypatch.setattr(conv, "_LEAST_CHANNELS", 1)
    trained = []
    for by_products in (False, True):
        monkeypatch.setattr(conv, "_only_avx2", lambda by_products=by_products: by_products)
        phase = open_phase(NO_NORM | {"channels_last": True}, **game)
        for step, patches in enumerate(patches_of(phase, 10)):
            train_step(phase, patches, step, log_norms=False)
        trained.append(weights_of(phase))
    assert any(not torch.equal(trained[0][name], value) for name, value in trained[1].items())  # another rounding
    assert_close(trained[1], trained[0])


@pytest.mark.parametrize("channels_last", [True, False])
def test_every_weight_of_a_step_lies_in_memory_as_the_recipe_says(open_phase, channels_last):
    features = {"name": "features", "network": "vgg16", "layers": {"conv1_2": 1.0}, "distance": "l1"}
    phase = open_phase(
        {"channels_last": channels_last},
        losses=[features | {"weights": "random"}],
        adversarial={"weight": 0.1},
        discriminator_optimizer=ADAM,
    )
    wanted, other = torch.channels_last, torch.contiguous_format
    if not channels_last:
        wanted, other = other, wanted
    for module in (phase.losses, phase.nets.generator, phase.nets.discriminator):
        kernels = [weight for weight in module.parameters() if weight.dim() == 4]
        assert all(kernel.is_contiguous(memory_format=wanted) for kernel in kernels)
        assert not all(kernel.is_contiguous(memory_format=other) for kernel in kernels)


def test_micro_batches_equal_one_batch(open_phase):
    game = {"adversarial": {"weight": 0.1}, "discriminator_optimizer": ADAM}
    whole, parts = open_phase(NO_NORM, **game), open_phase(NO_NORM, accumulate=2, **game)
    for step, patches in enumerate(patches_of(whole, 5)):
        train_step(whole, patches, step, log_norms=False)
        train_step(parts, patches, step, log_norms=False)
    assert_close(weights_of(parts), weights_of(whole))


def test_generator_moves_only_in_every_nth_iteration(open_phase):
    phase = open_phase(adversarial={"weight": 0.1}, discriminator_optimizer=ADAM, generator_every=2)
    moved = []
    for step, patches in enumerate(patches_of(phase, 4)):
        before = weights_of(phase)
        train_step(phase, patches, step, log_norms=False)
        after = weights_of(phase)
        changed = {name[0] for name in after if not torch.equal(before[name], after[name])}
        moved.append(changed)
    assert moved == [{"d"}, {"d", "g"}, {"d"}, {"d", "g"}]


def test_generator_step_gives_the_discriminator_no_gradient(open_phase):
    phase = open_phase(adversarial={"weight": 0.1}, discriminator_optimizer=ADAM)
    from harness.train.steps import generator_step

    (patches,) = patches_of(phase, 1)
    generator_step(phase, [patches], None, phase.kind(0, log_norms=False))
    assert all(p.grad is None for p in phase.nets.discriminator.parameters())
    assert all(p.requires_grad for p in phase.nets.discriminator.parameters())
    assert all(p.grad is not None for p in phase.nets.generator.parameters())


def test_only_the_last_layers_train_when_asked(open_phase):
    phase = open_phase(train_last=1)
    before = weights_of(phase)
    (patches,) = patches_of(phase, 1)
    train_step(phase, patches, 0, log_norms=False)
    changed = {name for name, value in weights_of(phase).items() if not torch.equal(before[name], value)}
    last = [name.rsplit(".", 1)[0] for name, p in phase.nets.generator.named_parameters() if p.dim() == 4][-1]
    assert changed and all(name.startswith(f"g.{last}.") for name in changed)


def test_r1_penalty_and_clipping_act_on_the_discriminator_only_when_due(open_phase):
    game = {"weight": 0.1, "r1_weight": 10.0, "r1_every": 2}
    with_r1 = open_phase(NO_NORM, adversarial=game, discriminator_optimizer=ADAM)
    without = open_phase(NO_NORM, adversarial={"weight": 0.1}, discriminator_optimizer=ADAM)
    first, second = patches_of(with_r1, 2)
    for phase in (with_r1, without):
        train_step(phase, first, 1, log_norms=False)  # odd: not due
    assert_close(weights_of(with_r1), weights_of(without))
    for phase in (with_r1, without):
        train_step(phase, second, 2, log_norms=False)
    ours, theirs = weights_of(with_r1), weights_of(without)
    assert {name[0] for name in ours if not torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=0)} >= {"d"}


def test_consistency_terms_change_the_discriminator_and_are_logged(open_phase):
    game = {"adversarial": {"weight": 0.1}, "discriminator_optimizer": ADAM}
    with_bcr, without = open_phase(NO_NORM, augment={"name": "bcr"}, **game), open_phase(NO_NORM, **game)
    (patches,) = patches_of(with_bcr, 1)
    scalars = train_step(with_bcr, patches, 0, log_norms=False)
    train_step(without, patches, 0, log_norms=False)
    assert scalars["d/bcr_real"].item() > 0 and scalars["d/bcr_fake"].item() > 0
    ours, theirs = weights_of(with_bcr), weights_of(without)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours if name[0] == "d")


def test_a_transform_that_changes_nothing_costs_nothing_whatever_the_instance_noise(open_phase, monkeypatch):
    """The consistency term is about the transform: both images that it compares bear the noise."""
    monkeypatch.setattr(consistency, "transform", lambda config, images, *rest: images)
    game = {"weight": 0.1, "instance_noise_std": 1.0, "instance_noise_steps": 10}
    phase = open_phase(NO_NORM, augment={"name": "bcr"}, adversarial=game, discriminator_optimizer=ADAM)
    (patches,) = patches_of(phase, 1)
    scalars = train_step(phase, patches, 0, log_norms=False)
    assert scalars["d/bcr_real"].item() == scalars["d/bcr_fake"].item() == 0


def test_clipping_bounds_the_update(open_phase):
    phase = open_phase(generator_optimizer={**ADAM, "clip_norm": 1e-4})
    (patches,) = patches_of(phase, 1)
    scalars = train_step(phase, patches, 0, log_norms=False)
    assert float(scalars["grad_norm/generator"]) > 1e-4
    total = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in phase.nets.generator.parameters()]))
    assert float(total) <= 1e-4 * 1.001
