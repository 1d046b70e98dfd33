"""What is given to torch's compiler computes what it did before, whole, and goes on to be used."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from harness import random
from harness.augment.build import build_augment
from harness.augment.config import FixedAugmentConfig
from harness.errors import InputError, TrainingError
from harness.losses.config import FeatureLossConfig
from harness.losses.features import FeatureLoss
from harness.models import shuffle, to_image
from harness.models.build import build_discriminator, build_generator
from harness.models.config import GeneratorConfig, VGGDiscriminatorConfig
from harness.train.fast import fuse
from harness.train.fast.fuse import (
    Compiler,
    as_written,
    compiler_for,
    done_or_given_up,
    fuse_generator,
    fuse_module,
    fuse_parts,
    fused_normal,
    keep_compiled,
    parts_of,
    unfuse,
)
from harness.train.fast.graph import KeptInputs

GENERATORS = {
    "srresnet": {"name": "srresnet", "num_blocks": 4, "num_channels": 8, "start_as_skip": False},
    "rrdb": {"name": "rrdb", "num_blocks": 3, "num_channels": 8, "growth": 4},
    "residual_cnn": {"name": "residual_cnn", "num_channels": 8},
    "unet": {"name": "unet", "num_channels": 4, "depth": 3},
}
POSITION = torch.arange(3) + 12345678901


class Counted:
    """A backend that makes nothing new, and counts what it is given and how often that is used."""

    def __init__(self) -> None:
        self.num_graphs = self.num_calls = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        from torch._dynamo.backends.debugging import aot_eager

        self.num_graphs += 1
        made = aot_eager(graph, inputs)

        def call(*arguments: Any) -> Any:
            self.num_calls += 1
            return made(*arguments)

        return call


@pytest.fixture(autouse=True)
def forget():
    """No test finds what another had compiled."""
    torch._dynamo.reset()
    torch.manual_seed(0)


def gradients(module: nn.Module, output: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad((output * weights).sum(), list(module.parameters())))


@pytest.mark.parametrize(
    ("name", "at_once"), [("srresnet", True), ("residual_cnn", True), *((name, False) for name in GENERATORS)]
)
def test_a_compiled_generator_computes_the_same_and_equal_blocks_are_compiled_once(name, at_once, monkeypatch):
    for module in (shuffle, to_image):  # the form that a GPU compiles
        monkeypatch.setattr(module, "is_exported", lambda x: False)
    monkeypatch.setattr(fuse, "MOST_CONVS_AT_ONCE", 1000 if at_once else 0)
    config = TypeAdapter(GeneratorConfig).validate_python(GENERATORS[name])
    dtype = torch.float32 if name == "unet" else torch.float64  # a skip at the beginning is float32
    generator = build_generator(config, 4).to(dtype, memory_format=torch.channels_last)
    image = torch.rand(2, 3, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    expected = generator(image)
    expected_gradients = gradients(generator, expected)
    generator = copy.deepcopy(generator)
    counted = Counted()
    fuse_generator(generator, Compiler(counted))
    output = generator(image)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradients(generator, output), expected_gradients, rtol=1e-4, atol=1e-5)
    if at_once:
        assert counted.num_calls == counted.num_graphs == 1
        return
    parts = list(parts_of(generator.layers))
    assert counted.num_calls == len(parts) > 3
    alike = {"srresnet": 4, "rrdb": 3}.get(name, 1)
    assert counted.num_graphs == len(parts) - alike + 1


def test_a_compiled_discriminator_serves_both_updates():
    discriminator = build_discriminator(VGGDiscriminatorConfig(name="vgg", num_channels=4), 16)
    plain = copy.deepcopy(discriminator)
    fuse_module(discriminator, Compiler(Counted()))
    image = torch.rand(3, 3, 16, 16)
    for module in (plain, discriminator):
        module.logits = module(image)
        module.own_gradients = gradients(module, module.logits)
        module.requires_grad_(False)
        module.seen = image.clone().requires_grad_()
        module(module.seen).sum().backward()
    torch.testing.assert_close(discriminator.logits, plain.logits)
    torch.testing.assert_close(discriminator.own_gradients, plain.own_gradients)
    torch.testing.assert_close(discriminator.seen.grad, plain.seen.grad)
    torch.testing.assert_close(discriminator.state_dict(), plain.state_dict())


def test_the_compiled_pipeline_draws_and_changes_the_same_for_every_purpose():
    augment = build_augment(FixedAugmentConfig(name="fixed", p=0.7), 5)
    images = torch.rand(3, 3, 16, 16)
    expected = [augment(images, POSITION, purpose) for purpose in ("real", "fake", "generator")]
    counted = Counted()
    fuse_parts(augment, Compiler(counted))
    assert all(
        torch.equal(augment(images, POSITION, purpose), wanted)
        for purpose, wanted in zip(("real", "fake", "generator"), expected)
    )
    assert counted.num_graphs == 1


def test_compiled_features_are_the_same():
    layers = {"conv2_2": 1.0, "relu3_1": 0.5}
    loss = FeatureLoss(
        FeatureLossConfig(name="features", network="vgg19", layers=layers, distance="l1", weights="random")
    )
    images = torch.rand(2, 1, 3, 16, 16)
    expected = loss(*images)
    fuse_parts(loss, Compiler(Counted()))
    torch.testing.assert_close(loss(*images), expected)


def test_compiled_noise_is_the_same_and_one_function_draws_every_stream():
    counted = Counted()
    normal = fused_normal(Compiler(counted))
    for key in (random.key(0, "real"), random.key(0, "fake")):
        assert torch.equal(normal(key, POSITION, (3, 5, 5)), random.normal_tensor(key, POSITION, (3, 5, 5)))
    assert counted.num_graphs == 1


def test_what_a_recording_looks_at_beforehand_is_still_compiled_afterwards():
    counted = Counted()
    double = Compiler(counted)(lambda x: x.sin() + x)
    x = torch.rand(3)
    double(x)
    with as_written(), KeptInputs():
        double(x)
    assert counted.num_calls == 1
    double(x)
    assert counted.num_calls == 2


def test_work_that_the_compiler_fails_at_is_done_as_it_is_written_where_that_may_be(caplog):
    def no_kernels(graph: Any, inputs: Any) -> Any:
        raise ValueError("no such kernel")

    double = Compiler(no_kernels)(lambda x: x * 2)
    with pytest.raises(TrainingError, match=r"no such kernel.*; set compile=off"):
        done_or_given_up(lambda: double(torch.ones(1)), may_give_up=False)
    assert not [record for record in caplog.records if record.name.startswith("harness")]
    try:
        results = [done_or_given_up(lambda: double(torch.ones(1)), may_give_up=True) for _ in range(2)]
    finally:
        torch.compiler.set_stance("default")
    assert results == [2, 2]
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("harness")]
    assert "no such kernel" in said and "slower" in said


def test_errors_that_are_not_the_compilers_are_left_alone():
    def call() -> None:
        calls.append(1)
        raise RuntimeError("out of something")

    calls: list[int] = []
    with pytest.raises(RuntimeError, match="out of something"):
        done_or_given_up(call, may_give_up=True)
    assert calls == [1]


def test_copies_are_not_compiled_and_it_can_be_undone():
    counted = Counted()
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    fuse_module(module, Compiler(counted))
    copy.deepcopy(module)(torch.rand(1, 2))
    assert counted.num_calls == 0
    module(torch.rand(1, 2))
    assert counted.num_calls == 1
    unfuse(nn.Sequential(module))
    module(torch.rand(1, 2))
    assert counted.num_calls == 1


def test_what_is_compiled_is_kept_in_the_runs_folder_unless_the_user_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that what is set here is undone
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled(tmp_path / "run")
    folder = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert Path(folder).parent == tmp_path / "run" / "compiled"
    keep_compiled(tmp_path / "other", is_shared=True)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == folder


def test_what_is_compiled_around_other_kernels_of_our_own_is_not_taken(tmp_path, monkeypatch):
    folders = set()
    for kernels in ("gpu/*.py", "gpu/narrow*.py"):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        monkeypatch.setattr(fuse, "_KERNELS", kernels)
        keep_compiled(tmp_path / "run")
        folders.add(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert len(folders) == 2


@pytest.mark.slow
def test_networks_with_functions_of_our_own_are_not_traced_anew(tmp_path):
    code = """
