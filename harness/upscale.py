"""Upscaling of image files with a network or an interpolation, in bounded memory (`harness upscale`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from harness.data.degrade import UpscaleMethod, enlarge_matrix, upscale_image
from harness.errors import DataError, InputError
from harness.image_writing import check_writable, write_picture
from harness.images import Picture, read_picture
from harness.memory import free_host_bytes
from harness.random import key
from harness.upscale_names import Format, Job, plan_jobs

if TYPE_CHECKING:
    from harness.tiles import TiledNetwork

Precision = Literal["fp32", "bf16"]
Enlarge = Callable[[np.ndarray, "TileProgress | None"], np.ndarray]
"""Pixels (H x W x 3, uint8 or uint16) to larger ones of the same type."""
TileProgress = Callable[[int, int], None]
_BAND_ROWS = 256
_COPIES = 2
"""Of an output in memory: itself, and what is made of it to write it."""
_CONTEXT_ROWS = 4
"""Rows beyond a band that an interpolation reads; bicubic needs two."""


@dataclass(frozen=True)
class Options:
    """How images are upscaled; exactly one of checkpoint and method is given."""

    checkpoint: Path | None = None
    """A run or checkpoint folder, or a weights file."""
    method: UpscaleMethod | None = None
    scale: int | None = None
    """Needed for a method; for a network it must be the network's."""
    tile_px: int | None = None
    """Edge of a tile without its overlap, in input pixels; None chooses it from the free memory."""
    device: str = "auto"
    precision: Precision = "fp32"
    samples: int = 1
    noise_std: float = 0.0
    """Deviation of the noise on the input, for values in [0, 1]."""
    seed: int = 0
    format: Format = "png"
    """Of the files written into a folder; `same` keeps each image's."""


@dataclass(frozen=True)
class Failure:
    source: Path
    reason: str


@dataclass(frozen=True)
class Summary:
    written: list[Path]
    failures: list[Failure]


@dataclass(frozen=True)
class Listener:
    """Told about the progress: images done of all, tiles done of the image's, single events, and what failed."""

    images: Callable[[int, int, Path], None] = lambda done, total, path: None
    tiles: TileProgress = lambda done, total: None
    say: Callable[[str], None] = lambda message: None
    fail: Callable[[str], None] = lambda message: None


def upscale(inputs: list[str], out: Path, options: Options, listener: Listener | None = None) -> Summary:
    """Upscales files, folders (with subfolders) or glob patterns into `out`, one file after the other.

    `out` is a file where a single file is given and `out` has an image's suffix, and a folder otherwise. A file that
    cannot be read or written is in the summary's failures; the others go on. Outputs appear only when they are whole.

    Raises:
        InputError: nothing to do, contradictory options, or a checkpoint that cannot be used.
        OSError: the disk is full.
    """
    listener = listener or Listener()
    _check(options)
    jobs = plan_jobs(inputs, out, options.format)
    enlarge, scale = open_enlarger(options, listener.say)
    written: list[Path] = []
    failures: list[Failure] = []
    for number, job in enumerate(jobs):
        listener.images(number, len(jobs), job.source)
        try:
            written += _upscale_file(job, enlarge, scale, options, listener.tiles)
        except DataError as error:
            failures.append(Failure(job.source, str(error)))
            listener.fail(str(error))
    listener.images(len(jobs), len(jobs), out)
    return Summary(written, failures)


def _check(options: Options) -> None:
    if (options.checkpoint is None) == (options.method is None):
        given = "neither" if options.method is None else "both"
        raise InputError(f"upscale: got {given} of --checkpoint and --method; give --checkpoint PATH or --method NAME.")
    for name, value, allowed in (
        ("--method", options.method, get_args(UpscaleMethod)),
        ("--format", options.format, get_args(Format)),
        ("--precision", options.precision, get_args(Precision)),
    ):
        if value is not None and value not in allowed:
            raise InputError(f"upscale: {name} {value} is unknown; choose one of {', '.join(allowed)}.")
    if options.method is not None and (options.scale is None or options.scale < 1):
        raise InputError(f"upscale: --method {options.method} needs --scale N with N at least 1.")
    if options.method is not None and (options.tile_px, options.device, options.precision) != (None, "auto", "fp32"):
        raise InputError("upscale: --tile, --device and --precision are for a network; leave them out with --method.")
    if options.samples < 1:
        raise InputError(f"upscale: --samples {options.samples} is too few; give at least 1.")
    if not 0 <= options.noise_std <= 1:
        raise InputError(f"upscale: --noise {options.noise_std:g} is not in [0, 1]; give a deviation such as 0.02.")
    if options.samples > 1 and options.noise_std == 0:
        raise InputError(
            f"upscale: {options.samples} samples without noise would be the same; give --noise S, say 0.02."
        )


def open_enlarger(options: Options, say: Callable[[str], None]) -> tuple[Enlarge, int]:
    """What makes pixels larger, and by how much.

    Raises:
        InputError: the checkpoint cannot be used, its scale is not the given one, or the device does not exist.
    """
    if options.checkpoint is None:
        method, scale = options.method, options.scale
        assert method is not None and scale is not None
        return lambda pixels, progress: interpolate(pixels, scale, method), scale
    network = _open_tiled(options.checkpoint, options, say)
    scale = network.network.scale
    if options.scale not in (None, scale):
        raise InputError(f"{options.checkpoint}: upscales by {scale}, not {options.scale}; leave --scale out.")
    return lambda pixels, progress: network(pixels, progress), scale


