"""Is one model really better than another? A paired sign-flip test over images, corrected for how often one asks.

Both models are scored on the same images, so it is the images' differences that are tested (`sign_flips`),
and Holm's step-down procedure corrects for the number of comparisons. The image is the unit: tiles of one image count
as one, and what another training seed would give is not covered. The report says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from evaluation.metrics import METRICS, Metric
from evaluation.report.columns import GENERAL_CLASSES, Column, build_columns
from evaluation.report.matrix import Condition
from evaluation.report.sign_flips import ALPHA, holm, intervals, p_values, subset_means
from evaluation.scores.table import NOT_FINITE_REASON, ScoreTable
from harness import random
from harness.errors import InputError


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
    num_sources: int
    """Images that these were cut from: fewer where they are tiles."""
    num_left_out: int
    """Images (or tiles) of the condition without a finite number of both models."""
    difference: float
    low: float
    high: float
    probability: float
    """Share of resamples (parts of the images) in which `first` is better; a tie counts half."""
    p_value: float
    p_holm: float
    seed_pairs: int = 1
    """Pairs of a seed of `first` and one of `second`."""
    seed_pairs_better: int = 0
    """In how many of them `first` has the better mean over the images."""

    @property
    def improvement(self) -> float:
        """The difference with the sign turned so that positive means `first` is better."""
        return self.difference if METRICS[self.metric].higher_is_better else -self.difference

    @property
    def is_decided(self) -> bool:
        return self.p_holm < ALPHA


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
    return column.own_class in (None, *GENERAL_CLASSES, pool)


def pair_questions(
    table: ScoreTable, conditions: Sequence[Condition], pairs: Sequence[tuple[str, str]]
) -> list[Question]:
    """Any pairs of models by name, on every condition.

    Raises:
        InputError: a name is not in the table, or a pair is a model and itself.
    """
    columns = {column.title: column for column in build_columns(table.models)}
    for name in {name for pair in pairs for name in pair}:
        if name not in columns:
            raise InputError(f"compare: no model '{name}'; use two of {sorted(columns)}.")
    twice = [first for first, second in pairs if first == second]
    if twice:
        raise InputError(f"compare: '{twice[0]}' is given twice; name another of {sorted(columns)} beside it.")
    return [Question(c, columns[first], columns[second]) for first, second in pairs for c in conditions]


def compare(
    table: ScoreTable, metric: Metric, questions: Sequence[Question], resamples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Answers all questions by one measure; they count as one family for Holm's correction.

    Questions without two images (not tiles of one) that both models were scored on are left out: there is nothing to
    resample. So are those about a cell that the table has a reason against, unless only single images failed.
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
    models = {model for question in questions for model in (*question.first.models, *question.second.models)}
    scores = {metric.name: _by_image(rows, metric.name, models, unusable) for metric in metrics}
    sources = rows.groupby("image")["source_hash"].first().sort_index().to_numpy()
    differences = [_differences(scores[metric.name], question) for metric, question in pairs]
    by_images: dict[bytes, list[int]] = {}
    for number, difference in enumerate(differences):
        by_images.setdefault(np.isfinite(difference).tobytes(), []).append(number)
    answers: dict[int, Comparison] = {}
    stream = random.key(seed, "sign-flips", questions[0].condition.name)
    for numbers in by_images.values():
        values = np.stack([differences[number] for number in numbers], axis=1)
        used = np.isfinite(values[:, 0])
        if len(np.unique(sources[used])) > 1:
            tested = _test(values[used], sources[used], int(np.sum(~used)), resamples, stream)
            asked = [pairs[number] for number in numbers]
            for number, (metric, question), answer in zip(numbers, asked, _comparisons(asked, tested)):
                answers[number] = _with_seeds(answer, metric, scores[metric.name], used, question)
    return [answers[number] for number in sorted(answers)]


def _by_image(
    rows: pd.DataFrame, metric: str, models: Iterable[str], unusable: set[tuple[str, str, str]]
) -> dict[str, np.ndarray]:
    """One condition's scores: model -> (N,), the images by name; NaN without a score, or in a cell not to be used."""
    wide = rows.pivot_table(index="image", columns="model", values=metric, aggfunc="first", dropna=False).sort_index()
    condition = str(rows["condition"].iloc[0])
    found = dict(zip(wide.columns, wide.to_numpy(float).T))
    none_N = np.full(len(wide), np.nan)
    return {m: none_N if (m, condition, metric) in unusable else found.get(m, none_N) for m in models}


