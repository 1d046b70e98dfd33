"""How a low-resolution image is made from a high-resolution one: separable resampling matrices, exact per library.

Images are uint8, H x W x 3 or H x W (grey). Every kernel: float64 weights, two passes, rounding half away from zero,
clipping to 0..255. MATLAB goes down the columns first and Pillow along the rows first, and both round and clip to
uint8 between the passes (which is what makes the order matter); the others do neither.
`harness.data.prepare` does the same on batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from harness.data.config import Kernel
from harness.errors import InputError

KERNELS: tuple[str, ...] = get_args(Kernel)
UpscaleMethod = Literal["bicubic", "bilinear", "nearest"]
ROUNDS_BETWEEN = frozenset({"matlab-bicubic", "pil-bicubic"})
"""Kernels whose library keeps uint8 between the two passes."""
ROWS_FIRST = frozenset({"pil-bicubic"})
"""Kernels whose library resizes along the rows (the width) before the columns. (From version 13 on Pillow takes the
columns first where an image is more than twice as high as wide; here it is the rows, as in the versions before.)"""


@lru_cache(maxsize=256)
def resize_matrix(kernel: Kernel, in_px: int, scale: int) -> np.ndarray:
    """The float64 matrix (in_px / scale, in_px) that shrinks one axis by `scale`; each row sums to 1.

    - matlab-bicubic: Keys' cubic (a = -0.5) widened by `scale` (antialiased), edge pixels replicated.
    - pil-bicubic: the same cubic, weights beyond the edge dropped and the rest normalised, as Pillow does.
    - cv2-cubic: Keys' cubic with a = -0.75 at its own width (no antialiasing), edge pixels replicated, as OpenCV.
    - bilinear: OpenCV's INTER_LINEAR (no antialiasing); area: the mean of scale x scale pixels, OpenCV's INTER_AREA;
      nearest: the first pixel of each block, OpenCV's INTER_NEAREST and torch's `nearest`.

    Raises:
        InputError: the kernel is unknown, or `scale` does not divide `in_px`.
    """
    if in_px % scale:
        raise InputError(f"{in_px} px cannot be shrunk by {scale}; crop the image to a multiple of {scale} first.")
    num_out = in_px // scale
    center = (np.arange(num_out) + 0.5) * scale - 0.5
    if kernel == "matlab-bicubic":
        matrix = _sampled(center, in_px, scale, 2.0, lambda x: _cubic(x, -0.5), replicate=True)
    elif kernel == "pil-bicubic":
        matrix = _sampled(center, in_px, scale, 2.0, lambda x: _cubic(x, -0.5), replicate=False)
    elif kernel == "cv2-cubic":
        matrix = _sampled(center, in_px, 1, 2.0, lambda x: _cubic(x, -0.75), replicate=True)
    elif kernel == "bilinear":
        matrix = _sampled(center, in_px, 1, 1.0, _triangle, replicate=True)
    elif kernel == "area":
        matrix = np.repeat(np.eye(num_out), scale, axis=1) / scale
    elif kernel == "nearest":
        matrix = np.zeros((num_out, in_px))
        matrix[np.arange(num_out), np.arange(num_out) * scale] = 1.0
    else:
        raise InputError(f"kernel '{kernel}' is unknown; choose one of {', '.join(KERNELS)}.")
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=256)
def enlarge_matrix(method: UpscaleMethod, in_px: int, scale: int) -> np.ndarray:
    """The float64 matrix (in_px * scale, in_px) that enlarges one axis; bicubic is MATLAB's."""
    num_out = in_px * scale
    center = (np.arange(num_out) + 0.5) / scale - 0.5
    if method == "bicubic":
        matrix = _sampled(center, in_px, 1, 2.0, lambda x: _cubic(x, -0.5), replicate=True)
    elif method == "bilinear":
        matrix = _sampled(center, in_px, 1, 1.0, _triangle, replicate=True)
    elif method == "nearest":
        matrix = np.repeat(np.eye(in_px), scale, axis=0)
    else:
        raise InputError(f"method '{method}' is unknown; choose one of {', '.join(get_args(UpscaleMethod))}.")
    matrix.setflags(write=False)
    return matrix


