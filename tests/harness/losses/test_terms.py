"""The generator's terms: values against independent computations, gradients, and how they are built."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn import functional as F

from harness.errors import InputError
from harness.losses.build import build_losses
from harness.losses.config import LossConfig
from harness.models.vgg_names import layer_names
from harness.schema import Section, parse

RANDOM_VGG = {"name": "features", "network": "vgg16", "distance": "l2", "weights": "random"}
TERMS = [
    {"name": "l1"},
    {"name": "l2"},
    {"name": "charbonnier"},
    {"name": "ssim"},
    {**RANDOM_VGG, "layers": {"relu2_2": 1.0}},
]


def terms_of(*values):
    adapter = TypeAdapter(LossConfig)
    return build_losses([adapter.validate_python(v) for v in values], "cpu")


def value_of(values, sr_image, hr_image):
    return terms_of(values)(sr_image, hr_image)[values["name"]]


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.rand(2, 3, 24, 20), torch.rand(2, 3, 24, 20)


def test_pixel_losses_equal_their_formulas(pair):
    difference = np.subtract(*(image.double().numpy() for image in pair))
    assert value_of({"name": "l1"}, *pair).item() == pytest.approx(np.abs(difference).mean(), rel=1e-5)
    assert value_of({"name": "l2"}, *pair).item() == pytest.approx((difference**2).mean(), rel=1e-5)
    charbonnier = value_of({"name": "charbonnier", "eps": 0.1}, *pair).item()
    assert charbonnier == pytest.approx(np.sqrt(difference**2 + 0.01).mean(), rel=1e-5)


def test_ssim_loss_is_one_minus_scikit_images_score(pair):
    scores = [
        structural_similarity(
            *(image[i].permute(1, 2, 0).double().numpy() for image in pair),
            channel_axis=2,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1][5:-5, 5:-5].mean()
        for i in range(2)
    ]
    assert value_of({"name": "ssim"}, *pair).item() == pytest.approx(1 - np.mean(scores), abs=1e-4)


def features_by_hand(loss, image, last):
    """VGG up to `last` in torch functions, with the weights of the loss's own network."""
    x = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for name in layer_names("vgg16"):
        if name.startswith("conv"):
            layer = loss.layers.get_submodule(name)
            x = F.conv2d(x, layer.weight, layer.bias, padding=1)
        else:
            x = F.relu(x) if name.startswith("relu") else F.max_pool2d(x, 2)
        if name == last:
            return x
    raise AssertionError(last)


@pytest.mark.parametrize("layer", ["conv1_2", "relu1_2", "conv2_2", "relu2_2", "pool2"])
@pytest.mark.parametrize(("distance", "power"), [("l1", 1), ("l2", 2)])
def test_feature_loss_equals_a_computation_by_hand(pair, layer, distance, power):
    values = {**RANDOM_VGG, "layers": {layer: 1.0}, "distance": distance, "rescale": 0.5}
    terms = terms_of(values)
    sr, hr = (features_by_hand(terms.terms["features"], image, layer) * 0.5 for image in pair)
    torch.testing.assert_close(terms(*pair)["features"], (sr - hr).abs().pow(power).mean())


def test_features_of_images_that_are_not_normalised_are_of_the_images_as_they_are(pair):
    values = {**RANDOM_VGG, "layers": {"conv1_1": 1.0}, "distance": "l1"}
    terms = terms_of({**values, "normalize": False})
    conv = terms.terms["features"].layers.get_submodule("conv1_1")
    sr, hr = (F.conv2d(image, conv.weight, conv.bias, padding=1) for image in pair)
    torch.testing.assert_close(terms(*pair)["features"], (sr - hr).abs().mean())
    assert not torch.allclose(terms_of(values)(*pair)["features"], (sr - hr).abs().mean(), rtol=0.1)


def test_layers_are_weighed_and_added(pair):
    each = [value_of({**RANDOM_VGG, "layers": {layer: 1.0}}, *pair) for layer in ("conv1_2", "relu1_2", "relu2_1")]
    layers = {"conv1_2": 2.0, "relu1_2": 0.5, "relu2_1": 1.0}
    torch.testing.assert_close(value_of({**RANDOM_VGG, "layers": layers}, *pair), 2 * each[0] + 0.5 * each[1] + each[2])


def test_srgans_rescaling_of_features_is_its_factor_of_the_loss(pair):
    """Features times 1/12.75 is the loss times 0.006 (Ledig et al. 2017)."""
    plain = value_of({**RANDOM_VGG, "layers": {"relu2_2": 1.0}}, *pair)
    rescaled = value_of({**RANDOM_VGG, "layers": {"relu2_2": 1.0}, "rescale": 1 / 12.75}, *pair)
    assert (rescaled / plain).item() == pytest.approx(0.006, abs=2e-4)


def test_random_features_are_the_same_in_every_run(pair):
    torch.manual_seed(1)
    first = value_of({**RANDOM_VGG, "layers": {"relu2_2": 1.0}}, *pair)
    torch.manual_seed(2)
    assert torch.equal(value_of({**RANDOM_VGG, "layers": {"relu2_2": 1.0}}, *pair), first)


