"""Scores a folder of SR images, whoever made them, against a folder of HR images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.metrics import METRICS, NOISE_METRICS, small_set_note
from evaluation.report.grid import show_number
from evaluation.scores.frechet import FEATURE_DIM, FeatureStatistics, frechet_distance, kernel_distance
from evaluation.scores.measures import Measures, unit_range
from evaluation.scores.networks import INCEPTION_METRICS, Finder, Networks, locate
from harness.data.images import read_image
from harness.data.packing.survey import files_below
from harness.errors import InputError
from harness.files import whole
from harness.screen import shown_names

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")

Progress = Callable[[int, int], None]


def score_folders(
    sr: Path,
    hr: Path,
    color: str = "y",
    crop_border: int = 0,
    metrics: tuple[str, ...] = ("psnr", "ssim"),
    progress: Progress | None = None,
    find: Finder | None = None,
) -> dict[str, Any]:
    """Scores the images of `sr` against those of the same name (suffix aside) in `hr`.

    Returns:
        {"metrics", "color", "crop_border", "images": {name: {metric: number}}, "mean": {metric: number},
        "deviation": {metric: number} for set metrics, "missing": {metric: reason}, "notes": [...]}. A metric that no
        image has a number of is missing, and its mean, if any, NaN.

    Raises:
        InputError: unknown metrics, folders whose names do not match (both lists shown), images whose sizes differ.
    """
    _check_options(color, crop_border, metrics)
    pairs = match_folders(sr, hr)
    networks = Networks(locate(metrics, find))
    measures = Measures(metrics, color, crop_border, networks)
    wanted_sets = tuple(m for m in INCEPTION_METRICS if m in metrics and m not in networks.missing)
    images: dict[str, dict[str, float]] = {}
    gathered = [_Features(len(pairs), keep_rows=wanted_sets != ("fid",)) for _ in ("real", "fake")]
    for done, (name, sr_NHWC, hr_NHWC, grey) in enumerate(_read_pairs(pairs)):
        scores = measures.scores(sr_NHWC, measures.reference(hr_NHWC, grey))
        images[name] = {metric: float(values[0]) for metric, values in scores.items()}
        if wanted_sets and networks.inception is not None:
            for kept, image_NHWC in zip(gathered, (hr_NHWC, sr_NHWC)):
                kept.add(networks.inception.describe(unit_range(image_NHWC)))
        if progress:
            progress(done + 1, len(pairs))
    result: dict[str, Any] = {"metrics": list(metrics), "color": color, "crop_border": crop_border, "images": images}
    result |= {"mean": _means(images, measures.metrics), "deviation": {}}
    result |= {"missing": dict(networks.missing), "notes": []}
    _add_too_small(result, measures.metrics)
    _add_exact(result)
    if wanted_sets:
        _add_set_scores(result, wanted_sets, *gathered)
    return result


def match_folders(sr: Path, hr: Path) -> dict[str, tuple[Path, Path]]:
    """Name -> (SR file, HR file) for folders that hold the same names.

    Raises:
        InputError: a folder is absent or empty, two files share a name, or the names differ.
    """
    sr_files, hr_files = list_images(sr), list_images(hr)
    only_sr, only_hr = sorted(sr_files.keys() - hr_files.keys()), sorted(hr_files.keys() - sr_files.keys())
    if only_sr or only_hr:
        raise InputError(
            f"the images do not match: only in {sr}: {shown_names(only_sr)}; only in {hr}: {shown_names(only_hr)}; "
            "give both folders the same names (suffixes may differ)."
        )
    return {name: (sr_files[name], hr_files[name]) for name in sorted(hr_files)}


def list_images(folder: Path) -> dict[str, Path]:
    """Name without suffix (with the sub-folder) -> image file, for all images in and below `folder`.

    Raises:
        InputError: no such folder, no image in it, or two files whose names differ only in the suffix.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give a folder of images.")
    files: dict[str, Path] = {}
    for path in files_below(folder):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise InputError(f"{path} and {files[name].name} share a name; remove one of them.")
        files[name] = path
    if not files:
        raise InputError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)}); give a folder that does.")
    return files


def is_anything_measured(result: dict[str, Any]) -> bool:
    """Whether any metric has a number."""
    return not all(math.isnan(value) for value in result["mean"].values())


def write_json(result: dict[str, Any], path: Path) -> None:
    """Writes the result; a number that JSON cannot hold becomes "inf" or null."""
    with whole(path) as part:
        text = json.dumps(_plain(result), indent=1, allow_nan=False, ensure_ascii=False)
        part.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")


