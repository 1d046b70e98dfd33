"""How long a thousand runs take to plan, check, submit and show, measured against the development cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from slurm.dev.requirements import why_not
from slurm.devcluster import DevCluster
from slurm.profile import ClusterProfile
from sweeps.apply import store
from sweeps.cluster import submit_plan
from sweeps.plan import Plan
from sweeps.preflight import preflight
from sweeps.queues import Queues
from sweeps.run import Planned, plan_sweep
from sweeps.status import sweep_status

NUM_RUNS = 1000
_SUBMIT_BAR_S = 20.0
_STATUS_BAR_S = 2.0
_RECIPE = "demo"
Figure = tuple[str, float, "float | None"]
_T = TypeVar("_T")


def measure_thousand(folder: Path, say: Callable[[str], None]) -> list[Figure]:
    """(what, seconds, bar) of a thousand runs of three phases each, none shared, whose jobs are held.

    Where no development cluster can run, what needs one is left out, and `say` is told why.
    """
    sweep_file = _write_sweep(folder)
    planned, plan_s = _timed(lambda: plan_sweep(sweep_file, runs_dir=folder / "runs"))
    _, store_s = _timed(lambda: store(planned.sweep, planned.plan, planned.folder))
    figures: list[Figure] = [(f"plan {NUM_RUNS} runs", plan_s, None), ("write their run files", store_s, None)]
    if why_not():
        say(f"submitting is not measured: {why_not()}.")
    else:
        with _cluster(folder / "cluster") as cluster:
            figures += _measure_queue(planned, cluster, plan_s + store_s)
    _let_them_have_run(planned)
    figures.append(("`harness status` of as many that have run", _status_command_s(planned), _STATUS_BAR_S))
    return figures


def _measure_queue(planned: Planned, cluster: DevCluster, before_s: float) -> list[Figure]:
    profile = ClusterProfile(name="bench", executor="slurm", partition="low", slurm_conf=str(cluster.conf))
    reasons, check_s = _timed(lambda: preflight(planned.plan, planned.folder, profile))
    assert not reasons, reasons
    submitted, submit_s = _timed(lambda: submit_plan(planned.plan, planned.folder, profile, Queues(), hold=True))
    assert len(submitted.phases) == len(planned.plan.phases)
    status, status_s = _timed(lambda: sweep_status(planned.folder.runs, planned.plan, Queues()))
    assert status.counts == {"queued": NUM_RUNS}
    return [
        ("preflight, with a job that looks from a node", check_s, None),
        ("submit them", submit_s, None),
        ("plan, write, preflight and submit", before_s + check_s + submit_s, _SUBMIT_BAR_S),
        ("read how they stand, all in the queue", status_s, _STATUS_BAR_S),
        ("`harness status` of them, the whole command", _status_command_s(planned), _STATUS_BAR_S),
    ]


def _write_sweep(folder: Path) -> Path:
    from harness.data.pack import pack
    from harness.data.synth import write_dataset

    write_dataset(folder / "images", 6, size_px=192)
    pack([folder / "images"], folder / "data", tile_px=144, val=1, test=1)
    axis = {"name": "seed", "key": "seed", "values": list(range(NUM_RUNS))}
    values = {"name": "thousand", "recipe": _RECIPE, "data": str(folder / "data"), "axes": [axis]}
    path = folder / "thousand.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@contextmanager
def _cluster(folder: Path) -> Iterator[DevCluster]:
    cluster = DevCluster(folder, nodes=1)
    cluster.start()
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    try:
        yield cluster
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
        cluster.stop()


def _let_them_have_run(planned: Planned) -> None:
    """Leaves in every phase's folder what a trainer leaves that was interrupted four times, and no job.

    The cluster is gone by then: asking it about a job would take until SLURM's own time limit.
    """
    for key, phase in planned.plan.phases.items():
        folder = planned.folder.runs.phase(key)
        rows = [
            {"time": 60.0 * number, "event": event, "step": 100 * number, "world_size": 1}
            for number in range(5)
            for event in ("start", "first_step", "checkpoint", "checkpoint", "stop")
        ]
        (folder / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "status.json").write_text(json.dumps(_status(planned.plan, key)), encoding="utf-8")
        if phase.number == 0:
            (folder / "generator.safetensors").write_bytes(b"")
        (folder / "submission.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "lock", ignore_errors=True)


def _status(plan: Plan, key: str) -> dict[str, Any]:
    phase = plan.phases[key]
    done = phase.number == 0
    step = phase.first_step + (phase.iterations if done else phase.iterations // 2)
    return {"state": "done" if done else "saved", "step": step, "starts": 5, "val_psnr": 28.0, "pid": 1, "host": ""}


def _status_command_s(planned: Planned) -> float:
    command = [sys.executable, "-m", "harness", "status", planned.plan.sweep, "--runs", str(planned.folder.runs.root)]
    _, seconds = _timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    return seconds


def _timed(call: Callable[[], _T]) -> tuple[_T, float]:
    begin = time.monotonic()
    result = call()
    return result, time.monotonic() - begin
