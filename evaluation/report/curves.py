"""Training curves from `metrics.jsonl`: the seeds' figures and every other number that was logged.

A phase that several runs share is one line of its own, so a pretraining does not hide under the first run's colour.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_POINTS, MIN_POINTS = 240, 40
_POINT_BUDGET = 4000
NUM_COLOURS = 12

TITLES = {
    "val/psnr": "Validation PSNR (dB)",
    "val/ssim": "Validation SSIM",
    "val/lpips": "Validation LPIPS",
    "d/fake": "Discriminator output on fake images (mean logit)",
    "d/real": "Discriminator output on real images (mean logit)",
    "augment/r_t": "Overfitting heuristic r_t = E[sign D(real)]",
    "augment/p": "Augmentation probability p",
    "loss/total": "Generator loss (weighted sum)",
    "d/loss": "Discriminator loss",
    "d/accuracy": "Share of images judged right by the discriminator",
    "sr/std": "Standard deviation of the SR images",
    "sr/color_shift": "Distance of the mean colour of SR and HR",
    "data/replaced": "Bad samples replaced",
}
"""The seeds' figures (SupeRAuGAN's training behaviour, Specialized SR-GAN's figures 2 to 4 and 11) come first."""
_PREFIXES = {
    "loss/": "Generator loss term: {} (unweighted)",
    "learning_rate/": "Learning rate: {}",
    "grad_norm/": "Gradient norm: {}",
    "val/": "Validation: {}",
}


@dataclass(frozen=True)
class Series:
    """One line: `colour` counts the runs, None is a phase that several runs share."""

    label: str
    colour: int | None
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """One chart: a logged quantity over steps."""

    key: str
    title: str
    series: tuple[Series, ...]
    phases: tuple[tuple[str, int], ...]
    """Name of each phase and the step at which it begins."""


def read_curves(runs: Sequence[tuple[str, Sequence[Path]]]) -> list[Curve]:
    """The curves of all runs; a run is its name and its phase folders in order. Folders without a log are left out.

    A line begins with the last point of the phase before it, for training went on from there.
    """
    owners: dict[Path, list[int]] = {}
    before: dict[Path, Path | None] = {}
    for number, (_, folders) in enumerate(runs):
        for folder, previous in zip(folders, [None, *folders]):
            owners.setdefault(folder, []).append(number)
            before.setdefault(folder, previous)
    logs = {folder: read_log(folder / "metrics.jsonl") for folder in owners}
    max_points = max(MIN_POINTS, min(MAX_POINTS, _POINT_BUDGET // max(1, len(runs))))
    lines: dict[str, list[Series]] = {}
    for folder, numbers in owners.items():
        shared = len(numbers) > 1
        label = _shared_label(folder, len(numbers)) if shared else runs[numbers[0]][0]
        parent = before[folder]
        for key, points in logs[folder].points.items():
            earlier = logs[parent].points.get(key, [])[-1:] if parent is not None else []
            steps, values = zip(*earlier, *thin(points, max_points))
            lines.setdefault(key, []).append(Series(label, None if shared else numbers[0], steps, values))
    begins = _phase_begins(logs, before)
    return [Curve(key, title_of(key), _joined(lines[key]), begins) for key in sorted(lines, key=_order)]


@dataclass(frozen=True)
class Log:
    """What one phase folder logged: (step, value) pairs by quantity, the phase's name, its first and last step."""

    points: dict[str, list[tuple[int, float]]]
    phase: str
    first_step: int
    last_step: int


def read_log(path: Path) -> Log:
    """Reads a metrics.jsonl; numbers that are not finite are left out, as are torn lines. An absent file is empty."""
    points: dict[str, list[tuple[int, float]]] = {}
    phase, steps = "", []
    for row in _rows(path):
        phase = str(row.get("phase", phase))
        steps.append(row["step"])
        for key, value in row.items():
            if key != "step" and type(value) in (int, float) and math.isfinite(value):
                points.setdefault(key, []).append((row["step"], float(value)))
    return Log(points, phase, min(steps, default=0), max(steps, default=0))


def _phase_begins(logs: Mapping[Path, Log], before: Mapping[Path, Path | None]) -> tuple[tuple[str, int], ...]:
    """Each phase's name and the step at which it began: where the phase before it ended."""
    begins: dict[str, int] = {}
    for folder, log in logs.items():
        parent = before[folder]
        begin = logs[parent].last_step if parent is not None else 0
        if log.points:
            begins[log.phase] = min(begin, begins.get(log.phase, begin))
    return tuple(sorted(begins.items(), key=lambda item: item[1]))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row


def thin(points: Sequence[tuple[int, float]], max_points: int) -> list[tuple[int, float]]:
    """At most `max_points` points: each is the mean of its stretch of the curve, the last one stays as it is."""
    if len(points) <= max_points:
        return list(points)
    kept = []
    for number in range(max_points - 1):
        first = number * (len(points) - 1) // (max_points - 1)
        last = (number + 1) * (len(points) - 1) // (max_points - 1)
        stretch = points[first:last]
        kept.append((stretch[len(stretch) // 2][0], sum(value for _, value in stretch) / len(stretch)))
    return [*kept, points[-1]]


def title_of(key: str) -> str:
    """What a logged quantity is called in the report."""
    if key in TITLES:
        return TITLES[key]
    for prefix, form in _PREFIXES.items():
        if key.startswith(prefix):
            return form.format(key.removeprefix(prefix))
    return key


def _order(key: str) -> tuple[int, str]:
    known = list(TITLES)
    if key in known:
        return known.index(key), key
    prefixes = list(_PREFIXES)
    return len(known) + next((i for i, p in enumerate(prefixes) if key.startswith(p)), len(prefixes)), key


def _shared_label(folder: Path, count: int) -> str:
    return f"{folder.name.rsplit('-', 1)[0]} (shared by {count} runs)"


def _joined(lines: Iterable[Series]) -> tuple[Series, ...]:
    """The phases of one run as one line."""
    joined: dict[tuple[str, int | None], Series] = {}
    for line in lines:
        before = joined.get((line.label, line.colour))
        if before is not None:
            repeated = int(before.steps[-1] == line.steps[0])
            steps, values = before.steps + line.steps[repeated:], before.values + line.values[repeated:]
            line = Series(line.label, line.colour, steps, values)
        joined[line.label, line.colour] = line
    return tuple(joined.values())


def text_alternative(curve: Curve) -> str:
    """What a chart shows, for readers who do not see it: the last value of each line."""
    shown = [f"{line.label} ends at {line.values[-1]:.4g}" for line in curve.series[:NUM_COLOURS]]
    more = f", and {len(curve.series) - len(shown)} more" if len(curve.series) > len(shown) else ""
    return f"Line chart over training steps: {curve.title}. " + ", ".join(shown) + more + "."
