"""How often to save: Young's and Daly's optimum for the save time and the interruptions that were seen."""

from __future__ import annotations

import json
import math
from pathlib import Path

from harness.train.config import CheckpointConfig


def steps_between_saves(
    config: CheckpointConfig, save_s: float, step_s: float, mean_time_between_stops_s: float | None
) -> int:
    """The number of steps between two checkpoints that loses the least time, within the recipe's bounds.

    Young (1974): the interval sqrt(2 * save * mtbf); Daly (2006) takes the save itself off. What counts as the save is
    the time that the loop waits. Without an interruption seen, the recipe's `every` holds.
    """
    if mean_time_between_stops_s is None or step_s <= 0:
        return config.every
    interval_s = max(0.0, math.sqrt(2.0 * save_s * mean_time_between_stops_s) - save_s)
    return max(config.min_every, min(config.every, round(interval_s / step_s)))


def mean_time_between_stops(events: Path) -> float | None:
    """Seconds of running per interruption, from a run's events.jsonl; None where none was seen.

    A start that follows a start without a `stop` or `done` between them was a kill, and counts as well.
    """
    try:
        rows = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    running_s, stops, begin, last = 0.0, 0, None, 0.0
    for row in rows:
        if row["event"] == "start":
            if begin is not None:
                running_s, stops = running_s + last - begin, stops + 1
            begin = row["time"]
        elif row["event"] in ("stop", "done", "failed") and begin is not None:
            running_s, stops = running_s + row["time"] - begin, stops + (row["event"] == "stop")
            begin = None
        last = row["time"]
    return running_s / stops if stops else None
