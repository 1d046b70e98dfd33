"""A configuration that does not fit its model, as one sentence: which key, what is wrong, what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

# What a wrong type of value should have been; everything else is said by pydantic well enough.
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list, as in [a, b]",
    "tuple": "a list, as in [a, b]",
    "dict": "keys and values, as in {key: value}",
    "model": "keys and values, as in {key: value}",
}
# Pydantic's words for a key that is wrong itself, and for one of several types that a value may have.
_ALTERNATIVE = re.compile(r"str|int|float|bool|none|.*\[.*\]")
_BOUNDS = {"too_short": ("least", "min_length"), "too_long": ("most", "max_length")}


def told(cls: type[BaseModel], values: Any, errors: list[ErrorDetails]) -> str:
    """The first mistake of `values` against the model `cls`, and how many more there are.

    A list that lacks what is wrong in it is no mistake of its own.
    """
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for error in errors:  # of a value that may be one of several things, each that it is not
        found.setdefault(_path(values, error["loc"]), []).append(error)
    own = [place for place in found if not any(_is_inside(other, place) for other in found)]
    more = f" (and {len(own) - 1} more)" if len(own) > 1 else ""
    return _sentence(cls, ".".join(own[0]), found[own[0]]) + more


def _is_inside(place: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return len(place) > len(other) and place[: len(other)] == other


def given(value: Any) -> str:
    """What stands in a YAML file, in its terms."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "keys and values"
    return "a list" if isinstance(value, (list, tuple)) else repr(value) if isinstance(value, str) else str(value)


def _sentence(cls: type[BaseModel], key: str, alternatives: list[ErrorDetails]) -> str:
    """What is wrong at a key of the model `cls`, without the name of the file it came from."""
    error = alternatives[0]
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'; {_hint(cls, key.split('.'))}"
    if error["type"] == "missing":
        return f"key '{key}' is missing; add it."
    if error["type"] == "union_tag_not_found" or (
        error["type"] == "union_tag_invalid" and error["input"]["name"] is None
    ):
        return f"key '{key}.name' is missing; add it."
    if error["type"] == "union_tag_invalid":
        tag, allowed = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        return f"key '{key}.name': there is no '{tag}'; choose one of {allowed}."
    message = " or ".join(dict.fromkeys(map(_message, alternatives))).replace(" or must be ", " or ")
    shown = "" if error["type"] in ("value_error", *_BOUNDS) else f", got {given(error.get('input'))}"
    end = "" if message.endswith("?") and not shown else "."
    where = f"key '{key}': " if key else ""
    return f"{where}{message[:1].lower() + message[1:]}{shown}{end}"


def _message(error: ErrorDetails) -> str:
    kind, _, reason = error["type"].partition("_")
    if kind in _WANTED and reason in ("parsing", "type", "from_float", "attributes_type"):
        return f"must be {_WANTED[kind]}"
    if error["type"] in _BOUNDS:
        (word, key), facts = _BOUNDS[error["type"]], error["ctx"]
        items = "item" if facts[key] == 1 else "items"
        return f"must have at {word} {facts[key]} {items}, has {facts['actual_length']}"
    return error["msg"].removeprefix("Value error, ").replace("Input should ", "must ", 1)


def _path(values: Any, place: tuple[int | str, ...]) -> tuple[str, ...]:
    """A place as an override spells it: without the names of the alternatives taken on the way."""
    node, parts = values, []
    for part in place:
        if isinstance(node, Mapping) and part not in node and part == node.get("name"):
            continue
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            if _ALTERNATIVE.fullmatch(str(part)):
                continue
            node = None
        parts.append(str(part))
    return tuple(parts)


def _hint(cls: type[BaseModel], key: list[str]) -> str:
    """The nearest key of the same section, unless one elsewhere is nearer: that is told with its whole path."""
    *section, wrong = ["N" if part.isdecimal() else part for part in key]
    places = list(_places(cls, (), ()))
    beside = {path[-1]: path[-1] for path in places if list(path[:-1]) == section}
    elsewhere = {path[-1]: ".".join(path) for path in reversed(places)}  # of several the first
    for known, cutoff in ((beside, 0.8), (elsewhere, 0.8), (beside, 0.5)):
        if near := difflib.get_close_matches(wrong, sorted(known), n=1, cutoff=cutoff):
            return f"did you mean '{known[near[0]]}'?"
    return "remove it."


def _places(annotation: Any, path: tuple[str, ...], above: tuple[type[BaseModel], ...]) -> Iterator[tuple[str, ...]]:
    """Every key below an annotation as its path, places in lists written as N."""
    if is_section(annotation):
        if annotation in above:
            return
        for name, field in annotation.model_fields.items():
            yield (*path, name)
            yield from _places(field.annotation, (*path, name), (*above, annotation))
    else:
        inside = (*path, "N") if get_origin(annotation) in (list, tuple) else path
        for part in getattr(annotation, "__args__", ()):
            yield from _places(part, inside, above)


def is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    """Whether an annotation is a section by itself. For Python 3.10 `tuple[Section, ...]` is a type, too."""
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel)
