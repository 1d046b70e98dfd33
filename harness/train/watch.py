"""Numbers that say something is wrong: found in the logged means, at no cost to the steps between."""

from __future__ import annotations

import math

import torch
from torch import nn

from harness.errors import TrainingError
from harness.train.config import WatchConfig


class Watch:
    """Looks at each logged row; raises when the run should not go on."""

    def __init__(self, config: WatchConfig) -> None:
        self._config = config
        self.perfect_since: int | None = None
        """Step of the first row since which the discriminator was right about everything."""

    def check(self, step: int, row: dict[str, float]) -> None:
        """Raises:
        NonFinite: a value is not a finite number.
        TrainingError: the discriminator is always right, or the images have collapsed, for as long as the recipe says.
        """
        for name, value in row.items():
            if not math.isfinite(value):
                raise NonFinite(f"{name} became {value} before step {step}")
        self._check_discriminator(step, row)
        std = row.get("sr/std")
        if std is not None and std < self._config.collapsed_range:
            raise TrainingError(
                f"step {step}: the SR images have collapsed (standard deviation {std:.2g}, below watch.collapsed_range "
                f"{self._config.collapsed_range:g}); lower the adversarial weight or the learning rate."
            )

    def _check_discriminator(self, step: int, row: dict[str, float]) -> None:
        accuracy = row.get("d/accuracy")
        if accuracy is None or not self._config.perfect_discriminator_steps:
            return
        if accuracy < 1.0:
            self.perfect_since = None
            return
        self.perfect_since = step if self.perfect_since is None else self.perfect_since
        if step - self.perfect_since >= self._config.perfect_discriminator_steps:
            raise TrainingError(
                f"step {step}: the discriminator was right about every image for {step - self.perfect_since} steps, "
                f"so the generator learns nothing from it; use label smoothing, instance noise or augmentation."
            )


class NonFinite(TrainingError):
    """A loss or a weight is no longer a finite number."""


def all_finite(*modules: nn.Module | None) -> bool:
    """Whether every parameter is finite: one pass, one read-back. A sum with a number that is not is none either."""
    sums = [p.detach().sum() for module in modules if module is not None for p in module.parameters()]
    return bool(torch.isfinite(torch.stack(sums)).all())
