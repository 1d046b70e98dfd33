"""Local paths made absolute, so that a job or a later command may start in any folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.config import EvaluateConfig
from evaluation.model import METHODS
from sweeps.config import AxisConfig, SweepConfig, label_of

_PATHS = ("path",)
_PATHS_OF_WHAT_IS_THERE = ("init_from", "init_discriminator_from")


def absolute(path: str) -> str:
    """A local path made absolute; a URL as it is."""
    return path if "://" in path else str(Path(path).absolute())


def absolute_within(value: Any, key: str = "") -> Any:
    """A copy of what a dotted key of a run's configuration holds, with every path in it made absolute."""
    if isinstance(value, dict):
        return {name: absolute_within(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [absolute_within(item, key) for item in value]
    last = key.rpartition(".")[2]
    if isinstance(value, str) and (last in _PATHS or (last in _PATHS_OF_WHAT_IS_THERE and Path(value).exists())):
        return absolute(value)
    return value


def with_absolute_paths(sweep: SweepConfig) -> SweepConfig:
    """A sweep whose paths mean the same in any folder; its runs and their names stay."""
    changes: dict[str, Any] = {
        "base": absolute_within(sweep.base),
        "set": absolute_within(sweep.set),
        "data": sweep.data and absolute(sweep.data),
        "axes": tuple(map(_axis, sweep.axes)),
        "evaluate": _evaluate(sweep.evaluate),
    }
    return sweep.model_copy(update=changes)


def _axis(axis: AxisConfig) -> AxisConfig:
    if axis.zip is not None:
        return axis.model_copy(update={"zip": tuple(map(_axis, axis.zip))})
    if axis.settings is not None:
        return axis.model_copy(update={"settings": absolute_within(axis.settings)})
    if axis.values is None:
        return axis
    labelled = axis.values if isinstance(axis.values, dict) else {label_of(value): value for value in axis.values}
    found = labelled
    for key in (axis.key,) if isinstance(axis.key, str) else axis.key or ():
        found = {label: absolute_within(value, key) for label, value in found.items()}
    return axis if found == labelled else axis.model_copy(update={"values": found})


def _evaluate(config: EvaluateConfig) -> EvaluateConfig:
    reference = config.report.reference
    if reference is not None and Path(reference).is_file():
        reference = absolute(reference)
    changes: dict[str, Any] = {
        "dataset": config.dataset and absolute(config.dataset),
        "models": tuple(map(_model, config.models)),
        "report": config.report.model_copy(update={"reference": reference}),
    }
    return config.model_copy(update=changes)


def _model(text: str) -> str:
    """`METHOD`, `PATH` or `NAME=PATH` with an absolute path; what is in a folder may only come to be there."""
    name, named, rest = text.partition("=")
    path = rest if named else text
    is_path = text not in METHODS and ("/" in path or Path(path).exists())
    return f"{name if named else ''}{named}{absolute(path)}" if is_path else text
