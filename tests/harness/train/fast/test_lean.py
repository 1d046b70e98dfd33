"""What a start of a run imports, and that the optimisers without torch's compiler are torch's own."""

from __future__ import annotations

import sys
from unittest import mock

import pytest
import torch
from PIL import Image
from torch import nn

from harness.train.fast.lean import LeanAdam, LeanAdamW, ddp_without_compiler


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


PROGRAM = """
import os
import sys
from pathlib import Path
from harness.train.job import main
from harness.upscale import Options, upscale

assert main({run_file!r}) == 0
assert len(upscale([{photo!r}], Path({out!r}) / os.environ["RANK"], Options(Path({run!r}))).written) == 1
imported = {{"torch._dynamo", "torch._inductor", "pandas", "torchvision"}} & set(sys.modules)
assert not imported, imported
"""


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_run_and_its_use_start_without_the_compiler_and_pandas(launcher, recipe, tmp_path, num_ranks):
    short = [{**phase, "iterations": 2} for phase in recipe["phases"]]
    run_file = launcher.run_file({**recipe, "phases": short, "trackers": ["tensorboard"]}, tmp_path / "run")
    Image.new("RGB", (20, 20)).save(tmp_path / "photo.png")
    names = {"run_file": run_file, "photo": tmp_path / "photo.png", "out": tmp_path / "large", "run": tmp_path / "run"}
    program = PROGRAM.format(**{name: str(path) for name, path in names.items()})
    ranks = launcher.start_ranks(program, num_ranks)
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * num_ranks


def test_ddp_that_is_made_without_the_compiler_hears_what_it_would_say():
    real = torch._dynamo.utils.get_optimize_ddp_mode()
    with mock.patch.dict(sys.modules):
        del sys.modules["torch._dynamo"]
        with ddp_without_compiler():
            assert torch._dynamo.utils.get_optimize_ddp_mode() == real
    assert torch._dynamo is sys.modules["torch._dynamo"]
