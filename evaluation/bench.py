"""How fast evaluation is, against bars that are measured in the same run (`harness bench eval`).

Ratios are those of processor time, which other programs on the machine disturb less than the time on the wall; the
details give both.

Networks have random weights of the real sizes, because only their cost matters here. The simulated models of the
scale rows give back a prepared image, so that what is measured is the evaluation itself.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from evaluation.collect import evaluate
from evaluation.config import EvaluateConfig
from evaluation.frechet import FEATURE_DIM, FeatureStatistics, frechet_distance
from evaluation.images import ImageInfo
from evaluation.inception import FIDInception, fid_inception_skeleton
from evaluation.measures import Measures, unit_range
from evaluation.model import Model
from evaluation.networks import Located, Networks
from evaluation.roster import Entry
from evaluation.upsamplers import MethodUpsampler, NetworkUpsampler, Upsampler
from harness.data.degrade import degrade_image
from harness.models.build import build_generator
from harness.models.config import SRResNetConfig
from harness.networks import Network
from harness.quality.lpips import LPIPS

SCALE: Final = 4
Say = Callable[[str], None]


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
        return [ImageInfo(f"{image_class}/{i}", *size, i) for i in range(self.images_per_class)]

    def read(self, image: ImageInfo) -> np.ndarray:
        return self._pool_KHWC[image.index % len(self._pool_KHWC)]


def run(
    images_per_class: int = 2, scale_images: int = 2000, cells: Sequence[int] = (10, 30, 100), say: Say = print
) -> list[Figure]:
    """All figures. The defaults take a few minutes on 2 cores; the ratios do not depend on the number of images."""
    figures = []
    say("PSNR and SSIM against a numpy implementation ...")
    figures.append(measure_pair_speed())
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        say("a 6 x 6 matrix against the bare networks ...")
        figures += measure_matrix(Path(folder), images_per_class)
        say("memory over the number and the size of images ...")
        figures += measure_memory(scale_images)
        say("cost over the number of cells ...")
        figures.append(measure_linearity(Path(folder), cells))
    return figures


def print_figures(console: Console, figures: Sequence[Figure]) -> None:
    """The figures as a table."""
    table = Table("evaluation", "measured", "bar", "met", "detail")
    for figure in figures:
        sign = "at least" if figure.at_least else "at most"
        met = "yes" if figure.met else "NO"
        table.add_row(figure.what, f"{figure.value:.3g} {figure.unit}", f"{sign} {figure.bar:g}", met, figure.detail)
    console.print(table)


# --- measures -----------------------------------------------------------------------------------------------------


def measure_pair_speed(edge_px: int = 256, others_px: Sequence[int] = (128, 200, 248, 383, 512)) -> Figure:
    """PSNR + SSIM on Y of an image: ours against the plain numpy form in float64 (11 x 11 filters by OpenCV)."""
    factor, detail = _pair_speed(edge_px)
    others = ", ".join(f"{_pair_speed(px, budget_s=1.0)[0]:.1f} at {px}" for px in others_px)
    detail += f"; {others}" if others else ""
    return Figure("PSNR + SSIM, times numpy's speed", factor, "x", 7.0, True, detail)


def _pair_speed(edge_px: int, budget_s: float = 4.0) -> tuple[float, str]:
    random = np.random.default_rng(0)
    hr_NHWC = random.integers(0, 256, (1, edge_px, edge_px, 3), dtype=np.uint8)
    sr_NHWC = np.clip(hr_NHWC + random.normal(0, 9, hr_NHWC.shape), 0, 255).astype(np.uint8)
    measures = Measures(("psnr", "ssim"), "y", SCALE, Networks(Located()))
    ours = _best_s(lambda: measures.scores(sr_NHWC, measures.reference(hr_NHWC)), budget_s)
    plain = _best_s(lambda: _plain_psnr_and_ssim(sr_NHWC[0], hr_NHWC[0]), budget_s)
    measured = measures.scores(sr_NHWC, measures.reference(hr_NHWC))
    expected = _plain_psnr_and_ssim(sr_NHWC[0], hr_NHWC[0])
    worst = max(abs(measured["psnr"][0] - expected[0]), abs(measured["ssim"][0] - expected[1]))
    return plain / ours, f"{1 / ours:.0f} against {1 / plain:.0f} images/s at {edge_px} px, differing by {worst:.0e}"


def _plain_psnr_and_ssim(sr_HWC: np.ndarray, hr_HWC: np.ndarray) -> tuple[float, float]:
    """The usual numpy form: each measure converts for itself, and filters five maps in two dimensions."""
    sr, hr = _plain_luma(sr_HWC), _plain_luma(hr_HWC)
    value = 10 * np.log10(255.0**2 / np.mean((sr - hr) ** 2))
    return float(value), _plain_ssim(_plain_luma(sr_HWC), _plain_luma(hr_HWC))


def _plain_luma(image_HWC: np.ndarray) -> np.ndarray:
    cropped = image_HWC[SCALE:-SCALE, SCALE:-SCALE].astype(np.float64)
    return cropped @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def _plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    import cv2

    line = cv2.getGaussianKernel(11, 1.5)
    window = line @ line.T

    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.filter2D(x, -1, window)[5:-5, 5:-5]

    mean_a, mean_b = blur(a), blur(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances = blur(a**2) - mean_a**2 + blur(b**2) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(top / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))))


# --- a matrix -----------------------------------------------------------------------------------------------------


def measure_matrix(folder: Path, images_per_class: int, num: int = 6, edge_px: int = 384) -> list[Figure]:
    """A num x num matrix with every measure, against the bare forwards; and what one more model costs."""
    files = _random_networks(folder)
    source = DrawnImages(num, images_per_class, edge_px)
    config = EvaluateConfig(scale=SCALE, metrics=("mse", "psnr", "ssim", "lpips-alex", "fid", "kid"), device="cpu")
    models = _named_files(folder, num)
    out = folder / "matrix"

    def evaluated(chosen: list[Model]) -> Spent:
        options: dict[str, Any] = {"source": source, "find": files.__getitem__, "opener": _open_srresnet}
        return spent(lambda: evaluate(chosen, config, out, **options))

    bare = _bare(source, models, files)
    most, one = evaluated(models[:-1]), evaluated(models)
    whole, again = most + one, evaluated(models)
    detail = f"{whole} against {bare}, {images_per_class} images a class of {edge_px} px"
    parts = f"{one} of {whole}; above 1 by start-up and the HR images' LPIPS features"
    return [
        Figure(f"{num} x {num} matrix, times the bare networks", whole.cpu_s / bare.cpu_s, "x", 1.3, False, detail),
        Figure(
            f"one more model, share of the whole times {num}", one.cpu_s / whole.cpu_s * num, "x", 1.3, False, parts
        ),
        Figure("the same again, all cached", again.cpu_s / whole.cpu_s, "of the whole", 0.01, False, str(again)),
    ]


def _bare(source: DrawnImages, models: list[Model], files: dict[str, Path]) -> Spent:
    """The forwards alone: each model once per image, each measure's network once per SR and HR image."""
    lpips, inception = LPIPS("alex", files["alexnet"]), FIDInception(files["inception-fid"])
    images = [source.read(info) for name in source.classes for info in source.images("test", name)]
    batches = [np.stack(images[start : start + 4]) for start in range(0, len(images), 4)]
    lr_batches = [np.stack([degrade_image(image, SCALE) for image in batch]) for batch in batches]
    total = Spent()
    with torch.inference_mode():
        for model in models:
            network = _srresnet(model.name).network.module
            for lr_NHWC, hr_NHWC in zip(lr_batches, batches):
                lr_BCHW, sr_BCHW = unit_range(lr_NHWC), unit_range(hr_NHWC)
                total += spent(partial(network, lr_BCHW)) + _described(sr_BCHW, lpips, inception)
        for hr_NHWC in batches:
            total += _described(unit_range(hr_NHWC), lpips, inception)
    return total


