"""From an augmentation's section to its module."""

from __future__ import annotations

from harness.augment.config import AdaConfig, AugmentConfig, FixedAugmentConfig
from harness.augment.controller import AdaptiveController, Controller
from harness.augment.pipeline import Augment, AugmentPipeline


def build_augment(config: AugmentConfig, seed: int) -> Augment:
    """The augmentation of a phase; for `none` and `bcr` (see `consistency`) the images pass unchanged."""
    if isinstance(config, AdaConfig):
        return AugmentPipeline(config, seed, AdaptiveController(config))
    if isinstance(config, FixedAugmentConfig):
        return AugmentPipeline(config, seed, Controller(config.p))
    return Augment(Controller(0.0))
