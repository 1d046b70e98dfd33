"""A stored sweep means the same in any folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.apply import store
from sweeps.config import SweepConfig, load_sweep
from sweeps.grid import Run, expand
from sweeps.layout import SweepFolder
from sweeps.paths import with_absolute_paths
from sweeps.plan import Plan


def runs_of(sweep: SweepConfig) -> list[Run]:
    return expand(sweep, lambda path: ["a", "b"])


AXES: list[dict[str, Any]] = [
    {"name": "data", "key": "data.sources.0.path", "values": ["data/x", "data/y"]},
    {"name": "start", "settings": {"new": None, "old": {"init_from": "weights.pth"}}},
    {
        "name": "phase",
        "zip": [
            {"name": "seed", "key": "seed", "values": [1, 2]},
            {"name": "own", "key": "phases.1.sources", "values": {"one": None, "two": [{"path": "s3://bucket/z"}]}},
        ],
    },
]


def test_every_path_of_a_stored_sweep_is_absolute_and_its_runs_are_the_same(
    sweep_of: Callable[..., SweepConfig],
    plan_of: Callable[..., Plan],
    sweep_folder: SweepFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weights.pth", "other.pth", "bicubic", "table.csv"):
        Path(name).touch()
    evaluate = {
        "dataset": "data/v",
        "models": ["other.pth", "mine=weights.pth", "bicubic", "nix.pth", "later=runs/later"],
        "report": {"reference": "table.csv"},
    }
    settings = {"init_discriminator_from": "weights.pth", "phases.0.sources": [{"path": "data/w"}], "name": "path"}
    sweep = sweep_of(*AXES, set=settings, evaluate=evaluate)
    store(sweep, plan_of(), sweep_folder)
    stored = load_sweep(sweep_folder.sweep)
    here = f"{tmp_path}/"
    models = (f"{here}other.pth", f"mine={here}weights.pth", "bicubic", "nix.pth", f"later={here}runs/later")
    assert stored.evaluate.models == models
    assert (stored.evaluate.dataset, stored.evaluate.report.reference) == (f"{here}data/v", f"{here}table.csv")
    before, after = runs_of(sweep), runs_of(stored)
    assert [(run.name, run.axes) for run in after] == [(run.name, run.axes) for run in before]
    for old, new in zip(before, after):
        assert new.config.sources(0)[0].path == f"{here}data/w"
        assert new.config.data.sources[0].path == here + old.config.data.sources[0].path
        assert new.config.init_from == (old.config.init_from and here + old.config.init_from)
        assert new.config.init_discriminator_from == f"{here}weights.pth"
        assert new.config.sources(1)[0].path in (new.config.data.sources[0].path, "s3://bucket/z")
    assert with_absolute_paths(stored) == stored


def test_published_table_is_meant_by_its_name_in_any_folder(
    sweep_of: Callable[..., SweepConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = sweep_of(evaluate={"report": {"reference": "superaugan-ffhq"}}, set={"init_from": "not-here"})
    stored = with_absolute_paths(sweep)
    assert stored.evaluate == sweep.evaluate and stored.set == sweep.set
