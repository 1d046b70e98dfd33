"""PSNR and SSIM against scikit-image, and SSIM as a loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from harness.quality.psnr import mse, psnr
from harness.quality.ssim import ssim

SIZES = [(11, 11), (12, 47), (57, 40), (43, 42), (64, 200)]


def noisy_pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(height * 1000 + width)
    smooth = np.cumsum(random.normal(0, 9, (height, width)), axis=1) + 128
    target = np.clip(smooth, 0, 255).astype(np.uint8)
    preds = np.clip(target + random.normal(0, 12, target.shape), 0, 255).astype(np.uint8)
    return preds, target


def as_batch(*images: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.stack([torch.from_numpy(image) for image in images])[:, None].to(dtype)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_ssim_equals_scikit_image(height: int, width: int, dtype: torch.dtype, tolerance: float) -> None:
    preds, target = noisy_pair(height, width)
    expected = structural_similarity(
        preds, target, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    measured = ssim(as_batch(preds, dtype=dtype), as_batch(target, dtype=dtype), data_range=255)
    assert measured.item() == pytest.approx(expected, abs=tolerance)


def test_ssim_of_colour_is_the_mean_over_the_channels() -> None:
    preds, target = (np.stack([image, image // 2, image.T], axis=-1) for image in noisy_pair(40, 40))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = structural_similarity(preds, target, channel_axis=-1, **options)
    pair = (torch.from_numpy(image).permute(2, 0, 1)[None].double() for image in (preds, target))
    assert ssim(*pair, data_range=255).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_psnr_equals_scikit_image(height: int, width: int) -> None:
    preds, target = noisy_pair(height, width)
    expected = peak_signal_noise_ratio(target, preds, data_range=255)
    assert psnr(as_batch(preds), as_batch(target), data_range=255).item() == pytest.approx(expected, abs=1e-9)


def test_a_batch_gives_one_number_an_image_whatever_its_neighbours() -> None:
    pairs = [noisy_pair(30, 31), tuple(255 - image for image in noisy_pair(30, 31))]
    preds, target = as_batch(*(p for p, _ in pairs)), as_batch(*(t for _, t in pairs))
    alone = [ssim(preds[i : i + 1], target[i : i + 1], 255).item() for i in range(2)]
    assert ssim(preds, target, 255).tolist() == pytest.approx(alone, abs=1e-12)
    assert psnr(preds, target, 255).shape == mse(preds, target).shape == (2,)


def test_the_range_of_the_values_changes_nothing_but_the_scale() -> None:
    preds, target = (as_batch(image) for image in noisy_pair(40, 40))
    assert ssim(preds / 255, target / 255).item() == pytest.approx(ssim(preds, target, 255).item(), abs=1e-12)
    assert psnr(preds / 255, target / 255).item() == pytest.approx(psnr(preds, target, 255).item(), abs=1e-12)


def test_equal_images_have_ssim_one_and_infinite_psnr() -> None:
    _, target = noisy_pair(20, 20)
    assert ssim(as_batch(target), as_batch(target), 255).item() == pytest.approx(1.0, abs=1e-12)
    assert math.isinf(psnr(as_batch(target), as_batch(target), 255).item())


def test_the_gradient_of_ssim_is_the_numerical_one() -> None:
    preds, target = (as_batch(image) / 255 for image in noisy_pair(13, 12))
    assert torch.autograd.gradcheck(ssim, (preds.requires_grad_(), target))


def test_following_the_gradient_of_ssim_raises_it() -> None:
    preds, target = (as_batch(image) / 255 for image in noisy_pair(24, 24))
    preds.requires_grad_()
    before = ssim(preds, target)
    (gradient,) = torch.autograd.grad(before.sum(), preds)
    after = ssim(preds + 1e-3 * gradient / gradient.abs().max(), target)
    assert after.item() > before.item()


@pytest.mark.parametrize("measure", [mse, psnr, ssim])
def test_other_shapes_are_refused_instead_of_broadcast(measure) -> None:
    with pytest.raises(ValueError, match="differ"):
        measure(torch.zeros(2, 1, 16, 16), torch.zeros(1, 1, 16, 16))


def test_an_image_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(torch.zeros(1, 1, 10, 30), torch.zeros(1, 1, 10, 30))
