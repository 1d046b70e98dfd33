"""Is one model really better than another? Paired bootstrap over images, corrected for how often one asks.

Both models are scored on the same images, so the images' differences are resampled (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993): the interval is the percentile interval of the mean difference, the p-value the
two-sided share of resamples beyond zero, and Holm's step-down procedure (Holm 1979) corrects for the number of
comparisons. The image is the unit: what another training seed would give is not covered, and the report says so.

The bootstrap is too sure of itself on few images: where all differences agree in sign, no resample lies beyond zero. Up
to `MOST_FOR_SIGN_FLIPS` images the p-value is therefore the larger one of the bootstrap's and of the exact paired
sign-flip test (Fisher 1935), which is valid for any number of images and never below 2 / 2^n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from evaluation.columns import Column, build_columns
from evaluation.matrix import Condition
from evaluation.metrics import METRICS, Metric
from evaluation.scores import NOT_FINITE_REASON, ScoreTable
from harness import random
from harness.errors import InputError

LEVEL = 0.95
MOST_FOR_SIGN_FLIPS = 14
"""Images up to which all sign flips are counted (2^13 of them); beyond, the bootstrap alone gives the p-value."""
_CHUNK = 2_000_000
"""Random numbers drawn at a time, so that memory does not grow with the number of images."""


@dataclass(frozen=True)
class Question:
    """Does model `first` beat model `second` on a condition? Both are columns: one model, or its seeds."""

    condition: Condition
    first: Column
    second: Column


@dataclass(frozen=True)
class Comparison:
    """An answer. Differences are `first` minus `second` in the measure's own unit."""

    metric: str
    condition: str
    image_class: str
    kernel: str
    first: str
    second: str
    num_images: int
    difference: float
    low: float
    high: float
    probability: float
    """Share of resamples in which `first` is better; a tie counts half."""
    p_value: float
    p_holm: float

    @property
    def improvement(self) -> float:
        """The difference with the sign turned so that positive means `first` is better."""
        return self.difference if METRICS[self.metric].higher_is_better else -self.difference

    @property
    def is_decided(self) -> bool:
        return self.p_holm < 1 - LEVEL


def specialisation_questions(
    table: ScoreTable, conditions: Sequence[Condition], pool: str | None = None
) -> list[Question]:
    """Each model with an own class against the general model, on that class, at each split and degradation.

    Of several general models, the one that shares most of the specialised model's axes is the rival.
    """
    columns = [column for column in build_columns(table.models) if not column.baseline]
    general = [column for column in columns if is_general(column, pool)]
    questions = []
    for column in columns:
        if is_general(column, pool) or not general:
            continue
        rival = max(general, key=lambda other: len(set(other.axes) & set(column.axes)))
        own = [condition for condition in conditions if condition.image_class == column.own_class]
        questions += [Question(condition, column, rival) for condition in own]
    return questions


def is_general(column: Column, pool: str | None = None) -> bool:
    """Whether a model is made for no class in particular; `pool` names the row of all classes together."""
    return column.own_class in (None, "general", "all", pool)


def pair_questions(
    table: ScoreTable, conditions: Sequence[Condition], pairs: Iterable[tuple[str, str]]
) -> list[Question]:
    """Any pairs of models by name, on every condition.

    Raises:
        InputError: a name is not in the table.
    """
    columns = {column.title: column for column in build_columns(table.models)}
    for name in {name for pair in pairs for name in pair}:
        if name not in columns:
            raise InputError(f"compare: no model '{name}'; use two of {sorted(columns)}.")
    return [Question(c, columns[first], columns[second]) for first, second in pairs for c in conditions]


def compare(
    table: ScoreTable, metric: Metric, questions: Sequence[Question], resamples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Answers all questions by one measure; they count as one family for Holm's correction.

    Questions without two images that both models were scored on are left out: there is nothing to resample. So are
    those about a cell that the table has a reason against, unless only single images failed.
    """
    return compare_all(table, [metric], questions, resamples, seed)


def compare_all(
    table: ScoreTable, metrics: Sequence[Metric], questions: Sequence[Question], resamples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Answers all questions by several measures of single images, one family each, all from the same resamples."""
    usable = [metric for metric in metrics if metric.scope == "image" and metric.name in table.images.columns]
    asked = {model for question in questions for model in (*question.first.models, *question.second.models)}
    rows = table.images[table.images["model"].isin(asked)]
    by_condition = dict(list(rows.groupby("condition", sort=False)))
    unusable = {cell for cell, reason in table.missing.items() if not reason.endswith(NOT_FINITE_REASON)}
    answers: list[Comparison] = []
    for condition, group in _by_condition(questions).items():
        if condition in by_condition:
            answers += _answer(by_condition[condition], unusable, usable, group, resamples, seed)
    return [a for metric in usable for a in with_holm([each for each in answers if each.metric == metric.name])]


def _by_condition(questions: Iterable[Question]) -> dict[str, list[Question]]:
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.condition.name, []).append(question)
    return groups


