"""Runs of the tiny recipe in this process, and in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import yaml

from harness.config import RunConfig

if TYPE_CHECKING:
    from harness.train.phase import Phase


@pytest.fixture
def first_phase(tmp_path: Path) -> Iterator[Callable[[RunConfig], Phase]]:
    """Opens the first phase of a configuration in this process; after the test each is closed."""
    from harness.train.nets import Nets
    from harness.train.phase import Phase
    from harness.train.ranks import Ranks

    opened = []

    def build(config: RunConfig) -> Phase:
        ranks = Ranks(config, str(tmp_path))
        opened.append((Phase(config, 0, Nets(config, ranks), ranks), ranks))
        return opened[-1][0]

    yield build
    for phase, ranks in opened:
        phase.close()
        ranks.close()


_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["harness.train.loop", "harness.train.job", "harness.train.run"])


class ForkedRank:
    """A program, forked off a process that has imported what training needs: that takes seconds. As a Popen."""

    def __init__(self, program: str, environment: dict[str, str]) -> None:
        program = f"import os; os.environ.clear(); os.environ.update({environment!r}); {program}"
        self._process = _forks.Process(target=exec, args=(program, {}), daemon=True)
        with mock.patch.dict(os.environ, environment):  # the first one starts the process that is forked
            self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, "still running"
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Launcher:
    """Starts the ranks of a run as processes, as a job does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run_file(self, recipe: dict[str, Any], out: Path, **more: Any) -> Path:
        path = self.folder / f"{out.name}.run.yaml"
        path.write_text(yaml.safe_dump({"config": recipe, "out": str(out), **more}), encoding="utf-8")
        return path

    def start(self, run_file: Path, num_ranks: int = 1, forked: bool = True) -> list[Any]:
        """The ranks of a run; `forked` or else with imports of their own, in the environment as it is now."""
        program = f"from harness.train.job import leave, main; leave(main({str(run_file)!r}))"
        return self.start_ranks(program, num_ranks, forked)

    def start_ranks(self, program: str, num_ranks: int, forked: bool = True) -> list[Any]:
        """The program once for each rank, in the environment of a job."""
        start = ForkedRank if forked else _start_anew
        return [start(program, environment) for environment in _environments(num_ranks)]

    def finish(self, run_file: Path, num_ranks: int = 1, forked: bool = True) -> list[int]:
        return [process.wait(timeout=120) for process in self.start(run_file, num_ranks, forked)]


def _start_anew(program: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], env=environment)


def _environments(num_ranks: int) -> list[dict[str, str]]:
    """A job's environment for each rank."""
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    return Launcher(tmp_path)
