"""The report's plain tables: comparisons, runs, the ledger of compute, and what was evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluation.metrics import METRICS
from evaluation.report.compare import Comparison
from evaluation.report.grid import Entry, Grid, Head, Line
from evaluation.report.sentences import compared_of_all, place, show_difference
from evaluation.report.sign_flips import LEVEL
from evaluation.scores.table import ScoreTable

LEDGER_LABELS = {
    "useful_h": "training, for the first time",
    "replayed_h": "training again what a kill had taken",
    "starting_h": "starting, before the first step",
    "lost_h": "lost: starts without a step, and the time after the last sign of life",
    "queued_h": "waiting in the queue (occupies nothing)",
}


def compare_grid(comparisons: Sequence[Comparison], title: str) -> Grid:
    """A row for each comparison of one measure: difference, interval, probability and corrected p-value."""
    metric = METRICS[comparisons[0].metric]
    unit = f" ({metric.unit})" if metric.unit else ""
    heads: tuple[Head, ...] = (
        Head("compared", is_text=True),
        Head(f"difference{unit}"),
        Head(f"{LEVEL:.0%} interval"),
        Head("first better in resamples"),
        Head("corrected p"),
        Head("images"),
    )
    lines = tuple(_compare_line(comparison) for comparison in comparisons)
    if any(comparison.seed_pairs > 1 for comparison in comparisons):
        heads += (Head("first better in pairs of seeds"),)
        lines = tuple(
            replace(line, entries=(*line.entries, Entry(f"{c.seed_pairs_better} of {c.seed_pairs}")))
            for line, c in zip(lines, comparisons)
        )
    better = "positive" if metric.higher_is_better else "negative"
    caption = f"first minus second; {better} means that the first is better"
    return Grid(title, caption, ("class",), heads, lines)


def _compare_line(comparison: Comparison) -> Line:
    entries = (
        Entry(f"{comparison.first} against {comparison.second}"),
        Entry(_signed(comparison, comparison.difference), comparison.difference),
        Entry(f"{_signed(comparison, comparison.low)} to {_signed(comparison, comparison.high)}"),
        Entry(f"{comparison.probability:.1%}", comparison.probability),
        Entry("< 0.001" if comparison.p_holm < 0.001 else f"{comparison.p_holm:.3f}", comparison.p_holm),
        Entry(_images(comparison), comparison.num_images),
    )
    return Line((place(comparison),), entries)


def _images(comparison: Comparison) -> str:
    is_tiled = comparison.num_sources < comparison.num_images
    compared = compared_of_all(comparison)
    return f"{comparison.num_sources} ({compared} tiles)" if is_tiled else compared


def _signed(comparison: Comparison, value: float) -> str:
    return ("+" if value >= 0 else "") + show_difference(comparison, value)


def runs_grid(runs: Sequence[tuple[str, Mapping[str, str]]]) -> Grid:
    """What was run: only the keys in which the runs differ. Each run is its name and its differences."""
    keys = list(dict.fromkeys(key for _, differences in runs for key in differences))
    kept = [key for key in keys if len({differences.get(key) for _, differences in runs}) > 1 or len(runs) == 1]
    heads = tuple(Head(key, is_text=True) for key in kept)
    lines = tuple(
        Line((name,), tuple(Entry(differences.get(key, "as the recipe")) for key in kept)) for name, differences in runs
    )
    return Grid("Differences", "only the keys in which the runs differ", ("run",), heads, lines)


def ledger_grid(ledger: Mapping[str, Any]) -> Grid:
    """Where the compute went: time multiplied by ranks, of each kind, and its share of what was occupied."""
    hours = {key: float(value) for key, value in ledger.items() if key.endswith("_h") and _is_number(value)}
    spent = sum(value for key, value in hours.items() if key != "queued_h")
    lines = [_ledger_line(LEDGER_LABELS.get(key, key), value, spent, key) for key, value in hours.items()]
    lines.append(Line(("all that was occupied",), (Entry(show_hours(spent), spent), Entry("")), apart=True))
    heads = (Head("time x ranks"), Head("share"))
    return Grid("Where the time went", "each rank counts its own time", ("spent on",), heads, tuple(lines))


def _ledger_line(label: str, hours: float, spent: float, key: str) -> Line:
    share = Entry("") if key == "queued_h" or not spent else Entry(f"{hours / spent:.1%}", hours / spent)
    return Line((label,), (Entry(show_hours(hours), hours), share))


def show_hours(hours: float) -> str:
    """Hours with a sensible unit: seconds below two minutes, minutes below two hours."""
    if hours < 2 / 60:
        return f"{hours * 3600:.1f} s"
    return f"{hours * 60:.1f} min" if hours < 2 else f"{hours:.1f} h"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def models_grid(table: ScoreTable) -> Grid:
    """What was evaluated: each model's kind, path and the hash of its weights."""
    hashes: dict[str, str] = {}
    for model, sha in table.images[["model", "checkpoint_sha"]].drop_duplicates().itertuples(index=False):
        hashes[str(model)] = str(sha or "")
    lines = [
        Line(
            (model.name,), (Entry(model.kind), Entry(hashes.get(model.name, "")[:12] or "–"), Entry(model.path or "–"))
        )
        for model in table.models
    ]
    heads = (Head("kind", is_text=True), Head("weights (sha256)", is_text=True), Head("path", is_text=True))
    return Grid("Models", "", ("model",), heads, tuple(lines))
