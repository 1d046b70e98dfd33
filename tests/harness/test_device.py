"""A job that was given GPUs never computes on a CPU without a word, nor leaves some of them idle."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace

import pytest
import torch

import evaluation.scores.device
import evaluation.scores.networks
import evaluation.scores.work
from evaluation.scores import collect, parallel
from evaluation.scores.device import take_device
from harness.device import PROMISED_GPUS, best_device
from harness.errors import InputError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the GPUs that were made current, of two that are there."""
    made_current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    return made_current


@pytest.mark.parametrize("pick", [best_device, lambda: take_device("auto")])
def test_promised_gpus_that_torch_cannot_use_are_an_error(pick, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(PROMISED_GPUS, "4")
    with pytest.raises(InputError, match=r"gpus_per_node is 4, but torch .* can use no GPU on .*; install"):
        pick()
    monkeypatch.setenv(PROMISED_GPUS, "0")
    assert pick() == "cpu"
    monkeypatch.delenv(PROMISED_GPUS)
    assert pick() == "cpu"


def test_an_evaluation_that_asks_for_the_cpu_gets_it_beside_promised_gpus(two_gpus, monkeypatch):
    monkeypatch.setenv(PROMISED_GPUS, "2")
    assert take_device("cpu") == "cpu" and two_gpus == []


def test_ranks_that_evaluate_share_the_gpus_of_their_node_out(two_gpus, monkeypatch):
    job = SimpleNamespace(located=None)
    monkeypatch.setattr(collect, "plan", lambda *_: (job, None))
    for name in ("ScoreCache", "Networks", "Worker", "run_here"):
        monkeypatch.setattr(collect, name, lambda *_: SimpleNamespace(missing={}))
    monkeypatch.setattr(collect, "_without", lambda job, _: job)
    monkeypatch.setattr(collect, "all_units", lambda _: [])
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        collect.measure_share([], SimpleNamespace(device="auto"), None, rank, 4)
    assert two_gpus == [0, 1, 0, 1]


def test_processes_that_evaluate_here_share_the_gpus_out(two_gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation.scores.networks, "Networks", lambda located, device: device)
    monkeypatch.setattr(evaluation.scores.work, "Worker", lambda *_: None)
    monkeypatch.setattr("evaluation.scores.images.DatasetImages", lambda _: None)
    threads, place = torch.get_num_threads(), multiprocessing.get_context("spawn").Value("i", 0)
    for _ in range(3):
        parallel._start(
            SimpleNamespace(located=None, config=SimpleNamespace(device="cuda")), "", str(tmp_path), 1, place
        )
    torch.set_num_threads(threads)
    assert two_gpus == [0, 1, 0]
