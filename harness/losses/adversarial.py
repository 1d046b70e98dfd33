"""The adversarial game's losses in their five forms, the labels, instance noise, and the R1 penalty.

Logits are (B, 1) or (B, 1, h, w), above 0 for real. Labels are the discriminator's only: the generator always aims
at 1 for its own images. All means are over the rank's own samples.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.losses.config import AdversarialConfig
from harness.random import key, normal_tensor, uniform_tensor

_RELATIVISTIC = ("relativistic", "relativistic_average")


def needs_real_logits(form: str) -> bool:
    """Whether the generator's loss compares with the logits of real images."""
    return form in _RELATIVISTIC


def undecided_logit(form: str) -> float:
    """The logit halfway between real and generated: least squares aims at 1 and 0, the others at both signs."""
    return 0.5 if form == "least_squares" else 0.0


def real_margin(form: str, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """How far the logits of real images lie on the side of real: above 0 where the discriminator is right.

    A relativistic loss only ever compares, so that its logits may all be shifted; there the margin is the one above the
    generated images, as in the loss itself (and as R3GAN counts signs for ADA; Huang et al. 2024).
    """
    if needs_real_logits(form):
        return _relative(form, real_logits, fake_logits)[0]
    return real_logits - undecided_logit(form)


def generator_loss(form: str, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """The generator's adversarial loss, unweighted; a scalar that falls as fakes look more real.

    vanilla: -log sigmoid(fake) (Goodfellow et al. 2014, the non-saturating form); least_squares: (fake - 1)^2
    (Mao et al. 2017); hinge: -fake (Miyato et al. 2018); relativistic and relativistic_average: the mean of the two
    halves of `discriminator_loss` with the labels 1 and 0 exchanged (Jolicoeur-Martineau 2018, Wang et al. 2018).
    """
    fake = fake_logits.float()
    if form == "vanilla":
        return F.softplus(-fake).mean()
    if form == "least_squares":
        return (fake - 1).square().mean()
    if form == "hinge":
        return -fake.mean()
    assert real_logits is not None, f"{form} needs the logits of real images"
    real_edge, fake_edge = _relative(form, real_logits.float(), fake)
    return (F.softplus(real_edge).mean() + F.softplus(-fake_edge).mean()) / 2


def discriminator_loss(
    form: str, real_logits: Tensor, fake_logits: Tensor, real_label_B1: Tensor, fake_label_B1: Tensor
) -> Tensor:
    """The discriminator's loss; a scalar that falls as it tells real from fake.

    vanilla: BCE(real, label) + BCE(fake, label); least_squares: the same with squares; hinge: max(0, 1 - real) +
    max(0, 1 + fake), a label of 0 or 1 choosing the side of the margin; relativistic: the mean of
    BCE(real - fake, label) and BCE(fake - real, label); relativistic_average: the same with the other side's mean
    logit subtracted.
    """
    real, fake = real_logits.float(), fake_logits.float()
    real_label, fake_label = _like(real_label_B1, real), _like(fake_label_B1, fake)
    if form == "vanilla":
        return _cross_entropy(real, real_label) + _cross_entropy(fake, fake_label)
    if form == "least_squares":
        return (real - real_label).square().mean() + (fake - fake_label).square().mean()
    if form == "hinge":
        return F.relu(1 - (2 * real_label - 1) * real).mean() + F.relu(1 - (2 * fake_label - 1) * fake).mean()
    real_edge, fake_edge = _relative(form, real, fake)
    return (_cross_entropy(real_edge, real_label) + _cross_entropy(fake_edge, fake_label)) / 2


def labels(config: AdversarialConfig, seed: int, position_B: Tensor, side: str) -> Tensor:
    """The discriminator's labels (B, 1) for `side` "real" or "fake", each a function of the sample's position alone."""
    ranges = {"real": config.real_label, "fake": config.fake_label}
    lowest, highest = ranges[side]
    if lowest == highest and not config.label_flip_probability and not config.label_noise_std:
        return position_B.new_full((len(position_B), 1), lowest, dtype=torch.float32)
    other = "fake" if side == "real" else "real"
    draws = uniform_tensor(key(seed, "label", side), position_B, 2)
    own, flipped = (low + (high - low) * draws[:, :1] for low, high in (ranges[side], ranges[other]))
    label = torch.where(draws[:, 1:] < config.label_flip_probability, flipped, own)
    if config.label_noise_std > 0:
        noise = normal_tensor(key(seed, "label noise", side), position_B, (1,))
        label = (label + config.label_noise_std * noise).clamp(0, 1)
    return label


def instance_noise_std(config: AdversarialConfig, step_in_phase: int) -> float:
    """The deviation of the instance noise, which falls linearly to 0 (`ESRDGAN`; Mescheder et al. 2018)."""
    if step_in_phase >= config.instance_noise_steps:
        return 0.0
    return config.instance_noise_std * (1 - step_in_phase / config.instance_noise_steps)


def with_instance_noise(
    std: Tensor,
    images_BCHW: Tensor,
    seed: int,
    purpose: str,
    position_B: Tensor,
    normal: Callable[..., Tensor] = normal_tensor,
) -> Tensor:
    """The images with Gaussian noise of deviation `std`, a scalar on their device.

    Args:
        purpose: tells draws for real images from those for fakes.
        normal: `normal_tensor`, or a faster form of it.
    """
    shape = tuple(images_BCHW.shape[1:])
    return images_BCHW + std * normal(key(seed, "instance noise", purpose), position_B, shape)


def r1_penalty(real_logits: Tensor, real_images_BCHW: Tensor) -> Tensor:
    """Half the mean squared norm of the logits' gradient at real images (Mescheder et al. 2018), unweighted.

    `real_images_BCHW` must require a gradient and `real_logits` be computed from it; the result can be differentiated
    by the discriminator's parameters.
    """
    (gradient,) = torch.autograd.grad(real_logits.float().sum(), real_images_BCHW, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


def _relative(form: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    if form == "relativistic":
        return real - fake, fake - real
    assert form == "relativistic_average", form
    return real - fake.mean(), fake - real.mean()


def _cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, label)


def _like(label_B1: Tensor, logits: Tensor) -> Tensor:
    return label_B1.reshape(-1, *[1] * (logits.dim() - 1)).to(logits.dtype).expand_as(logits)
