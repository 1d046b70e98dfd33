"""What is measured, on which images, and what the report shows. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from evaluation.metrics import MetricName
from harness.data.config import Kernel, Split
from harness.schema import Section

Baseline = Literal["nearest", "bilinear", "bicubic"]


class DiversityConfig(Section):
    """How the spread of a model's outputs is provoked (the perceptual project's noise on the input)."""

    num_samples: int = Field(default=4, ge=2)
    """Outputs per image."""
    noise_std: float = Field(default=0.02, gt=0)
    """Gaussian noise on the LR image, for values in [0, 1]."""


class ReportConfig(Section):
    """What the report shows; nothing here changes a score."""

    matrix_metrics: tuple[MetricName, ...] | None = None
    """Metrics that get a class-by-model matrix; null takes all that were measured."""
    table_axes: tuple[str, ...] | None = None
    """Axes of the sweep that become the table's rows; null takes all axes."""
    table_metrics: tuple[MetricName, ...] | None = None
    """Columns of the table; null takes all that were measured."""
    reference: str | None = None
    """A published table to show beside: a name in evaluation/report/reference, or the path of a CSV file."""
    compare: bool = True
    """Test `specialised beats general` and its like by a paired sign-flip test."""
    resamples: int = Field(default=10_000, gt=0)
    """Random sign flips where there are more images than can be flipped in all ways."""
    seed: int = Field(default=0, ge=0)
    num_strips: int = Field(default=6, ge=0)
    """Picture strips; 0 shows none."""


class EvaluateConfig(Section):
    """Which images, which degradations and which measures; together with the models this decides every score."""

    dataset: str | None = None
    """Packed dataset to evaluate on; null takes the first training source of the models."""
    splits: tuple[Split, ...] = ("test",)
    classes: tuple[str, ...] | None = None
    """Rows of the matrix; null takes all classes of the dataset."""
    pool: str | None = None
    """Name of one more row that holds the images of all classes together; null has none."""
    kernels: tuple[Kernel, ...] = ("matlab-bicubic",)
    scale: Literal[2, 4, 8, 16] | None = None
    """Null takes the models' own; needed where no model says it."""
    max_images: int | None = Field(default=None, gt=0)
    """At most so many images of each class and split, chosen by the dataset's order; null takes all."""
    metrics: tuple[MetricName, ...] = ("mse", "psnr", "ssim")
    color: Literal["y", "rgb"] = "y"
    """PSNR and SSIM on BT.601 luma or on RGB."""
    border_px: int | None = Field(default=None, ge=0)
    """Pixels cropped from each edge before MSE, PSNR and SSIM; null crops `scale`."""
    baselines: tuple[Baseline, ...] = ("nearest", "bicubic")
    models: tuple[str, ...] = ()
    """More columns, each PATH or NAME=PATH: a run, a checkpoint, another project's file, a folder of SR images."""
    latest: bool = False
    """Evaluate the newest checkpoint of runs that are not finished."""
    tile_px: int | None = Field(default=None, gt=0)
    """Edge of the LR tiles in which large images go through a network; null feeds images up to a megapixel whole."""
    diversity: DiversityConfig = DiversityConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; auto takes a GPU where there is one. Always in float32 proper (no TF32)."""
    workers: int | None = Field(default=None, gt=0)
    """Processes that share the work on one machine; null takes as many as the cluster profile runs jobs at once, and
    fewer where there is little to do."""
    report: ReportConfig = ReportConfig()

    @field_validator("splits", "kernels", "metrics")
    @classmethod
    def _at_least_one(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not values or len(set(values)) != len(values):
            raise ValueError("give at least one, and none twice")
        return values

    @model_validator(mode="after")
    def _pool_is_no_class(self) -> EvaluateConfig:
        if self.pool is not None and self.classes is not None and self.pool in self.classes:
            raise ValueError(f"pool '{self.pool}' is also a class; give the pooled row another name")
        return self
