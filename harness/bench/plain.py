"""The reference that a step's speed is measured against: how the code of SupeRAuGAN's authors trains.

Eager, fp32 and NCHW unless told otherwise: a forward pass of the generator for each update, the discriminator's on
real and fake apart and with gradients that are then thrown away, torch's own PReLU, convolutions, pixel shuffle and
interpolation, Adam and the average one parameter at a time, every loss read back. What is computed is the recipe's: its
losses, its form of the game, its augmentation (in both updates), instance noise and penalty.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from harness.augment.config import BcrConfig
from harness.augment.consistency import bcr_terms
from harness.losses import adversarial
from harness.models.conv import Conv2d
from harness.models.from_image import ConvFromImage
from harness.models.prelu import PReLU
from harness.models.shuffle import ConvShuffle
from harness.models.skip import GlobalSkip
from harness.models.to_image import ConvToImage
from harness.train.patches import Patches
from harness.train.phase import Phase, StepKind


class PlainTraining:
    """The reference step on copies of a phase's networks; with `bf16_nhwc` under autocast and in channels_last."""

    def __init__(self, phase: Phase, kind: StepKind, bf16_nhwc: bool = False) -> None:
        self._phase, self._kind = phase, kind
        self._bf16_nhwc = bf16_nhwc
        self._format = torch.channels_last if bf16_nhwc else torch.contiguous_format
        self._generator = self._own(phase.nets.generator)
        self._average = copy.deepcopy(self._generator)
        self._losses = self._own(phase.losses)
        self._adam = {"generator": _plain_adam(self._generator)}
        self._discriminator: nn.Module | None = None
        if phase.is_adversarial and phase.nets.discriminator is not None:
            self._discriminator = self._own(phase.nets.discriminator)
            self._adam["discriminator"] = _plain_adam(self._discriminator)

    def step(self, patches: Patches) -> list[float]:
        """One iteration; returns the losses."""
        lr_image = patches.lr_image.contiguous(memory_format=self._format)
        hr_image = patches.hr_image.contiguous(memory_format=self._format)
        losses = self._update_discriminator(lr_image, hr_image, patches.position) if self._discriminator else []
        return losses + self._update_generator(lr_image, hr_image, patches.position)

    def _update_discriminator(
        self, lr_image: torch.Tensor, hr_image: torch.Tensor, position: torch.Tensor
    ) -> list[float]:
        game, discriminator = self._phase.config.adversarial, self._discriminator
        assert discriminator is not None and game is not None
        with self._autocast():
            fake = self._generator(lr_image).detach().float()
            real_input = self._shown(hr_image, position, "real")
            if self._kind.penalises_gradient:
                real_input = real_input.detach().requires_grad_(True)
            real_logits = discriminator(real_input).float()
            fake_logits = discriminator(self._shown(fake, position, "fake")).float()
        labels = [adversarial.labels(game, self._phase.seed, position, side) for side in ("real", "fake")]
        loss = adversarial.discriminator_loss(game.form, real_logits, fake_logits, *labels)
        if self._kind.penalises_gradient:
            loss = loss + game.r1_weight * game.r1_every * adversarial.r1_penalty(real_logits, real_input)
        if isinstance(self._phase.config.augment, BcrConfig):
            with self._autocast():
                images = (hr_image, fake, real_logits, fake_logits)
                config = self._phase.config.augment
                loss = loss + sum(bcr_terms(config, discriminator, *images, self._phase.seed, position).values())
        self._update("discriminator", discriminator, loss)
        return [loss.item()]

    def _update_generator(self, lr_image: torch.Tensor, hr_image: torch.Tensor, position: torch.Tensor) -> list[float]:
        game, weights = self._phase.config.adversarial, self._phase.losses.weights
        with self._autocast():
            sr_image = self._generator(lr_image).float()
            terms: dict[str, torch.Tensor] = self._losses(sr_image, hr_image)
        total = torch.zeros((), device=lr_image.device)
        for name, value in terms.items():
            total = total + weights[name] * value
        if self._discriminator is not None and game is not None:
            with self._autocast():
                fake_logits = self._discriminator(self._shown(sr_image, position, "generator")).float()
                real_logits = None
                if adversarial.needs_real_logits(game.form):
                    real_logits = self._discriminator(self._shown(hr_image, position, "real")).float()
            terms["adversarial"] = adversarial.generator_loss(game.form, fake_logits, real_logits)
            total = total + game.weight * terms["adversarial"]
        self._update("generator", self._generator, total)
        decay = self._phase.nets.ema.decay
        with torch.no_grad():
            for average, value in zip(self._average.parameters(), self._generator.parameters()):
                average.mul_(decay).add_(value, alpha=1.0 - decay)
        return [value.item() for value in terms.values()]

    def _update(self, name: str, module: nn.Module, loss: torch.Tensor) -> None:
        config = self._phase.config
        optimizer = config.generator_optimizer if name == "generator" else config.discriminator_optimizer
        self._adam[name].zero_grad()
        loss.backward()
        if optimizer is not None and optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), optimizer.clip_norm, foreach=False)
        self._adam[name].step()

    def _shown(self, images: torch.Tensor, position: torch.Tensor, purpose: str) -> torch.Tensor:
        images = self._phase.augment(images, position, purpose)
        if not self._kind.has_instance_noise:
            return images
        return adversarial.with_instance_noise(self._phase.noise_std, images, self._phase.seed, purpose, position)

    def _autocast(self) -> AbstractContextManager[Any]:
        return self._phase.autocast() if self._bf16_nhwc else nullcontext()

    def _own(self, module: nn.Module) -> nn.Module:
        trainable = [p.requires_grad for p in module.parameters()]
        own = _with_torchs_layers(copy.deepcopy(module)).float().to(memory_format=self._format)
        for parameter, flag in zip(own.parameters(), trainable):
            parameter.requires_grad_(flag)
        return own


