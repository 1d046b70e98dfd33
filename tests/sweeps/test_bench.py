"""What `harness bench` is asked for reaches the recipes, or is refused before anything is measured."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

import sweeps.bench.command
from harness.bench import step as bench
from harness.bench import step_table
from harness.errors import InputError
from harness.screen import make_console
from sweeps.bench.command import STEP_RECIPES, Ask, _configs, run_bench


def test_changes_reach_every_recipe():
    configs = _configs(STEP_RECIPES, ["compile=on", "scale=2"])
    assert list(configs) == list(STEP_RECIPES)
    assert all(config.compile == "on" and config.scale == 2 for config in configs.values())


@pytest.mark.parametrize(
    ("part", "ask", "sentence"),
    [
        ("speed", Ask(), "bench 'speed' is unknown; choose one of data, step, "),
        ("data", Ask(changes=["seed=1"]), "bench data: takes no recipes, but got seed=1; they are for `bench step`."),
        ("step", Ask(recipes=["nothing"]), "recipe 'nothing' is unknown; choose from superaugan-ffhq, "),
        ("step", Ask(recipes=["demo"], changes=["sed=1"]), "unknown key 'sed'; did you mean 'seed'?"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(part, ask, sentence):
    with pytest.raises(InputError) as refused:
        run_bench(part, ask, None, make_console())
    assert sentence in str(refused.value)


def test_what_measured_steps_compile_is_there_for_the_real_runs(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that what is set here is undone
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    folders = []

    def measured(*_, **__):
        folders.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        return [SimpleNamespace(work=SimpleNamespace(kernels=()))]

    monkeypatch.setattr(bench, "run", measured)
    monkeypatch.setattr(sweeps.bench.command, "_runs", measured)
    for name in ("table_of", "rates_text", "as_json"):
        monkeypatch.setattr(step_table, name, lambda *_: "")
    run_bench("step", Ask(recipes=["demo"], steps=2), None, make_console())
    assert len(folders) == 2 and len(set(folders)) == 1
