"""Which numbers of a score table no longer hold: the data, the weights or the way of measuring has changed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluation.collect import with_others
from evaluation.config import EvaluateConfig
from evaluation.images import DatasetImages
from evaluation.model import Model
from evaluation.networks import locate
from evaluation.roster import Entry, dataset_of, roster_of, scale_of
from evaluation.scores import ScoreTable
from evaluation.work import Job
from harness.errors import InputError


def mark_stale(table: ScoreTable, models: Sequence[Model], config: EvaluateConfig) -> ScoreTable:
    """The table with a reason for each cell whose dataset, weights or measure have changed since it was measured.

    For a report that is written without measuring anew: its numbers are then absent instead of wrong.
    """
    roster = {entry.model.name: entry for entry in roster_of(with_others(models, config), config.latest)}
    fingerprint = DatasetImages(dataset_of(list(roster.values()), config)).fingerprint
    otherwise = _measured_otherwise(table, list(roster.values()), config)
    missing = dict(table.missing)
    measured = table.images.drop_duplicates(["model", "condition"])
    for model, condition, sha, data in measured[["model", "condition", "checkpoint_sha", "dataset_fingerprint"]].values:
        reason = _stale(roster.get(model), sha, data, fingerprint)
        if reason is not None:
            missing |= {(model, condition, metric): reason for metric in table.metrics}
        else:
            missing = {(model, condition, metric): why for metric, why in otherwise.items()} | missing
    return replace(table, missing=missing)


def _stale(entry: Entry | None, sha: str, data: str, fingerprint: str) -> str | None:
    if data != fingerprint:
        return f"stale: the dataset was edited (was {data[:8]}, is {fingerprint[:8]}); run `harness evaluate` again"
    if entry is None:
        return "stale: the model is no longer part of the evaluation"
    if entry.failure is not None:
        return f"stale: {entry.failure}"
    if sha != entry.sha256:
        return f"stale: the weights changed (were {sha[:8]}, are {entry.sha256[:8]}); run `harness evaluate` again"
    return None


def _measured_otherwise(table: ScoreTable, roster: Sequence[Entry], config: EvaluateConfig) -> dict[str, str]:
    """Metric -> the reason, for those whose numbers are of another version, colour, border, noise or network."""
    try:
        scale = scale_of(roster, config)
    except InputError:
        return {}  # no model can be evaluated, which is the reason of every cell
    located = locate(table.metrics)
    job = Job(list(roster), config, scale, "", [], (), located, "")
    known = {word for text in table.images["metric_version"].unique() for word in str(text).split()}
    reasons = {}
    for metric in table.metrics:
        before = sorted(word for word in known if word.split(":")[0] == metric)
        now = job.identity(metric)
        if before != [now] and metric not in located.missing:
            was = f"as {', '.join(before)}" if before else "in an older way"
            reasons[metric] = f"stale: measured {was}, not as {now}; run `harness evaluate` again"
    return reasons