def degrade_image(image: np.ndarray, scale: int, kernel: Kernel = "matlab-bicubic") -> np.ndarray:
    """The LR image (uint8, H/scale x W/scale [x 3]) of an HR image (uint8, H x W [x 3]).

    Raises:
        InputError: the image is not uint8, or `scale` does not divide its sides (see `crop_to_multiple`).
    """
    _check(image)
    rows, columns = resize_matrix(kernel, image.shape[0], scale), resize_matrix(kernel, image.shape[1], scale)
    if kernel in ROWS_FIRST:
        turned = _apply(image.swapaxes(0, 1), columns, rows, kernel in ROUNDS_BETWEEN)
        return np.ascontiguousarray(turned.swapaxes(0, 1))
    return _apply(image, rows, columns, kernel in ROUNDS_BETWEEN)


def upscale_image(image: np.ndarray, scale: int, method: UpscaleMethod = "bicubic") -> np.ndarray:
    """The image (uint8, H x W [x 3]) enlarged by `scale`; bicubic is MATLAB's imresize."""
    _check(image)
    rows, columns = enlarge_matrix(method, image.shape[0], scale), enlarge_matrix(method, image.shape[1], scale)
    return _apply(image, rows, columns, round_between=method == "bicubic")


def crop_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """The image without the last rows and columns that `scale` does not divide."""
    height, width = image.shape[0] // scale * scale, image.shape[1] // scale * scale
    return image[:height, :width]


def _apply(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, round_between: bool) -> np.ndarray:
    """Both passes, through the band of non-zero weights of each output row, so that large images stay cheap."""
    vertical = _band_product(rows, image.astype(np.float64).reshape(image.shape[0], -1))
    if round_between:
        vertical = _round(vertical)
    across = np.moveaxis(vertical.reshape(rows.shape[0], *image.shape[1:]), 1, 0)
    result = _band_product(columns, np.ascontiguousarray(across).reshape(image.shape[1], -1))
    result = np.moveaxis(result.reshape(columns.shape[0], rows.shape[0], *image.shape[2:]), 0, 1)
    return np.ascontiguousarray(_round(result).astype(np.uint8))


def _band_product(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """matrix @ values, in blocks of output rows that touch only the input rows with a weight."""
    result = np.empty((matrix.shape[0], values.shape[1]))
    block = 32
    for start in range(0, matrix.shape[0], block):
        part = matrix[start : start + block]
        used = np.flatnonzero(part.any(axis=0))
        first, last = used[0], used[-1] + 1
        np.matmul(part[:, first:last], values[first:last], out=result[start : start + block])
    return result


def _round(values: np.ndarray) -> np.ndarray:
    """Half away from zero (values below zero are clipped anyway), then clipped to 0..255.

    The tiny shift makes sums that are a half in exact arithmetic round up whatever the order of the additions.
    """
    return np.clip(np.floor(values + (0.5 + 1e-9)), 0, 255)


def _sampled(
    center: np.ndarray,
    in_px: int,
    widen: int,
    radius: float,
    weight: Callable[[np.ndarray], np.ndarray],
    replicate: bool,
) -> np.ndarray:
    """Weights of `weight((x - center) / widen)` at the pixels x within `radius * widen` of each centre."""
    num_taps = int(np.ceil(radius * widen)) * 2 + 1
    first = np.floor(center - radius * widen).astype(int) + 1
    x = first[:, None] + np.arange(num_taps)[None, :]
    weights = weight((x - center[:, None]) / widen)
    if not replicate:
        weights = np.where((x >= 0) & (x < in_px), weights, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(center), in_px))
    np.add.at(matrix, (np.arange(len(center))[:, None], np.clip(x, 0, in_px - 1)), weights)
    return matrix


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (IEEE TASSP 29(6), 1981) with parameter a."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _check(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise InputError(f"expected a uint8 image of H x W or H x W x 3, got {image.dtype} of shape {image.shape}.")
