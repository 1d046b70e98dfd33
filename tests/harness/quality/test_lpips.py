"""LPIPS against the `lpips` package, with random backbones read from files in torchvision's format."""

from __future__ import annotations

from pathlib import Path

import lpips as reference_package
import pytest
import torch

from harness.errors import CheckpointError
from harness.quality import lpips
from harness.quality.lpips import LPIPS, MIN_PX

NETWORKS = ("alex", "vgg", "squeeze")


def reference_distance(network: str, backbone: Path, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    reference = reference_package.LPIPS(net=network, pnet_rand=True, verbose=False)
    state = torch.load(backbone, weights_only=True)
    for name, parameter in reference.net.named_parameters():
        _, place, *rest = name.split(".")
        parameter.data = state[".".join(["features", place, *rest])]
    with torch.inference_mode():
        return reference(preds, target, normalize=True).flatten()


def pair(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height)
    target = torch.rand(2, 3, height, width, generator=generator)
    return (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


@pytest.mark.parametrize(
    ("network", "height", "width"),
    [("alex", 64, 64), ("alex", 45, 83), ("squeeze", 64, 64), ("squeeze", 45, 83), ("vgg", 45, 35)],
)
def test_lpips_equals_the_package(network: str, height: int, width: int, backbone_file) -> None:
    preds, target = pair(height, width)
    backbone = backbone_file(network)
    measured = LPIPS(network, backbone)(preds, target)
    expected = reference_distance(network, backbone, preds, target)
    assert measured.shape == (2,)
    assert expected.min() > 1e-4, "the reference must see a difference for the comparison to mean anything"
    assert torch.allclose(measured, expected, atol=1e-5, rtol=1e-5)


def test_kept_features_give_the_same_distance(backbone_file) -> None:
    preds, target = pair(40, 40)
    measure = LPIPS("alex", backbone_file("alex"))
    kept = measure.describe(target)
    assert torch.equal(measure.distance(measure.describe(preds), kept), measure(preds, target))


@pytest.mark.parametrize(
    ("network", "height", "width"),
    # VGG, which takes ten times the others' time, sees edges of the two directions one at a time.
    [("alex", 290, 211), ("squeeze", 290, 211), ("vgg", 290, 33), ("vgg", 33, 271)],
)
def test_a_large_image_has_in_tiles_the_distance_of_the_whole(
    network: str, height: int, width: int, backbone_file, monkeypatch
) -> None:
    preds, target = (image[:1] for image in pair(height, width))
    measure = LPIPS(network, backbone_file(network))
    whole = measure(preds, target)
    seen = []
    monkeypatch.setattr(lpips, "WHOLE_PX", 0)
    monkeypatch.setattr(lpips, "_TILE_PX", 64)
    describe = measure.describe
    monkeypatch.setattr(
        measure, "describe", lambda image, *places: (seen.append(image.shape[-2:]), describe(image, *places))[1]
    )
    assert measure(preds, target).item() == pytest.approx(whole.item(), abs=1e-6, rel=1e-5)
    assert len(seen) > 8
    assert all(rows <= 64 + 2 * 112 and columns <= 64 + 2 * 112 for rows, columns in seen)


def test_equal_images_have_distance_zero_and_grey_counts_as_three_equal_channels(backbone_file) -> None:
    preds, target = pair(40, 40)
    measure = LPIPS("alex", backbone_file("alex"))
    assert measure(target, target).tolist() == [0, 0]
    grey, other = target[:, :1], preds[:, :1]
    assert torch.equal(measure(other, grey), measure(other.repeat(1, 3, 1, 1), grey.repeat(1, 3, 1, 1)))


def test_the_gradient_reaches_the_image_and_not_the_network(backbone_file) -> None:
    preds, target = pair(40, 40)
    measure = LPIPS("alex", backbone_file("alex"))
    measure(preds.requires_grad_(), target).sum().backward()
    assert preds.grad is not None and preds.grad.abs().sum() > 0 and preds.grad.isfinite().all()
    assert all(parameter.grad is None for parameter in measure.parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_smallest_image_is_measured_and_a_smaller_one_refused(network: str, backbone_file) -> None:
    measure = LPIPS(network, backbone_file(network))
    edge = MIN_PX[network]
    assert measure(torch.zeros(1, 3, edge, edge), torch.ones(1, 3, edge, edge)).isfinite().all()
    with pytest.raises(ValueError, match=f"at least {edge} px"):
        measure(torch.zeros(1, 3, edge - 1, 90), torch.zeros(1, 3, edge - 1, 90))
    with pytest.raises((RuntimeError, ValueError)):
        x = torch.zeros(1, 3, edge - 1, edge - 1)
        assert measure.features(x).numel(), "one pixel less leaves no features: the limit is the true one"


def test_another_network_s_file_and_a_torn_file_are_refused(backbone_file, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no fitting"):
        LPIPS("vgg", backbone_file("alex"))
    torn = tmp_path / "torn.pth"
    torn.write_bytes(backbone_file("alex").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        LPIPS("alex", torn)
