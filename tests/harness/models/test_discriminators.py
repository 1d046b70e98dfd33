"""Discriminators: published parameter counts, shapes of the logits, gradients, spectral norm."""

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from harness.errors import InputError
from harness.losses.adversarial import r1_penalty
from harness.models.build import build_discriminator, num_parameters
from harness.models.config import DiscriminatorConfig

SMALL = {
    "vgg": {"num_channels": 4, "num_dense": 10},
    "srgan": {"num_channels": 4, "num_dense": 10},
    "conv": {"num_channels": 4},
    "vgg16": {"weights": "random"},
    "unet": {"num_channels": 4},
}


def config_of(**values):
    return TypeAdapter(DiscriminatorConfig).validate_python(values)


def small(name, **values):
    return config_of(name=name, **SMALL[name], **values)


@pytest.mark.parametrize(
    ("values", "patch_px", "count"),
    [
        ({"name": "vgg"}, 128, 14_499_401),  # BasicSR's VGGStyleDiscriminator
        ({"name": "vgg"}, 256, 21_055_049),
        ({"name": "vgg", "num_channels": 96}, 128, 32_003_337),
        ({"name": "srgan"}, 96, 23_565_505),
        ({"name": "srgan"}, 128, 38_245_569),
        ({"name": "conv"}, 256, 4_693_697),
        ({"name": "vgg16", "weights": "random"}, 384, 14_722_369),
        ({"name": "unet"}, 128, 4_376_897),  # Real-ESRGAN's UNetDiscriminatorSN
    ],
)
def test_parameter_counts_are_the_documented_ones(values, patch_px, count):
    assert num_parameters(build_discriminator(config_of(**values), patch_px)) == count


@pytest.mark.parametrize(
    ("name", "patch_px", "shape"),
    [
        ("vgg", 128, (2, 1)),
        ("vgg", 96, (2, 1)),
        ("vgg", 32, (2, 1)),
        ("srgan", 96, (2, 1)),
        ("srgan", 40, (2, 1)),
        ("conv", 48, (2, 1)),
        ("vgg16", 32, (2, 1)),
        ("unet", 64, (2, 1, 64, 64)),
    ],
)
def test_logits_have_the_documented_shape(name, patch_px, shape):
    discriminator = build_discriminator(small(name), patch_px)
    with torch.no_grad():
        assert discriminator(torch.rand(2, 3, patch_px, patch_px)).shape == shape


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("name", list(SMALL))
def test_real_and_fake_passes_and_r1_reach_every_parameter(name, spectral_norm):
    torch.manual_seed(0)
    discriminator = build_discriminator(small(name, spectral_norm=spectral_norm), 32)
    real = torch.rand(2, 3, 32, 32, requires_grad=True)
    real_logits, fake_logits = discriminator(real), discriminator(torch.rand(2, 3, 32, 32))
    (fake_logits.square().mean() - real_logits.mean() + r1_penalty(real_logits, real)).backward()
    dead = [key for key, p in discriminator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(key.endswith("bias") for key in dead)  # a bias before batch norm cancels out


@pytest.mark.parametrize("name", list(SMALL))
def test_spectral_norm_makes_the_largest_singular_value_one(name):
    torch.manual_seed(0)
    discriminator = build_discriminator(small(name, spectral_norm=True), 32)
    ends = {"first", "last"} if name == "unet" else set()
    layers = {key: m for key, m in discriminator.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    for key, layer in layers.items():
        if key in ends:
            continue
        for _ in range(20):
            weight = layer.weight  # each use refines the estimate by one power iteration
        rows = weight.detach().flatten(1).double()
        largest = torch.linalg.eigvalsh(rows @ rows.T)[-1].sqrt()
        assert largest.item() == pytest.approx(1, abs=0.05), key


def test_batch_norm_is_an_option_of_the_vgg_discriminator():
    with_norm, without = (build_discriminator(small("vgg", batch_norm=choice), 32) for choice in (True, False))
    assert any(isinstance(m, nn.BatchNorm2d) for m in with_norm.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in without.modules())


def test_fully_convolutional_discriminator_takes_any_size():
    discriminator = build_discriminator(small("conv"), 32)
    assert discriminator(torch.rand(2, 3, 50, 33)).shape == (2, 1)


def test_fixed_patch_discriminator_refuses_another_size():
    with pytest.raises(InputError, match="expects patches of 32 px, got 32 x 64"):
        build_discriminator(small("vgg"), 32)(torch.rand(2, 3, 32, 64))


@pytest.mark.parametrize(("name", "patch_px"), [("vgg", 6), ("srgan", 15), ("conv", 12), ("vgg16", 12), ("unet", 20)])
def test_patches_that_a_family_cannot_take_are_refused(name, patch_px):
    with pytest.raises(InputError, match=f"discriminator {name}: .*{patch_px} px"):
        build_discriminator(small(name), patch_px)


def test_srgans_own_discriminator_is_that_of_its_figure():
    """Figure 4 of Ledig et al.: k3n64s1, k3n64s2, k3n128s1, ... k3n512s2, batch norm behind all but the first."""
    discriminator = build_discriminator(config_of(name="srgan"), 96)
    convs = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size[0], m.out_channels, m.stride[0]) for m in convs] == [
        (3, width, stride) for width in (64, 128, 256, 512) for stride in (1, 2)
    ]
    assert [m.num_features for m in discriminator.modules() if isinstance(m, nn.BatchNorm2d)] == [
        64, 128, 128, 256, 256, 512, 512
    ]  # fmt: skip
    dense = [m for m in discriminator.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in dense] == [(512 * 6 * 6, 1024), (1024, 1)]


@pytest.mark.parametrize(("patch_px", "num_strided"), [(384, 3), (80, 1), (64, 0)])
def test_vgg16_is_followed_by_strided_convolutions_until_four_pixels_are_left(patch_px, num_strided):
    """Three for the patches of Specialized SR-GAN."""
    discriminator = build_discriminator(small("vgg16"), patch_px)
    strided = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == num_strided


def test_every_activation_of_the_vgg16_discriminator_has_the_slope_that_is_asked_for():
    discriminator = build_discriminator(small("vgg16", negative_slope=0.3), 80)
    assert {m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)} == {0.3}
    assert not any(isinstance(m, nn.ReLU) for m in discriminator.modules())
