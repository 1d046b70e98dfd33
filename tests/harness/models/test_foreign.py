"""Third-party weights: names both ways, the same images as an independent implementation, errors that tell."""

import pytest
import spandrel
import torch
from torch.nn import functional as F

from harness.errors import CheckpointError, InputError
from harness.models.build import build_discriminator, build_generator
from harness.models.config import MSRResNetConfig, RRDBConfig, SRResNetConfig, VGGDiscriminatorConfig
from harness.models.foreign import from_foreign, read_foreign, read_foreign_weights, to_foreign

RRDB = RRDBConfig(name="rrdb", num_blocks=2, num_channels=16)
RRDB_FORMATS = ["basicsr-rrdb", "esrgan-2018", "esrgan-old"]
MSRRESNET = MSRResNetConfig(name="msrresnet", num_blocks=2, num_channels=8)


@pytest.fixture
def rrdb():
    torch.manual_seed(0)
    return build_generator(RRDB, 4).eval()


@pytest.mark.parametrize(
    ("config", "format", "scale"),
    [
        *((RRDB, format, 4) for format in RRDB_FORMATS),
        *((RRDB, "esrgan-old", scale) for scale in (2, 8)),
        (RRDB.model_copy(update={"growth": 8}), "basicsr-rrdb", 4),
        *((MSRRESNET, "basicsr-msrresnet", scale) for scale in (2, 4)),
    ],
)
def test_generator_names_map_both_ways(config, format, scale):
    state = build_generator(config, scale).state_dict()
    back = from_foreign(to_foreign(config, state, format))
    assert (back.format, back.scale) == (format, scale)
    assert type(config)(**back.config) == config
    assert back.weights.keys() == state.keys()
    assert all(torch.equal(back.weights[key], value) for key, value in state.items())


def test_a_file_tells_its_kernel_of_fusion(rrdb):
    theirs = {
        key: value[..., 1:2, 1:2] if ".conv5.weight" in key else value
        for key, value in to_foreign(RRDB, rrdb.state_dict(), "basicsr-rrdb").items()
    }
    assert RRDBConfig(**from_foreign(theirs).config) == RRDB.model_copy(update={"fusion_kernel": 1})


@pytest.mark.parametrize("patch_px", [64, 128])
def test_discriminator_names_map_both_ways(patch_px):
    config = VGGDiscriminatorConfig(num_channels=4, num_dense=10)
    state = build_discriminator(config, patch_px).state_dict()
    back = from_foreign(to_foreign(config, state, "basicsr-vgg"))
    assert VGGDiscriminatorConfig(**back.config) == config
    assert {key: value.shape for key, value in back.weights.items()} == {k: v.shape for k, v in state.items()}


def test_published_names_and_shapes():
    """As the files of BasicSR have them (128 px, 64 channels, 16 blocks)."""
    generator = to_foreign(
        MSRResNetConfig(name="msrresnet"),
        build_generator(MSRResNetConfig(name="msrresnet"), 4).state_dict(),
        "basicsr-msrresnet",
    )
    layers = ["conv_first", *(f"body.{n}.conv{k}" for n in range(16) for k in (1, 2))]
    layers += ["upconv1", "upconv2", "conv_hr", "conv_last"]
    assert list(generator) == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    config = VGGDiscriminatorConfig()
    discriminator = to_foreign(config, build_discriminator(config, 128).state_dict(), "basicsr-vgg")
    assert discriminator["linear1.weight"].shape == (100, 8192)
    assert "conv0_0.bias" in discriminator and "conv0_1.bias" not in discriminator
    assert {"bn0_1.weight", "conv4_1.weight", "bn4_1.running_var", "linear2.bias"} <= discriminator.keys()


@pytest.mark.parametrize("format", RRDB_FORMATS)
def test_rrdb_gives_the_same_image_as_spandrel(rrdb, format):
    other = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(to_foreign(RRDB, rrdb.state_dict(), format)))
    image = torch.rand(1, 3, 12, 17)
    with torch.no_grad():
        torch.testing.assert_close(rrdb(image), other.model.eval()(image), rtol=0, atol=1e-5)


def test_msrresnet_gives_the_image_of_its_published_definition():
    """The definition, written with BasicSR's layer names as plain functions."""
    torch.manual_seed(0)
    network = build_generator(MSRRESNET, 4)
    state = to_foreign(MSRRESNET, network.state_dict(), "basicsr-msrresnet")
    image = torch.rand(1, 3, 9, 7)

    def conv(x, name):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    x = F.leaky_relu(conv(image, "conv_first"), 0.1)
    for n in range(2):
        x = x + conv(F.relu(conv(x, f"body.{n}.conv1")), f"body.{n}.conv2")
    for name in ("upconv1", "upconv2"):
        x = F.leaky_relu(F.pixel_shuffle(conv(x, name), 2), 0.1)
    x = conv(F.leaky_relu(conv(x, "conv_hr"), 0.1), "conv_last")
    expected = x + F.interpolate(image, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-5)


