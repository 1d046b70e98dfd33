"""How a phase optimises, and how often a run logs, validates and saves. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.schema import Section


class ConstantSchedule(Section):
    name: Literal["constant"] = "constant"
    warmup_steps: int = Field(0, ge=0)


Milestone = Annotated[int, Field(gt=0)]


class MultiStepSchedule(Section):
    """The learning rate is multiplied by `factor` at each milestone (steps within the phase)."""

    name: Literal["multistep"]
    milestones: tuple[Milestone, ...] = Field(min_length=1)
    """Steps within the phase."""
    factor: float = Field(0.5, gt=0, le=1)
    """What the learning rate is multiplied by."""
    warmup_steps: int = Field(0, ge=0)


class CosineSchedule(Section):
    """Cosine with restarts: each period falls from the learning rate to `minimum`."""

    name: Literal["cosine"]
    period_steps: int = Field(gt=0)
    """Steps from one restart to the next."""
    minimum: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)


Beta = Annotated[float, Field(ge=0, lt=1)]
ScheduleConfig = Annotated[ConstantSchedule | MultiStepSchedule | CosineSchedule, Field(discriminator="name")]


class OptimizerConfig(Section):
    """Adam (Kingma and Ba 2015)."""

    learning_rate: float = Field(gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled from the gradient, which makes it AdamW (Loshchilov and Hutter 2019); of all that is trained."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient; null does not clip."""
    schedule: ScheduleConfig = ConstantSchedule()

    @model_validator(mode="after")
    def _falls(self) -> OptimizerConfig:
        if isinstance(self.schedule, CosineSchedule) and self.schedule.minimum > self.learning_rate:
            minimum = self.schedule.minimum
            raise ValueError(f"schedule.minimum {minimum:g} is above learning_rate {self.learning_rate:g}; lower it")
        return self


class ValidationConfig(Section):
    """Images of the sources' `val` split, scored whole while training."""

    every: int = Field(1000, gt=0)
    """Steps between two validations."""
    max_images: int = Field(16, ge=0)
    """0 validates never."""
    sample_images: int = Field(4, ge=0)
    """Pictures (bicubic, SR, HR) written each time."""
    max_share: float = Field(0.1, gt=0, le=1)
    """Share of the time; a run whose validations take more says so once, with an `every` that would keep it."""


class CheckpointConfig(Section):
    """When checkpoints are written; this never changes what is learnt."""

    every: int = Field(1000, gt=0)
    """Most steps between two checkpoints."""
    min_every: int = Field(1, gt=0)
    """Fewest steps between two checkpoints when the cadence is chosen from the measured save time."""
    keep: int = Field(2, gt=0)
    """How many checkpoints stay."""

    @model_validator(mode="after")
    def _bounds(self) -> CheckpointConfig:
        if self.min_every > self.every:
            raise ValueError(f"min_every {self.min_every} is above every {self.every}; lower it")
        return self


class WatchConfig(Section):
    """What happens when the numbers say that something is wrong."""

    on_non_finite: Literal["stop", "rollback"] = "stop"
    """Whether a loss or weight that is not finite stops the run, or takes it back to the last checkpoint."""
    max_rollbacks: int = Field(3, ge=0)
    """After so many the run stops."""
    perfect_discriminator_steps: int = Field(0, ge=0)
    """Stop when the discriminator was right about everything for this many steps; 0 never stops."""
    collapsed_range: float = Field(0.0, ge=0)
    """Stop when the SR images' standard deviation falls below this; 0 never stops."""
