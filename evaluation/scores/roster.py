"""The models of an evaluation before they are loaded: which weights each means, at which scale, or why it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from evaluation.config import EvaluateConfig
from evaluation.model import METHODS, Model, baseline
from evaluation.scores.checkpoints import EXPORT_MARK, FINAL_WEIGHTS, Weights, find_weights, read_metadata
from evaluation.scores.upsamplers import identity_of_file
from harness.config import RunConfig
from harness.errors import InputError


@dataclass(frozen=True)
class Entry:
    """A model and the hash of what decides its outputs; `failure` says why it cannot be evaluated."""

    model: Model
    sha256: str = ""
    weights: Weights | None = None
    failure: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.weights.notes if self.weights else ()


def model_of(text: str) -> Model:
    """A model from the command line: `bicubic`, `PATH` or `NAME=PATH`.

    Without NAME it is called as the folder, or as the file without its suffix. A folder with a run or a checkpoint is
    one, any other folder holds finished SR images; a file that this project exported is a checkpoint, any other is left
    to spandrel.

    Raises:
        InputError: the path does not exist.
    """
    if text in METHODS:
        return baseline(text)
    name, named, rest = text.partition("=")
    if not named or Path(text).exists():
        name, rest = "", text
    path = Path(rest)
    name = name or (path.absolute().name if path.is_dir() else path.stem)
    if path.is_dir():
        own = any((path / file).exists() for file in ("config.yaml", "manifest.json", FINAL_WEIGHTS))
        return Model(name, "checkpoint" if own else "folder", str(path))
    if path.is_file():
        return Model(name, "checkpoint" if _is_export(path) else "spandrel", str(path))
    raise InputError(f"model '{text}': no such file or folder, nor a method ({', '.join(METHODS)}).")


def roster_of(models: Sequence[Model], latest: bool) -> list[Entry]:
    """Finds each model's weights; one that has none stays in the list with its reason.

    Raises:
        InputError: no models, or two of one name.
    """
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two models are named '{twice[0]}'; rename one.")
    if not models:
        raise InputError("there is no model to evaluate; name one, or a baseline.")
    return [_entry(model, latest) for model in models]


def _configs(roster: Sequence[Entry]) -> list[RunConfig]:
    return [entry.weights.config for entry in roster if entry.weights]


def scale_of(roster: Sequence[Entry], config: EvaluateConfig) -> int:
    """The scale of the evaluation: the configured one, or that of the checkpoints.

    Raises:
        InputError: the checkpoints differ, or nothing says it.
    """
    if config.scale is not None:
        return config.scale
    scales = {config.scale for config in _configs(roster)}
    if len(scales) == 1:
        return scales.pop()
    if scales:
        raise InputError(f"the models upscale by {sorted(scales)}; set evaluate.scale, or evaluate them apart.")
    raise InputError(f"no model says its scale{_first_failure(roster)}; set evaluate.scale.")


def dataset_of(roster: Sequence[Entry], config: EvaluateConfig) -> str:
    """The dataset to evaluate on: the configured one, or the first training source of the checkpoints.

    Raises:
        InputError: nothing says it.
    """
    if config.dataset is not None:
        return config.dataset
    for run_config in _configs(roster):
        return run_config.data.sources[0].path
    raise InputError(f"no model says which dataset to evaluate on{_first_failure(roster)}; set evaluate.dataset.")


def _entry(model: Model, latest: bool) -> Entry:
    try:
        if model.kind == "checkpoint":
            weights = find_weights(model, latest)
            return Entry(model, weights.sha256, weights)
        return Entry(model, identity_of_file(model))
    except InputError as error:
        return Entry(model, failure=str(error))


def _is_export(file: Path) -> bool:
    try:
        return EXPORT_MARK in read_metadata(file)
    except (OSError, SafetensorError):
        return False


def _first_failure(roster: Sequence[Entry]) -> str:
    return next((f" ({entry.failure})" for entry in roster if entry.failure), "")
