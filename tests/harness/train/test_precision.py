"""bf16 is computed where the device has it; elsewhere fp32 is, and the run says so."""

from __future__ import annotations

import json
import platform

import pytest
import safetensors.torch
import torch

from harness.config import RunConfig
from harness.precision import NOTE, has_bf16
from harness.train import ranks
from harness.train.job import train_recipe


def test_without_the_instructions_bf16_is_fp32_and_the_run_says_so(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ranks, "has_bf16", lambda device: False)
    weights = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        config = RunConfig.model_validate({**recipe, "precision": precision, "trackers": []})
        assert train_recipe(config, out) == 0
        assert (NOTE in capsys.readouterr().out) == (precision == "bf16")
        weights[precision] = safetensors.torch.load_file(out / "generator.safetensors")
        (start,) = [row for row in rows(out / "events.jsonl") if row["event"] == "start"]
        assert start["precision"] == "fp32"
    assert weights["fp32"].keys() == weights["bf16"].keys()
    assert all(torch.equal(value, weights["bf16"][name]) for name, value in weights["fp32"].items())


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("machine", "instructions", "library", "has"),
    [
        ("x86_64", ["_is_avx512_bf16_supported"], True, True),
        ("x86_64", ["_is_amx_tile_supported"], True, True),
        ("AMD64", [], True, False),  # AVX-512 alone: emulated, at a quarter of float32's rate
        ("x86_64", ["_is_amx_tile_supported"], False, False),
        ("aarch64", [], True, True),
        ("aarch64", [], False, False),
    ],
)
def test_a_processor_has_bf16_where_it_multiplies_it_and_torchs_library_uses_that(
    monkeypatch, machine, instructions, library, has
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in instructions)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library)
    assert has_bf16(torch.device("cpu")) is has
