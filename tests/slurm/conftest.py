"""The development cluster, and runs of the real trainer on it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from slurm.dev.requirements import why_not, why_not_installed
from slurm.devcluster import DevCluster
from slurm.errors import ClusterError
from slurm.job import Job
from slurm.launch import submit
from slurm.profile import ClusterProfile
from slurm.queue import ask, parse_fields

STEPS_PER_PHASE = 100
TOTAL_STEPS = 2 * STEPS_PER_PHASE
PATIENCE_S = 300.0
"""How long anything is waited for: only a failure takes so long, however loaded the machine is."""
GRACE_BAR_S = 5.0
_STOPS: list[tuple[str, ...]] = []


def skip_without_cluster() -> None:
    """Skips the test where no development cluster can run, saying why."""
    reason = why_not() or why_not_installed()
    if reason:
        pytest.skip(f"no development cluster: {reason}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """Four nodes of a real SLURM, for the whole session."""
    skip_without_cluster()
    cluster = DevCluster(tmp_path_factory.mktemp("cluster"), nodes=4, cpus=2, gpus=2)
    cluster.start()
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PYTHONPATH", "OMP_NUM_THREADS")}
    own = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    os.environ.update(SLURM_CONF=str(cluster.conf), PYTHONPATH=os.pathsep.join(own), OMP_NUM_THREADS="1")
    yield cluster
    cluster.stop()
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def clean_cluster(cluster: DevCluster) -> Iterator[DevCluster]:
    """The cluster, empty; the test must leave no process of a job behind and no node drained or down."""
    yield cluster
    for state in ("PENDING", "RUNNING"):
        ask("scancel", "--user", "root", "--state", state)
    until(lambda: not ask("squeue", "--noheader").strip(), "the queue is not empty")
    until(lambda: not cluster.job_processes(), "processes of jobs are left")
    until(lambda: set(cluster.node_states().values()) == {"idle"}, "a node is drained or down")


@pytest.fixture
def profile(cluster: DevCluster) -> ClusterProfile:
    """Two nodes of one rank each in the partition that is preempted."""
    return ClusterProfile(
        name="dev", executor="slurm", partition="low", nodes=2, time_min=10, signal_s=90, slurm_conf=str(cluster.conf)
    )


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Pixel pretraining, then an adversarial phase: a tiny SRResNet on a few small random images, fp32."""
    from harness.data.pack import pack

    images = tmp_path_factory.mktemp("images") / "hill"
    images.mkdir()
    source = np.random.default_rng(0)
    for i in range(12):
        small = Image.fromarray(source.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(images / f"{i}.png")
    out = tmp_path_factory.mktemp("packed") / "tiny"
    pack([images.parent], out, tile_px=48, workers=1)
    adam = {"learning_rate": 1e-3}
    phase = {"iterations": STEPS_PER_PHASE, "batch_size": 4, "losses": [{"name": "l1"}], "generator_optimizer": adam}
    return {
        "data": {"sources": [{"path": str(out)}], "patch_px": 32, "window": 8},
        "generator": {"name": "srresnet", "num_blocks": 1, "num_channels": 8},
        # Batch norm sees a rank's own samples, so with it another number of ranks would be another experiment.
        "discriminator": {"name": "vgg", "num_channels": 4, "batch_norm": False},
        "ema_decay": 0.9,
        "log_every": 1,
        "trackers": [],
        "validation": {"every": 50, "max_images": 2, "sample_images": 0},
        "checkpoint": {"every": 20, "min_every": 20},
        "phases": [
            {"name": "pretrain", **phase},
            {"name": "adversarial", **phase, "adversarial": {"weight": 0.01}, "discriminator_optimizer": adam},
        ],
    }


@pytest.fixture(scope="session")
def reference(
    cluster: DevCluster, recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> TrainedOnCluster:
    """The same run on the same topology, never interrupted."""
    own = ClusterProfile(name="dev", executor="slurm", partition="low", nodes=2, slurm_conf=str(cluster.conf))
    run = TrainedOnCluster(cluster, recipe, tmp_path_factory.mktemp("reference"))
    run.pace(keys=1)
    run.submit(own)
    run.wait_done()
    return run


@pytest.fixture
def run(
    clean_cluster: DevCluster, recipe: dict[str, Any], reference: TrainedOnCluster, tmp_path: Path
) -> TrainedOnCluster:
    """A run that a test interrupts."""
    return TrainedOnCluster(clean_cluster, recipe, tmp_path)


@dataclass
class TrainedOnCluster:
    """One run of the real trainer as a job, and what a test asks about it."""

    cluster: DevCluster
    recipe: dict[str, Any]
    folder: Path
    job_id: str = ""
    known_pids: set[int] = field(default_factory=set)

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def pace(self, **places: float | str) -> None:
        """How long the next start waits at its places (see targets.train)."""
        (self.folder / "pace.json").write_text(json.dumps(places))

    def submit(self, profile: ClusterProfile) -> None:
        run_file = self.folder / "run.yaml"
        run_file.write_text(yaml.safe_dump({"config": self.recipe, "out": str(self.out)}))
        argument = json.dumps({"run_file": str(run_file), "notes": str(self.folder)})
        job = Job("run", self.out, argument, target="targets:train")
        self.job_id = submit([job], profile, self.folder / "slurm")["run"].job_id

    # -- what there is to see ---------------------------------------------------------------------------------------

    def fields(self) -> dict[str, str]:
        return parse_fields(ask("scontrol", "show", "job", self.job_id, "--oneliner"))

    def running_s(self) -> int:
        """How long the present start has been running, as SLURM counts; less than a day."""
        hours, minutes, seconds = map(int, self.fields()["RunTime"].split(":"))
        return 3600 * hours + 60 * minutes + seconds

    @property
    def state(self) -> str:
        return self.fields()["JobState"]

    def rows(self) -> list[dict[str, Any]]:
        path = self.out / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def events(self, name: str) -> list[dict[str, Any]]:
        path = self.out / "events.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["event"] == name]

    def marks(self) -> list[str]:
        path = self.folder / "marks"
        return path.read_text().split() if path.exists() else []

    def pids(self) -> list[int]:
        """The ranks of the present start."""
        return [pid for pid, _ in self._ranks() if pid not in self.known_pids]

    def pid_of_rank(self, rank: int) -> int:
        return [pid for pid, number in self._ranks() if number == rank][-1]

    def _ranks(self) -> list[tuple[int, int]]:
        path = self.folder / "pids"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def nodes(self) -> list[str]:
        """The job's nodes, rank 0's first."""
        return ask("scontrol", "show", "hostnames", self.fields()["NodeList"]).split()

    def signals(self) -> list[tuple[float, str]]:
        """When any rank got which signal."""
        path = self.folder / "signals"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(line.split()[0]), line.split()[1]) for line in lines]

    def status(self) -> dict[str, Any]:
        return json.loads((self.out / "status.json").read_text())

    def checkpoints(self) -> list[Path]:
        return sorted((self.out / "checkpoints").glob("step_*"))

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()}" for p in sorted(self.folder.glob("slurm/*/*_log.*")))

    def let_go(self) -> None:
        """Ends the wait of a place whose pace is "held N"."""
        (self.folder / "go").touch()

    # -- what to do and wait for ------------------------------------------------------------------------------------

    def wait_step(self, step: int) -> None:
        self.until(lambda: len(self.rows()) >= step, f"step {step} was not reached")

    def wait_mark(self, place: str, times: int = 1) -> None:
        self.until(lambda: self.marks().count(place) >= times, f"never came to '{place}'")

    def wait_left(self) -> float:
        """Waits until all ranks of this start are gone; returns when the last one went (unix time)."""
        gone = lambda: bool(self.pids()) and not any(_is_alive(pid) for pid in self.pids())  # noqa: E731
        self.until(gone, "the ranks did not leave")
        left = time.time()
        self.known_pids |= set(self.pids())
        return left

    def wait_requeued(self) -> None:
        self.until(lambda: self.state == "PENDING", "was not put back into the queue")

    def release(self) -> None:
        """Spares the two minutes that SLURM waits after a requeue."""
        self.wait_requeued()
        # In the second of the requeue SLURM still refuses the job's old credential.
        time.sleep(2.2)
        ask("scontrol", "update", f"JobId={self.job_id}", "StartTime=now")

    def wait_done(self) -> None:
        self.until(lambda: self.state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), "did not end")
        assert self.state == "COMPLETED", self.logs()

    def until(self, condition: Callable[[], bool], complaint: str) -> None:
        try:
            until(condition, complaint)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.fields()}\n{self.logs()}") from None

    def preempt(self) -> None:
        """A job of the high partition takes all nodes for a moment."""
        all_nodes = [f"--nodes={len(self.cluster.node_names())}", "--exclusive"]
        ask("sbatch", "--partition=high", *all_nodes, "--output=/dev/null", "--wrap", "sleep 1")

    # -- what has to be true ----------------------------------------------------------------------------------------

    def check_equal(self, reference: TrainedOnCluster) -> None:
        """Bitwise the weights of the uninterrupted run, every step once, and the same numbers in every row."""
        names = ["generator.safetensors"]
        names += [f"checkpoints/step_{TOTAL_STEPS:09d}/{name}.safetensors" for name in ("generator", "discriminator")]
        for name in names:
            assert (self.out / name).read_bytes() == (reference.out / name).read_bytes(), name
        assert [row["step"] for row in self.rows()] == list(range(1, TOTAL_STEPS + 1))
        assert self.rows() == reference.rows()

    def comes_back(
        self,
        reference: TrainedOnCluster,
        stop: str,
        left_at: float,
        made_again: int = 0,
        hit_at: float | None = None,
        bar_s: float = GRACE_BAR_S,
    ) -> None:
        """Lets the requeued run go on to its end, and checks all that has to be true then.

        Args:
            left_at: when the last rank had gone, for the table of stops.
            made_again: so many logged steps may have been lost, at most.
            hit_at: when the run was hit, where no signal reached it.
            bar_s: the most that leaving may take on a machine with nothing else to do.
        """
        reached = len(self.rows())
        (self.folder / "go").unlink(missing_ok=True)
        self.pace()
        self.release()
        self.wait_done()
        lost = reached - self.events("start")[-1]["step"]
        self.tell(stop, left_at, lost, hit_at, bar_s)
        assert lost <= made_again
        self.check_equal(reference)

    def tell(
        self, stop: str, left_at: float, lost: int, hit_at: float | None = None, bar_s: float = GRACE_BAR_S
    ) -> None:
        """Adds a row to the table of stops that the session ends with; times are shown there, and judged by nobody."""
        grace_s = left_at - (hit_at or min(at for at, _ in self.signals()))
        row = (stop, f"{grace_s:.2f}", f"{bar_s:.0f}", str(lost), self.fields()["Restarts"])
        _STOPS.append(row if grace_s <= bar_s else (*row[:2], f"{bar_s:.0f} exceeded", *row[3:]))


def until(condition: Callable[[], bool], complaint: str) -> None:
    """Waits for a condition; SLURM's passing hiccups count as not yet."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(ClusterError):
            if condition():
                return
        assert time.monotonic() < end, complaint
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return re.search(r"^State:\s+(\w)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE).group(1) != "Z"  # type: ignore[union-attr]
    except OSError:
        return False


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _STOPS:
        terminalreporter.section("stops on the development cluster")
        head = ("stop", "signal to exit, s", "at most", "steps made again", "requeues")
        for stop, grace, bar, lost, restarts in [head, *_STOPS]:
            terminalreporter.write_line(f"{stop:48} {grace:>18} {bar:>12} {lost:>18} {restarts:>9}")
