"""What only a GPU can show: real graphs, no waiting, repeatable runs. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from harness.bench.kernels import kernels_of
from harness.config import RunConfig
from harness.train import phase as phase_module
from harness.train.fast.graph import CudaBackend, Graphs
from harness.train.nets import Nets
from harness.train.phase import Phase
from harness.train.ranks import Ranks, make_fast
from harness.train.steps import train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

STEPS = 24
ADAM = {"learning_rate": 1e-3, "schedule": {"name": "cosine", "period_steps": 7, "warmup_steps": 3}}
GAME = {"weight": 0.1, "instance_noise_std": 0.1, "instance_noise_steps": 9, "r1_weight": 1.0, "r1_every": 5}
CASES: dict[str, dict[str, Any]] = {
    "pixel": {},
    "vanilla": {"adversarial": {"weight": 0.1}},
    "everything": {
        "adversarial": {**GAME, "form": "relativistic_average"},
        "augment": {"name": "ada", "rule": "text", "every": 4, "step": 0.1, "start_p": 0.5},
        "generator_every": 2,
    },
    "bcr": {"adversarial": {"weight": 0.1}, "augment": {"name": "bcr"}, "accumulate": 2},
}


@pytest.fixture
def open_phase(recipe: dict[str, Any], tmp_path: Path):
    """Builds a phase on the GPU; the last one is closed first."""
    opened: list[tuple[Phase, Ranks]] = []

    def close() -> None:
        while opened:
            phase, ranks = opened.pop()
            phase.close()
            ranks.close()

    def build(changes: dict[str, Any], **run: Any) -> Phase:
        close()
        phase = {
            "name": "phase",
            "iterations": 1000,
            "batch_size": 4,
            "losses": [{"name": "l1"}, {"name": "ssim"}],
            "generator_optimizer": ADAM,
            **({"discriminator_optimizer": ADAM} if "adversarial" in changes else {}),
            **changes,
        }
        config = RunConfig.model_validate({**recipe, **run, "phases": [phase]})
        ranks = Ranks(config, str(tmp_path))
        opened.append((Phase(config, 0, Nets(config, ranks), ranks), ranks))
        return opened[-1][0]

    yield build
    close()


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch):
    """Bitwise repeatable kernels, within a test."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


def trained(phase: Phase, first: int = 0, last: int = STEPS) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    rows, stream = [], phase.patches(first)
    for step in range(first, last):
        scalars = train_step(phase, next(stream), step, log_norms=step % 3 == 2)
        rows.append({name: value.detach().clone() for name, value in scalars.items()})
    read = [{name: value.item() for name, value in row.items()} for row in rows]
    return read, [tensor.detach().cpu().clone() for tensor in phase._state()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_graphs_equal_eager_steps(open_phase, deterministic, case, precision):
    rows, state = trained(open_phase(CASES[case], cuda_graphs="off", precision=precision))
    phase = open_phase(CASES[case], cuda_graphs="on", precision=precision)
    graph_rows, graph_state = trained(phase)
    assert phase.graphs is not None and phase.graphs.failure is None
    assert graph_rows == rows
    assert all(torch.equal(a, b) for a, b in zip(state, graph_state, strict=True))


@pytest.mark.parametrize("graphs", ["on", "off"])
@pytest.mark.parametrize("case", CASES)
def test_deterministic_runs_repeat_and_resume_bitwise(open_phase, deterministic, case, graphs):
    rows, state = trained(open_phase(CASES[case], cuda_graphs=graphs))
    again_rows, again = trained(open_phase(CASES[case], cuda_graphs=graphs))
    assert again_rows == rows
    assert all(torch.equal(a, b) for a, b in zip(state, again, strict=True))

    half = STEPS // 2
    phase = open_phase(CASES[case], cuda_graphs=graphs)
    trained(phase, 0, half)
    weights = {name: {k: v.cpu().clone() for k, v in part.items()} for name, part in phase.nets.weights().items()}
    training = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.cpu().clone(), phase.state_dict())
    resumed = open_phase(CASES[case], cuda_graphs=graphs)
    resumed.nets.generator.load_state_dict(weights["generator"])
    resumed.nets.ema.module.load_state_dict(weights["generator_ema"])
    if resumed.nets.discriminator is not None:
        resumed.nets.discriminator.load_state_dict(weights["discriminator"])
    resumed.load_state_dict(training)
    later_rows, later = trained(resumed, half, STEPS)
    assert later_rows == rows[half:]
    assert all(torch.equal(a, b) for a, b in zip(state, later, strict=True))


@pytest.mark.parametrize("graphs", ["on", "off"])
@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_the_gpu(open_phase, case, graphs):
    phase = open_phase(CASES[case], cuda_graphs=graphs, precision="bf16")
    stream = phase.patches(0)
    for step in range(STEPS):  # every kind of step is met, and recorded
        train_step(phase, next(stream), step, log_norms=step % 3 == 2)
    period = 60  # of all that recurs in the cases
    for step in range(STEPS, STEPS + period):
        train_step(phase, next(stream), step, log_norms=step % 3 == 2)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step in range(STEPS + period, STEPS + 2 * period):
            row = train_step(phase, next(stream), step, log_norms=step % 3 == 2)
        with pytest.raises(RuntimeError, match="synchronizing"):  # so a step that waits would have been found
            next(iter(row.values())).item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert graphs == "off" or phase.graphs.failure is None


