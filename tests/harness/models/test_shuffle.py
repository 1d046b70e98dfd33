"""The shuffle by whole pixels gives torch's image and gradients, in either layout."""

import pytest
import torch
from torch.nn import functional as F

from harness.models.shuffle import ConvShuffle


@pytest.mark.parametrize("block_px", [2, 3])
@pytest.mark.parametrize("size", [(5, 7), (1, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_image_and_gradients_equal_torchs(block_px, size, memory_format):
    torch.manual_seed(0)
    layer = ConvShuffle(6, 4, block_px).to(memory_format=memory_format)
    x = torch.randn(2, 6, *size).contiguous(memory_format=memory_format).requires_grad_()
    expected = F.pixel_shuffle(F.conv2d(x, layer.weight, layer.bias, padding=1), block_px)
    given = layer(x)
    assert given.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)
    weights = torch.rand_like(expected)
    inputs = [x, *layer.parameters()]
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((given * weights).sum(), inputs), wanted, rtol=1e-5, atol=1e-5)


def test_an_exported_layer_has_torchs_own_operations():
    exported = torch.export.export(ConvShuffle(3, 2, 2).eval(), (torch.rand(1, 3, 4, 4),))
    names = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert names == {"aten.conv2d.default", "aten.pixel_shuffle.default"}
