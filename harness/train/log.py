"""What a run says while it works: metrics.jsonl, status.json, events.jsonl, and the trackers."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import torch

from harness.config import RunConfig
from harness.errors import InputError, first_line
from harness.files import write_text
from harness.process import process_start
from harness.train.ranks import Ranks


class Meter:
    """Means of device scalars over the steps since the last log; nothing is read back to the host before `fetch`.

    Steps that log the same names share one vector of sums, so that a step costs one stack and one addition.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], torch.Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, values: dict[str, torch.Tensor]) -> None:
        names = tuple(values)
        vector = torch.stack([value.detach().float() for value in values.values()])
        self._sums[names] = self._sums[names].add_(vector) if names in self._sums else vector
        self._counts[names] = self._counts.get(names, 0) + 1

    def fetch(self, ranks: Ranks) -> dict[str, float]:
        """The means over steps and ranks, in one transfer; starts anew."""
        if not self._sums:
            return {}
        groups = list(self._sums)
        sums = ranks.mean_tensor(torch.cat([self._sums[names] for names in groups])).tolist()
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names in groups:
            for name in names:
                totals[name] = totals.get(name, 0.0) + sums.pop(0)
                counts[name] = counts.get(name, 0) + self._counts[names]
        self._sums, self._counts = {}, {}
        return {name: totals[name] / counts[name] for name in sorted(totals)}

    def state_dict(self, ranks: Ranks) -> dict[str, Any]:
        """Each rank's share of the sums, averaged, so that one rank's file speaks for all."""
        sums = {names: ranks.mean_tensor(value) for names, value in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self._sums = {names: value.to(device) for names, value in state["sums"].items()}
        self._counts = dict(state["counts"])


class RunLog:
    """The files of a run folder that others read while it trains. Only rank 0 writes."""

    def __init__(self, out: Path, ranks: Ranks) -> None:
        self._ranks = ranks
        self._writes = ranks.is_main
        self._metrics = out / "metrics.jsonl"
        self._status_path = out / "status.json"
        self._events = out / "events.jsonl"
        self._before = self._read_status()
        self._status: dict[str, Any] = {
            "pid": os.getpid(),
            "pid_started": process_start(os.getpid()),
            "host": socket.gethostname(),
            "world_size": ranks.world_size,
            "starts": self._before.get("starts", 0) + 1,
            "error": None,
        }

    def start_trackers(self, step: int, config: RunConfig) -> None:
        """Opens TensorBoard and what else the recipe names; steps after `step` will be written again.

        Weights & Biases gets the run under an identity of its folder, so that a resumed run goes on there as well.

        Raises:
            InputError: a tracker's package is not installed, or cannot be used.
        """
        there = {str(tracker) for tracker in self._ranks.accelerator.log_with}
        for name in config.trackers:
            if name not in there:
                raise InputError(
                    f"trackers: '{name}' is not installed here; install it (pip install {name}), or leave it out."
                )
        if config.trackers:
            folder = str(self._metrics.parent.resolve())
            identity = hashlib.blake2b(folder.encode(), digest_size=8).hexdigest()
            options = {
                "tensorboard": {"purge_step": step + 1},
                "wandb": {"id": identity, "resume": "allow", "dir": folder},
            }
            self._open_trackers(config, options)

    def _open_trackers(self, config: RunConfig, options: dict[str, Any]) -> None:
        try:
            self._ranks.accelerator.init_trackers(config.name, init_kwargs=options)
        except Exception as error:  # whatever a tracker's package ends with where it has no account or network
            self._ranks.accelerator.trackers = []
            first = first_line(error)
            names = ", ".join(config.trackers)
            raise InputError(f"trackers: {names} cannot be opened ({first}); mend that, or set trackers=[].") from error

    def flush(self) -> None:
        """Makes sure that the metrics so far outlive a crash of the machine."""
        if self._writes and self._metrics.exists():
            with self._metrics.open("rb") as file:
                os.fsync(file.fileno())

    def cut_back(self, step: int) -> None:
        """Removes the metrics of steps after `step`, also from TensorBoard's curves: they will be made again."""
        if not self._writes or not self._metrics.exists():
            return
        for tracker in self._ranks.accelerator.trackers:  # after a roll back; at a start there are none yet
            if tracker.name == "tensorboard":
                tracker.writer.close()
                tracker.writer.purge_step = step + 1  # of the file that it opens next
        text = self._metrics.read_text(encoding="utf-8", errors="replace")  # a torn end may hold anything
        kept = [line for line in text.splitlines() if _step_of(line) <= step]
        write_text(self._metrics, "".join(line + "\n" for line in kept))

    def metrics(self, step: int, phase: str, values: dict[str, float]) -> None:
        """One row in metrics.jsonl, and the same to the trackers."""
        if not self._writes:
            return
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "phase": phase, **values}) + "\n")
        self._ranks.accelerator.log(values, step=step)

    def event(self, name: str, step: int, **facts: Any) -> None:
        """One line in events.jsonl, from which the ledger of compute is made."""
        if self._writes:
            row = {"time": time.time(), "event": name, "step": step, "world_size": self._ranks.world_size, **facts}
            with self._events.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def status(self, **changes: Any) -> None:
        """Updates status.json."""
        self._status.update(changes, updated=time.time())
        if self._writes:
            write_text(self._status_path, json.dumps(self._status))

    def rolled_back(self, step: int, count: int) -> None:
        """Notes that a run went back to the checkpoint of `step`, which does not know of it, for the `count`-th time.

        A start that comes before the next checkpoint asks `rollbacks_to`.
        """
        self.status(rolled_back={"step": step, "count": count})

    def rollbacks_to(self, step: int) -> int:
        """How often a run had gone back when it last went back to the checkpoint of `step`; 0 where it did not."""
        noted = self._before.get("rolled_back")
        if not isinstance(noted, dict) or noted.get("step") != step or not isinstance(noted.get("count"), int):
            return 0
        self._status["rolled_back"] = noted
        return noted["count"]

    def started(self, step: int) -> None:
        """The event of a start, with how far the start before it had come: a killed run cannot tell that itself."""
        if self._writes:
            _end_last_line(self._events)
        facts = {"last_updated": self._before.get("updated"), "last_step": self._before.get("step")}
        precision = "bf16" if self._ranks.bf16 else "fp32"
        self.event("start", step, device=self._ranks.device.type, precision=precision, **facts)

    def _read_status(self) -> dict[str, Any]:
        try:
            status = json.loads(self._status_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}


def _end_last_line(path: Path) -> None:
    """Parts a line that a full disk tore from the one that comes next."""
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _step_of(line: str) -> float:
    """The step of a metrics row; a torn last line counts as never written."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