import torch
from torch._dynamo.utils import counters
from harness.models.norm import BatchNorm2d
from harness.train.fast.fuse import Compiler

torch.manual_seed(0)
norm, x = BatchNorm2d(2), torch.rand(4, 2, 3, 3, requires_grad=True)
norm.num_sets = 2
(Compiler()(norm.forward)(x) * torch.arange(72.0).reshape(4, 2, 3, 3)).sum().backward()
print(counters["aot_autograd"]["autograd_cache_hit"], x.grad.tolist(), norm.running_var.tolist())
"""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    printed = [subprocess.check_output([sys.executable, "-c", code], text=True, env=environment) for _ in range(2)]
    assert [value.split(" ", 1)[0] for value in printed] == ["0", "1"]
    assert len({value.split(" ", 1)[1] for value in printed}) == 1


def test_the_phases_of_a_users_sweeps_share_what_is_compiled(tmp_path, monkeypatch):
    folders = set()
    for name in ("phase", "another"):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        keep_compiled(tmp_path / name, is_shared=True)
        folders.add(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert {Path(folder).parent for folder in folders} == {tmp_path / f".compiled-{os.getuid()}"} and len(folders) == 1


@dataclass
class OneRank:
    device: torch.device
    world_size: int = 1


CPU, GPU = OneRank(torch.device("cpu")), OneRank(torch.device("cuda"))


def test_the_compiler_is_refused_where_it_cannot_work(monkeypatch):
    assert compiler_for("off", GPU, 10**6, True) is None
    with pytest.raises(InputError, match=r"compile: on needs an NVIDIA GPU, not cpu; set auto\."):
        compiler_for("on", CPU, 10**6, True)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(InputError, match=r"compile: on needs (Triton|a C compiler), which is not installed"):
        compiler_for("on", GPU, 10**6, True)


def test_auto_compiles_long_phases_on_a_single_gpu(monkeypatch, caplog):
    pytest.importorskip("triton")
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert compiler_for("auto", GPU, 10_000, True) is not None
    for ranks, num_iterations in ((CPU, 10**6), (OneRank(GPU.device, 2), 10**6), (GPU, 9_999)):
        assert compiler_for("auto", ranks, num_iterations, True) is None
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert compiler_for("auto", GPU, 10**6, True) is None
    monkeypatch.undo()
    assert not caplog.messages
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert compiler_for("auto", GPU, 10**6, True) is None
    assert "needs Triton, which is not installed; the steps run without it" in caplog.text


def test_images_in_channels_last_stay_so_in_compiled_code(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("CC", "cc")
    given = []
    monkeypatch.setattr(torch, "compile", lambda function, **settings: given.append(settings["options"]) or function)
    for channels_last in (True, False):
        compiler_for("on", GPU, 1, channels_last)(abs)
    assert given == [{"force_layout_optimization": True}, None]
    assert set(given[0]) <= set(torch._inductor.list_options())


def test_what_is_large_or_has_a_skip_inside_is_compiled_by_parts(monkeypatch):
    made = []
    monkeypatch.setattr(fuse, "fuse_module", lambda module, compiler: made.append(module))
    for name in ("srresnet", "rrdb", "unet"):
        made.clear()
        config = TypeAdapter(GeneratorConfig).validate_python(GENERATORS[name])
        generator = build_generator(config, 4)
        fuse_generator(generator, Compiler(Counted()))
        assert (made == [generator.layers]) == (name == "srresnet")