class _Interpolated(nn.Module):
    """The global skip as torch interpolates; the coefficients differ a little, the work does not."""

    def __init__(self, skip: GlobalSkip) -> None:
        super().__init__()
        self._scale = skip.scale
        self._align_corners = skip.kind == "bicubic_align_corners"
        self._mode = "bicubic" if skip.kind.startswith("bicubic") else "bilinear"

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return F.interpolate(
            image_BCHW.float(), scale_factor=self._scale, mode=self._mode, align_corners=self._align_corners
        )


def _with_torchs_layers(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, GlobalSkip):
            setattr(module, name, _Interpolated(child))
        elif isinstance(child, PReLU):
            plain = nn.PReLU()
            plain.weight = child.weight
            setattr(module, name, plain)
        elif isinstance(child, ConvShuffle):
            child.forward = MethodType(_conv_and_shuffle, child)  # type: ignore[method-assign]
        elif isinstance(child, ConvFromImage):
            child.forward = MethodType(_conv_and_leaky_relu, child)  # type: ignore[method-assign]
        elif isinstance(child, (Conv2d, ConvToImage)):
            child.forward = MethodType(nn.Conv2d.forward, child)  # type: ignore[method-assign]
        else:
            _with_torchs_layers(child)
    return module


def _conv_and_shuffle(layer: ConvShuffle, x_BCHW: torch.Tensor) -> torch.Tensor:
    return F.pixel_shuffle(nn.Conv2d.forward(layer, x_BCHW), layer.block_px)


def _conv_and_leaky_relu(layer: ConvFromImage, x_BCHW: torch.Tensor) -> torch.Tensor:
    x = nn.Conv2d.forward(layer, x_BCHW)
    return x if layer.slope == 1 else F.leaky_relu(x, layer.slope)


def _plain_adam(module: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=1e-4, foreach=False, fused=False)
