"""What the evaluation's benchmarks share: figures with their bars, seconds, drawn images, models by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from evaluation.model import Model
from evaluation.scores.images import ImageInfo

SCALE: Final = 4


@dataclass(frozen=True)
class Spent:
    """Seconds of the processor (all threads of this process) and on the wall."""

    cpu_s: float = 0.0
    wall_s: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.cpu_s + other.cpu_s, self.wall_s + other.wall_s)

    def __str__(self) -> str:
        return f"{self.cpu_s:.1f} s ({self.wall_s:.1f} s on the wall)"


def spent(work: Callable[[], object]) -> Spent:
    """What a piece of work takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


@dataclass(frozen=True)
class Figure:
    """A measured figure and the bar that it has to meet."""

    what: str
    value: float
    unit: str
    bar: float
    at_least: bool
    detail: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.bar if self.at_least else self.value <= self.bar


class DrawnImages:
    """HR images made of noise, drawn when they are read; any number of them."""

    path = "drawn"
    fingerprint = "drawn"

    def __init__(self, num_classes: int, images_per_class: int, edge_px: int) -> None:
        self.classes = [f"class{number:03d}" for number in range(num_classes)]
        self.images_per_class = images_per_class
        self.edge_px = edge_px
        self._pool_KHWC = np.random.default_rng(0).integers(0, 256, (8, edge_px, edge_px, 3), dtype=np.uint8)

    def images(self, split: str, image_class: str) -> list[ImageInfo]:
        size = (self.edge_px, self.edge_px, False)
        names = [f"{image_class}/{i}" for i in range(self.images_per_class)]
        return [ImageInfo(name, *size, index, name) for index, name in enumerate(names)]

    def read(self, image: ImageInfo) -> np.ndarray:
        return self._pool_KHWC[image.index % len(self._pool_KHWC)]


def named_files(folder: Path, count: int) -> list[Model]:
    """Models by name only: an opener makes them."""
    models = []
    for number in range(count):
        path = folder / f"model{number:03d}"
        path.write_text(path.name)
        models.append(Model(path.name, "spandrel", str(path)))
    return models
