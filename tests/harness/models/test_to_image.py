"""The quick convolution to an image computes what torch's does."""

import pytest
import torch
from torch import nn

from harness.models import to_image
from harness.models.layers import conv
from harness.models.shuffle import gather_pixels
from harness.models.to_image import ConvToImage


@pytest.mark.parametrize("kernel", [5, 7, 9])
@pytest.mark.parametrize("size", [(8, 12), (7, 8), (6, 9)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("block_px", "form"), [(2, "_strided"), (4, "_strided"), (4, "of_blocks")])
def test_values_and_gradients_equal_torchs(monkeypatch, kernel, size, memory_format, block_px, form):
    monkeypatch.setitem(to_image._BLOCK_PX, "cpu", block_px)
    if form == "of_blocks":  # a GPU's
        monkeypatch.setattr(
            ConvToImage, "_strided", lambda layer, image, block_px: layer.of_blocks(gather_pixels(image, block_px))
        )
    torch.manual_seed(0)
    ours = conv(10, 3, kernel).to(memory_format=memory_format)
    assert type(ours) is ConvToImage
    theirs = nn.Conv2d(10, 3, kernel, padding=kernel // 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 10, *size).contiguous(memory_format=memory_format)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(one) for layer, one in zip((ours, theirs), inputs)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-5)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-4)


def test_second_derivatives_exist():
    layer = conv(2, 3, 5).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert type(layer) is ConvToImage
    assert torch.autograd.gradgradcheck(lambda value: layer(value).square(), (x,))


@pytest.mark.parametrize(("num_out", "kernel", "stride"), [(64, 9, 1), (3, 3, 1), (3, 9, 2)])
def test_other_convolutions_are_not_by_blocks(num_out, kernel, stride):
    assert not isinstance(conv(8, num_out, kernel, stride), ConvToImage)
