import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.augment.build import build_augment
from harness.augment.config import ALL_OPERATIONS, AdaConfig, BcrConfig, FixedAugmentConfig, NoAugmentConfig
from harness.augment.draws import Draws, Streams, draw
from harness.augment.pipeline import apply_colour, apply_geometry
from harness.errors import InputError

POSITION = torch.arange(100, 108)
ADA = AdaConfig(name="ada", rule="text", start_p=0.8)  # type: ignore[call-arg]


def images(seed: int = 0, batch: int = 8, size: int = 16) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def drawn(config: FixedAugmentConfig, seed: int, purpose: str, position: torch.Tensor, p: torch.Tensor) -> Draws:
    return draw(config, Streams.of(seed, purpose, (3, 4, 4), position.device), position, p)


def pipeline(p: float, **changes):
    return build_augment(FixedAugmentConfig(name="fixed", p=p, **changes), seed=5)


class OperatorLog(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_p_of_zero_is_bitwise_the_same_as_none(dtype):
    batch = images().to(dtype)
    batch[0, 0, 0, 0] = -0.0
    for config in (
        NoAugmentConfig(),
        BcrConfig(name="bcr"),
        FixedAugmentConfig(name="fixed", p=0),
        AdaConfig(name="ada", rule="text"),  # type: ignore[call-arg]
    ):
        result = build_augment(config, seed=1)(batch, POSITION, "real")
        integers = torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(result.view(integers), batch.view(integers))


def test_p_of_zero_gives_bitwise_the_same_gradient_as_none():
    plain, augmented = images().requires_grad_(), images().requires_grad_()
    plain.square().sum().backward()
    pipeline(0.0)(augmented, POSITION, "fake").square().sum().backward()
    assert torch.equal(plain.grad, augmented.grad)


@pytest.mark.parametrize("name", ALL_OPERATIONS)
def test_each_operation_alone_changes_images_and_passes_gradient(name):
    batch = images().requires_grad_()
    result = pipeline(1.0, operations=(name,))(batch, POSITION, "real")
    assert not torch.equal(result, batch)
    (gradient,) = torch.autograd.grad((result * images(1)).sum(), batch)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_unaugmented_images_of_a_batch_stay_bitwise_as_they_are():
    augment = pipeline(0.1)
    position = torch.arange(64)
    batch = images(batch=64)
    draws = drawn(augment.config, augment.seed, "real", position, augment.controller.p)
    untouched = ~(draws.flip | (draws.quarter_turns > 0) | draws.rescaled | draws.recoloured | draws.noisy)
    assert 5 < untouched.sum() < 60
    assert torch.equal(augment(batch, position, "real")[untouched], batch[untouched])


def test_a_draw_depends_on_the_position_and_not_on_the_batch():
    augment, batch = pipeline(0.8), images()
    whole = augment(batch, POSITION, "real")
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    parts = torch.cat([augment(batch[half], POSITION[half], "real") for half in order.split(3)])
    assert torch.allclose(parts, whole[order], atol=1e-6)
    draws = drawn(augment.config, 5, "real", POSITION, augment.controller.p)
    shuffled = drawn(augment.config, 5, "real", POSITION[order], augment.controller.p)
    assert all(torch.equal(getattr(draws, name)[order], getattr(shuffled, name)) for name in vars(draws))


def test_real_and_fake_and_seeds_draw_independently():
    position, one = torch.arange(4000), torch.tensor(1.0)
    config = FixedAugmentConfig(name="fixed", p=1)
    streams = [drawn(config, seed, purpose, position, one) for seed, purpose in ((0, "real"), (0, "fake"), (1, "real"))]
    for name in ("factor_x", "brightness", "hue", "noise_std", "saturation"):
        first, *others = (getattr(stream, name).numpy() for stream in streams)
        for other in others:
            assert abs(np.corrcoef(first, other)[0, 1]) < 0.06
    batch = images()
    assert not torch.equal(pipeline(1.0)(batch, POSITION, "real"), pipeline(1.0)(batch, POSITION, "fake"))


@pytest.mark.parametrize("config", [FixedAugmentConfig(name="fixed", p=1), ADA])
def test_the_phases_seed_decides_what_an_augmentation_draws(config):
    batch = images()
    first, again, other = (build_augment(config, seed)(batch, POSITION, "real") for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_pipeline_is_geometry_then_colour_with_the_drawn_parameters():
    names = tuple(name for name in ALL_OPERATIONS if name != "noise")
    augment, batch = pipeline(1.0, operations=names), images()
    draws = drawn(augment.config, 5, "real", POSITION, augment.controller.p)
    want = apply_colour(apply_geometry(batch, draws, augment.config), draws, augment.config, None)
    assert torch.equal(augment(batch, POSITION, "real"), want)


def test_noise_has_the_drawn_deviation_in_units_of_half_the_range():
    augment = pipeline(1.0, operations=("noise",))
    batch = images(size=64)
    difference = (augment(batch, POSITION, "real") - batch).flatten(1)
    wanted = drawn(augment.config, 5, "real", POSITION, augment.controller.p).noise_std / 2
    assert torch.allclose(difference.std(1), wanted, rtol=0.03)
    assert (difference.mean(1).abs() < 5 * wanted / 110).all()


def test_an_image_that_gets_noise_and_no_colour_operation_gets_its_noise():
    augment, position = pipeline(0.4, operations=("noise", "hue")), torch.arange(64)
    batch = images(batch=64, size=32)
    draws = drawn(augment.config, 5, "real", position, augment.controller.p)
    noise_alone = draws.noisy & ~draws.recoloured
    difference = (augment(batch, position, "real") - batch)[noise_alone].flatten(1)
    assert len(difference) > 5
    assert torch.allclose(difference.std(1), draws.noise_std[noise_alone] / 2, rtol=0.1)


def test_nothing_is_read_back_to_the_host_and_the_cost_does_not_depend_on_p():
    logs = []
    for p in (0.0, 0.5, 1.0):
        augment, batch = pipeline(p), images().requires_grad_()
        augment(batch, POSITION, "real").sum().backward()  # fills the caches of constant matrices
        with OperatorLog() as log:
            augment(batch, POSITION, "real").sum().backward()
        logs.append(log.names)
    assert logs[0] == logs[1] == logs[2]
    assert not {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default"} & set(logs[0])


def test_generators_parameters_get_gradient_through_the_augmented_image():
    generator = nn.Conv2d(3, 3, 3, padding=1)
    pipeline(0.7)(generator(images()), POSITION, "fake").square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in generator.parameters())


def test_second_derivative_reaches_the_image():
    batch = images().requires_grad_()
    result = pipeline(0.7)(batch, POSITION, "real")
    (gradient,) = torch.autograd.grad(result.pow(3).sum(), batch, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), batch)
    assert (second.flatten(1).norm(dim=1) > 0).all()


def test_autocast_does_not_coarsen_the_images():
    batch = images()
    want = pipeline(1.0)(batch, POSITION, "real")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pipeline(1.0)(batch, POSITION, "real"), want)


def test_quarter_turns_of_oblong_patches_are_refused():
    oblong = torch.rand(8, 3, 16, 12)
    with pytest.raises(InputError, match="16x12"):
        pipeline(1.0)(oblong, POSITION, "real")
    others = tuple(name for name in ALL_OPERATIONS if name != "rotate90")
    assert pipeline(1.0, operations=others)(oblong, POSITION, "real").shape == oblong.shape