def _answer(
    rows: pd.DataFrame,
    unusable: set[tuple[str, str, str]],
    metrics: Sequence[Metric],
    questions: Sequence[Question],
    resamples: int,
    seed: int,
) -> list[Comparison]:
    """All answers on one condition. Differences over the same images share the resamples, and the work."""
    pairs = [(metric, question) for metric in metrics for question in questions]
    wide = {metric.name: _by_image(rows, metric.name, unusable) for metric in metrics}
    differences = [_differences(wide[metric.name], question) for metric, question in pairs]
    by_images: dict[bytes, list[int]] = {}
    for number, difference in enumerate(differences):
        if np.isfinite(difference).sum() >= 2:
            by_images.setdefault(np.isfinite(difference).tobytes(), []).append(number)
    answers: dict[int, Comparison] = {}
    for numbers in by_images.values():
        values = np.stack([differences[number] for number in numbers], axis=1)
        values = values[np.isfinite(values[:, 0])]
        means = bootstrap_means(values, resamples, random.key(seed, "bootstrap", questions[0].condition.name))
        for column, number in enumerate(numbers):
            metric, question = pairs[number]
            answers[number] = _comparison(question, metric, values[:, column], means[:, column])
    return [answers[number] for number in sorted(answers)]


def _by_image(rows: pd.DataFrame, metric: str, unusable: set[tuple[str, str, str]]) -> pd.DataFrame:
    """One condition's scores, images by models, without the models whose cell is not to be used."""
    wide = rows.pivot_table(index="image", columns="model", values=metric, aggfunc="first", dropna=False)
    condition = str(rows["condition"].iloc[0])
    kept = [model for model in wide.columns if (model, condition, metric) not in unusable]
    return wide[kept].sort_index()


def _differences(values: pd.DataFrame, question: Question) -> np.ndarray:
    """The first model's score minus the second's for each image; NaN where either, or one of its seeds, has none."""
    sides = []
    for column in (question.first, question.second):
        models = list(column.models)
        if not set(models) <= set(values.columns):
            return np.full(len(values), np.nan)
        sides.append(values[models].mean(axis=1, skipna=False))
    return (sides[0] - sides[1]).to_numpy(float)


def bootstrap_means(values: np.ndarray, resamples: int, stream: int) -> np.ndarray:
    """The means of `resamples` samples with replacement, from counter-based random numbers.

    values: (n,) or (n, k) float64. Returns (resamples,) or (resamples, k), the same for the same stream and n.
    """
    count = len(values)
    means = []
    rows = max(1, _CHUNK // count)
    for first in range(0, resamples, rows):
        num_rows = min(rows, resamples - first)
        positions = np.arange(first * count, (first + num_rows) * count, dtype=np.int64)
        chosen = random.integers(stream, positions, count)
        place = chosen + np.repeat(np.arange(num_rows), count) * count
        times = np.bincount(place, minlength=num_rows * count).reshape(num_rows, count)
        means.append(times.astype(np.float64) @ values / count)
    return np.concatenate(means)


def sign_flip_p(difference: np.ndarray) -> float:
    """The exact two-sided p-value of the paired sign-flip test on the mean of (n,) differences.

    The share of the 2^n ways to turn the signs whose mean is at least as far from zero. By symmetry the first sign
    can stay. It takes 2^(n - 1) * n float64 numbers of memory.
    """
    flips = np.arange(2 ** (len(difference) - 1))[:, None] >> np.arange(len(difference)) & 1
    sums = np.abs((1.0 - 2.0 * flips) @ difference)
    rounding = 1e-12 * np.abs(difference).sum()
    return float(np.mean(sums >= abs(difference.sum()) - rounding))


def _p_value(difference: np.ndarray, means: np.ndarray) -> float:
    extreme = min(np.sum(means <= 0), np.sum(means >= 0))
    bootstrap = min(1.0, 2 * (float(extreme) + 1) / (len(means) + 1))
    return max(bootstrap, sign_flip_p(difference)) if len(difference) <= MOST_FOR_SIGN_FLIPS else bootstrap


def _comparison(question: Question, metric: Metric, difference: np.ndarray, means: np.ndarray) -> Comparison:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    better = means > 0 if metric.higher_is_better else means < 0
    ties = float(np.mean(means == 0))
    return Comparison(
        metric=metric.name,
        condition=question.condition.name,
        image_class=question.condition.image_class,
        kernel=question.condition.kernel,
        first=question.first.title,
        second=question.second.title,
        num_images=len(difference),
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        probability=float(np.mean(better)) + ties / 2,
        p_value=_p_value(difference, means),
        p_holm=float("nan"),
    )


def most_decidable(resamples: int) -> int:
    """How many comparisons of one measure can be decided at all: a p-value is never below 2 / (resamples + 1)."""
    return math.ceil((1 - LEVEL) * (resamples + 1) / 2) - 1


def with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with their p-values adjusted as one family by Holm's step-down procedure."""
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return [replace(comparison, p_holm=p) for comparison, p in zip(comparisons, adjusted)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: (m - rank) * p, made monotone and at most 1."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def to_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row per comparison, for `compare_METRIC.csv`."""
    columns = list(Comparison.__dataclass_fields__)
    return pd.DataFrame([[getattr(c, name) for name in columns] for c in comparisons], columns=columns)
