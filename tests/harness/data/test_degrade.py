"""Degradation against the libraries whose kernels it names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.data.degrade import KERNELS, crop_to_multiple, degrade_image, enlarge_matrix, resize_matrix, upscale_image
from harness.data.images import read_image
from harness.errors import InputError

OPENCV = {
    "cv2-cubic": cv2.INTER_CUBIC,
    "bilinear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
}


def noise_image(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


sizes = st.tuples(st.integers(2, 12), st.integers(2, 12))


@pytest.mark.parametrize("kernel", sorted(OPENCV))
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), sizes, st.sampled_from([2, 4, 8]))
def test_opencvs_kernels_are_within_one_level_of_opencv(kernel, seed, size, scale):
    height, width = size[0] * scale, size[1] * scale
    image = noise_image(seed, height, width)
    expected = cv2.resize(image, (size[1], size[0]), interpolation=OPENCV[kernel]).astype(int)
    difference = np.abs(degrade_image(image, scale, kernel).astype(int) - expected)
    assert difference.max() <= (0 if kernel == "nearest" else 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), sizes, st.sampled_from([2, 3, 4, 8]))
def test_pil_bicubic_is_within_one_level_of_pillows_rows_first(seed, size, scale):
    """In two calls, since Pillow 13 takes the columns of tall images first, which may be 5 levels."""
    image = noise_image(seed, size[0] * scale, size[1] * scale)
    rows_first = Image.fromarray(image).resize((size[1], image.shape[0]), Image.Resampling.BICUBIC)
    expected = np.asarray(rows_first.resize((size[1], size[0]), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(degrade_image(image, scale, "pil-bicubic").astype(int) - expected).max() <= 1


def test_matlab_bicubic_reproduces_every_lr_pixel_of_set5_and_set14(benchmark_images: Path):
    names = sorted(benchmark_images.glob("Set*/HR/*.png"))
    assert len(names) == 19
    for path in names:
        expected = read_image(path.parent.parent / "LRx4" / path.name)
        assert np.array_equal(degrade_image(read_image(path), 4, "matlab-bicubic"), expected), path


def test_kernels_are_different_degradations():
    image = noise_image(0, 64, 64)
    results = {kernel: degrade_image(image, 4, kernel).tobytes() for kernel in KERNELS}
    assert len(set(results.values())) == len(KERNELS)


@pytest.mark.parametrize("kernel", KERNELS)
def test_flat_colour_stays_flat(kernel):
    image = np.full((24, 16, 3), 77, np.uint8)
    assert (degrade_image(image, 4, kernel) == 77).all()
    assert np.allclose(resize_matrix(kernel, 32, 4).sum(axis=1), 1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_grey_images_are_degraded_as_one_channel_of_colour_ones(kernel):
    image = noise_image(1, 32, 48)
    assert np.array_equal(degrade_image(image[:, :, 1], 4, kernel), degrade_image(image, 4, kernel)[:, :, 1])


@pytest.mark.parametrize(("method", "mode"), [("nearest", cv2.INTER_NEAREST), ("bilinear", cv2.INTER_LINEAR)])
def test_enlarging_is_within_one_level_of_opencv(method, mode):
    image = noise_image(2, 9, 13)
    expected = cv2.resize(image, (13 * 4, 9 * 4), interpolation=mode).astype(int)
    assert np.abs(upscale_image(image, 4, method).astype(int) - expected).max() <= 1


def test_bicubic_enlarging_agrees_with_pillow_away_from_the_border():
    image = noise_image(3, 20, 24)
    expected = np.asarray(Image.fromarray(image).resize((96, 80), Image.Resampling.BICUBIC)).astype(int)
    inner = (slice(12, -12), slice(12, -12))
    ours = upscale_image(image, 4, "bicubic").astype(int)
    unclipped = (ours[inner] > 0) & (ours[inner] < 255) & (expected[inner] > 0) & (expected[inner] < 255)
    assert np.abs(ours[inner] - expected[inner])[unclipped].mean() < 0.5


def test_a_scale_that_does_not_divide_is_refused_with_the_mend():
    with pytest.raises(InputError, match="crop the image to a multiple of 4"):
        degrade_image(noise_image(0, 30, 32), 4)
    assert crop_to_multiple(noise_image(0, 30, 33), 4).shape == (28, 32, 3)
    with pytest.raises(InputError, match="uint8"):
        degrade_image(np.zeros((8, 8, 3), np.float32), 4)


def test_halves_are_rounded_up_where_the_weights_are_no_exact_numbers():
    image = np.random.default_rng(2).integers(0, 256, (240, 240), dtype=np.uint8)
    sums = image.astype(int).reshape(40, 6, 40, 6).sum(axis=(1, 3))
    assert (sums % 36 == 18).sum() > 20
    assert np.array_equal(degrade_image(image, 6, "area"), (2 * sums + 36) // 72)


def test_bicubic_enlarging_keeps_whole_levels_between_the_passes_as_matlab_does():
    image = np.random.default_rng(3).integers(0, 256, (9, 7), dtype=np.uint8)
    rows, columns = enlarge_matrix("bicubic", 9, 4), enlarge_matrix("bicubic", 7, 4)
    between = np.clip(np.floor(rows @ image + 0.5), 0, 255)
    expected = np.clip(np.floor(between @ columns.T + 0.5), 0, 255)
    assert np.array_equal(upscale_image(image, 4), expected)
    assert not np.array_equal(np.clip(np.floor(rows @ image @ columns.T + 0.5), 0, 255), expected)


def test_matrices_that_all_share_cannot_be_written_to():
    for matrix in (resize_matrix("area", 8, 4), enlarge_matrix("nearest", 8, 4)):
        with pytest.raises(ValueError, match="read-only"):
            matrix[0, 0] = 2
