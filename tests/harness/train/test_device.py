"""The step on tensors without values, as a GPU would see it: nothing is read back, nothing comes from the host.

torch's device "meta" stands in for the GPU: its tensors have shapes and types, and asking for a value is an error. Only
autocast does not know it, so the networks run in float32.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.config import RunConfig, load_run_config
from harness.data.loader import Batch
from harness.errors import TrainingError
from harness.train import phase as phase_module
from harness.train import steps
from harness.train.fast.graph import Graphs
from harness.train.nets import Nets
from harness.train.phase import Phase

GPU = torch.device("meta")
RECIPES = sorted(p for p in Path("sweeps/recipes").glob("*.yaml") if not p.stem.endswith("-smoke"))


class OneGpu:
    """What a phase needs to know of its ranks: one, with a GPU."""

    def __init__(self) -> None:
        self.device, self.rank, self.world_size = GPU, 0, 1
        self.accelerator = self

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def share_of(self, batch_size: int, what: str) -> int:
        return batch_size

    def sum_tensor(self, value: torch.Tensor) -> torch.Tensor:
        return value


class StaysOnDevice(TorchDispatchMode):
    """Refuses what reads a value back, what makes or reads a tensor of the host, and what copies between the two."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if name in {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal"}:
            raise AssertionError(f"{name} waits for the device")
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, torch.Tensor) and tensor.device != GPU:
                raise AssertionError(f"{name} sees a tensor of the host, {tuple(tensor.shape)}")
        return result


