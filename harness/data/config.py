"""What is trained on: sources, crops, degradation and jitter. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from harness.schema import Section

Kernel = Literal["matlab-bicubic", "pil-bicubic", "cv2-cubic", "bilinear", "area", "nearest"]
Split = Literal["train", "val", "test"]


class SourceConfig(Section):
    """One packed dataset of a mixture."""

    path: str
    """Folder (or fsspec URL) with shards and their sidecar."""
    split: Split = "train"
    classes: tuple[str, ...] | None = Field(None, min_length=1)
    """Only these classes; null takes all."""
    fraction: float = Field(1.0, gt=0, le=1)
    """Share of the split's source images, per class; smaller fractions lie inside larger ones."""
    fraction_seed: int = 0
    """Another seed draws another family of fractions."""
    weight: float | None = Field(None, gt=0)
    """Relative share of this source in a mixture; null weighs it by its number of samples."""


class DegradationConfig(Section):
    """How a low-resolution image is made from a high-resolution one."""

    kernels: dict[Kernel, float] = Field(default={"matlab-bicubic": 1.0})
    """Downsampling kernel -> weight; with several, each sample draws one."""
    noise_std: float = Field(default=0.0, ge=0)
    """Gaussian noise on the LR image, for values in [0, 1]."""

    @field_validator("kernels")
    @classmethod
    def _some_weight(cls, kernels: dict[Kernel, float]) -> dict[Kernel, float]:
        if not kernels or min(kernels.values()) < 0 or sum(kernels.values()) <= 0:
            raise ValueError("give at least one kernel with a weight above 0 and none below 0")
        return kernels


class DataConfig(Section):
    """The training stream of a run."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    patch_px: int = Field(gt=0)
    """Edge of the HR patch in pixels."""
    degradation: DegradationConfig = DegradationConfig()
    flip: bool = False
    """Mirror half of the patches left to right."""
    rotate: bool = False
    """Turn patches by a random multiple of 90 degrees."""
    brightness: float = Field(0.0, ge=0, le=1)
    """Largest shift of all values, drawn uniformly from +- this, for values in [0, 1]."""
    contrast: tuple[float, float] | None = None
    """Range of the contrast factor around the patch mean; null leaves it."""
    window: int = Field(4096, gt=0)
    """Number of samples that are shuffled together after the shards are."""
    crops_per_tile: int = Field(1, gt=0)
    """Crops taken from a tile each time it is decoded; the tile is then visited that many times in one window."""
    on_bad_sample: Literal["stop", "replace"] = "stop"
    """Whether a damaged sample ends training, or is replaced by another and logged."""
    read_threads: int = Field(1, ge=0)
    """Threads that read ahead; 0 reads in the training thread."""
    cache_gb: float | None = Field(None, gt=0, le=1_000_000)
    """Bound of the node-local cache for remote shards; null takes $SR_CACHE_GB, or 20 where it is not set."""

    @field_validator("sources")
    @classmethod
    def _comparable_weights(cls, sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        if len({source.weight is None for source in sources}) > 1:
            raise ValueError("some sources have a weight and some have none; give all of them one, or none")
        return sources

    @model_validator(mode="after")
    def _contrast_range(self) -> DataConfig:
        if self.contrast is not None and not 0 < self.contrast[0] <= self.contrast[1]:
            raise ValueError(f"contrast {list(self.contrast)} is not a range; give [low, high] with 0 < low <= high")
        return self
