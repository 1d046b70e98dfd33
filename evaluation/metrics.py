"""The table of measures: what each is called, which way is better, and which network it needs. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

MetricName = Literal[
    "mse",
    "psnr",
    "ssim",
    "lpips-alex",
    "lpips-vgg",
    "lpips-squeeze",
    "color-shift",
    "fid",
    "kid",
    "kid-paired",
    "diversity",
    "diversity-cost",
]
Scope = Literal["image", "set"]

FEW_IMAGES_FOR_FID = 2048
NOISE_METRICS = ("diversity", "diversity-cost")
"""Measured on outputs of inputs with noise, so not on images that somebody else has made."""


@dataclass(frozen=True)
class Metric:
    """One measure of the score table."""

    name: MetricName
    label: str
    """How tables and figures name it."""
    higher_is_better: bool
    unit: str
    digits: int
    """Digits after the point in tables."""
    scope: Scope
    """`image`: a column with a number per image; `set`: a number per (model, condition)."""
    version: int
    """Raised when the way of measuring changes: numbers of another version are measured again."""
    meaning: str
    deviation: str = ""
    """What the deviation of one model's number is, where it has one."""


_OVER_IMAGES = "the deviation over images"
_OF_KID = "the standard error (above 1,000 images the deviation over subsets)"

_TABLE = (
    Metric("mse", "MSE", False, "", 6, "image", 1, "mean squared error of RGB values in [-1, 1]"),
    Metric("psnr", "PSNR", True, "dB", 2, "image", 1, "peak signal-to-noise ratio"),
    Metric("ssim", "SSIM", True, "", 4, "image", 1, "structural similarity, 11 x 11 Gaussian window"),
    Metric("lpips-alex", "LPIPS (Alex)", False, "", 4, "image", 1, "learned perceptual distance, AlexNet"),
    Metric("lpips-vgg", "LPIPS (VGG)", False, "", 4, "image", 1, "learned perceptual distance, VGG16"),
    Metric("lpips-squeeze", "LPIPS (Squeeze)", False, "", 4, "image", 1, "learned perceptual distance, SqueezeNet"),
    Metric("color-shift", "Colour shift", False, "", 2, "image", 1, "distance of the mean (a*, b*) in CIELAB"),
    Metric("fid", "FID", False, "", 2, "set", 1, "Frechet distance of Inception features"),
    Metric("kid", "KID", False, "", 5, "set", 2, "kernel distance of Inception features", _OF_KID),
    Metric(
        "kid-paired",
        "KID (pairs)",
        False,
        "",
        5,
        "set",
        1,
        "KID without an image's likeness to its own restoration",
        _OF_KID,
    ),
    Metric(
        "diversity",
        "Diversity",
        True,
        "",
        3,
        "set",
        2,
        "mean distance of outputs for inputs that differ by noise",
        _OVER_IMAGES,
    ),
    Metric(
        "diversity-cost",
        "Cost of diversity",
        False,
        "dB",
        2,
        "set",
        1,
        "PSNR that this noise takes from the outputs",
        _OVER_IMAGES,
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
assert set(METRICS) == set(get_args(MetricName))


def small_set_note(metric: str, num_images: int) -> str:
    """The warning that every FID on fewer than 2,048 images carries; empty for other measures."""
    if metric != "fid" or num_images >= FEW_IMAGES_FOR_FID:
        return ""
    return (
        f"FID on {num_images:,} images: below {FEW_IMAGES_FOR_FID:,} images it is far too high; compare it only with "
        "FIDs of as many images, or read kid-paired"
    )


def names_of(scope: Scope, chosen: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The names of the (chosen) metrics of a scope, in the table's order."""
    return tuple(m.name for m in _TABLE if m.scope == scope and (chosen is None or m.name in chosen))
