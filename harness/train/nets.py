"""The networks of a run: generator, its average, and from the first adversarial phase on the discriminator."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from harness import random
from harness.config import RunConfig
from harness.errors import CheckpointError
from harness.models.build import build_discriminator, build_generator
from harness.train.checkpoint import Checkpoint
from harness.train.ema import Ema
from harness.train.fast.lean import ddp_without_compiler
from harness.train.ranks import Ranks
from harness.train.start import load_start_weights

_NEVER = 2**31 - 1
"""Passes."""


class Nets:
    """Built the same on every rank: each network's first weights depend on the seed and on its own configuration."""

    def __init__(self, config: RunConfig, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks
        torch.manual_seed(random.key(config.seed, "initial generator"))
        self.generator = self._place(build_generator(config.generator, config.scale))
        self.ema = Ema(self.generator, config.ema_decay)
        self.discriminator: nn.Module | None = None

    def start_from(self, path: str) -> None:
        """Puts the weights of another run or file into the generator and its average."""
        load_start_weights(path, self.generator)
        self.restart_average()

    def restart_average(self) -> None:
        """The average begins again from the generator as it is."""
        self.ema.module.load_state_dict(self.generator.state_dict())

    def add_discriminator(self) -> None:
        """Builds the discriminator where there is none yet."""
        if self.discriminator is None and self._config.discriminator is not None:
            self.discriminator = self._place(self.new_discriminator())

    def new_discriminator(self) -> nn.Module:
        """A discriminator with its first weights, on the host.

        Raises:
            InputError: it cannot take such patches, or its weights are missing or of another architecture.
        """
        built = self._build_discriminator()
        if self._config.init_discriminator_from is not None:
            load_start_weights(self._config.init_discriminator_from, built, "discriminator")
        return built

    def _build_discriminator(self) -> nn.Module:
        assert self._config.discriminator is not None
        torch.manual_seed(random.key(self._config.seed, "initial discriminator"))
        return build_discriminator(self._config.discriminator, self._config.data.patch_px)

    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """State dicts by the name of their file."""
        states = {"generator": self.generator.state_dict(), "generator_ema": self.ema.module.state_dict()}
        if self.discriminator is not None:
            states["discriminator"] = self.discriminator.state_dict()
        return states

    def load(self, checkpoint: Checkpoint) -> None:
        """Takes over the weights of a checkpoint.

        Raises:
            CheckpointError: it is of other networks.
        """
        if "discriminator" not in checkpoint.weights:
            self.discriminator = None  # the phase that needs one begins it anew
        elif self.discriminator is None and self._config.discriminator is not None:
            self.discriminator = self._place(self._build_discriminator())  # what it once started from may be gone
        modules = {"generator": self.generator, "generator_ema": self.ema.module, "discriminator": self.discriminator}
        for name, state in checkpoint.weights.items():
            module = modules.get(name)
            if module is None:
                raise CheckpointError(f"{checkpoint.path}: holds '{name}', which this configuration lacks; add it.")
            try:
                module.load_state_dict(state)
            except RuntimeError as error:
                first = str(error).splitlines()[-1].strip()
                raise CheckpointError(f"{checkpoint.path}: {name} does not fit the configuration ({first}).") from None

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the ranks while they are computed.

        Wrapped here and not by `Accelerator.prepare`, which would also patch `forward` of the module itself; the
        arguments are Accelerate's.
        """
        if self._ranks.world_size == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        wrapped = self.with_reductions(module)
        self._ranks.fix_order_of_sums(wrapped)
        return wrapped

    def with_reductions(self, module: nn.Module) -> DistributedDataParallel:
        """The module with its gradients averaged by DDP, which starts while the backward pass goes on."""
        handler = self._ranks.accelerator.ddp_handler
        on_device = [self._ranks.device.index] if self._ranks.device.type == "cuda" else None
        with ddp_without_compiler(), warnings.catch_warnings():
            # Newer torch renames broadcast_buffers; the older name also leaves the ranks' buffers apart at the start.
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = DistributedDataParallel(module, device_ids=on_device, **(handler.to_kwargs() if handler else {}))
        # Else it times every hundredth pass, which cannot be recorded in a graph.
        wrapped._set_ddp_runtime_logging_sample_rate(_NEVER)
        return wrapped

    def _place(self, module: nn.Module) -> nn.Module:
        memory_format = torch.channels_last if self._config.channels_last else torch.contiguous_format
        return module.to(self._ranks.device).to(memory_format=memory_format)
