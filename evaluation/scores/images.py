"""The HR images that models are evaluated on, by split and class, and the conditions that are made of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np

from evaluation.config import EvaluateConfig
from evaluation.report.columns import class_place
from harness.data.config import Kernel, Split
from harness.data.shards import Dataset
from harness.errors import InputError

_CHUNK_IMAGES = 16
_CHUNK_PIXELS = 3_000_000
_BATCH_PIXELS = 600_000
_TILE_MARK = re.compile(r"-[0-9a-f]{10}-\d+x\d+$")


@dataclass(frozen=True)
class ImageInfo:
    """One HR image: enough to plan with, without reading it."""

    key: str
    height: int
    width: int
    grey: bool
    index: int
    source_hash: str
    """Of the image file that it was cut from: tiles of one image share it."""


class ImageSource(Protocol):
    """Where HR images come from; `DatasetImages` is the real one."""

    path: str
    fingerprint: str
    classes: list[str]

    def images(self, split: Split, image_class: str) -> Sequence[ImageInfo]:
        """The images of a class, in an order that never changes; empty where there are none."""

    def read(self, image: ImageInfo) -> np.ndarray:
        """The image, uint8 H x W x 3."""


class DatasetImages:
    """The images of a packed dataset."""

    def __init__(self, path: str) -> None:
        """Opens the dataset.

        Raises:
            DataError: there is none, or it is damaged.
        """
        self.path = path
        self._dataset = Dataset.open(path)
        self.fingerprint = self._dataset.fingerprint
        self.classes: list[str] = list(self._dataset.classes)

    def images(self, split: Split, image_class: str) -> Sequence[ImageInfo]:
        dataset = self._dataset
        if split not in dataset.splits or image_class not in dataset.classes:
            return []
        chosen = dataset.split_code == dataset.splits.index(split)
        chosen = chosen & (dataset.class_code == dataset.classes.index(image_class))
        indices = np.flatnonzero(chosen)
        return [self._info(int(index), key) for index, key in zip(indices, dataset.keys(indices))]

    def _info(self, index: int, key: str) -> ImageInfo:
        dataset = self._dataset
        size = int(dataset.height[index]), int(dataset.width[index])
        source_hash = f"{int(dataset.source_hash[index]):016x}"
        return ImageInfo(key, *size, bool(dataset.grey[index]), index, source_hash)

    def read(self, image: ImageInfo) -> np.ndarray:
        return self._dataset.read(image.index)


@dataclass(frozen=True)
class Condition:
    """A row of a matrix: a class, or several classes together, in one split under one degradation."""

    name: str
    image_class: str
    split: Split
    kernel: Kernel
    classes: tuple[str, ...]


def conditions_of(config: EvaluateConfig, source: ImageSource) -> list[Condition]:
    """Split x kernel x class, and a pooled row each where asked for and no class bears its name.

    A condition is named by its class, with the kernel and the split before it only where several are evaluated.
    Classes that the configuration does not name stand in the dataset's order, `general` and `all` last.

    Raises:
        InputError: a class that the dataset does not have.
    """
    classes = list(config.classes or sorted(source.classes, key=class_place))
    unknown = [name for name in classes if name not in source.classes]
    if unknown:
        raise InputError(f"{source.path}: has no class '{unknown[0]}'; choose among {', '.join(source.classes)}.")
    conditions = []
    for split in config.splits:
        for kernel in config.kernels:
            before = [split] * (len(config.splits) > 1) + [kernel] * (len(config.kernels) > 1)
            for image_class in classes:
                name = "/".join([*before, image_class])
                conditions.append(Condition(name, image_class, split, kernel, (image_class,)))
            if config.pool is not None and config.pool not in classes:
                name = "/".join([*before, config.pool])
                conditions.append(Condition(name, config.pool, split, kernel, tuple(classes)))
    return conditions


@dataclass(frozen=True)
class Chunk:
    """Some images of one class in one split: what is read, measured and stored together."""

    split: Split
    image_class: str
    images: tuple[ImageInfo, ...]

    @property
    def keys(self) -> list[str]:
        return [image.key for image in self.images]

    def cell_name(self, fingerprint: str, scale: int, kernel: str) -> str:
        """A readable name with a hash of all that decides the HR and LR images; kernel `hr` for the HR images."""
        text = "/".join([fingerprint, self.split, self.image_class, kernel, str(scale), *self.keys])
        return f"{_slug(self.image_class)}-{kernel}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def chunks_of(split: Split, image_class: str, source: ImageSource, max_images: int | None) -> list[Chunk]:
    """All images of a class in chunks, equal sizes together; what a kill loses is at most one chunk a worker."""
    images = sorted(source.images(split, image_class)[:max_images], key=lambda i: (i.height, i.width, i.grey, i.key))
    chunks: list[list[ImageInfo]] = []
    pixels = 0
    for image in images:
        size = image.height * image.width
        if not chunks or len(chunks[-1]) == _CHUNK_IMAGES or pixels + size > _CHUNK_PIXELS:
            chunks.append([])
            pixels = 0
        chunks[-1].append(image)
        pixels += size
    return [Chunk(split, image_class, tuple(chunk)) for chunk in chunks]


def batches_of(chunk: Chunk) -> list[tuple[ImageInfo, ...]]:
    """The chunk's images in batches of one size and colour kind that bound the networks' memory."""
    batches = []
    for (height, width, _), same in groupby(chunk.images, key=lambda i: (i.height, i.width, i.grey)):
        images = list(same)
        count = max(1, _BATCH_PIXELS // max(1, height * width))
        batches += [tuple(images[i : i + count]) for i in range(0, len(images), count)]
    return batches


def name_of_image(key: str) -> str:
    """CLASS/FILE, as the packed photograph was named: an image's key without what packing added."""
    return _TILE_MARK.sub("", key)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name)[:40]
