"""How a pack is laid out: options, tiles, and which images lie in which group of which shard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

from harness.data.packing import survey
from harness.data.packing.survey import SourceImage
from harness.errors import InputError

Codec = Literal["npy", "png"]
T = TypeVar("T")

GROUP_BYTES = 16 << 20
_PNG_SHARE = 0.6
"""Guessed size of a PNG relative to its pixels; it only steers the size of shards."""


@dataclass(frozen=True)
class Options:
    """What decides the bytes of a pack, besides the images."""

    codec: Codec = "npy"
    tile_px: int = 192
    shard_mb: int = 256
    val: float | int = 0.05
    test: float | int = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.codec not in ("npy", "png"):
            raise InputError(f"codec '{self.codec}' is unknown; choose npy (raw, fastest) or png (smaller).")
        if self.tile_px and self.tile_px < survey.SMALLEST_PX:
            raise InputError(f"--tile {self.tile_px} is too small; give at least {survey.SMALLEST_PX}, or 0 for none.")
        if self.shard_mb < 1:
            raise InputError(f"--shard-mb {self.shard_mb} is too small; give at least 1.")


@dataclass(frozen=True)
class Group:
    """A stretch of a shard, written by one worker."""

    name: str
    images: tuple[SourceImage, ...]


def plan_shards(found: list[SourceImage], options: Options) -> list[tuple[str, list[Group]]]:
    """(shard file, its groups), in the order of the images; a shard holds one split."""
    shards: list[tuple[str, list[Group]]] = []
    for split in ("train", "val", "test"):
        chosen = [image for image in found if image.split == split]
        shard_bytes = options.shard_mb << 20
        pieces = _runs(chosen, min(GROUP_BYTES, shard_bytes), partial(_guess_bytes, options))
        groups = [Group("", tuple(piece)) for piece in pieces]
        parts = _runs(groups, shard_bytes, lambda g: sum(_guess_bytes(options, i) for i in g.images))
        for number, part in enumerate(parts):
            name = f"{split}-{number:06d}"
            named = [replace(group, name=f"{name}-{place:04d}") for place, group in enumerate(part)]
            shards.append((f"{name}.tar", named))
    return shards


def _runs(items: Sequence[T], bound: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    run: list[T] = []
    total = 0
    for item in items:
        if run and total + size(item) > bound:
            yield run
            run, total = [], 0
        run.append(item)
        total += size(item)
    if run:
        yield run


def _guess_bytes(options: Options, image: SourceImage) -> int:
    share = 1.0 if options.codec == "npy" else _PNG_SHARE
    places = tile_places(image.height, image.width, options.tile_px if image.split == "train" else 0)
    return sum(int(height * width * 3 * share) + 2560 for _, _, height, width in places)


def tile_places(height: int, width: int, tile_px: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the tiles of an image: as few as cover it, evenly spaced; 0 is the whole image."""
    if tile_px == 0:
        return [(0, 0, height, width)]
    return [(top, left, tile_px, tile_px) for top in _starts(height, tile_px) for left in _starts(width, tile_px)]


def _starts(length: int, tile_px: int) -> list[int]:
    count = math.ceil(length / tile_px)
    return [0] if count == 1 else [place * (length - tile_px) // (count - 1) for place in range(count)]