def print_scores(console: Console, result: dict[str, Any]) -> None:
    """Prints a row per image and the mean, of a measure of the whole set with its deviation."""
    metrics = [m for m in METRICS if m in result["mean"]]
    table = Table()
    table.add_column("image", overflow="fold")
    for metric in metrics:
        table.add_column(METRICS[metric].label, justify="right", no_wrap=True)
    for name, scores in result["images"].items():
        table.add_row(Text(name), *(_shown(m, scores[m]) if m in scores else "" for m in metrics))
    table.add_section()
    means = (_shown(m, result["mean"][m], result["deviation"].get(m)) for m in metrics)
    table.add_row("mean", *means, style="bold")
    console.print(table)
    for metric, reason in result["missing"].items():
        console.print(f"{METRICS[metric].label}: {reason}", markup=False)
    for note in result["notes"]:
        console.print(note, markup=False)


def _shown(metric: str, value: float, deviation: float | None = None) -> str:
    known = None if deviation is None or math.isnan(deviation) else deviation
    return show_number(value, METRICS[metric].digits, known)


def _check_options(color: str, crop_border: int, metrics: tuple[str, ...]) -> None:
    if color not in ("y", "rgb"):
        raise InputError(f"--color {color}: is not known; give y or rgb.")
    if crop_border < 0:
        raise InputError(f"--crop-border {crop_border}: is below 0; give the number of pixels to leave out.")
    allowed = [name for name in METRICS if name not in NOISE_METRICS]
    wrong = [name for name in metrics if name not in allowed]
    if wrong or not metrics:
        raise InputError(
            f"--metrics {','.join(wrong) or '(none)'}: cannot be measured here; give some of {', '.join(allowed)}."
        )


def _read_pairs(pairs: dict[str, tuple[Path, Path]]) -> Iterator[tuple[str, np.ndarray, np.ndarray, bool]]:
    for name, (sr_file, hr_file) in pairs.items():
        sr_image, hr_image = read_image(sr_file), read_image(hr_file)
        if sr_image.shape[:2] != hr_image.shape[:2]:
            sizes = [" x ".join(map(str, image.shape[1::-1])) for image in (sr_image, hr_image)]
            raise InputError(
                f"{sr_file}: is {sizes[0]} px, but {hr_file} is {sizes[1]}; crop the HR images to a multiple of the "
                "scale before they are degraded, or upscale to the HR size."
            )
        yield name, _three_channels(sr_image), _three_channels(hr_image), hr_image.ndim == 2


def _three_channels(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[None, :, :, None], 3, axis=3) if image.ndim == 2 else image[None]


def _means(images: dict[str, dict[str, float]], metrics: tuple[str, ...]) -> dict[str, float]:
    means = {}
    for metric in metrics:
        values = [scores[metric] for scores in images.values() if not math.isnan(scores[metric])]
        means[metric] = float(np.mean(values)) if values else math.nan
    return means


def _add_too_small(result: dict[str, Any], metrics: tuple[str, ...]) -> None:
    for metric in metrics:
        small = [name for name, scores in result["images"].items() if math.isnan(scores[metric])]
        if len(small) == len(result["images"]):
            result["missing"][metric] = "every image is too small for it."
        elif small:
            result["notes"].append(f"{METRICS[metric].label}: too small to measure, left out: {shown_names(small)}.")


def _add_exact(result: dict[str, Any]) -> None:
    """Says which images alone make the mean PSNR infinite."""
    equal = [name for name, scores in result["images"].items() if math.isinf(scores.get("psnr", 0.0))]
    if 0 < len(equal) < len(result["images"]):
        what = "equal their originals, which alone makes the mean infinite; leave them out for a finite one"
        result["notes"].append(f"PSNR: {len(equal)} of {len(result['images'])} images {what}: {shown_names(equal)}.")


class _Features:
    """The Inception features of one folder: what FID needs of them, and for KID the rows, in float32."""

    def __init__(self, count: int, keep_rows: bool) -> None:
        self.statistics = FeatureStatistics()
        self.rows_ND = np.empty((count if keep_rows else 0, FEATURE_DIM), np.float32)

    def add(self, features_ND: np.ndarray) -> None:
        first = self.statistics.count
        self.statistics.add(features_ND)
        if len(self.rows_ND):
            self.rows_ND[first : first + len(features_ND)] = features_ND


def _add_set_scores(result: dict[str, Any], wanted: tuple[str, ...], real: _Features, fake: _Features) -> None:
    count = real.statistics.count
    if count < 2:
        result["missing"] |= dict.fromkeys(wanted, "needs at least 2 images, got 1.")
        return
    if "fid" in wanted:
        result["mean"]["fid"] = frechet_distance(real.statistics, fake.statistics)
        if note := small_set_note("fid", count):
            result["notes"].append(f"{note}.")
    for metric in sorted({"kid", "kid-paired"} & set(wanted)):
        rows = (real.rows_ND.__getitem__, fake.rows_ND.__getitem__)
        value, deviation = kernel_distance(np.arange(count), *rows, paired=metric == "kid-paired")
        result["mean"][metric], result["deviation"][metric] = value, deviation


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
