"""The global skip: the input upsampled by a fixed filter, to which a generator adds what it learns.

Upsampling is two small matrix products per image, in float32 even under autocast: with bfloat16 a bicubic skip would
be off by up to a grey level. The sizes of training patches never change, so the matrices are made once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn


class GlobalSkip(nn.Module):
    """Upsamples [0, 1] images by `scale`; without parameters.

    `bicubic` is Keys' kernel (a = -0.5) with half-pixel centres, as MATLAB enlarges; `bicubic_align_corners` puts the
    corner pixels' centres on each other and takes a = -0.75, as `torch.nn.Upsample(align_corners=True)` does.
    """

    def __init__(self, kind: str, scale: int) -> None:
        super().__init__()
        self.kind = kind
        self.scale = scale

    def forward(self, image_BCHW: Tensor) -> Tensor:
        with torch.autocast(image_BCHW.device.type, enabled=False):
            image = image_BCHW.float()
            rows = _matrix(self.kind, image.shape[-2], self.scale, image.device)
            columns = _matrix(self.kind, image.shape[-1], self.scale, image.device)
            return rows @ (image @ columns.T)

    def extra_repr(self) -> str:
        return f"{self.kind}, scale={self.scale}"


def enlarge_matrix(kind: str, in_px: int, scale: int) -> np.ndarray:
    """The (in_px * scale, in_px) matrix (float64) that enlarges one axis; edge pixels are replicated."""
    out_px = in_px * scale
    if kind == "bicubic_align_corners":
        place = np.arange(out_px) * (in_px - 1) / (out_px - 1)
    else:
        place = (np.arange(out_px) + 0.5) / scale - 0.5
    left = np.floor(place).astype(int)
    matrix = np.zeros((out_px, in_px))
    for tap in range(-1, 3):
        weight = _KERNELS[kind](np.abs(place - (left + tap)))
        np.add.at(matrix, (np.arange(out_px), np.clip(left + tap, 0, in_px - 1)), weight)
    return matrix


@lru_cache(maxsize=64)
def _matrix(kind: str, in_px: int, scale: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(enlarge_matrix(kind, in_px, scale)).float().to(device)


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distance, 0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981)."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


_KERNELS = {
    "bilinear": _triangle,
    "bicubic": lambda distance: _cubic(distance, -0.5),
    "bicubic_align_corners": lambda distance: _cubic(distance, -0.75),
}