def _differences(scores: Mapping[str, np.ndarray], question: Question) -> np.ndarray:
    """The first model's score minus the second's for each image; NaN where either, or one of its seeds, has none."""
    sides = (question.first.models, question.second.models)
    first_N, second_N = (np.mean([scores[model] for model in models], axis=0) for models in sides)
    with np.errstate(invalid="ignore"):  # an image that both restore exactly: infinite in both
        return np.asarray(first_N - second_N)


def _with_seeds(
    answer: Comparison, metric: Metric, scores: Mapping[str, np.ndarray], used_N: np.ndarray, question: Question
) -> Comparison:
    """The answer with the pairs of seeds counted, over the images that it is of."""
    sides = (question.first.models, question.second.models)
    first, second = (np.array([scores[model][used_N].mean() for model in models]) for models in sides)
    gains = (first[:, None] - second) * (1 if metric.higher_is_better else -1)
    return replace(answer, seed_pairs=gains.size, seed_pairs_better=int((gains > 0).sum()))


@dataclass(frozen=True)
class _Tested:
    """What the test says of K comparisons over the same images."""

    num_images: int
    num_sources: int
    num_left_out: int
    difference_K: np.ndarray
    means_MK: np.ndarray
    """See `subset_means`."""


def _test(values_NK: np.ndarray, source_N: np.ndarray, num_left_out: int, resamples: int, stream: int) -> _Tested:
    """Tests differences over N images, those of one source together."""
    _, unit_N, counts_U = np.unique(source_N, return_inverse=True, return_counts=True)
    sums_UK = np.zeros((len(counts_U), values_NK.shape[1]))
    np.add.at(sums_UK, unit_N, values_NK)
    means_MK = subset_means(sums_UK, counts_U, resamples, stream)
    return _Tested(len(values_NK), len(counts_U), num_left_out, values_NK.mean(axis=0), means_MK)


def _comparisons(asked: Sequence[tuple[Metric, Question]], tested: _Tested) -> Iterator[Comparison]:
    """The answers to the questions that were tested together, without Holm's correction."""
    means_MK = tested.means_MK
    positive_K = ((means_MK > 0).sum(axis=0) + (means_MK == 0).sum(axis=0) / 2) / (~np.isnan(means_MK)).sum(axis=0)
    found = zip(tested.difference_K.tolist(), *map(np.ndarray.tolist, (*intervals(means_MK), positive_K)))
    for (metric, question), (difference, low, high, positive), p in zip(asked, found, p_values(means_MK).tolist()):
        yield Comparison(
            metric=metric.name,
            condition=question.condition.name,
            image_class=question.condition.image_class,
            kernel=question.condition.kernel,
            first=question.first.title,
            second=question.second.title,
            num_images=tested.num_images,
            num_sources=tested.num_sources,
            num_left_out=tested.num_left_out,
            difference=difference,
            low=low,
            high=high,
            probability=positive if metric.higher_is_better else 1 - positive,
            p_value=p,
            p_holm=float("nan"),
        )


def with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with their p-values adjusted as one family by Holm's step-down procedure."""
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return [replace(comparison, p_holm=p) for comparison, p in zip(comparisons, adjusted)]


def to_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row per comparison, for `compare_METRIC.csv`."""
    columns = list(Comparison.__dataclass_fields__)
    return pd.DataFrame([[getattr(c, name) for name in columns] for c in comparisons], columns=columns)
