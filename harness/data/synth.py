"""The embedded dataset: procedurally drawn landscapes in classes, written as PNG folders.

An image is a function of (class, seed, index) alone, so any number of workers draws the same files and a larger
dataset holds a smaller one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from harness import random
from harness.data.drawing.landscapes import PAINTERS, paint
from harness.data.images import encode_png, read_image
from harness.data.workers import num_workers, pool
from harness.errors import InputError
from harness.files import not_written, whole

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
    """Draws `images_per_class` PNG files into `out/CLASS/` for each class; those that are there already are kept.

    Args:
        progress: called with (images done, images in all).

    Returns:
        The number of images that were drawn now.

    Raises:
        InputError: a count or size that is too small, or an output folder that cannot be written or holds images of
            another size or seed.
    """
    if images_per_class < 1:
        raise InputError(f"--images-per-class {images_per_class} is too few; give at least 1.")
    if size_px < _SMALLEST_PX:
        raise InputError(f"--size {size_px} is too small for a landscape; give at least {_SMALLEST_PX}.")
    workers = num_workers(workers)
    _check_same(out, seed, size_px)
    try:
        for class_name in CLASSES:
            (out / class_name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(out, error) from None
    jobs = [
        (class_name, first, min(first + _CHUNK, images_per_class))
        for class_name in CLASSES
        for first in range(0, images_per_class, _CHUNK)
    ]
    total = images_per_class * len(CLASSES)
    done = drawn = 0
    with pool(workers, len(jobs)) as run:
        for count, new in run(partial(_draw_some, out, seed, size_px), jobs):
            done, drawn = done + count, drawn + new
            if progress:
                progress(done, total)
    return drawn


def _check_same(out: Path, seed: int, size_px: int) -> None:
    """That what an earlier command drew there, judged by its first image, is what this one would draw."""
    first = _path(out, CLASSES[0], 0)
    if first.is_file() and not np.array_equal(read_image(first), draw(CLASSES[0], seed, 0, size_px)):
        raise InputError(f"{out}: holds images of another --size or --seed; give another --out, or remove that folder.")


def _path(out: Path, class_name: str, index: int) -> Path:
    return out / class_name / f"{class_name}_{index:05d}.png"


def _draw_some(out: Path, seed: int, size_px: int, job: tuple[str, int, int]) -> tuple[int, int]:
    class_name, first, end = job
    new = 0
    for index in range(first, end):
        path = _path(out, class_name, index)
        if path.exists():
            continue
        with whole(path) as part:
            part.write_bytes(encode_png(draw(class_name, seed, index, size_px)))
        new += 1
    return end - first, new
