"""The batch on the device: the same LR as image by image, and randomness that depends on the position alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.data.config import DataConfig, DegradationConfig, SourceConfig
from harness.data.degrade import KERNELS, degrade_image
from harness.data.prepare import Prepare
from harness.train.fast.fuse import Compiler

PX = 32


def prepare(scale: int = 4, seed: int = 0, kernels: dict | None = None, noise_std: float = 0.0, **values) -> Prepare:
    degradation = DegradationConfig(kernels=kernels or {"matlab-bicubic": 1.0}, noise_std=noise_std)
    data = DataConfig(sources=(SourceConfig(path="-"),), patch_px=PX, degradation=degradation, **values)
    return Prepare(data, scale, seed)


def patches(count: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (count, PX, PX, 3), dtype=np.uint8)
    values[: count // 2] //= 64
    values[: count // 2] *= 85  # saturated steps, where the rounding and clipping between passes matter
    return torch.from_numpy(values)


def levels(image_BCHW: torch.Tensor) -> np.ndarray:
    scaled = image_BCHW.double() * 255
    assert (scaled - scaled.round()).abs().max() < 1e-4
    return scaled.round().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("kernel", KERNELS)
def test_batches_are_degraded_exactly_as_images(kernel, scale):
    hr = patches(8)
    lr_image, hr_image = prepare(scale, kernels={kernel: 1.0})(hr, torch.arange(8))
    expected = np.stack([degrade_image(patch.numpy(), scale, kernel) for patch in hr])
    assert np.array_equal(levels(lr_image), expected)
    assert np.array_equal(levels(hr_image), hr.numpy())
    assert lr_image.dtype == hr_image.dtype == torch.float32


def test_a_patch_away_from_its_border_is_degraded_as_the_whole_image_is():
    image = np.random.default_rng(5).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    whole = degrade_image(image, 4, "matlab-bicubic")
    patch = torch.from_numpy(image[32:64, 32:64].copy())[None]
    lr_image, _ = prepare()(patch, torch.arange(1))
    assert np.array_equal(levels(lr_image)[0][2:-2, 2:-2], whole[8:16, 8:16][2:-2, 2:-2])


def test_a_mixture_draws_a_kernel_per_sample_by_its_weight():
    hr = patches(400)
    kernels = {"matlab-bicubic": 2.0, "pil-bicubic": 1.0, "nearest": 1.0, "area": 0.0}
    lr_image, _ = prepare(kernels=kernels)(hr, torch.arange(400))
    got = levels(lr_image)
    made = {k: np.stack([degrade_image(p.numpy(), 4, k) for p in hr]) for k in kernels}
    is_kind = {k: np.array([np.array_equal(a, b) for a, b in zip(got, made[k])]) for k in kernels}
    assert (is_kind["matlab-bicubic"] | is_kind["pil-bicubic"] | is_kind["nearest"]).all()
    assert not is_kind["area"].any()
    assert 160 < is_kind["matlab-bicubic"].sum() < 240 and 70 < is_kind["nearest"].sum() < 130


JUST_TWO = {"nearest": 1.0, "area": 1.0}
EVERYTHING = {
    "kernels": dict.fromkeys(KERNELS, 1.0),
    "noise_std": 0.02,
    "flip": True,
    "rotate": True,
    "brightness": 0.4,
    "contrast": (0.6, 1.4),
}


def test_a_sample_depends_on_its_position_and_not_on_its_batch():
    hr, position = patches(12), torch.arange(100, 112)
    lr_image, hr_image = prepare(**EVERYTHING)(hr, position)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        lr_part, hr_part = prepare(**EVERYTHING)(hr[part], position[part])
        assert torch.equal(lr_part, lr_image[part]) and torch.equal(hr_part, hr_image[part])
    other, _ = prepare(seed=1, **EVERYTHING)(hr, position)
    assert not torch.equal(other, lr_image)
    moved, _ = prepare(**EVERYTHING)(hr, position + 12)
    assert not torch.equal(moved, lr_image)


def test_everything_together_stays_in_range_and_on_levels():
    lr_image, hr_image = prepare(**EVERYTHING)(patches(64), torch.arange(64))
    levels(hr_image)
    for image in (lr_image, hr_image):
        assert float(image.min()) >= 0 and float(image.max()) <= 1


def test_turns_and_mirrors_draw_all_eight_orientations_alike():
    one = patches(1, seed=7)
    _, hr_image = prepare(flip=True, rotate=True)(one.expand(800, -1, -1, -1), torch.arange(800))
    square = one[0].numpy()
    turned = [np.rot90(square, k) for k in range(4)]
    kinds = [kind.tobytes() for kind in [*turned, *(t[:, ::-1] for t in turned)]]
    counts = np.bincount([kinds.index(x.astype(np.uint8).tobytes()) for x in levels(hr_image)], minlength=8)
    assert counts.min() > 60 and counts.sum() == 800


def test_mirroring_alone_never_turns():
    one = patches(1, seed=8)
    _, hr_image = prepare(flip=True)(one.expand(100, -1, -1, -1), torch.arange(100))
    kinds = {x.astype(np.uint8).tobytes() for x in levels(hr_image)}
    assert kinds == {one[0].numpy().tobytes(), one[0].numpy()[:, ::-1].tobytes()}


def test_brightness_and_contrast_have_the_ranges_they_are_given():
    flat = torch.full((500, PX, PX, 3), 100, dtype=torch.uint8)
    flat[:, ::2] = 140
    _, hr_image = prepare(brightness=0.1)(flat, torch.arange(500))
    shift = hr_image.mean(dim=(1, 2, 3)) * 255 - 120
    assert 24 < float(shift.max()) <= 26 and -26 <= float(shift.min()) < -24
    _, hr_image = prepare(contrast=(0.5, 1.5))(flat, torch.arange(500))
    spread = (hr_image.amax(dim=(1, 2, 3)) - hr_image.amin(dim=(1, 2, 3))) * 255 / 40
    assert 0.48 <= float(spread.min()) < 0.55 and 1.45 < float(spread.max()) <= 1.52


def test_contrast_is_around_one_mean_of_all_channels():
    flat = torch.tensor([100, 150, 200], dtype=torch.uint8).expand(1, PX, PX, 3)
    _, hr_image = prepare(contrast=(0.5, 0.5))(flat, torch.arange(1))
    assert (levels(hr_image) == [125, 150, 175]).all()


def test_every_product_is_in_full_precision_whatever_training_uses(monkeypatch):
    """A CPU without such arithmetic would give the same numbers, a GPU would not."""
    matmul, seen = torch.matmul, []
    monkeypatch.setattr(
        torch, "matmul", lambda *args, **out: seen.append(torch.get_float32_matmul_precision()) or matmul(*args, **out)
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        prepare()(patches(2), torch.arange(2))
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(seen) >= 2 and set(seen) == {"highest"}


def test_mirroring_contrast_brightness_and_noise_are_drawn_apart():
    """Whoever shared a stream would, say, mirror the dark patches only."""
    half = torch.full((600, PX, PX, 3), 100, dtype=torch.uint8)
    half[:, :, PX // 2 :] = 140
    jitter = {"brightness": 0.1, "contrast": (0.5, 1.5)}
    _, hr_image = prepare(flip=True, **jitter)(half, torch.arange(600))
    mirrored = (hr_image[:, 0, 0, 0] > hr_image[:, 0, 0, -1]).double()
    contrast = (hr_image[:, 0, 0, 0] - hr_image[:, 0, 0, -1]).abs().double()
    noisy, _ = prepare(noise_std=0.05)(torch.full_like(half, 128), torch.arange(600))
    noise = noisy[:, :, 0, 0].double()
    drawn = torch.stack([mirrored, contrast, hr_image.mean(dim=(1, 2, 3)).double(), *noise.T, *noise.abs().T])
    assert (torch.corrcoef(drawn) - torch.eye(len(drawn))).abs()[:3].max() < 0.2


def test_the_kernel_is_drawn_apart_from_mirroring():
    rows = torch.full((600, PX, PX, 3), 100, dtype=torch.uint8)
    rows[:, ::4] = 140
    rows[:, :, PX // 2 :] += 60
    lr_image, _ = prepare(flip=True, kernels={"nearest": 1.0, "area": 1.0})(rows, torch.arange(600))
    mirrored = (lr_image[:, 0, 0, 0] > lr_image[:, 0, 0, -1]).double()
    nearest = (lr_image[:, 0, 0].amax(dim=1) * 255 > 190).double()
    assert 0.4 < nearest.mean() < 0.6 and torch.corrcoef(torch.stack([mirrored, nearest]))[0, 1].abs() < 0.2


@pytest.mark.parametrize("drawn", [{"flip": True}, {"brightness": 0.4}, {"noise_std": 0.1}, {"kernels": JUST_TWO}])
def test_each_draw_depends_on_the_seed(drawn):
    pairs = [prepare(seed=seed, **drawn)(patches(12), torch.arange(12)) for seed in (0, 1)]
    assert not torch.equal(pairs[0][0], pairs[1][0])


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_mean_that_contrast_keeps_does_not_depend_on_the_batch(num_threads):
    """From 150 px on a patch's sum is beyond float32's whole numbers, so that the order of its parts would count."""
    ready, threads = prepare(contrast=(0.5, 1.5)), torch.get_num_threads()
    bright = torch.randint(150, 256, (12, 256, 256, 3), generator=torch.Generator().manual_seed(0)).float()
    jitter = torch.rand((12, 2), generator=torch.Generator().manual_seed(1))
    noted: list[torch.Tensor] = []
    mean = torch.Tensor.mean
    try:
        torch.set_num_threads(num_threads)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(torch.Tensor, "mean", lambda *args, **kw: noted.append(mean(*args, **kw)) or noted[-1])
            ready._jittered(bright, jitter)
            for one in range(12):
                ready._jittered(bright[one : one + 1], jitter[one : one + 1])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(noted[0], torch.cat(noted[1:]))


def test_the_lr_follows_from_the_hr_that_the_models_see():
    lr_image, hr_image = prepare(flip=True, rotate=True, brightness=0.3, contrast=(0.5, 1.5))(
        patches(16), torch.arange(16)
    )
    for lr, hr in zip(levels(lr_image), levels(hr_image)):
        assert np.array_equal(lr, degrade_image(hr.astype(np.uint8), 4))


def test_lr_noise_has_the_deviation_it_is_given():
    grey = torch.full((64, PX, PX, 3), 128, dtype=torch.uint8)
    lr_image, hr_image = prepare(noise_std=0.05)(grey, torch.arange(64))
    assert abs(float((lr_image - 128 / 255).std()) - 0.05) < 0.002
    assert float(hr_image.std()) == 0


def test_the_lr_is_exact_under_autocast_and_leaves_the_settings_alone():
    hr, position = patches(4), torch.arange(4)
    expected, _ = prepare()(hr, position)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lr_image, _ = prepare()(hr, position)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(lr_image, expected) and lr_image.dtype == torch.float32


def test_nothing_is_read_back_to_the_host():
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert "_local_scalar_dense" not in func.name() and "nonzero" not in func.name(), func
            return func(*args, **(kwargs or {}))

    ready = prepare(**EVERYTHING)
    with Watch():
        ready(patches(4), torch.arange(4))


JITTER = {"brightness": 0.3, "contrast": (0.6, 1.4)}
JOINED = {
    "nothing": {},
    "flip": {"flip": True},
    "flip and rotate": {"flip": True, "rotate": True},
    "jitter": JITTER,
    "rounded between or not": {"kernels": {"matlab-bicubic": 1.0, "area": 2.0}},
    "rounded, rows or columns first": {"kernels": {"matlab-bicubic": 1.0, "pil-bicubic": 1.0}},
    "rows first": {"kernels": {"pil-bicubic": 1.0}, "rotate": True},
    "never rounded": {"kernels": {"cv2-cubic": 1.0}},
    "all kernels, turned, jittered": {"kernels": dict.fromkeys(KERNELS, 1.0), "flip": True, "rotate": True, **JITTER},
}
FAR = torch.arange(12) + 12345678901


class Noting:
    """A backend that makes nothing new, and notes what state the process is in when it is asked to."""

    def __init__(self) -> None:
        self.precisions: list[str] = []
        self.autocasts: list[bool] = []

    def __call__(self, graph, inputs):
        from torch._dynamo.backends.debugging import aot_eager

        self.precisions.append(torch.get_float32_matmul_precision())
        self.autocasts.append(torch.is_autocast_enabled("cpu"))
        return aot_eager(graph, inputs)


def joined(backend, **values) -> Prepare:
    torch._dynamo.reset()
    ready = prepare(**values)
    ready.join_operations(Compiler(backend))
    return ready


def assert_same(got, expected, tolerance: float = 0.0) -> None:
    for image, wanted in zip(got, expected, strict=True):
        assert image.stride() == wanted.stride() and image.dtype == wanted.dtype
        torch.testing.assert_close(image, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", JOINED)
def test_joined_operations_give_bitwise_the_same_pair(name):
    noting = Noting()
    ready = joined(noting, **JOINED[name])
    for position in (FAR, FAR + 12):
        hr = patches(12)
        assert_same(ready(hr, position), prepare(**JOINED[name])(hr, position))
        assert torch.equal(hr, patches(12))
    num_parts = 4 if "brightness" in JOINED[name] else 3
    assert len(noting.precisions) == num_parts, "each part is compiled, once"


def test_joined_noise_is_the_same_but_for_rounding():
    hr = patches(12)
    got = joined("aot_eager", **EVERYTHING)(hr, FAR)
    expected = prepare(**EVERYTHING)(hr, FAR)
    assert_same(got, expected, 1e-6)
    assert torch.equal(got[1], expected[1])


def test_parts_are_compiled_in_the_precision_of_the_training_and_without_autocast():
    noting = Noting()
    ready, hr = joined(noting), patches(4)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = ready(hr, FAR[:4])
    finally:
        torch.set_float32_matmul_precision("highest")
    assert noting.precisions == ["high"] * 3 and noting.autocasts == [False] * 3
    assert_same(got, prepare()(hr, FAR[:4]))


def assert_kernels_give_the_same(device: str, values: dict) -> None:
    """Levels bitwise, and the noise on top but for rounding."""
    hr, position = patches(12).to(device), FAR.to(device)
    for noise_std, tolerance in ((0.0, 0.0), (0.02, 1e-6)):
        case = {**values, "noise_std": noise_std}
        assert_same(joined("inductor", **case)(hr, position), prepare(**case)(hr, position), tolerance)


@pytest.mark.slow
def test_the_compilers_own_kernels_give_the_same_pair(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert_kernels_give_the_same("cpu", JOINED["all kernels, turned, jittered"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", JOINED)
def test_kernels_for_a_gpu_give_the_same_pair(name):
    assert_kernels_give_the_same("cuda", JOINED[name])
