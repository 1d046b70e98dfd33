"""Graphs: recorded operations give bitwise what doing the step anew gives, and recording leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.config import RunConfig
from harness.errors import InputError, TrainingError
from harness.models.prelu import PReLU
from harness.train import phase as phase_module
from harness.train import steps
from harness.train.fast import graph
from harness.train.fast.graph import Graphs, KeptInputs, graphs_for
from harness.train.phase import Phase
from harness.train.ranks import Ranks
from harness.train.steps import train_step

STEPS = 10
WARM_UP_CALLS = 3


class Tape(TorchDispatchMode):
    """A stand-in for a CUDA graph: operations on the recorded tensors, with the numbers that were seen.

    Unlike a real recording this one does the operations while it records them, so what they changed is put back.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for storage in storages((args, kwargs)):
            if storage._cdata not in self._made:
                self._before.setdefault(storage._cdata, (storage, storage.clone()))
        result = func(*args, **kwargs)
        self._made |= {storage._cdata for storage in storages(result)} - self._before.keys()
        self._calls.append((func, args, kwargs, tensors(result)))
        return result

    def undo(self) -> None:
        for storage, before in self._before.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, recorded in self._calls:
            for old, new in zip(recorded, tensors(func(*args, **kwargs)), strict=True):
                if old.untyped_storage()._cdata != new.untyped_storage()._cdata:
                    old.copy_(new)


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):  # most results: looking for leaves would take longer than the operation
        return [value]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def storages(value: Any) -> list[torch.UntypedStorage]:
    return [tensor.untyped_storage() for tensor in tensors(value)]


class TapeBackend:
    def building(self) -> AbstractContextManager[None]:
        return nullcontext()

    def warm_up(self, call: Callable[[], Any]) -> None:
        for _ in range(WARM_UP_CALLS):
            call()

    def capture(self, call: Callable[[], Any]) -> Callable[[], Any]:
        tape = Tape()
        with tape:
            result = call()
        tape.undo()

        def replay() -> Any:
            tape.replay()
            return result

        return replay


@pytest.fixture
def open_phase(recipe: dict[str, Any], first_phase: Callable[[RunConfig], Phase], monkeypatch: pytest.MonkeyPatch):
    """Builds a phase whose steps are taped, or done anew with the same kernels."""
    # Its quick form for CPUs reads the slope back; a GPU takes torch's own.
    monkeypatch.setattr(PReLU, "forward", nn.PReLU.forward)

    def build(taped: bool, changes: dict[str, Any], run: dict[str, Any]) -> Phase:
        def graphs(setting: str, ranks: Ranks, state: Any) -> Graphs:
            made = Graphs(TapeBackend(), state, required=True)
            made.failure = None if taped else "not recorded"
            return made

        monkeypatch.setattr(phase_module, "graphs_for", graphs)
        adam = {"learning_rate": 1e-3, "schedule": {"name": "cosine", "period_steps": 7, "warmup_steps": 3}}
        phase = {
            "name": "phase",
            "iterations": 100,
            "batch_size": 4,
            "losses": [{"name": "l1"}, {"name": "ssim"}],
            "generator_optimizer": adam,
            **({"discriminator_optimizer": adam} if "adversarial" in changes else {}),
            **changes,
        }
        config = RunConfig.model_validate({**recipe, **run, "phases": [phase]})
        return first_phase(config)

    return build


def everything(phase: Phase) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in phase._state()]


def trained(phase: Phase) -> tuple[list[dict[str, torch.Tensor]], list[torch.Tensor]]:
    rows, stream = [], phase.patches(0)
    for step in range(STEPS):
        scalars = train_step(phase, next(stream), step, log_norms=step % 3 == 2)
        rows.append({name: value.detach().clone() for name, value in scalars.items()})
    return rows, everything(phase)


def game(form: str = "vanilla", **more: Any) -> dict[str, Any]:
    return {"form": form, "weight": 0.1, **more}