def test_building_a_random_network_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    terms_of({**RANDOM_VGG, "layers": {"relu1_1": 1.0}})
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("values", TERMS, ids=lambda v: v["name"])
def test_the_generator_receives_a_gradient_and_the_loss_itself_none(values):
    torch.manual_seed(0)
    generator, hr_image = nn.Conv2d(3, 3, 3, padding=1), torch.rand(2, 3, 16, 16, requires_grad=True)
    terms = terms_of(values)
    terms(generator(hr_image.detach()), hr_image.detach())[values["name"]].backward()
    assert all(p.grad.abs().sum() > 0 for p in generator.parameters())
    assert all(p.grad is None and not p.requires_grad for p in terms.parameters())


def test_true_images_features_carry_no_graph(pair):
    terms = terms_of({**RANDOM_VGG, "layers": {"relu1_2": 1.0}})
    sr_image, hr_image = (image.requires_grad_() for image in pair)
    terms(sr_image, hr_image)["features"].backward()
    assert sr_image.grad is not None and hr_image.grad is None


@pytest.mark.parametrize("values", TERMS, ids=lambda v: v["name"])
def test_a_gradient_step_lowers_the_loss_and_equal_images_have_the_least(values, pair):
    sr_image, hr_image = pair[0].requires_grad_(), pair[1]
    terms = terms_of(values)
    before = terms(sr_image, hr_image)[values["name"]]
    (gradient,) = torch.autograd.grad(before, sr_image)
    after = terms(sr_image - 1e-2 * gradient / gradient.abs().max(), hr_image)[values["name"]]
    best = terms(hr_image, hr_image)[values["name"]]
    assert best.item() == pytest.approx(0, abs=2e-3)  # Charbonnier's tip lies at eps
    assert best < after < before


@pytest.mark.parametrize("values", TERMS, ids=lambda v: v["name"])
def test_terms_are_float32_scalars_under_autocast(values, pair):
    terms = terms_of(values)
    with torch.autocast("cpu", torch.bfloat16):
        value = terms(pair[0].bfloat16(), pair[1])[values["name"]]
    assert value.shape == () and value.dtype == torch.float32
    torch.testing.assert_close(value, terms(*pair)[values["name"]], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("values", TERMS[:-1], ids=lambda v: v["name"])
def test_terms_without_a_network_lose_nothing_under_autocast(values, pair):
    terms, sr_image = terms_of(values), pair[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = terms(sr_image, pair[1])[values["name"]]
    torch.testing.assert_close(value, terms(sr_image.float(), pair[1])[values["name"]], rtol=1e-6, atol=1e-7)


def test_rounding_the_weights_once_gives_what_autocast_gives(pair, monkeypatch):
    section = {"name": "features", "network": "vgg16", "layers": {"relu2_2": 1.0, "conv3_1": 0.5}, "distance": "l1"}
    loss = terms_of({**section, "weights": "random"})
    kept = loss.state_dict().keys()

    def value_and_gradient() -> list[torch.Tensor]:
        sr_image = pair[0].clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(sr_image, pair[1])["features"]
        return [value.detach(), *torch.autograd.grad(value, sr_image)]

    given = value_and_gradient()
    assert loss.state_dict().keys() == kept
    feature_loss = loss.terms["features"]
    monkeypatch.setattr(feature_loss, "_layers_for", lambda device: feature_loss.layers)
    assert all(torch.equal(a, b) for a, b in zip(given, value_and_gradient(), strict=True))


def test_weights_are_kept_beside_unweighted_values(pair):
    terms = terms_of({"name": "l1", "weight": 0.01}, {"name": "ssim", "weight": 2.0})
    assert terms.weights == {"l1": 0.01, "ssim": 2.0}
    assert list(terms(*pair)) == ["l1", "ssim"]
    torch.testing.assert_close(terms(*pair)["l1"], F.l1_loss(*pair))


def test_no_terms_give_no_values(pair):
    assert terms_of()(*pair) == {}


class Phase(Section):
    losses: tuple[LossConfig, ...]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**RANDOM_VGG, "layers": {"conv5_4": 1.0}}, r"vgg16 has no layer 'conv5_4'; did you mean 'conv5_"),
        ({**RANDOM_VGG, "layers": {"relu2_2": 0.0}}, "weight must be above 0"),
        ({**RANDOM_VGG, "layers": {}}, "losses.0.layers"),
        ({"name": "mse"}, "'l1', 'l2'"),
    ],
)
def test_wrong_settings_are_refused_with_the_key(values, message):
    with pytest.raises(InputError, match=message):
        parse(Phase, {"losses": [values]}, "r.yaml")


@pytest.mark.parametrize(
    "values", [{"name": "ssim"}, *({**RANDOM_VGG, "layers": {name: 1.0}} for name in ("conv1_1", "pool1", "relu3_1"))]
)
def test_smallest_patch_is_the_smallest_that_a_loss_can_compare(values):
    smallest_px = TypeAdapter(LossConfig).validate_python(values).smallest_px
    assert value_of(values, *torch.rand(2, 1, 3, smallest_px, smallest_px)).isfinite()
    if smallest_px > 1:
        with pytest.raises((ValueError, RuntimeError)):
            value_of(values, *torch.rand(2, 1, 3, smallest_px - 1, smallest_px - 1))


@pytest.mark.parametrize(("network", "num_layers"), [("vgg16", 31), ("vgg19", 37)])
def test_layer_names_number_torchvisions_features(network, num_layers):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        features = getattr(torchvision.models, network)(weights=None).features
    kinds = {"conv": nn.Conv2d, "relu": nn.ReLU, "pool": nn.MaxPool2d}
    names = layer_names(network)
    assert len(names) == len(features) == num_layers
    assert all(isinstance(layer, kinds[name[:4]]) for name, layer in zip(names, features))
