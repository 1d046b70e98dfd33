"""From a sweep to its named runs: a pure expansion of the axes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from harness.config import RunConfig
from harness.errors import InputError
from harness.schema import parse, set_key
from sweeps.config import AxisConfig, PerClassConfig, SweepConfig, label_of, safe_name

ClassesOf = Callable[[str], list[str]]
"""Path of a dataset -> its classes."""


@dataclass(frozen=True)
class Run:
    """One run of a sweep: a name that can be a folder, its place on the axes, its configuration."""

    name: str
    axes: dict[str, str]
    """Axis -> label."""
    config: RunConfig
    own_class: str | None
    """The class that the run is specialised for; None where there is no such axis."""
    pooled: bool
    """Whether `own_class` stands for all classes together, and is none of the data's."""
    differences: dict[str, str]
    """Dotted key -> value that the axes gave to this run."""


@dataclass(frozen=True)
class _Choice:
    """One entry of an axis: labels, the settings it stands for, and the class where it is one."""

    labels: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, Any], ...] = ()
    per_class: PerClassConfig | None = None

    def __add__(self, other: _Choice) -> _Choice:
        return _Choice(self.labels + other.labels, self.settings + other.settings, self.per_class or other.per_class)


def expand(sweep: SweepConfig, classes_of: ClassesOf, source: str = "the sweep") -> list[Run]:
    """The runs of a sweep, in the order of its axes (the last one varies fastest).

    Args:
        classes_of: asked only where an axis goes over the classes of the data.
        source: what an error names, usually the sweep's file.

    Raises:
        InputError: a recipe, axis, exclude or name that cannot be, in one sentence.
    """
    base = base_values(sweep, source)
    axes = [list(_choices(axis, base, classes_of, source)) for axis in sweep.axes]
    _check_axis_names(sweep.axes, source)
    points = [sum(point, _Choice(())) for point in itertools.product(*axes)]
    _check_excludes(sweep, points, source)
    kept = [point for point in points if not any(_matches(rule, dict(point.labels)) for rule in sweep.exclude)]
    if not kept:
        raise InputError(f"{source}: exclude leaves no run of {len(points)}; remove a rule.")
    _check_settings(sweep, kept, source)
    runs = [_run(sweep, base, point, classes_of, source) for point in kept]
    _check_names(runs, source)
    return runs


def base_values(sweep: SweepConfig, source: str) -> dict[str, Any]:
    """The recipe with the sweep's `data` and `set` applied, not yet validated."""
    assert sweep.base is not None, "load_sweep reads the recipe into base"
    values = _copy(sweep.base)
    if sweep.data is not None:
        _replace_data(values, sweep.data)
    for key, value in sweep.set.items():
        set_key(values, key, _copy(value), f"{source}: set")
    return values


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _replace_data(values: dict[str, Any], path: str) -> None:
    """Puts one dataset in the place of all training sources; a source's classes and fraction stay."""
    data = values.setdefault("data", {})
    for owner in [data, *(phase for phase in values.get("phases") or [] if isinstance(phase, dict))]:
        sources = owner.get("sources")
        if isinstance(sources, list) and sources and isinstance(sources[0], dict):
            owner["sources"] = [{**sources[0], "path": path, "weight": None}]
    data.setdefault("sources", [{"path": path}])


def _choices(axis: AxisConfig, base: dict[str, Any], classes_of: ClassesOf, source: str) -> Iterator[_Choice]:
    if axis.zip is not None:
        yield from _zipped(axis, base, classes_of, source)
    elif axis.per_class is not None:
        yield from _class_choices(axis, base, classes_of, source)
    elif axis.settings is not None:
        for label, settings in axis.settings.items():
            yield _Choice(((str(axis.name), label),), tuple((settings or {}).items()))
    else:
        keys = (axis.key,) if isinstance(axis.key, str) else axis.key or ()
        for label, value in _labelled_values(axis, source):
            yield _Choice(((str(axis.name), label),), tuple((key, value) for key in keys))


def _zipped(axis: AxisConfig, base: dict[str, Any], classes_of: ClassesOf, source: str) -> Iterator[_Choice]:
    columns = [list(_choices(inner, base, classes_of, source)) for inner in axis.zip or ()]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        names = ", ".join(f"{inner.name} has {length}" for inner, length in zip(axis.zip or (), lengths))
        raise InputError(f"{source}: zipped axes need the same number of entries, but {names}; make them equal.")
    for row in zip(*columns):
        yield sum(row, _Choice(()))


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


def _class_choices(axis: AxisConfig, base: dict[str, Any], classes_of: ClassesOf, source: str) -> Iterator[_Choice]:
    config = axis.per_class
    assert config is not None
    known = known_classes(base, classes_of)
    labels = list(config.classes) if config.classes is not None else [name for name in known if name != config.general]
    missing = [name for name in labels if known and name not in known]
    if missing:
        raise InputError(f"{source}: axis '{axis.name}': the data has no class '{missing[0]}'; it has {known}.")
    is_same = len(labels) == 1 and config.general not in known  # one class, and all together: the same model twice
    if config.general is not None and config.general not in labels and not is_same:
        labels.append(config.general)
    for label in labels:
        yield _Choice(((str(axis.name), label),), (), config)


def known_classes(values: dict[str, Any], classes_of: ClassesOf) -> list[str]:
    """The classes of the run's training sources, each once, in the order of the sources."""
    paths = [str(s["path"]) for s in values.get("data", {}).get("sources") or [] if isinstance(s, dict) and "path" in s]
    return list(dict.fromkeys(name for path in paths for name in classes_of(path)))


