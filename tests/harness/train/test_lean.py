"""What a start of a run imports, and that the optimisers without torch's compiler are torch's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from harness.train.lean import LeanAdam, LeanAdamW


@pytest.mark.parametrize(
    ("lean", "plain", "decay"), [(LeanAdam, torch.optim.Adam, 0.0), (LeanAdamW, torch.optim.AdamW, 0.1)]
)
def test_lean_adam_is_torchs_adam_bitwise(lean, plain, decay):
    weights = []
    for build in (lean, plain):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        optimizer = build(net.parameters(), lr=1e-2, weight_decay=decay, fused=True)
        for _ in range(6):
            optimizer.zero_grad(set_to_none=True)
            net(torch.randn(4, 5)).square().mean().backward()
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*weights)


def test_a_run_starts_without_the_compiler_and_pandas(launcher, recipe, tmp_path):
    short = [{**phase, "iterations": 2} for phase in recipe["phases"]]
    run_file = launcher.run_file({**recipe, "phases": short, "trackers": ["tensorboard"]}, tmp_path / "run")
    program = (
        f"import sys; from harness.train.job import main; code = main({str(run_file)!r});"
        "print(code, sorted({'torch._dynamo', 'torch._inductor', 'pandas', 'torchvision'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["0", "[]"]
