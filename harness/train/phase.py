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
from harness.losses import adversarial
from harness.losses.build import build_losses
from harness.models.spectral_norm import is_normalized
from harness.models.transfer import freeze_statistics, reinit_last, trainable_last
from harness.train.config import OptimizerConfig
from harness.train.fast.fuse import (
    Compiler,
    compiler_for,
    done_or_given_up,
    fuse_generator,
    fuse_module,
    fuse_parts,
    fused_normal,
    unfuse,
)
from harness.train.fast.graph import graphs_for
from harness.train.nets import Nets
from harness.train.optimizers import build_adam, restore, set_rate, tensors_of
from harness.train.patches import Patches, held_patches, made_ahead, measure_images
from harness.train.ranks import Ranks
from harness.train.schedule import learning_rate_at
from harness.train.shortage import building_networks
from harness.train.watch import Watch


@dataclass(frozen=True)
class StepKind:
    """Which parts an iteration has. Two iterations of a kind do the same operations on other values."""

    updates_generator: bool
    penalises_gradient: bool
    """The R1 penalty is due."""
    has_instance_noise: bool
    moves_p: bool
    """A window of the augmentation's controller ends."""
    log_norms: bool


class Phase:
    """A phase at work on this rank."""

    def __init__(self, config: RunConfig, number: int, nets: Nets, ranks: Ranks) -> None:
        self.config: PhaseConfig = config.phases[number]
        self.seed = config.seed
        self.first_step = config.first_step(number)
        self.last_step = self.first_step + self.config.iterations
        self.nets = nets
        self.learning_rate_factor = 1.0
        self.watch = Watch(config.watch)
        self._ranks = ranks
        self._first_position = config.first_position(number)
        self._memory_format = torch.channels_last if config.channels_last else torch.contiguous_format

        self.loader = PatchLoader(
            config.data,
            config.sources(number),
            seed=config.seed,
            batch_size=self.config.batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        self._prepare = Prepare(config.data, config.scale, config.seed)
        with building_networks():
            self.losses = build_losses(self.config.losses, ranks.device).to(memory_format=self._memory_format)
        self.augment = build_augment(self.config.augment, config.seed).to(ranks.device)
        self.noise_std = torch.zeros((), device=ranks.device)
        """Deviation of the instance noise in this step."""
        self._values: dict[str, float] = {}
        self.graphs = graphs_for(config.cuda_graphs, ranks, self._state)
        self._held: Patches | None = None
        if self.graphs is not None:
            patch = (self.config.batch_size // ranks.world_size, config.data.patch_px, config.scale)
            self._held = held_patches(*patch, ranks.device, self._memory_format)
        self.normal_tensor: Callable[..., torch.Tensor] = random.normal_tensor
        self.measure_images: Callable[..., tuple[torch.Tensor, torch.Tensor]] = measure_images
        self.judges_together = False
        """Whether the discriminator sees real and generated images in one pass, which pays where it is compiled."""
        with building_networks():
            self._build_networks()
        compiler = compiler_for(config.compile, ranks, self.config.iterations, config.channels_last)
        for network in filter(None, (nets.generator, nets.discriminator)):
            unfuse(network)  # what a phase before had compiled
        if compiler is not None:
            self._fuse(compiler)

    @property
    def is_adversarial(self) -> bool:
        return self.config.adversarial is not None

    def begin(self) -> None:
        """Changes the networks as the phase asks for at its first step (and only there)."""
        if self.config.reinit_last:
            source = torch.Generator().manual_seed(random.key(self.seed, "reinit", self.config.name))
            reinit_last(self.nets.generator, self.config.reinit_last, self.config.reinit_std, source)
            self.nets.restart_average()

    def patches(self, step: int) -> Iterator[Patches]:
        """This rank's patches from `step` on, on the device, each valid until the next are asked for."""
        batches = self.loader.batches(self._first_position + (step - self.first_step) * self.config.batch_size)
        if self._ranks.device.type == "cuda":
            return made_ahead(batches, self._ranks.device, self.prepared)
        return map(self.prepared, batches)

    def prepared(self, batch: Batch) -> Patches:
        """The patches of a batch: degraded and augmented, where the batch is."""
        may_give_up = self.graphs is not None and self._ranks.world_size == 1  # as for steps
        lr_image, hr_image = done_or_given_up(lambda: self._prepare(batch.hr_BHWC, batch.position_B), may_give_up)
        return Patches(
            lr_image.contiguous(memory_format=self._memory_format),
            hr_image.contiguous(memory_format=self._memory_format),
            batch.position_B,
        )

    def hold(self, patches: Patches) -> Patches:
        """The patches in the memory that the graphs read."""
        assert self._held is not None
        self._held.copy_(patches)
        return self._held

    def kind(self, step: int, log_norms: bool) -> StepKind:
        """What the iteration of `step` does."""
        done, game = step - self.first_step, self.config.adversarial
        return StepKind(
            updates_generator=(done + 1) % self.config.generator_every == 0,
            penalises_gradient=game is not None and game.r1_weight > 0 and step % game.r1_every == 0,
            has_instance_noise=game is not None and adversarial.instance_noise_std(game, done) > 0,
            moves_p=self.augment.controller.ends_window(done),
            log_norms=log_norms,
        )

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

    def set_values(self, step: int) -> None:
        """Sets the numbers that change from step to step: on a GPU in tensors there, and only where they change."""
        for name, rate in self.learning_rates(step).items():
            set_rate(self.optimizers[name], rate, last=self._values.get(name))
            self._values[name] = rate
        if self.config.adversarial is not None:
            std = adversarial.instance_noise_std(self.config.adversarial, step - self.first_step)
            if self._values.get("noise_std", 0.0) != std:
                self.noise_std.fill_(std)
            self._values["noise_std"] = std

    def state_dict(self) -> dict[str, Any]:
        """What resuming within the phase needs besides the networks' weights; all ranks call it together."""
        self.augment.controller.pool(self.sum_over_ranks)
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "augment": self.augment.state_dict(),
            "perfect_since": self.watch.perfect_since,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            restore(optimizer, state["optimizers"][name])
        self.augment.load_state_dict(state["augment"])
        self.watch.perfect_since = state.get("perfect_since")
        self._values.clear()

    def _state(self) -> list[torch.Tensor]:
        """All tensors that an iteration changes for good."""
        modules = [self.nets.generator, self.nets.ema.module, self.nets.discriminator, self.augment]
        of_modules = [t for module in modules if module for t in (*module.parameters(), *module.buffers())]
        return of_modules + [t for optimizer in self.optimizers.values() for t in tensors_of(optimizer)]

    def close(self) -> None:
        """Stops reading, and gives back what graphs hold."""
        self.loader.close()
        self.graphs = self._held = None

    def _build_networks(self) -> None:
        generator = self.nets.generator
        generator.requires_grad_(True).train()
        generator.zero_grad(set_to_none=True)  # a phase before leaves gradients of what is frozen now
        if self.config.train_last is not None:
            trainable_last(generator, self.config.train_last)
            freeze_statistics(generator)
            if self._ranks.world_size > 1:  # each rank's own so far, of which rank 0's are saved
                self._ranks.broadcast_buffers(generator)
        self.generator = self._wrapped(generator)
        self.optimizers = {"generator": self._adam(generator, self.config.generator_optimizer)}
        self.discriminator: nn.Module | None = None
        if self.config.adversarial is not None:
            self.nets.add_discriminator()
            assert self.nets.discriminator is not None and self.config.discriminator_optimizer is not None
            self.nets.discriminator.requires_grad_(True).train()
            self.discriminator = self._wrapped(self.nets.discriminator)
            self.optimizers["discriminator"] = self._adam(self.nets.discriminator, self.config.discriminator_optimizer)

    def _wrapped(self, module: nn.Module) -> nn.Module:
        with self.graphs.backend.building() if self.graphs is not None else nullcontext():
            return self.nets.wrap(module)

    def _fuse(self, compiler: Compiler) -> None:
        """Has torch's compiler join the operations of patches, networks, losses and augmentation."""
        self._prepare.join_operations(compiler)
        fuse_generator(self.nets.generator, compiler)
        if self.nets.discriminator is not None:
            game = self.config.adversarial
            # A penalty differentiates twice, which what the compiler makes cannot.
            is_compiled = game is not None and not game.r1_weight
            if is_compiled:
                fuse_module(self.nets.discriminator, compiler)
            self.judges_together = is_compiled and not is_normalized(self.nets.discriminator)
        fuse_parts(self.losses, compiler)
        fuse_parts(self.augment, compiler)
        self.normal_tensor = fused_normal(compiler)
        self.measure_images = compiler(measure_images)

    def _adam(self, module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
        device = self._ranks.device
        is_on_device = self.graphs is not None or device.type == "cuda"
        return build_adam(module, config, device if is_on_device else None)


def no_reduction(module: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Holds back the reduction of gradients over the ranks in all micro-batches but the last."""
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()
