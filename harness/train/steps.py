"""One iteration: the discriminator's update, then the generator's, on one forward pass of the generator.

Nothing here reads a value back to the host, and no number that changes from step to step is part of the code: what
differs is either which parts an iteration has (`StepKind`) or a tensor on the device. So an iteration of each kind can
be recorded as a CUDA graph. Every returned value is a scalar tensor for the log, valid until the next step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harness.augment.config import BcrConfig
from harness.augment.consistency import bcr_terms
from harness.losses import adversarial
from harness.models.norm import in_sets
from harness.train.fast.fuse import done_or_given_up
from harness.train.phase import Patches, Phase, StepKind, no_reduction

Scalars = dict[str, torch.Tensor]


def train_step(phase: Phase, patches: Patches, step: int, log_norms: bool) -> Scalars:
    """Updates the networks once with this rank's part of a global batch; on a GPU by the graph of its kind."""
    phase.set_values(step)
    kind = phase.kind(step, log_norms)
    if phase.graphs is None:
        return done_or_given_up(lambda: update(phase, patches, kind), may_give_up=False)
    held = phase.hold(patches)
    return phase.graphs.run(kind, lambda: update(phase, held, kind))


def update(phase: Phase, patches: Patches, kind: StepKind) -> Scalars:
    """One iteration of a kind.

    With one micro-batch the generator runs once; its output serves both updates. With several, keeping all their
    graphs would undo what they save, so the generator runs again for its own update.
    """
    parts = patches.split(phase.config.accumulate)
    sr_image = _generate(phase, parts[0], kind.updates_generator) if len(parts) == 1 else None
    scalars: Scalars = {}
    if phase.is_adversarial:
        scalars |= discriminator_step(phase, parts, sr_image, kind)
    if kind.updates_generator:
        scalars |= generator_step(phase, parts, sr_image, kind)
        phase.nets.ema.update()
    return scalars


def discriminator_step(phase: Phase, parts: list[Patches], sr_image: torch.Tensor | None, kind: StepKind) -> Scalars:
    """One update of the discriminator on real and on generated images."""
    assert phase.discriminator is not None
    optimizer = phase.optimizers["discriminator"]
    optimizer.zero_grad(set_to_none=True)
    means: list[Scalars] = []
    for number, part in enumerate(parts):
        fake = _generate(phase, part, False) if sr_image is None else sr_image.detach()
        with no_reduction(phase.discriminator, last=number == len(parts) - 1):
            loss, scalars = discriminator_loss(phase, part, fake, kind)
            (loss / len(parts)).backward()
        means.append(scalars)
    clip = phase.config.discriminator_optimizer.clip_norm if phase.config.discriminator_optimizer else None
    norms = _clip(phase.discriminator, clip, kind.log_norms, "discriminator")
    optimizer.step()
    if kind.moves_p:
        phase.augment.controller.move(phase.config.batch_size, phase.sum_over_ranks)
    return _mean(means) | norms


def generator_step(phase: Phase, parts: list[Patches], sr_image: torch.Tensor | None, kind: StepKind) -> Scalars:
    """One update of the generator; the discriminator is frozen and called unwrapped."""
    optimizer = phase.optimizers["generator"]
    optimizer.zero_grad(set_to_none=True)
    means: list[Scalars] = []
    with _frozen(phase.nets.discriminator if phase.is_adversarial else None):
        for number, part in enumerate(parts):
            with no_reduction(phase.generator, last=number == len(parts) - 1):
                fake = _generate(phase, part, True) if sr_image is None else sr_image
                loss, scalars = generator_loss(phase, part, fake, kind)
                (loss / len(parts)).backward()
            means.append(scalars)
    norms = _clip(phase.generator, phase.config.generator_optimizer.clip_norm, kind.log_norms, "generator")
    optimizer.step()
    return _mean(means) | norms


@contextmanager
def _frozen(module: nn.Module | None) -> Iterator[None]:
    """No gradient for the module's parameters within; for none, nothing."""
    if module is not None:
        module.requires_grad_(False)
    try:
        yield
    finally:
        if module is not None:
            module.requires_grad_(True)