NOISY = {"instance_noise_std": 0.5, "instance_noise_steps": 6}
UNET = {"discriminator": {"name": "unet", "num_channels": 4}}
CASES = {
    "pixel": ({}, {}),
    "clipped": ({"generator_optimizer": {"learning_rate": 1e-3, "clip_norm": 0.1, "weight_decay": 0.1}}, {}),
    **{form: ({"adversarial": game(form)}, {}) for form in ("vanilla", "least_squares", "hinge")},
    "relativistic with noise": ({"adversarial": game("relativistic", real_label=[0.7, 1.0], **NOISY)}, {}),
    "relativistic average": ({"adversarial": game("relativistic_average", label_flip_probability=0.3)}, UNET),
    "r1": ({"adversarial": game(r1_weight=1.0, r1_every=3)}, {}),
    "ada": (
        {"adversarial": game(), "augment": {"name": "ada", "rule": "text", "every": 2, "step": 0.1, "start_p": 0.5}},
        {},
    ),
    "ada and r1": (
        {
            "adversarial": game(r1_weight=1.0, r1_every=2),
            "augment": {"name": "ada", "rule": "paper", "every": 3, "adjust_images": 100, "start_p": 0.5},
        },
        UNET,
    ),
    "bcr": ({"adversarial": game(), "augment": {"name": "bcr"}}, {}),
    "two to one": ({"adversarial": game(**NOISY), "generator_every": 2}, {}),
    "micro-batches": ({"adversarial": game("relativistic"), "accumulate": 2}, {}),
    "bf16": ({"adversarial": game()}, {"precision": "bf16"}),
    "degraded": ({}, {"degradation": {"kernels": {"matlab-bicubic": 1, "cv2-cubic": 1}, "noise_std": 0.1}}),
}


SLOW = {"least_squares", "hinge", "ada and r1"}
"""Two more forms of the loss, and two other cases at once."""


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] if c in SLOW else []) for c in CASES])
def test_recorded_steps_equal_steps_done_anew(open_phase, recipe, monkeypatch, case):
    changes, run = CASES[case]
    if "degradation" in run:
        run = {"data": {**recipe["data"], **run, "brightness": 0.1, "contrast": [0.5, 1.5], "rotate": True}}
    rows, state = trained(open_phase(False, changes, run))
    updates: list[steps.StepKind] = []
    real = steps.update
    monkeypatch.setattr(steps, "update", lambda *args: (updates.append(args[2]), real(*args))[1])
    taped = open_phase(True, changes, run)
    taped_rows, taped_state = trained(taped)
    assert [row.keys() for row in taped_rows] == [row.keys() for row in rows]
    for row, taped_row in zip(rows, taped_rows):
        for name, value in row.items():
            assert torch.equal(value, taped_row[name]), name
    assert all(torch.equal(a, b) for a, b in zip(state, taped_state, strict=True))
    # Each kind of step was done anew only to warm up and to be recorded.
    kinds = {taped.kind(step, step % 3 == 2) for step in range(STEPS)}
    assert {kind: updates.count(kind) for kind in updates} == dict.fromkeys(kinds, WARM_UP_CALLS + 1)


def test_recording_leaves_the_state_as_it_was(open_phase, monkeypatch):
    phase = open_phase(True, {"adversarial": game(), "augment": {"name": "ada", "rule": "text"}}, {})
    patches = next(phase.patches(0))
    before = everything(phase)
    with monkeypatch.context() as patch:
        patch.setattr(Tape, "replay", lambda self: None)
        train_step(phase, patches, 0, log_norms=False)
    after = everything(phase)
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    made = after[len(before) :]
    assert made and not any(tensor.any() for tensor in made)  # the optimisers' states, as they begin


def test_a_recorded_phase_resumes_exactly(open_phase):
    changes = {"adversarial": game(), "augment": {"name": "ada", "rule": "text", "every": 2, "start_p": 0.5}}
    whole, first, second = (open_phase(True, changes, {}) for _ in range(3))
    _, expected = trained(whole)
    stream = first.patches(0)
    for step in range(4):
        train_step(first, next(stream), step, log_norms=False)
    for name in ("generator", "discriminator"):
        getattr(second.nets, name).load_state_dict(getattr(first.nets, name).state_dict())
    second.nets.ema.module.load_state_dict(first.nets.ema.module.state_dict())
    second.load_state_dict(first.state_dict())
    stream = second.patches(4)
    for step in range(4, STEPS):
        train_step(second, next(stream), step, log_norms=False)
    assert all(torch.equal(a, b) for a, b in zip(expected, everything(second), strict=True))


