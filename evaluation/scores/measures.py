"""Measures pairs of images: every per-image number of a batch from one set of SR images. Images are uint8 NHWC.

Rules. A grey HR image is compared as grey: PSNR and SSIM use its levels and the luma-weighted grey of the SR image.
MSE, PSNR and SSIM leave out a border; the other measures see the whole image. An image that is too small for a measure
(SSIM: 11 px after the border; LPIPS: the network's limit) has NaN there. Numbers are computed in float64 (SSIM to
5e-6), networks in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from evaluation.metrics import names_of
from evaluation.scores.networks import Networks
from harness.quality import color
from harness.quality.psnr import mse, psnr_of_mse
from harness.quality.ssim import WINDOW_PX, ssim

if TYPE_CHECKING:
    from harness.quality.lpips import LPIPS, Features

# The weights of grey in image files (Pillow's `convert("L")`); for equal channels they change nothing.
_GREY_WEIGHTS = (0.299, 0.587, 0.114)
_FLOAT32_MSE = 20.0**2
_GROUP_PIXELS = 150_000


@dataclass
class Reference:
    """What the measures know of a batch of HR images, kept while several models are compared with it."""

    hr_NHWC: np.ndarray
    grey: bool
    compared: list[torch.Tensor] | None
    """For each image what PSNR and SSIM compare: (1, C, H, W) float64 levels; None where the border leaves nothing."""
    features: dict[str, list[Features] | None]
    """What LPIPS keeps, group by group; None where images are so large that they are described anew for each model."""
    tint_N2: torch.Tensor | None


class _Pair:
    """What PSNR and SSIM compare: (1, C, H, W) float64 levels of each image; their errors are computed once."""

    def __init__(self, preds: list[torch.Tensor] | None, target: list[torch.Tensor] | None) -> None:
        self.is_empty = preds is None or target is None
        self._preds, self._target = preds or [], target or []

    @cached_property
    def _mse_N(self) -> torch.Tensor:
        return _each(mse, self._preds, self._target)

    def psnr(self) -> torch.Tensor:
        return psnr_of_mse(self._mse_N, data_range=255)

    def ssim(self) -> torch.Tensor | None:
        """To 5e-6 (pictures: 1e-6): in float32, unless the images have little in common. None: they are too small."""
        if min(self._preds[0].shape[-2:]) < WINDOW_PX:
            return None
        kinds = [torch.float32 if error <= _FLOAT32_MSE else torch.float64 for error in self._mse_N.tolist()]
        pairs = zip(self._preds, self._target, kinds, strict=True)
        return torch.cat([ssim(a.to(kind), b.to(kind), data_range=255).double() for a, b, kind in pairs])


class Measures:
    """The per-image metrics of an evaluation."""

    def __init__(self, metrics: tuple[str, ...], color_space: str, border_px: int, networks: Networks) -> None:
        self.metrics = tuple(name for name in names_of("image", metrics) if name not in networks.missing)
        self.color_space = color_space
        self.border_px = border_px
        self.networks = networks
        _keep_memory()

    @torch.inference_mode()
    def reference(self, hr_NHWC: np.ndarray, grey: bool = False) -> Reference:
        """Prepares a batch of HR images of one size, uint8 (N, H, W, 3); `grey` says that all of them are."""
        features: dict[str, list[Features] | None] = {}
        for name, network in self.networks.lpips.items():
            if name in self.metrics and min(hr_NHWC.shape[1:3]) >= network.min_px:
                features[name] = self._describe(network, hr_NHWC)
        tint_N2 = _tints(hr_NHWC) if "color-shift" in self.metrics else None
        return Reference(hr_NHWC, grey, self._compared(hr_NHWC, grey), features, tint_N2)

    @torch.inference_mode()
    def scores(self, sr_NHWC: np.ndarray, reference: Reference) -> dict[str, np.ndarray]:
        """Metric -> (N,) float64 for SR images uint8 (N, H, W, 3) against the reference."""
        if sr_NHWC.shape != reference.hr_NHWC.shape:
            raise ValueError(f"SR {sr_NHWC.shape} and HR {reference.hr_NHWC.shape} differ in shape.")
        pair = _Pair(self._compared(sr_NHWC, reference.grey), reference.compared)
        result = {}
        for name in self.metrics:
            values = self._score(name, sr_NHWC, pair, reference)
            result[name] = np.full(len(sr_NHWC), np.nan) if values is None else values.double().numpy()
        return result

    def _score(self, name: str, sr_NHWC: np.ndarray, pair: _Pair, reference: Reference) -> torch.Tensor | None:
        """One metric of the batch; None where the images are too small for it."""
        if name in self.networks.lpips:
            return None if name not in reference.features else self._lpips(name, sr_NHWC, reference)
        if name == "color-shift":
            assert reference.tint_N2 is not None
            return (_tints(sr_NHWC) - reference.tint_N2).norm(dim=1)
        if name == "mse" and not pair.is_empty:
            images = (_levels_of_each(_cropped(image, self.border_px)) for image in (sr_NHWC, reference.hr_NHWC))
            return _each(mse, *images) * (2 / 255) ** 2
        return {"psnr": pair.psnr, "ssim": pair.ssim}[name]() if not pair.is_empty else None

    def _lpips(self, name: str, sr_NHWC: np.ndarray, reference: Reference) -> torch.Tensor:
        network, device, kept = self.networks.lpips[name], self.networks.device, reference.features[name]
        if kept is None:
            pairs = zip(_groups(sr_NHWC), _groups(reference.hr_NHWC))
            return torch.cat([network(unit_range(a, device), unit_range(b, device)).cpu() for a, b in pairs])
        described = (network.describe(unit_range(group, device)) for group in _groups(sr_NHWC))
        return torch.cat([network.distance(sr, hr).cpu() for sr, hr in zip(described, kept)])

    def _describe(self, network: LPIPS, image_NHWC: np.ndarray) -> list[Features] | None:
        from harness.quality.lpips import WHOLE_PX

        if image_NHWC.shape[1] * image_NHWC.shape[2] > WHOLE_PX:
            return None
        return [network.describe(unit_range(group, self.networks.device)) for group in _groups(image_NHWC)]

    def _compared(self, image_NHWC: np.ndarray, grey: bool) -> list[torch.Tensor] | None:
        cropped_NHWC = _cropped(image_NHWC, self.border_px)
        if cropped_NHWC.size == 0:
            return None
        if self.color_space == "y" and not grey:
            return [color.luma_of_pixels(image)[None, None] for image in cropped_NHWC]
        levels = _levels_of_each(cropped_NHWC)
        return [_grey(image) for image in levels] if grey else levels


def _groups(image_NHWC: np.ndarray) -> Iterator[np.ndarray]:
    """The images a few at a time, so that a network's activations stay small whatever the batch."""
    count = max(1, _GROUP_PIXELS // (image_NHWC.shape[1] * image_NHWC.shape[2]))
    return (image_NHWC[first : first + count] for first in range(0, len(image_NHWC), count))


def _each(
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    preds: list[torch.Tensor],
    target: list[torch.Tensor],
) -> torch.Tensor:
    """The measure of each pair, (N,). One image at a time stays in the processor's cache: twice as fast as a batch."""
    return torch.cat([measure(a, b) for a, b in zip(preds, target, strict=True)])


def _keep_memory() -> None:
    """Makes the C library keep memory that is freed, for as long as it is of the size of an image.

    glibc gives larger pieces back to the system, and learns what is large from the largest piece that it has seen
    freed (up to 32 MiB). Until a network has run, every map of an image would cost page faults: SSIM takes up to five
    times as long.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def unit_range(image_NHWC: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """uint8 NHWC as float32 NCHW in [0, 1] on the device, channels last in memory."""
    return torch.from_numpy(np.array(image_NHWC)).to(device).permute(0, 3, 1, 2).to(torch.float32) / 255


def _tints(image_NHWC: np.ndarray) -> torch.Tensor:
    """Each image's mean (a*, b*), (N, 2)."""
    return torch.cat([color.mean_tint(image) for image in _levels_of_each(image_NHWC)])


def _levels_of_each(image_NHWC: np.ndarray) -> list[torch.Tensor]:
    """Each image as float64 levels, (1, C, H, W)."""
    return [torch.from_numpy(np.array(x, np.float64)).permute(2, 0, 1)[None] for x in image_NHWC]


def _cropped(image_NHWC: np.ndarray, border_px: int) -> np.ndarray:
    height, width = image_NHWC.shape[1:3]
    return image_NHWC[:, border_px : max(height - border_px, 0), border_px : max(width - border_px, 0)]


def _grey(levels_BCHW: torch.Tensor) -> torch.Tensor:
    """Grey levels, rounded as an image file would hold them."""
    weights = torch.tensor(_GREY_WEIGHTS, dtype=levels_BCHW.dtype)
    return torch.einsum("bchw,c->bhw", levels_BCHW, weights).round()[:, None]
