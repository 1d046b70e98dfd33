"""Generators: published parameter counts, shapes at every scale, gradients, and the order of their layers."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional as F

from harness.errors import InputError
from harness.models.build import GENERATORS, build_generator, num_parameters
from harness.models.config import GeneratorConfig
from harness.models.skip import GlobalSkip
from harness.schema import Section, parse

SMALL = {
    "srresnet": {"num_blocks": 2, "num_channels": 8, "batch_norm": "everywhere"},
    "msrresnet": {"num_blocks": 2, "num_channels": 8},
    "rrdb": {"num_blocks": 1, "num_channels": 8, "growth": 4},
    "residual_cnn": {"num_channels": 8},
    "unet": {"num_channels": 4, "depth": 3},
    "srcnn": {"num_channels": [8, 4]},
    "espcn": {"num_channels": [8, 4]},
}


def config_of(**values):
    return TypeAdapter(GeneratorConfig).validate_python(values)


def small(name, **values):
    start = {"start_as_skip": False} if name == "srresnet" else {}
    return config_of(name=name, **{**SMALL[name], **start, **values})


def conv_count(num_in, num_out, kernel):
    return num_in * num_out * kernel**2 + num_out


@pytest.mark.parametrize(
    ("values", "count"),
    [
        # BasicSR's MSRResNet and RRDBNet, as their authors count them.
        ({"name": "msrresnet"}, 1_517_571),
        ({"name": "rrdb"}, 16_697_987),
        # SRGAN's generator: counted below, layer by layer.
        ({"name": "srresnet", "batch_norm": "everywhere"}, 1_549_462),
        ({"name": "srresnet", "batch_norm": "after_blocks"}, 1_545_366),
        ({"name": "srresnet"}, 1_545_238),
        ({"name": "rrdb", "num_blocks": 12, "num_channels": 128}, 18_522_499),
        # ESRDGAN's text: "9mill params" with kernel 1.
        ({"name": "rrdb", "num_blocks": 12, "num_channels": 128, "fusion_kernel": 1}, 9_085_315),
        ({"name": "residual_cnn"}, 559_939),
        ({"name": "unet"}, 3_107_523),
        ({"name": "srcnn"}, 20_099),
        ({"name": "espcn"}, 37_200),
    ],
)
def test_parameter_counts_are_the_documented_ones(values, count):
    with torch.device("meta"):
        network = GENERATORS[values["name"]](config_of(**values), 4)
    assert num_parameters(network) == count


def test_srresnet_has_the_parameters_of_its_layers():
    blocks = 16 * (2 * conv_count(64, 64, 3) + 2 * 2 * 64 + 1)
    ends = conv_count(3, 64, 9) + 1 + conv_count(64, 64, 3) + 2 * 64 + conv_count(64, 3, 9)
    ups = 2 * (conv_count(64, 256, 3) + 1)
    assert (
        num_parameters(build_generator(config_of(name="srresnet", batch_norm="everywhere"), 4)) == blocks + ends + ups
    )


def test_residual_cnn_has_the_parameters_of_table_1():
    convs = [(3, 128), (128, 128), (128, 128), (128, 64), (64, 64), (64, 64), (64, 64), (64, 64), (64, 64), (64, 3)]
    norms = 2 * (2 * 128 + 4 * 64)
    assert num_parameters(build_generator(config_of(name="residual_cnn"), 4)) == norms + sum(
        conv_count(a, b, 3) for a, b in convs
    )


@pytest.mark.parametrize("name", list(GENERATORS))
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_output_is_scale_times_as_large_for_any_size(name, scale):
    generator = build_generator(small(name), scale).eval()
    with torch.no_grad():
        assert generator(torch.rand(2, 3, 11, 6)).shape == (2, 3, 11 * scale, 6 * scale)


@pytest.mark.parametrize("name", list(GENERATORS))
def test_every_parameter_receives_a_gradient(name):
    torch.manual_seed(0)
    generator = build_generator(small(name), 4)
    generator(torch.rand(2, 3, 12, 12)).square().sum().backward()
    dead = [key for key, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias before batch norm cancels out: its gradient is 0 by construction, up to rounding.
    assert all(key.endswith("bias") for key in dead)


@pytest.mark.parametrize("name", list(GENERATORS))
def test_channels_last_gives_the_same_image(name):
    torch.manual_seed(0)
    generator = build_generator(small(name), 4).eval()
    image = torch.rand(2, 3, 12, 9)
    with torch.no_grad():
        expected = generator(image)
        generator.to(memory_format=torch.channels_last)
        given = generator(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(GENERATORS))
def test_convolutions_are_registered_in_the_order_in_which_they_run(name):
    generator = build_generator(small(name), 4)
    registered = [key for key, layer in generator.named_modules() if isinstance(layer, nn.Conv2d)]
    ran = []
    for key in registered:
        generator.get_submodule(key).register_forward_hook(lambda *_, key=key: ran.append(key))
    generator(torch.rand(2, 3, 12, 12))
    assert ran == registered
    assert registered[-1] == "layers.last"


@pytest.mark.parametrize("name", list(GENERATORS))
@pytest.mark.parametrize("output", ["linear", "tanh"])
def test_first_output_equals_the_skip_when_asked(name, output):
    generator = build_generator(small(name, skip="bicubic", start_as_skip=True, output=output), 4)
    image = torch.rand(2, 3, 12, 12)
    assert torch.equal(generator(image), GlobalSkip("bicubic", 4)(image))


def test_msrresnet_begins_at_its_skip_as_basicsr_draws_it():
    """All of its convolutions are Kaiming-normal times 0.1 without bias, not those of the blocks alone."""
    torch.manual_seed(0)
    generator = build_generator(config_of(name="msrresnet", num_blocks=2, num_channels=32), 4)
    image = torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        assert (generator(image) - GlobalSkip("bilinear", 4)(image)).abs().max() < 1e-3
    for layer in (layer for layer in generator.modules() if isinstance(layer, nn.Conv2d)):
        expected = 0.1 * (2 / layer.weight[0].numel()) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.1) and not layer.bias.any()


def test_tanh_without_skip_stays_within_the_range():
    generator = build_generator(small("srresnet", output="tanh", skip="none"), 4)
    with torch.no_grad():
        generator.layers.last.weight.mul_(1000)
        image = generator(torch.rand(2, 3, 8, 8))
    assert 0 <= image.min() < 0.01 and 0.99 < image.max() <= 1


def test_tanh_is_computed_in_float32_under_autocast():
    """In bfloat16 its results near 1 lie a grey level apart."""
    generator = build_generator(small("srresnet", output="tanh", skip="none"), 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert generator(torch.rand(1, 3, 8, 8)).dtype == torch.float32


def test_tanh_layers_see_values_from_minus_one_to_one():
    generator = build_generator(small("srresnet", output="tanh", skip="none"), 4)
    seen = []
    generator.layers.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    generator(torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1).expand(2, 3, 8, 8))
    assert seen[0][0, :, 0, 0].tolist() == [-1, 0, 1]


@pytest.mark.parametrize("activation", ["prelu", "relu", "leaky_relu", "silu"])
def test_srresnet_takes_every_activation(activation):
    generator = build_generator(small("srresnet", activation=activation), 2)
    generator(torch.rand(2, 3, 8, 8)).sum().backward()
    kinds = {"prelu": nn.PReLU, "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU}
    found = [m for m in generator.modules() if isinstance(m, tuple(kinds.values()))]
    assert found and all(isinstance(m, kinds[activation]) for m in found)


def operations(result: torch.Tensor) -> set[str]:
    """The names of all nodes of a result's backward pass."""
    seen, todo = set(), [result.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    return {node.name() for node in seen}


IN_PLACE_ON_A_VIEW = "torch::autograd::CopySlices"


@pytest.mark.parametrize(
    "config",
    [*map(small, GENERATORS), *(small("srresnet", activation=name) for name in ("relu", "leaky_relu", "silu"))],
    ids=lambda config: "-".join(filter(None, (config.name, getattr(config, "activation", "")))),
)
def test_no_backward_pass_copies_around_an_operation_in_place(config):
    generator = build_generator(config, 4).to(memory_format=torch.channels_last)
    lr_image = torch.rand(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    assert IN_PLACE_ON_A_VIEW not in operations(generator(lr_image))
    view = (lr_image.requires_grad_() * 2).permute(0, 2, 3, 1)
    assert IN_PLACE_ON_A_VIEW in operations(view.relu_()), "torch would name it so"


@pytest.mark.parametrize(("choice", "norms"), [("none", 0), ("after_blocks", 1), ("everywhere", 5)])
def test_batch_norm_is_where_it_was_asked_for(choice, norms):
    generator = build_generator(small("srresnet", batch_norm=choice), 4)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in generator.modules()) == norms


def test_bilinear_skip_equals_torch():
    image = torch.rand(2, 3, 9, 7)
    expected = F.interpolate(image, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(GlobalSkip("bilinear", 4)(image), expected, rtol=0, atol=1e-6)


def test_align_corners_skip_equals_torch():
    image = torch.rand(2, 3, 9, 7)
    expected = F.interpolate(image, scale_factor=4, mode="bicubic", align_corners=True)
    torch.testing.assert_close(GlobalSkip("bicubic_align_corners", 4)(image), expected, rtol=0, atol=1e-5)


def test_bicubic_skip_equals_pillow_inside_the_image():
    image = torch.rand(1, 1, 12, 10)
    resized = Image.fromarray(image[0, 0].numpy()).resize((40, 48), Image.Resampling.BICUBIC)
    given = GlobalSkip("bicubic", 4)(image)[0, 0].numpy()
    # Pillow drops and renormalises the taps outside the image; the skip replicates the edge.
    np.testing.assert_allclose(given[8:-8, 8:-8], np.asarray(resized)[8:-8, 8:-8], atol=1e-5)


def test_skip_keeps_float32_under_autocast():
    image = torch.rand(1, 3, 8, 8)
    skip = GlobalSkip("bicubic", 4)
    with torch.autocast("cpu", torch.bfloat16):
        given = skip(image)
    assert given.dtype == torch.float32 and torch.equal(given, skip(image))


def test_skip_made_in_inference_mode_can_be_trained_through_later():
    skip = GlobalSkip("bicubic", 4)
    with torch.inference_mode():
        skip(torch.rand(1, 3, 13, 17))
    image = torch.rand(1, 3, 13, 17, requires_grad=True)
    skip(image).sum().backward()
    torch.testing.assert_close(image.grad.sum(), torch.tensor(3 * 13 * 17 * 16.0))


class Run(Section):
    generator: GeneratorConfig


def test_start_as_skip_without_a_skip_is_refused():
    with pytest.raises(InputError, match=r"start_as_skip needs a skip; set skip: bicubic"):
        parse(Run, {"generator": {"name": "srcnn", "start_as_skip": True}}, "r.yaml")


def test_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'srresnet', 'msrresnet', 'rrdb'"):
        parse(Run, {"generator": {"name": "resnet"}}, "r.yaml")


class Holder(Section):
    generator: GeneratorConfig


@pytest.mark.parametrize("name", ["srcnn", "espcn"])
@pytest.mark.parametrize("num_channels", [[-1, 4], [4, 0]])
def test_networks_without_channels_are_refused_before_they_are_built(name, num_channels):
    with pytest.raises(InputError, match="num_channels"):
        parse(Holder, {"generator": {"name": name, "num_channels": num_channels}}, "x")


def test_rrdb_starts_with_small_branches_and_usual_layers_around_them():
    """A tenth of Kaiming's deviation and no biases, in the dense blocks alone (ESRGAN)."""
    torch.manual_seed(0)
    layers = build_generator(config_of(name="rrdb", num_blocks=1, num_channels=32, growth=32), 4).layers
    for name, layer in layers.named_modules():
        if isinstance(layer, nn.Conv2d) and name != "last":  # which may start at zero
            relative = layer.weight.std().item() * (layer.weight[0].numel() / 2) ** 0.5
            is_small = relative == pytest.approx(0.1, rel=0.1) and not layer.bias.any()
            assert is_small == name.startswith("blocks."), name
