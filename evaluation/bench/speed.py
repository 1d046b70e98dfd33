"""How fast evaluation is, against bars that are measured in the same run (`harness bench eval`).

Ratios are those of processor time, which other programs on the machine disturb less than the time on the wall; the
details give both.

Networks have random weights of the real sizes, because only their cost matters here. The simulated models of the
scale rows give back a prepared image, so that what is measured is the evaluation itself.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from evaluation.bench.scale import measure_linearity, measure_memory
from evaluation.bench.subjects import SCALE, DrawnImages, Figure, Spent, named_files, spent
from evaluation.config import EvaluateConfig
from evaluation.model import Model
from evaluation.scores.collect import evaluate
from evaluation.scores.inception import FIDInception, fid_inception_skeleton
from evaluation.scores.measures import Measures, unit_range
from evaluation.scores.networks import Located, Networks
from evaluation.scores.roster import Entry
from evaluation.scores.upsamplers import NetworkUpsampler, Upsampler
from harness.data.degrade import degrade_image
from harness.models.build import build_generator
from harness.models.config import SRResNetConfig
from harness.networks import Network
from harness.quality.lpips import LPIPS

Say = Callable[[str], None]


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
    models = named_files(folder, num)
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


def _open_srresnet(entry: Entry, scale: int, tile_px: int | None, device: str) -> Upsampler:
    return _srresnet(entry.model.name)


def _srresnet(name: str) -> NetworkUpsampler:
    """SRGAN's generator in its published size."""
    torch.manual_seed(int.from_bytes(name.encode()[-3:], "big"))
    module = build_generator(SRResNetConfig.model_validate({}), SCALE).eval().requires_grad_(False)
    return NetworkUpsampler(Network(module.to(memory_format=torch.channels_last), SCALE), name)  # type: ignore[call-overload]


def _best_s(work: Callable[[], object], budget_s: float = 4.0) -> float:
    """The shortest of several runs: what others do on the machine only adds."""
    work()
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < budget_s:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
