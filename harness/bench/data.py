"""`harness bench data`: the data plane's speed beside other loaders', in one process on one core, in one run.

Compare the rows of one table with each other; figures of different machines say little. On a busy machine take the
processor's time as the clock: the data lies in memory, so on an idle machine both clocks show the same.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.bench import data_peers, data_sidecar
from harness.bench.data_figures import ROUNDS, Clock, Figure, one_core, rate
from harness.data.config import DataConfig, DegradationConfig
from harness.data.loader import PatchLoader
from harness.data.pack import pack
from harness.data.prepare import Prepare
from harness.data.shards import Dataset
from harness.data.synth import CLASSES, draw

PATCH_PX = 128
BATCH = 32


def run(
    seconds: float = 1.0,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    cpu_time: bool = False,
) -> list[Figure]:
    """Measures everything on one core; takes one to two minutes.

    Args:
        seconds: length of a round of a measurement.
        folder: where the temporary datasets (about 1 GB) are made; None takes the system's.
        progress: called with (parts done, parts in all).
        cpu_time: measure this process's processor time instead of the wall clock.
    """
    Clock.now = staticmethod(time.process_time if cpu_time else time.perf_counter)
    parts = [_raw, _large, _png, _degradation, _order, _painting, _sidecar]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir=folder) as temporary, one_core():
        sources, packing = _make_datasets(Path(temporary))
        figures.append(packing)
        for number, part in enumerate(parts):
            if progress:
                progress(number, len(parts))
            figures += part(sources, seconds)
    if progress:
        progress(len(parts), len(parts))
    return figures


@dataclass(frozen=True)
class _Sources:
    """The datasets that are measured."""

    raw: Path
    large: Path
    png: Path
    png_files: Path


def _make_datasets(folder: Path) -> tuple[_Sources, Figure]:
    """4,096 raw tiles of 144 px, 24 raw images of 2040 x 1356, 256 PNG tiles of 480 px; and the speed of packing."""
    drawn = [draw(CLASSES[number % 5], 0, number, 576) for number in range(40)]
    mid, files, big = folder / "images", folder / "files", folder / "big"
    for path in (mid, files, big):
        path.mkdir()
    for number in range(256):
        image = np.roll(drawn[number % len(drawn)], 37 * number, axis=1)
        Image.fromarray(image).save(mid / f"{number:04d}.png", compress_level=6 if number < 40 else 1)
        Image.fromarray(np.ascontiguousarray(image[:480, :480])).save(files / f"{number:04d}.png")
    for number in range(24):
        Image.fromarray(np.tile(drawn[number], (3, 4, 1))[:1356, :2040]).save(big / f"{number}.png", compress_level=1)
    start = Clock.now()
    pack([mid], folder / "raw", tile_px=144, val=0, test=0, workers=1)
    speed = 256 * 576 * 576 * 3 / 1e6 / (Clock.now() - start)
    pack([big], folder / "large", tile_px=0, val=0, test=0, workers=1)
    pack([files], folder / "png", codec="png", tile_px=480, val=0, test=0, workers=1)
    packing = Figure("pack, raw tiles from PNG files", speed, "MB of pixels/s", at_least=60)
    return _Sources(folder / "raw", folder / "large", folder / "png", files), packing


def _raw(sources: _Sources, seconds: float) -> list[Figure]:
    first = _epoch(sources.raw, seconds)
    ours = {threads: _loading(sources.raw, seconds, read_threads=threads) for threads in (0, 1, 2)}
    best = max(ours, key=ours.__getitem__)
    figures = [
        Figure("raw tiles 144, crop 128", ours[best], "patches/s", at_least=30_000, note=f"{best} read-ahead threads"),
        *[Figure(f"  with {t} threads", value, "patches/s") for t, value in ours.items()],
        Figure("  first epoch, every checksum compared", first, "patches/s"),
        Figure("  a bare preadv of the crop's rows", _bare(sources.raw, seconds), "patches/s", note="the ceiling"),
    ]
    for name, step in data_peers.raw_peers(sources.raw, PATCH_PX, BATCH):
        value = rate(step, BATCH, seconds)
        wanted = 8.0 if "mosaicml" in name else None
        figures.append(Figure(name, value, "patches/s"))
        figures.append(Figure("  raw tiles are faster by", ours[best] / value, "times", at_least=wanted))
    simple = rate(data_peers.png_files(sources.png_files, PATCH_PX, BATCH), BATCH, seconds)
    figures.append(Figure("simple loader, one PNG 480 a sample", simple, "patches/s"))
    figures.append(Figure("  raw tiles are faster by", ours[best] / simple, "times", at_least=100))
    return figures


def _large(sources: _Sources, seconds: float) -> list[Figure]:
    small = max(_loading(sources.raw, seconds, read_threads=0) for _ in range(2))
    large = _loading(sources.large, seconds, read_threads=0)
    return [
        Figure("raw images 2040 x 1356, crop 128", large, "patches/s"),
        Figure("  small tiles are faster by", small / large, "times", at_most=2),
    ]


def _png(sources: _Sources, seconds: float) -> list[Figure]:
    figures = [
        Figure(
            f"PNG tiles 480, {crops} crops a tile",
            _loading(sources.png, seconds, read_threads=0, crops_per_tile=crops),
            "patches/s",
        )
        for crops in (1, 4, 16)
    ]
    figures += [
        Figure(f"  decoding PNG 480, {name}", rate(step, 1, seconds / 2), "images/s")
        for name, step in data_peers.decoders(sources.png_files)
    ]
    return figures


def _degradation(sources: _Sources, seconds: float) -> list[Figure]:
    loader = _loader(sources.raw, read_threads=0)
    batch = next(loader.batches(0))
    levels = batch.hr_BHWC.float()
    plain = Prepare(_data(sources.raw), 4, 0)
    kernels = DegradationConfig(kernels={"matlab-bicubic": 1, "cv2-cubic": 1, "area": 1, "nearest": 1}, noise_std=0.01)
    mixed = Prepare(_data(sources.raw, degradation=kernels, flip=True, rotate=True), 4, 0)
    lr_rate = rate(lambda: plain.degrade(levels, batch.position_B), BATCH, seconds)
    return [
        Figure("MATLAB bicubic 128 -> 32", lr_rate, "patches/s", at_least=18_000, note="two batched matrix products"),
        Figure("  uint8 batch to (LR, HR) in float", rate(lambda: plain(*_pair(batch)), BATCH, seconds), "patches/s"),
        Figure(
            "  the same, mixed kernels, noise, turns", rate(lambda: mixed(*_pair(batch)), BATCH, seconds), "patches/s"
        ),
    ]


def _order(sources: _Sources, seconds: float) -> list[Figure]:
    def resume() -> None:
        batches = loader.batches(1_000_000 * BATCH)
        next(batches)
        batches.close()  # type: ignore[attr-defined]

    loader = _loader(sources.raw, read_threads=0)
    return [Figure("first batch at step 1,000,000", 1000 / rate(resume, 1, seconds / 2), "ms", at_most=100)]


def _painting(sources: _Sources, seconds: float) -> list[Figure]:
    from harness.data.images import encode_png

    numbers = iter(range(10**9))

    def paint_one() -> None:
        number = next(numbers)
        encode_png(draw(CLASSES[number % 5], 0, number, 384))

    return [Figure("synth, 384 px, drawn and encoded", rate(paint_one, 1, seconds * 2), "images/s")]


def _sidecar(sources: _Sources, seconds: float) -> list[Figure]:
    with tempfile.TemporaryDirectory(dir=sources.raw.parent) as folder:
        spent, megabytes = data_sidecar.measure(Path(folder))
    return [
        Figure("opening a sidecar of 1,000,000 samples", spent, "s", at_most=1),
        Figure("  and what it costs", megabytes, "MB", at_most=150),
    ]


def _data(path: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"sources": [{"path": str(path)}], "patch_px": PATCH_PX, **values})


def _loader(path: Path, **values: object) -> PatchLoader:
    data = _data(path, **values)
    return PatchLoader(data, data.sources, seed=0, batch_size=BATCH)


def _loading(path: Path, seconds: float, **values: object) -> float:
    loader = _loader(path, **values)
    batches = loader.batches(0)
    for _ in range(min(200, loader.num_samples // BATCH)):
        next(batches)
    value = rate(lambda: next(batches), BATCH, seconds)
    batches.close()  # type: ignore[attr-defined]
    loader.close()
    return value


def _epoch(path: Path, seconds: float) -> float:
    """Patches a second of a first epoch, in which every sample is compared with its checksum."""
    best = 0.0
    for _ in range(ROUNDS):
        loader = _loader(path, read_threads=0)
        batches, steps = loader.batches(0), loader.num_samples // BATCH
        start = Clock.now()
        for _ in range(steps):
            next(batches)
        best = max(best, steps * BATCH / (Clock.now() - start))
        loader.close()
    return best


def _bare(path: Path, seconds: float) -> float:
    """`preadv` into one buffer, in a shuffled order, and nothing else."""
    dataset = Dataset.open(path)
    fd = dataset.shard_file(0).fd
    places = np.random.default_rng(0).permutation(dataset.offset).tolist()
    buffer = memoryview(bytearray(PATCH_PX * 144 * 3))

    def step() -> None:
        for place in places[:1024]:
            os.preadv(fd, [buffer], place)

    return rate(step, 1024, seconds)


def _pair(batch: object) -> tuple[torch.Tensor, torch.Tensor]:
    return batch.hr_BHWC, batch.position_B  # type: ignore[attr-defined]
