"""TensorBoard is started on the curves that there are, each under a name that tells whose it is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness.errors import EXIT_DONE, EXIT_FAILURE, InputError
from sweeps.apply import store
from sweeps.board import log_dirs, serve
from sweeps.config import SweepConfig
from sweeps.layout import SweepFolder
from sweeps.plan import Plan

SEEDS = {"name": "seed", "key": "phases.1.iterations", "values": [1, 2]}
QUIET = Console(quiet=True)


@pytest.fixture
def stored(plan_of: Callable[..., Plan], sweep_of: Callable[..., SweepConfig], sweep_folder: SweepFolder) -> Plan:
    plan = plan_of(SEEDS)
    store(sweep_of(SEEDS), plan, sweep_folder)
    return plan


def curves_of(folder: SweepFolder, key: str) -> Path:
    path = folder.runs.phase(key) / "tensorboard"
    path.mkdir()
    return path


def test_curves_have_the_name_of_their_run_and_shared_ones_of_their_phase(
    stored: Plan, sweep_folder: SweepFolder
) -> None:
    pretrain, first, _ = stored.phases
    shared, own = curves_of(sweep_folder, pretrain), curves_of(sweep_folder, first)
    assert log_dirs(sweep_folder) == {f"shared/{pretrain}": shared, "1/adversarial": own}


def test_sweep_without_curves_is_refused(stored: Plan, sweep_folder: SweepFolder) -> None:
    with pytest.raises(InputError, match="no run has written curves yet"):
        serve(sweep_folder, 7000, QUIET)


@pytest.mark.parametrize(("ended", "code"), [(0, EXIT_DONE), (1, EXIT_FAILURE), (KeyboardInterrupt, EXIT_DONE)])
def test_it_serves_until_it_is_interrupted(
    stored: Plan,
    sweep_folder: SweepFolder,
    monkeypatch: pytest.MonkeyPatch,
    ended: int | type[KeyboardInterrupt],
    code: int,
) -> None:
    own = curves_of(sweep_folder, list(stored.phases)[1])

    def run(command: list[str], check: bool) -> SimpleNamespace:
        assert command[1:4] == ["-m", "tensorboard.main", "--logdir"] and command[5:] == ["--port", "7000"]
        assert (Path(command[4]) / "1" / "adversarial").resolve() == own, "by a link: a thousand paths are too long"
        if not isinstance(ended, int):
            raise ended
        return SimpleNamespace(returncode=ended)

    monkeypatch.setattr(subprocess, "run", run)
    assert serve(sweep_folder, 7000, QUIET) == code
