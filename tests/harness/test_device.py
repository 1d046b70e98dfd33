"""A job that was given GPUs never trains or evaluates on a CPU without a word."""

from __future__ import annotations

import pytest
import torch

from evaluation.device import device_named
from harness.device import PROMISED_GPUS, best_device
from harness.errors import InputError


@pytest.mark.parametrize("pick", [best_device, lambda: device_named("auto")])
def test_promised_gpus_that_torch_cannot_use_are_an_error(pick, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(PROMISED_GPUS, "4")
    with pytest.raises(InputError, match=r"gpus_per_node is 4, but torch .* can use no GPU on .*; install"):
        pick()
    monkeypatch.setenv(PROMISED_GPUS, "0")
    assert pick() == "cpu"
    monkeypatch.delenv(PROMISED_GPUS)
    assert pick() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick() == "cuda"


def test_an_evaluation_that_asks_for_the_cpu_gets_it_beside_promised_gpus(monkeypatch):
    monkeypatch.setenv(PROMISED_GPUS, "4")
    assert device_named("cpu") == "cpu"
