"""Sets of images in one batch are normalised as if each came alone."""

import copy

import pytest
import torch

from harness.models.build import build_discriminator
from harness.models.config import VGGDiscriminatorConfig
from harness.models.norm import in_sets
from harness.train.fast.fuse import Compiler, fuse_module


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_one_pass_over_several_sets_equals_a_pass_for_each(training, compiled):
    torch.manual_seed(0)
    together = build_discriminator(VGGDiscriminatorConfig(name="vgg", num_channels=4), 16).double().train(training)
    apart = copy.deepcopy(together)
    if compiled:
        fuse_module(together, Compiler("aot_eager"))
    sets = [torch.rand(3, 3, 16, 16).double() * scale for scale in (0.3, 1.0)]
    with in_sets(together, len(sets)):
        joined = together(torch.cat(sets))
    expected = torch.cat([apart(images) for images in sets])
    torch.testing.assert_close(joined, expected)
    for logits in (joined, expected):
        (logits * torch.arange(1, 7).reshape(-1, 1)).sum().backward()
    for own, wanted in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(own.grad, wanted.grad)
    torch.testing.assert_close(together.state_dict(), apart.state_dict())  # the running statistics too


def test_sets_are_forgotten_afterwards():
    network = build_discriminator(VGGDiscriminatorConfig(name="vgg", num_channels=4), 16).double()
    images = torch.rand(4, 3, 16, 16).double()
    expected = copy.deepcopy(network)(images)
    with pytest.raises(RuntimeError, match="inside"), in_sets(network, 2):
        raise RuntimeError("inside")
    torch.testing.assert_close(network(images), expected)
