"""The adversarial forms against their formulas in plain NumPy, labels, instance noise, R1, and who gets a gradient."""

import numpy as np
import pytest
import torch
from torch import nn

from harness.errors import InputError
from harness.losses.adversarial import (
    discriminator_loss,
    generator_loss,
    instance_noise_std,
    labels,
    needs_real_logits,
    r1_penalty,
    real_margin,
    with_instance_noise,
)
from harness.losses.config import AdversarialConfig
from harness.schema import parse

FORMS = ["vanilla", "least_squares", "hinge", "relativistic", "relativistic_average"]
REAL = np.array([[1.5], [-0.2], [0.3]])
FAKE = np.array([[-0.7], [0.4], [2.0]])
REAL_LABEL = np.array([[0.9], [1.0], [0.7]])
FAKE_LABEL = np.array([[0.0], [0.1], [0.3]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cross_entropy(logits, label):
    return -np.mean(label * np.log(sigmoid(logits)) + (1 - label) * np.log(1 - sigmoid(logits)))


@pytest.mark.parametrize("form", ["relativistic", "relativistic_average"])
def test_a_relativistic_margin_does_not_change_where_the_loss_does_not(form):
    real, fake, ones = torch.tensor(REAL), torch.tensor(FAKE), torch.ones(3, 1)
    losses, margins = [], []
    for shift in (0.0, 100.0, -100.0):
        losses.append(discriminator_loss(form, real + shift, fake + shift, ones, 0 * ones).item())
        margins.append(torch.sign(real_margin(form, real + shift, fake + shift)).flatten().tolist())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    expected = REAL - FAKE if form == "relativistic" else REAL - FAKE.mean()
    assert margins == [np.sign(expected).flatten().tolist()] * 3


@pytest.mark.parametrize(("form", "zero"), [("vanilla", 0.0), ("hinge", 0.0), ("least_squares", 0.5)])
def test_a_margin_is_measured_from_where_the_form_is_undecided(form, zero):
    assert np.allclose(real_margin(form, torch.tensor(REAL), torch.tensor(FAKE)).numpy(), REAL - zero)


def expected_discriminator_loss(form, real_label, fake_label):
    if form == "vanilla":
        return cross_entropy(REAL, real_label) + cross_entropy(FAKE, fake_label)
    if form == "least_squares":
        return np.mean((REAL - real_label) ** 2) + np.mean((FAKE - fake_label) ** 2)
    if form == "hinge":
        return np.mean(np.maximum(0, 1 - REAL)) + np.mean(np.maximum(0, 1 + FAKE))
    if form == "relativistic":
        return (cross_entropy(REAL - FAKE, real_label) + cross_entropy(FAKE - REAL, fake_label)) / 2
    return (cross_entropy(REAL - FAKE.mean(), real_label) + cross_entropy(FAKE - REAL.mean(), fake_label)) / 2


def expected_generator_loss(form):
    if form == "vanilla":
        return -np.mean(np.log(sigmoid(FAKE)))
    if form == "least_squares":
        return np.mean((FAKE - 1) ** 2)
    if form == "hinge":
        return -FAKE.mean()
    if form == "relativistic":  # the text's L_G with its sign turned into a loss
        return -np.mean(np.log(1 - sigmoid(REAL - FAKE)) + np.log(sigmoid(FAKE - REAL))) / 2
    return -np.mean(np.log(1 - sigmoid(REAL - FAKE.mean()))) / 2 - np.mean(np.log(sigmoid(FAKE - REAL.mean()))) / 2


@pytest.mark.parametrize("form", FORMS)
def test_discriminator_loss_equals_its_formula(form):
    hard = form == "hinge"
    real_label, fake_label = (np.ones((3, 1)), np.zeros((3, 1))) if hard else (REAL_LABEL, FAKE_LABEL)
    given = discriminator_loss(form, *map(torch.tensor, (REAL, FAKE, real_label, fake_label)))
    assert given.item() == pytest.approx(expected_discriminator_loss(form, real_label, fake_label), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_generator_loss_equals_its_formula(form):
    real = torch.tensor(REAL) if needs_real_logits(form) else None
    assert generator_loss(form, torch.tensor(FAKE), real).item() == pytest.approx(
        expected_generator_loss(form), rel=1e-5
    )


def slopes(loss, *logits):
    """By differences of the loss in each logit."""
    found = []
    for number, values in enumerate(logits):
        for place in range(len(values)):
            moved = [[side.clone() for side in logits] for _ in range(2)]
            for sign, sides in zip((1, -1), moved):
                sides[number][place] += sign * 1e-2
            found.append((loss(*moved[0]) - loss(*moved[1])).item() / 2e-2)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_logit_of_a_loss_has_its_gradient(form):
    """Of a relativistic difference, too, both sides have one."""
    ones = torch.ones(3, 1)
    losses = [lambda real, fake: discriminator_loss(form, real, fake, ones, 0 * ones)]
    losses.append(lambda real, fake: generator_loss(form, fake, real if needs_real_logits(form) else None))
    for loss in losses:
        real, fake = (torch.tensor(side, dtype=torch.float32, requires_grad=True) for side in (REAL, FAKE))
        loss(real, fake).backward()
        gradients = [torch.zeros(3, 1) if side.grad is None else side.grad for side in (real, fake)]
        expected = slopes(loss, real.detach(), fake.detach())
        assert torch.cat(gradients).flatten().tolist() == pytest.approx(expected, abs=2e-4)


def test_relativistic_discriminator_loss_is_esrdgans_formula():
    """The text's L_D is a likelihood; both its halves are log sigmoid(D(hr) - D(sr))."""
    ones, zeros = torch.ones(3, 1), torch.zeros(3, 1)
    given = discriminator_loss("relativistic", torch.tensor(REAL), torch.tensor(FAKE), ones, zeros)
    text = np.mean(np.log(sigmoid(REAL - FAKE)) + np.log(1 - sigmoid(FAKE - REAL))) / 2
    assert given.item() == pytest.approx(-text, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_flipped_labels_change_the_discriminators_sides(form):
    ones, zeros = torch.ones(3, 1), torch.zeros(3, 1)
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    torch.testing.assert_close(
        discriminator_loss(form, real, fake, zeros, ones), discriminator_loss(form, fake, real, ones, zeros)
    )


# The mean logit of the average form ties the positions together; its formula is tested above.
@pytest.mark.parametrize("form", FORMS[:-1])
def test_a_samples_label_applies_to_all_its_patch_logits(form):
    real, fake = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    label, other = torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([[0.0], [0.0], [1.0]])
    whole = discriminator_loss(form, real, fake, label, other)
    parts = [discriminator_loss(form, real[..., i, j], fake[..., i, j], label, other) for i in (0, 1) for j in (0, 1)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("form", FORMS)
def test_only_the_network_in_training_receives_a_gradient(form):
    torch.manual_seed(0)
    generator, discriminator = nn.Conv2d(3, 3, 1), nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    real, fake = torch.rand(2, 3, 2, 2), generator(torch.rand(2, 3, 2, 2))
    loss = discriminator_loss(
        form, discriminator(real), discriminator(fake.detach()), torch.ones(2, 1), torch.zeros(2, 1)
    )
    loss.backward()
    assert all(p.grad is None for p in generator.parameters())
    # The relativistic forms see differences only, so a constant added to all logits has no effect.
    assert discriminator[1].weight.grad.abs().sum() > 0
    discriminator.zero_grad()
    discriminator.requires_grad_(False)
    generator_loss(form, discriminator(fake), discriminator(real)).backward()
    assert all(p.grad.abs().sum() > 0 for p in generator.parameters())
    assert all(p.grad is None for p in discriminator.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_step_makes_fakes_look_more_real(form):
    fake = torch.tensor(FAKE).clamp(max=0.9).requires_grad_()  # least squares aims at 1 from both sides
    generator_loss(form, fake, torch.tensor(REAL)).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_losses_of_half_precision_logits_are_float32(form):
    real, fake = torch.tensor(REAL).bfloat16(), torch.tensor(FAKE).bfloat16()
    assert generator_loss(form, fake, real).dtype == torch.float32
    assert discriminator_loss(form, real, fake, torch.ones(3, 1), torch.zeros(3, 1)).dtype == torch.float32


@pytest.mark.parametrize("logit", [-200.0, 200.0])
@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_give_finite_losses(form, logit):
    real, fake = torch.full((2, 1), logit), torch.full((2, 1), -logit)
    assert generator_loss(form, fake, real).isfinite()
    assert discriminator_loss(form, real, fake, torch.ones(2, 1), torch.zeros(2, 1)).isfinite()


def game(**values):
    return AdversarialConfig(weight=1.0, **values)


POSITIONS = torch.arange(20_000)


def test_plain_labels_are_one_and_zero():
    assert (labels(game(), 0, POSITIONS[:5], "real") == 1).all()
    assert (labels(game(), 0, POSITIONS[:5], "fake") == 0).all()


def test_one_sided_smoothing_leaves_the_fakes_alone():
    smooth = game(real_label=(0.9, 0.9))
    assert torch.allclose(labels(smooth, 0, POSITIONS[:5], "real"), torch.tensor(0.9))
    assert (labels(smooth, 0, POSITIONS[:5], "fake") == 0).all()


@pytest.mark.parametrize(("side", "low", "high"), [("real", 0.7, 1.0), ("fake", 0.0, 0.3)])
def test_soft_labels_are_uniform_in_their_range(side, low, high):
    soft = labels(game(real_label=(0.7, 1.0), fake_label=(0.0, 0.3)), 0, POSITIONS, side)
    assert soft.shape == (len(POSITIONS), 1)
    assert low <= soft.min() and soft.max() <= high
    uniform = ((soft - low) / (high - low)).flatten().sort().values
    expected = torch.linspace(0, 1, len(POSITIONS))
    assert (uniform - expected).abs().max() < 1.63 / len(POSITIONS) ** 0.5  # Kolmogorov and Smirnov, 1 %


@pytest.mark.parametrize("side", ["real", "fake"])
def test_flipped_labels_have_their_share_and_come_from_the_other_side(side):
    flipped = labels(game(real_label=(0.7, 1.0), fake_label=(0.0, 0.3), label_flip_probability=0.2), 0, POSITIONS, side)
    other = flipped < 0.5 if side == "real" else flipped > 0.5
    assert other.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert ((flipped <= 0.3) | (flipped >= 0.7)).all()


def test_noisy_labels_have_the_deviation_and_stay_within_the_range():
    noisy = labels(game(real_label=(0.5, 0.5), label_noise_std=0.1), 0, POSITIONS, "real")
    assert noisy.mean().item() == pytest.approx(0.5, abs=0.005)
    assert noisy.std().item() == pytest.approx(0.1, rel=0.05)
    edge = labels(game(label_noise_std=0.1), 0, POSITIONS, "real")
    assert edge.max() == 1 and edge.min() < 1


def test_labels_depend_on_seed_side_and_position_alone():
    soft = game(real_label=(0.0, 1.0), fake_label=(0.0, 1.0))
    whole = labels(soft, 0, POSITIONS[:8], "real")
    assert torch.equal(whole[4:], labels(soft, 0, POSITIONS[4:8], "real"))
    assert not torch.equal(whole, labels(soft, 1, POSITIONS[:8], "real"))
    assert not torch.equal(whole, labels(soft, 0, POSITIONS[:8], "fake"))


NOISE = game(instance_noise_std=0.5, instance_noise_steps=100)


@pytest.mark.parametrize(("step", "std"), [(0, 0.5), (50, 0.25), (90, 0.05), (100, 0.0), (5000, 0.0)])
def test_instance_noise_falls_linearly_to_nothing(step, std):
    assert instance_noise_std(NOISE, step) == pytest.approx(std)
    assert instance_noise_std(game(), step) == 0.0


def test_instance_noise_has_the_deviation_that_is_asked_for():
    images = torch.full((4, 3, 64, 64), 0.5)
    noise = with_instance_noise(torch.tensor(0.25), images, 0, "real", torch.arange(4)) - images
    assert noise.std().item() == pytest.approx(0.25, rel=0.03)
    assert noise.mean().abs() < 0.01


def test_instance_noise_differs_between_real_and_fake_and_lets_gradients_pass():
    images, position = torch.rand(2, 3, 8, 8, requires_grad=True), torch.arange(2)
    real, fake = (with_instance_noise(torch.tensor(0.5), images, 0, side, position) for side in ("real", "fake"))
    assert not torch.equal(real, fake)
    real.sum().backward()
    assert (images.grad == 1).all()


def test_r1_of_a_linear_discriminator_is_half_its_squared_weight():
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    images = torch.rand(5, 3, 2, 2, requires_grad=True)
    penalty = r1_penalty(discriminator(images), images)
    torch.testing.assert_close(penalty, discriminator[1].weight.square().sum() / 2)
    penalty.backward()
    torch.testing.assert_close(discriminator[1].weight.grad, discriminator[1].weight)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"real_label": [1.0, 0.9]}, "real_label"),
        ({"real_label": [0.9, 1.1]}, r"real_label \[0.9, 1.1\] is not a range within"),
        ({"fake_label": [-0.1, 0.0]}, r"fake_label \[-0.1, 0.0\] is not a range within"),
        ({"instance_noise_std": 1.0}, "needs instance_noise_steps above 0"),
        ({"form": "hinge", "real_label": [0.9, 0.9]}, "hinge has margins, not labels"),
        ({"form": "hinge", "fake_label": [0.0, 0.1]}, "hinge has margins, not labels"),
        ({"form": "hinge", "label_noise_std": 0.1}, "hinge has margins, not labels"),
    ],
)
def test_contradictory_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        parse(AdversarialConfig, {"weight": 1.0, **values}, "r.yaml")