def test_averaged_weights_are_taken_and_the_prefix_dropped(rrdb, tmp_path):
    theirs = {f"module.{key}": value for key, value in to_foreign(RRDB, rrdb.state_dict(), "basicsr-rrdb").items()}
    other = {key: torch.zeros_like(value) for key, value in theirs.items()}
    torch.save({"params": other, "params_ema": theirs}, tmp_path / "net.pth")
    weights = read_foreign_weights(tmp_path / "net.pth")
    assert all(torch.equal(weights[key], value) for key, value in rrdb.state_dict().items())


def test_missing_and_foreign_layers_are_named(rrdb):
    theirs = to_foreign(RRDB, rrdb.state_dict(), "basicsr-rrdb")
    del theirs["conv_hr.weight"]
    with pytest.raises(CheckpointError, match=r"lack \['conv_hr'\] and have \[\] besides"):
        from_foreign(theirs)
    theirs["attention.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"basicsr-rrdb with 2 blocks, but lack \['conv_hr'\].*attention.weight"):
        from_foreign(theirs)
    more = {**to_foreign(RRDB, rrdb.state_dict(), "basicsr-rrdb"), "attention.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"lack \[\] and have \['attention.weight'\] besides"):
        from_foreign(more)


@pytest.mark.parametrize(
    ("key", "likeness"),
    [
        ("layers.0.residual_group.blocks.0.norm1.weight", "looks like SwinIR"),
        ("body.0.body.0.weight", "looks like EDSR"),
        ("conv1.weight_orig", "looks like Real-ESRGAN's U-Net discriminator"),
        ("encoder.weight", "is of no known architecture"),
    ],
)
def test_other_architectures_are_told_apart(key, likeness):
    with pytest.raises(CheckpointError, match=rf"{likeness}.*first keys are \['{key}'\]"):
        from_foreign({key: torch.zeros(1)})


@pytest.mark.parametrize(
    ("config", "format", "message"),
    [
        (SRResNetConfig(), "basicsr-rrdb", "holds a 'rrdb', not a 'srresnet'"),
        (
            MSRRESNET.model_copy(update={"skip": "bicubic"}),
            "basicsr-msrresnet",
            "knows only skip: bilinear, not bicubic",
        ),
        (VGGDiscriminatorConfig(spectral_norm=True), "basicsr-vgg", "knows only spectral_norm: False, not True"),
        (RRDB.model_copy(update={"skip": "bicubic"}), "basicsr-rrdb", "knows only skip: none, not bicubic"),
        (RRDB.model_copy(update={"residual_scale": 0.1}), "esrgan-old", "knows only residual_scale: 0.2"),
        *(
            (RRDB.model_copy(update={"fusion_kernel": 1}), format, "knows only fusion_kernel: 3, not 1")
            for format in RRDB_FORMATS
        ),
    ],
)
def test_networks_that_a_format_cannot_hold_are_refused(config, format, message):
    with pytest.raises(InputError, match=message):
        to_foreign(config, {}, format)


@pytest.mark.parametrize(
    ("config", "format", "scale", "known"),
    [
        (RRDB, "basicsr-rrdb", 2, "4"),
        (RRDB, "basicsr-rrdb", 8, "4"),
        (RRDB, "esrgan-2018", 2, "4"),
        (MSRRESNET, "basicsr-msrresnet", 8, "2 and 4"),
    ],
)
def test_scales_that_the_other_project_cannot_build_are_refused(config, format, scale, known):
    state = build_generator(config, scale).state_dict()
    with pytest.raises(InputError, match=f"{format} knows only scale {known}, not {scale}"):
        to_foreign(config, state, format)


def test_scales_that_are_no_power_of_two_are_refused():
    state = to_foreign(MSRRESNET, build_generator(MSRRESNET, 2).state_dict(), "basicsr-msrresnet")
    state["upconv1.weight"] = torch.zeros(9 * 8, 8, 3, 3)
    with pytest.raises(CheckpointError, match="no power of two"):
        from_foreign(state)


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("content", [b"", b"not a file of weights", "payload", [torch.zeros(1)]])
def test_files_that_are_no_state_dict_are_refused(tmp_path, content, capsys):
    path = tmp_path / "net.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(_Payload() if content == "payload" else content, path)
    with pytest.raises(CheckpointError, match=r"net\.pth: "):
        read_foreign(path)
    assert "executed" not in capsys.readouterr().out


def test_another_projects_names_in_a_safetensors_file_are_understood_as_a_start(rrdb, tmp_path):
    from safetensors.torch import save_file

    from harness.train.start import read_start_weights

    weights = rrdb.state_dict()
    save_file(to_foreign(RRDB, weights, "basicsr-rrdb"), tmp_path / "theirs.safetensors")
    save_file(weights, tmp_path / "own.safetensors")
    for name in ("theirs", "own"):
        found = read_start_weights(tmp_path / f"{name}.safetensors")
        assert found.keys() == weights.keys()
        assert all(torch.equal(value, found[key]) for key, value in weights.items())
