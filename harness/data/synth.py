"""The embedded dataset: procedurally drawn landscapes in classes, written as PNG folders.

An image is a function of (class, seed, index) alone, so any number of workers draws the same files and a larger
dataset holds a smaller one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from harness import random
from harness.data.images import encode_png
from harness.data.landscapes import PAINTERS, paint
from harness.data.workers import pool
from harness.errors import InputError

CLASSES = ("beach", "mountain", "desert", "sea", "island", "general")
"""The five landscapes, and `general`: landscapes of all five kinds, other images than theirs."""
_SMALLEST_PX = 32
_CHUNK = 16


def draw(class_name: str, seed: int, index: int, size_px: int) -> np.ndarray:
    """Image number `index` of a class, uint8 size_px x size_px x 3."""
    rng = np.random.Generator(np.random.SFC64(random.key(seed, "synth", class_name, index)))
    painter = class_name
    if class_name == "general":
        names = sorted(PAINTERS)
        painter = names[int(rng.integers(len(names)))]
    return paint(rng, painter, size_px)


def write_dataset(
    out: Path,
    images_per_class: int = 200,
    size_px: int = 384,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Draws `images_per_class` PNG files into `out/CLASS/` for each class; files that exist are kept.

    Args:
        progress: called with (images done, images in all).

    Returns:
        The number of images that were drawn now.

    Raises:
        InputError: a count or size that is too small, or an output folder that cannot be written.
    """
    if images_per_class < 1:
        raise InputError(f"--images-per-class {images_per_class} is too few; give at least 1.")
    if size_px < _SMALLEST_PX:
        raise InputError(f"--size {size_px} is too small for a landscape; give at least {_SMALLEST_PX}.")
    try:
        for class_name in CLASSES:
            (out / class_name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another --out.") from None
    jobs = [
        (class_name, first, min(first + _CHUNK, images_per_class))
        for class_name in CLASSES
        for first in range(0, images_per_class, _CHUNK)
    ]
    total = images_per_class * len(CLASSES)
    done = drawn = 0
    with pool(workers or len(os.sched_getaffinity(0)), len(jobs)) as run:
        for count, new in run(partial(_draw_some, out, seed, size_px), jobs):
            done, drawn = done + count, drawn + new
            if progress:
                progress(done, total)
    return drawn


def _draw_some(out: Path, seed: int, size_px: int, job: tuple[str, int, int]) -> tuple[int, int]:
    class_name, first, end = job
    new = 0
    for index in range(first, end):
        path = out / class_name / f"{class_name}_{index:05d}.png"
        if path.exists():
            continue
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_bytes(encode_png(draw(class_name, seed, index, size_px)))
        os.replace(part, path)
        new += 1
    return end - first, new
