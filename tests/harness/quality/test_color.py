"""Luma and tint against other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab, rgb2ycbcr

from harness.quality.color import lab, luma, luma_of_pixels, mean_tint


@pytest.fixture
def image_HWC() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def as_batch(image_HWC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image_HWC.astype(np.float64)).permute(2, 0, 1)[None]


def test_luma_equals_scikit_image(image_HWC: np.ndarray) -> None:
    expected = rgb2ycbcr(image_HWC)[..., 0]
    assert np.allclose(luma(as_batch(image_HWC))[0, 0].numpy(), expected, atol=1e-9)
    assert np.allclose(luma_of_pixels(image_HWC).numpy(), expected, atol=1e-9)


def test_a_grey_image_is_its_own_luma() -> None:
    grey = torch.arange(256, dtype=torch.float64).reshape(1, 1, 16, 16)
    assert torch.equal(luma(grey), grey)


def test_lab_equals_scikit_image(image_HWC: np.ndarray) -> None:
    expected = rgb2lab(image_HWC)
    assert np.allclose(lab(as_batch(image_HWC))[0].permute(1, 2, 0).numpy(), expected, atol=1e-2)


def test_mean_tint_is_the_mean_chroma_of_each_image(image_HWC: np.ndarray) -> None:
    warmer = np.clip(image_HWC.astype(int) + np.array([20, 0, -20]), 0, 255).astype(np.uint8)
    found = mean_tint(torch.cat([as_batch(image_HWC), as_batch(warmer)])).numpy()
    expected = [rgb2lab(image)[..., 1:].mean((0, 1)) for image in (image_HWC, warmer)]
    assert found == pytest.approx(np.stack(expected), abs=1e-2)


def test_mean_tint_does_not_depend_on_places() -> None:
    image = torch.rand(2, 3, 12, 12, dtype=torch.float64) * 255
    assert mean_tint(image.flip(-1)).flatten().tolist() == pytest.approx(mean_tint(image).flatten().tolist(), abs=1e-9)
