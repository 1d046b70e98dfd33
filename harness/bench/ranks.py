"""How much several ranks gain over one, and what their agreement on a stop costs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.bench.floor import finish
from harness.bench.step import draw_data, prepared
from harness.config import RunConfig
from harness.errors import InputError
from harness.train.log import Meter
from harness.train.nets import Nets
from harness.train.phase import Phase
from harness.train.ranks import Ranks, make_fast
from harness.train.steps import train_step
from harness.train.stop import AGREE_EVERY_S

_WARM_UP_STEPS = 3
_AGREEMENTS = 50


@dataclass(frozen=True)
class RanksFigure:
    """One rank against several, each bound to a core of its own (or with a GPU of its own)."""

    recipe: str
    phase: str
    num_ranks: int
    rank_batch: int
    """Patches a step on each rank."""
    one_patches_s: float
    all_patches_s: float
    work_efficiency: float
    """A single rank's processor time for a step over that of one of several: what is left when nobody waits."""
    agreement_s: float
    """Seconds of one agreement on whether to stop."""
    start_s: float
    """Seconds from the start of all ranks' processes to the end of their first iteration."""

    @property
    def efficiency(self) -> float:
        """All ranks' patches a second over what so many single ranks would do."""
        return self.all_patches_s / (self.num_ranks * self.one_patches_s)

    @property
    def agreement_share(self) -> float:
        """Share of the time that ranks spend on agreeing, a few times a second."""
        return self.agreement_s / AGREE_EVERY_S


def measure_ranks(
    name: str, config: RunConfig, folder: Path, num_ranks: int, rank_batch: int = 4, steps: int = 12
) -> RanksFigure:
    """The last phase of a recipe on one rank and on several.

    Raises:
        InputError: there are fewer cores, or GPUs, than ranks.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    if num_ranks > there:
        raise InputError(f"{num_ranks} ranks need a core or GPU each, of which {there} are here; give fewer ranks.")
    data = draw_data(folder, config.data.patch_px)
    one, several = (_measure(config, data, folder, n, rank_batch, steps) for n in (1, num_ranks))
    return RanksFigure(
        recipe=name,
        phase=config.phases[-1].name,
        num_ranks=num_ranks,
        rank_batch=rank_batch,
        one_patches_s=rank_batch / one["step_s"],
        all_patches_s=num_ranks * rank_batch / several["step_s"],
        work_efficiency=one["work_s"] / several["work_s"],
        agreement_s=several["agreement_s"],
        start_s=several["start_s"],
    )


def _measure(
    config: RunConfig, data: str, folder: Path, num_ranks: int, rank_batch: int, steps: int
) -> dict[str, float]:
    task = folder / f"ranks_{num_ranks}.json"
    values = prepared(config, data, num_ranks * rank_batch)
    told = {"config": values, "steps": steps, "out": str(folder), "begun": time.time()}
    task.write_text(json.dumps(told), encoding="utf-8")
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    program = f"from harness.bench.ranks import work; work({str(task)!r})"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
        )
        for rank in range(num_ranks)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a rank of the measurement ended with {[p.returncode for p in processes]}")
    figures: dict[str, float] = json.loads(said[0].splitlines()[-1])
    return figures


def work(task: str) -> None:
    """One rank's part: prints the shortest time of a whole iteration and of an agreement, and when the first ended."""
    values: dict[str, Any] = json.loads(Path(task).read_text(encoding="utf-8"))
    config = RunConfig.model_validate(values["config"])
    if not torch.cuda.is_available():
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"])]})
        torch.set_num_threads(1)
    make_fast()
    ranks = Ranks(config, values["out"])
    phase = Phase(config, len(config.phases) - 1, Nets(config, ranks), ranks)
    try:
        figures = _time_iterations(phase, ranks, values["steps"], values["begun"])
        figures["agreement_s"] = _shortest_agreement(ranks)
        if ranks.is_main:
            print(json.dumps(figures), flush=True)
        ranks.barrier()
    finally:
        phase.close()
        ranks.close()


def _time_iterations(phase: Phase, ranks: Ranks, steps: int, begun: float) -> dict[str, float]:
    """The shortest wall and processor time (all threads) of a whole iteration, and when the first had ended."""
    stream, meter = phase.patches(phase.first_step), Meter()
    first = phase.first_step + phase.config.generator_every - 1
    times, ends = [], []
    for _ in range(_WARM_UP_STEPS + steps):
        begin, begin_work = time.perf_counter(), time.process_time()
        meter.add(train_step(phase, next(stream), first, log_norms=False))
        finish(ranks.device)
        times.append((time.perf_counter() - begin, time.process_time() - begin_work))
        ends.append(time.time())
    wall, work = zip(*times[_WARM_UP_STEPS:])
    return {"step_s": min(wall), "work_s": min(work), "start_s": ends[0] - begun}


def _shortest_agreement(ranks: Ranks) -> float:
    times = []
    for _ in range(_AGREEMENTS):
        begin = time.perf_counter()
        ranks.largest([0.0, 0.0])
        times.append(time.perf_counter() - begin)
    return min(times)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