class Repeats(TorchDispatchMode):
    """Refuses the operations that a GPU adds up in any order, and that torch therefore refuses to do repeatably."""

    BACKWARD = ("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "grid_sampler_2d")
    BACKWARD += ("replication_pad2d", "adaptive_max_pool2d", "adaptive_avg_pool2d", "avg_pool3d")
    REFUSED = frozenset({f"aten::{name}_backward" for name in BACKWARD} | {"aten::histc", "aten::scatter_reduce"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        if name in self.REFUSED:
            raise AssertionError(f"{name} adds up in any order")
        self.seen.add(name)
        return func(*args, **(kwargs or {}))


class MakesNoTensors(TorchFunctionMode):
    """Refuses to make a tensor of values of the host, which a real GPU would have to be sent."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy):
            raise AssertionError(f"{func.__name__} sends values to the device")
        return func(*args, **(kwargs or {}))


class Recorder:
    """Does the work as it would be warmed up and recorded; the recording is watched.

    Only the first kind of step is warmed up, which is the one with the most parts.
    """

    def __init__(self) -> None:
        self._is_warm = False

    def building(self) -> AbstractContextManager[None]:
        return nullcontext()

    def warm_up(self, call: Any) -> None:
        if not self._is_warm:
            call()
        self._is_warm = True

    def capture(self, call: Any) -> Any:
        with StaysOnDevice(), MakesNoTensors():
            result = call()
        return lambda: result


@pytest.fixture(autouse=True)
def no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the step run on the device that is none."""
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda device, **more: autocast("cpu" if device == "meta" else device, **more)
    )
    adam = sys.modules[torch.optim.Adam.__module__]
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *args, **more: None)
    for name in ("_fused_adam_", "_fused_adamw_"):  # these have no form without values
        monkeypatch.setattr(torch, name, fused_update)
    monkeypatch.setattr(
        phase_module, "graphs_for", lambda setting, ranks, state: Graphs(Recorder(), state, required=True)
    )


def fused_update(*lists: Any, lr: Any, **more: Any) -> None:
    tensors = [leaf for leaf in tree_leaves((lists, lr, more)) if isinstance(leaf, torch.Tensor)]
    assert isinstance(lr, torch.Tensor) and tensors and all(tensor.device == GPU for tensor in tensors)


def small(config: RunConfig, dataset: Path, **changes: Any) -> RunConfig:
    """The recipe with few and narrow layers, on small patches."""
    values = config.model_dump(mode="json")
    for network in (values["generator"], values["discriminator"] or {}):
        few = {"num_blocks": 1, "num_channels": 8, "growth": 4, "num_dense": 8, "depth": 2}
        network.update({key: few[key] for key in few if key in network and isinstance(network[key], int)})
        network.update({"weights": "random"} if "weights" in network else {})
    values |= {"init_from": None, "init_discriminator_from": None, "trackers": []}
    values["data"] |= {"sources": [{"path": str(dataset)}], "patch_px": 32}
    for phase in values["phases"]:
        phase |= {"batch_size": 4, "sources": None}
        for loss in phase["losses"]:
            loss.update({"weights": "random"} if "weights" in loss else {})
        phase.update(changes if phase["adversarial"] else {})
    return RunConfig.model_validate(values)


def all_kinds(phase: Phase) -> list[steps.StepKind]:
    """Every kind of step that the phase has, found by asking; those with the most parts first."""
    asked = itertools.chain(range(phase.first_step, phase.first_step + 200), [phase.last_step - 1])
    kinds = {phase.kind(step, log_norms) for step in asked for log_norms in (False, True)}
    return sorted(kinds, key=lambda kind: sum(dataclasses.astuple(kind)), reverse=True)


def telling(kinds: list[steps.StepKind]) -> list[steps.StepKind]:
    """Those of the kinds that show a part for the first time, or its absence."""
    seen: set[tuple[str, bool]] = set()
    found = []
    for kind in kinds:
        parts = set(dataclasses.asdict(kind).items())
        if parts - seen:
            found.append(kind)
        seen |= parts
    return found


def run_telling_kinds(config: RunConfig, number: int) -> Phase:
    ranks: Any = OneGpu()
    phase = Phase(config, number, Nets(config, ranks), ranks)
    size, px = phase.config.batch_size, config.data.patch_px
    hr_BHWC = torch.zeros(size, px, px, 3, dtype=torch.uint8, device=GPU)
    batch = Batch(hr_BHWC, torch.zeros(size, dtype=torch.int64, device=GPU))
    patches = phase.prepared(batch)
    assert phase.graphs is not None
    for kind in telling(all_kinds(phase)):
        phase.graphs.run(kind, lambda kind=kind: steps.update(phase, patches, kind))
    return phase


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_step_of_a_recipe_waits_for_the_gpu_or_reads_from_the_host(dataset, path):
    config = small(load_run_config(path), dataset)
    for number in range(len(config.phases)):
        phase = run_telling_kinds(config, number)
        tensors = phase._state()
        assert tensors and all(tensor.device == GPU for tensor in tensors)
        phase.close()


EXTREMES = {
    "r1 and ada": {
        "adversarial": {"form": "relativistic_average", "weight": 0.1, "r1_weight": 1.0, "r1_every": 3},
        "augment": {"name": "ada", "rule": "paper"},
    },
    "bcr, noise and micro-batches": {
        "adversarial": {
            "weight": 0.1,
            "label_flip_probability": 0.1,
            "label_noise_std": 0.1,
            "instance_noise_std": 0.1,
            "instance_noise_steps": 50,
        },
        "augment": {"name": "bcr"},
        "accumulate": 2,
        "generator_every": 3,
    },
}


@pytest.mark.parametrize("case", EXTREMES)
def test_no_rare_step_waits_for_the_gpu(dataset, case):
    base = load_run_config(Path("sweeps/recipes/superaugan-ffhq.yaml"))
    clip = {"generator_optimizer": {"learning_rate": 1e-3, "clip_norm": 1.0}}
    values = small(base, dataset, **EXTREMES[case], **clip).model_dump(mode="json")
    values["data"] |= {"rotate": True, "flip": True, "brightness": 0.1, "contrast": [0.9, 1.1]}
    values["data"]["degradation"] = {"kernels": {"matlab-bicubic": 1, "cv2-cubic": 2}, "noise_std": 0.1}
    phase = run_telling_kinds(RunConfig.model_validate(values), 1)
    assert len(all_kinds(phase)) >= 4
    phase.close()


PLANTED = {
    "item": (lambda logits: logits.mean().item(), r"item\(\) cannot be called"),
    "if": (lambda logits: bool((logits > 0).any()), r"item\(\) cannot be called"),
    "mask": (lambda logits: logits[logits > 0], "nonzero"),
    "host tensor": (lambda logits: logits + torch.zeros(1), "device cpu is not on the expected device"),
    "copy to the host": (lambda logits: logits.cpu(), "Cannot copy out of meta tensor"),
    "copy from the host": (lambda logits: torch.tensor(1.0, device=logits.device), "tensor sends values to the device"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_step_that_waits_is_found(dataset, monkeypatch, name):
    mistake, reason = PLANTED[name]
    real = steps._accuracy

    def accuracy(form: str, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        mistake(real_logits)
        return real(form, real_logits, fake_logits)

    monkeypatch.setattr(steps, "_accuracy", accuracy)
    config = small(load_run_config(Path("sweeps/recipes/superaugan-ffhq.yaml")), dataset)
    with pytest.raises((AssertionError, TrainingError), match=reason):
        run_telling_kinds(config, 1)


REPEATED = {
    "perceptual-cnn": {"discriminator": {"name": "unet", "num_channels": 8}},
    "interpolation-robustness": {"generator": {"name": "unet", "num_channels": 8, "depth": 3}},
    "superaugan-ffhq": {},
    "esrgan": {},
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_deterministic_step_has_only_repeatable_operations(dataset, name):
    values = small(load_run_config(Path(f"sweeps/recipes/{name}.yaml")), dataset).model_dump(mode="json")
    config = RunConfig.model_validate({**values, **REPEATED[name]})
    torch.use_deterministic_algorithms(True)
    try:
        with Repeats() as watched:
            run_telling_kinds(config, len(config.phases) - 1)
    finally:
        torch.use_deterministic_algorithms(False)
    assert {"aten::convolution", "aten::convolution_backward"} <= watched.seen


def test_an_operation_that_does_not_repeat_is_found():
    image = torch.rand(1, 3, 4, 4, requires_grad=True)
    with Repeats(), pytest.raises(AssertionError, match="upsample_bicubic2d_backward"):
        torch.nn.functional.interpolate(image, scale_factor=2, mode="bicubic").sum().backward()
