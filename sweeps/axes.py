"""The axes of a sweep: the labels that each goes through, and the settings that a label stands for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import InputError
from sweeps.config import AxisConfig, PerClassConfig, label_of

ClassesOf = Callable[[str], list[str]]
"""Path of a dataset -> its classes."""


@dataclass(frozen=True)
class Choice:
    """One entry of an axis, or of several: labels, the settings it stands for, and the class where it is one."""

    labels: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, Any], ...] = ()
    per_class: PerClassConfig | None = None

    def __add__(self, other: Choice) -> Choice:
        return Choice(self.labels + other.labels, self.settings + other.settings, self.per_class or other.per_class)


def choices_of(axes: tuple[AxisConfig, ...], base: dict[str, Any], classes_of: ClassesOf, source: str) -> list[Choice]:
    """Every point of the axes' product, the last axis varying fastest.

    Args:
        base: the values of the recipe, whose data may be asked for its classes.

    Raises:
        InputError: axes that cannot be, in a sentence that begins with `source`.
    """
    found = [list(_choices(axis, base, classes_of, source)) for axis in axes]
    _check_axis_names(axes, source)
    return [sum(point, Choice(())) for point in itertools.product(*found)]


def _choices(axis: AxisConfig, base: dict[str, Any], classes_of: ClassesOf, source: str) -> Iterator[Choice]:
    if axis.zip is not None:
        yield from _zipped(axis, base, classes_of, source)
    elif axis.per_class is not None:
        yield from _class_choices(axis, base, classes_of, source)
    elif axis.settings is not None:
        for label, settings in axis.settings.items():
            yield Choice(((str(axis.name), label),), tuple((settings or {}).items()))
    else:
        keys = (axis.key,) if isinstance(axis.key, str) else axis.key or ()
        for label, value in _labelled_values(axis, source):
            yield Choice(((str(axis.name), label),), tuple((key, value) for key in keys))


def _zipped(axis: AxisConfig, base: dict[str, Any], classes_of: ClassesOf, source: str) -> Iterator[Choice]:
    columns = [list(_choices(inner, base, classes_of, source)) for inner in axis.zip or ()]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        names = ", ".join(f"{inner.name} has {length}" for inner, length in zip(axis.zip or (), lengths))
        raise InputError(f"{source}: zipped axes need the same number of entries, but {names}; make them equal.")
    for row in zip(*columns):
        yield sum(row, Choice(()))


def _labelled_values(axis: AxisConfig, source: str) -> Iterator[tuple[str, Any]]:
    if isinstance(axis.values, dict):
        yield from axis.values.items()
        return
    for number, value in enumerate(axis.values or ()):
        if isinstance(value, (dict, list)):
            raise InputError(
                f"{source}: value {number + 1} of axis '{axis.name}' is not a single value; "
                "give each a label, as in values: {LABEL: VALUE}."
            )
        yield label_of(value), value


def _class_choices(axis: AxisConfig, base: dict[str, Any], classes_of: ClassesOf, source: str) -> Iterator[Choice]:
    config = axis.per_class
    assert config is not None
    known = known_classes(base, config.phases, classes_of)
    labels = list(config.classes) if config.classes is not None else [name for name in known if name != config.general]
    missing = [name for name in labels if known and name not in known]
    if missing:
        raise InputError(f"{source}: axis '{axis.name}': the data has no class '{missing[0]}'; it has {known}.")
    is_same = len(labels) == 1 and config.general not in known  # one class, and all together: the same model twice
    if config.general is not None and config.general not in labels and not is_same:
        labels.append(config.general)
    for label in labels:
        yield Choice(((str(axis.name), label),), (), config)


def known_classes(values: dict[str, Any], phases: Sequence[str], classes_of: ClassesOf) -> list[str]:
    """The classes of what the phases of these names train on, each once, in the order of the sources."""
    named = [p for p in values.get("phases") or [] if isinstance(p, dict) and p.get("name") in phases]
    shared = values.get("data", {}).get("sources")
    sources = [source for phase in named or [{}] for source in phase.get("sources") or shared or []]
    paths = dict.fromkeys(str(source["path"]) for source in sources if isinstance(source, dict) and "path" in source)
    return list(dict.fromkeys(name for path in paths for name in classes_of(path)))


def flat_axes(axes: tuple[AxisConfig, ...]) -> Iterator[AxisConfig]:
    """The axes, with those of a zip in its place."""
    for axis in axes:
        yield from flat_axes(axis.zip) if axis.zip is not None else [axis]


def _check_axis_names(axes: tuple[AxisConfig, ...], source: str) -> None:
    flat = list(flat_axes(axes))
    names = [axis.name for axis in flat]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{source}: two axes are named '{twice}'; rename one.")
    if sum(axis.per_class is not None for axis in flat) > 1:
        raise InputError(f"{source}: two axes go over the classes; keep one per_class axis.")
