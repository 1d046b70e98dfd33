"""Every network compiles as for a GPU, with the kernels of our own in it, and computes the same; Triton interprets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from pydantic import TypeAdapter
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn import functional as F

from harness.losses.config import FeatureLossConfig
from harness.losses.features import FeatureLoss
from harness.models import conv, from_image, narrow, narrow_blocks, shuffle, srresnet, to_image, upsample
from harness.models.build import build_discriminator, build_generator
from harness.models.config import DiscriminatorConfig, GeneratorConfig
from harness.train.fast.fuse import Compiler, fuse_generator, fuse_module

GENERATORS: dict[str, dict[str, Any]] = {
    "srresnet": {"name": "srresnet", "num_blocks": 1, "start_as_skip": False},
    "srresnet, norm": {"name": "srresnet", "num_blocks": 1, "start_as_skip": False, "batch_norm": "everywhere"},
    "srresnet, relu": {"name": "srresnet", "num_blocks": 1, "start_as_skip": False, "activation": "relu"},
    "msrresnet": {"name": "msrresnet", "num_blocks": 1},
    "rrdb": {"name": "rrdb", "num_blocks": 1},
    "residual_cnn": {"name": "residual_cnn", "num_channels": 64},
    "unet": {"name": "unet", "num_channels": 64, "depth": 2},
    "srcnn": {"name": "srcnn"},
    "espcn": {"name": "espcn"},
}
QUICK = ("srresnet, relu", "espcn")
DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "vgg": {"name": "vgg"},
    "srgan": {"name": "srgan"},
    "conv": {"name": "conv"},
    "vgg16": {"name": "vgg16", "weights": "random"},
    "unet": {"name": "unet"},
}


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Has compiled code take the kernels that it takes on a GPU; holds which."""
    pytest.importorskip("triton")
    from harness.models.gpu import shuffle as shuffle_gpu  # noqa: F401

    found: set[str] = set()

    def noted(name: str, is_one: Callable[..., bool]) -> Callable[..., bool]:
        def has_kernels(*arguments: Any) -> bool:
            takes = torch.compiler.is_compiling() and is_one(*arguments)
            if takes:
                found.add(name)
            return takes

        return has_kernels

    monkeypatch.setattr(conv, "has_kernels", noted("narrow", narrow.is_narrow))
    monkeypatch.setattr(narrow_blocks, "has_kernels", narrow.is_narrow)
    monkeypatch.setattr(srresnet, "has_block_kernels", noted("block", narrow_blocks.has_block_kernels))
    monkeypatch.setattr(upsample, "is_compiled_for_gpu", lambda x: torch.compiler.is_compiling())
    monkeypatch.setattr(upsample, "has_kernels", noted("shuffle", upsample.has_kernels))
    monkeypatch.setattr(
        from_image, "_has_kernels", noted("from image", lambda x, num_out: num_out in (16, 32, 64, 128))
    )
    for module in (shuffle, to_image):
        monkeypatch.setattr(module, "is_exported", lambda x: False)
    torch._dynamo.reset()
    torch.manual_seed(0)
    return found


def all_in_channels_last(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
    """What runs a graph whose kernels of our own have all images in one order; else the compiler would copy them."""
    ours = [node for node in graph.graph.nodes if getattr(node.target, "namespace", "") == "harness"]
    values = [each.meta["val"] for node in ours for each in (*node.all_input_nodes, node)]
    for value in (v for v in values if isinstance(v, torch.Tensor) and v.ndim == 4):
        assert value.is_contiguous(memory_format=torch.channels_last)
    return make_boxed_func(graph.forward)


def assert_fused_is_plain(network: nn.Module, fuse: Callable[..., None], image: torch.Tensor) -> None:
    """In float16, which the interpreter can multiply, against float32, in which a few activations have other signs."""
    network.to(memory_format=torch.channels_last)
    fused = copy.deepcopy(network)
    fuse(fused, Compiler(aot_autograd(fw_compiler=all_in_channels_last, bw_compiler=all_in_channels_last)))
    results = []
    for module, is_half in ((fused, True), (network, False)):
        x = image.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
        with torch.autocast("cpu", torch.float16, enabled=is_half):
            y = module(x)
        value = y.float().square().mean()
        value.backward()
        results.append((value.detach(), x.grad))
    (value, gradient), (wanted, wanted_gradient) = results
    torch.testing.assert_close(value, wanted, rtol=0.02, atol=1e-3)
    assert F.cosine_similarity(gradient.flatten(), wanted_gradient.flatten(), dim=0) > 0.97


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in GENERATORS])
def test_generators(used, name):
    config = TypeAdapter(GeneratorConfig).validate_python(GENERATORS[name])
    assert_fused_is_plain(build_generator(config, 4), fuse_generator, torch.rand(2, 3, 4, 4))
    others = {
        "unet": set(),
        "srcnn": {"from image"},
        "srresnet": {"narrow", "block", "from image", "shuffle"},
        "srresnet, norm": {"narrow", "from image", "shuffle"},
    }
    assert used == others.get(name, {"narrow", "from image"})


@pytest.mark.slow
@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators(used, name):
    config = TypeAdapter(DiscriminatorConfig).validate_python(DISCRIMINATORS[name])
    assert_fused_is_plain(build_discriminator(config, 32), fuse_module, torch.rand(2, 3, 32, 32))
    assert used == {"vgg16": {"narrow"}}.get(name, {"from image"})


def test_feature_networks(used):
    values = {"name": "features", "network": "vgg19", "distance": "l2", "layers": {"conv1_2": 1.0}, "weights": "random"}
    loss = Compared(FeatureLoss(FeatureLossConfig.model_validate(values)), torch.rand(1, 3, 8, 8))
    assert_fused_is_plain(loss, lambda fused, compiler: fused.loss.join_operations(compiler), torch.rand(1, 3, 8, 8))
    assert used == {"narrow"}


class Compared(nn.Module):
    """A loss of what is compared with one image."""

    def __init__(self, loss: FeatureLoss, target: torch.Tensor) -> None:
        super().__init__()
        self.loss, self.target = loss, target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.loss(x, self.target)
