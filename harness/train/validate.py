"""Scores and pictures of the averaged generator on whole validation images, while training goes on."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.config import RunConfig
from harness.data.cache import NodeCache
from harness.data.config import Kernel, SourceConfig
from harness.data.degrade import degrade_image, upscale_image
from harness.data.shards import Dataset
from harness.errors import InputError
from harness.files import whole
from harness.quality.color import luma
from harness.quality.psnr import psnr
from harness.quality.ssim import WINDOW_PX, ssim
from harness.train.nets import Nets
from harness.train.ranks import Ranks

_STRIP_PX = 192
_BATCH_PIXELS = 2**16
"""LR pixels of a forward pass: enough for a device to be busy, and a few hundred MB of activations."""


@dataclass(frozen=True)
class Pair:
    """A validation image, uint8 HWC; the LR one is made once."""

    lr_image: np.ndarray
    hr_image: np.ndarray


class Validation:
    """The first images of each source's `val` split, shared out over the ranks.

    PSNR and SSIM are of the Y channel with `scale` pixels cropped; the forward pass uses the run's precision. These are
    for watching: reported figures come from the evaluation module.
    """

    def __init__(self, config: RunConfig, sources: tuple[SourceConfig, ...], nets: Nets, ranks: Ranks) -> None:
        self._scale = config.scale
        self._nets = nets
        self._ranks = ranks
        self._num_pictures = config.validation.sample_images
        cache = NodeCache.of(config.data, sources)
        images = first_images(sources, config.validation.max_images, config.scale, cache)
        kernels = config.data.degradation.kernels
        kernel = max(kernels, key=lambda name: kernels[name])
        mine = images[ranks.rank :: ranks.world_size]
        self.pairs = [_pair(dataset, index, config.scale, kernel) for dataset, index in mine]
        self._batches = batches_of(self.pairs)

    @torch.no_grad()
    def run(self, pictures: Path | None) -> dict[str, float]:
        """Mean PSNR (dB) and SSIM over all images, {} where there are none; strips go to `pictures`, where given.

        An image that is restored exactly (a blank one, say) has an infinite PSNR, and is left out of its mean.
        """
        self._ranks.broadcast_buffers(self._nets.ema.module)
        sums = [0.0, 0.0, 0.0, 0.0]
        strips: list[np.ndarray] = []
        wanted = self._num_pictures if pictures is not None and self._ranks.is_main else 0
        for batch in self._batches:
            for pair, sr_image in zip(batch, self._super_resolve([pair.lr_image for pair in batch])):
                score_db, similarity = _scores(sr_image, pair.hr_image, self._scale)
                of_psnr = (0.0, 0.0) if math.isinf(score_db) else (score_db, 1.0)
                sums = [a + b for a, b in zip(sums, (*of_psnr, similarity, 1.0))]
                if len(strips) < wanted:
                    strips.append(_strip(pair, sr_image, self._scale))
        if strips and pictures is not None:
            _write_strips(strips, pictures)
        psnr_sum, num_finite, ssim_sum, count = self._ranks.total(sums)
        means = {"val/psnr": (psnr_sum, num_finite), "val/ssim": (ssim_sum, count)}
        return {name: total / number for name, (total, number) in means.items() if number}

    def psnr(self, sr_image: np.ndarray, pair: Pair) -> float:
        """PSNR (dB) of any image against a pair's HR image, by the same rule."""
        return _scores(sr_image, pair.hr_image, self._scale)[0]

    @property
    def largest(self) -> str:
        """Height and width of the largest image here."""
        largest = max((pair.hr_image for pair in self.pairs), key=lambda image: image.size)
        return f"{largest.shape[0]} x {largest.shape[1]} pixels"

    def _super_resolve(self, lr_images: list[np.ndarray]) -> np.ndarray:
        """SR images (uint8, B x H x W x 3) of LR images of one size, in one forward pass."""
        batch = torch.from_numpy(np.stack(lr_images)).to(self._ranks.device).permute(0, 3, 1, 2).float() / 255.0
        with self._ranks.accelerator.autocast():
            sr_image = self._nets.ema.module(batch).float()
        levels = (sr_image.clamp(0, 1) * 255.0).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu().numpy()