def discriminator_loss(phase: Phase, part: Patches, fake: torch.Tensor, kind: StepKind) -> tuple[torch.Tensor, Scalars]:
    """The discriminator's loss on one micro-batch, and what to log of it."""
    game = phase.config.adversarial
    assert game is not None and phase.discriminator is not None
    with phase.autocast():
        real_input = _shown(phase, part.hr_image, part.position, "real", kind)
        fake_input = _shown(phase, fake, part.position, "fake", kind)
        if kind.penalises_gradient:
            real_input = real_input.detach().requires_grad_(True)
        real_logits, fake_logits = _judge(phase, phase.discriminator, real_input, fake_input)
    real_label = adversarial.labels(game, phase.seed, part.position, "real")
    fake_label = adversarial.labels(game, phase.seed, part.position, "fake")
    loss = adversarial.discriminator_loss(game.form, real_logits, fake_logits, real_label, fake_label)
    scalars = {
        "d/loss": loss,
        "d/real": real_logits.mean(),
        "d/fake": fake_logits.mean(),
        "d/accuracy": _accuracy(game.form, real_logits, fake_logits),
    }
    if real_input.requires_grad:
        penalty = adversarial.r1_penalty(real_logits, real_input)
        loss = loss + game.r1_weight * game.r1_every * penalty
    extra = _consistency_terms(phase, part.position, (real_input.detach(), fake_input), (real_logits, fake_logits))
    for name, value in extra.items():
        loss = loss + value
        scalars[f"d/{name}"] = value
    controller = phase.augment.controller
    controller.note(adversarial.real_margin(game.form, real_logits.detach(), fake_logits.detach()))
    if phase.config.augment.name == "ada":
        scalars |= {"augment/p": controller.p, "augment/r_t": controller.r_t}
    return loss, scalars


def generator_loss(phase: Phase, part: Patches, fake: torch.Tensor, kind: StepKind) -> tuple[torch.Tensor, Scalars]:
    """The generator's loss on one micro-batch, and what to log of it."""
    with phase.autocast():
        terms = phase.losses(fake, part.hr_image)
    loss = torch.zeros((), device=fake.device)
    for name, value in terms.items():
        loss = loss + phase.losses.weights[name] * value
    game = phase.config.adversarial
    if game is not None:
        terms["adversarial"] = _adversarial_term(phase, part, fake, kind)
        loss = loss + game.weight * terms["adversarial"]
    scalars = {f"loss/{name}": value for name, value in terms.items()}
    with torch.no_grad():
        deviation, shift = phase.measure_images(fake.detach(), part.hr_image)
    return loss, scalars | {"loss/total": loss, "sr/std": deviation, "sr/color_shift": shift}


def _judge(phase: Phase, discriminator: nn.Module, *sets: torch.Tensor) -> Iterable[torch.Tensor]:
    """The logits of each set of images, as if it were judged alone."""
    if not phase.judges_together:
        return [discriminator(images).float() for images in sets]
    with in_sets(discriminator, len(sets)):
        return discriminator(torch.cat(sets)).float().chunk(len(sets))


@torch.no_grad()
def _accuracy(form: str, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Share of the images that the discriminator judges rightly; a relativistic one only ever compares."""
    if adversarial.needs_real_logits(form):
        return 0.5 * (
            (real_logits > fake_logits.mean()).float().mean() + (fake_logits < real_logits.mean()).float().mean()
        )
    undecided = adversarial.undecided_logit(form)
    return 0.5 * ((real_logits > undecided).float().mean() + (fake_logits < undecided).float().mean())


def _consistency_terms(
    phase: Phase,
    position: torch.Tensor,
    images: tuple[torch.Tensor, torch.Tensor],
    logits: tuple[torch.Tensor, torch.Tensor],
) -> Scalars:
    """bCR's terms for the real and the generated images that the logits are of, instance noise and all."""
    config = phase.config.augment
    if not isinstance(config, BcrConfig) or phase.discriminator is None:
        return {}
    with phase.autocast():
        return bcr_terms(config, phase.discriminator, *images, *logits, phase.seed, position)


def _adversarial_term(phase: Phase, part: Patches, fake: torch.Tensor, kind: StepKind) -> torch.Tensor:
    game = phase.config.adversarial
    discriminator = phase.nets.discriminator
    assert game is not None and discriminator is not None
    with phase.autocast():
        fake_logits = discriminator(_shown(phase, fake, part.position, "generator", kind)).float()
        real_logits = None
        if adversarial.needs_real_logits(game.form):
            with torch.no_grad():
                real_logits = discriminator(_shown(phase, part.hr_image, part.position, "real", kind)).float()
    return adversarial.generator_loss(game.form, fake_logits, real_logits)


def _generate(phase: Phase, part: Patches, with_graph: bool) -> torch.Tensor:
    with phase.autocast(), torch.set_grad_enabled(with_graph):
        return phase.generator(part.lr_image).float()


def _shown(phase: Phase, images: torch.Tensor, position: torch.Tensor, purpose: str, kind: StepKind) -> torch.Tensor:
    """What the discriminator sees of some images: augmented, then with instance noise."""
    images = phase.augment(images, position, purpose)
    if not kind.has_instance_noise:
        return images
    return adversarial.with_instance_noise(phase.noise_std, images, phase.seed, purpose, position, phase.normal_tensor)


def _clip(module: nn.Module, clip_norm: float | None, log_norms: bool, name: str) -> Scalars:
    """Clips the gradients; their norm, where it is known or asked for."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if clip_norm is not None:
        norm = nn.utils.clip_grad_norm_(list(module.parameters()), clip_norm)
    elif log_norms:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    else:
        return {}
    return {f"grad_norm/{name}": norm}


def _mean(rows: list[Scalars]) -> Scalars:
    if len(rows) == 1:
        return rows[0]
    return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
