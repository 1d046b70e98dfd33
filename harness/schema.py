"""The base of every configuration section; YAML and overrides that fill it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from harness.errors import InputError
from harness.mistakes import given, told


class Section(BaseModel):
    """A frozen section of a configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _yes_is_on_and_no_number(cls, values: Any) -> Any:
        """Takes true and false for on and off, which YAML makes of these, but not for the numbers 1 and 0.

        Where numbers are asked they become text, which pydantic refuses.
        """
        if not isinstance(values, Mapping):
            return values
        return {
            name: _as_switch(value)
            if name in _switches(cls)
            else _as_text(value)
            if name in _number_fields(cls)
            else value
            for name, value in values.items()
        }


@cache
def _switches(cls: type[BaseModel]) -> frozenset[str]:
    """The fields that can be "on" or "off"."""
    return frozenset(name for name, field in cls.model_fields.items() if {"on", "off"} <= _leaves(field.annotation))


@cache
def _number_fields(cls: type[BaseModel]) -> frozenset[str]:
    """The fields that only numbers fit, or null, or lists or keyed values of numbers."""
    leaves = {name: _leaves(field.annotation) for name, field in cls.model_fields.items()}
    return frozenset(name for name, types in leaves.items() if types - {type(None), ...} <= {int, float})


def _leaves(annotation: Any) -> set[Any]:
    """The single types that an annotation is made of; keys count as none."""
    parts = get_args(annotation)
    if not parts:
        return {annotation}
    kept = parts[:1] if get_origin(annotation) is Annotated else parts[1:] if get_origin(annotation) is dict else parts
    return set().union(*(_leaves(part) for part in kept))


def _as_switch(value: Any) -> Any:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _as_text(value: Any) -> Any:
    """The value with every true and false in it written out."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return {key: _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, (list, tuple)) else value


S = TypeVar("S", bound=BaseModel)

_MOST_VALUES = 1_000_000
# What the YAML reader raises besides its own errors: for impossible dates and numbers, and for nesting without end.
BAD_YAML = (yaml.YAMLError, RecursionError, ValueError, AttributeError, TypeError)


def parse(cls: type[S], values: Any, source: str) -> S:
    """Validates `values` as `cls`; a mistake becomes one sentence that names `source` and the key.

    Raises:
        InputError: the values do not fit; an unknown key is answered with the nearest known one.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{source}: expected keys and values, got {given(values)}; write `key: value` lines.")
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {told(cls, values, error.errors())}") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        InputError: the file is missing, unreadable or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return load_yaml(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a readable YAML file.") from None
    except BAD_YAML as error:
        raise InputError(f"{path}: {_why_bad(error)}") from None


def _why_bad(error: Exception) -> str:
    """Where a text ceases to be YAML and the parser's reason; a tab is called so, since nobody sees one."""
    place, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f" at line {place.line + 1}" if place else ""
    if isinstance(error, _KeyTwice):
        return f"{problem}{where} for the second time; leave one of them out."
    if problem and r"'\t'" in problem:
        return f"is not valid YAML{where}, where a tab stands; indent with spaces."
    why = f" ({problem})" if problem else ""
    return f"is not valid YAML{where}{why}; mend the indentation or quoting there."


class _KeyTwice(yaml.composer.ComposerError):
    """A mapping has the same key twice, of which YAML's reader would drop one."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that stands twice."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        mapping = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _KeyTwice(None, None, f"'{key.value}' is a key", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return mapping


def load_yaml(text: str) -> Any:
    """What a YAML text says, with its aliases written out.

    Raises:
        BAD_YAML: it is not YAML, cannot be written back, or has aliases inside themselves or without measure.
    """
    value = yaml.load(text, _Loader)
    todo, seen = [value], 0
    while todo:
        node = todo.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise ValueError("its aliases have no end")
        if isinstance(node, str):
            node.encode()  # half of a surrogate pair could be read, but never written
        todo += [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list) else ()
    return _copy(value)


def apply_overrides(values: Any, overrides: list[str]) -> Any:
    """A copy of `values` with `a.b.0.c=value` overrides applied; each value is read as YAML.

    Raises:
        InputError: an override has no `=`, or its path leads through something that has no keys.
    """
    result = _copy(values)
    for override in overrides:
        path, found, text = override.partition("=")
        if not found or not path:
            raise InputError(f"override '{override}': expected key=value; write for example seed=1.")
        try:
            value = load_yaml(text)
        except BAD_YAML:
            raise InputError(f"override '{override}': the value is not valid YAML; quote it.") from None
        set_key(result, path, value, f"override '{override}'")
    return result


def _copy(value: Any) -> Any:
    """Nested keys and values of their own, each once; keys are text, whatever YAML takes them for."""
    if isinstance(value, dict):
        return {_key_text(key): _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _key_text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key) if isinstance(key, (bool, int, float)) else str(key)


def set_key(values: Any, path: str, value: Any, source: str) -> None:
    """Sets the dotted key `path` inside nested dicts and lists, in place."""
    *parents, last = path.split(".")
    node = values
    for part in parents:
        node = _child(node, part, path, source)
    if isinstance(node, list):
        node[_index(node, last, path, source)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise InputError(f"{source}: '{path}' leads into a single value; name a key that exists.")


def _child(node: Any, part: str, path: str, source: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, path, source)]
    if isinstance(node, dict):
        if node.get(part) is None:
            node[part] = {}
        return node[part]
    raise InputError(f"{source}: '{path}' leads into a single value at '{part}'; name a key that exists.")


def _index(node: list[Any], part: str, path: str, source: str) -> int:
    if part.isdecimal() and part.isascii() and len(part) < 10 and int(part) < len(node):
        return int(part)
    raise InputError(
        f"{source}: '{part}' in '{path}' is not a place in a list of {len(node)}; use 0 to {len(node) - 1}."
    )