def _run(sweep: SweepConfig, base: dict[str, Any], point: _Choice, classes_of: ClassesOf, source: str) -> Run:
    labels = dict(point.labels)
    values = _copy(base)
    where = f"{source}: axes {labels}" if labels else source
    for key, value in point.settings:
        set_key(values, key, _copy(value), where)
    differences = {key: _shown(value) for key, value in point.settings}
    own_class, pooled = None, False
    if point.per_class is not None:
        axis = next(a.name for a in _flat(sweep.axes) if a.per_class is point.per_class)
        own_class = labels[str(axis)]
        known = known_classes(values, classes_of)
        pooled = own_class == point.per_class.general and own_class not in known
        differences |= _specialise(values, point.per_class, own_class, pooled, where)
    name = _name(sweep, labels, source)
    values["name"] = name
    return Run(name, labels, _parse(values, base, where, source), own_class, pooled, differences)


def _parse(values: dict[str, Any], base: dict[str, Any], where: str, source: str) -> RunConfig:
    """A run's configuration; a mistake that stands in the base, too, is not told as one of the axes.

    Raises:
        InputError: the configuration does not fit.
    """
    try:
        return parse(RunConfig, values, where)
    except InputError as error:
        try:
            parse(RunConfig, {**base, "name": values["name"]}, source)
        except InputError as without_axes:
            if str(without_axes).removeprefix(source) == str(error).removeprefix(where):
                raise without_axes from None
        raise


def _specialise(
    values: dict[str, Any], config: PerClassConfig, label: str, pooled: bool, source: str
) -> dict[str, str]:
    """Restricts the sources of the axis's phases to one class; returns what it set."""
    classes = (list(config.classes) if config.classes else None) if pooled else [label]
    set_keys = {}
    for phase_name in config.phases:
        phase = _phase(values, phase_name, source)
        sources = phase.get("sources") or values["data"]["sources"]
        phase["sources"] = [{**_copy(item), "classes": classes} for item in sources]
        set_keys[f"{phase_name}.classes"] = "all" if classes is None else label
    return set_keys


def _phase(values: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    phases = [phase for phase in values.get("phases") or [] if isinstance(phase, dict)]
    for phase in phases:
        if phase.get("name") == name:
            return phase
    known = [phase.get("name") for phase in phases]
    raise InputError(f"{source}: per_class names the phase '{name}', but the recipe's phases are {known}; use those.")


def _name(sweep: SweepConfig, labels: dict[str, str], source: str) -> str:
    template = sweep.naming or "-".join(f"{{{axis}}}" for axis in labels) or sweep.name
    unknown = [axis for axis in re.findall(r"\{([^{}]*)\}", template) if axis not in labels]
    if unknown:
        raise InputError(f"{source}: naming has '{{{unknown[0]}}}', but the axes are {list(labels)}; use those.")
    text = re.sub(r"\{([^{}]*)\}", lambda match: labels[match[1]], template)
    name = safe_name(text)
    if not name:
        raise InputError(f"{source}: '{text}' leaves no letter or digit for a folder's name; give naming or labels.")
    return name


def _flat(axes: tuple[AxisConfig, ...]) -> Iterator[AxisConfig]:
    for axis in axes:
        yield from _flat(axis.zip) if axis.zip is not None else [axis]


def _check_axis_names(axes: tuple[AxisConfig, ...], source: str) -> None:
    flat = list(_flat(axes))
    names = [axis.name for axis in flat]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{source}: two axes are named '{twice}'; rename one.")
    if sum(axis.per_class is not None for axis in flat) > 1:
        raise InputError(f"{source}: two axes go over the classes; keep one per_class axis.")


def _check_settings(sweep: SweepConfig, points: list[_Choice], source: str) -> None:
    """Nothing that is given may be without effect: runs would be called by what they were not trained with."""
    given = [[key for key, _ in point.settings] for point in points]
    twice = next((key for keys in given for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise InputError(f"{source}: two axes give '{twice}', of which one would have no effect; leave it to one.")
    for wanted in sweep.set:
        if all(any(f"{wanted}.".startswith(f"{key}.") for key in keys) for keys in given):
            raise InputError(f"{source}: '{wanted}' is set, but an axis gives every run its own; change that axis.")


def _check_excludes(sweep: SweepConfig, points: list[_Choice], source: str) -> None:
    labels: dict[str, set[str]] = {}
    for point in points:
        for axis, label in point.labels:
            labels.setdefault(axis, set()).add(label)
    for rule in sweep.exclude:
        for axis, wanted in rule.items():
            if axis not in labels:
                raise InputError(f"{source}: exclude names the axis '{axis}'; the axes are {sorted(labels)}.")
            unknown = [label for label in _wanted(wanted) if label not in labels[axis]]
            if unknown:
                raise InputError(
                    f"{source}: exclude names '{unknown[0]}' of axis '{axis}', which has {sorted(labels[axis])}."
                )


def _matches(rule: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels[axis] in _wanted(wanted) for axis, wanted in rule.items())


def _wanted(wanted: Any) -> list[str]:
    return [label_of(item) for item in wanted] if isinstance(wanted, list) else [label_of(wanted)]


def _check_names(runs: list[Run], source: str) -> None:
    """Names differ in more than case, since some file systems do not tell cases apart."""
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(run.name.casefold(), run)
        if other is not run:
            raise InputError(
                f"{source}: the runs {other.axes} and {run.axes} would both be called '{run.name}'; "
                "give naming with every axis, or labels that differ."
            )


def _shown(value: Any) -> str:
    return label_of(value) if not isinstance(value, (dict, list)) else json.dumps(value, ensure_ascii=False)
