"""Everything that lives as long as one phase: data stream, optimisers, losses, augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from harness import random
from harness.augment.build import build_augment
from harness.config import PhaseConfig, RunConfig
from harness.data.loader import Batch, PatchLoader
from harness.data.prepare import Prepare
from harness.losses.build import build_losses
from harness.models.transfer import reinit_last, trainable_last
from harness.train.config import OptimizerConfig
from harness.train.lean import LeanAdam, LeanAdamW
from harness.train.nets import Nets
from harness.train.ranks import Ranks
from harness.train.schedule import learning_rate_at


@dataclass(frozen=True)
class Patches:
    """What one update looks at: images float32 NCHW in [0, 1], and each sample's global position."""

    lr_image: torch.Tensor
    hr_image: torch.Tensor
    position: torch.Tensor

    def split(self, parts: int) -> list[Patches]:
        """Micro-batches of equal size."""
        if parts == 1:
            return [self]
        return [
            Patches(*tensors)
            for tensors in zip(self.lr_image.chunk(parts), self.hr_image.chunk(parts), self.position.chunk(parts))
        ]


class Phase:
    """A phase at work on this rank."""

    def __init__(self, config: RunConfig, number: int, nets: Nets, ranks: Ranks) -> None:
        self.config: PhaseConfig = config.phases[number]
        self.seed = config.seed
        self.first_step = config.first_step(number)
        self.last_step = self.first_step + self.config.iterations
        self.nets = nets
        self.learning_rate_factor = 1.0
        self._ranks = ranks
        self._first_position = config.first_position(number)
        self._memory_format = torch.channels_last if config.channels_last else torch.contiguous_format

        ranks.share_of(self.config.batch_size, f"phase '{self.config.name}'")
        self.loader = PatchLoader(
            config.data,
            config.sources(number),
            seed=config.seed,
            batch_size=self.config.batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        self._prepare = Prepare(config.data, config.scale, config.seed)
        self.losses = build_losses(self.config.losses, ranks.device)
        self.augment = build_augment(self.config.augment, config.seed).to(ranks.device)
        self._build_networks()

    @property
    def is_adversarial(self) -> bool:
        return self.config.adversarial is not None

    def begin(self) -> None:
        """Changes the networks as the phase asks for at its first step (and only there)."""
        if self.config.reinit_last:
            source = torch.Generator().manual_seed(random.key(self.seed, "reinit", self.config.name))
            reinit_last(self.nets.generator, self.config.reinit_last, self.config.reinit_std, source)
            self.nets.restart_average()

    def batches(self, step: int) -> Iterator[Batch]:
        """This rank's batches from `step` on."""
        return self.loader.batches(self._first_position + (step - self.first_step) * self.config.batch_size)

    def patches(self, batch: Batch) -> Patches:
        """The batch on the device, degraded and augmented."""
        device = self._ranks.device
        position = batch.position_B.to(device, non_blocking=True)
        lr_image, hr_image = self._prepare(batch.hr_BHWC.to(device, non_blocking=True), position)
        return Patches(
            lr_image.contiguous(memory_format=self._memory_format),
            hr_image.contiguous(memory_format=self._memory_format),
            position,
        )

    def updates_generator(self, step: int) -> bool:
        return (step - self.first_step + 1) % self.config.generator_every == 0

    def autocast(self) -> AbstractContextManager[Any]:
        return self._ranks.accelerator.autocast()

    def sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        return self._ranks.sum_tensor(value)

    def learning_rates(self, step: int) -> dict[str, float]:
        """Learning rates of the update in `step`, by network."""
        rates = {"generator": learning_rate_at(self.config.generator_optimizer, step - self.first_step)}
        if self.config.discriminator_optimizer is not None and self.is_adversarial:
            rates["discriminator"] = learning_rate_at(self.config.discriminator_optimizer, step - self.first_step)
        return {name: rate * self.learning_rate_factor for name, rate in rates.items()}

    def set_learning_rates(self, step: int) -> None:
        for name, rate in self.learning_rates(step).items():
            for group in self.optimizers[name].param_groups:
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """What resuming within the phase needs besides the networks' weights; all ranks call it together."""
        self.augment.controller.pool(self.sum_over_ranks)
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "augment": self.augment.state_dict(),
            "learning_rate_factor": self.learning_rate_factor,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.augment.load_state_dict(state["augment"])
        self.learning_rate_factor = state["learning_rate_factor"]

    def close(self) -> None:
        self.loader.close()

    def _build_networks(self) -> None:
        generator = self.nets.generator
        generator.requires_grad_(True).train()
        if self.config.train_last is not None:
            trainable_last(generator, self.config.train_last)
            _freeze_statistics(generator)
        self.generator = self.nets.wrap(generator)
        self.optimizers = {"generator": _adam(generator, self.config.generator_optimizer)}
        self.discriminator: nn.Module | None = None
        if self.config.adversarial is not None:
            self.nets.add_discriminator()
            assert self.nets.discriminator is not None and self.config.discriminator_optimizer is not None
            self.nets.discriminator.requires_grad_(True).train()
            self.discriminator = self.nets.wrap(self.nets.discriminator)
            self.optimizers["discriminator"] = _adam(self.nets.discriminator, self.config.discriminator_optimizer)


def no_reduction(module: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Holds back the reduction of gradients over the ranks in all micro-batches but the last."""
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def _freeze_statistics(module: nn.Module) -> None:
    """Keeps the running statistics of frozen batch norm: a layer that is not trained shall not change."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in layer.parameters()):
            layer.eval()


def _adam(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    build: Callable[..., torch.optim.Optimizer] = LeanAdamW if config.weight_decay else LeanAdam
    return build(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
