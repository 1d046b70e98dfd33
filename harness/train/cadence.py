"""How often to save: Young's and Daly's optimum for the save time and the interruptions that were seen."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from harness.train.config import CheckpointConfig

_WRITING_SHARE = 0.1
"""Of the time, at the most, in which a checkpoint is being written: it takes the file system of many jobs."""


def steps_between_saves(
    config: CheckpointConfig, save_s: float, write_s: float, step_s: float, mean_time_between_stops_s: float | None
) -> int:
    """The number of steps between two checkpoints that loses the least time, within the recipe's bounds.

    Young (1974): the interval sqrt(2 * save * mtbf); Daly (2006) takes the save itself off. What counts as the save is
    the time that the loop waits. Writing, which goes on behind the loop for `write_s`, is given a tenth of the time,
    however often the run is interrupted. Without an interruption seen, the recipe's `every` holds.
    """
    if mean_time_between_stops_s is None or step_s <= 0:
        return config.every
    interval_s = max(write_s / _WRITING_SHARE, math.sqrt(2.0 * save_s * mean_time_between_stops_s) - save_s)
    return max(config.min_every, min(config.every, round(interval_s / step_s)))


def mean_time_between_stops(events: Path) -> float | None:
    """Seconds of running per interruption, from a run's events.jsonl; None where none was seen.

    A start that follows a start without a `stop` or `done` between them was a kill, and counts as well; it notes when
    the one before was heard of last. A stretch in which the clock was set back counts as no time.
    """
    running_s, stops, begin, last = 0.0, 0, None, 0.0
    for event, moment in _events(events):
        if event == "start":
            if begin is not None:
                running_s, stops = running_s + max(0.0, last - begin), stops + 1
            begin = moment
        elif event in ("stop", "done", "failed") and begin is not None:
            running_s, stops = running_s + max(0.0, moment - begin), stops + (event == "stop")
            begin = None
        last = moment
    return running_s / stops if stops and running_s else None


def _events(path: Path) -> Iterator[tuple[str, float]]:
    """What happened, and when; a torn line counts as never written."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
            event, moment = str(row["event"]), float(row["time"])
            heard = float(row.get("last_updated") or 0)
        except (AttributeError, ValueError, KeyError, TypeError):
            continue
        if heard:
            yield "heard", heard
        yield event, moment
