"""`harness logs`: the numbers of a phase's steps, then what rank 0 said."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import InputError
from slurm.submission import read_submission
from sweeps.control import no_such_run
from sweeps.layout import SweepFolder, parse_rows
from sweeps.plan import Plan, read_plan

_METRICS = "metrics.jsonl"
_TELLING = ("loss/", "d/", "val/")
"""Of a step's numbers these are shown; the file has all."""


def find_logs(folder: SweepFolder, run: str, phase: str | None = None) -> Callable[[], list[Path]]:
    """The metrics and rank 0's logs of one phase of a run, as they are at a call.

    Args:
        phase: unless it is named, the newest that was started at that time.

    Raises:
        InputError: no such run or phase, or (at a call) it was never started.
    """
    plan = read_plan(folder.plan)
    keys = _phases_of_run(plan, run, folder)
    chosen = [key for key in keys if phase is None or plan.phases[key].name == phase]
    if not chosen:
        names = ", ".join(plan.phases[key].name for key in keys)
        raise InputError(f"run '{run}' has no phase '{phase}'; its phases are {names}.")
    return NewestLogs([folder.runs.phase(key) for key in chosen], run)


class NewestLogs:
    """The logs of the newest phase that was started, and from one call to the next of none before it.

    One that waits for its next start, or whose logs were removed, has its metrics still.
    """

    def __init__(self, places: Sequence[Path], run: str) -> None:
        self._places, self._run = places, run

    def __call__(self) -> list[Path]:
        for number in reversed(range(len(self._places))):
            submission = read_submission(self._places[number])
            metrics, files = self._places[number] / _METRICS, submission.log_files(0) if submission else []
            if files or metrics.exists():
                self._places = self._places[number:]
                return [metrics, *files]  # an error is the last that is read
        raise InputError(f"run '{self._run}' has no log yet; `harness status` tells what it waits for.")


def _phases_of_run(plan: Plan, run: str, folder: SweepFolder) -> tuple[str, ...]:
    for planned in plan.runs:
        if planned.name == run:
            return planned.phases
    raise no_such_run(folder, run, [planned.name for planned in plan.runs])


def read_logs(find: Callable[[], Sequence[Path]], follow: bool, poll_s: float = 0.5) -> Iterator[str]:
    """What the files hold, one after the other, then (with `follow`) what is added, for ever.

    Args:
        find: names the files, which are others when a phase is submitted again or the next one begins.
    """
    files, places = find(), dict[Path, int]()
    while True:
        for path in files:
            added, places[path] = _added(path, places.get(path, 0))
            if added:
                yield added
        if not follow:
            return
        time.sleep(poll_s)
        with contextlib.suppress(InputError):  # a job that waits has no log, and what was there may still grow
            files = list(dict.fromkeys([*files, *find()]))


def _added(path: Path, place: int) -> tuple[str, int]:
    """What a file has from byte `place` on, as it is shown, and where it ends; metrics may not be there yet.

    Metrics are taken by whole lines, and are shorter again where a run goes back to its checkpoint.
    """
    try:
        with path.open("rb") as file:
            place = file.seek(min(place, file.seek(0, os.SEEK_END)))
            added = file.read()
    except FileNotFoundError:
        return "", place
    if path.name != _METRICS:
        return added.decode("utf-8", "replace"), place + len(added)
    whole = added[: added.rfind(b"\n") + 1]
    return "".join(map(_line, parse_rows(whole))), place + len(whole)


def _line(row: dict[str, Any]) -> str:
    """`step 1,200  pretrain  loss/l1 0.04508  val/psnr 24.57`."""
    numbers = [f"{name} {value:.4g}" for name, value in row.items() if _is_shown(name, value)]
    return "  ".join([f"step {row.get('step', 0):,}", str(row.get("phase", "")), *numbers]) + "\n"


def _is_shown(name: str, value: Any) -> bool:
    return name.startswith(_TELLING) and isinstance(value, (int, float))