def batches_of(pairs: list[Pair]) -> list[list[Pair]]:
    """Pairs next to each other that have one size, as many to a batch as `_BATCH_PIXELS` allows; the order stays."""
    batches: list[list[Pair]] = []
    for pair in pairs:
        shape = pair.lr_image.shape
        room = max(1, _BATCH_PIXELS // (shape[0] * shape[1]))
        if batches and batches[-1][0].lr_image.shape == shape and len(batches[-1]) < room:
            batches[-1].append(pair)
        else:
            batches.append([pair])
    return batches


def first_images(
    sources: tuple[SourceConfig, ...], count: int, scale: int, cache: NodeCache | None = None
) -> list[tuple[Dataset, int]]:
    """Up to `count` validation images, taken from the sources' classes in turn.

    Raises:
        InputError: a source has none, or one is too small to be scored.
    """
    queues: list[list[tuple[Dataset, int]]] = []
    for source in sources if count else ():
        dataset = Dataset.open(source.path, cache)
        indices = _val_images(dataset, source)
        for name in source.classes or dataset.classes:
            of_class = indices[dataset.class_code[indices] == dataset.classes.index(name)]
            queues.append([(dataset, int(i)) for i in of_class])
    turns = range(min(count, max(map(len, queues), default=0)))
    chosen = [queue[turn] for turn in turns for queue in queues if turn < len(queue)]
    for dataset, index in chosen[:count]:
        check_size(dataset, index, scale)
    return chosen[:count]


def _val_images(dataset: Dataset, source: SourceConfig) -> np.ndarray:
    with suppress(InputError):
        return dataset.select("val", source.classes)
    of = f" of {', '.join(source.classes)}" if source.classes else ""
    raise InputError(
        f"{dataset.path}: has no images{of} to validate on; pack some with --val, or set validation.max_images=0."
    )


def check_size(dataset: Dataset, index: int, scale: int) -> None:
    """Raises:
    InputError: less is left of an image, cut to whole LR pixels and cropped, than the window of SSIM.
    """
    height, width = int(dataset.height[index]), int(dataset.width[index])
    smallest_px = -(-(WINDOW_PX + 2 * scale) // scale) * scale
    if min(height, width) < smallest_px:
        raise InputError(
            f"{dataset.path}: the val image '{dataset.key(index)}' is {width} x {height} px, but SSIM needs "
            f"{smallest_px} px at scale {scale}; pack larger images, or set validation.max_images=0."
        )


def _pair(dataset: Dataset, index: int, scale: int, kernel: Kernel) -> Pair:
    image = dataset.read(index)
    height, width = (edge - edge % scale for edge in image.shape[:2])
    hr_image = np.ascontiguousarray(image[:height, :width])
    return Pair(degrade_image(hr_image, scale, kernel), hr_image)


def _scores(sr_image: np.ndarray, hr_image: np.ndarray, border_px: int) -> tuple[float, float]:
    pair = torch.from_numpy(np.stack([sr_image, hr_image])).permute(0, 3, 1, 2).double()
    y = luma(pair)[:, :, border_px:-border_px, border_px:-border_px]
    return float(psnr(y[:1], y[1:], 255.0)), float(ssim(y[:1], y[1:], 255.0))


def _strip(pair: Pair, sr_image: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic, SR and HR side by side, the middle of the image."""
    bicubic = upscale_image(pair.lr_image, scale, "bicubic")
    top, left = (max(0, (edge - _STRIP_PX) // 2) for edge in pair.hr_image.shape[:2])
    crops = [image[top : top + _STRIP_PX, left : left + _STRIP_PX] for image in (bicubic, sr_image, pair.hr_image)]
    padded = [np.pad(c, ((0, _STRIP_PX - c.shape[0]), (0, _STRIP_PX - c.shape[1]), (0, 0))) for c in crops]
    return np.concatenate(padded, axis=1)


def _write_strips(strips: list[np.ndarray], path: Path) -> None:
    with whole(path) as part:
        Image.fromarray(np.concatenate(strips)).save(part, format="PNG")
