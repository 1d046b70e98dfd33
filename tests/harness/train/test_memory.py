"""Out of memory ends a run with one sentence that names a batch that would fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch

from harness.config import RunConfig
from harness.errors import EXIT_DONE, EXIT_FAILURE, EXIT_WRONG_INPUT
from harness.train import fit, loop, memory, nets, phase, validate
from harness.train.job import train_recipe
from harness.train.memory import Needs
from harness.train.shortage import is_out_of_memory

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


def big(recipe, **changes) -> RunConfig:
    phases = [{**recipe["phases"][1], "batch_size": 64, "iterations": 4, **changes}]
    return RunConfig.model_validate({**recipe, "phases": phases, "validation": {"max_images": 0}})


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError(CPU_MESSAGE), True),
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
    ],
)
def test_out_of_memory_is_told_from_other_failures(error, answer):
    assert is_out_of_memory(error) is answer


def test_needs_are_the_line_through_two_measurements():
    needs = Needs.of((2, 1200.0), (4, 1400.0))
    assert (needs.fixed_bytes, needs.patch_bytes) == (1000.0, 100.0)
    assert needs.fits(2000.0) == 9  # 95 % of 2000 leaves 900


@pytest.mark.parametrize(
    ("error", "accumulate"), [(torch.OutOfMemoryError("CUDA out of memory"), 1), (RuntimeError(CPU_MESSAGE), 2)]
)
def test_a_step_that_does_not_fit_ends_the_run_with_a_batch_that_would(
    recipe, tmp_path, monkeypatch, capfd, error, accumulate
):
    def fails(*args):
        raise error

    monkeypatch.setattr(loop, "train_step", fails)
    monkeypatch.setattr(memory, "_peak_bytes", lambda config, phase, device, size: 1000.0 + 100.0 * size)
    monkeypatch.setattr(memory, "room_bytes", lambda device: 2000.0)
    assert train_recipe(big(recipe, accumulate=accumulate), tmp_path / "run") == EXIT_FAILURE
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    assert f"out of memory with {64 // accumulate} patches at a time" in said and "about 9 fit" in said
    assert "phases.0.accumulate=8" in said and f"phases.0.batch_size={9 * accumulate}" in said


def test_the_batch_that_would_fit_may_be_trained_in_the_same_folder(recipe, tmp_path, monkeypatch):
    real, out = loop.train_step, tmp_path / "run"

    def fails(phase, *args):
        if phase.config.accumulate == 1:
            raise MemoryError
        return real(phase, *args)

    monkeypatch.setattr(loop, "train_step", fails)
    assert train_recipe(big(recipe), out) == EXIT_FAILURE
    assert json.loads((out / "status.json").read_text())["state"] == "failed"
    assert train_recipe(big(recipe, accumulate=2), out) == EXIT_DONE
    assert train_recipe(big(recipe), out) == EXIT_WRONG_INPUT  # now it is that other run's


def test_a_later_phase_may_be_given_the_batch_that_would_fit_and_ends_as_if_it_had_had_it_from_the_start(
    recipe, tmp_path, monkeypatch, capfd
):
    def of(**changes) -> RunConfig:
        phases = [{**phase, "iterations": 2} for phase in recipe["phases"]]
        more = {"phases": [phases[0], {**phases[1], **changes}], "validation": {"max_images": 0}}
        return RunConfig.model_validate({**recipe, **more})

    assert train_recipe(of(accumulate=2), tmp_path / "whole") == EXIT_DONE
    real, out = loop.train_step, tmp_path / "run"

    def fails(phase, *args):
        if phase.is_adversarial and phase.config.accumulate == 1:
            raise MemoryError
        return real(phase, *args)

    monkeypatch.setattr(loop, "train_step", fails)
    monkeypatch.setattr(memory, "_peak_bytes", lambda config, phase, device, size: 1000.0 + 100.0 * size)
    monkeypatch.setattr(memory, "room_bytes", lambda device: 1400.0)
    assert train_recipe(of(), out) == EXIT_FAILURE
    assert "set phases.1.accumulate=2" in capfd.readouterr().err
    assert train_recipe(of(accumulate=2), out) == EXIT_DONE
    assert "note: continued with phases.1.accumulate: 1 -> 2" in capfd.readouterr().out
    ends = [(folder / "generator.safetensors").read_bytes() for folder in (out, tmp_path / "whole")]
    assert ends[0] == ends[1]
    assert train_recipe(of(), out) == EXIT_WRONG_INPUT, "it has been trained with two parts"


def test_a_real_shortage_is_explained_by_measuring(recipe, tmp_path):
    """A process that may take only so much more memory than it has, and a batch that needs more."""
    config = big(recipe, batch_size=8192, losses=[{"name": "l1"}])
    (tmp_path / "config.json").write_text(config.model_dump_json())
    program = f"""
import resource, sys
from pathlib import Path
from harness.config import RunConfig
from harness.train import loop, memory, nets
from harness.train.job import train_recipe
real = loop.train_step
def limited(*args):
    sizes = memory._fields("/proc/self/status")
    limit = sizes["VmSize"] + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return real(*args)
loop.train_step = limited
config = RunConfig.model_validate_json(Path({str(tmp_path / "config.json")!r}).read_text())
sys.exit(train_recipe(config, Path({str(tmp_path / "run")!r})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == EXIT_FAILURE, done.stderr
    found = re.search(r"out of memory with 8192 patches .* about (\d+) fit in", done.stderr)
    assert found and 16 < int(found[1]) < 8192, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_networks_that_do_not_fit_are_told_in_one_sentence_and_leave_nothing(
    recipe, tmp_path, monkeypatch, capfd, network
):
    def fails(*args):
        raise RuntimeError(CPU_MESSAGE)

    monkeypatch.setattr(nets, f"build_{network}", fails)
    assert train_recipe(big(recipe), tmp_path / "run") == EXIT_FAILURE
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    assert "out of memory while the networks were built; take a smaller generator or discriminator" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", [(fit, "open_sources"), (phase, "PatchLoader"), (validate, "_pair")])
def test_data_that_does_not_fit_is_not_told_as_too_large_networks(recipe, tmp_path, monkeypatch, capfd, what):
    def fails(*args, **kwargs):
        raise MemoryError("Unable to allocate 9 GiB for an array")

    monkeypatch.setattr(*what, fails)
    more = {"sources": [{**recipe["data"]["sources"][0], "classes": ["lake"]}]}
    phases = [{**recipe["phases"][0], "iterations": 1}, {**recipe["phases"][1], **more}]
    config = RunConfig.model_validate({**recipe, "phases": phases})
    assert train_recipe(config, tmp_path / "run") == EXIT_FAILURE
    assert capfd.readouterr().err == (
        "error: out of memory (Unable to allocate 9 GiB for an array); free some of it, or use a machine with more.\n"
    )
