"""What many images, large images and many models cost (the scale rows of `harness bench eval`).

Memory is measured in fresh processes: `python -m evaluation.bench.scale images|statistics|large COUNT EDGE_PX`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from evaluation.bench.subjects import SCALE, DrawnImages, Figure, named_files, spent
from evaluation.config import EvaluateConfig
from evaluation.scores.collect import evaluate
from evaluation.scores.frechet import FEATURE_DIM, FeatureStatistics, frechet_distance
from evaluation.scores.measures import Measures
from evaluation.scores.networks import Located, Networks
from evaluation.scores.roster import Entry
from evaluation.scores.upsamplers import MethodUpsampler


def measure_memory(num_images: int, edge_px: int = 256) -> list[Figure]:
    """Peak memory of whole processes: an evaluation, extrapolated from its growth to 50,000 images; FID's statistics of
    as many; LPIPS by VGG of one large image.
    """
    few, many = (_peak_gib("images", count, edge_px) for count in (num_images // 4, num_images))
    growth = max(0.0, many - few) / (num_images - num_images // 4)
    whole = many + growth * (50_000 - num_images)
    detail = f"{few:.2f} GiB at {num_images // 4:,} images, {many:.2f} at {num_images:,}"
    statistics, large = _peak_gib("statistics", 50_000, 0), _peak_gib("large", 1, 1200)
    return [
        Figure(f"memory for 50,000 images of {edge_px} px", whole, "GiB", 2.0, False, detail),
        Figure("memory of FID's statistics of 50,000 images", statistics, "GiB", 2.0, False, "a stream of features"),
        Figure("memory of LPIPS (VGG) of 1800 x 1200 px", large, "GiB", 2.0, False, "in tiles"),
    ]


def measure_linearity(folder: Path, sizes: Sequence[int], images_per_class: int = 2, edge_px: int = 32) -> Figure:
    """Processor time of a cell of n models x n classes, simulated forwards: the largest n against the smallest."""
    per_cell = []
    for size in sizes:
        source, models = DrawnImages(size, images_per_class, edge_px), named_files(folder, size)
        config = EvaluateConfig(scale=SCALE, metrics=("mse", "psnr", "ssim"))
        run = partial(evaluate, models, config, folder / f"cells{size}", source=source, opener=_Simulated)
        per_cell.append(spent(run).cpu_s / size**2)
    detail = ", ".join(f"{size} x {size}: {cell * 1e3:.1f} ms a cell" for size, cell in zip(sizes, per_cell))
    return Figure(
        "cost of a cell, largest against smallest matrix", per_cell[-1] / per_cell[0], "x", 1.3, False, detail
    )


class _Simulated(MethodUpsampler):
    """Gives pixels at the right size for next to no time."""

    def __init__(self, entry: Entry, scale: int, tile_px: int | None, device: str) -> None:
        super().__init__("nearest", scale)

    def batch(self, lr_NHWC: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return lr_NHWC.repeat(self.scale, axis=1).repeat(self.scale, axis=2), np.ones(len(lr_NHWC), bool)


def _peak_gib(what: str, count: int, edge_px: int) -> float:
    """Peak resident memory of a fresh process that does `what`."""
    command = [sys.executable, "-m", "evaluation.bench.scale", what, str(count), str(edge_px)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _evaluate_many(count: int, edge_px: int) -> None:
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as name:
        folder = Path(name)
        config = EvaluateConfig(scale=SCALE, metrics=("mse", "psnr", "ssim", "color-shift"))
        source = DrawnImages(1, count, edge_px)
        evaluate(named_files(folder, 1), config, folder / "out", source=source, opener=_Simulated)


def _gather_statistics(count: int) -> None:
    random = np.random.default_rng(0)
    real, fake = FeatureStatistics(), FeatureStatistics()
    for _ in range(0, count, 500):
        real.add(random.standard_normal((500, FEATURE_DIM), np.float32))
        fake.add(random.standard_normal((500, FEATURE_DIM), np.float32))
    frechet_distance(real, fake)


def _measure_large(edge_px: int) -> None:
    """One pair of 3:2 by every measure of pixels and LPIPS with VGG, the largest of its networks."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = {f"features.{key}": value.shape for key, value in vgg16(weights=None).features.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as name:
        file = Path(name) / "vgg16.pth"
        torch.save({key: torch.randn(shape) / 50 for key, shape in shapes.items()}, file)
        networks = Networks(Located({"lpips-vgg": file}))
    measures = Measures(("mse", "psnr", "ssim", "lpips-vgg"), "y", SCALE, networks)
    random = np.random.default_rng(0)
    hr_NHWC, sr_NHWC = (random.integers(0, 256, (1, edge_px, edge_px * 3 // 2, 3), dtype=np.uint8) for _ in "hs")
    measures.scores(sr_NHWC, measures.reference(hr_NHWC))


def _main(what: str, count: int, edge_px: int) -> None:
    if what == "images":
        _evaluate_many(count, edge_px)
    elif what == "large":
        _measure_large(edge_px)
    else:
        _gather_statistics(count)
    print(_own_peak_kib() / 2**20)


def _own_peak_kib() -> float:
    """Peak resident memory of this process; `getrusage` would count what its parent held when it was forked."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return float(peak) if peak is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
