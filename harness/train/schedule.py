"""Learning rates as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

from harness.train.config import CosineSchedule, MultiStepSchedule, OptimizerConfig


def learning_rate_at(config: OptimizerConfig, step: int) -> float:
    """The learning rate of the update in `step` (0 is the phase's first)."""
    schedule = config.schedule
    value = config.learning_rate
    if isinstance(schedule, MultiStepSchedule):
        value *= schedule.factor ** sum(step >= milestone for milestone in schedule.milestones)
    elif isinstance(schedule, CosineSchedule):
        turn = (step % schedule.period_steps) / schedule.period_steps
        value = schedule.minimum + (value - schedule.minimum) * 0.5 * (1.0 + math.cos(math.pi * turn))
    if step < schedule.warmup_steps:
        value *= (step + 1) / schedule.warmup_steps
    return value
