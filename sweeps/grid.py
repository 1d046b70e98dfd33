"""From a sweep to its named runs: a pure expansion of the axes, less what is excluded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from harness.config import RunConfig
from harness.errors import InputError
from harness.schema import parse, set_key
from sweeps.axes import Choice, ClassesOf, choices_of, flat_axes, known_classes
from sweeps.config import PerClassConfig, SweepConfig, label_of, safe_name


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


def expand(sweep: SweepConfig, classes_of: ClassesOf, source: str = "the sweep") -> list[Run]:
    """The runs of a sweep, in the order of its axes (the last one varies fastest).

    Args:
        classes_of: asked only where an axis goes over the classes of the data.
        source: what an error names, usually the sweep's file.

    Raises:
        InputError: a recipe, axis, exclude or name that cannot be, in one sentence.
    """
    base = base_values(sweep, source)
    points = choices_of(sweep.axes, base, classes_of, source)
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
    if values.get("data") is None:
        values["data"] = {}
    data, phases = values["data"], values.get("phases") or []
    if not isinstance(data, dict):
        return  # which the run's configuration refuses
    for owner in [data, *(phase for phase in phases if isinstance(phase, dict))]:
        sources = owner.get("sources")
        if isinstance(sources, list) and sources and isinstance(sources[0], dict):
            owner["sources"] = [{**sources[0], "path": path, "weight": None}]
    data.setdefault("sources", [{"path": path}])


def _run(sweep: SweepConfig, base: dict[str, Any], point: Choice, classes_of: ClassesOf, source: str) -> Run:
    labels = dict(point.labels)
    values = _copy(base)
    where = f"{source}: axes {labels}" if labels else source
    for key, value in point.settings:
        set_key(values, key, _copy(value), where)
    differences = {key: _shown(value) for key, value in point.settings}
    own_class, pooled = None, False
    if point.per_class is not None:
        axis = next(a.name for a in flat_axes(sweep.axes) if a.per_class is point.per_class)
        own_class = labels[str(axis)]
        known = known_classes(values, point.per_class.phases, classes_of)
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


def _check_settings(sweep: SweepConfig, points: list[Choice], source: str) -> None:
    """Nothing that is given may be without effect: runs would be called by what they were not trained with."""
    given = [[key for key, _ in point.settings] for point in points]
    twice = next((key for keys in given for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise InputError(f"{source}: two axes give '{twice}', of which one would have no effect; leave it to one.")
    for wanted in sweep.set:
        if all(any(f"{wanted}.".startswith(f"{key}.") for key in keys) for keys in given):
            raise InputError(f"{source}: '{wanted}' is set, but an axis gives every run its own; change that axis.")


def _check_excludes(sweep: SweepConfig, points: list[Choice], source: str) -> None:
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
        if other is not run and other.axes == run.axes:
            raise InputError(f"{source}: the run {run.axes} comes twice; remove the value that an axis repeats.")
        if other is not run:
            raise InputError(
                f"{source}: the runs {other.axes} and {run.axes} would both be called '{run.name}'; "
                "give naming with every axis, or labels that differ."
            )


def _shown(value: Any) -> str:
    return label_of(value) if not isinstance(value, (dict, list)) else json.dumps(value, ensure_ascii=False)
