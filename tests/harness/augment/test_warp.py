import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from harness.augment.warp import SYM6, dihedral, downsampling_matrix, mirror, rescale, upsampling_matrix


def images(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64)


def warped_by_scipy(plane: np.ndarray, factor_y: float, factor_x: float) -> np.ndarray:
    """Reflect, upsample with the wavelet, sample bilinearly, downsample with the wavelet: in two dimensions."""
    taps, pad = np.array(SYM6), 4 * max(plane.shape)
    up = np.pad(plane, pad, mode="reflect")
    for axis in (0, 1):
        up = signal.upfirdn(np.sqrt(2.0) * taps, up, up=2, axis=axis)  # sample j lies at u = j - 5 - 2 pad
    height, width = plane.shape
    v = np.meshgrid(np.arange(2 * height + 12.0), np.arange(2 * width + 12.0), indexing="ij")
    u_y = (v[0] - (height + 5)) / factor_y + height - 1
    u_x = (v[1] - (width + 5)) / factor_x + width - 1
    warped = ndimage.map_coordinates(up, [u_y + 5 + 2 * pad, u_x + 5 + 2 * pad], order=1)
    for shape in ((-1, 1), (1, -1)):
        warped = signal.correlate(warped, taps.reshape(shape) / np.sqrt(2.0), mode="valid")
    warped = warped[1::2, 1::2][:height, :width]
    return warped


def test_filter_is_an_orthonormal_low_pass_with_six_vanishing_moments():
    taps = np.array(SYM6)
    for shift in range(6):
        assert np.dot(taps[2 * shift :], taps[: 12 - 2 * shift]) == pytest.approx(float(shift == 0), abs=1e-10)
    assert taps.sum() == pytest.approx(np.sqrt(2.0), abs=1e-10)
    high_pass = taps * (-1.0) ** np.arange(12)
    assert max(abs(np.dot(high_pass, np.arange(12.0) ** moment)) for moment in range(6)) < 1e-5


def test_upsampling_and_downsampling_without_a_warp_restore_the_line():
    line = np.random.default_rng(0).random(16)
    padded_rows = np.arange(-6, 2 * 16 + 6) % (4 * 15)
    assert downsampling_matrix(16) @ (upsampling_matrix(16)[padded_rows] @ line) == pytest.approx(line, abs=1e-10)


@pytest.mark.parametrize(("factor_y", "factor_x"), [(1.0, 1.0), (1.3, 0.8), (0.5, 0.7), (2.0, 2.0), (0.3, 1.1)])
def test_scaling_equals_upsample_warp_downsample_in_two_dimensions(factor_y, factor_x):
    batch = images(2, 20, 24)
    factors = torch.tensor([[factor_y] * 2, [factor_x] * 2], dtype=torch.float64)
    got = rescale(batch, factors[0], factors[1])
    for image, result in zip(batch.numpy(), got.numpy()):
        for plane, plane_result in zip(image, result):
            assert plane_result == pytest.approx(warped_by_scipy(plane, factor_y, factor_x), abs=1e-9)


def test_scaling_by_one_is_the_identity():
    batch, one = images(2, 16, 16), torch.ones(2, dtype=torch.float64)
    assert torch.allclose(rescale(batch, one, one), batch, atol=1e-10)


def test_scaling_up_magnifies_about_the_centre():
    ramp = torch.linspace(0, 1, 33, dtype=torch.float64).expand(1, 3, 33, 33)
    two = torch.full((1,), 2.0, dtype=torch.float64)
    middle = rescale(ramp, two, two)[0, 0, 16, 8:25]
    assert torch.allclose(middle, torch.linspace(0.375, 0.625, 17, dtype=torch.float64), atol=2e-3)


def test_each_image_has_its_own_factor():
    batch = images(3, 16, 16)
    factors = torch.tensor([0.7, 1.0, 1.4], dtype=torch.float64)
    together = rescale(batch, factors, factors)
    for i in range(3):
        assert torch.allclose(together[i : i + 1], rescale(batch[i : i + 1], factors[i : i + 1], factors[i : i + 1]))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_flips_and_quarter_turns_equal_numpys_bitwise(flip, turns):
    batch = images(1, 9, 9)
    got = dihedral(batch, torch.tensor([flip]), torch.tensor([turns]))
    want = batch.numpy()[..., ::-1] if flip else batch.numpy()
    assert np.array_equal(got.numpy(), np.rot90(want, turns, axes=(-2, -1)))


def test_mirror_flips_only_the_images_asked_for():
    batch = images(2, 4, 6)
    got = mirror(batch, torch.tensor([False, True])).numpy()
    assert np.array_equal(got[0], batch.numpy()[0]) and np.array_equal(got[1], batch.numpy()[1, :, :, ::-1])


def test_scaling_has_correct_first_and_second_derivatives():
    batch = images(2, 5, 5).requires_grad_()
    factors = torch.tensor([0.7, 1.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: rescale(x, factors, 1 / factors), (batch,))
    assert torch.autograd.gradgradcheck(lambda x: rescale(x, factors, 1 / factors) ** 2, (batch,))