def _described(image_BCHW: torch.Tensor, lpips: LPIPS, inception: FIDInception) -> Spent:
    """One pass of each measure's network."""
    return spent(lambda: lpips.describe(image_BCHW)) + spent(lambda: inception.describe(image_BCHW))


def _random_networks(folder: Path) -> dict[str, Path]:
    """Networks of the real shapes with random weights, as files."""
    from torchvision.models import alexnet

    files = {"alexnet": folder / "alexnet.pth", "inception-fid": folder / "inception.pth"}
    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), files["alexnet"])
    torch.save(fid_inception_skeleton().state_dict(), files["inception-fid"])
    return files


def _named_files(folder: Path, count: int) -> list[Model]:
    """Models by name only: an opener makes them."""
    models = []
    for number in range(count):
        path = folder / f"model{number:03d}"
        path.write_text(path.name)
        models.append(Model(path.name, "spandrel", str(path)))
    return models


def _open_srresnet(entry: Entry, scale: int, tile_px: int | None, device: str) -> Upsampler:
    return _srresnet(entry.model.name)


def _srresnet(name: str) -> NetworkUpsampler:
    """SRGAN's generator in its published size."""
    torch.manual_seed(int.from_bytes(name.encode()[-3:], "big"))
    module = build_generator(SRResNetConfig.model_validate({}), SCALE).eval().requires_grad_(False)
    return NetworkUpsampler(Network(module.to(memory_format=torch.channels_last), SCALE), name)  # type: ignore[call-overload]


# --- scale --------------------------------------------------------------------------------------------------------


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
        source, models = DrawnImages(size, images_per_class, edge_px), _named_files(folder, size)
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
    command = [sys.executable, "-m", "evaluation.bench", what, str(count), str(edge_px)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _evaluate_many(count: int, edge_px: int) -> None:
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as name:
        folder = Path(name)
        config = EvaluateConfig(scale=SCALE, metrics=("mse", "psnr", "ssim", "color-shift"))
        source = DrawnImages(1, count, edge_px)
        evaluate(_named_files(folder, 1), config, folder / "out", source=source, opener=_Simulated)


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


def _best_s(work: Callable[[], object], budget_s: float = 4.0) -> float:
    """The shortest of several runs: what others do on the machine only adds."""
    work()
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < budget_s:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


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
