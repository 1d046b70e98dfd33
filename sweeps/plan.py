"""From runs to a graph of phases: a phase that several runs agree on is trained once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.errors import InputError
from harness.identity import phase_keys
from sweeps.grid import Run
from sweeps.paths import absolute

PLAN_VERSION = 1


@dataclass(frozen=True)
class Phase:
    """A node of the graph: one phase, trained once in the folder of its key."""

    key: str
    name: str
    number: int
    """Its place within a run."""
    parent: str | None
    """Key of the phase before it."""
    iterations: int
    first_step: int
    batch_size: int
    runs: tuple[str, ...]
    """Names of the runs that contain it."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan: its phases in order, the last of which holds the finished model."""

    name: str
    axes: dict[str, str]
    phases: tuple[str, ...]
    own_class: str | None
    pooled: bool
    """Whether `own_class` stands for all classes together, and is none of the data's."""
    differences: dict[str, str]
    total_steps: int


@dataclass(frozen=True)
class Plan:
    """A sweep's runs and the graph of their phases, parents before children."""

    sweep: str
    runs: tuple[PlannedRun, ...]
    phases: dict[str, Phase]
    missing: dict[str, str] = field(default_factory=dict)
    """Datasets and weights that could not be read, and why; keys that depend on them are provisional."""
    data: str | None = field(default=None, compare=False)
    """Where the first data to train on lies now: no part of the phases' keys, nor need it be where they found it."""
    configs: dict[str, RunConfig] = field(default_factory=dict, compare=False, repr=False)
    """Phase key -> configuration that trains it; not stored with the plan."""

    @property
    def iterations_alone(self) -> int:
        """Iterations if every run trained all of its phases itself."""
        return sum(run.total_steps for run in self.runs)

    @property
    def iterations(self) -> int:
        """Iterations with shared phases trained once."""
        return sum(phase.iterations for phase in self.phases.values())

    @property
    def saved_fraction(self) -> float:
        """Share of the iterations that sharing saves, in [0, 1)."""
        return 1 - self.iterations / self.iterations_alone


def make_plan(sweep: str, runs: list[Run], identify: Identify) -> Plan:
    """The graph of the runs' phases.

    Args:
        identify: maps the path of a dataset or weights file to the hash of its content.
    """
    phases: dict[str, Phase] = {}
    configs: dict[str, RunConfig] = {}
    planned = []
    for run in runs:
        keys = phase_keys(run.config, identify)
        planned.append(
            PlannedRun(
                name=run.name,
                axes=run.axes,
                phases=tuple(keys),
                own_class=run.own_class,
                pooled=run.pooled,
                differences=run.differences,
                total_steps=run.config.total_steps,
            )
        )
        for number, key in enumerate(keys):
            if key in phases:
                phases[key] = _with_run(phases[key], run.name)
            else:
                phases[key] = _phase(run, keys, number)
                configs[key] = phase_config(run.config, number)
    data = runs[0].config.data.sources[0].path
    return Plan(sweep, tuple(planned), phases, dict(identify.missing), data, configs)


def phase_config(config: RunConfig, number: int) -> RunConfig:
    """What phase `number` needs of a run's configuration: nothing of later phases, nor a discriminator before its use.

    So runs that share a phase give it the same configuration.
    """
    phases = config.phases[: number + 1]
    changes: dict[str, Any] = {"phases": phases, "name": phases[-1].name}
    if not any(phase.adversarial for phase in phases):
        changes |= {"discriminator": None, "init_discriminator_from": None}
    return config.model_copy(update=changes)


def _phase(run: Run, keys: list[str], number: int) -> Phase:
    phase = run.config.phases[number]
    return Phase(
        key=keys[number],
        name=phase.name,
        number=number,
        parent=keys[number - 1] if number else None,
        iterations=phase.iterations,
        first_step=run.config.first_step(number),
        batch_size=phase.batch_size,
        runs=(run.name,),
    )


def _with_run(phase: Phase, run: str) -> Phase:
    return Phase(**{**vars(phase), "runs": (*phase.runs, run)})


class Identify:
    """Path of a dataset, checkpoint or weights file -> hash of its content; each path is read once.

    A path that cannot be read gets a provisional identity, made of the path, and is listed in `missing`, so that a
    plan can be shown before its data exists.
    """

    def __init__(self, fingerprint_of: Callable[[str], str] | None = None) -> None:
        self._fingerprint_of = fingerprint_of or content_identity
        self._known: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        """Path -> why it could not be read."""

    def __call__(self, path: str) -> str:
        if path not in self._known:
            try:
                self._known[path] = self._fingerprint_of(path)
            except InputError as error:
                self.missing[path] = str(error)
                self._known[path] = f"provisional:{path}"
        return self._known[path]


def content_identity(path: str) -> str:
    """The fingerprint of a dataset, or the hash of a checkpoint's or weights file's content.

    Raises:
        InputError: there is nothing readable at `path`.
    """
    place = Path(path)
    if "://" not in path and not place.exists():
        raise InputError(f"{path}: no such file or folder; mend the path, or run `harness pack` for a dataset.")
    if place.is_file():
        return _file_hash(place)
    if place.is_dir() and not (place / "dataset.json").exists():
        return _weights_hash(place)
    from harness.data.shards import Dataset

    return Dataset.open(path).fingerprint


def _weights_hash(folder: Path) -> str:
    """Of the weights that a training takes: the averaged ones of a checkpoint, or what a finished run exported."""
    for name in ("generator_ema.safetensors", "generator.safetensors"):
        if (folder / name).is_file():
            return _file_hash(folder / name)
    raise InputError(f"{folder}: holds neither a packed dataset nor a trained generator; run `harness pack` or train.")


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); mend its permissions.") from None
    return digest.hexdigest()


def plan_json(plan: Plan) -> str:
    """The plan as JSON, without configurations: those lie with each phase."""
    values = {
        "version": PLAN_VERSION,
        "sweep": plan.sweep,
        "data": plan.data and absolute(plan.data),
        "iterations": plan.iterations,
        "iterations_alone": plan.iterations_alone,
        "runs": [asdict(run) for run in plan.runs],
        "phases": {key: asdict(phase) for key, phase in plan.phases.items()},
    }
    return json.dumps(values, ensure_ascii=False, indent=1)


def read_plan(path: Path) -> Plan:
    """A plan that was stored with its sweep.

    Raises:
        InputError: there is none, or it is of another version.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such sweep here; run `harness sweep` or give another --runs.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run `harness sweep` again.") from None
    plan = _plan_of(values) if isinstance(values, dict) and values.get("version") == PLAN_VERSION else None
    if plan is None:
        raise InputError(f"{path}: was written by another version of the project; run `harness sweep` again.")
    return plan


def _plan_of(values: dict[str, Any]) -> Plan | None:
    """The plan that `plan_json` wrote; None where another version wrote more or less."""
    try:
        runs = [PlannedRun(**{**run, "phases": tuple(run["phases"])}) for run in values["runs"]]
        phases = {key: Phase(**{**phase, "runs": tuple(phase["runs"])}) for key, phase in values["phases"].items()}
        return Plan(values["sweep"], tuple(runs), phases, data=values.get("data"))
    except (AttributeError, KeyError, TypeError):
        return None
