"""Keys of phases: what was trained by one version is found by the next, and never taken for something else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from harness import identity
from harness.config import RunConfig, load_run_config
from harness.identity import KEY_VERSION, phase_keys
from harness.mistakes import is_section
from sweeps.config import RECIPES

DEFAULTS = Path(__file__).with_name("defaults.yaml")


class LaterConfig(RunConfig):
    """As a version to come may have it."""

    added: int = 0


def sections(model: type[BaseModel], found: dict[str, type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """The models below a configuration, by name."""
    if found.setdefault(model.__name__, model) is model:
        for _, field in deciding(model):
            for below in models_in(field.annotation):
                if below.__name__ not in found:
                    sections(below, found)
    return found


def deciding(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of a section that decide what is trained."""
    harmless = {"RunConfig": identity.HARMLESS_KEYS, "DataConfig": identity._HARMLESS_DATA_KEYS}
    return ((key, field) for key, field in model.model_fields.items() if key not in harmless.get(model.__name__, ()))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if is_section(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def defaults() -> dict[str, Any]:
    """SECTION.key -> its default, of all that decides what is trained and may be left out of a recipe."""
    return {
        f"{name}.{key}": to_jsonable_python(field.get_default(call_default_factory=True))
        for name, model in sections(RunConfig, {}).items()
        for key, field in deciding(model)
        if not field.is_required()
    }


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_key_that_a_later_version_adds_changes_no_phase_without_it(recipe: Path) -> None:
    values = load_run_config(recipe).model_dump()
    keys = phase_keys(RunConfig.model_validate(values), str)
    assert phase_keys(LaterConfig.model_validate(values), str) == keys
    other = phase_keys(LaterConfig.model_validate({**values, "added": 1}), str)
    assert not set(other) & set(keys)


def test_a_raised_version_finds_no_phase_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_run_config(RECIPES / "demo.yaml")
    keys = phase_keys(config, str)
    monkeypatch.setattr(identity, "KEY_VERSION", KEY_VERSION + 1)
    assert not set(phase_keys(config, str)) & set(keys)


def test_a_default_changes_only_with_the_version_of_keys() -> None:
    """Keys leave defaults out: with another one, what was trained before would be taken for what is asked now."""
    noted, now = yaml.safe_load(DEFAULTS.read_text(encoding="utf-8")), defaults()
    changed = {key for key in now.keys() & noted["defaults"].keys() if now[key] != noted["defaults"][key]}
    assert noted["version"] == KEY_VERSION and not changed, f"raise KEY_VERSION and note the defaults of {changed}"
    assert now == noted["defaults"], "note a new key; its default must train as the versions without it did"


def test_what_may_stand_in_one_place_differs_in_more_than_defaults() -> None:
    """Two sections that both leave out their names could be told apart by nothing."""
    for model in sections(RunConfig, {}).values():
        for _, field in deciding(model):
            nameless = [m for m in models_in(field.annotation) if "name" in m.model_fields]
            assert sum(not m.model_fields["name"].is_required() for m in nameless) <= 1
