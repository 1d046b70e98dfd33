"""VGG with torchvision's weights: the same features at every layer; missing and damaged files are told."""

import pytest
import torch
import torchvision
from torch import nn

from harness.errors import InputError
from harness.losses.build import build_losses
from harness.losses.config import FeatureLossConfig
from harness.models.build import build_discriminator
from harness.models.config import VGG16DiscriminatorConfig
from harness.models.vgg import ImageNetNormalize, vgg_layers
from harness.models.vgg_names import layer_names

CONVS_PER_STAGE = {"vgg16": "D", "vgg19": "E"}


@pytest.fixture(params=["vgg16", "vgg19"])
def stored(request, tmp_path, monkeypatch):
    """torchvision's convolutional part with random weights, and a file of it as `find` would give."""
    torch.manual_seed(0)
    cfg = torchvision.models.vgg.cfgs[CONVS_PER_STAGE[request.param]]
    features = torchvision.models.vgg.make_layers(cfg)
    path = tmp_path / "vgg.pth"
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, path)
    monkeypatch.setattr("harness.models.vgg.find", lambda name: path)
    return request.param, features, path


def test_every_layer_equals_torchvisions(stored):
    network, features, _ = stored
    ours = vgg_layers(network, "pool5")
    x = y = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for (name, layer), other in zip(ours.named_children(), features):
            x, y = layer(x), other(y)
            torch.testing.assert_close(x, y, msg=name)
    assert [name for name, _ in ours.named_children()] == list(layer_names(network))


@pytest.mark.parametrize("stored", ["vgg16"], indirect=True)
def test_discriminator_starts_from_the_file(stored):
    _, features, _ = stored
    discriminator = build_discriminator(VGG16DiscriminatorConfig(name="vgg16"), 32)
    convolutions = [layer for layer in features[:24] if isinstance(layer, nn.Conv2d)]
    ours = [layer for layer in discriminator.trunk if isinstance(layer, nn.Conv2d)]
    assert len(ours) == len(convolutions) == 10
    assert all(torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) for a, b in zip(ours, convolutions))
    assert all(p.requires_grad for p in discriminator.parameters())


def test_feature_loss_reads_the_file(stored):
    network, features, _ = stored
    config = FeatureLossConfig(name="features", network=network, layers={"conv3_1": 1.0}, distance="l1")
    pair = torch.rand(2, 1, 3, 24, 24)
    normalize = ImageNetNormalize()
    with torch.no_grad():
        sr, hr = (features[:11](normalize(image)) for image in pair)
        given = build_losses([config], "cpu")(*pair)["features"]
    torch.testing.assert_close(given, (sr - hr).abs().mean())


def test_file_of_another_network_is_refused(stored):
    network, _, path = stored
    torch.save({"features.0.weight": torch.zeros(8, 3, 3, 3)}, path)
    with pytest.raises(InputError, match=r"vgg\.pth: lacks features\.0\.weight"):
        vgg_layers(network, "relu1_1")


def test_damaged_file_is_refused(stored):
    network, _, path = stored
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"vgg\.pth: is damaged"):
        vgg_layers(network, "relu1_1")


def test_missing_file_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="harness weights fetch vgg16"):
        build_discriminator(VGG16DiscriminatorConfig(name="vgg16"), 32)


def test_normalisation_is_imagenets():
    image = torch.tensor([0.485, 0.456, 0.406])[:, None, None] + torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    torch.testing.assert_close(ImageNetNormalize()(image), torch.ones(3, 1, 1))
