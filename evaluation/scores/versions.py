"""Versions of everything that a number depends on."""

from __future__ import annotations

import platform
from importlib import metadata

from evaluation.metrics import METRICS
from evaluation.scores.code_version import code_version
from evaluation.scores.table import ScoreTable

_PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "numpy",
    "pandas",
    "pillow",
    "scipy",
    "lpips",
    "pytorch-fid",
    "matplotlib",
)


def versions() -> dict[str, str]:
    """Package -> version of what is used here; packages that are not installed are said to be so."""
    found = {"sr-harness": code_version(), "python": platform.python_version()}
    found["system"] = f"{platform.system()} {platform.machine()}"
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def data_facts(table: ScoreTable) -> dict[str, str]:
    """What was measured with: dataset fingerprints, code and metric versions, and the number of images."""
    images = table.images
    facts = {
        "dataset fingerprint": _distinct(images, "dataset_fingerprint"),
        "measured by code version": _distinct(images, "code_version"),
        "metric version": _distinct(images, "metric_version"),
        "images": f"{images['image'].nunique():,} ({len(images):,} scored outputs)",
    }
    facts |= {f"{METRICS[name].label}": METRICS[name].meaning for name in table.metrics}
    return {key: value for key, value in facts.items() if value}


def _distinct(frame: object, column: str) -> str:
    values = frame[column].dropna().astype(str).unique()  # type: ignore[index]
    return ", ".join(value for value in sorted(values) if value)
