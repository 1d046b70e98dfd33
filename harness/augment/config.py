"""Which augmentation the discriminator sees, and how its probability moves. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from harness.schema import Section

Operation = Literal[
    "x_flip",
    "rotate90",
    "scale",
    "aniso",
    "brightness",
    "contrast",
    "luma_flip",
    "hue",
    "saturation",
    "noise",
]
ALL_OPERATIONS: tuple[Operation, ...] = get_args(Operation)


class NoAugmentConfig(Section):
    """The discriminator sees the images as they are."""

    name: Literal["none"] = "none"


class PipelineConfig(Section):
    """The operations, each applied to an image with probability p, and how strong they are."""

    operations: tuple[Operation, ...] = ALL_OPERATIONS
    """Which operations are in the pipeline; their order is fixed."""
    scale_std: float = Field(0.2, ge=0, le=1)
    """Standard deviation of the base-2 logarithm of the isotropic scale factor."""
    aniso_std: float = Field(0.2, ge=0, le=1)
    """Standard deviation of the base-2 logarithm of the anisotropic factor (width times it, height over it)."""
    brightness_std: float = Field(0.2, ge=0)
    """Standard deviation of the shift, for values in [-1, 1]."""
    contrast_std: float = Field(0.5, ge=0)
    """Standard deviation of the base-2 logarithm of the contrast factor around mid grey."""
    hue_max: float = Field(1.0, ge=0, le=1)
    """Largest hue rotation in half turns, drawn uniformly from +- this."""
    saturation_std: float = Field(1.0, ge=0)
    """Standard deviation of the base-2 logarithm of the saturation factor."""
    noise_std: float = Field(0.1, ge=0)
    """Scale of the half-normal that an image's noise deviation is drawn from, for values in [-1, 1]."""

    @field_validator("operations")
    @classmethod
    def _each_once(cls, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if len(set(operations)) != len(operations) or not operations:
            raise ValueError(f"operations {list(operations)} must name at least one operation and none twice")
        return operations


class FixedAugmentConfig(PipelineConfig):
    """Stochastic discriminator augmentation: p stays what it is."""

    name: Literal["fixed"]
    p: float = Field(ge=0, le=1)


_RULE_DEFAULTS: dict[str, dict[str, float]] = {
    "text": {"every": 8, "cap": 0.85, "step": 1e-3},
    "paper": {"every": 4, "cap": 1.0, "adjust_images": 500_000},
}


class AdaConfig(PipelineConfig):
    """Adaptive discriminator augmentation (Karras et al. 2020): p follows how much the discriminator overfits.

    Every `every` minibatches p rises where the mean sign of the discriminator's logits on real images lies above
    `target`, falls where it lies below, and stays within [0, cap]. A relativistic discriminator only ever compares:
    there it is the sign of a real image's logit less a generated one's, or less their mean. Rule `text` (SupeRAuGAN)
    moves p by `step`; rule `paper` by batch * every / `adjust_images`, so that p needs `adjust_images` images to go
    from 0 to 1.
    """

    name: Literal["ada"]
    rule: Literal["text", "paper"]
    target: float = Field(0.6, ge=-1, le=1)
    every: int = Field(gt=0)
    """Minibatches between two moves of p: 8 for rule text, 4 for rule paper unless given."""
    cap: float = Field(gt=0, le=1)
    """Largest p: 0.85 for rule text, 1 for rule paper unless given."""
    step: float | None = Field(None, gt=0, le=1)
    """Rule text: how far p moves each time; 0.001 unless given."""
    adjust_images: int | None = Field(None, gt=0)
    """Rule paper: images that p needs from 0 to 1; 500000 unless given."""
    start_p: float = Field(0.0, ge=0, le=1)
    """p at the phase's first step, whatever it was in a phase before."""

    @model_validator(mode="before")
    @classmethod
    def _fill_rule(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        rule = values.get("rule")
        # A rule that does not exist is the one mistake; that its numbers are missing is none.
        return {**_RULE_DEFAULTS[rule if isinstance(rule, str) and rule in _RULE_DEFAULTS else "text"], **values}

    @model_validator(mode="after")
    def _one_rule(self) -> AdaConfig:
        if self.rule == "text" and self.adjust_images is not None:
            raise ValueError("adjust_images belongs to rule paper; give step, or set rule to paper")
        if self.rule == "paper" and self.step is not None:
            raise ValueError("step belongs to rule text; give adjust_images, or set rule to text")
        if self.step is None and self.adjust_images is None:
            raise ValueError(f"rule {self.rule} does not say how far p moves; give step or adjust_images")
        if self.start_p > self.cap:
            raise ValueError(f"start_p {self.start_p} is above cap {self.cap}; lower it")
        return self


class BcrConfig(Section):
    """Balanced consistency regularisation (Zhao et al. 2020): the logits of an image and its transform agree.

    The discriminator's loss gains real_weight * mean((D(x) - D(T(x)))^2) and the same for fake images; what it is
    trained on otherwise, and the generator's step, see no augmentation.
    """

    name: Literal["bcr"]
    real_weight: float = Field(10.0, ge=0)
    fake_weight: float = Field(10.0, ge=0)
    x_flip: bool = True
    shift_px: int = Field(4, ge=0)
    """T shifts by a whole number of pixels, drawn uniformly from +- this in each direction; 0 never shifts."""

    @model_validator(mode="after")
    def _some_transform(self) -> BcrConfig:
        if not self.x_flip and self.shift_px == 0:
            raise ValueError("bcr has no transform left; set x_flip or shift_px")
        return self


AugmentConfig = Annotated[
    NoAugmentConfig | FixedAugmentConfig | AdaConfig | BcrConfig,
    Field(discriminator="name"),
]