@pytest.mark.parametrize("graphs", ["on", "off"])
def test_memory_does_not_grow(open_phase, graphs):
    phase = open_phase(CASES["everything"], cuda_graphs=graphs)
    stream = phase.patches(0)
    used = []
    for step in range(300):
        train_step(phase, next(stream), step, log_norms=step % 3 == 2)
        if step in (150, 299):
            torch.cuda.synchronize()
            used.append(torch.cuda.memory_allocated())
    assert used[1] <= used[0] + 2**16


def test_graphs_outlive_the_constants_that_a_cache_forgets(open_phase, deterministic):
    from harness.models.skip import _matrix

    _, state = trained(open_phase(CASES["vanilla"], cuda_graphs="off"))
    phase = open_phase(CASES["vanilla"], cuda_graphs="on")
    stream = phase.patches(0)
    for step in range(STEPS):
        train_step(phase, next(stream), step, log_norms=step % 3 == 2)
        if step == 3:
            _matrix.cache_clear()
            torch.cuda.empty_cache()
        rubbish = [torch.full((1 << 18,), torch.nan, device="cuda") for _ in range(64)]
        del rubbish
    assert all(torch.equal(a, b.cpu()) for a, b in zip(state, phase._state(), strict=True))


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch):
    """Gradients go through DDP and NCCL, as on several GPUs, in a group of one; `Ranks.close` ends the group."""

    def wrap(nets: Nets, module: nn.Module) -> nn.Module:
        if not distributed.is_initialized():
            distributed.init_process_group("nccl", store=distributed.HashStore(), rank=0, world_size=1)
        return nets.with_reductions(module)

    def graphs(setting: str, ranks: Ranks, state: Any) -> Graphs | None:
        return Graphs(CudaBackend(ranks.device, 2), state, required=True, num_ranks=2) if setting == "on" else None

    monkeypatch.setattr(Nets, "wrap", wrap)
    monkeypatch.setattr(phase_module, "graphs_for", graphs)


@pytest.mark.parametrize("case", CASES)
def test_recorded_reductions_equal_eager_ones(open_phase, deterministic, reduced, case):
    rows, state = trained(open_phase(CASES[case], cuda_graphs="off"))
    phase = open_phase(CASES[case], cuda_graphs="on")
    assert isinstance(phase.generator, DistributedDataParallel)
    graph_rows, graph_state = trained(phase)
    assert graph_rows == rows
    assert all(torch.equal(a, b) for a, b in zip(state, graph_state, strict=True))


@pytest.mark.parametrize("graphs", ["on", "off"])
@pytest.mark.parametrize("case", CASES)
def test_compiled_steps_equal_eager_ones(open_phase, case, graphs):
    """In float32, ten steps; sums are in another order.

    Adam's epsilon is large, since it would make whole steps of gradients that are 0 but for rounding, as those of a
    bias before batch norm are.
    """
    adam = {**ADAM, "eps": 1e-4}
    changes = {**CASES[case], "generator_optimizer": adam}
    changes |= {"discriminator_optimizer": adam} if "adversarial" in changes else {}
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        rows, state = trained(open_phase(changes, cuda_graphs="off"), 0, 10)
        phase = open_phase(changes, cuda_graphs=graphs, compile="on")
        fused_rows, fused_state = trained(phase, 0, 10)
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32
    assert graphs == "off" or phase.graphs.failure is None
    patches = next(phase.patches(0))
    kernels = kernels_of(lambda: train_step(phase, patches, 0, log_norms=False))
    assert any("triton" in kernel.name for kernel in kernels)
    for row, fused_row in zip(rows, fused_rows, strict=True):
        assert fused_row == pytest.approx(row, rel=1e-4, abs=1e-5)
    for tensor, fused in zip(state, fused_state, strict=True):
        torch.testing.assert_close(fused, tensor, rtol=1e-4, atol=1e-5)


def test_kernels_for_narrow_convolutions_train_like_the_librarys(open_phase):
    changes = {"generator": {"name": "srresnet", "num_channels": 64, "num_blocks": 2}, "precision": "bf16"}
    rows, _ = trained(open_phase(CASES["pixel"], compile="off", **changes), 0, 10)
    phase = open_phase(CASES["pixel"], compile="on", **changes)
    fused_rows, _ = trained(phase, 0, 10)
    assert phase.graphs is not None and phase.graphs.failure is None
    patches = next(phase.patches(0))
    names = {kernel.name for kernel in kernels_of(lambda: train_step(phase, patches, 0, log_norms=False))}
    assert {"_product", "_sums"} <= names
    for row, fused_row in zip(rows, fused_rows, strict=True):
        assert fused_row["loss/total"] == pytest.approx(row["loss/total"], rel=0.02)


def test_fast_settings_stay_close_to_plain_float32(open_phase):
    """TF32 rounds products to 10 bits; ten steps of small networks stay within a thousandth."""
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        rows, _ = trained(open_phase(CASES["pixel"], cuda_graphs="off"), 0, 10)
        make_fast()
        fast, _ = trained(open_phase(CASES["pixel"], cuda_graphs="on"), 0, 10)
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32
    for row, other in zip(rows, fast):
        assert other["loss/total"] == pytest.approx(row["loss/total"], rel=1e-3)
