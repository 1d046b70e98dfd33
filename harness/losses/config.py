"""Which losses: the generator's terms, and the adversarial game. Imports no torch."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.models.vgg_names import VGGName, layer_names
from harness.schema import Section


class PixelLossConfig(Section):
    """Mean absolute or mean squared difference of pixels, for values in [0, 1]."""

    name: Literal["l1", "l2"]
    weight: float = Field(1.0, ge=0)


class CharbonnierLossConfig(Section):
    """Mean of sqrt(difference^2 + eps^2): L1 with a rounded tip, for values in [0, 1]."""

    name: Literal["charbonnier"]
    weight: float = Field(1.0, ge=0)
    eps: float = Field(1e-3, gt=0)


class SSIMLossConfig(Section):
    """1 - SSIM (Gaussian window of 11 x 11, valid region, RGB), for values in [0, 1]."""

    name: Literal["ssim"]
    weight: float = Field(1.0, ge=0)

    @property
    def smallest_px(self) -> int:
        """Edge of the smallest patch that it can compare: the window's."""
        return 11


class FeatureLossConfig(Section):
    """A distance between the features that a VGG network sees in both images."""

    name: Literal["features"]
    weight: float = Field(1.0, ge=0)
    network: VGGName
    layers: dict[str, float] = Field(min_length=1)
    """Layer -> weight: conv5_4 is before its activation, relu5_4 after it."""
    distance: Literal["l1", "l2"]
    rescale: float = Field(1.0, gt=0)
    """Factor on the features: 1/12.75 with l2 multiplies the loss by 0.006 (SRGAN)."""
    normalize: bool = True
    """Take the ImageNet mean off and divide by its deviation first."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """Random weights stand in where nothing may be fetched: a check that a recipe runs, not the text's loss."""

    @model_validator(mode="after")
    def _known_layers(self) -> FeatureLossConfig:
        known = layer_names(self.network)
        wrong = next((layer for layer in self.layers if layer not in known), None)
        if wrong is not None:
            near = difflib.get_close_matches(wrong, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "give for example conv5_4 or relu5_4"
            raise ValueError(f"{self.network} has no layer '{wrong}'; {hint}")
        if min(self.layers.values()) <= 0:
            raise ValueError("a layer's weight must be above 0; remove the layer instead")
        return self

    @property
    def smallest_px(self) -> int:
        """Edge of the smallest patch that it can compare: one pixel is left by the last layer, each pooling halves."""
        names = layer_names(self.network)
        last = max(map(names.index, self.layers))
        return 2 ** sum(name.startswith("pool") for name in names[: last + 1])


LossConfig = Annotated[
    PixelLossConfig | CharbonnierLossConfig | SSIMLossConfig | FeatureLossConfig,
    Field(discriminator="name"),
]


class AdversarialConfig(Section):
    """The game between generator and discriminator; the labels are the discriminator's only."""

    form: Literal["vanilla", "least_squares", "hinge", "relativistic", "relativistic_average"] = "vanilla"
    """Which adversarial loss."""
    weight: float = Field(gt=0)
    """Weight of the generator's adversarial term."""
    real_label: tuple[float, float] = (1.0, 1.0)
    """Range of the label of real images, drawn per sample: [0.9, 0.9] smooths one side, [0.7, 1.0] is random."""
    fake_label: tuple[float, float] = (0.0, 0.0)
    """The same for generated images."""
    label_noise_std: float = Field(0.0, ge=0)
    """Gaussian noise on each label, which is then kept within [0, 1]."""
    label_flip_probability: float = Field(0.0, ge=0, le=1)
    """Share of the samples that take the other side's label."""
    instance_noise_std: float = Field(0.0, ge=0)
    """Noise on both inputs of the discriminator at the phase's first step, for values in [0, 1] ..."""
    instance_noise_steps: int = Field(0, ge=0)
    """... falling linearly to 0 over this many steps."""
    r1_weight: float = Field(0.0, ge=0)
    """Weight of the R1 penalty; it is taken every `r1_every` steps, and then so many times as heavy."""
    r1_every: int = Field(16, gt=0)

    @model_validator(mode="after")
    def _ranges(self) -> AdversarialConfig:
        for key, (low, high) in (("real_label", self.real_label), ("fake_label", self.fake_label)):
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{key} [{low}, {high}] is not a range within [0, 1]")
        if self.real_label[1] <= self.fake_label[0]:
            raise ValueError(
                f"real_label {list(self.real_label)} is not above fake_label {list(self.fake_label)}; exchange them"
            )
        if self.instance_noise_std > 0 and self.instance_noise_steps == 0:
            raise ValueError("instance_noise_std needs instance_noise_steps above 0")
        if self.form == "hinge" and not self._hard_labels():
            raise ValueError("form hinge has margins, not labels; leave real_label, fake_label and label_noise_std out")
        return self

    def _hard_labels(self) -> bool:
        return self.real_label == (1, 1) and self.fake_label == (0, 0) and self.label_noise_std == 0