def _open_tiled(path: Path, options: Options, say: Callable[[str], None]) -> TiledNetwork:
    import torch

    from harness.device import best_device
    from harness.networks import open_network
    from harness.precision import NOTE, has_bf16
    from harness.tiles import TiledNetwork

    name = best_device() if options.device == "auto" else options.device
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"device '{name}': is not there; give cpu, cuda or auto.") from None
    bf16 = options.precision == "bf16" and has_bf16(device)
    if bf16 != (options.precision == "bf16"):
        say(f"note: this {device.type} {NOTE}")
    return TiledNetwork(open_network(path, device), device, options.tile_px, bf16=bf16, say=say)


def _upscale_file(job: Job, enlarge: Enlarge, scale: int, options: Options, progress: TileProgress) -> list[Path]:
    check_writable(job.target, Picture(np.empty((0, 0), np.uint8)))
    picture = read_picture(job.source)
    check_writable(job.target, picture, scale)
    _check_memory(job.source, picture, scale)
    written = []
    for sample in range(options.samples):
        pixels = add_noise(picture.pixels, options.noise_std, options.seed, sample)
        target = job.target
        if options.samples > 1:
            target = target.with_name(f"{target.stem}_sample{sample}{target.suffix}")
        larger = enlarge_picture(replace(picture, pixels=pixels), enlarge, scale, options.method or "bicubic", progress)
        write_picture(target, larger)
        written.append(target)
    return written


def _check_memory(source: Path, picture: Picture, scale: int) -> None:
    """That the output has room in memory, before anything is computed.

    Raises:
        DataError: it has not.
    """
    height, width = (scale * edge for edge in picture.pixels.shape[:2])
    needed = picture.pixels.nbytes * scale**2 * _COPIES
    free = free_host_bytes()
    if needed > free:
        raise DataError(
            f"{source}: would become {width:,} x {height:,} px, which takes {needed / 2**30:,.1f} GiB of memory, and "
            f"{free / 2**30:,.1f} GiB are free; give a smaller scale, or cut the image into parts."
        )


def enlarge_picture(
    picture: Picture,
    enlarge: Enlarge,
    scale: int,
    alpha_method: UpscaleMethod = "bicubic",
    progress: TileProgress | None = None,
) -> Picture:
    """The larger picture: colour through `enlarge`, grey as three equal channels, alpha by an interpolation."""
    grey = picture.pixels.ndim == 2
    pixels = np.repeat(picture.pixels[..., None], 3, axis=2) if grey else picture.pixels
    larger = enlarge(np.ascontiguousarray(pixels), progress)
    if grey:
        total = larger.sum(axis=2, dtype=np.uint32)
        larger = ((total + 1) // 3).astype(larger.dtype)
    alpha = None if picture.alpha is None else interpolate(picture.alpha, scale, alpha_method)
    return replace(picture, pixels=larger, alpha=alpha)


def add_noise(pixels: np.ndarray, noise_std: float, seed: int, sample: int) -> np.ndarray:
    """The pixels with Gaussian noise number `sample` of deviation `noise_std` (for values in [0, 1]), rounded."""
    if noise_std == 0:
        return pixels
    levels = np.iinfo(pixels.dtype).max
    random = np.random.Generator(np.random.Philox(key=key(seed, "upscale", sample)))
    noise = random.standard_normal(pixels.shape, dtype=np.float32) * (noise_std * levels)
    return np.clip(np.rint(pixels + noise), 0, levels).astype(pixels.dtype)


def interpolate(pixels: np.ndarray, scale: int, method: UpscaleMethod) -> np.ndarray:
    """The image (uint8 or uint16, H x W [x 3]) enlarged by an interpolation, band by band, in bounded memory."""
    height, width = pixels.shape[:2]
    result = np.empty((height * scale, width * scale, *pixels.shape[2:]), pixels.dtype)
    enlarge_band = upscale_image if pixels.dtype == np.uint8 else _interpolate_deep
    for start in range(0, height, _BAND_ROWS):
        end = min(height, start + _BAND_ROWS)
        first, last = max(0, start - _CONTEXT_ROWS), min(height, end + _CONTEXT_ROWS)
        band = enlarge_band(np.ascontiguousarray(pixels[first:last]), scale, method)
        result[start * scale : end * scale] = band[(start - first) * scale : (end - first) * scale]
    return result


def _interpolate_deep(pixels: np.ndarray, scale: int, method: UpscaleMethod) -> np.ndarray:
    """As `upscale_image`, for uint16: bicubic is rounded and clipped between the two passes, too."""
    from scipy import sparse

    rows, columns = (sparse.csr_matrix(enlarge_matrix(method, size, scale)) for size in pixels.shape[:2])
    height, width = rows.shape[0], columns.shape[0]
    tall = rows @ pixels.astype(np.float64).reshape(pixels.shape[0], -1)
    tall = (_levels(tall) if method == "bicubic" else tall).reshape(height, pixels.shape[1], -1)
    across = columns @ tall.swapaxes(0, 1).reshape(pixels.shape[1], -1)
    larger = _levels(across.reshape(width, height, -1).swapaxes(0, 1))
    return larger.astype(np.uint16).reshape(height, width, *pixels.shape[2:])


def _levels(values: np.ndarray) -> np.ndarray:
    """Rounded half up and clipped to 16 bits; the tiny shift keeps exact halves from depending on the sums' order."""
    return np.clip(np.floor(values + (0.5 + 1e-6)), 0, 65535)
