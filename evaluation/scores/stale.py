"""Which numbers of a score table no longer hold: the data, the weights or the way of measuring has changed since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from evaluation.config import EvaluateConfig
from evaluation.model import Model
from evaluation.scores.collect import with_others
from evaluation.scores.images import Condition, DatasetImages, ImageSource, conditions_of
from evaluation.scores.networks import locate
from evaluation.scores.roster import Entry, dataset_of, roster_of, scale_of
from evaluation.scores.table import ScoreTable
from evaluation.scores.work import Job
from harness.errors import InputError


def mark_stale(table: ScoreTable, models: Sequence[Model], config: EvaluateConfig) -> ScoreTable:
    """The table with a reason for each cell whose dataset, weights or measure have changed since it was measured.

    For a report that is written without measuring anew: its numbers are then absent instead of wrong. Where others are
    asked for than were measured, a note says so.

    Raises:
        InputError: no dataset can be opened, or it lacks a class that is asked for.
    """
    roster = {entry.model.name: entry for entry in roster_of(with_others(models, config), config.latest)}
    source = DatasetImages(dataset_of(list(roster.values()), config))
    fingerprint = source.fingerprint
    otherwise = _measured_otherwise(table, list(roster.values()), config)
    missing = dict(table.missing)
    measured = table.images.drop_duplicates(["model", "condition"])
    for model, condition, sha, data in measured[["model", "condition", "checkpoint_sha", "dataset_fingerprint"]].values:
        reason = _stale(roster.get(model), sha, data, fingerprint)
        if reason is not None:
            missing |= {(model, condition, metric): reason for metric in table.metrics}
        else:
            missing = {(model, condition, metric): why for metric, why in otherwise.items()} | missing
    return replace(table, missing=missing, notes=[*table.notes, *_asked_otherwise(table, list(roster), config, source)])


def _asked_otherwise(
    table: ScoreTable, models: Sequence[str], config: EvaluateConfig, source: ImageSource
) -> Iterator[str]:
    """What is asked for now and is not what the table holds, in a sentence."""
    conditions = {condition.name: condition for condition in conditions_of(config, source)}
    changed = {
        "models": not set(models) <= {model.name for model in table.models},
        "conditions": set(conditions) != set(table.conditions),
        "images": any(
            set(images) != _images_of(conditions[str(name)], config, source)
            for name, images in table.images.groupby("condition", sort=False)["image"]
            if name in conditions
        ),
        "measures": not set(config.metrics) <= set(table.metrics),
    }
    asked = [what for what, is_changed in changed.items() if is_changed]
    if asked:
        yield f"Other {' and '.join(asked)} are asked for now than these numbers are of; run `harness evaluate` again."


def _images_of(condition: Condition, config: EvaluateConfig, source: ImageSource) -> set[str]:
    listed = (source.images(condition.split, name)[: config.max_images] for name in condition.classes)
    return {image.key for images in listed for image in images}


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
