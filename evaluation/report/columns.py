"""The columns of a matrix: models with several seeds become one, baselines stand apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

BASELINE_KINDS = ("method",)
GENERAL_CLASSES = ("general", "all")


class ModelFacts(Protocol):
    """What a column needs to know of a model."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def axes(self) -> Mapping[str, str]: ...
    @property
    def own_class(self) -> str | None: ...


@dataclass(frozen=True)
class Column:
    """One column: the models (seeds of one run, usually one) whose mean it shows."""

    title: str
    models: tuple[str, ...]
    own_class: str | None = None
    baseline: bool = False
    axes: tuple[tuple[str, str], ...] = ()


def is_seed(axis: str) -> bool:
    """Whether an axis only repeats a run with other random numbers."""
    return axis.split(".")[-1] == "seed"


def build_columns(models: Iterable[ModelFacts]) -> list[Column]:
    """Columns in the models' order, seeds of one run together; general models after special ones, baselines last."""
    groups: dict[tuple[object, ...], list[ModelFacts]] = {}
    for model in models:
        groups.setdefault(_group_key(model), []).append(model)
    columns = _told_apart([_column(group) for group in groups.values()])
    return sorted(columns, key=lambda column: (column.baseline, class_place(column.own_class)))


def _told_apart(columns: Sequence[Column]) -> list[Column]:
    """The columns; of several with one title, those of seeds are called by all their models' names."""
    titles = [column.title for column in columns]
    return [
        replace(column, title=", ".join(column.models)) if titles.count(column.title) > 1 else column
        for column in columns
    ]


def class_place(name: str | None) -> int:
    """Where a class stands among the others: `general` after every particular one, then `all` (or none at all)."""
    if name is None:
        return len(GENERAL_CLASSES)
    return GENERAL_CLASSES.index(name) + 1 if name in GENERAL_CLASSES else 0


def _group_key(model: ModelFacts) -> tuple[object, ...]:
    if not any(is_seed(axis) for axis in model.axes):
        return (model.name,)
    rest = tuple((axis, value) for axis, value in model.axes.items() if not is_seed(axis))
    return (model.kind, model.own_class, rest)


def _column(group: Sequence[ModelFacts]) -> Column:
    first = group[0]
    axes = tuple((axis, value) for axis, value in first.axes.items() if not is_seed(axis) or len(group) == 1)
    return Column(
        title=common_name([model.name for model in group]),
        models=tuple(model.name for model in group),
        own_class=first.own_class,
        baseline=first.kind in BASELINE_KINDS,
        axes=axes,
    )


def common_name(names: Sequence[str]) -> str:
    """What the names of several seeds share: `beach-seed0` and `beach-seed1` give `beach`."""
    if len(names) == 1:
        return names[0]
    parts = [re.split(r"([-_/, ])", name) for name in names]
    shared = [words[0] for words in zip(*parts) if len(set(words)) == 1]
    text = re.sub(r"([-_/, ])[-_/, ]+", r"\1", "".join(shared)).strip("-_/, ")
    return text or names[0]