class FailingBackend(TapeBackend):
    def capture(self, call: Callable[[], Any]) -> Callable[[], Any]:
        call()
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


def test_what_cannot_be_recorded_is_done_without_a_graph_and_said_once(caplog):
    value = torch.zeros(2)
    graphs = Graphs(FailingBackend(), lambda: [value])
    for key in "aab":
        graphs.run(key, lambda: value.add_(1))
    assert value.tolist() == [3, 3]
    assert graphs.failure == "operation not permitted when stream is capturing"
    assert len(caplog.records) == 1 and "slower" in caplog.text


def test_a_graph_that_must_be_is_an_error_where_it_cannot():
    value = torch.zeros(2)
    with pytest.raises(TrainingError, match=r"cuda_graphs: on, but .* not permitted"):
        Graphs(FailingBackend(), lambda: [value], required=True).run("a", lambda: value.add_(1))
    assert value.tolist() == [0, 0]


def test_steps_go_on_where_the_compiler_fails(caplog):
    def no_kernels(graph, inputs):
        raise ValueError("no such kernel")

    torch._dynamo.reset()
    double = torch.compile(lambda x: x * 2, fullgraph=True, backend=no_kernels)
    value, updates = torch.ones(2), []

    def step():
        value.add_(1)  # what was done before it failed does not count
        updates.append(double(value))
        value.copy_(updates[-1])

    of_ranks = Graphs(TapeBackend(), lambda: [value], required=True, num_ranks=2)
    with pytest.raises(TrainingError, match=r"no such kernel.*; set compile=off"):
        of_ranks.run("a", step)  # the other rank would wait for this one's attempts
    graphs = Graphs(TapeBackend(), lambda: [value])
    try:
        for _ in range(3):
            graphs.run("a", step)
    finally:
        torch.compiler.set_stance("default")
    assert value.tolist() == [22, 22]  # ((1 + 1) * 2 + 1) * 2 ...
    assert graphs.failure is None
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("harness")]
    assert "no such kernel" in said and "slower" in said


class Place:
    def __init__(self, device: str = "cuda", world_size: int = 1, sums_in_order: bool = False) -> None:
        self.device, self.world_size, self.sums_in_order = torch.device(device), world_size, sums_in_order


def test_graphs_are_for_gpus_and_by_themselves_for_a_single_one(monkeypatch):
    made = []
    monkeypatch.setattr(graph, "CudaBackend", lambda device, num_ranks: made.append(num_ranks) or TapeBackend())
    for setting, place in [("auto", Place("cpu")), ("auto", Place(world_size=2)), ("off", Place())]:
        assert graphs_for(setting, place, list) is None
    for setting, place in [("auto", Place()), ("on", Place()), ("on", Place(world_size=2))]:
        assert isinstance(graphs_for(setting, place, list), Graphs)
    assert made == [1, 1, 2]
    with pytest.raises(InputError, match="cuda_graphs: on needs an NVIDIA GPU, not cpu"):
        graphs_for("on", Place("cpu"), list)
    with pytest.raises(InputError, match="cannot record deterministic sums over several ranks"):
        graphs_for("on", Place(world_size=3, sums_in_order=True), list)


def test_everything_a_recording_reads_is_kept():
    constant, weight = torch.rand(3, 3), torch.rand(3, requires_grad=True)
    with KeptInputs() as kept:
        made = constant @ constant.T
        (made.view(9)[:3] * weight).sum().backward()
        made.add_(1)
    read = {tensor.untyped_storage()._cdata for tensor in kept.tensors.values()}
    assert read >= {tensor.untyped_storage()._cdata for tensor in (constant, weight)}
    assert made.untyped_storage()._cdata not in read
    assert len(read) == 2
